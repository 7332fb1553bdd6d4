"""`dicomnode train`: corpus, networks, model folder. Stops and goes on at any point.

SPDiff on measured projections (`raw`, where the recipe asks for it), SPDiff, its proposals, DGDiff.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from dicomnode.engines.need import dgdiff, raw, spdiff
from dicomnode.engines.start_step import PhotonSchedule
from dicomnode.engines.unet import UNet, UNetShape, placed
from dicomnode.learning import draw
from dicomnode.learning.corpus import PackedExample, build, load_example
from dicomnode.learning.counts import raw_batch
from dicomnode.learning.publish import publish
from dicomnode.learning.recipe import Recipe, Stage, load_recipe
from dicomnode.physics.geometry import WATER_ATTENUATION_PER_MM, ParallelBeam
from dicomnode.physics.projection import filtered_backprojection

CHECKPOINT_SECONDS = 60.0
WARM_UP_STEPS = 200
STAGES = ("corpus", "raw", "projection", "priors", "image", "publish")

Draw = Callable[[np.random.Generator], draw.Batch]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode train`."""
    parser.add_argument("--recipe", type=Path, default=Path("configs/train-need-small.yaml"))
    parser.add_argument(
        "--run", type=Path, default=Path("runs/need-small"), help="folder of corpus and checkpoints"
    )
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="where the model folder is written"
    )
    parser.add_argument(
        "--minutes", type=float, default=None, help="stop after this long; the next call goes on"
    )
    parser.add_argument("--until", choices=STAGES, default="publish", help="last stage to run")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=None)


def run(arguments: argparse.Namespace) -> int:
    """Train as far as time allows; exit status 0 when everything asked for is done, 3 when time ran out."""
    console = Console()
    recipe = load_recipe(arguments.recipe)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(recipe.seed)
    torch.set_flush_denormal(
        True
    )  # the first gradients are tiny, and denormal numbers cost ten times the time
    place = "cuda" if arguments.device == "auto" and torch.cuda.is_available() else arguments.device
    device = torch.device("cpu" if place == "auto" else place)
    deadline = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")
    session = Session(recipe, arguments.run, device, deadline, console)
    for stage in STAGES[: STAGES.index(arguments.until) + 1]:
        if not session.do(stage, arguments.models):
            console.print(f"time is up in stage [bold]{stage}[/]: run the same command again to go on")
            return 3
    return 0


@dataclass
class Session:
    """One call of `dicomnode train`: what is known, where it is kept, how long it may take."""

    recipe: Recipe
    folder: Path
    device: torch.device
    deadline: float
    console: Console
    examples: tuple[PackedExample, ...] = ()

    def do(self, stage: str, models: Path) -> bool:
        """Run one stage to its end; False when the deadline came first."""
        if stage == "corpus":
            paths = build(self.recipe.corpus, self.folder / "corpus", self.recipe.seed, self.console)
            self.examples = tuple(load_example(path) for path in paths)
            return True
        if stage == "raw":
            return self._fit_raw()
        if stage == "projection":
            return self._fit(
                stage,
                self.recipe.projection,
                lambda rng: draw.projection_batch(self.examples, self.recipe.projection, rng),
            )
        if stage == "priors":
            return self._propose()
        if stage == "image":
            priors = [draw.load_prior(path) for path in sorted((self.folder / "priors").glob("*.npz"))]
            return self._fit(
                stage,
                self.recipe.image,
                lambda rng: draw.image_batch(self.examples, priors, self.recipe.image, rng),
            )
        folder = publish(self.recipe, self.folder, models)
        self.console.print(f"model written to [bold]{folder}[/]")
        return True

    def _fit_raw(self) -> bool:
        stage = self.recipe.raw
        if stage is None:
            return True
        corpus = self.recipe.corpus
        beam = ParallelBeam(512, corpus.views, corpus.detectors, corpus.pitch_px)
        return self._fit("raw", stage, lambda rng: raw_batch(self.examples, beam, stage, rng))

    def _fit(self, name: str, stage: Stage, draw_batch: Draw) -> bool:
        trainer = Trainer(name, stage, self.folder, self.device, self.recipe.seed)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task(name, total=stage.steps, completed=trainer.step)

            def tell(step: int, loss: float) -> None:
                progress.update(bar, completed=step, description=f"{name} loss {loss:.4f}")

            return trainer.fit(draw_batch, self.deadline, tell)

    def _propose(self) -> bool:
        """Let the trained SPDiff propose corrections: `prior_variants` an example, kept on disk."""
        target = self.folder / "priors"
        target.mkdir(exist_ok=True)
        network = load_ema(self.folder / "projection.pt", self.device)
        todo = [(k, v) for v in range(self.recipe.prior_variants) for k in range(len(self.examples))]
        with Progress(console=self.console) as progress:
            for k, variant in progress.track(todo, description="priors"):
                path = target / f"{k:05d}-{variant}.npz"
                if path.exists():
                    continue
                if time.monotonic() > self.deadline:
                    return False
                rng = np.random.default_rng([self.recipe.seed, k, variant])
                self._one_prior(network, k, draw.draw_mix(self.recipe.image, rng)).save(path)
        return True

    @torch.inference_mode()
    def _one_prior(self, network: UNet, k: int, mix: draw.Mix) -> draw.Prior:
        example = self.examples[k]
        everything = (slice(None), slice(None))
        noisy = example.crop("sinogram", everything) + draw.mixed_noise(example, "noise_sinogram", mix)
        sinogram = torch.from_numpy(noisy)[None].to(self.device)
        state = draw.state_of(example, mix)
        cleaned = spdiff.clean(
            network, sinogram, state, PhotonSchedule(), self.recipe.prior_passes, example.pixel_mm
        )
        corpus = self.recipe.corpus
        beam = ParallelBeam(512, corpus.views, corpus.detectors, corpus.pitch_px).for_side(
            example.arrays["slice_hu"].shape[-1]
        )
        per_pixel = WATER_ATTENUATION_PER_MM * example.pixel_mm
        correction = filtered_backprojection(cleaned - sinogram, beam)[0].cpu().numpy() * (1000.0 / per_pixel)
        step = float(np.abs(correction).max()) / 32000.0
        return draw.Prior(k, mix, np.rint(correction / step).astype(np.int16), step)


class Trainer:
    """Fits one network; its checkpoint holds all that the next call needs to go on as if never stopped."""

    def __init__(self, name: str, stage: Stage, folder: Path, device: torch.device, seed: int) -> None:
        self.stage, self.device, self.seed = stage, device, seed
        self.path = folder / f"{name}.pt"
        self.curve = folder / f"{name}.jsonl"
        channels, conditions = _interface(name)
        self.shape = UNetShape(channels, stage.widths, conditions)
        self.network = placed(UNet(self.shape), device)
        self.ema = UNet(self.shape).to(device).requires_grad_(False)
        self.ema.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=stage.learning_rate,
            weight_decay=stage.weight_decay,
            betas=(0.9, 0.99),
        )
        self.step = 0
        if self.path.exists():
            self._resume()
        else:
            self.curve.unlink(missing_ok=True)

    def fit(self, draw_batch: Draw, deadline: float, tell: Callable[[int, float], None]) -> bool:
        """Train to the last step; False when `deadline` (monotonic seconds) came first."""
        saved, smooth = time.monotonic(), None
        while self.step < self.stage.steps:
            # seeded by the step: a resumed run draws what an unbroken one would have drawn
            loss = self._one_step(draw_batch(np.random.default_rng([self.seed, self.step])))
            self.step += 1
            smooth = loss if smooth is None else 0.99 * smooth + 0.01 * loss
            if self.step % 50 == 0:
                tell(self.step, smooth)
                with self.curve.open("a") as file:
                    file.write(json.dumps({"step": self.step, "loss": round(smooth, 6)}) + "\n")
            now = time.monotonic()
            if now > deadline or now - saved > CHECKPOINT_SECONDS or self.step == self.stage.steps:
                self._save()
                saved = now
            if now > deadline:
                return self.step >= self.stage.steps
        return True

    def _one_step(self, batch: draw.Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        x = batch.inputs.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            answer = self.network(x, batch.conditions.to(self.device))
        loss: Tensor = nn.functional.huber_loss(answer.float(), batch.target.to(self.device), delta=1.0)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.stage.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for slow, fast in zip(self.ema.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, 1.0 - decay)
        return float(loss.detach())

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        cosine = 0.5 * (1.0 + np.cos(np.pi * self.step / self.stage.steps))
        return float(self.stage.learning_rate * warm * max(cosine, 0.01))

    def _save(self) -> None:
        part = self.path.with_suffix(".part")
        state = {
            "shape": (self.shape.channels_in, self.shape.widths, self.shape.conditions),
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        torch.save(state, part)
        part.rename(self.path)

    def _resume(self) -> None:
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def load_ema(path: Path, device: torch.device) -> UNet:
    """The averaged network of a checkpoint, ready to answer."""
    state = torch.load(path, map_location=device, weights_only=True)
    channels, widths, conditions = state["shape"]
    network = placed(UNet(UNetShape(channels, tuple(widths), conditions)), device)
    network.load_state_dict(state["ema"])
    return network.eval().requires_grad_(False)


def _interface(name: str) -> tuple[int, int]:
    if name == "raw":
        return raw.CHANNELS, raw.CONDITIONS
    module = spdiff if name == "projection" else dgdiff
    return module.CHANNELS, module.CONDITIONS

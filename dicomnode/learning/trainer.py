"""One network fitted to what is drawn for it, in slices of any length."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dicomnode.engines.unet import UNet, UNetShape, bf16_pays, placed
from dicomnode.errors import TrainingError
from dicomnode.learning.curve import draw_curve
from dicomnode.learning.draw import Batch
from dicomnode.learning.recipe import Stage

CHECKPOINT_SECONDS = 60.0
CURVE_STEPS = 50
WARM_UP_STEPS = 200
AHEAD = 2
"""Batches each drawing process is ahead of the training."""

Draw = Callable[[np.random.Generator], Batch]
Tell = Callable[[int, float], None]


class Shape(Protocol):
    """What a network must be rebuilt from: a frozen dataclass of plain numbers."""

    def build(self) -> nn.Module: ...


@dataclass(frozen=True)
class Task:
    """One network to train: its name, its recipe, its shape, and what it learns from.

    The network is called with a batch's inputs and conditions and is to answer its target. `drawn_at`: what
    the batches depend on beside the recipe of the stage.
    """

    name: str
    stage: Stage
    shape: Shape
    draw: Draw
    drawn_at: str = ""


class Trainer:
    """Fits one network; its checkpoint holds all that the next call needs to go on as if never stopped.

    Under `folder`: `NAME.pt`, the checkpoint; `NAME.jsonl` and `NAME.png`, the curve.
    """

    def __init__(self, task: Task, folder: Path, device: torch.device, seed: int, workers: int = 0) -> None:
        self.task, self.stage, self.device, self.seed = task, task.stage, device, seed
        self.workers = workers
        self.path = folder / f"{task.name}.pt"
        self.curve = folder / f"{task.name}.jsonl"
        with torch.random.fork_rng(devices=[]):
            # its weights depend on its name and seed alone, not on what else was made before in this process
            spread = np.random.SeedSequence([seed, crc32(task.name.encode())])
            torch.manual_seed(int(spread.generate_state(1)[0]))
            self.network = placed(task.shape.build(), device)
        self.ema = task.shape.build().to(device).requires_grad_(False)
        self.ema.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.stage.learning_rate,
            weight_decay=self.stage.weight_decay,
            betas=(0.9, 0.99),
        )
        self.step = 0
        self.smooth: float | None = None
        if self.path.exists():
            self._resume()
        else:
            self.curve.unlink(missing_ok=True)

    def fit(self, deadline: float, tell: Tell) -> bool:
        """Train to the last step; False when `deadline` (monotonic seconds) came first."""
        saved = time.monotonic()
        # closed at once where the deadline ends the loop: its processes must not outlive it
        batches = drawn(self.task.draw, self.seed, range(self.step, self.stage.steps), self.workers)
        try:
            for batch in batches:
                self._advance(batch, tell)
                now = time.monotonic()
                late = now > deadline
                if late or now - saved > CHECKPOINT_SECONDS or self.step == self.stage.steps:
                    self._save()
                    saved = now
                if late:
                    break
        finally:
            batches.close()
            self._picture()
        return self.step >= self.stage.steps

    def _advance(self, batch: Batch, tell: Tell) -> None:
        rate = self._learning_rate()
        loss = self._one_step(batch, rate)
        self.step += 1
        self.smooth = loss if self.smooth is None else 0.99 * self.smooth + 0.01 * loss
        if self.step % CURVE_STEPS == 0 or self.step == self.stage.steps:
            tell(self.step, self.smooth)
            with self.curve.open("a") as file:
                told = {"step": self.step, "loss": round(self.smooth, 6), "learning_rate": round(rate, 9)}
                file.write(json.dumps(told) + "\n")

    def _one_step(self, batch: Batch, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        x = batch.inputs.to(self.device, memory_format=torch.channels_last)
        # bfloat16 has the exponents of float32: gradients need no scaling against underflow
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16_pays(self.device)):
            answer = self.network(x, batch.conditions.to(self.device))
        loss: Tensor = nn.functional.huber_loss(answer.float(), batch.target.to(self.device), delta=1.0)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.stage.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for slow, fast in zip(self.ema.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, 1.0 - decay)
        found = float(loss.detach())
        if not (math.isfinite(found) and math.isfinite(float(norm))):
            # before anything is saved: the checkpoint holds the last sound network
            raise TrainingError(
                f"{self.task.name}, step {self.step + 1}: loss {found:g}, gradient {float(norm):g}. What was "
                f"saved in {self.path} is sound: go on from it, or lower learning_rate in another --run"
            )
        return found

    def _picture(self) -> None:
        run = self.curve.parent.name
        draw_curve(self.curve, f"{run}, {self.task.name}: {self.step} of {self.stage.steps} steps")

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        cosine = 0.5 * (1.0 + math.cos(math.pi * self.step / self.stage.steps))
        return self.stage.learning_rate * warm * max(cosine, 0.01)

    def _save(self) -> None:
        part = self.path.with_suffix(".part")
        state = {
            "shape": plain(self.task.shape),
            "begun_with": self._begun_with(),
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "smooth": self.smooth,
        }
        torch.save(state, part)
        part.rename(self.path)

    def _begun_with(self) -> dict[str, Any]:
        """What may not change in a run; it may get more steps or fewer."""
        stage = self.stage.model_dump(mode="json", exclude={"steps"})
        return {"seed": self.seed, **stage, "dose": self.task.drawn_at}

    def _resume(self) -> None:
        # Onto the processor: what belongs on a GPU goes there by itself, Adam's counters are quick here.
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        shape = tuple(state["shape"])
        if shape != plain(self.task.shape)[: len(shape)]:
            raise TrainingError(f"{self.path} is of another network than the recipe's: choose another --run")
        now, was = self._begun_with(), state.get("begun_with", {})
        if other := [key for key in was if was[key] != now.get(key)]:
            raise TrainingError(
                f"{self.path} was begun with another {', '.join(other)}: choose another --run, or remove it"
            )
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.smooth = state["step"], state.get("smooth")
        if self.curve.exists():  # a run that was killed told more than it had saved
            lines = self.curve.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
            self.curve.write_text("".join(kept))


def plain(shape: Shape) -> tuple[Any, ...]:
    """The numbers of a shape, as checkpoints keep them."""
    return astuple(shape)  # type: ignore[call-overload, no-any-return]


def load_ema(path: Path, device: torch.device) -> UNet:
    """The averaged network of a U-Net's checkpoint, ready to answer."""
    state = torch.load(path, map_location=device, weights_only=True)
    network = placed(UNet(UNetShape(*state["shape"])), device)
    network.load_state_dict(state["ema"])
    return network.eval().requires_grad_(False)


def drawn(draw: Draw, seed: int, steps: range, workers: int = 0) -> Generator[Batch, None, None]:
    """The batches of `steps`, in order, each seeded by its step, so that a resumed run draws the same.

    With `workers` that many forked processes draw ahead: a GPU need not wait. The batches are the same.
    """
    if not workers:
        for step in steps:
            yield draw(np.random.default_rng([seed, step]))
        return
    pool = ProcessPoolExecutor(workers, get_context("fork"), _enlist, (draw, seed))
    try:
        yield from _ahead(pool, steps, AHEAD * workers)
    finally:
        pool.shutdown(cancel_futures=True)


Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def _ahead(pool: ProcessPoolExecutor, steps: range, most: int) -> Iterator[Batch]:
    waiting: deque[Future[Arrays]] = deque()
    for step in steps:
        waiting.append(pool.submit(_drawn_there, step))
        if len(waiting) > most:
            yield Batch(*map(torch.from_numpy, waiting.popleft().result()))
    while waiting:
        yield Batch(*map(torch.from_numpy, waiting.popleft().result()))


_enlisted: list[tuple[Draw, int]] = []
"""In a drawing process: what it draws with."""


def _enlist(draw: Draw, seed: int) -> None:
    torch.set_num_threads(1)  # the thread pool of the parent does not survive the fork
    _enlisted.append((draw, seed))


def _drawn_there(step: int) -> Arrays:
    """A batch as arrays: tensors would travel through shared memory, of which a container has little."""
    draw, seed = _enlisted[0]
    batch = draw(np.random.default_rng([seed, step]))
    return batch.inputs.numpy(), batch.conditions.numpy(), batch.target.numpy()

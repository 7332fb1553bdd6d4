"""`dicomnode bench engine`: slices per second by stage and batch, and the floor under them."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from dicomnode.arguments import check_json, count
from dicomnode.engines.catalog import SHIPPED, chosen_device, device_argument, load_engine
from dicomnode.engines.enhance import STATIONS, enhance
from dicomnode.engines.model_card import Network
from dicomnode.engines.need import dgdiff, spdiff
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import StartStep
from dicomnode.engines.unet import UNetShape, bf16_pays, placed
from dicomnode.errors import ModelError, TrainingError
from dicomnode.learning.publish import card_of
from dicomnode.learning.recipe import Recipe, load_recipe

PIXEL_MM = 0.7
QUARTER = StartStep(
    step=3, photons=6.25e4, fraction=0.25, noise_hu=30.0, texture=0.45, decided_by="tags", log_ratio=None
)
"""A slice at a quarter of the dose: far enough down the schedule for every pass of the model."""

PEAK_SECONDS = 1.0
"""How long the peak of one kind of work is looked for, in seconds; the best of its runs counts."""

UNTRAINED = "untrained"
"""Instead of a digest."""

Work = Callable[[], object]


class Sizes(NamedTuple):
    """How many slices a run has, and by how many at once they are worked."""

    slices: int
    batches: tuple[int, ...]


ON_CPU, ON_GPU = Sizes(8, (1, 4)), Sizes(64, (4, 8, 16))
"""Unless told otherwise: on a GPU enough to keep it busy."""
SLICES_HELP = f"a run; default: {ON_CPU.slices}, on a GPU {ON_GPU.slices}"
BATCHES_HELP = "slices worked at once, a run each; default: {}, on a GPU {}".format(
    *(" ".join(map(str, sizes.batches)) for sizes in (ON_CPU, ON_GPU))
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode bench`."""
    what = parser.add_subparsers(dest="what", required=True)
    engine = what.add_parser("engine", help="project, clean, reconstruct, refine, bound: slices per second")
    which = engine.add_mutually_exclusive_group()
    which.add_argument("--model", default="need-small")
    which.add_argument("--recipe", type=Path, default=None, help="its sizes, untrained")
    engine.add_argument("--models", type=Path, default=SHIPPED, help="folder of model folders")
    engine.add_argument("--device", type=device_argument, default="auto", help="auto, cpu or cuda")
    engine.add_argument("--threads", type=count, default=None)
    engine.add_argument(
        "--slices",
        type=count,
        default=None,
        metavar="N",
        help=SLICES_HELP,
    )
    engine.add_argument("--side", type=count, default=512, metavar="PX", help="default: %(default)s")
    engine.add_argument("--batch", type=count, nargs="+", default=None, metavar="B", help=BATCHES_HELP)
    engine.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here too")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print one table, write JSON where asked."""
    check_json(arguments.json)
    if arguments.side < 64:
        raise ModelError(f"--side {arguments.side}: a patient does not fit into fewer than 64 pixels")
    console = Console()
    engine = _engine(arguments)
    slices, batches = sizes(arguments, engine.device)
    with console.status("counting and finding the peak"):
        floor = measure_floor(engine, arguments.side)
    runs = []
    for batch in batches:
        with console.status(f"batch {batch}"):
            runs.append(measure(engine, slices, arguments.side, batch))
    console.print(table(engine, floor, runs))
    console.print(told(engine, floor, runs))
    if arguments.json:
        arguments.json.write_text(json.dumps(report(engine, floor, runs), indent=2) + "\n")
    return 0


def sizes(arguments: argparse.Namespace, device: torch.device) -> Sizes:
    """As asked for, else what suits the device; no batch twice."""
    default = ON_GPU if device.type == "cuda" else ON_CPU
    batches = tuple(dict.fromkeys(arguments.batch or default.batches))
    return Sizes(arguments.slices or default.slices, batches)


def _engine(arguments: argparse.Namespace) -> NeedEngine:
    if arguments.recipe is None:
        return load_engine(arguments.models, arguments.model, arguments.device, arguments.threads)
    recipe = load_recipe(arguments.recipe)
    if not isinstance(recipe, Recipe):
        raise TrainingError(
            f"{arguments.recipe} is of a baseline: the engine's stages are those of engine need"
        )
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return untrained(recipe, chosen_device(arguments.device))


def untrained(recipe: Recipe, device: torch.device) -> NeedEngine:
    """The engine of a recipe before its first step: as quick as after its last."""
    shapes = [
        UNetShape(module.CHANNELS, stage.widths, module.CONDITIONS)
        for module, stage in ((spdiff, recipe.projection), (dgdiff, recipe.image))
    ]
    networks = [placed(shape.build(), device).eval().requires_grad_(False) for shape in shapes]
    projection, image = (
        Network(
            file="none",
            sha256=UNTRAINED,
            channels_in=network.shape.channels_in,
            widths=network.shape.widths,
            conditions=network.shape.conditions,
            parameters=network.parameter_count,
        )
        for network in networks
    )
    return NeedEngine(card_of(recipe, projection, image), networks[0], networks[1], device)


@dataclass(frozen=True)
class Floor:
    """What the networks of one slice cost, and what the device can do.

    `operations`: floating-point operations a slice by network stage, a multiplication and an addition counted
    as two. `peak_per_second`: the most that was measured, by kind of work, in the precision the engine uses.
    """

    side_px: int
    operations: dict[str, int]
    peak_per_second: dict[str, float]

    @property
    def seconds(self) -> float:
        """The least time a slice can take in the networks alone."""
        return sum(self.operations.values()) / max(self.peak_per_second.values())


@dataclass(frozen=True)
class Speed:
    """One run over `slices`: seconds by stage, and by the clock in all (which holds copies to and fro)."""

    slices: int
    batch: int
    seconds: dict[str, float]
    seconds_in_all: float

    @property
    def slices_per_second(self) -> float:
        return self.slices / self.seconds_in_all


def measure(engine: NeedEngine, slices: int, side_px: int, batch: int) -> Speed:
    """Enhance a stack as the node does, after one batch that warms up."""
    stack, start = scan(slices, side_px), [QUARTER] * slices
    warm = min(batch, slices)
    enhance(engine, stack[:warm], PIXEL_MM, start[:warm], seed=0, batch=batch)
    begun = time.perf_counter()
    done = enhance(engine, stack, PIXEL_MM, start, seed=0, batch=batch)
    return Speed(slices, batch, done.seconds, time.perf_counter() - begun)


def scan(slices: int, side_px: int) -> NDArray[np.float32]:
    """A stack to work on, HU [slice, row, column]: an oval of water in air, noise on all of it."""
    y, x = np.mgrid[:side_px, :side_px] / (side_px - 1.0) - 0.5
    body = np.where(np.hypot(x / 0.42, y / 0.3) < 1.0, 0.0, -1000.0)
    noise = np.random.default_rng(0).normal(0.0, QUARTER.noise_hu, (slices, side_px, side_px))
    return (body + noise).astype(np.float32)


def measure_floor(engine: NeedEngine, side_px: int) -> Floor:
    """Count one slice through the networks and measure the device."""
    return Floor(side_px, count_operations(engine, side_px), measure_peak(engine.device, PEAK_SECONDS))


def count_operations(engine: NeedEngine, side_px: int) -> dict[str, int]:
    """Operations of one slice by stage, as the engine's own verbs run them: convolutions and products."""
    beam, start = engine.beam(side_px), [QUARTER]
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone: nothing is computed
        sinograms = torch.ones((1, beam.views, beam.detectors), device=engine.device)
        slices = torch.zeros((1, side_px, side_px), device=engine.device)
        neighbours = slices[:, None].expand(-1, 2, -1, -1)
        return {
            "clean": operations(lambda: engine.clean(sinograms, start, PIXEL_MM)),
            "refine": operations(lambda: engine.refine(slices, slices, neighbours, start)),
        }


def operations(work: Work) -> int:
    """Floating-point operations of what `work` does, 2 for a multiplication with its addition."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def measure_peak(device: torch.device, seconds: float) -> dict[str, float]:
    """The most operations a second, by kind of work: one large product, and convolutions of three widths.

    In the precision the engine computes in. Each is repeated for `seconds`, the quickest run counts.
    """
    return {
        name: operations(work) / _quickest(work, device, seconds)
        for name, work in _heavy_work(device).items()
    }


def _heavy_work(device: torch.device) -> dict[str, Work]:
    kind = precision(device)
    large = 8192 if device.type == "cuda" else 2048
    square = torch.randn(large, large, device=device).to(kind)
    found: dict[str, Work] = {f"product of {large}": lambda: square @ square}
    for width in (64, 128, 256):
        found[f"convolution of {width}"] = _convolution(width, kind, device)
    return found


def _convolution(width: int, kind: torch.dtype, device: torch.device) -> Work:
    """3 x 3, `width` channels to as many, on as many pixels as keep the device busy."""
    count, side = (16, 256) if device.type == "cuda" else (1, 128)
    layer = torch.nn.Conv2d(width, width, 3, padding=1, device=device, dtype=kind)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(count, width, side, side, device=device).to(kind, memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: layer(x))


def _quickest(work: Work, device: torch.device, seconds: float) -> float:
    def once() -> float:
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    once()  # the first call chooses an algorithm
    end = time.perf_counter() + seconds
    best = once()
    while time.perf_counter() < end:
        best = min(best, once())
    return best


def precision(device: torch.device) -> torch.dtype:
    """What the engine's convolutions run in."""
    return torch.bfloat16 if bf16_pays(device) else torch.float32


def device_name(device: torch.device) -> str:
    """As a person would call it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def table(engine: NeedEngine, floor: Floor, runs: Sequence[Speed]) -> Table:
    """Slices per second for the terminal; the floor stands beside what the networks reach."""
    title = f"{engine.card.id} on {device_name(engine.device)}, {floor.side_px} x {floor.side_px}"
    out = Table("slices/s", *(f"batch {speed.batch}" for speed in runs), "floor", title=title)
    peak = max(floor.peak_per_second.values())
    for station in STATIONS:
        reached = (f"{speed.slices / speed.seconds[station]:.3g}" for speed in runs)
        least = floor.operations.get(station)
        out.add_row(station, *reached, f"{peak / least:.3g}" if least else "")
    whole = (f"{speed.slices_per_second:.3g}" for speed in runs)
    out.add_section()
    out.add_row("all", *whole, f"{1.0 / floor.seconds:.3g}")
    return out


def told(engine: NeedEngine, floor: Floor, runs: Sequence[Speed]) -> str:
    """What the floor is made of, and how near the best run comes."""
    name, peak = max(floor.peak_per_second.items(), key=lambda kind: kind[1])
    work = ", ".join(f"{stage} {count / 1e9:.4g}" for stage, count in floor.operations.items())
    best = max(speed.slices_per_second for speed in runs)
    kind = str(precision(engine.device)).removeprefix("torch.")
    return (
        f"floor: GFLOP a slice: {work}; peak {peak / 1e9:.4g} GFLOP/s ({name}, {kind}); "
        f"{floor.seconds:.3g} s a slice, the best run reaches {100 * best * floor.seconds:.3g} % of it"
    )


def report(engine: NeedEngine, floor: Floor, runs: Sequence[Speed]) -> dict[str, object]:
    """All figures, for a file."""
    return {
        "model": engine.card.id,
        "version": engine.card.version,
        "weights": UNTRAINED if engine.card.image.sha256 == UNTRAINED else engine.weights_digest,
        "device": device_name(engine.device),
        "precision": str(precision(engine.device)).removeprefix("torch."),
        "torch": torch.__version__,
        "floor": {**asdict(floor), "seconds": floor.seconds},
        "runs": [{**asdict(speed), "slices_per_second": speed.slices_per_second} for speed in runs],
    }

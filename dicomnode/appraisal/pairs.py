"""`dicomnode evaluate pairs`: real low-dose slices against their full-dose twins, beside plain denoisers."""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dicomnode.appraisal import guard
from dicomnode.appraisal.methods import non_local_means, total_variation
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.series import CtSeries, read_series
from dicomnode.dose_reference import DoseReference
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.engines.enhance import enhance
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.seen import Seen
from dicomnode.engines.start_step import StartStep
from dicomnode.errors import SeriesRefused, TrainingError
from dicomnode.evaluation.similarity import psnr_db, rmse_hu, ssim
from dicomnode.journey.matching import slice_facts
from dicomnode.physics.noise import measure_noise
from dicomnode.quality import bias_by_tissue

METHODS = ("input", "enhanced", "nlm", "tv")
FIGURES = ("psnr_db", "ssim", "rmse_hu", "bias_hu", "noise_hu")
POSITION_TOLERANCE_MM = 0.05

Image = NDArray[np.float32]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode evaluate pairs`."""
    parser.add_argument("low", type=Path, metavar="LOW_DIR")
    parser.add_argument("full", type=Path, metavar="FULL_DIR")
    parser.add_argument("--model", default="need-small")
    parser.add_argument("--models", type=Path, default=SHIPPED, help="folder of model folders")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seen", action="store_true", help=guard.SEEN_HELP)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here too")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print one table a kernel, write JSON where asked."""
    console = Console()
    pairs = match_pairs(arguments.low, arguments.full)
    engine = load_engine(arguments.models, arguments.model, arguments.device)
    its = pairs_seen(pairs, arguments.low, arguments.full)
    checked = guard.check(its, {engine.card.id: engine.card.seen}, arguments.seen)
    scores = [score(pair, engine) for pair in track(pairs, "pairs", console=console)]
    report = {"guard": checked.report, **summarise(scores)}
    for line in (*guard.warnings(checked.report), *guard.compared(checked.report)):
        console.print(line, highlight=False)
    for kernel, figures in report["kernels"].items():
        console.print(table(kernel, figures))
    if len(report["kernels"]) > 1:
        console.print(table("all", report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


@dataclass(frozen=True, eq=False)
class Pair:
    """One low-dose slice and its full-dose twin, HU [row, column], with the header they share."""

    low: CtSeries
    full: CtSeries

    @property
    def kernel(self) -> str:
        return self.low.convolution_kernel or "unknown"


@dataclass(frozen=True)
class Score:
    """Figures of one pair: `values[figure][method]`."""

    kernel: str
    start: StartStep
    values: dict[str, dict[str, float]]


def match_pairs(low: Path, full: Path) -> list[Pair]:
    """Pair slices at one place.

    The place is position, orientation, matrix and pixel size, and the kernel where it is shared. Of several
    twins the one that looks most alike is taken. LOW_DIR and FULL_DIR may be one folder that holds both: the
    noisier of two slices at one place is then the low one. Raises TrainingError where nothing matches.
    """
    if low.resolve() == full.resolve():
        groups: dict[tuple[Place, str], list[CtSeries]] = defaultdict(list)
        for piece in _read(low):
            groups[_place(piece), piece.convolution_kernel].append(piece)
        pairs = [_by_noise(two) for two in groups.values() if len(two) == 2]
    else:
        others = _by_place(_read(full))
        pairs = [Pair(s, _twin(s, others[_place(s)])) for s in _read(low) if _place(s) in others]
    if not pairs:
        raise TrainingError(f"no slice in {low} has a twin at the same position in {full}")
    return pairs


def pairs_seen(pairs: Sequence[Pair], low: Path, full: Path) -> list[tuple[str, Seen]]:
    """For `guard.check`: both sides of the pairs, or the one folder that holds both."""
    sides = {low: [pair.low for pair in pairs]}
    sides[full] = [*sides.get(full, []), *(pair.full for pair in pairs)]
    return [(f"the pairs in {folder.name}", guard.digests(series)) for folder, series in sides.items()]


def score(pair: Pair, engine: NeedEngine) -> Score:
    """Run the journey's own stations and the baselines on one pair."""
    low, full = pair.low.hounsfield, pair.full.hounsfield[0]
    pixel_mm = pair.low.pixel_spacing_mm[0]
    facts = slice_facts(pair.low, read_dose(pair.low.headers), DoseReference())
    start = engine.match(facts[0])
    noise = measure_noise(low, pixel_mm)
    sigma = noise.std_hu if noise else start.noise_hu
    results = {
        "input": low[0],
        "enhanced": enhance(engine, low, pixel_mm, [start], seed=0).hounsfield[0],
        "nlm": non_local_means(low[0], sigma),
        "tv": total_variation(low[0], sigma),
    }
    figures = {method: compare(image, full, pixel_mm) for method, image in results.items()}
    return Score(pair.kernel, start, {f: {m: figures[m][f] for m in METHODS} for f in FIGURES})


def compare(image: Image, target: Image, pixel_mm: float) -> dict[str, float]:
    """PSNR, SSIM and RMSE (`evaluation.similarity`), bias in soft tissue, noise. HU [row, column]."""
    noise = measure_noise(image[None], pixel_mm)
    return {
        "psnr_db": psnr_db(image, target),
        "ssim": ssim(image, target),
        "rmse_hu": rmse_hu(image, target),
        "bias_hu": bias_by_tissue(target[None], (image - target)[None]).get("soft", float("nan")),
        "noise_hu": noise.std_hu if noise else float("nan"),
    }


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """Means over all slices, and over those of each kernel.

    {figure: {method: value}, "slices": count, "kernels": {kernel: {the same}}}
    """
    groups: dict[str, list[Score]] = defaultdict(list)
    for s in scores:
        groups[s.kernel].append(s)
    kernels = {kernel: _means(members) for kernel, members in sorted(groups.items())}
    return {**_means(scores), "kernels": kernels}


def _means(scores: Sequence[Score]) -> dict[str, Any]:
    figures = {f: {m: _mean([s.values[f][m] for s in scores]) for m in METHODS} for f in FIGURES}
    return {**figures, "slices": len(scores)}


def _mean(values: Sequence[float]) -> float | None:
    """None, not NaN, where no slice has the figure: JSON knows no NaN."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def table(kernel: str, figures: dict[str, Any]) -> Table:
    """The figures of one kernel for the terminal."""
    out = Table("", *METHODS, title=f"{kernel}, {figures['slices']} slices")
    for figure in FIGURES:
        digits = 4 if figure == "ssim" else 2
        values = (figures[figure][m] for m in METHODS)
        out.add_row(figure, *("-" if v is None else f"{v:.{digits}f}" for v in values))
    return out


def _read(folder: Path) -> list[CtSeries]:
    slices = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            slices.append(read_series([path]))
        except SeriesRefused:
            continue
    return slices


Place = tuple[int, ...]


def _place(piece: CtSeries) -> Place:
    header = piece.headers[0]
    numbers = (*header.ImagePositionPatient, *header.ImageOrientationPatient, *piece.pixel_spacing_mm)
    return (*piece.hounsfield.shape, *(round(float(v) / POSITION_TOLERANCE_MM) for v in numbers))


def _by_place(slices: Sequence[CtSeries]) -> dict[Place, list[CtSeries]]:
    places: dict[Place, list[CtSeries]] = defaultdict(list)
    for piece in slices:
        places[_place(piece)].append(piece)
    return places


def _twin(piece: CtSeries, candidates: Sequence[CtSeries]) -> CtSeries:
    same = [one for one in candidates if one.convolution_kernel == piece.convolution_kernel] or candidates
    return min(same, key=lambda other: float(np.abs(other.hounsfield - piece.hounsfield).mean()))


def _by_noise(two: Sequence[CtSeries]) -> Pair:
    # neighbouring pixels differ by noise more than by structure: the rougher of the two is the low dose
    rough = [float(np.abs(np.diff(s.hounsfield[0], axis=1)).mean()) for s in two]
    low = int(np.argmax(rough))
    return Pair(two[low], two[1 - low])

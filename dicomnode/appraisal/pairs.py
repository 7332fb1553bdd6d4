"""`dicomnode evaluate pairs`: real low-dose slices against their full-dose twins, beside plain denoisers."""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dicomnode.appraisal import guard
from dicomnode.appraisal.methods import non_local_means, total_variation
from dicomnode.arguments import check_json
from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.series import CtSeries, read_series
from dicomnode.dicom.values import text
from dicomnode.dose_reference import DoseReference
from dicomnode.engines.catalog import SHIPPED, device_argument, load_engine
from dicomnode.engines.enhance import enhance
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.seen import Seen
from dicomnode.engines.start_step import StartStep
from dicomnode.errors import SeriesRefused, TrainingError
from dicomnode.evaluation.similarity import psnr_db, rmse_hu, ssim
from dicomnode.journey.matching import on_body_phantom, slice_facts
from dicomnode.journey.normal_dose import told_dose
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
    parser.add_argument("--device", type=device_argument, default="auto", help="auto, cpu or cuda")
    parser.add_argument("--seen", action="store_true", help=guard.SEEN_HELP)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here too")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print one table a kernel, write JSON where asked."""
    check_json(arguments.json)
    console = Console()
    matched = match_pairs(arguments.low, arguments.full)
    tell_left_out(matched, console)
    pairs = matched.pairs
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


@dataclass(frozen=True, eq=False)
class Matched:
    """Pairs; `left_out`: which slices became none and why, a line for each reason and folder."""

    pairs: list[Pair]
    left_out: tuple[str, ...]


def match_pairs(low: Path, full: Path) -> Matched:
    """Pair slices of one patient at one place.

    The place is position, orientation, matrix and pixel size, and the kernel where it is shared; the patient
    counts where both slices name one. Of several twins the one that looks most alike is taken. LOW_DIR and
    FULL_DIR may be one folder that holds both: the noisier of two slices at one place is then the low one.
    Raises TrainingError where nothing matches.
    """
    check_folders(low, full)
    matched = _in_one(low) if low.resolve() == full.resolve() else _in_two(low, full)
    if not matched.pairs:
        none = f"no slice in {low} has a twin at the same position in {full}"
        raise TrainingError("; ".join((none, *matched.left_out)))
    return matched


def check_folders(low: Path, full: Path) -> None:
    """TrainingError where one of them is no folder."""
    for folder in (low, full):
        if not folder.is_dir():
            raise TrainingError(f"{folder} is not a folder: give that of the low and that of the full dose")


def tell_left_out(matched: Matched, console: Console) -> None:
    """What is in the folders and not among the pairs."""
    for line in matched.left_out:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def pairs_seen(pairs: Sequence[Pair], low: Path, full: Path) -> list[tuple[str, Seen]]:
    """For `guard.check`: both sides of the pairs, or the one folder that holds both."""
    sides = {low: [pair.low for pair in pairs]}
    sides[full] = [*sides.get(full, []), *(pair.full for pair in pairs)]
    return [(f"the pairs in {folder.name}", guard.digests(series)) for folder, series in sides.items()]


def start_of(pair: Pair, engine: NeedEngine) -> StartStep:
    """Where the node would start on the low slice, at a site where the dose of its twin is the normal one.

    Where the twin tells no dose the shipped table says what is normal.

    :raises DoseUnknown: the low slice tells neither dose nor noise.
    """
    (facts,) = slice_facts(pair.low, read_dose(pair.low.headers), DoseReference())
    twin = told_dose(pair.full.headers[0])
    if twin.mean_ctdivol_mgy is not None:
        normal_mgy = on_body_phantom(twin.mean_ctdivol_mgy, twin.phantom_cm, facts.diameter_mm)
        facts = replace(facts, normal_ctdivol_mgy=normal_mgy)
    return engine.match(facts)


def score(pair: Pair, engine: NeedEngine) -> Score:
    """Run the journey's own stations and the baselines on one pair."""
    low, full = pair.low.hounsfield, pair.full.hounsfield[0]
    pixel_mm = pair.low.pixel_spacing_mm[0]
    start = start_of(pair, engine)
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


def _in_one(folder: Path) -> Matched:
    """Low and full dose in one folder."""
    slices, refused = _read(folder)
    places: dict[tuple[Place, str], list[CtSeries]] = defaultdict(list)
    for piece in slices:
        places[_place(piece), piece.convolution_kernel].append(piece)
    groups = [group for here in places.values() for group in _by_patient(here)]
    alone = sum(len(group) == 1 for group in groups)
    crowded = sum(len(group) for group in groups if len(group) > 2)
    told = [*refused, *_without_twin(folder, alone, len(slices))]
    if crowded:
        told.append(
            f"{folder}: {crowded} of {len(slices)} slices share their place with more than one other "
            "and are left out: give low and full dose in a folder each"
        )
    return Matched([_by_noise(group) for group in groups if len(group) == 2], tuple(told))


def _in_two(low: Path, full: Path) -> Matched:
    """Low dose in one folder, full dose in another."""
    (lows, low_refused), (fulls, full_refused) = _read(low), _read(full)
    places = _by_place(fulls)
    pairs = []
    for piece in lows:
        if others := [one for one in places.get(_place(piece), ()) if _may_be_one_patient(piece, one)]:
            pairs.append(Pair(piece, _twin(piece, others)))
    unused = len(fulls) - len({id(pair.full) for pair in pairs})
    told = [*low_refused, *_without_twin(low, len(lows) - len(pairs), len(lows))]
    told += [*full_refused, *_without_twin(full, unused, len(fulls))]
    return Matched(pairs, tuple(told))


def _without_twin(folder: Path, alone: int, slices: int) -> list[str]:
    return [f"{folder}: {alone} of {slices} slices found no twin"] if alone else []


def _read(folder: Path) -> tuple[list[CtSeries], list[str]]:
    """The slices, and a line about the files that were refused, by rule."""
    slices, refused = [], Counter[str]()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            slices.append(read_series([path]))
        except SeriesRefused as error:
            refused[error.rule] += 1
    rules = ", ".join(f"{number} {rule}" for rule, number in refused.most_common())
    return slices, [f"{folder}: files refused: {rules}"] if refused else []


Place = tuple[int, ...]


def _place(piece: CtSeries) -> Place:
    header = piece.headers[0]
    numbers = (*header.ImagePositionPatient, *header.ImageOrientationPatient, *piece.pixel_spacing_mm)
    return (*piece.hounsfield.shape, *(round(float(v) / POSITION_TOLERANCE_MM) for v in numbers))


def _patient(piece: CtSeries) -> str:
    """Empty where the header names none."""
    return text(piece.headers[0], "PatientID")


def _may_be_one_patient(one: CtSeries, other: CtSeries) -> bool:
    return not _patient(one) or not _patient(other) or _patient(one) == _patient(other)


def _by_patient(slices: Sequence[CtSeries]) -> list[list[CtSeries]]:
    """Apart; slices that name no patient stay with the others unless these are of several."""
    groups: dict[str, list[CtSeries]] = defaultdict(list)
    for piece in slices:
        groups[_patient(piece)].append(piece)
    return list(groups.values()) if len(groups.keys() - {""}) > 1 else [list(slices)]


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

"""What is measured on: stacks at lower doses, simulated from normal-dose series, and real pairs."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from dicomnode.appraisal.inserts import Plan, plan_slices, renumbered, richest
from dicomnode.appraisal.methods import Scan, Volume
from dicomnode.appraisal.pairs import Pair, start_of
from dicomnode.dicom.dose import DoseReading, read_dose
from dicomnode.dicom.pixels import to_hounsfield, to_stored
from dicomnode.dicom.series import CtSeries, read_series
from dicomnode.dose_reference import DoseReference
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import SliceFacts, StartStep
from dicomnode.errors import AlreadyLowDose, DoseUnknown, NoTestSeries, SeriesRefused
from dicomnode.inspection.folder import gather
from dicomnode.journey.matching import slice_facts
from dicomnode.journey.normal_dose import reference_of, told_dose
from dicomnode.learning.raw_case import raw_case
from dicomnode.physics.lower_dose import Scanner, learn_scanner, lower_dose, own_noise
from dicomnode.physics.noise import measure_noise

DOSES = (0.5, 0.25, 0.125, 0.1, 0.05)
FULL = "full dose"
PAIRS = "real pairs"
RAYS = "raw projections"
"""In place of a kernel: the virtual scanner has its own."""
LEAST_NORMAL = 0.4
"""Share of the normal dose for region and size below which a series is low dose already. Full-dose scans are
read as 0.55 and more."""

BESIDE = 2
"""Slices on either side of those that are judged: context for the methods and for the simulation."""

LEAST_FOR_THREE = 9
MOST_CHECKED = 12
LOOKED_AT_EVERY = 4


@dataclass(frozen=True, eq=False)
class Case:
    """A stack at one dose beside its reference, HU [slice, row, column]; `judged` are the slices that count.

    `again`: the same stack in independent noise of the same dose, where the noise is simulated.
    """

    dose: str
    kernel: str
    scan: Scan
    reference: Volume
    judged: slice
    spacing_mm: tuple[float, float, float]
    plans: tuple[Plan, ...] = ()
    again: Volume | None = None

    @property
    def slices(self) -> int:
        """How many are judged."""
        return len(range(*self.judged.indices(len(self.reference))))

    @property
    def runs(self) -> int:
        """How many slices a method works on."""
        return self.slices + sum(plan.runs for plan in self.plans)


@dataclass(frozen=True, eq=False)
class OpenedSeries:
    """A normal-dose series, the parts of it that are judged, and what is put into them."""

    series: CtSeries
    dose: DoseReading
    reference: DoseReference
    blocks: tuple[slice, ...]
    plans: tuple[Plan, ...]

    @property
    def slices(self) -> int:
        """How many are judged."""
        return sum(block.stop - block.start for block in self.blocks)


def open_series(folder: Path, engine: NeedEngine, slices: int, inserts: int, seed: int) -> OpenedSeries:
    """The largest CT stack below a folder, checked and planned.

    :raises NoTestSeries: the folder is none, or holds no CT that the node would take; its rule is told.
    :raises AlreadyLowDose: tags and noise tell a dose far below the normal one.
    :raises DoseUnknown: the headers tell no dose, of which a share could be taken.
    """
    series = _read(folder)
    told = [told_dose(header) for header in series.headers]
    if any(one.mean_ctdivol_mgy is None for one in told):
        raise DoseUnknown(f"{folder} tells no dose (CTDIvol, or kVp and mAs): no share of it can be made")
    dose = replace(
        read_dose(series.headers),
        ctdivol_mgy=tuple(one.mean_ctdivol_mgy for one in told),
        phantom_cm=told[0].phantom_cm,
    )
    _check_normal(folder, series, engine)
    pixel_mm = series.pixel_spacing_mm[0]
    # where things can be put in: in the lung there is hardly a place
    (best,) = richest(series.hounsfield, range(0, series.slices, LOOKED_AT_EVERY), 1, pixel_mm)
    blocks = choose_blocks(series.slices, slices, best)
    judged = [k for block in blocks for k in range(block.start, block.stop)]
    chosen = richest(series.hounsfield, judged, inserts, pixel_mm)
    plans = tuple(plan_slices(series.hounsfield, chosen, [pixel_mm] * len(chosen), seed))
    return OpenedSeries(series, dose, reference_of(series, dose), blocks, plans)


def choose_blocks(count: int, wanted: int, around: int) -> tuple[slice, ...]:
    """Runs of contiguous slices, `wanted` in all: one in each third of the stack, or one where there are few.

    Each lies in the middle of its part of the stack, but in the part that holds slice `around` about that.
    """
    wanted = min(wanted, count)
    parts = 3 if LEAST_FOR_THREE <= wanted <= count - 3 else 1
    blocks = []
    for n in range(parts):
        size = wanted // parts + (n < wanted % parts)
        low, high = count * n // parts, count * (n + 1) // parts
        middle = around if low <= around < high else (low + high) // 2
        start = min(max(middle - size // 2, low), high - size)
        blocks.append(slice(start, start + size))
    return tuple(blocks)


def simulated_cases(
    test: OpenedSeries, engine: NeedEngine, doses: Sequence[float], seed: int
) -> Iterator[Case]:
    """Every block at full dose and at each lower one; the cases of one block share their reference."""
    own = own_noise(test.series.hounsfield, test.series.pixel_spacing_mm[0])
    scanners = [learn_scanner(own, fraction, seed) for fraction in doses]
    for block in test.blocks:
        first, last = max(block.start - BESIDE, 0), min(block.stop + BESIDE, test.series.slices)
        reference = test.series.hounsfield[first:last]
        for scanner in (None, *scanners):
            yield _case(test, engine, block, first, reference, scanner, seed)


def ray_cases(test: OpenedSeries, engine: NeedEngine, doses: Sequence[float], seed: int) -> Iterator[Case]:
    """Every block as counted projections of a scanner no corpus has, at normal dose and at each lower one.

    The reference is the same scan at normal dose, reconstructed alike; a lower dose is thinned from its
    counts and shares its noise. Every method is told the photons of this scanner, not the dose of the series.
    Nothing where the model has no raw mode, or slices are not square.
    """
    series, pixel_mm = test.series, test.series.pixel_spacing_mm
    if engine.card.raw is None or series.hounsfield.shape[1] != series.hounsfield.shape[2]:
        return
    for block in test.blocks:
        first, last = max(block.start - BESIDE, 0), min(block.stop + BESIDE, series.slices)
        judged, numbers = slice(block.start - first, block.stop - first), list(range(first, last))
        reference: Volume | None = None
        for fraction in (1.0, *doses):
            counts = raw_case(
                series.hounsfield[first:last], pixel_mm[0], fraction, noise_seed(seed, first, 1.0)
            )
            reference = counts.reference if reference is None else reference
            low = reference if fraction == 1.0 else counts.low_dose
            facts = _facts(test, numbers, low, fraction)
            starts = tuple(_of_scanner(engine, one, counts.photons) for one in facts)
            scan = replace(_scan(low, starts, pixel_mm[0], judged), rays=counts.rays)
            spacing_mm = (series.slice_spacing_mm, *pixel_mm)
            yield Case(dose_name(fraction), RAYS, scan, reference, judged, spacing_mm)


def count_runs(test: OpenedSeries, doses: Sequence[float]) -> int:
    """How many slices one method works on in `simulated_cases`."""
    return test.slices * (len(doses) + 1) + len(doses) * sum(plan.runs for plan in test.plans)


def pair_cases(pairs: Sequence[Pair], engine: NeedEngine, inserts: int, seed: int) -> list[Case]:
    """A case a pair; of each kernel those with most even tissue have things put in."""
    by_kernel: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_kernel[pair.kernel].append(pair)
    return [
        case for _, alike in sorted(by_kernel.items()) for case in _of_kernel(alike, engine, inserts, seed)
    ]


def noise_seed(seed: int, first: int, fraction: float, again: int = 0) -> int:
    """A seed of its own for every run, block (by its first slice), dose and draw.

    What is kind to a method at one dose by chance is then not so at the next.
    """
    spread = np.random.SeedSequence([seed, first, round(1e4 * fraction), again])
    return int(spread.generate_state(1)[0])


def dose_name(fraction: float) -> str:
    """0.125 -> 12.5 %."""
    return f"{100 * fraction:g} %"


def _read(folder: Path) -> CtSeries:
    if not folder.is_dir():
        raise NoTestSeries(f"--series {folder} is not a folder")
    found = [stack.stack for stack in gather([folder], lambda paths: paths).stacks(lambda series: series)]
    if not found:
        raise NoTestSeries(f"--series {folder} holds no CT images")
    largest = max(found, key=lambda stack: len(stack.paths))
    try:
        return read_series(largest.paths)
    except SeriesRefused as refusal:
        raise NoTestSeries(f"--series {folder} is refused ({refusal.rule}): {refusal}") from refusal


def _check_normal(folder: Path, series: CtSeries, engine: NeedEngine) -> None:
    chosen = np.unique(np.linspace(0, series.slices - 1, MOST_CHECKED).round().astype(int))
    some = _some(series, [int(k) for k in chosen], series.hounsfield[chosen])
    facts = slice_facts(some, read_dose(some.headers), DoseReference())
    fraction = median(engine.match(one).dose_fraction for one in facts)
    if fraction < LEAST_NORMAL:
        raise AlreadyLowDose(
            f"--series {folder} is a low-dose scan already, {100 * fraction:.0f} % of the normal dose by its "
            "tags and noise: give a normal-dose one"
        )


def _case(
    test: OpenedSeries,
    engine: NeedEngine,
    block: slice,
    first: int,
    reference: Volume,
    scanner: Scanner | None,
    seed: int,
) -> Case:
    series, last = test.series, first + len(reference)
    numbers = list(range(first, last))
    fraction = 1.0 if scanner is None else scanner.fraction
    low = reference
    if scanner is not None:
        low = _lowered(series, numbers, scanner, noise_seed(seed, first, fraction))
    starts = _starts(test, engine, numbers, low, fraction)
    plans = [plan for plan in test.plans if scanner and block.start <= plan.at < block.stop]
    judged = slice(block.start - first, block.stop - first)
    pixel_mm = series.pixel_spacing_mm
    return Case(
        FULL if scanner is None else dose_name(fraction),
        series.convolution_kernel or "unknown",
        _scan(low, starts, pixel_mm[0], judged),
        reference,
        judged,
        (series.slice_spacing_mm, *pixel_mm),
        renumbered(plans, first),
        _lowered(series, numbers, scanner, noise_seed(seed, first, fraction, 1))
        if scanner and plans
        else None,
    )


def _starts(
    test: OpenedSeries, engine: NeedEngine, numbers: Sequence[int], low: Volume, fraction: float
) -> tuple[StartStep, ...]:
    """What the node would start from: told the dose by tags, and the noise by the slices."""
    return tuple(engine.match(one) for one in _facts(test, numbers, low, fraction))


def _of_scanner(engine: NeedEngine, facts: SliceFacts, photons: float) -> StartStep:
    """What image mode starts from where the photons of the scan are known, as raw mode knows them.

    The share that stays is that of the reference: photons over those of normal dose (NEED 1.6).
    """
    start = replace(engine.match_photons(photons, facts), step=engine.schedule.nearest(photons))
    return engine.within_limits(start, facts.pixel_mm)


def _facts(
    test: OpenedSeries, numbers: Sequence[int], low: Volume, fraction: float
) -> tuple[SliceFacts, ...]:
    part = slice(numbers[0], numbers[-1] + 1)
    dose = replace(
        test.dose,
        mas=test.dose.mas[part],
        ctdivol_mgy=tuple(None if v is None else v * fraction for v in test.dose.ctdivol_mgy[part]),
    )
    return slice_facts(_some(test.series, numbers, low), dose, test.reference)


def _lowered(series: CtSeries, numbers: Sequence[int], scanner: Scanner, seed: int) -> Volume:
    """Slices at the lower dose as a reader finds them in files: whole stored values, air in the padding."""
    part = slice(numbers[0], numbers[-1] + 1)
    low = lower_dose(series.hounsfield[part], series.pixel_spacing_mm[0], scanner, seed)
    headers = series.headers[part]
    stored = np.stack([to_hounsfield(h, to_stored(h, image)) for h, image in zip(headers, low, strict=True)])
    return stored if series.padding is None else np.where(series.padding[part], np.float32(-1000.0), stored)


def _some(series: CtSeries, numbers: Sequence[int], hounsfield: Volume) -> CtSeries:
    """Some slices of a series, with these values."""
    return replace(
        series,
        hounsfield=hounsfield,
        padding=None if series.padding is None else series.padding[list(numbers)],
        stored=series.stored[list(numbers)],
        headers=tuple(series.headers[k] for k in numbers),
        encoded_headers=tuple(series.encoded_headers[k] for k in numbers),
        frames=tuple(series.frames[k] for k in numbers),
    )


def _scan(low: Volume, starts: tuple[StartStep, ...], pixel_mm: float, judged: slice) -> Scan:
    reading = measure_noise(low[judged], pixel_mm)
    noise_hu = reading.std_hu if reading else median(start.noise_hu for start in starts)
    return Scan(low, starts, pixel_mm, noise_hu)


def _of_kernel(pairs: Sequence[Pair], engine: NeedEngine, inserts: int, seed: int) -> Iterator[Case]:
    images = [pair.full.hounsfield[0] for pair in pairs]
    chosen = richest(images, range(len(pairs)), inserts, pairs[0].low.pixel_spacing_mm[0])
    pixels_mm = [pairs[k].low.pixel_spacing_mm[0] for k in chosen]
    plans = {plan.at: plan for plan in plan_slices(images, chosen, pixels_mm, seed, beside=False)}
    for number, pair in enumerate(pairs):
        low, pixel_mm = pair.low, pair.low.pixel_spacing_mm
        scan = _scan(low.hounsfield, (start_of(pair, engine),), pixel_mm[0], slice(0, 1))
        here = renumbered([plans[number]], number) if number in plans else ()
        spacing_mm = (low.slice_spacing_mm, *pixel_mm)
        yield Case(PAIRS, pair.kernel, scan, pair.full.hounsfield, slice(0, 1), spacing_mm, here)

"""What the node would make of one stack, as a record: accepted or refused, dose, size, noise, start step."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median_low
from typing import Final, Literal

from pydicom.dataset import Dataset

from dicomnode.dicom.admission import admit
from dicomnode.dicom.dose import DoseReading, DoseSource, read_dose
from dicomnode.dicom.dose_report import DoseEvent, DoseReport, merged, read_dose_report
from dicomnode.dicom.series import CtSeries, read_headers, read_series
from dicomnode.dicom.values import numbers, text
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import SliceFacts, StartStep
from dicomnode.errors import DoseUnknown, GapInSeries, NotADoseReport, SeriesRefused, UnevenSpacing
from dicomnode.inspection.folder import FoundStack, named_as_text
from dicomnode.journey.matching import mean_diameter_mm, mean_ssde_mgy, regions_told, slice_facts
from dicomnode.journey.raw_mode import Taken, match_taken, take_up
from dicomnode.settings import Dose

DOSE_REPORT: Final = "dose-report"
"""The rule of dose reports: they are no images, and read for the dose of their study's."""


@dataclass(frozen=True)
class DoseFinding:
    """The dose of a stack: what is told, on which phantom, by what; means over the slices, then the vectors.

    `ssde_mgy` after AAPM 204, 220 and, for heads, 293. `fraction` of normal dose (median); what tags and
    noise alone say is beside it. `decided_by` says whether tags, image noise or both were believed, `told`
    says it in a sentence. An image cleaner than its dose has the fraction of its tags, the step of its noise.
    `report_uids`: the dose reports that were joined to the images. Source `not-read`: what was refused is no
    scan whose dose could be read.
    """

    source: DoseSource | Literal["not-read"] = "not-read"
    kvp: float | None = None
    ctdivol_mgy: float | None = None
    phantom_cm: int | None = None
    mas: float | None = None
    ssde_mgy: float | None = None
    flags: tuple[str, ...] = ()
    fraction: float | None = None
    fraction_by_tags: float | None = None
    fraction_by_noise: float | None = None
    photons: float | None = None
    decided_by: str | None = None
    told: str | None = None
    report_uids: tuple[str, ...] = ()
    ctdivol_by_slice_mgy: tuple[float | None, ...] = ()
    mas_by_slice: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One stack of one series: accepted, or refused by a named rule with its reason.

    Sizes in mm; `noise_hu` as `physics.noise` reads it; `start_step` is the median over the slices, 0 for
    normal dose. None where the stack was refused before that was known; one refused because slices are
    missing or unevenly spaced tells what those that are there show. `folder` is the deepest that holds
    all its files; `door` says why the listener would not take them as they are, None where it does.
    """

    series_instance_uid: str
    files: int
    folder: str
    study_instance_uid: str = ""
    series_number: str = ""
    series_description: str = ""
    door: str | None = None
    accepted: bool = False
    rule: str | None = None
    reason: str | None = None
    differs_by: tuple[str, ...] = ()
    modality: str = ""
    image_type: str = ""
    manufacturer: str = ""
    model: str = ""
    kernel: str = ""
    slices: int | None = None
    matrix: tuple[int, ...] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    slice_thickness_mm: float | None = None
    slice_spacing_mm: float | None = None
    regions: str | None = None
    size_flags: tuple[str, ...] = ()
    water_equivalent_diameter_mm: float | None = None
    noise_hu: float | None = None
    start_step: int | None = None
    steps: int | None = None
    start_step_by_slice: tuple[int, ...] = ()
    dose: DoseFinding = field(default_factory=DoseFinding)


@dataclass(frozen=True, eq=False)
class Judge:
    """What the verdict of a node depends on: its normal doses, its model, and the dose reports by study."""

    dose: Dose
    engine: NeedEngine
    reports: Mapping[str, Sequence[DoseReport]]

    def believing(self, reports: Mapping[str, Sequence[DoseReport]]) -> "Judge":
        """The same with these dose reports."""
        return replace(self, reports=reports)

    def events(self, header: Dataset) -> tuple[DoseEvent, ...]:
        """What the dose reports of an image's study tell."""
        return merged(self.reports.get(text(header, "StudyInstanceUID"), ()))


def look(found: FoundStack, judge: Judge) -> Finding:
    """Take a stack as far as the node would before it reconstructs; never raises for what is in the files."""
    paths = found.stack.paths
    finding = _about(_first_header(paths), found)
    if found.series.dose_report:
        return replace(finding, rule=DOSE_REPORT, reason=_report_told(paths))
    try:
        taken = take_up(paths, judge.engine)
    except SeriesRefused as refusal:
        return _as_far_as_it_goes(finding, refusal, paths, judge)
    return _measured(finding, taken, judge)


def _as_far_as_it_goes(
    finding: Finding, refusal: SeriesRefused, paths: Sequence[Path], judge: Judge
) -> Finding:
    """A refused stack with its dose; where only slices are missing also with what the others show."""
    seen = _despite_gaps(paths) if isinstance(refusal, GapInSeries | UnevenSpacing) else None
    if seen is not None:
        return _refused(_measured(finding, Taken(seen), judge), refusal)
    return replace(_refused(finding, refusal), dose=_dose_if_scan(paths, judge))


def _despite_gaps(paths: Sequence[Path]) -> CtSeries | None:
    """A series with missing or uneven slices; None where it breaks another rule, too."""
    try:
        return read_series(paths, whole=False)
    except SeriesRefused:
        return None


def _first_header(paths: Sequence[Path]) -> Dataset:
    """The header of the first file that can be read; an empty one where none can."""
    for path in paths:
        try:
            return read_headers([path])[0]
        except SeriesRefused:
            continue
    return Dataset()


def _report_told(paths: Sequence[Path]) -> str:
    """What dose reports say of their irradiations, or why they say nothing."""
    try:
        events = merged([read_dose_report(path) for path in paths])
    except NotADoseReport as error:
        return f"a dose report that tells nothing: {error}"
    doses = [f"{event.ctdivol_mgy:.3g}" for event in events if event.ctdivol_mgy is not None]
    mgy = f", CTDIvol {', '.join(doses)} mGy" if doses else ", none with a CTDIvol"
    plural = "" if len(events) == 1 else "s"
    return f"a dose report of {len(events)} irradiation{plural}{mgy}: read for the series of its study"


def _dose_if_scan(paths: Sequence[Path], judge: Judge) -> DoseFinding:
    """The dose of cross-sections that are refused for another reason; a scout's would be misread for one."""
    try:
        headers = read_headers(paths)
        admit(headers[0])
    except SeriesRefused:
        return DoseFinding()
    along = sorted(headers, key=lambda header: numbers(header, "ImagePositionPatient")[2:3])
    return _dose(read_dose(along, judge.events(headers[0])))


def _about(header: Dataset, found: FoundStack) -> Finding:
    paths = found.stack.paths
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    return Finding(
        series_instance_uid=text(header, "SeriesInstanceUID") or found.series.uid,
        files=len(paths),
        folder=named_as_text(folder),
        study_instance_uid=text(header, "StudyInstanceUID"),
        series_number=text(header, "SeriesNumber"),
        series_description=text(header, "SeriesDescription"),
        door=found.series.door,
        differs_by=found.stack.differs_by,
        modality=text(header, "Modality"),
        image_type=text(header, "ImageType"),
        manufacturer=text(header, "Manufacturer"),
        model=text(header, "ManufacturerModelName"),
        kernel=text(header, "ConvolutionKernel"),
    )


def _refused(finding: Finding, refusal: SeriesRefused) -> Finding:
    return replace(finding, accepted=False, rule=refusal.rule, reason=str(refusal))


def _measured(finding: Finding, taken: Taken, judge: Judge) -> Finding:
    series = taken.series
    reading = read_dose(series.headers, judge.events(series.headers[0]))
    facts = slice_facts(series, reading, judge.dose.reference)
    diameter_mm = mean_diameter_mm(facts)
    noise_hu = [one.noise_hu for one in facts if one.noise_hu is not None]
    finding = replace(
        finding,
        accepted=True,
        slices=series.slices,
        matrix=series.hounsfield.shape[1:],
        pixel_spacing_mm=series.pixel_spacing_mm,
        slice_thickness_mm=series.slice_thickness_mm,
        slice_spacing_mm=round(series.slice_spacing_mm, 4),
        water_equivalent_diameter_mm=None if diameter_mm is None else round(diameter_mm, 1),
        noise_hu=round(median_low(noise_hu), 2) if noise_hu else None,
        steps=taken.steps(judge.engine),
        regions=regions_told(facts),
        size_flags=tuple(sorted({flag for one in facts for flag in one.flags})),
    )
    try:
        starts, sentence = match_taken(taken, facts, judge.dose, judge.engine)
    except DoseUnknown as refusal:
        return replace(_refused(finding, refusal), dose=_dose(reading, facts))
    return replace(
        finding,
        start_step=median_low([start.step for start in starts]),
        start_step_by_slice=tuple(start.step for start in starts),
        dose=_dose(reading, facts, starts, sentence),
    )


def _dose(
    reading: DoseReading,
    facts: Sequence[SliceFacts] = (),
    starts: Sequence[StartStep] = (),
    sentence: str | None = None,
) -> DoseFinding:
    decided = Counter(start.decided_by for start in starts).most_common(1)
    return DoseFinding(
        source=reading.source,
        kvp=reading.kvp,
        ctdivol_mgy=_rounded(reading.mean_ctdivol_mgy),
        phantom_cm=reading.phantom_cm,
        mas=_rounded(reading.mean_mas),
        ssde_mgy=_rounded(mean_ssde_mgy(reading, facts)) if facts else None,
        flags=reading.flags,
        fraction=_median([start.dose_fraction for start in starts]),
        fraction_by_tags=_median([start.fraction_by_tags for start in starts]),
        fraction_by_noise=_median([start.fraction_by_noise for start in starts]),
        photons=round(median_low([start.photons for start in starts])) if starts else None,
        decided_by=decided[0][0] if decided else None,
        told=sentence,
        report_uids=reading.report_uids,
        ctdivol_by_slice_mgy=tuple(_rounded(value) for value in reading.ctdivol_mgy),
        mas_by_slice=tuple(_rounded(value) for value in reading.mas),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(median_low(known)) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

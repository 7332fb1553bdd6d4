"""`dicomnode inspect`: what the node would make of the series in a folder, and why, without making it."""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median_low
from typing import Final

from pydicom.dataset import Dataset
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from dicomnode.dicom.admission import admit
from dicomnode.dicom.dose import DoseReading, read_dose
from dicomnode.dicom.dose_report import DOSE_REPORT_CLASSES, DoseEvent, DoseReport, merged, read_dose_report
from dicomnode.dicom.series import CtSeries, read_headers, read_series
from dicomnode.dicom.stacks import Stack, sort_into_stacks
from dicomnode.dicom.values import text
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import SliceFacts, StartStep, told
from dicomnode.errors import (
    DicomnodeError,
    DoseUnknown,
    GapInSeries,
    InstanceRefused,
    NetworkError,
    NotADoseReport,
    SeriesRefused,
    UnevenSpacing,
)
from dicomnode.journey.matching import match_all, mean_ssde_mgy, regions_told, slice_facts
from dicomnode.network import part10
from dicomnode.network.header import read_header
from dicomnode.settings import Dose, EngineSettings, load_settings

DEFAULT_CONFIG: Final = Path("configs/node.yaml")


class NothingToInspect(DicomnodeError):
    """There is no DICOM file where one was named."""


@dataclass(frozen=True)
class DoseFinding:
    """The dose of a stack: what is told, on which phantom, by what; means over the slices, then the vectors.

    `ssde_mgy` after AAPM 204, 220 and, for heads, 293. `fraction` of normal dose (median); what tags and
    noise alone say is beside it. `decided_by` says whether tags, image noise or both were believed, `told`
    says it in a sentence. An image cleaner than its dose has the fraction of its tags, the step of its noise.
    `report_uids`: the dose reports that were joined to the images.
    """

    source: str
    kvp: float | None
    ctdivol_mgy: float | None
    phantom_cm: int | None
    mas: float | None
    ssde_mgy: float | None
    flags: tuple[str, ...]
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
    normal dose. None where the stack was refused before that was known. A stack refused because slices are
    missing or unevenly spaced tells what those that are there show.
    """

    series_instance_uid: str
    files: int
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
    dose: DoseFinding | None = None


@dataclass(frozen=True, eq=False)
class Node:
    """What the verdict of a node depends on: its normal doses, its model, and the dose reports by study."""

    dose: Dose
    engine: NeedEngine
    reports: Mapping[str, Sequence[DoseReport]]

    def events(self, header: Dataset) -> tuple[DoseEvent, ...]:
        """What the dose reports of an image's study tell."""
        return merged(self.reports.get(text(header, "StudyInstanceUID"), ()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode inspect`."""
    parser.add_argument("path", nargs="+", type=Path, metavar="DIR", help="folders or files, searched deeply")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--config",
        type=Path,
        default=None,
        help=f"whose normal doses and model count (default: {DEFAULT_CONFIG} if it is there)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Inspect and print. Progress goes to standard error, so that standard output is only the answer."""
    console = Console(stderr=True)
    config = arguments.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    settings = load_settings(config) if config else None
    dose = settings.dose if settings else Dose()
    asked = settings.engine if settings else EngineSettings(models_folder=SHIPPED)
    engine = load_engine(asked.models_folder, asked.model, "cpu")
    files, others = _dicom_files(arguments.path)
    if not files:
        raise NothingToInspect(f"no DICOM files in {', '.join(map(str, arguments.path))} ({others} others)")
    series, reports = _by_series(track(files, "headers", console=console, transient=True))
    node = Node(dose, engine, _dose_reports(reports))
    found = [
        look(stack, node)
        for paths in track(series, "series", console=console, transient=True)
        for stack in sort_into_stacks(paths)
    ]
    if arguments.json:
        print(json.dumps({"series": [asdict(one) for one in found], "other_files": others}, indent=1))
    else:
        Console().print(table(found))
        if others:
            Console().print(f"{others} files are not DICOM")
    return 0


def look(stack: Stack, node: Node) -> Finding:
    """Take a stack as far as the node would before it reconstructs; never raises for what is in the files."""
    try:
        headers = read_headers(stack.paths)
    except SeriesRefused as refusal:
        return _refused(_about(Dataset(), stack), refusal)
    try:
        series = read_series(stack.paths)
    except SeriesRefused as refusal:
        return _as_far_as_it_goes(stack, refusal, headers, node)
    return _measured(stack, series, node)


def _as_far_as_it_goes(
    stack: Stack, refusal: SeriesRefused, headers: Sequence[Dataset], node: Node
) -> Finding:
    """A refused stack with its dose; where only slices are missing also with what the others show."""
    if isinstance(refusal, GapInSeries | UnevenSpacing):
        return _refused(_measured(stack, read_series(stack.paths, whole=False), node), refusal)
    return replace(_refused(_about(headers[0], stack), refusal), dose=_dose_if_scan(headers, node))


def _dose_if_scan(headers: Sequence[Dataset], node: Node) -> DoseFinding | None:
    """The dose of cross-sections that are refused for another reason; a scout's would be misread for one."""
    try:
        admit(headers[0])
    except SeriesRefused:
        return None
    return _dose(read_dose(headers, node.events(headers[0])))


def _about(header: Dataset, stack: Stack) -> Finding:
    return Finding(
        series_instance_uid=text(header, "SeriesInstanceUID"),
        files=len(stack.paths),
        differs_by=stack.differs_by,
        modality=text(header, "Modality"),
        image_type=text(header, "ImageType"),
        manufacturer=text(header, "Manufacturer"),
        model=text(header, "ManufacturerModelName"),
        kernel=text(header, "ConvolutionKernel"),
    )


def _refused(finding: Finding, refusal: SeriesRefused) -> Finding:
    return replace(finding, accepted=False, rule=refusal.rule, reason=str(refusal))


def _measured(stack: Stack, series: CtSeries, node: Node) -> Finding:
    finding = _about(series.headers[0], stack)
    reading = read_dose(series.headers, node.events(series.headers[0]))
    facts = slice_facts(series, reading, node.dose.reference)
    diameters_mm = [one.diameter_mm for one in facts if one.diameter_mm > 0]
    noise_hu = [one.noise_hu for one in facts if one.noise_hu is not None]
    finding = replace(
        finding,
        accepted=True,
        slices=series.slices,
        matrix=series.hounsfield.shape[1:],
        pixel_spacing_mm=series.pixel_spacing_mm,
        slice_thickness_mm=series.slice_thickness_mm,
        slice_spacing_mm=round(series.slice_spacing_mm, 4),
        water_equivalent_diameter_mm=round(fmean(diameters_mm), 1) if diameters_mm else None,
        noise_hu=round(median_low(noise_hu), 2) if noise_hu else None,
        steps=node.engine.card.schedule.steps,
        regions=regions_told(facts),
        size_flags=tuple(sorted({flag for one in facts for flag in one.flags})),
    )
    try:
        starts = match_all(facts, node.dose, node.engine)
    except DoseUnknown as refusal:
        return replace(_refused(finding, refusal), dose=_dose(reading, facts))
    return replace(
        finding,
        start_step=median_low([start.step for start in starts]),
        start_step_by_slice=tuple(start.step for start in starts),
        dose=_dose(reading, facts, starts),
    )


def _dose(
    reading: DoseReading, facts: Sequence[SliceFacts] = (), starts: Sequence[StartStep] = ()
) -> DoseFinding:
    decided = Counter(start.decided_by for start in starts).most_common(1)
    return DoseFinding(
        source=reading.source,
        kvp=reading.kvp,
        ctdivol_mgy=_rounded(reading.mean_ctdivol_mgy),
        phantom_cm=reading.phantom_cm,
        mas=_rounded(reading.mean_mas),
        ssde_mgy=_rounded(mean_ssde_mgy(reading, facts)),
        flags=reading.flags,
        fraction=_median([start.dose_fraction for start in starts]),
        fraction_by_tags=_median([start.fraction_by_tags for start in starts]),
        fraction_by_noise=_median([start.fraction_by_noise for start in starts]),
        photons=round(median_low([start.photons for start in starts])) if starts else None,
        decided_by=decided[0][0] if decided else None,
        told=told(starts) if starts else None,
        report_uids=reading.report_uids,
        ctdivol_by_slice_mgy=tuple(_rounded(value) for value in reading.ctdivol_mgy),
        mas_by_slice=tuple(_rounded(value) for value in reading.mas),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(median_low(known)) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# --- the files ------------------------------------------------------------------------------------


def _dicom_files(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """The Part 10 files below these paths, sorted, and how many others there are. DICOMDIR is an other."""
    found, others = [], 0
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                if _is_part10(file) and file.name.upper() != "DICOMDIR":
                    found.append(file)
                else:
                    others += 1
    return found, others


def _is_part10(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _by_series(files: Iterable[Path]) -> tuple[list[list[Path]], list[Path]]:
    """Files of one Series Instance UID together, and the dose reports among them.

    A file whose UID cannot be read stands alone.
    """
    series: dict[str, list[Path]] = defaultdict(list)
    reports = []
    for path in files:
        content = path.read_bytes()
        try:
            meta = part10.parse_meta(content, path.name)
            uid = read_header(content[meta.data_set_at :], meta.transfer_syntax_uid).series_instance_uid
            reports += [path] if meta.sop_class_uid in DOSE_REPORT_CLASSES else []
        except (NetworkError, InstanceRefused):
            uid = str(path)
        series[uid].append(path)
    return list(series.values()), reports


def _dose_reports(files: Iterable[Path]) -> dict[str, list[DoseReport]]:
    """What CT dose reports tell, by study."""
    reports: dict[str, list[DoseReport]] = defaultdict(list)
    for path in files:
        try:
            report = read_dose_report(path)
        except NotADoseReport:
            continue
        reports[report.study_instance_uid].append(report)
    return reports


# --- the answer for people ------------------------------------------------------------------------


def table(found: Sequence[Finding]) -> Table:
    """One row a stack."""
    shown = Table(title="what the node would make of it", show_lines=True)
    for name in ("", "series", "verdict", "dose, size, noise, start step"):
        shown.add_column(name, overflow="fold")
    for number, one in enumerate(found, 1):
        read = "\n".join(part for part in (_told(one.dose), _size_and_noise(one), _start(one)) if part)
        shown.add_row(str(number), escape(_what(one)), _verdict(one), escape(read))
    return shown


def _what(one: Finding) -> str:
    maker = " ".join(part for part in (one.modality, one.manufacturer, one.model, one.kernel) if part)
    lines = [maker or "no maker told", f"{one.files} file" + ("s" if one.files != 1 else "")]
    if one.slices and one.pixel_spacing_mm:
        lines[1] += f", {one.slices} x {one.slice_thickness_mm:g} mm, pixel {one.pixel_spacing_mm[0]:.3g} mm"
    if one.differs_by:
        lines.append(f"apart by {', '.join(one.differs_by)}")
    return "\n".join(lines)


def _verdict(one: Finding) -> str:
    return "[green]accepted[/]" if one.accepted else f"[red]{one.rule}[/]: {escape(one.reason or '')}"


def _told(dose: DoseFinding | None) -> str:
    if dose is None:
        return ""
    flags = "\n" + ", ".join(dose.flags) if dose.flags else ""
    if dose.ctdivol_mgy is None:
        return f"no dose told{flags}"
    phantom = f"{dose.phantom_cm} cm" if dose.phantom_cm else "phantom unknown"
    ssde = f", SSDE {dose.ssde_mgy:.3g} mGy" if dose.ssde_mgy else ""
    return f"CTDIvol {dose.ctdivol_mgy:.3g} mGy ({phantom}, {dose.source}){ssde}{flags}"


def _size_and_noise(one: Finding) -> str:
    diameter_mm, noise_hu = one.water_equivalent_diameter_mm, one.noise_hu
    size = "" if diameter_mm is None else f"Dw {diameter_mm:.0f} mm ({one.regions})"
    noise = "" if noise_hu is None else f"noise {noise_hu:.1f} HU"
    return ", ".join(part for part in (size, noise) if part)


def _start(one: Finding) -> str:
    if one.start_step is None or one.dose is None or one.dose.fraction is None:
        return ""
    share = f"{100 * one.dose.fraction:.0f} % of normal dose by {one.dose.decided_by}"
    by_noise = one.dose.fraction_by_noise
    if one.dose.decided_by == "noise" and by_noise is not None and by_noise > one.dose.fraction:
        share = (
            f"{100 * one.dose.fraction:.0f} % of normal dose by tags, noise left as of {100 * by_noise:.0f} %"
        )
    return f"{share}: step {one.start_step} of {(one.steps or 1) - 1}"

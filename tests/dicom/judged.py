"""Write everything that can be made from a series, and judge it by the programs of others.

from tests.dicom.judged import Programs, judge
row = judge(name, paths, identity, provenance, folder, Programs(...))
assert not row.wrong
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, RLELossless

from dicomnode.dicom.derived import write_derived
from dicomnode.dicom.maps import write_removed_map, write_uncertainty_map
from dicomnode.dicom.provenance import Identity, Provenance
from dicomnode.dicom.report import write_report
from dicomnode.dicom.selection import write_key_objects
from dicomnode.dicom.series import CtSeries, read_series
from tests.processor import TRIES, timed

SAME_BYTES = (
    *("StudyInstanceUID", "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SliceLocation"),
    *("SpacingBetweenSlices", "ReconstructionDiameter", "GantryDetectorTilt", "TableHeight"),
    *("RescaleSlope", "RescaleIntercept", "KVP", "PatientName", "PatientID", "PatientBirthDate"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "AcquisitionNumber", "AcquisitionTime"),
    *("WindowCenter", "WindowWidth", "SpecificCharacterSet"),
)
"""Text elements that must come out as they came in, blanks included."""
SAME_VALUE = ("Rows", "Columns", "BitsStored", "PixelRepresentation", "PixelPaddingValue", "CTDIvol")
MOST_SOURCES = 60
"""Of one source series that are checked; its errors are the same in every slice or nearly."""
DECODERS = {
    RLELossless: "dcmdrle",
    JPEGLossless: "dcmdjpeg",
    JPEGLosslessSV1: "dcmdjpeg",
    JPEGLSLossless: "dcmdjpls",
    JPEGLSNearLossless: "dcmdjpls",
}
VALUE = re.compile(r" = <.*>(?= - )")
SATURATED_HU = 3071.0
OF_ITS_OWN_TABLES = "Warning - Different information entities for attribute"
"""dcentvfy holds the AccessionNumber of every CT image for one of RequestAttributesSequence, and so differs
with itself about images and documents. Nothing that is in the files."""


@dataclass
class Row:
    """What was found of one series; `wrong` holds one line for each law it breaks."""

    name: str
    slices: int = 0
    objects: int = 0
    report_seconds: float = 0.0
    report_bytes: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = "; ".join(self.wrong) or "clean"
        cost = f"report {self.report_seconds:.2f} s {self.report_bytes / 1000:.0f} kB"
        return f"{self.name:60.60} {self.slices:4} slices {self.objects:4} objects  {cost}  {told}"


def judge(name: str, paths: Sequence[Path], identity: Identity, provenance: Provenance, folder: Path) -> Row:
    """Every law about one accepted series. Raises SeriesRefused where it is not accepted."""
    series = read_series(paths)
    row = Row(name, series.slices)
    facts = identity, provenance
    rolled = np.roll(series.hounsfield, 1, axis=2)
    # Weights that leave no value on half a step, where rounding down would do as well.
    result = (series.hounsfield * np.float32(0.37) + rolled * np.float32(0.63)).astype(np.float32)
    images = write_derived(series, result, *facts, folder / "images")
    runs = [timed(lambda: write_report(series, images, *facts, folder / "report.dcm")) for _ in range(TRIES)]
    report = runs[0][0]
    row.report_seconds, row.report_bytes = min(seconds for _, seconds in runs), report.stat().st_size
    spread = np.abs(rolled - series.hounsfield) + np.float32(0.5)
    others = [
        report,
        *write_removed_map(series, images, *facts, folder),
        *write_uncertainty_map(series, spread, 3, images, *facts, folder),
        write_key_objects(series, images, *facts, folder / "key-objects.dcm"),
    ]
    row.objects = len(images) + len(others)
    sources = [*dict.fromkeys(series.source_paths)]
    row.wrong += _new_errors(sources, images, others)
    row.wrong += _entities(sources, [*images, *others])
    row.wrong += _dump(report)
    row.wrong += _pixels(series, images, folder / "raw")
    row.wrong += _round_trip(series, result, images)
    row.wrong += _attributes(series, images)
    row.wrong += _again(series, result, facts, images, report, folder / "again")
    return row


def _said(*command: str | Path) -> list[str]:
    run = subprocess.run([*map(str, command)], capture_output=True, text=True, errors="replace")
    return (run.stdout + run.stderr).splitlines()


def object_errors(path: Path) -> set[str]:
    """The errors, not the warnings, that dciodvfy finds in one file, without the values it repeats."""
    said = (VALUE.sub("", line) for line in _said("dciodvfy", path))
    return {line for line in said if line.startswith("Error")}


def _new_errors(sources: Sequence[Path], images: Sequence[Path], others: Sequence[Path]) -> Iterator[str]:
    known = set().union(*(object_errors(path) for path in sources[:MOST_SOURCES]))
    for path in [*images, *others]:
        new = object_errors(path) - known
        if new:
            yield f"{path.name}: {sorted(new)}"


def _entities(sources: Sequence[Path], made: Sequence[Path]) -> Iterator[str]:
    new = set(_said("dcentvfy", *sources, *made)) - set(_said("dcentvfy", *sources))
    found = {line.partition(" for file ")[0] for line in new if not line.startswith(OF_ITS_OWN_TABLES)}
    if found:
        yield f"dcentvfy: {sorted(found)}"


def _dump(report: Path) -> Iterator[str]:
    """It may warn of a patient and a study that are as the source has them."""
    run = subprocess.run(["dsrdump", str(report)], capture_output=True, text=True, errors="replace")
    wrong = [line for line in run.stderr.splitlines() if not line.startswith("W:")]
    if run.returncode or wrong or "Diffusion start step" not in run.stdout:
        yield f"dsrdump: {run.returncode} {wrong[:3]}"


def _by_dcmtk(path: Path, folder: Path) -> np.ndarray:
    """Pixel Data of an uncompressed file as DCMTK reads them, bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    said = _said("dcmdump", "-q", "+W", folder, "+P", "PixelData", path)
    (raw,) = sorted(set(folder.iterdir()) - before) or [None]
    if raw is None:
        raise AssertionError(f"dcmdump wrote no pixels of {path.name}: {said}")
    content = np.fromfile(raw, "<u2")
    raw.unlink()
    return content


def _pixels(series: CtSeries, images: Sequence[Path], folder: Path) -> Iterator[str]:
    for path in images:
        ours = np.ascontiguousarray(dcmread(path).pixel_array.astype("<u2", casting="unsafe"))
        if not np.array_equal(_by_dcmtk(path, folder)[: ours.size], ours.ravel()):
            yield f"{path.name}: pydicom and dcmtk do not agree"
    for path, header, frame, stored in zip(
        series.source_paths, series.headers, series.frames, series.stored, strict=True
    ):
        decoder = DECODERS.get(header.file_meta.TransferSyntaxUID)
        if decoder is None or frame is not None:
            continue
        plain = folder / "plain.dcm"
        said = _said(decoder, path, plain)
        if not plain.exists():
            yield f"{path.name}: {decoder} {said[:1]}"
            continue
        unused = 16 - int(header.BitsStored)
        theirs = _by_dcmtk(plain, folder)[: stored.size].astype(stored.dtype)
        if not np.array_equal((theirs << unused) >> unused, stored.ravel()):
            yield f"{path.name}: {decoder} reads other pixels"
        plain.unlink()


def _round_trip(series: CtSeries, result: np.ndarray, images: Sequence[Path]) -> Iterator[str]:
    for index, path in enumerate(images):
        data, header, before = dcmread(path), series.headers[index], series.stored[index]
        slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
        stored = data.pixel_array.astype(np.float64)
        bits, signed = int(header.BitsStored), int(header.PixelRepresentation)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        kept = (before >= high) | (before.astype(float) * slope + intercept >= SATURATED_HU)
        if series.padding is not None:
            kept |= series.padding[index]
        if not np.array_equal(stored[kept], before[kept]):
            yield f"{path.name}: padding or saturated pixels moved"
        wanted = (result[index].astype(np.float64) - intercept) / slope
        free = ~kept & (wanted >= low) & (wanted <= high)
        limit = np.full(stored.shape, 0.5 + 1e-9)
        declared = _declared_padding(header, signed)
        if declared is not None:
            if ((stored >= declared[0]) & (stored <= declared[1]) & free).any():
                yield f"{path.name}: a measured pixel has a padding value"
            near = (np.rint(wanted) >= declared[0]) & (np.rint(wanted) <= declared[1])
            limit[near] += declared[1] - declared[0] + 1
        worst = np.abs(stored - wanted)[free] - limit[free]
        if worst.size and worst.max() > 0:
            yield f"{path.name}: off by {0.5 + worst.max():.3f} steps"


def _declared_padding(header: Dataset, signed: int) -> tuple[int, int] | None:
    values = [header.get(one) for one in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    ends = [int(one) & 0xFFFF for one in values if one is not None]
    ends = [one - 0x10000 if signed and one > 0x7FFF else one for one in ends]
    return (min(ends), max(ends)) if ends and values[0] is not None else None


def _attributes(series: CtSeries, images: Sequence[Path]) -> Iterator[str]:
    opened: dict[Path, Dataset] = {}
    for path, source_path, frame in zip(images, series.source_paths, series.frames, strict=True):
        image = dcmread(path, stop_before_pixels=True)
        if source_path not in opened:
            opened = {source_path: dcmread(source_path, stop_before_pixels=True)}
        source = opened[source_path]
        for keyword in SAME_BYTES:
            theirs = _raw(source, keyword, frame)
            if theirs is not None and theirs.strip() and theirs != _raw(image, keyword, None):
                yield f"{path.name}: {keyword} {theirs!r} became {_raw(image, keyword, None)!r}"
        for keyword in SAME_VALUE:
            holder = _holder(source, keyword, frame)
            if holder is not None and str(holder[keyword].value) != str(image.get(keyword)):
                yield f"{path.name}: {keyword} {holder[keyword].value} became {image.get(keyword)}"


def _raw(data: Dataset, keyword: str, frame: int | None) -> bytes | None:
    """An element as it is encoded."""
    holder = _holder(data, keyword, frame)
    if holder is None:
        return None
    element = holder.get_item(tag_for_keyword(keyword))
    value = element.value
    if isinstance(value, bytes) or value is None:
        return value
    encoded = str(element.value if element.VM < 2 else "\\".join(str(one) for one in element.value)).encode()
    return encoded + b" " * (len(encoded) % 2)


def _holder(data: Dataset, keyword: str, frame: int | None) -> Dataset | None:
    """Where an attribute stands: in the item of its frame, in the shared ones, or at the top."""
    if frame is not None:
        groups = [data.PerFrameFunctionalGroupsSequence[frame - 1], data.SharedFunctionalGroupsSequence[0]]
        for group in groups:
            for macro in group:
                if macro.VR == "SQ" and len(macro.value) == 1 and keyword in macro.value[0]:
                    return macro.value[0]
    return data if keyword in data else None


def _again(
    series: CtSeries,
    result: np.ndarray,
    facts: tuple[Identity, Provenance],
    images: Sequence[Path],
    report: Path,
    folder: Path,
) -> Iterator[str]:
    again = write_derived(series, result, *facts, folder)
    if any(one.read_bytes() != other.read_bytes() for one, other in zip(images, again, strict=True)):
        yield "images differ when they are written again"
    if write_report(series, again, *facts, folder / "report.dcm").read_bytes() != report.read_bytes():
        yield "the report differs when it is written again"

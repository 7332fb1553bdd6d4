"""Parametric Maps (PS3.3 A.75) that go with a derived series: what was removed, and how far seeds differ.

Both are series of their own, frame by frame in the geometry of the source. highdicom builds the frames, and
the pixels follow them into the file slice by slice: a map costs the memory of one slice, not of a volume.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from highdicom import VOILUTTransformation, pm, sr
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DSfloat

from dicomnode.dicom import concepts
from dicomnode.dicom.derived import is_of_the_head, plain_text
from dicomnode.dicom.envelope import (
    Envelope,
    Reference,
    instances,
    private_scheme,
    reference,
    references_in,
)
from dicomnode.dicom.marks import PRIVATE_SCHEME
from dicomnode.dicom.pixels import rescale
from dicomnode.dicom.provenance import Identity, Provenance
from dicomnode.dicom.series import CtSeries
from dicomnode.dicom.values import numbers, text
from dicomnode.errors import NoSpread

LARGEST_BYTES: Final = 2**31 - 2**20
"""Of the pixels of one object: many readers count bytes in 32 signed bits. 4095 slices of 512 x 512."""

NO_CHANGE: Final = 2**15
"""The stored value that means 0 HU in a map of what was removed."""

SPREAD_SLOPE_HU: Final = 2.0**-6
LARGEST_WORD: Final = 2**16 - 1
LOSSY: Final = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")

Frame = NDArray[np.uint16] | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Map:
    """What one kind of map is. Frame `n` means `frame(n) * slopes[n] + intercepts[n]` HU."""

    kind: str
    name: str
    explanation: str
    derivation: Code
    description: str
    statistic: Code | None
    kind_of_pixel: type[np.uint16] | type[np.float32]
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    window_hu: tuple[float, float]


def write_removed_map(
    series: CtSeries,
    derived_paths: Sequence[Path],
    identity: Identity,
    provenance: Provenance,
    folder: Path,
    generation: int = 0,
    largest_bytes: int = LARGEST_BYTES,
) -> tuple[Path, ...]:
    """Write source minus result, HU, as Parametric Maps into `folder`; one file where they fit into one.

    `derived_paths` are the files of `write_derived`. The map is made of the stored integers of both: source =
    result + removed holds exactly, with the slope of the source as the slope of the map. 16 bits with zero at
    32768 where every difference fits, else the steps as float32, which are whole numbers as well. Padding and
    saturated pixels have 0. Frames go from feet to head unless the planes of the source sort otherwise.

    :raises ValueError: not one derived image a slice.
    """
    if len(derived_paths) != series.slices:
        raise ValueError(f"{len(derived_paths)} derived images for {series.slices} slices")
    slopes = tuple(rescale(header)[0] for header in series.headers)

    def steps(index: int) -> NDArray[np.int32]:
        derived = dcmread(derived_paths[index]).pixel_array.astype(np.int32)
        return np.asarray(series.stored[index].astype(np.int32) - derived)

    fits = all(_fits(steps(index)) for index in range(series.slices))

    def frame(index: int) -> Frame:
        return (steps(index) + NO_CHANGE).astype(np.uint16) if fits else steps(index).astype(np.float32)

    # of projections nobody has an image that the map could be added to
    views = provenance.measured_views
    source, image = ("plain reconstruction",) * 2 if views else ("source", "source image")
    told = _Map(
        kind="removed-map",
        name="Removed",
        explanation=f"{image.capitalize()} minus enhanced image",
        derivation=concepts.SUBTRACTION,
        description=f"What the enhancement removed: {source} = enhanced image + this map, exactly.",
        statistic=None,
        kind_of_pixel=np.uint16 if fits else np.float32,
        slopes=slopes,
        intercepts=tuple(-NO_CHANGE * slope if fits else 0.0 for slope in slopes),
        window_hu=(0.0, 100.0),
    )
    envelope = Envelope(series, identity, provenance, generation)
    return _write(envelope, told, frame, derived_paths, folder, largest_bytes)


def write_uncertainty_map(
    series: CtSeries,
    spread_hu: NDArray[np.float32],
    seeds: int,
    derived_paths: Sequence[Path],
    identity: Identity,
    provenance: Provenance,
    folder: Path,
    generation: int = 0,
    largest_bytes: int = LARGEST_BYTES,
) -> tuple[Path, ...]:
    """Write the standard deviation over `seeds` runs of the model, HU [slice, row, column], as above.

    16 bits in steps of 1/64 HU, or of the next power of two that holds the largest.

    :raises ValueError: another shape, a value that is negative or not finite, or fewer than two seeds.
    :raises NoSpread: it is zero everywhere; such a map would claim certainty.
    """
    largest_hu = float(spread_hu.max(initial=0.0))
    if spread_hu.shape != series.hounsfield.shape or not np.isfinite(spread_hu).all() or spread_hu.min() < 0:
        raise ValueError("the spread must be finite, not negative, and of the shape of the series")
    if seeds < 2:
        raise ValueError("a spread needs two seeds")
    if largest_hu == 0.0:
        raise NoSpread("every seed gave the same image: there is no spread to show")
    slope = max(SPREAD_SLOPE_HU, 2.0 ** math.ceil(math.log2(largest_hu / LARGEST_WORD)))
    told = _Map(
        kind="uncertainty-map",
        name="Uncertainty",
        explanation=f"Standard deviation over {seeds} seeds of the model",
        derivation=concepts.SPREAD_OVER_SEEDS,
        description=(
            f"Standard deviation over {seeds} runs in which the photons between two passes were drawn. It is "
            "how far the model's own draws move the image, and no error bar: neither the noise of the scan "
            "nor an error that all runs share is in it. Zero where the model draws nothing."
        ),
        statistic=concepts.STANDARD_DEVIATION,
        kind_of_pixel=np.uint16,
        slopes=(slope,) * series.slices,
        intercepts=(0.0,) * series.slices,
        window_hu=(largest_hu / 2, largest_hu),
    )

    def frame(index: int) -> Frame:
        return np.asarray(np.rint(spread_hu[index] / np.float32(slope)).astype(np.uint16))

    envelope = Envelope(series, identity, provenance, generation)
    return _write(envelope, told, frame, derived_paths, folder, largest_bytes)


def _fits(steps: NDArray[np.int32]) -> bool:
    return bool(steps.min() >= -NO_CHANGE and steps.max() <= LARGEST_WORD - NO_CHANGE)


def _write(
    envelope: Envelope,
    told: _Map,
    frame: Callable[[int], Frame],
    derived_paths: Sequence[Path],
    folder: Path,
    largest_bytes: int,
) -> tuple[Path, ...]:
    """As many objects as it takes, each with a run of slices."""
    series = envelope.series
    lossy = dcmread(derived_paths[0], stop_before_pixels=True, specific_tags=list(LOSSY))
    planes = [_plane(envelope, index, lossy) for index in range(series.slices)]
    derived = references_in(derived_paths)
    frame_bytes = series.stored[0].size * np.dtype(told.kind_of_pixel).itemsize
    most = max(1, largest_bytes // frame_bytes)
    paths = []
    for number, first in enumerate(range(0, series.slices, most), 1):
        run = range(first, min(first + most, series.slices))
        made, order = _object(envelope, told, run, planes, derived, number)
        path = folder / f"{told.kind}-{number}.dcm"
        envelope.write(made, path)
        _append_pixels(path, (frame(index) for index in order), frame_bytes * len(order))
        paths.append(path)
    return tuple(paths)


def _object(
    envelope: Envelope,
    told: _Map,
    run: range,
    planes: Sequence[Dataset],
    derived: Sequence[Reference],
    number: int,
) -> tuple[Dataset, list[int]]:
    """One Parametric Map without its pixels, and the slices in the order of its frames.

    highdicom is given frames of one pixel; it looks at positions only, and would copy a volume several times.
    """
    series, source = envelope.series, envelope.source
    first = run[0]
    whole = np.issubdtype(told.kind_of_pixel, np.integer)
    center, width = (hu / told.slopes[first] for hu in told.window_hu)
    center -= told.intercepts[first] / told.slopes[first]
    said: dict[str, Any] = envelope.said(told.kind, f"{told.name} (HU)")
    made = pm.ParametricMap(
        source_images=[planes[index] for index in run],
        pixel_array=np.zeros((len(run), 1, 1), told.kind_of_pixel),
        sop_instance_uid=envelope.uid(f"{told.kind} {number}"),
        instance_number=number,
        contains_recognizable_visual_features=_may_show_a_face(source),
        real_world_value_mappings=[_mapping(told, first)],
        voi_lut_transformations=[
            VOILUTTransformation(window_center=round(center, 3), window_width=max(1.0, round(width, 3)))
        ],
        content_label=told.name.upper(),
        content_description=told.explanation,
        derivation=told.derivation,
        coding_schemes=[private_scheme()] if told.derivation.scheme_designator == PRIVATE_SCHEME else None,
        **said,
    )
    del made["PixelData" if whole else "FloatPixelData"]
    made.Rows, made.Columns = series.stored.shape[1:]
    made.BodyPartExamined = text(source, "BodyPartExamined") or None
    if not made.BodyPartExamined:
        made.Laterality = ""
    _name_dimensions(made, envelope.uid(f"{told.kind} {number} dimensions"))
    order = _order(made, {str(planes[index].SOPInstanceUID): index for index in run})
    if any(frame is not None for frame in series.frames):
        _name_frames(
            made, {str(planes[k].SOPInstanceUID): reference(series.headers[k], series.frames[k]) for k in run}
        )
    _say_what_was_done(made, told, [derived[index] for index in order])
    if len(set(told.slopes)) > 1:
        _map_each(made, [_mapping(told, index) for index in order])
    return made, order


def _mapping(told: _Map, index: int) -> pm.RealWorldValueMapping:
    whole = np.issubdtype(told.kind_of_pixel, np.integer)
    mapping = pm.RealWorldValueMapping(
        lut_label=told.name.upper(),
        lut_explanation=told.explanation,
        unit=concepts.HOUNSFIELD,
        value_range=(0, LARGEST_WORD) if whole else (-float(LARGEST_WORD), float(LARGEST_WORD)),
        slope=told.slopes[index],
        intercept=told.intercepts[index],
        quantity_definition=concepts.X_RAY_ATTENUATION,
    )
    if told.statistic is not None:
        mapping.QuantityDefinitionSequence.append(
            sr.CodeContentItem(name=concepts.DERIVATION, value=told.statistic)
        )
    return mapping


def _plane(envelope: Envelope, index: int, lossy: Dataset) -> Dataset:
    """Where a slice lies, for highdicom: an image of one pixel in the corner of the slice."""
    header = envelope.series.headers[index]
    plane = reference(header).evidence()
    if envelope.series.frames[index] is not None:
        # highdicom takes frames of several objects only as single images; `_name_frames` takes this back
        plane.SOPClassUID, plane.SOPInstanceUID = CTImageStorage, envelope.uid(f"plane {index}")
    plane.Rows = plane.Columns = 1
    plane.FrameOfReferenceUID = text(header, "FrameOfReferenceUID") or envelope.uid("frame-of-reference")
    plane.PositionReferenceIndicator = text(header, "PositionReferenceIndicator")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        setattr(plane, keyword, [DSfloat(value, auto_format=True) for value in numbers(header, keyword)])
    plane.SliceThickness = DSfloat(envelope.series.slice_thickness_mm, auto_format=True)
    for keyword in LOSSY:
        if keyword in lossy:
            setattr(plane, keyword, lossy[keyword].value)
    return plane


def _may_show_a_face(source: Dataset) -> bool:
    """The word of the source, else whether the head may be in it; where nothing is said it may."""
    said = text(source, "RecognizableVisualFeatures")
    if said in ("YES", "NO"):
        return said == "YES"
    return not text(source, "BodyPartExamined") or is_of_the_head(source)


def _name_dimensions(made: Dataset, uid: str) -> None:
    """highdicom draws this UID."""
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _order(made: Dataset, index_of: dict[str, int]) -> list[int]:
    """highdicom sorts the frames along the normal; each names the slice it was derived from."""
    frames = made.PerFrameFunctionalGroupsSequence
    sources = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in frames]
    return [index_of[str(source.ReferencedSOPInstanceUID)] for source in sources]


def _name_frames(made: Dataset, source_of: dict[str, Reference]) -> None:
    """Frames of multi-frame sources under their real names: highdicom took them for images of their own."""
    for frame in made.PerFrameFunctionalGroupsSequence:
        for source in frame.DerivationImageSequence[0].SourceImageSequence:
            source.update(source_of[str(source.ReferencedSOPInstanceUID)].item())
    sources = [one.item() for one in instances(source_of.values())]
    made.SourceImageSequence = DicomSequence(sources)
    for series in made.ReferencedSeriesSequence:
        series.ReferencedInstanceSequence = DicomSequence(sources)


def _say_what_was_done(made: Dataset, told: _Map, derived: Sequence[Reference]) -> None:
    """Each frame also names the enhanced image; the top level names every image once."""
    sentence = plain_text(told.description, 1024)
    for frame, image in zip(made.PerFrameFunctionalGroupsSequence, derived, strict=True):
        item = frame.DerivationImageSequence[0]
        item.DerivationDescription = sentence
        other = Dataset()
        other.update(item.SourceImageSequence[0])
        other.pop("ReferencedFrameNumber", None)
        other.update(image.item())
        item.SourceImageSequence.append(other)
    enhanced = Dataset()
    enhanced.SeriesInstanceUID = derived[0].series_instance_uid
    enhanced.ReferencedInstanceSequence = DicomSequence([image.item() for image in derived])
    made.ReferencedSeriesSequence.append(enhanced)
    made.SourceImageSequence.extend(image.item() for image in derived)


def _map_each(made: Dataset, mappings: Sequence[pm.RealWorldValueMapping]) -> None:
    """Where the slope changes from slice to slice, each frame has its own mapping."""
    del made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    for frame, mapping in zip(made.PerFrameFunctionalGroupsSequence, mappings, strict=True):
        frame.RealWorldValueMappingSequence = DicomSequence([mapping])


def _append_pixels(path: Path, frames: Iterator[Frame], size_bytes: int) -> None:
    """Write Pixel Data (7FE0,0010) or Float Pixel Data (7FE0,0008) behind the last element of a file.

    Explicit VR Little Endian (PS3.5 section 7.1.2); an odd length does not occur, a pixel has 2 or 4 bytes.
    """
    with path.open("ab") as file:
        for number, frame in enumerate(frames):
            if number == 0:
                element, vr = (0x0010, b"OW") if frame.dtype == np.uint16 else (0x0008, b"OF")
                file.write(b"\xe0\x7f" + element.to_bytes(2, "little") + vr + b"\0\0")
                file.write(size_bytes.to_bytes(4, "little"))
            file.write(np.ascontiguousarray(frame, frame.dtype.newbyteorder("<")).tobytes())

"""Assemble the files of one CT series into a `CtSeries`, or refuse it by a named rule."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.dicom.admission import admit, label
from dicomnode.dicom.codestream import LOSSY
from dicomnode.dicom.functional_groups import check_one_kind, count_elements, encode_classic
from dicomnode.dicom.multiframe import MultiFrame, check_concatenations, is_multi_frame, read_multi_frame
from dicomnode.dicom.parsing import MOST_ELEMENTS, Pixels, parse
from dicomnode.dicom.pixels import (
    AIR_HU,
    StoredPixels,
    check_pixel_format,
    decode,
    padding_mask,
    rescale,
    to_hounsfield,
)
from dicomnode.dicom.stacking import THICKEST_MM, THINNEST_MM, Plane, check_axial, read_plane, stack
from dicomnode.dicom.values import number, numbers, text
from dicomnode.errors import BrokenInstance, DuplicatePosition, MixedSeries, UnsupportedGeometry

LARGEST_FILE_BYTES: Final = 256 * 2**20
UID_CHARACTERS: Final = re.compile(r"[0-9.]{1,64}")
"""Leading zeros in a component are wrong, but in archives since before anybody checked."""

ONE_TEXT_A_STACK: Final = (
    "FrameOfReferenceUID",
    "ConvolutionKernel",
    "FilterType",
    "ContrastBolusAgent",
    "BitsStored",
    "PixelRepresentation",
    "MultienergyCTAcquisition",
)
ONE_NUMBER_A_STACK: Final = (
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImageOrientationPatient",
    "SliceThickness",
    "KVP",
    "ReconstructionDiameter",
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
    "NominalPercentageOfRespiratoryPhase",
)
"""Attributes with one value in a stack; a series with more holds several, told apart by them."""
ONE_TEXT_A_SERIES: Final = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "Manufacturer",
    "ManufacturerModelName",
    "FrameType",
    "StackID",
)
"""Who the patient is and who made the image: where these differ a series is a mistake and is refused."""
NUMBER_TOLERANCE: Final = 1e-3

ACQUISITION_KEYS: Final = ("AcquisitionNumber", "IrradiationEventUID")


@dataclass(frozen=True, eq=False)
class CtSeries:
    """One evenly spaced stack of axial CT images, sorted from feet to head.

    * `hounsfield`: float32 [slice, row, column]; padding replaced by air (-1000 HU).
    * `stored`: the stored values as decoded, int16 or uint16 [slice, row, column].
    * `padding`: bool [slice, row, column] where nothing was measured, or None.
    * `headers`: one data set a slice without pixel data, for reading; `encoded_headers` are the same as the
      bytes that arrived (Part 10, up to the pixel data), from which derived objects are written. Of a frame
      of a multi-frame object both are classic headers, made from its functional groups.
    * `frames`: the number of each slice's frame in its file, from 1; None where the file is a single image.
    * `source_digests`: SHA-256 of each file; `content_digest`: SHA-256 over every SOP Instance UID, rescale
      and stored pixel, the same for the same content in another transfer syntax.
    """

    hounsfield: NDArray[np.float32]
    padding: NDArray[np.bool_] | None
    stored: StoredPixels
    headers: tuple[Dataset, ...]
    encoded_headers: tuple[bytes, ...]
    source_paths: tuple[Path, ...]
    source_digests: tuple[str, ...]
    frames: tuple[int | None, ...]
    series_instance_uid: str
    study_instance_uid: str
    pixel_spacing_mm: tuple[float, float]
    slice_spacing_mm: float
    slice_thickness_mm: float
    convolution_kernel: str
    manufacturer: str
    model: str
    content_digest: str
    lossy_ratio: float | None = None
    """How far lossy transfer syntaxes compressed the pixels; None where all arrived lossless."""
    stack: str = ""
    stack_number: int = 0
    """Which of the stacks under this Series Instance UID it is (`stacks.Stack.key`); "" and 0: the first."""

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.headers)

    @property
    def source_uid(self) -> str:
        """What UIDs of derived series follow from: the Series Instance UID, and any stack but the first."""
        return f"{self.series_instance_uid}|{self.stack}" if self.stack else self.series_instance_uid

    def image_name(self, index: int) -> str:
        """What no other image has: the SOP Instance UID, and the frame's number where it has several."""
        return _image_name(self.headers[index], self.frames[index])


@dataclass(frozen=True, eq=False)
class _Instance:
    path: Path
    header: Dataset
    encoded: bytes
    digest: str
    size: int
    pixels: Pixels | None
    elements: int
    source: MultiFrame | None = None
    frame: int | None = None

    @property
    def name(self) -> str:
        return _image_name(self.header, self.frame)

    @property
    def transfer_syntax(self) -> str:
        return str(self.header.file_meta.get("TransferSyntaxUID", ""))


def _image_name(header: Dataset, frame: int | None) -> str:
    """No UID holds a number sign: a frame is never taken for another instance."""
    uid = text(header, "SOPInstanceUID")
    return uid if frame is None else f"{uid}#{frame}"


def read_headers(paths: Sequence[Path]) -> tuple[Dataset, ...]:
    """The data sets of Part 10 files without their pixel data, in the order of `paths`.

    A multi-frame file gives one classic header a frame.

    :raises BrokenInstance: a file is missing, cut off before its pixel data, too large or not DICOM.
    :raises Undecodable: a deflated or unknown transfer syntax.
    """
    return tuple(instance.header for path in paths for instance in _read_instances(path))


def read_series(paths: Sequence[Path], allow_single: bool = True, whole: bool = True) -> CtSeries:
    """Read, check, sort and decode the files of one series: single images, multi-frame objects, or both.

    A single image is a series where `allow_single`; its spacing is then its thickness. Not `whole`: positions
    may be missing or uneven, to look at what is there; such a series is never enhanced.

    :raises SeriesRefused: the subclass and its `rule` tell why; `errors.py` lists them.
    """
    if not paths:
        raise BrokenInstance("no files: a series has at least one image")
    instances = [instance for path in paths for instance in _read_instances(path)]
    for instance in instances:
        admit(instance.header)
        if instance.elements > MOST_ELEMENTS:
            raise BrokenInstance(f"{label(instance.header)} has more than {MOST_ELEMENTS} elements")
        check_pixel_format(instance.header)
    if len(instances) == 1 and not allow_single:
        raise UnsupportedGeometry(
            "the series has a single image; at least two are needed to know the spacing"
        )
    _check_distinct(instances)
    check_concatenations([instance.header for instance in instances])
    _check_uniform([instance.header for instance in instances])
    planes = [read_plane(instance.header) for instance in instances]
    for plane, instance in zip(planes, instances, strict=True):
        check_axial(plane, instance.header)
    order, spacing_mm = stack(planes, whole)
    _check_acquisitions([instances[index].header for index in order])
    return _assemble([instances[index] for index in order], planes[order[0]], spacing_mm)


def _read_instances(path: Path) -> list[_Instance]:
    """The image of a single-frame file, or every frame of a multi-frame one."""
    if not is_multi_frame(path):
        return [_read_instance(path)]
    source = read_multi_frame(path)
    headers = source.headers
    check_one_kind(headers, path.name)
    return [
        _Instance(
            path,
            header,
            b"",
            source.digest,
            source.frame_bytes(frame),
            None,
            elements,
            source,
            frame,
        )
        for frame, (header, elements) in enumerate(
            zip(headers, count_elements(headers), strict=True), start=1
        )
    ]


def _read_instance(path: Path) -> _Instance:
    encoded = _read_bytes(path)
    parsed = parse(encoded, path.name)
    return _Instance(
        path,
        parsed.header,
        encoded[: parsed.header_end],
        hashlib.sha256(encoded).hexdigest(),
        len(encoded),
        parsed.pixels,
        parsed.elements,
    )


def read_stored(path: Path) -> tuple[Dataset, StoredPixels]:
    """Header and stored values [row, column] of one single-frame file, whatever it is an image of.

    :raises SeriesRefused: BrokenInstance or Undecodable.
    """
    instance = _read_instance(path)
    return instance.header, _decode_instance(instance)


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE_BYTES:
            raise BrokenInstance(
                f"{path.name} has {size} bytes, more than the {LARGEST_FILE_BYTES} of one image"
            )
        return path.read_bytes()
    except OSError as error:
        raise BrokenInstance(f"{path.name} cannot be read: {error.strerror}") from error


def _check_distinct(instances: Sequence[_Instance]) -> None:
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        for instance in instances:
            if not UID_CHARACTERS.fullmatch(text(instance.header, keyword)):
                raise BrokenInstance(f"{label(instance.header)} has no usable {keyword}")
    uids = Counter(instance.name for instance in instances)
    repeated = sum(count > 1 for count in uids.values())
    if repeated:
        raise DuplicatePosition(
            f"{repeated} SOP Instance UIDs are used by more than one file; give each image once, "
            "under its own UID"
        )


def _check_uniform(headers: Sequence[Dataset]) -> None:
    for keyword in ONE_TEXT_A_SERIES + ONE_TEXT_A_STACK:
        found = {text(header, keyword) for header in headers}
        if len(found) > 1:
            raise MixedSeries(f"{keyword} has {len(found)} values in this series; split it by {keyword}")
    for keyword in ONE_NUMBER_A_STACK:
        first = numbers(headers[0], keyword)
        if not all(_near(numbers(header, keyword), first) for header in headers):
            raise MixedSeries(f"{keyword} changes within this series; split it by {keyword}")


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=0, atol=NUMBER_TOLERANCE))


def _check_acquisitions(sorted_headers: Sequence[Dataset]) -> None:
    """Step-and-shoot scans number each rotation, one after the other; interleaved numbers are two scans."""
    for keyword in ACQUISITION_KEYS:
        values = [text(header, keyword) for header in sorted_headers]
        runs = sum(before != after for before, after in pairwise(values)) + 1
        if runs > len(set(values)):
            raise MixedSeries(
                f"images of {len(set(values))} acquisitions ({keyword}) alternate along the patient"
            )


def _assemble(instances: Sequence[_Instance], plane: Plane, spacing_mm: float | None) -> CtSeries:
    """`instances` sorted; `plane` of the first."""
    thickness_mm = plane.thickness_mm or spacing_mm or number(instances[0].header, "SpacingBetweenSlices")
    if not thickness_mm or not THINNEST_MM <= thickness_mm <= THICKEST_MM:
        raise UnsupportedGeometry(
            f"{label(instances[0].header)}: a single image needs a SliceThickness (0018,0050) above 0"
        )
    first = instances[0].header
    stored, digest = _decode_all(instances)
    hounsfield = np.empty(stored.shape, np.float32)
    padding = np.zeros(stored.shape, np.bool_)
    for index, instance in enumerate(instances):
        hounsfield[index] = to_hounsfield(instance.header, stored[index])
        padding[index] = padding_mask(
            instance.header, stored[index], hounsfield[index], plane.pixel_spacing_mm[0]
        )
    hounsfield[padding] = AIR_HU
    return CtSeries(
        hounsfield=hounsfield,
        padding=padding if padding.any() else None,
        stored=stored,
        headers=tuple(instance.header for instance in instances),
        encoded_headers=tuple(instance.encoded or encode_classic(instance.header) for instance in instances),
        source_paths=tuple(instance.path for instance in instances),
        source_digests=tuple(instance.digest for instance in instances),
        frames=tuple(instance.frame for instance in instances),
        series_instance_uid=text(first, "SeriesInstanceUID"),
        study_instance_uid=text(first, "StudyInstanceUID"),
        pixel_spacing_mm=plane.pixel_spacing_mm,
        slice_spacing_mm=spacing_mm or thickness_mm,
        slice_thickness_mm=thickness_mm,
        convolution_kernel=text(first, "ConvolutionKernel"),
        manufacturer=text(first, "Manufacturer"),
        model=text(first, "ManufacturerModelName"),
        content_digest=digest,
        lossy_ratio=_lossy_ratio(instances, stored.nbytes),
    )


def _lossy_ratio(instances: Sequence[_Instance], stored_bytes: int) -> float | None:
    if not any(instance.transfer_syntax in LOSSY for instance in instances):
        return None
    compressed = sum(instance.size - len(instance.encoded) for instance in instances)
    return round(stored_bytes / max(compressed, 1), 2)


def _decode_all(instances: Sequence[_Instance]) -> tuple[StoredPixels, str]:
    """The stored values of all slices, and the digest of what they mean."""
    digest = hashlib.sha256()
    stored: StoredPixels | None = None
    for index, instance in enumerate(instances):
        image = _decode_instance(instance)
        if stored is None:
            stored = np.empty((len(instances), *image.shape), image.dtype)
        slope, intercept = rescale(instance.header)
        digest.update(f"{instance.name}|{slope!r}|{intercept!r}|".encode())
        digest.update(np.ascontiguousarray(image, image.dtype.newbyteorder("<")).tobytes())
        stored[index] = image
    if stored is None:
        raise AssertionError("a series has at least one image")
    return stored, digest.hexdigest()


def _decode_instance(instance: _Instance) -> StoredPixels:
    if instance.source is not None and instance.frame is not None:
        return instance.source.decode(instance.frame)
    encoded = _read_bytes(instance.path)
    if hashlib.sha256(encoded).hexdigest() != instance.digest:
        raise BrokenInstance(f"{instance.path.name} changed while it was read")
    return decode(instance.header, encoded, instance.pixels, instance.transfer_syntax)

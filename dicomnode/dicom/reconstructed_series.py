"""Slices reconstructed from measured projections (DICOM-CT-PD), as the series of CT images they are.

Nobody has sent these images, so they have no SOP Instance UIDs of their own. Each goes by the UID of one of
the views it was made from, and no two by the same: whatever a derived object says of its source then names
an instance that was received.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from dicomnode.dicom.functional_groups import encode_classic
from dicomnode.dicom.pixels import AIR_HU
from dicomnode.dicom.series import CtSeries, read_headers
from dicomnode.dicom.stacking import check_axial, read_plane, stack
from dicomnode.dicom.values import text
from dicomnode.dicom.verbatim import copy_elements, decode_header

OF_THE_VIEW: Final = (
    *("SliceLocation", "SpacingBetweenSlices", "XRayTubeCurrent", "PixelAspectRatio", "PlanarConfiguration"),
    *("SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTSequence", "VOILUTFunction"),
    *("RealWorldValueMappingSequence", "ModalityLUTSequence", "IconImageSequence", "NumberOfFrames"),
)
"""What a view says of itself alone, above all of its samples: they are no Hounsfield units."""
LOWEST, HIGHEST = -32768, 32767


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Slices from feet to head and where they lie.

    `hounsfield` float32 [slice, row, column]; `position_mm` [slice, 3] and `orientation` as in Image Position
    and Image Orientation (Patient); `views` [slice]: the place of the view each goes by among the files;
    `mas` [slice] or None; `seen` bool [row, column]: inside the measured circle; `kernel`: its name, at most
    16 characters.
    """

    hounsfield: NDArray[np.float32]
    position_mm: NDArray[np.float64]
    orientation: tuple[int, ...]
    pixel_mm: float
    thickness_mm: float
    views: tuple[int, ...]
    mas: tuple[float, ...] | None
    seen: NDArray[np.bool_]
    kernel: str


def reconstructed_series(made: Reconstruction, paths: Sequence[Path]) -> CtSeries:
    """The slices in whole HU, under headers with all that the views say of patient, study and scan.

    :raises SeriesRefused: the slices are no even stack, or the files broken.
    """
    known_by = [paths[view] for view in made.views]
    views = read_headers(known_by)
    stored = np.clip(np.rint(made.hounsfield), LOWEST, HIGHEST).astype(np.int16)
    stored[:, ~made.seen] = round(AIR_HU)
    encoded = [encode_classic(_header(made, index, view)) for index, view in enumerate(views)]
    headers = tuple(decode_header(one) for one in encoded)
    planes = [read_plane(header) for header in headers]
    for plane, header in zip(planes, headers, strict=True):
        check_axial(plane, header)
    _, spacing_mm = stack(planes)
    digest = hashlib.sha256()
    for header, image in zip(headers, stored, strict=True):
        digest.update(f"{text(header, 'SOPInstanceUID')}|".encode())
        digest.update(np.ascontiguousarray(image, "<i2").tobytes())
    first = headers[0]
    return CtSeries(
        hounsfield=stored.astype(np.float32),
        padding=None if made.seen.all() else np.broadcast_to(~made.seen, stored.shape),
        stored=stored,
        headers=headers,
        encoded_headers=tuple(encoded),
        source_paths=tuple(known_by),
        source_digests=tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in known_by),
        frames=(None,) * len(headers),
        series_instance_uid=text(first, "SeriesInstanceUID"),
        study_instance_uid=text(first, "StudyInstanceUID"),
        pixel_spacing_mm=(made.pixel_mm, made.pixel_mm),
        slice_spacing_mm=spacing_mm or made.thickness_mm,
        slice_thickness_mm=made.thickness_mm,
        convolution_kernel=made.kernel,
        manufacturer=text(first, "Manufacturer"),
        model=text(first, "ManufacturerModelName"),
        content_digest=digest.hexdigest(),
    )


def _header(made: Reconstruction, index: int, view: Dataset) -> Dataset:
    header = copy_elements(view, lambda tag: not tag.is_private and tag.group != 0x7FE0)
    for keyword in OF_THE_VIEW:
        if keyword in header:
            delattr(header, keyword)
    for keyword, value in _values(made, index, view).items():
        tag = tag_for_keyword(keyword)
        if tag is not None:
            header.add_new(tag, "US" if keyword in _PIXELS else dictionary_VR(tag), value)
    return header


_PIXELS: Final = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}


def _values(made: Reconstruction, index: int, view: Dataset) -> dict[str, object]:
    rows, columns = made.hounsfield.shape[1:]
    mas = {} if made.mas is None else {"Exposure": round(made.mas[index])}
    return {
        "SOPClassUID": CTImageStorage,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "FrameOfReferenceUID": text(view, "FrameOfReferenceUID") or _frame_of_reference(view),
        "PositionReferenceIndicator": "",
        "InstanceNumber": index + 1,
        "ImagePositionPatient": [f"{value:.4f}" for value in made.position_mm[index]],
        "ImageOrientationPatient": [str(value) for value in made.orientation],
        "PixelSpacing": [f"{made.pixel_mm:.8g}"] * 2,
        "SliceThickness": f"{made.thickness_mm:.6g}",
        "ReconstructionDiameter": f"{made.pixel_mm * columns:.6g}",
        "ConvolutionKernel": made.kernel,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        **_PIXELS,
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "RescaleType": "HU",
        **mas,
    }


def _frame_of_reference(view: Dataset) -> str:
    """One for all slices of a scan whose views name none, the same whenever it is made."""
    named = f"frame of reference of {text(view, 'SeriesInstanceUID')}"
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, named).int}"

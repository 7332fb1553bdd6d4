"""Stored values, padding and Hounsfield units of single images, both ways.

Everything a header claims is checked against the bytes before they are decoded.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, RLELossless
from scipy.ndimage import binary_opening

from dicomnode.dicom.admission import label
from dicomnode.dicom.codestream import NATIVE, frame_size, join_fragments
from dicomnode.dicom.decoder import DECODER, Frame
from dicomnode.dicom.parsing import Pixels
from dicomnode.dicom.values import named, number, tags_of, text
from dicomnode.errors import BrokenInstance

LARGEST_SIDE: Final = 4096
MOST_PIXELS: Final = 2048 * 2048
"""The largest matrix of a CT scanner; four times as many would take 12 s of processor for one image."""
AIR_HU: Final = -1000.0
LOWEST_HU: Final = -1024.0
"""Scanners clip at the stored value of -1024 HU; outside the reconstruction circle that means `no data`."""
SOLID_PIXELS: Final = 5
NO_TISSUE_HU: Final = -1900.0
"""No kernel's air noise reaches this; fillers such as -2000, -2048 and -3024 lie below it."""
SATURATED_HU: Final = 3071.0
"""The top of the 12-bit scale: metal that was cut off, not measured."""

StoredPixels = NDArray[np.integer]
"""int16 or uint16, as PixelRepresentation says."""

GREY: Final = frozenset(
    {"MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"}
)
"""Other Photometric Interpretations that a message may name."""


def check_pixel_format(header: Dataset) -> None:
    """One 16-bit grey frame of a sane size.

    :raises BrokenInstance: the image pixel attributes are missing, contradict each other or are too large.
    """
    sides = [_whole(header, keyword) for keyword in ("Rows", "Columns")]
    if not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise BrokenInstance(f"{label(header)}: {sides[0]} x {sides[1]} pixels are outside 1..{LARGEST_SIDE}")
    if sides[0] * sides[1] > MOST_PIXELS:
        raise BrokenInstance(f"{label(header)}: {sides[0]} x {sides[1]} pixels are more than 2048 x 2048")
    if (number(header, "NumberOfFrames") or 1) != 1 or (number(header, "SamplesPerPixel") or 1) != 1:
        raise BrokenInstance(f"{label(header)}: a CT image has one frame and one sample a pixel")
    if text(header, "PhotometricInterpretation") != "MONOCHROME2":
        raise BrokenInstance(
            f"{label(header)}: PhotometricInterpretation (0028,0004) "
            f"{named(header, 'PhotometricInterpretation', GREY)} is not MONOCHROME2"
        )
    allocated, stored, high = (_whole(header, key) for key in ("BitsAllocated", "BitsStored", "HighBit"))
    if allocated != 16 or not 8 <= stored <= 16 or high != stored - 1:
        raise BrokenInstance(
            f"{label(header)}: BitsAllocated/BitsStored/HighBit {allocated}/{stored}/{high} "
            "do not fit a CT image"
        )
    if _whole(header, "PixelRepresentation") not in (0, 1):
        raise BrokenInstance(f"{label(header)}: PixelRepresentation (0028,0103) must be 0 or 1")


def is_signed(header: Dataset) -> bool:
    """Are stored values two's complement?"""
    return _whole(header, "PixelRepresentation") == 1


def stored_range(header: Dataset) -> tuple[int, int]:
    """Smallest and largest stored value that BitsStored and PixelRepresentation allow."""
    bits = _whole(header, "BitsStored")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed(header) else (0, 2**bits - 1)


def decode(header: Dataset, encoded: bytes, pixels: Pixels | None, transfer_syntax: str) -> StoredPixels:
    """The stored values [row, column] of one image, int16 or uint16; `encoded` is its whole file.

    :raises BrokenInstance: bytes are missing or contradict the header.
    :raises Undecodable: the decoder failed.
    """
    check_pixel_format(header)
    if pixels is None:
        raise BrokenInstance(f"{label(header)} has no Pixel Data (7FE0,0010)")
    if transfer_syntax in NATIVE:
        return _native(header, encoded, pixels, transfer_syntax)
    if pixels.length is not None:
        raise BrokenInstance(f"{label(header)}: compressed pixel data are not in fragments")
    return _decompressed(header, join_fragments(encoded, pixels.at), transfer_syntax)


def decode_frame(header: Dataset, content: bytes, transfer_syntax: str) -> StoredPixels:
    """The same of one frame: `content` is its stored values, or its codestream without fragments."""
    check_pixel_format(header)
    if transfer_syntax in NATIVE:
        return _native(header, content, Pixels(0, len(content)), transfer_syntax)
    return _decompressed(header, content, transfer_syntax)


def _decompressed(header: Dataset, codestream: bytes, transfer_syntax: str) -> StoredPixels:
    shape = (_whole(header, "Rows"), _whole(header, "Columns"))
    _check_codestream(header, codestream, transfer_syntax, shape)
    runs = transfer_syntax == RLELossless
    # pydicom would cut off what runs of bytes hold above BitsStored, and say nothing.
    frame = Frame(transfer_syntax, *shape, 16 if runs else _whole(header, "BitsStored"), is_signed(header))
    decoded = DECODER.decode(frame, codestream)
    if decoded.shape != shape:
        raise BrokenInstance(f"{label(header)}: decoded to {decoded.shape}, the header says {shape}")
    stored = np.ascontiguousarray(decoded).astype(np.int16 if is_signed(header) else np.uint16)
    return _within_bits(header, stored)


def padding_values(header: Dataset) -> tuple[int, int] | None:
    """Smallest and largest stored value that mean `no pixel` (0028,0120-0121), or None.

    A value written with the wrong sign (63536 for -2000) is understood.
    """
    first = number(header, "PixelPaddingValue")
    if first is None:
        return None
    last = number(header, "PixelPaddingRangeLimit")
    ends = [_wrapped(int(end), is_signed(header)) for end in (first, first if last is None else last)]
    return min(ends), max(ends)


def to_hounsfield(header: Dataset, stored: StoredPixels) -> NDArray[np.float32]:
    """HU = stored * RescaleSlope + RescaleIntercept, float32 in the shape of `stored`."""
    slope, intercept = rescale(header)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def to_stored(header: Dataset, hounsfield: NDArray[np.float32]) -> StoredPixels:
    """The nearest stored values, clipped to what BitsStored holds before the cast.

    Exact to half a rescale slope inside that range; NaN becomes the smallest value.
    """
    slope, intercept = rescale(header)
    low, high = stored_range(header)
    steps = np.rint(
        (np.nan_to_num(hounsfield.astype(np.float64), nan=low * slope + intercept) - intercept) / slope
    )
    kind = np.int16 if is_signed(header) else np.uint16
    clipped: StoredPixels = np.clip(steps, low, high).astype(kind)
    return clipped


def rescale(header: Dataset) -> tuple[float, float]:
    """(slope, intercept); the admission rules have made sure that both can be read."""
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    if slope is None or intercept is None or slope <= 0:
        raise BrokenInstance(f"{label(header)}: no usable RescaleSlope and RescaleIntercept")
    return slope, intercept


def padding_mask(
    header: Dataset, stored: StoredPixels, hounsfield: NDArray[np.float32], pixel_spacing_mm: float
) -> NDArray[np.bool_]:
    """Where an image [row, column] holds no measured value.

    The padding value or range; solid areas at the scale's floor outside the reconstruction circle (single
    pixels there are air noise that was clipped); anything no tissue, air noise or kernel can produce.
    """
    mask: NDArray[np.bool_] = hounsfield <= NO_TISSUE_HU
    declared = padding_values(header)
    if declared is not None:
        mask |= (stored >= declared[0]) & (stored <= declared[1])
    floor = hounsfield <= LOWEST_HU
    if floor.any():
        solid = binary_opening(floor, np.ones((SOLID_PIXELS, SOLID_PIXELS)))
        mask |= solid & _outside_field(header, stored.shape, pixel_spacing_mm)
    return mask


def restore(
    header: Dataset, derived: StoredPixels, source: StoredPixels, padding: NDArray[np.bool_] | None
) -> StoredPixels:
    """`derived` with everything that was not measured as it was in `source`.

    Padding and saturated pixels come back bit for bit; no measured pixel keeps a padding value (PS3.3
    C.7.6.3.1.1: the attribute is only present where the value means padding): it moves by one step.
    """
    result = derived.copy()
    low, high = stored_range(header)
    declared = padding_values(header)
    if declared is not None:
        inside = (result >= declared[0]) & (result <= declared[1])
        result[inside] = declared[1] + 1 if declared[1] + 1 <= high else max(declared[0] - 1, low)
    slope, intercept = rescale(header)
    keep = (source >= high) | (source.astype(np.float64) * slope + intercept >= SATURATED_HU)
    if padding is not None:
        keep |= padding
    result[keep] = source[keep]
    return result


def _whole(header: Dataset, keyword: str) -> int:
    value = number(header, keyword)
    return -1 if value is None else int(value)


def _wrapped(value: int, signed: bool) -> int:
    value &= 0xFFFF
    return value - 0x10000 if signed and value > 0x7FFF else value


def _native(header: Dataset, encoded: bytes, pixels: Pixels, transfer_syntax: str) -> StoredPixels:
    shape = (_whole(header, "Rows"), _whole(header, "Columns"))
    held = min(pixels.length or 0, len(encoded) - pixels.at)
    expected = 2 * shape[0] * shape[1]
    if not expected <= held < 2 * expected:
        raise BrokenInstance(
            f"{label(header)}: Pixel Data hold {held} bytes, {shape[0]} x {shape[1]} pixels need {expected}"
        )
    order = ">" if transfer_syntax == ExplicitVRBigEndian else "<"
    form = np.dtype(f"{order}{'i' if is_signed(header) else 'u'}2")
    image = np.frombuffer(encoded, form, count=shape[0] * shape[1], offset=pixels.at).reshape(shape)
    return _within_bits(header, image.astype(form.newbyteorder("=")))


def _within_bits(header: Dataset, stored: StoredPixels) -> StoredPixels:
    """Unused high bits may hold an embedded overlay, but no pixel values.

    That they hold the sign of a negative one is nothing to rely on (PS3.5 section 8.1.1): some writers leave
    all of them 0, and a codestream of as many bits as are stored has no room for them.
    """
    bits = _whole(header, "BitsStored")
    narrow: StoredPixels = (stored << (16 - bits)) >> (16 - bits)
    signless = bits < 16 and not np.any(stored.view(np.uint16) >> bits)
    if signless or _has_embedded_overlay(header) or np.array_equal(narrow, stored):
        return narrow
    raise BrokenInstance(f"{label(header)}: pixel values need more bits than BitsStored (0028,0101) says")


def _check_codestream(
    header: Dataset, codestream: bytes, transfer_syntax: str, shape: tuple[int, int]
) -> None:
    size = frame_size(codestream, transfer_syntax)
    if size is not None and (
        (size.rows, size.columns) != shape or size.components != 1 or not 1 <= size.bits <= 16
    ):
        raise BrokenInstance(
            f"{label(header)}: the codestream is {size.rows} x {size.columns}, "
            f"{size.components} components, {size.bits} bits; "
            f"the header says {shape[0]} x {shape[1]}, 1 component"
        )


def _has_embedded_overlay(instance: Dataset) -> bool:
    groups = {tag.group for tag in tags_of(instance) if tag.group & 0xFF01 == 0x6000}
    return any((group, 0x3000) not in instance for group in groups)


def _outside_field(header: Dataset, shape: tuple[int, ...], pixel_spacing_mm: float) -> NDArray[np.bool_]:
    diameter_mm = number(header, "ReconstructionDiameter")
    radius = (diameter_mm / pixel_spacing_mm if diameter_mm and diameter_mm > 0 else min(shape)) / 2 - 1
    y, x = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot(y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2)
    outside: NDArray[np.bool_] = distance > radius
    return outside

"""What the name of a convolution kernel says: whether it lifts frequencies above what was measured.

Such kernels, made for lung and bone, raise the noise of an image beyond that of its dose, which the noise
itself does not show: twelve slices under GE's LUNG look like a third of their dose (correlation with the next
pixel as under Siemens' D45f, twice the deviation). The other names follow what makers sell them for.
"""

import re
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.dicom.values import texts

WORDS: Final = re.compile(r"LUNG|BONE|EDGE|SHARP|ULTRA")
"""GE, United Imaging, Neusoft and others say it in words."""

BY_NAME: Final = frozenset(
    {"L", "E", "YA", "YB", "YC", "YD", "YE"}  # Philips
    | {f"FC{number}" for number in (30, 31, 35, *range(50, 57), *range(80, 87))}  # Canon, Toshiba
)

BY_NUMBER: Final = re.compile(r"[BHUCDIJQ][RLVUS]?(\d\d)[A-Z]?")
"""Siemens: the number is the sharpness. `B70f`, `H70h`, `I70f`, `Bl57d`, `Br64`, `Qr72f`."""
SHARP_FROM: Final = 57


def lifts_edges(header: Dataset) -> bool:
    """Whether the kernel of an image is one of those; an unknown one is not."""
    for value in texts(header, "ConvolutionKernel")[:1]:
        name = value.upper()
        number = BY_NUMBER.fullmatch(name)
        if WORDS.search(name) or name in BY_NAME or (number and int(number[1]) >= SHARP_FROM):
            return True
    return False

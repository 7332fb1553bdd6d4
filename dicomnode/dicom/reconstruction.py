"""Whether images are plain filtered back-projection: other algorithms break the 1/sqrt(dose) law of noise.

Iterative and deep-learning reconstruction and filters after it are told in the standard only of Enhanced CT;
the makers say it in kernels and private elements. Words seen in real headers: `SS40` (GE ASiR), `AIDR 3D STD`
(Canon), iDose level 2 (Philips), `I70f\\3` (Siemens).
"""

import re
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.dicom.private_elements import PrivateElement, private_text
from dicomnode.dicom.values import text, texts

PLAIN: Final = "FILTER_BACK_PROJ"
"""ReconstructionAlgorithm (0018,9315); the other defined term is ITERATIVE."""

SIEMENS_KERNEL: Final = re.compile(r"[IJ]\d")
"""SAFIRE has kernels of its own. ADMIRE and QIR have those of back-projection (Br, Hr, Qr) and tell their
strength as a second value: `Br40d\\3`; without it they are plain."""
PHILIPS_KERNEL: Final = re.compile(r"IMR", re.IGNORECASE)
CANON_FILTER: Final = re.compile(r"AIDR|AICE|FIRST|PIQE|QDS|BOOST|\bNR\b", re.IGNORECASE)

GE_WORDS: Final = (
    PrivateElement.GE_ANNOTATION,
    PrivateElement.GE_CONFIGURATION,
    PrivateElement.GE_LEVEL,
    PrivateElement.GE_IMAGE_FILTER,
)
"""Annotation, configuration and level of ASiR or TrueFidelity; the noise reduction filter of the image."""
NOTHING: Final = re.compile(
    r"|0+|0+\.0+|NONE|NO|OFF|FBP|N/?A|(SS|AR|ASIR|ASIR-V)[ -]?0+%?(:.*)?", re.IGNORECASE
)
"""Words for a strength of zero."""


def is_iterative(header: Dataset) -> bool:
    """Any of the elements that tell it says that noise was reduced in or after the reconstruction."""
    algorithm = text(header, "ReconstructionAlgorithm").upper()
    if algorithm and algorithm != PLAIN:
        return True
    if any(NOTHING.fullmatch(private_text(header, element)) is None for element in GE_WORDS):
        return True
    if NOTHING.fullmatch(private_text(header, PrivateElement.PHILIPS_IDOSE)) is None:
        return True
    if CANON_FILTER.search(private_text(header, PrivateElement.CANON_FILTER)):
        return True
    return _by_kernel(header)


def _by_kernel(header: Dataset) -> bool:
    kernels, maker = texts(header, "ConvolutionKernel"), text(header, "Manufacturer").upper()
    if maker.startswith("SIEMENS"):
        return len(kernels) > 1 or any(SIEMENS_KERNEL.match(kernel) for kernel in kernels)
    philips = maker.startswith("PHILIPS")
    return philips and any(PHILIPS_KERNEL.match(word) for word in (*kernels, text(header, "FilterType")))

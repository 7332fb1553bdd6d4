"""Series written again as derived images, and elements as they are encoded in a file."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from dicomnode.dicom.derived import Identity, Provenance, write_derived
from dicomnode.dicom.series import CtSeries, read_series

Errors = Callable[[Path], Counter[str]]


def halved_noise(series: CtSeries) -> np.ndarray:
    return (series.hounsfield * 0.5 + np.roll(series.hounsfield, 1, axis=2) * 0.5).astype(np.float32)


def raw(path: Path, keyword: str) -> bytes:
    element = dcmread(path).get_item(tag_for_keyword(keyword))
    return element.value or b""


def write(
    paths: list[Path], identity: Identity, provenance: Provenance, folder: Path
) -> tuple[CtSeries, list[Dataset]]:
    series = read_series(paths)
    written = write_derived(series, halved_noise(series), identity, provenance, folder)
    return series, [dcmread(path) for path in written]


def odd_numbers(data: Dataset, index: int) -> None:
    """Number texts that a rewriting library would change."""
    data.PixelSpacing = ["0.7500000", "0.7500000"]
    data.SliceThickness = "3.0000"
    data.ImagePositionPatient = ["-24.000", "-150.000", f"{-300 + 3 * index:.4f}"]
    data.ImageOrientationPatient = ["1.0", "0.0", "0.0", "0.0", "1.0", "0.0"]
    data.PatientName = "Müller^Jörg"
    data.SeriesDescription = "Thorax Übersicht"

"""Kernels that lift noise, by the names their makers gave them."""

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicomnode.dicom.dose import read_dose
from dicomnode.dicom.kernels import lifts_edges
from dicomnode.dicom.series import read_series
from dicomnode.dose_reference import DoseReference
from dicomnode.engines.start_step import PhotonSchedule, match
from dicomnode.journey.matching import slice_facts

MADE_FOR_EDGES = (
    *("LUNG", "BONEPLUS", "EDGE", "B70f", "B60s", "H70h", ["I70f", "3"], "Bl57d", ["Br64d", "3"]),
    *("YB", "L", "FC51", "FC30", "B_SHARP_C", ["Qr72f", "3"], "ULTRA"),
)
OTHERS = (
    *("STANDARD", "SOFT", "DETAIL", "B30f", "B45f", "D45f", "H42s", ["Br40d", "3"], "Qr40", "B", "C", "UB"),
    *("FC07", "FC17", "FC68", "", "B_SOFT_B", ["B30f", "LUNG"]),
)


@pytest.mark.parametrize("kernel", MADE_FOR_EDGES, ids=str)
def test_made_for_lung_and_bone(kernel: str | list[str]) -> None:
    header = Dataset()
    header.ConvolutionKernel = kernel
    assert lifts_edges(header)


@pytest.mark.parametrize("kernel", OTHERS, ids=str)
def test_made_for_soft_tissue_or_unknown(kernel: str | list[str]) -> None:
    header = Dataset()
    header.ConvolutionKernel = kernel
    assert not lifts_edges(header)
    assert not lifts_edges(Dataset())


@pytest.mark.slow
def test_a_lung_kernel_does_not_make_a_low_dose(shared_data: Path) -> None:
    """GE LUNG, half of normal dose by its tags: the noise says a sixth."""
    folder = shared_data / "ct" / "cmb-crc-01068-lung-kernel"
    paths = sorted(path for path in folder.rglob("*.dcm") if "LUNG" in str(dcmread(path).ConvolutionKernel))
    series = read_series(paths)
    starts = [
        match(facts, PhotonSchedule())
        for facts in slice_facts(series, read_dose(series.headers), DoseReference())
    ]
    assert {start.verdict for start in starts} == {"sharp"}
    for start in starts:
        assert start.fraction == start.fraction_by_tags
        assert start.fraction_by_noise is not None
        assert start.fraction_by_noise < 0.5 * start.fraction

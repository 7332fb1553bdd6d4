import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.dicom.pixels import restore, stored_range, to_hounsfield, to_stored


def form(signed: bool, bits: int, slope: float, intercept: float, padding: int | None = None) -> Dataset:
    header = Dataset()
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, bits, bits - 1
    header.PixelRepresentation = int(signed)
    header.RescaleSlope, header.RescaleIntercept = f"{slope:.8g}", f"{intercept:.8g}"
    if padding is not None:
        header.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
    return header


FORMS = st.builds(
    form,
    signed=st.booleans(),
    bits=st.integers(10, 16),
    slope=st.sampled_from([0.25, 0.5, 1.0, 1.7, 2.0002442]),
    intercept=st.sampled_from([0.0, -1024.0, -1000.0, -4047.0]),
)


@given(FORMS, st.integers(0, 2**32 - 1))
def test_stored_values_come_back_exactly(header: Dataset, seed: int) -> None:
    low, high = stored_range(header)
    kind = np.int16 if low < 0 else np.uint16
    stored = np.random.default_rng(seed).integers(low, high, (8, 8), endpoint=True).astype(kind)
    assert np.array_equal(to_stored(header, to_hounsfield(header, stored)), stored)


@given(FORMS, st.floats(-5000, 5000, width=32))
def test_hounsfield_is_exact_to_half_a_step_inside_the_range(header: Dataset, value: float) -> None:
    low, high = stored_range(header)
    slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
    back = float(to_hounsfield(header, to_stored(header, np.full((1, 1), value, np.float32)))[0, 0])
    inside = min(max(value, low * slope + intercept), high * slope + intercept)
    assert abs(back - inside) <= 0.5 * slope + 0.01


def test_clipped_not_wrapped() -> None:
    header = form(signed=False, bits=12, slope=1, intercept=-1024)
    written = to_stored(header, np.array([[-5000, 5000, np.nan]], np.float32))
    assert written.tolist() == [[0, 4095, 0]]


def test_padding_and_saturation_come_back_and_nothing_else_looks_like_padding() -> None:
    header = form(signed=True, bits=16, slope=1, intercept=-1024, padding=-2000)
    source = np.array([[-2000, 1000, 4095, 24]], np.int16)
    derived = np.array([[77, -2000, 1200, 30]], np.int16)
    padding = np.array([[True, False, False, False]])
    assert restore(header, derived, source, padding).tolist() == [[-2000, -1999, 4095, 30]]


def test_padding_at_the_top_of_the_range_moves_down() -> None:
    header = form(signed=False, bits=12, slope=1, intercept=-1024, padding=4095)
    source = np.array([[5, 6]], np.uint16)
    derived = np.array([[4095, 9]], np.uint16)
    assert restore(header, derived, source, None).tolist() == [[4094, 9]]


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_saturated_values_stay(bits: int) -> None:
    header = form(signed=False, bits=bits, slope=1, intercept=-1024)
    top = 2**bits - 1
    source = np.array([[top, 100]], np.uint16)
    assert restore(header, np.array([[50, 60]], np.uint16), source, None).tolist() == [[top, 60]]

"""Six frames: the dose that they are made with, and whether they are the images of another series."""

import numpy as np

from dicomnode.dicom.series import CtSeries

MAS = [100.0, 120.0, 150.0, 130.0, 90.0, 80.0]
CTDIVOL_MGY = [6.5, 7.8, 9.75, 8.45, 5.85, 5.2]


def facts(series: CtSeries) -> tuple[object, ...]:
    return (
        series.slices,
        series.pixel_spacing_mm,
        series.slice_spacing_mm,
        series.slice_thickness_mm,
        series.convolution_kernel,
        series.manufacturer,
        series.model,
        series.study_instance_uid,
        [list(header.ImagePositionPatient) for header in series.headers],
    )


def same_images(one: CtSeries, other: CtSeries) -> bool:
    if one.padding is None or other.padding is None:
        padded = one.padding is other.padding
    else:
        padded = np.array_equal(one.padding, other.padding)
    return padded and np.array_equal(one.hounsfield, other.hounsfield) and facts(one) == facts(other)

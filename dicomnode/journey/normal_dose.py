"""The dose that a scan tells, and a table of normal doses in which that scan is the normal one."""

import copy
from collections import defaultdict
from statistics import median

from pydicom.dataset import Dataset

from dicomnode.dicom.dose import DoseReading, read_dose
from dicomnode.dicom.series import CtSeries
from dicomnode.dicom.values import number
from dicomnode.dose_reference import MOST_MGY, DoseReference
from dicomnode.journey.matching import bodies, normal_mgy, on_body_phantom


def told_dose(header: Dataset) -> DoseReading:
    """The dose of one image.

    An Exposure that does not fit the other exposure tags, as old GE scanners write it, counts as mA x time.
    """
    reading = read_dose([header])
    if reading.mean_ctdivol_mgy is not None:
        return reading
    plain = copy.copy(header)
    set_plain_exposure(plain)
    return read_dose([plain])


def set_plain_exposure(dataset: Dataset) -> None:
    """Exposure as mA x time, in place."""
    current, milliseconds = number(dataset, "XRayTubeCurrent"), number(dataset, "ExposureTime")
    if current and milliseconds:
        dataset.Exposure = round(current * milliseconds / 1000.0)


def reference_of(series: CtSeries, dose: DoseReading, fraction: float = 1.0) -> DoseReference:
    """Normal dose as this scan had it: what a site would put into its own configuration.

    `dose` is that `fraction` of it. Each region that the series shows gets the median of what its slices
    say; the others follow all slices.
    """
    table = DoseReference()
    shares: dict[str, list[float]] = defaultdict(list)
    for body, ctdivol in zip(bodies(series, dose, table), dose.ctdivol_mgy, strict=True):
        if ctdivol is not None:
            told = on_body_phantom(ctdivol, dose.phantom_cm, body.diameter_mm) / fraction
            row = table.row(body.region)
            shares[row.region].append(told / normal_mgy(row, body.diameter_mm))
    if not shares:
        return table
    overall = [share for found in shares.values() for share in found]
    rows = [
        {
            **row.model_dump(),
            "ctdivol_mgy": _in_table(row.ctdivol_mgy * median(shares.get(row.region, overall))),
        }
        for row in table.regions
    ]
    return DoseReference.model_validate({"version": "this-scanner", "regions": rows})


def _in_table(ctdivol_mgy: float) -> float:
    """Of a limb with a trunk's dose the head, which it does not show, would follow beyond the table."""
    return min(ctdivol_mgy, MOST_MGY)

"""Headers as the makers' scanners write them: tube current, times, exposure, CTDIvol with its phantom."""

from pydicom.dataset import Dataset

SIEMENS, PHILIPS, GE = "SIEMENS", "Philips", "GE MEDICAL SYSTEMS"


def header(**values: object) -> Dataset:
    data = Dataset()
    data.KVP = "120"
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


def with_phantom(data: Dataset, code: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code, "DCM"
    data.CTDIPhantomTypeCodeSequence = [item]
    return data


def scan(
    maker: str,
    current: float,
    time_ms: float,
    stated: int | None,
    *,
    rotation: float | None = None,
    pitch: float | None = None,
    thickness: float | None = None,
    collimation: float | None = None,
    options: str = "",
) -> Dataset:
    data = header(Manufacturer=maker, XRayTubeCurrent=current, ExposureTime=time_ms, ScanOptions=options)
    named = {
        "Exposure": stated,
        "RevolutionTime": rotation,
        "SpiralPitchFactor": pitch,
        "SliceThickness": thickness,
        "TotalCollimationWidth": collimation,
    }
    for keyword, value in named.items():
        if value is not None:
            setattr(data, keyword, value)
    return data


def siemens(ctdivol: float | None, **values: object) -> Dataset:
    data = with_phantom(scan(SIEMENS, 200, 500, 100, pitch=1.0), "113691")
    if ctdivol is not None:
        data.CTDIvol = ctdivol
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data

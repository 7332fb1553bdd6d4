"""Coded concepts of the report: standard codes where there are any, our private scheme where not."""

from typing import Final

from pydicom.sr.coding import Code

from dicomnode.dicom.marks import PRIVATE_SCHEME


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


def _ours(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE_SCHEME, meaning)


def _unit(value: str, meaning: str) -> Code:
    return Code(value, "UCUM", meaning)


REPORT_TITLE: Final = _dcm("126000", "Imaging Measurement Report")
CT_PROCEDURE: Final = Code("25045-6", "LN", "CT unspecified body region")
DEVICE_OBSERVER: Final = _dcm("121007", "Device")
ARTIFICIAL_INTELLIGENCE: Final = _dcm("123110", "Artificial Intelligence")
IMAGE_QUALITY: Final = _dcm("111101", "Image Quality")

ATTENUATION: Final = _dcm("112031", "Attenuation Coefficient")
STANDARD_DEVIATION: Final = Code("386136009", "SCT", "Standard Deviation")
MEAN: Final = Code("373098007", "SCT", "Mean")
MAXIMUM: Final = Code("56851009", "SCT", "Maximum")

DERIVATION: Final = _dcm("121401", "Derivation")
X_RAY_ATTENUATION: Final = _dcm("110850", "X-Ray Attenuation")
SUBTRACTION: Final = _dcm("113062", "Pixel by pixel subtraction")
SPREAD_OVER_SEEDS: Final = _ours("LDCT101", "Standard deviation over seeds of the model")

OF_INTEREST: Final = _dcm("113000", "Of Interest")
REJECTED_FOR_QUALITY: Final = _dcm("113001", "Rejected for Quality Reasons")

KVP: Final = _dcm("113733", "KVP")
EXPOSURE: Final = _dcm("113736", "Exposure")
MEAN_CTDIVOL: Final = _dcm("113830", "Mean CTDIvol")
PHANTOM_TYPE: Final = _dcm("113835", "CTDIw Phantom Type")
HEAD_PHANTOM: Final = _dcm("113690", "IEC Head Dosimetry Phantom")
BODY_PHANTOM: Final = _dcm("113691", "IEC Body Dosimetry Phantom")
SOURCE_OF_DOSE: Final = _dcm("113854", "Source of Dose Information")
COPIED_FROM_IMAGES: Final = _dcm("113866", "Copied From Image Attributes")
AUTOMATED_COLLECTION: Final = _dcm("113856", "Automated Data Collection")
"""Recorded by the scanner itself (CID 10021): what its dose report says."""
COMPUTED_FROM_IMAGES: Final = _dcm("113867", "Computed From Image Attributes")
WATER_EQUIVALENT_DIAMETER: Final = _dcm("113980", "Water Equivalent Diameter")
AAPM_220: Final = _dcm("113987", "AAPM 220")
SSDE: Final = _dcm("113930", "Size Specific Dose Estimate")
SSDE_AVERAGE: Final = _dcm("113989", "Arithmetic Average of SSDE(z)")

DOSE_FRACTION: Final = _ours("LDCT001", "Dose as a fraction of normal dose")
START_STEP: Final = _ours("LDCT002", "Diffusion start step")
PHOTONS: Final = _ours("LDCT003", "Photons per detector element")
STEPS: Final = _ours("LDCT004", "Diffusion steps of the model")
MEAN_CHANGE: Final = _ours("LDCT005", "Mean change of attenuation in tissue")
LARGEST_CHANGE: Final = _ours("LDCT006", "Largest change of attenuation")
DOSE_NOT_READABLE: Final = _ours("LDCT010", "Dose not readable from the images")
TISSUE: Final = _ours("LDCT020", "Tissue class by attenuation")
TISSUES: Final = {
    "air": _ours("LDCT021", "Air"),
    "fat": _ours("LDCT022", "Fat"),
    "soft": _ours("LDCT023", "Soft tissue"),
    "lung": _ours("LDCT024", "Lung"),
}
VERDICT: Final = _ours("LDCT030", "Quality verdict")
VERDICTS: Final = {
    "pass": _ours("LDCT031", "Passed all quality limits"),
    "label": _ours("LDCT032", "Outside a quality limit, labelled"),
}

HOUNSFIELD: Final = _unit("[hnsf'U]", "Hounsfield unit")
MILLIGRAY: Final = _unit("mGy", "mGy")
MILLIMETRE: Final = _unit("mm", "mm")
MILLIAMPERE_SECOND: Final = _unit("mA.s", "mA.s")
KILOVOLT: Final = _unit("kV", "kV")
RATIO: Final = _unit("{ratio}", "ratio")
NO_UNITS: Final = _unit("1", "no units")

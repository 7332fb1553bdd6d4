"""How many photons a slice was made of, read from its dose or from its noise.

The currency is *photons per reference ray*: incident quanta on one ray of NEED's virtual scanner (672 views a
turn, detector bins of 0.994 mm at the isocentre), for the thickness of the slice at hand. There a normal-dose
scan has 2.5e5 (NEED, its code). Other ray grids get the same quanta per millimetre of detector and turn.
"""

import math

from dicomnode.physics.geometry import ParallelBeam

NORMAL_DOSE_PHOTONS = 2.5e5
"""Incident quanta per reference ray of a normal-dose scan (NEED)."""

ELECTRONIC_VARIANCE = 10.0
"""Variance of the electronic noise, quanta^2 (NEED)."""

REFERENCE_VIEWS = 672
REFERENCE_BIN_MM = 0.994
"""NEED's fan: pitch 2.7206 at the detector, 1.491 at the isocentre, pixels of 0.667 mm."""


def photons_per_bin(photons: float, beam: ParallelBeam, pixel_mm: float) -> float:
    """Quanta on one bin of `beam`, of `photons` per reference ray: equal fluence, another grid."""
    return photons * (REFERENCE_VIEWS / beam.views) * (beam.pitch_px * pixel_mm / REFERENCE_BIN_MM)


def photons_from_quanta(quanta: float, views: int, bin_mm: float) -> float:
    """Photons per reference ray of a fan-beam turn of `views`, of `quanta` on each ray.

    `bin_mm` is the distance of the rays at the isocentre. `photons_per_bin` solved for them.
    """
    return quanta * (views / REFERENCE_VIEWS) * (REFERENCE_BIN_MM / bin_mm)


def photons_to_quanta(photons: float, views: int, bin_mm: float) -> float:
    """The quanta on each ray of a fan-beam turn: `photons_from_quanta` the other way."""
    return photons / photons_from_quanta(1.0, views, bin_mm)


CALIBRATION_CTDIVOL_MGY = 16.0
CALIBRATION_THICKNESS_MM = 1.0
"""The output and thickness that put 2.5e5 quanta on a reference ray: fitted so that the photon numbers read
from CTDIvol and from the image noise agree in the median on Siemens full-dose FBP scans of two patients
(100 and 120 kV, 3 mm). One number for all scanners: it is good to about a factor of 1.5."""

WATER_EXPONENT_PER_MM = 0.0187
NOISE_WHITE, NOISE_SLOPE, NOISE_LEAST = 1090.0, 1115.0, 80.0
"""Noise law of the virtual scanner, HU mm^1.5: K = white - slope x texture, fitted by simulating water discs
of 200 to 350 mm with kernels from very smooth to sharper than the ramp (the test repeats it, within 15 %)."""


NOISE_LAW_PIXEL_MM = (0.3, 1.5)
NOISE_LAW_DIAMETER_MM = (80.0, 450.0)
"""Where the law is trusted. In finer pixels and smaller objects what varies is the object, not the noise."""


LAW_GRID_MM = 0.7
"""About the pixels in which the law was fitted. In finer ones the same kernel is many pixels wide, where
K = white - slope x texture no longer holds: then the law takes every second or third pixel, which have
the same noise and the texture of that grid."""


def law_step_px(pixel_mm: float) -> int:
    """Every how many pixels the noise law looks."""
    return max(1, round(LAW_GRID_MM / pixel_mm))


def photons_from_dose(ctdivol_mgy: float, thickness_mm: float) -> float:
    """Quanta per reference ray of a slice from its CTDIvol (32 cm phantom) and thickness.

    Both count: a thicker slice gathers more of them. The tube voltage enters through CTDIvol.
    """
    return (
        NORMAL_DOSE_PHOTONS
        * (ctdivol_mgy / CALIBRATION_CTDIVOL_MGY)
        * (thickness_mm / CALIBRATION_THICKNESS_MM)
    )


def predicted_noise_hu(photons: float, diameter_mm: float, pixel_mm: float, texture: float) -> float:
    """Noise in soft tissue of an FBP slice, HU: K(texture) exp(mu Dw / 2) / (pixel^1.5 sqrt(photons)).

    `texture` as `NoiseReading.law_texture`: it stands for the kernel, which the header only names. The pixel
    is that of the law's grid (`law_step_px`).
    """
    gain: float = max(NOISE_WHITE - NOISE_SLOPE * texture, NOISE_LEAST)
    area: float = (law_step_px(pixel_mm) * pixel_mm) ** 1.5
    return gain * math.exp(0.5 * WATER_EXPONENT_PER_MM * diameter_mm) / (area * math.sqrt(photons))


def photons_from_noise(std_hu: float, diameter_mm: float, pixel_mm: float, texture: float) -> float:
    """Quanta per reference ray of a slice from the noise it shows: `predicted_noise_hu` solved for them."""
    return (predicted_noise_hu(1.0, diameter_mm, pixel_mm, texture) / std_hu) ** 2

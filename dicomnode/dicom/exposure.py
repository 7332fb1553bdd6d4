"""The mAs of one slice: what `Exposure (0018,1152)` means on the scanner that wrote it.

Five meanings are in the field: effective mAs (mA x rotation / pitch), mA x exposure time, a value scaled
to the slice (GE: x slice thickness / total collimation, cut to an integer), the whole scan, a nominal one.
The value is only believed where it agrees with tube current, time and pitch; every other case is flagged.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.dicom.private_elements import PrivateElement, private_number, private_text
from dicomnode.dicom.values import finite, items, number, text, texts

CURRENT_MA: Final = (5.0, 1500.0)
ROTATION_SECONDS: Final = (0.1, 5.0)
"""Above it ExposureTime is that of the whole scan, and mA x time many times the dose of a slice."""
PITCH: Final = (0.05, 4.0)
MAS: Final = (0.5, 5000.0)
THICKNESS_MM: Final = (0.1, 20.0)
COLLIMATION_MM: Final = (0.5, 320.0)
AGREEMENT: Final = 0.08
AGREEMENT_MAS: Final = 1.0
IMPLIED_PITCH: Final = (0.3, 3.5)
"""mA x time / Exposure where no pitch is written: outside, the two belong to different things."""

SPIRAL_WORDS: Final = ("SPIRAL", "HELICAL", "HELIX")
SEQUENCE_WORDS: Final = ("SEQUENCE", "STATIONARY", "CONSTANT_ANGLE", "AXIAL", "CINE", "VOLUME")
SPIRAL_TYPE: Final = "SPI"
SEQUENCE_TYPE: Final = "SEQ"
"""Siemens, in ImageType: `CT_SOM5 SPI`."""

ROTATION_AS_TIME: Final = ("SIEMENS", "TOSHIBA", "CANON")
"""Makers whose ExposureTime is that of a rotation. Philips divides it by the pitch, GE adds all up."""


@dataclass(frozen=True)
class Exposure:
    """The mAs of one slice (per rotation, divided by pitch where the scan is spiral), or None, and why."""

    mas: float | None
    flags: frozenset[str]


def read_exposure(header: Dataset) -> Exposure:
    """The mAs of one slice from tube current, times, pitch and the Exposure attributes."""
    flags: set[str] = set()
    stated = _stated_mas(header, flags)
    current = tube_current_ma(header)
    mas = _resolve(header, stated, current, flags) if current else None
    if current is None and stated is not None:
        flags.add("EXPOSURE_INCONSISTENT")
    if mas is not None and not MAS[0] <= mas <= MAS[1]:
        flags.add("MAS_OUT_OF_RANGE")
        mas = None
    planned = private_number(header, PrivateElement.PHILIPS_PLANNED_MAS)
    if mas is None and current is None and stated is None and _inside(planned, MAS):
        flags.add("MAS_PLANNED")
        mas = planned
    second = _second_tube_mas(header)
    if mas is not None and second:
        if _inside(second, MAS):
            flags.add("SECOND_TUBE")
            mas += second
        else:
            flags.add("MAS_OUT_OF_RANGE")
    return Exposure(mas, frozenset(flags))


def is_ge(header: Dataset) -> bool:
    """Made by GE."""
    return text(header, "Manufacturer").upper().startswith("GE")


def tube_current_ma(header: Dataset) -> float | None:
    """Tube current in mA from whichever of its three attributes holds a sane value."""
    micro = number(header, "XRayTubeCurrentInuA")
    candidates = (
        number(header, "XRayTubeCurrent"),
        number(header, "XRayTubeCurrentInmA"),
        micro / 1000 if micro is not None else None,
    )
    return next((value for value in candidates if _inside(value, CURRENT_MA)), None)


def rotation_seconds(header: Dataset) -> float | None:
    """Time of one rotation, standard attribute first, then GE's and Philips' own."""
    candidates = (
        number(header, "RevolutionTime"),
        private_number(header, PrivateElement.GE_ROTATION),
        private_number(header, PrivateElement.PHILIPS_ROTATION),
    )
    for value in candidates:
        seconds = value / 1000 if value is not None and value > 50 else value
        if _inside(seconds, ROTATION_SECONDS):
            return seconds
    return None


def spiral_pitch(header: Dataset) -> float | None:
    """Pitch factor, standard attribute first; a 0 (topogram) counts as not written. None for a sequence."""
    if is_sequence(header):
        return None
    feed, collimation = number(header, "TableFeedPerRotation"), total_collimation_mm(header)
    feed = feed or private_number(header, PrivateElement.GE_TABLE_FEED)
    candidates = (
        number(header, "SpiralPitchFactor"),
        private_number(header, PrivateElement.GE_PITCH),
        private_number(header, PrivateElement.PHILIPS_PITCH),
        private_number(header, PrivateElement.CANON_PITCH),
        feed / collimation if feed and collimation else None,
    )
    return next((value for value in candidates if _inside(value, PITCH)), None)


def total_collimation_mm(header: Dataset) -> float | None:
    """Width of the beam at the isocentre."""
    candidates = (number(header, "TotalCollimationWidth"), *_private_collimations_mm(header))
    return next((value for value in candidates if _inside(value, COLLIMATION_MM)), None)


def _private_collimations_mm(header: Dataset) -> Iterator[float]:
    # GE's row width is often declared with the wrong VR and then decodes to nearly 0.
    rows = private_number(header, PrivateElement.GE_ROWS)
    yield (rows or 0.0) * (private_number(header, PrivateElement.GE_ROW_WIDTH) or 0.0)
    used = private_text(header, PrivateElement.CANON_ROWS)
    if re.fullmatch(r"[01]+", used):
        yield used.count("1") * (private_number(header, PrivateElement.CANON_ROW_WIDTH) or 0.0)
    for element in (PrivateElement.PHILIPS_COLLIMATION, PrivateElement.CANON_COLLIMATION):
        rows_by_width = re.fullmatch(r"([\d.]+) *[xX*] *([\d.]+)", private_text(header, element))
        if rows_by_width:
            yield (finite(rows_by_width[1]) or 0.0) * (finite(rows_by_width[2]) or 0.0)


def is_spiral(header: Dataset) -> bool:
    """A spiral scan, by acquisition type, scan options or Siemens' image type."""
    return any(word in _scan_words(header) for word in SPIRAL_WORDS) or SPIRAL_TYPE in _type_words(header)


def is_sequence(header: Dataset) -> bool:
    """Said to be scanned with the table at rest: whatever stands for a pitch divides nothing."""
    if is_spiral(header):
        return False
    words = _scan_words(header)
    return any(word in words for word in SEQUENCE_WORDS) or SEQUENCE_TYPE in _type_words(header)


def _scan_words(header: Dataset) -> str:
    return " ".join((*texts(header, "AcquisitionType"), *texts(header, "ScanOptions"))).upper()


def _type_words(header: Dataset) -> tuple[str, ...]:
    return tuple(word for value in texts(header, "ImageType")[3:] for word in value.upper().split())


def has_tin_filter(header: Dataset) -> bool:
    """A tin filter (`Sn`) takes away nine tenths of the dose at the same mAs and kV."""
    told = f"{text(header, 'FilterMaterial')} {text(header, 'FilterType')}".upper()
    return re.search(r"\b(TIN|SN\d*)\b", told) is not None


def _stated_mas(header: Dataset, flags: set[str]) -> float | None:
    """Exposure in mAs; the attribute in microampere seconds is checked against it, or stands in for it."""
    stated = number(header, "Exposure") or number(header, "ExposureInmAs")
    micro = number(header, "ExposureInuAs")
    if not micro or micro <= 0:
        return stated if stated and stated > 0 else None
    if not stated or stated <= 0:
        return _from_micro(header, micro)
    ratio = micro / 1000 / stated
    if not (_about(ratio, 1) or _about(ratio, 0.001) or _about(ratio, 1000)):
        flags.add("EXPOSURE_UAS_CONFLICT")
    return stated


def _from_micro(header: Dataset, micro: float) -> float:
    """uAs / 1000; or what fits current and time, where the writer put mAs here or multiplied twice."""
    current = tube_current_ma(header)
    candidates = _candidates(header, current) if current else ()
    scaled = (micro * scale for scale in (1e-3, 1.0, 1e-6))
    return next((mas for mas in scaled if any(_agrees(mas, one) for one in candidates)), micro / 1000)


def _resolve(header: Dataset, stated: float | None, current: float, flags: set[str]) -> float | None:
    by_rotation, by_time, by_time_and_pitch = _candidates(header, current)
    candidates = (by_rotation, by_time, by_time_and_pitch)
    if stated is None:
        return _computed(header, candidates, flags)
    if any(_agrees(stated, value) for value in candidates):
        return _per_pitch(header, stated, candidates, flags)
    if is_ge(header) or not text(header, "Manufacturer"):
        scaled = _slice_scaled(header, stated, candidates)
        if scaled is not None:
            flags.add("GE_SLICE_SCALED_EXPOSURE")
            return scaled
        if by_rotation is not None:
            # Current, rotation and pitch are all there: Exposure is the odd one out (the whole scan).
            flags.add("EXPOSURE_IGNORED")
            return by_rotation
    no_pitch = spiral_pitch(header) is None and not is_ge(header)
    if no_pitch and by_time and IMPLIED_PITCH[0] <= by_time / stated <= IMPLIED_PITCH[1]:
        flags.add("PITCH_IMPLIED")
        return stated
    flags.add("EXPOSURE_INCONSISTENT")
    return None


def _per_pitch(
    header: Dataset,
    stated: float,
    candidates: tuple[float | None, float | None, float | None],
    flags: set[str],
) -> float:
    """Effective mAs where Exposure of a spiral is plain mA x time: as much as it would be without a pitch."""
    by_rotation, by_time, by_time_and_pitch = candidates
    effective = by_rotation
    if effective is None and text(header, "Manufacturer").upper().startswith(ROTATION_AS_TIME):
        effective = by_time_and_pitch
    plain = _agrees(stated, by_time) and not _agrees(stated, effective)
    if effective is None or spiral_pitch(header) is None or _is_philips(header) or not plain:
        return stated
    flags.add("EXPOSURE_NOT_PER_PITCH")
    return effective


def _candidates(header: Dataset, current: float) -> tuple[float | None, float | None, float | None]:
    """mA x rotation / pitch, mA x time, mA x time / pitch; the last needs a pitch, a spiral's first too."""
    rotation, pitch = rotation_seconds(header), spiral_pitch(header)
    seconds = _exposure_seconds(header)
    by_time = None if seconds is None else current * seconds
    per_pitch = by_time / pitch if by_time and pitch and not _is_per_pitch(header) else None
    by_rotation = None
    if rotation is not None and (pitch is not None or not is_spiral(header)):
        by_rotation = current * rotation / (pitch or 1.0)
    return by_rotation, by_time, per_pitch


def _is_per_pitch(header: Dataset) -> bool:
    """ExposureTimeInms of Enhanced CT is the rotation divided by the pitch already (PS3.3 C.8.15.3.8)."""
    return not number(header, "ExposureTime") and is_spiral(header)


def _exposure_seconds(header: Dataset) -> float | None:
    """ExposureTime where it is that of one slice: of a rotation, or of that over the pitch.

    What is longer is the time of a whole scan (Elscint: 51 s), and mA x time is then the mAs of no slice. At
    a low pitch (gated by heart or breathing) a rotation / pitch takes longer than any rotation.
    """
    seconds = (number(header, "ExposureTime") or number(header, "ExposureTimeInms") or 0.0) / 1000
    per_pitch = is_spiral(header) and (_is_philips(header) or _is_per_pitch(header))
    longest = ROTATION_SECONDS[1] / ((spiral_pitch(header) or PITCH[0]) if per_pitch else 1.0)
    return seconds if 0 < seconds <= longest else None


def _is_philips(header: Dataset) -> bool:
    return text(header, "Manufacturer").upper().startswith("PHILIPS")


def _computed(
    header: Dataset, candidates: tuple[float | None, float | None, float | None], flags: set[str]
) -> float | None:
    by_rotation, by_time, by_time_and_pitch = candidates
    # Philips writes rotation / pitch as ExposureTime, the others the rotation.
    mas = by_rotation or (by_time if _is_philips(header) or _is_per_pitch(header) else by_time_and_pitch)
    if mas is None and not is_spiral(header):
        mas = by_time
    if mas is not None:
        flags.add("EXPOSURE_COMPUTED")
    return mas


def _slice_scaled(
    header: Dataset, stated: float, candidates: tuple[float | None, float | None, float | None]
) -> float | None:
    thickness, collimation = number(header, "SliceThickness"), total_collimation_mm(header)
    if not _inside(thickness, THICKNESS_MM) or thickness is None or not collimation:
        return None
    by_rotation, by_time, _ = candidates
    full = by_rotation if by_rotation is not None else by_time
    if full is not None and _agrees(stated, full * thickness / collimation):
        return full
    return None


def _second_tube_mas(header: Dataset) -> float:
    """Dual source: the second tube's exposure adds to the dose (PS3.3 C.8.15.3.9)."""
    sources = items(header, "CTAdditionalXRaySourceSequence")
    return sum(number(source, "ExposureInmAs") or 0.0 for source in sources)


def _agrees(stated: float, value: float | None) -> bool:
    return value is not None and abs(stated - value) <= max(AGREEMENT_MAS, AGREEMENT * value)


def _about(value: float, target: float) -> bool:
    return abs(value / target - 1) < 0.1


def _inside(value: float | None, limits: tuple[float, float]) -> bool:
    return value is not None and limits[0] <= value <= limits[1]

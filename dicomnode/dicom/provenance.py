"""Who made a derived series, from what and how: the facts that headers and report are written from."""

import hashlib
import hmac
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal

from dicomnode import __version__
from dicomnode.dicom.dose import DoseReading
from dicomnode.dicom.marks import MANUFACTURER

IMPLEMENTATION_CLASS_UID: Final = "2.25.267208223927861791750674517220719327305"
IMPLEMENTATION_VERSION_NAME: Final = "DICOMNODE_0"

UID_PATTERN: Final = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
LONGEST_UID: Final = 64
LONGEST_ROOT: Final = 40
"""Leaves 23 digits, about 76 bits, for what makes a UID unique."""
UUID_ROOT: Final = "2.25"
SHORTEST_KEY_BYTES: Final = 16


@dataclass(frozen=True)
class Identity:
    """This installation, as its objects name it. `uid_root` "2.25" needs no registration (PS3.5 B.2).

    `uid_key` is secret: without one, whoever guesses an original UID could compute ours from it, and find
    the patient behind a de-identified image.
    """

    ae_title: str
    device_uid: str
    uid_key: bytes = field(repr=False)
    model_name: str = "dicomnode"
    manufacturer: str = MANUFACTURER
    software_version: str = __version__
    uid_root: str = UUID_ROOT
    series_description_prefix: str = "AI-DN | "
    series_number_offset: int = 9000
    keep_manufacturer: bool = False
    content_qualification: Literal["RESEARCH", "PRODUCT", "SERVICE"] = "RESEARCH"
    image_type2: Literal["PRIMARY", "SECONDARY"] = "PRIMARY"

    def __post_init__(self) -> None:
        root = self.uid_root.rstrip(".")
        if not UID_PATTERN.fullmatch(root) or len(root) > LONGEST_ROOT:
            raise ValueError(
                f"uid_root {self.uid_root!r} is not a UID root of at most {LONGEST_ROOT} characters; "
                f'use the root that you own, or "{UUID_ROOT}"'
            )
        if not UID_PATTERN.fullmatch(self.device_uid) or len(self.device_uid) > LONGEST_UID:
            raise ValueError(f"device_uid {self.device_uid!r} is not a DICOM UID")
        if len(self.uid_key) < SHORTEST_KEY_BYTES:
            raise ValueError(f"uid_key must have at least {SHORTEST_KEY_BYTES} bytes, and be secret")
        if not self.manufacturer.strip() or not self.model_name.strip():
            raise ValueError("manufacturer and model_name must not be empty: every object names both")


@dataclass(frozen=True)
class Provenance:
    """How one series was enhanced. Noise, bias and change in HU; `dose_fraction` of a normal dose,
    which the table `dose_reference` (name and version) says for the `regions` of the body. `dose_decision`:
    one sentence on who won between tags and noise, and by what factor.

    `measured_views`: how many measured views a slice was reconstructed from; 0 where the source is images.
    `revision`: the generation of a result that replaces an earlier one somewhere; 0 where it replaces none.
    `processed_at` should carry its time zone; the objects show it in the zone of the source.
    """

    engine: str
    model_id: str
    model_version: str
    weights_digest: str
    configuration_digest: str
    dose: DoseReading
    photons: float
    dose_fraction: float
    dose_decided_by: str
    ssde_mgy: float | None
    water_equivalent_diameter_mm: float | None
    start_step: int
    steps: int
    seed: int
    noise_before_hu: float | None
    noise_after_hu: float | None
    bias_hu: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    max_change_hu: float = 0.0
    verdict: Literal["pass", "label"] = "pass"
    verdict_reasons: tuple[str, ...] = ()
    dose_reference: str = "unknown"
    dose_decision: str = ""
    regions: str = ""
    size_flags: tuple[str, ...] = ()
    revision: int = 0
    measured_views: int = 0
    processed_at: datetime = field(default_factory=lambda: datetime.now().astimezone())

    @property
    def pipeline_digest(self) -> str:
        """See `pipeline_digest`."""
        return pipeline_digest(
            self.model_id, self.model_version, self.weights_digest, self.configuration_digest
        )


def pipeline_digest(
    model_id: str,
    model_version: str,
    weights_digest: str,
    configuration_digest: str,
    software_version: str = __version__,
) -> str:
    """SHA-256 over everything that changes pixels: model, weights, configuration, software.

    Time, host and device stay out, and so does the seed: it must follow from the same facts.
    """
    told = _framed(model_id, model_version, weights_digest, configuration_digest, software_version)
    return hashlib.sha256(told).hexdigest()


def derived_uid(identity: Identity, kind: str, source_uid: str, pipeline: str, generation: int = 0) -> str:
    """The UID of the `kind` of object ("series", "instance", "report", ...) made from `source_uid`.

    HMAC-SHA-256 under `identity.uid_key` (RFC 2104): the same arguments and key give the same UID, at most 64
    characters, below `identity.uid_root`; without the key it can be neither made nor checked. A new
    `generation` is for pixels that differ although the pipeline does not (a late slice, another graphics
    card).
    """
    digest = hmac.digest(identity.uid_key, _framed(kind, source_uid, pipeline, str(generation)), "sha256")
    root = identity.uid_root.rstrip(".")
    if root == UUID_ROOT:
        return f"{UUID_ROOT}.{_uuid8(digest).int}"
    digits = min(39, LONGEST_UID - len(root) - 1)
    return f"{root}.{int.from_bytes(digest, 'big') % 10**digits}"


def _uuid8(digest: bytes) -> uuid.UUID:
    """RFC 9562 version 8: 122 bits of our own, version and variant where they belong."""
    number = int.from_bytes(digest[:16], "big")
    number &= ~(0xF << 76) & ~(0x3 << 62)
    return uuid.UUID(int=number | (0x8 << 76) | (0x2 << 62))


def _framed(*parts: str) -> bytes:
    """Parts after their lengths: ("ab", "c") and ("a", "bc") differ."""
    encoded = (part.encode() for part in parts)
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)

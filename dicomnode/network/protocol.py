"""What this node speaks: SOP classes, transfer syntaxes, DIMSE statuses, and its own identification.

Statuses: PS3.4 table B.2-1 (C-STORE) and PS3.7 annex C. Own codes stay inside the ranges the standard
leaves to the implementation.
"""

import hashlib
import logging
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from pynetdicom import _config
from pynetdicom.presentation import PresentationContext, build_context

IMPLEMENTATION_CLASS_UID: Final = "2.25.267208223927861791750674517220719327305"
IMPLEMENTATION_VERSION_NAME: Final = "DICOMNODE_0"

VERIFICATION: Final = "1.2.840.10008.1.1"
CT_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_ENHANCED_CT_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.2.2"
XRAY_RADIATION_DOSE_SR: Final = "1.2.840.10008.5.1.4.1.1.88.67"
ENHANCED_XRAY_RADIATION_DOSE_SR: Final = "1.2.840.10008.5.1.4.1.1.88.76"

IMAGE_CLASSES: Final = (CT_IMAGE, ENHANCED_CT_IMAGE, LEGACY_CONVERTED_ENHANCED_CT_IMAGE)
DOSE_REPORT_CLASSES: Final = (XRAY_RADIATION_DOSE_SR, ENHANCED_XRAY_RADIATION_DOSE_SR)

COMPANION_IMAGE_CLASSES: Final = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture: dose screens
    "1.2.840.10008.5.1.4.1.1.7.1",
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.7.4",
    "1.2.840.10008.5.1.4.1.1.128",  # PET beside its CT
)
COMPANION_DOCUMENT_CLASSES: Final = (
    "1.2.840.10008.5.1.4.1.1.88.11",  # Basic Text SR
    "1.2.840.10008.5.1.4.1.1.88.22",  # Enhanced SR
    "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR: our reports among them
    "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
    "1.2.840.10008.5.1.4.1.1.88.59",  # Key Object Selection
    "1.2.840.10008.5.1.4.1.1.11.1",  # Grayscale Softcopy Presentation State
    "1.2.840.10008.5.1.4.1.1.104.1",  # Encapsulated PDF
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.11.2",  # Color Softcopy Presentation State
    "1.2.840.10008.5.1.4.1.1.66",  # Raw Data
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.481.3",  # RT Structure Set
)
"""What lies beside CT in a study: an archive that sends it whole stops where one class is not taken."""

EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
UNCOMPRESSED: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
NATIVE: Final = (*UNCOMPRESSED, EXPLICIT_VR_BIG_ENDIAN)
"""Of images we accept the retired big endian, too, which old archives hold; we never send it."""
LOSSLESS: Final = (
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless, any prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.201",  # High-Throughput JPEG 2000 Lossless
    "1.2.840.10008.1.2.5",  # RLE Lossless
)
LOSSY: Final = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.91")
"""For pictures that nobody decodes here."""

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
CLASS_MISMATCH: Final = 0xA900
NOT_WHOLE: Final = 0xC000
UID_MISSING: Final = 0xC005
INSTANCE_MISMATCH: Final = 0xC006
OTHER_CONTENT: Final = 0xC010
OTHER_PLACE: Final = 0xC011
INVALID_INSTANCE_UID: Final = 0x0117
CLASS_NOT_SUPPORTED: Final = 0x0122
HANDLER_FAILED: Final = 0xC211
"""What pynetdicom answers for us when an error of ours ends the handler."""


@dataclass(frozen=True)
class Answer:
    """One status of a C-STORE response: what it says of the instance, and what the sender can do."""

    status: int
    kind: Literal["Success", "Failure"]
    meaning: str
    sender: str


ANSWERS: Final = (
    Answer(
        SUCCESS,
        "Success",
        "The instance is safe on the disk, or was there already. Where only its header or its lossless "
        "encoding differs from what was there, the first stays, this one is put aside on the disk, and the "
        "log says so.",
        "Nothing. It may delete its copy as far as this node is concerned.",
    ),
    Answer(
        OUT_OF_RESOURCES,
        "Failure",
        "Out of resources: less space is free than the reserve, or the spool cannot be written.",
        "Send the instance again later.",
    ),
    Answer(
        CLASS_MISMATCH,
        "Failure",
        "The data set is of another SOP Class than the Affected SOP Class UID.",
        "Correct the object; sending it again does not help.",
    ),
    Answer(
        NOT_WHOLE,
        "Failure",
        "Cannot understand: the data set is cut off or cannot be parsed, its Pixel Data is missing or "
        "shorter than Rows x Columns, or the copy already held cannot be read.",
        "Send it again once, in case it was cut off on its way; then correct the object.",
    ),
    Answer(
        UID_MISSING,
        "Failure",
        "SOP Class, SOP Instance, Study Instance or Series Instance UID is missing or malformed.",
        "Correct the object.",
    ),
    Answer(
        INSTANCE_MISMATCH,
        "Failure",
        "The SOP Instance UID of the data set is not the Affected SOP Instance UID.",
        "Correct the object.",
    ),
    Answer(
        OTHER_CONTENT,
        "Failure",
        "This SOP Instance UID is held already with other content. The first stays, this one is quarantined.",
        "Find out which is right: one UID must not name two images.",
    ),
    Answer(
        OTHER_PLACE,
        "Failure",
        "This SOP Instance UID is held already in another study or series, or with another Instance Number "
        "or position. The first stays, this one is quarantined.",
        "Send corrected objects under new UIDs.",
    ),
    Answer(
        HANDLER_FAILED,
        "Failure",
        "Unable to process: an error of this node ended the handling of the request; it is in its log.",
        "Send the instance again later; tell the operator of this node.",
    ),
    Answer(
        INVALID_INSTANCE_UID,
        "Failure",
        "The Affected SOP Instance UID is malformed or longer than 64 characters.",
        "Correct the object.",
    ),
    Answer(
        CLASS_NOT_SUPPORTED,
        "Failure",
        "The Affected SOP Class UID is not that of the presentation context.",
        "Correct the sender.",
    ),
)
"""Every status the Storage SCP answers. Failures of ours carry an Error Comment (0000,0902) without data."""


@dataclass(frozen=True)
class Rejection:
    """One A-ASSOCIATE-RJ (PS3.8 section 9.3.4) and when it is sent."""

    result: int
    source: int
    reason: int
    name: str
    when: str

    @property
    def codes(self) -> tuple[int, int, int]:
        """Result, source and reason, as they are sent."""
        return self.result, self.source, self.reason


CALLING_AE_NOT_RECOGNIZED: Final = Rejection(
    1,
    1,
    3,
    "calling AE title not recognized",
    "The calling AE title is not among `callers`, or comes from another host than the one given there.",
)
CALLED_AE_NOT_RECOGNIZED: Final = Rejection(
    1, 1, 7, "called AE title not recognized", "The called AE title is not `node.ae_title`; case counts."
)
LOCAL_LIMIT_EXCEEDED: Final = Rejection(
    2, 3, 2, "local limit exceeded", "`network.max_associations` are open. Try again later."
)
REJECTIONS: Final = (CALLED_AE_NOT_RECOGNIZED, CALLING_AE_NOT_RECOGNIZED, LOCAL_LIMIT_EXCEEDED)
"""In the order in which they are checked."""


def accepted_contexts() -> list[PresentationContext]:
    """Return what the listener accepts, in its own order of preference: uncompressed before compressed.

    Not accepted: Deflated (a few bytes can become gigabytes) and every lossy syntax for CT (the noise the
    enhancement measures is no longer in the image).
    """
    image_syntaxes = [*UNCOMPRESSED, *LOSSLESS, EXPLICIT_VR_BIG_ENDIAN]
    contexts = [build_context(VERIFICATION, list(UNCOMPRESSED))]
    contexts += [build_context(uid, image_syntaxes) for uid in IMAGE_CLASSES]
    contexts += [build_context(uid, list(UNCOMPRESSED)) for uid in DOSE_REPORT_CLASSES]
    pictures = [*UNCOMPRESSED, *LOSSLESS, *LOSSY]
    contexts += [build_context(uid, pictures) for uid in COMPANION_IMAGE_CLASSES]
    contexts += [build_context(uid, list(UNCOMPRESSED)) for uid in COMPANION_DOCUMENT_CLASSES]
    return contexts


@cache
def _accepted_syntaxes() -> dict[str, frozenset[str]]:
    return {
        str(context.abstract_syntax): frozenset(map(str, context.transfer_syntax))
        for context in accepted_contexts()
    }


def is_accepted(sop_class_uid: str, transfer_syntax_uid: str) -> bool:
    """Whether an object of this class in this transfer syntax would be received by C-STORE."""
    return transfer_syntax_uid in _accepted_syntaxes().get(sop_class_uid, ())


def stored(status: int) -> bool:
    """Say whether a C-STORE status means that the peer keeps the instance: success, or a warning.

    0111 (duplicate SOP instance) counts: what is sent under a UID never changes, so the peer has it from
    an attempt whose answer was lost.
    """
    return status in (0x0000, 0x0001, 0x0107, 0x0111, 0x0116) or 0xB000 <= status <= 0xBFFF


def come_back_later(status: int) -> bool:
    """Say whether a C-STORE status asks to send the instance again later (out of resources, congestion)."""
    return 0xA700 <= status <= 0xA7FF or status == 0x0213


def short(uid: str) -> str:
    """Return a name for a UID that may stand in a log: UIDs identify studies, and so patients."""
    return hashlib.sha256(uid.encode("utf-8", "replace")).hexdigest()[:12]


def hush_pynetdicom() -> None:
    """Keep identifiers out of pynetdicom's log, and its log handlers out of every PDU's way.

    Its standard handlers print data set identifiers and take one lock for all associations at every
    PDU. Its check of UIDs would answer a malformed one by breaking the association off, and print it;
    the handlers here answer it with a status.
    """
    # Those of pydicom quote the value they warn of, under the name of whatever module asked for it.
    warnings.filterwarnings("ignore", category=UserWarning)
    logging.getLogger("pydicom").setLevel(logging.ERROR)  # the same words again
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.VALIDATORS["UI"] = lambda _: (True, "")
    logging.getLogger("pynetdicom").setLevel(logging.ERROR)
    for chatty in ("dul", "utils", "dsutils", "dimse_primitives", "transport"):
        logging.getLogger(f"pynetdicom.{chatty}").setLevel(logging.CRITICAL)

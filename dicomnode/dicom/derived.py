"""Write the derived CT series: the source's own headers, with what changed said in them.

`policy.py` holds what becomes of each attribute, `provenance.py` the facts and the UIDs, `marks.py` the marks
by which our images are known again.
"""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import TEXT_VR_DELIMS

from dicomnode.dicom import character_sets, marks
from dicomnode.dicom.codestream import JPEGLS_NEAR_LOSSLESS
from dicomnode.dicom.pixels import restore, to_stored
from dicomnode.dicom.policy import ACTIONS, MUST_STAND, is_kept
from dicomnode.dicom.provenance import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    Identity,
    Provenance,
    derived_uid,
    pipeline_digest,
)
from dicomnode.dicom.series import CtSeries
from dicomnode.dicom.values import is_too_long, items, number, text, texts, value_of
from dicomnode.dicom.verbatim import TEXT_VRS, copy_elements, decode_header, is_kept_in_items

__all__ = [
    "Identity",
    "Provenance",
    "derived_series_uid",
    "derived_uid",
    "pipeline_digest",
    "write_derived",
]

LONG_STRING: Final = 64
SHORT_TEXT: Final = 1024
LARGEST_INTEGER_STRING: Final = 2**31 - 1
FACES: Final = ("HEAD", "NECK", "BRAIN", "SKULL", "FACE", "SINUS", "ORBIT", "JAW", "WHOLEBODY")
"""Body parts (PS3.16 annex L) of which an image, or the noise taken from one, may show a face."""
THIN_MM: Final = 3.0
"""Slices of a head up to this thickness are said to show a face (0028,0302) where the source says nothing."""
SOURCE_PURPOSE: Final = ("121322", "DCM", "Source image for image processing operation")
WARNING: Final = "AI-processed image: noise reduced by a diffusion model. Compare with the original series."
WARNING_RAW: Final = (
    "AI-processed image: reconstructed from measured projections whose noise a diffusion model reduced. "
    "Compare with the scanner's own reconstruction."
)
REPLACES: Final = "Replaces an earlier AI-processed series, made before all images had come."
EQUIPMENT: Final = frozenset(
    {"Manufacturer", "ManufacturerModelName", "DeviceSerialNumber"}
    | {"SoftwareVersions", "StationName", "InstitutionName"}
)
"""What the item of the scanner in ContributingEquipmentSequence takes over."""
_BLANKS: Final = bytes({*range(0x21), 0x7F} - {0x1B})
"""Bytes that no character set has letters with; ESC begins the sequences of ISO 2022."""


def derived_series_uid(
    series: CtSeries, identity: Identity, provenance: Provenance, generation: int = 0
) -> str:
    """The Series Instance UID that `write_derived` gives."""
    return derived_uid(identity, "series", series.source_uid, provenance.pipeline_digest, generation)


def write_derived(
    series: CtSeries,
    hounsfield: NDArray[np.float32],
    identity: Identity,
    provenance: Provenance,
    folder: Path,
    generation: int = 0,
) -> tuple[Path, ...]:
    """Write one CT Image Storage file a slice, Explicit VR Little Endian, from feet to head.

    `hounsfield` [slice, row, column] has the shape of `series.hounsfield`. Every value is written exactly to
    half a rescale slope; padding and saturated pixels come back as they arrived. Files that a crash leaves
    behind are overwritten: give an own `folder` and rename it when all are written.

    :raises ValueError: another shape, or a value that is not finite.
    """
    if hounsfield.shape != series.hounsfield.shape:
        raise ValueError(f"the result has shape {hounsfield.shape}, the series {series.hounsfield.shape}")
    if not np.isfinite(hounsfield).all():
        raise ValueError("the result holds values that are not finite")
    folder.mkdir(parents=True, exist_ok=True)
    numbers = _instance_numbers(series)
    paths = []
    for index in range(series.slices):
        image = _derive(series, index, identity, provenance, generation)
        if numbers is not None:
            # Not by its keyword: an element that came with a wrong VR would keep it.
            image.add_new("InstanceNumber", "IS", numbers[index])
        padding = None if series.padding is None else series.padding[index]
        stored = restore(
            series.headers[index],
            to_stored(series.headers[index], hounsfield[index]),
            series.stored[index],
            padding,
        )
        image.add_new("PixelData", "OW", stored.astype(stored.dtype.newbyteorder("<")).tobytes())
        path = folder / f"{index + 1:05d}.dcm"
        _write(image, path, identity)
        paths.append(path)
    return tuple(paths)


def _derive(
    series: CtSeries, index: int, identity: Identity, provenance: Provenance, generation: int
) -> Dataset:
    source = decode_header(series.encoded_headers[index])
    image = copy_elements(source, lambda tag: is_kept(tag, identity.keep_manufacturer))
    for keyword in MUST_STAND:
        if keyword not in image:
            setattr(image, keyword, None)
    values = _new_values(series, index, source, identity, provenance, generation)
    if not identity.keep_manufacturer:
        values |= _our_equipment(identity)
    for keyword, value in values.items():
        if ACTIONS.get(keyword) not in ("set", "remove-equipment"):
            raise AssertionError(f"{keyword} is written without a row in the attribute policy")
        setattr(image, keyword, value)
    thin_head = series.slice_thickness_mm <= THIN_MM and is_of_the_head(source)
    if thin_head and not text(image, "RecognizableVisualFeatures"):
        image.add_new("RecognizableVisualFeatures", "CS", "YES")
    if series.lossy_ratio is not None:
        _say_lossy(image, series.headers[index], series.lossy_ratio)
    return image


def _new_values(
    series: CtSeries,
    index: int,
    source: Dataset,
    identity: Identity,
    provenance: Provenance,
    generation: int,
) -> dict[str, object]:
    pipeline = provenance.pipeline_digest
    moment = local_moment(source, provenance.processed_at)
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    origin, frame = series.headers[index], series.frames[index]
    return {
        "SOPInstanceUID": derived_uid(identity, "instance", series.image_name(index), pipeline, generation),
        "SeriesInstanceUID": derived_series_uid(series, identity, provenance, generation),
        "InstanceCreatorUID": identity.device_uid,
        "ImageType": ["DERIVED", identity.image_type2, "AXIAL", marks.IMAGE_TYPE_TERM],
        "SeriesNumber": derived_series_number(source, identity, series.stack_number),
        "SeriesDescription": _description(source, identity, provenance),
        "SeriesDate": date,
        "SeriesTime": time,
        "ContentDate": date,
        "ContentTime": time,
        "InstanceCreationDate": date,
        "InstanceCreationTime": time,
        "RescaleType": "HU",
        "DerivationDescription": derivation_text(identity, provenance),
        "DerivationCodeSequence": _sequence(_code(*marks.SMOOTHING_CODE), _code(*marks.DENOISING_CODE)),
        "SourceImageSequence": _sequence(_source_image(origin, frame, provenance)),
        "ReferencedSeriesSequence": _referenced_series(source, origin),
        "ContributingEquipmentSequence": contributing_equipment(source, identity, provenance, moment),
        "ContentQualification": identity.content_qualification,
        "ImageComments": _comment(provenance),
    }


def derivation_text(identity: Identity, provenance: Provenance) -> str:
    """One sentence for DerivationDescription (0008,2111): algorithm, strength, dose. No patient data."""
    dose = provenance.dose.mean_ctdivol_mgy
    reading = (
        f"CTDIvol {dose:.3g} mGy ({provenance.dose.source})" if dose is not None else "dose not readable"
    )
    decision = f" ({provenance.dose_decision})" if provenance.dose_decision else ""
    names = (identity.manufacturer, identity.model_name)
    maker = " ".join(dict.fromkeys(names))
    views = provenance.measured_views
    made = f"Reconstructed from {views} measured views (DICOM-CT-PD), with " if views else ""
    sentence = (
        f"{made}AI noise reduction by {maker} {identity.software_version}, "
        f"engine {provenance.engine}, model {provenance.model_id} {provenance.model_version} "
        f"(weights {provenance.weights_digest[:16]}); "
        f"start step {provenance.start_step} of {provenance.steps}, "
        f"dose fraction {provenance.dose_fraction:.3g} decided by {provenance.dose_decided_by}{decision}, "
        f"{reading}."
    )
    return plain_text(sentence, SHORT_TEXT)


def plain_text(value: str, length: int) -> str:
    """ASCII without backslash and tilde (ISO_IR 13 shows them differently), cut to `length`."""
    ascii_text = value.encode("ascii", "replace").decode().replace("\\", "/").replace("~", "-")
    return " ".join(ascii_text.split())[:length].rstrip()


def derived_series_number(source: Dataset, identity: Identity, stack_number: int = 0) -> int:
    """Source number plus the offset, so that the series sorts behind the originals.

    Each further stack comes ten offsets later: between lie report, maps and selections of the one before.
    """
    own = number(source, "SeriesNumber")
    shifted = int(own or 0) + identity.series_number_offset * (1 + 10 * stack_number)
    return shifted if 0 <= shifted <= LARGEST_INTEGER_STRING else identity.series_number_offset


def local_moment(source: Dataset, moment: datetime) -> datetime:
    """`moment` in the zone of the source's TimezoneOffsetFromUTC (0008,0201), else in local time."""
    offset = text(source, "TimezoneOffsetFromUTC")
    if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
        delta = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5]))
        if delta < timedelta(hours=24):
            return moment.astimezone(timezone(-delta if offset[0] == "-" else delta))
    return moment.astimezone()


def _instance_numbers(series: CtSeries) -> list[int] | None:
    """New numbers by position where the source's are missing or used twice; None to keep them."""
    numbers = [number(header, "InstanceNumber") for header in series.headers]
    if None not in numbers and len(set(numbers)) == len(numbers):
        return None
    return list(range(1, len(numbers) + 1))


def _description(source: Dataset, identity: Identity, provenance: Provenance) -> bytes:
    """Cut at 64 characters, and at 64 bytes: many readers count these. A revision is said at the end.

    What fits and is clean keeps its bytes, as no reader knows better what they mean than its own site.
    """
    prefix, revised = identity.series_description_prefix, revision_text(provenance)
    came = _bytes_of(source, "SeriesDescription").strip(_BLANKS)
    encodings = convert_encodings(list(texts(source, "SpecificCharacterSet")) or None)
    words = character_sets.without_escapes_left(_told(source, came, encodings), encodings)
    described = f"{prefix}{words}"
    # Bytes above 7F stay, also where the source does not say which letters they are.
    clean = "".join(" " if one < " " or one in "\x7f\\\ufffd" else one for one in described)
    whole = prefix.encode() + came + revised.encode()
    open_ended = revised and not character_sets.ends_in_ascii(came)
    if came and words and clean == described and len(whole) <= LONG_STRING and not open_ended:
        return whole
    clean = clean[: LONG_STRING - len(revised)]
    if came and b"\x1b" not in came:
        encodings = encodings[:1]  # the others were never designated
    while len(written := character_sets.encode(clean.rstrip(" |") + revised, encodings)) > LONG_STRING:
        clean = clean[:-1]
    return written


def _told(source: Dataset, came: bytes, encodings: list[str]) -> str:
    """The description in the sets that are named, whichever VR it came under; nothing from mere bytes."""
    if came:
        return decode_bytes(came, encodings, TEXT_VR_DELIMS)
    is_text = not isinstance(value_of(source, "SeriesDescription"), bytes)
    return text(source, "SeriesDescription") if is_text else ""


def _bytes_of(source: Dataset, keyword: str) -> bytes:
    """The text as it came, before anything has read it; empty where there is none."""
    element = source.get_item(keyword)
    known = isinstance(element, RawDataElement) and element.VR in (*TEXT_VRS, "UN", None)
    if not known or is_too_long(element):
        return b""
    return element.value or b""


def revision_text(provenance: Provenance) -> str:
    """What ends every Series Description of a result that replaces an earlier one, else nothing."""
    return f" (revision {provenance.revision})" if provenance.revision else ""


def _comment(provenance: Provenance) -> str:
    reasons = f" Quality: {'; '.join(provenance.verdict_reasons)}." if provenance.verdict == "label" else ""
    replaces = f" {REPLACES}" if provenance.revision else ""
    warning = WARNING_RAW if provenance.measured_views else WARNING
    return plain_text(warning + replaces + reasons, SHORT_TEXT)


def _our_equipment(identity: Identity) -> dict[str, object]:
    return {
        "Manufacturer": plain_text(identity.manufacturer, LONG_STRING),
        "ManufacturerModelName": plain_text(identity.model_name, LONG_STRING),
        "SoftwareVersions": plain_text(identity.software_version, LONG_STRING),
        "DeviceUID": identity.device_uid,
    }


def contributing_equipment(
    source: Dataset, identity: Identity, provenance: Provenance, moment: datetime
) -> DicomSequence:
    """The source's items in order, the scanner, then this processor (PS3.3 C.12.1.1.5)."""
    known = [copy_elements(item, is_kept_in_items) for item in _equipment(source)]
    if text(source, "Manufacturer") and not any(_is_acquisition(item) for item in known):
        scanner = copy_elements(source, lambda tag: keyword_for_tag(tag) in EQUIPMENT)
        scanner.PurposeOfReferenceCodeSequence = _sequence(_code(*marks.ACQUISITION_EQUIPMENT))
        known.append(scanner)
    return DicomSequence([*known, _processor(identity, provenance, moment)])


def _equipment(source: Dataset) -> tuple[Dataset, ...]:
    return items(source, "ContributingEquipmentSequence")


def _is_acquisition(item: Dataset) -> bool:
    purposes = items(item, "PurposeOfReferenceCodeSequence")
    return any(text(code, "CodeValue") == marks.ACQUISITION_EQUIPMENT[0] for code in purposes)


def _processor(identity: Identity, provenance: Provenance, moment: datetime) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = _sequence(_code(*marks.PROCESSING_EQUIPMENT))
    item.Manufacturer = plain_text(identity.manufacturer, LONG_STRING)
    item.ManufacturerModelName = plain_text(identity.model_name, LONG_STRING)
    item.StationName = plain_text(identity.ae_title, 16)
    item.SoftwareVersions = [
        plain_text(identity.software_version, LONG_STRING),
        plain_text(f"{provenance.model_id} {provenance.model_version}", LONG_STRING),
        plain_text(f"weights {provenance.weights_digest[:48]}", LONG_STRING),
        plain_text(f"configuration {provenance.configuration_digest[:48]}", LONG_STRING),
    ]
    item.ContributionDateTime = moment.strftime("%Y%m%d%H%M%S")
    item.ContributionDescription = derivation_text(identity, provenance)
    return item


def _source_image(origin: Dataset, frame: int | None, provenance: Provenance) -> Dataset:
    """The image it replaces, or one view of those it was reconstructed from: a turn would fill the header."""
    item = _reference(origin)
    if frame is not None:
        item.ReferencedFrameNumber = frame
    item.SpatialLocationsPreserved = "NO" if provenance.measured_views else "YES"
    item.PurposeOfReferenceCodeSequence = _sequence(_code(*SOURCE_PURPOSE))
    return item


def _referenced_series(source: Dataset, origin: Dataset) -> DicomSequence:
    """Common Instance Reference (PS3.3 C.12.2): the source's other series, and the source image.

    `origin` is the source's header as it was read: a frame's own header names its multi-frame class.
    """
    series_uid = text(source, "SeriesInstanceUID")
    others = [
        copy_elements(item, is_kept_in_items)
        for item in items(source, "ReferencedSeriesSequence")
        if text(item, "SeriesInstanceUID") != series_uid
    ]
    own = Dataset()
    own.SeriesInstanceUID = series_uid
    own.ReferencedInstanceSequence = _sequence(_reference(origin))
    return DicomSequence([own, *others])


def _reference(source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = text(source, "SOPClassUID")
    item.ReferencedSOPInstanceUID = text(source, "SOPInstanceUID")
    return item


def is_of_the_head(source: Dataset) -> bool:
    """Does BodyPartExamined (0018,0015) name a part that may show a face?"""
    part = text(source, "BodyPartExamined").upper()
    return any(face in part for face in FACES)


def _say_lossy(image: Dataset, origin: Dataset, ratio: float) -> None:
    """Pixels that arrived lossy stay lossy, also where the source does not say so (PS3.3 C.7.6.1.1.5)."""
    # Not by its keyword: one that came with a wrong VR would keep it.
    image.add_new("LossyImageCompression", "CS", "01")
    if "LossyImageCompressionRatio" not in image:
        image.LossyImageCompressionRatio = f"{ratio:g}"
    if "LossyImageCompressionMethod" not in image:
        near_lossless = text(origin.file_meta, "TransferSyntaxUID") == JPEGLS_NEAR_LOSSLESS
        image.LossyImageCompressionMethod = "ISO_14495_1" if near_lossless else "ISO_15444_1"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def _sequence(*values: Dataset) -> DicomSequence:
    return DicomSequence(values)


def _write(image: Dataset, path: Path, identity: Identity) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(text(image, "SOPClassUID"))
    meta.MediaStorageSOPInstanceUID = UID(text(image, "SOPInstanceUID"))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    meta.SourceApplicationEntityTitle = identity.ae_title
    file = FileDataset(str(path), image, preamble=b"\0" * 128, file_meta=meta)
    file.set_original_encoding(False, True, image.original_character_set)
    dcmwrite(path, file, implicit_vr=False, little_endian=True, enforce_file_format=True)

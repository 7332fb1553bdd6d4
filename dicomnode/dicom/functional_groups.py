"""Turn the functional groups of a multi-frame CT object into one classic header a frame, and into its bytes.

What is the same for all frames stands in the shared groups, the rest in the item of the frame; a frame's own
item wins (PS3.3 C.7.6.16). The macros' attributes are mostly the classic ones under another roof; the few
that are not get their classic names here, so that nothing else has to know of multi-frame objects.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from dicomnode.dicom.admission import label
from dicomnode.dicom.parsing import MOST_ELEMENTS
from dicomnode.dicom.private_elements import Place, put_private
from dicomnode.dicom.values import UNREADABLE, code_of, items, number, tags_of, text, texts
from dicomnode.dicom.verbatim import copy_elements
from dicomnode.errors import BrokenInstance, MixedSeries

SHARED: Final = "SharedFunctionalGroupsSequence"
PER_FRAME: Final = "PerFrameFunctionalGroupsSequence"
MOST_FRAMES: Final = 20_000

MERGED: Final = frozenset(
    {"PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "FrameContentSequence"}
    | {"PixelValueTransformationSequence", "FrameVOILUTSequence", "FrameAnatomySequence"}
    | {"CTImageFrameTypeSequence", "CTExposureSequence", "CTAcquisitionDetailsSequence"}
    | {"CTAcquisitionTypeSequence", "CTTableDynamicsSequence", "CTXRayDetailsSequence"}
    | {"CTReconstructionSequence", "CTGeometrySequence", "CTPositionSequence"}
    | {"IrradiationEventIdentificationSequence", "CardiacSynchronizationSequence"}
    | {"RespiratorySynchronizationSequence", "TemporalPositionSequence", "DerivationImageSequence"}
    | {"UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence"}
)
"""Macros whose attributes become attributes of the header."""

CARRIED: Final = frozenset(
    {"CTAdditionalXRaySourceSequence", "ReferencedImageSequence", "RealWorldValueMappingSequence"}
    | {"ContrastBolusUsageSequence"}
)
"""Macros that are sequences in their own right, also in a classic header."""

PER_PATH: Final = frozenset({"CTDIvol", "ExposureInmAs", "XRayTubeCurrentInmA", "ExposureTimeInms"})
"""What several items, one an X-ray path (multi-energy), each have their share of: the whole is not written
anywhere, and one share taken for the whole would be a dose misread."""

AXIAL_FLAVORS: Final = frozenset(
    {"AXIAL", "VOLUME", "ANGIO", "CARDIAC", "CARDIAC_GATED", "CARDIAC_CASCORE", "RESP_GATED", "PARALLEL"}
    | {"PRE_CONTRAST", "POST_CONTRAST", "REST", "STRESS", "STATIC", "WHOLE_BODY", "DYNAMIC"}
)
"""FrameType value 3 (PS3.3 C.8.16.1.3, C.8.15.3.1) of cross-sections, if they lie across the patient."""
MEASURED_CONTRAST: Final = frozenset({"", "NONE", "ENERGY_PROP_WT"})
"""FrameType value 4 (PS3.3 C.8.16.1.4) of frames that were not calculated from other frames."""

INTEGER_STRINGS: Final = (
    ("Exposure", "ExposureInmAs"),
    ("ExposureTime", "ExposureTimeInms"),
    ("XRayTubeCurrent", "XRayTubeCurrentInmA"),
)
"""Classic attributes of VR IS, and the FD ones that stand for them in Enhanced CT."""

_ENHANCED_ONLY: Final = """
NumberOfFrames SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence RepresentativeFrameNumber
DimensionOrganizationSequence DimensionOrganizationType DimensionIndexSequence DimensionIndexValues
ConcatenationUID ConcatenationFrameOffsetNumber InConcatenationNumber InConcatenationTotalNumber
SOPInstanceUIDOfConcatenationSource StereoPairsPresent EncapsulatedPixelDataValueTotalLength
FrameExtractionSequence ReferencedImageEvidenceSequence SourceImageEvidenceSequence
ReferencedPresentationStateSequence ReferencedRawDataSequence ReferencedWaveformSequence
AcquisitionContextSequence AcquisitionContextDescription PixelPresentation VolumetricProperties
VolumeBasedCalculationTechnique FrameType FrameAcquisitionNumber FrameAcquisitionDateTime
FrameReferenceDateTime FrameAcquisitionDuration FrameComments FrameLabel FrameLaterality
CardiacCyclePosition RespiratoryCyclePosition StackID InStackPositionNumber TemporalPositionIndex
TemporalPositionTimeOffset CardiacBeatRejectionTechnique CardiacFramingType CardiacRRIntervalSpecified
CardiacSignalSource CardiacSynchronizationTechnique HighRRValue LowRRValue IntervalsAcquired
IntervalsRejected SkipBeats HeartRate NominalCardiacTriggerDelayTime ActualCardiacTriggerDelayTime
NominalCardiacTriggerTimePriorToRPeak ActualCardiacTriggerTimePriorToRPeak RRIntervalTimeNominal
NominalPercentageOfCardiacPhase RespiratoryMotionCompensationTechnique RespiratorySignalSource
RespiratoryTriggerDelayThreshold RespiratoryTriggerType NominalPercentageOfRespiratoryPhase
StartingRespiratoryAmplitude StartingRespiratoryPhase EndingRespiratoryAmplitude EndingRespiratoryPhase
RespiratoryIntervalTime NominalRespiratoryTriggerDelayTime ActualRespiratoryTriggerDelayTime
MultienergyCTAcquisition MultienergyCTPathSequence MultienergyCTXRayDetectorSequence
MultienergyCTXRaySourceSequence ReferencedPathIndex ReferencedXRaySourceIndex ExposureInmAs
ExposureTimeInms XRayTubeCurrentInmA TubeAngle ConstantVolumeFlag FluoroscopyFlag
DistanceSourceToDataCollectionCenter ReconstructionAlgorithm ConvolutionKernelGroup
ReconstructionFieldOfView ReconstructionAngle ReconstructionPixelSpacing ImageFilter TablePosition
ContrastBolusAgentSequence ContrastBolusUsageSequence ImageType PresentationLUTShape
PatientOrientationCodeSequence PatientGantryRelationshipCodeSequence
StudiesContainingOtherReferencedInstancesSequence SourceImageSequence
"""

ENHANCED_ONLY: Final = frozenset(_ENHANCED_ONLY.split())
"""What a classic CT image has no place for, and long lists that nothing here reads. AcquisitionType stays:
classic images of many scanners carry it, and it says how Exposure is meant."""

CLASSIC_NAMES: Final = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime AcquisitionDate AcquisitionTime",
    "FrameLaterality": "Laterality",
    "PatientOrientationCodeSequence": "PatientPosition",
    "PatientGantryRelationshipCodeSequence": "PatientPosition",
    "ContrastBolusAgentSequence": "ContrastBolusAgent",
    "ExposureInmAs": "Exposure",
    "ExposureTimeInms": "ExposureTime",
    "XRayTubeCurrentInmA": "XRayTubeCurrent",
}
"""What a classic header has under another name, or several."""


LYING: Final = {"40199007": "S", "1240000": "P", "102535000": "DR", "102536004": "DL"}
ENTERING: Final = {"102540008": "HF", "102541007": "FF"}
"""SNOMED CT codes of CID 20 and CID 21, and their letters in PatientPosition (0018,5100)."""


def flat_headers(header: Dataset, name: str) -> tuple[Dataset, ...]:
    """One header a frame, in the order of the frames; `name` is how a message names the object.

    SOP Class and Instance UID stay those of the object; InstanceNumber is the number of the frame, counted
    through a concatenation.

    :raises BrokenInstance: NumberOfFrames and the functional groups do not fit each other; too many elements.
    """
    frames, groups = frame_count(header, name), items(header, PER_FRAME)
    if not groups:
        raise BrokenInstance(f"{name} has no readable {PER_FRAME} (5200,9230)")
    if len(groups) != frames:
        raise BrokenInstance(
            f"{name}: NumberOfFrames (0028,0008) is {frames}, {PER_FRAME} (5200,9230) has {len(groups)} items"
        )
    common = Dataset()
    _take(common, header, (tag for tag in tags_of(header) if keyword_for_tag(tag) not in _LEFT_BEHIND))
    one_beam = _is_one_beam(header, groups[0])
    for shared in items(header, SHARED)[:1]:
        _merge_groups(common, shared, one_beam)
    if count_elements([common])[0] > MOST_ELEMENTS:
        raise BrokenInstance(f"{name}: what its frames share has more than {MOST_ELEMENTS} elements")
    first = int(number(header, "ConcatenationFrameOffsetNumber") or 0) + 1
    flats = [
        _flat(header, common, group, number_of, one_beam)
        for number_of, group in enumerate(groups, start=first)
    ]
    _name_series(flats, _references(header))
    around = [place for shared in items(header, SHARED)[:1] for place in _places(shared)]
    put_private(flats, header, around, map(_places, groups))
    return tuple(flats)


_OF_ALL_FRAMES: Final = "ReferencedSeriesSequence"
"""The series of all that the object refers to; a frame gets those of its own references."""
_UNASSIGNED_SHARED: Final = "UnassignedSharedConvertedAttributesSequence"
_UID_LIKE: Final = re.compile(r"[0-9.]{1,64}")
"""Leading zeros do no harm here."""
_LEFT_BEHIND: Final = frozenset(
    {SHARED, PER_FRAME, "NumberOfFrames", "DimensionIndexSequence", _OF_ALL_FRAMES}
)


def _references(header: Dataset) -> dict[str, tuple[str, Dataset]]:
    """By SOP Instance UID the series of every image that the object refers to, and the reference."""
    converted = [one for shared in items(header, SHARED)[:1] for one in items(shared, _UNASSIGNED_SHARED)]
    return {
        image_uid: (series_uid, image)
        for place in (*converted, header)
        for series in items(place, _OF_ALL_FRAMES)
        if _UID_LIKE.fullmatch(series_uid := text(series, "SeriesInstanceUID"))
        for image in items(series, "ReferencedInstanceSequence")
        if _UID_LIKE.fullmatch(image_uid := text(image, "ReferencedSOPInstanceUID"))
    }


def _name_series(flats: Sequence[Dataset], known: Mapping[str, tuple[str, Dataset]]) -> None:
    """Of the series that all frames refer to (PS3.3 C.12.2), give each those of its own references."""
    tag = Tag(_OF_ALL_FRAMES)
    done: dict[int, DataElement] = {}  # by the list of references: frames may share one
    for flat in flats if known else ():
        references = flat.get_item("ReferencedImageSequence")
        if references is None or tag in flat:  # of a converted image: its own
            continue
        if id(references) not in done:
            named = _series_of(items(flat, "ReferencedImageSequence"), known)
            done[id(references)] = DataElement(tag, "SQ", named)
        if done[id(references)].value:
            flat[tag] = done[id(references)]


def _series_of(images: Iterable[Dataset], known: Mapping[str, tuple[str, Dataset]]) -> list[Dataset]:
    """Items of Referenced Series Sequence for these references, an image once however often it is named."""
    found: dict[str, list[Dataset]] = {}
    for uid in dict.fromkeys(text(image, "ReferencedSOPInstanceUID") for image in images):
        if uid in known:
            series_uid, reference = known[uid]
            found.setdefault(series_uid, []).append(reference)
    named = []
    for series_uid, references in found.items():
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        series.ReferencedInstanceSequence = references
        named.append(series)
    return named


def frame_count(header: Dataset, name: str) -> int:
    """NumberOfFrames (0028,0008).

    :raises BrokenInstance: missing, or not a whole number from 1 to `MOST_FRAMES`.
    """
    frames = number(header, "NumberOfFrames") or 0.0
    if not 1 <= frames <= MOST_FRAMES or frames != int(frames):
        raise BrokenInstance(
            f"{name}: NumberOfFrames (0028,0008) is missing or not a whole number from 1 to {MOST_FRAMES}"
        )
    return int(frames)


def check_one_kind(headers: Sequence[Dataset], name: str) -> None:
    """:raises MixedSeries: the frames of one object are of several kinds, or of several stacks."""
    for keyword in ("FrameType", "VolumetricProperties", "StackID", "TemporalPositionIndex"):
        found = {text(header, keyword).upper() for header in headers}
        if len(found) > 1:
            raise MixedSeries(
                f"{name}: {keyword} has {len(found)} values among the frames (localizer, derived or measured "
                f"frames, phases or stacks in one object); send each in an object of its own"
            )


def _flat(header: Dataset, common: Dataset, group: Dataset, frame: int, one_beam: bool) -> Dataset:
    flat = Dataset()
    _take(flat, common, tags_of(common))
    _merge_groups(flat, group, one_beam)
    _name_classically(flat)
    _put(flat, "InstanceNumber", frame)
    flat.file_meta = header.file_meta
    flat.set_original_encoding(*header.original_encoding)  # of private bytes without VR
    return flat


def _put(flat: Dataset, keyword: str, value: object) -> None:
    """Set a value in an element of its own: the one that is there may belong to the other frames too."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise AssertionError(f"{keyword} is no DICOM keyword")
    flat.add_new(tag, dictionary_VR(tag), value)


def _take(flat: Dataset, source: Dataset, tags: Iterable[BaseTag]) -> None:
    """Take over elements as they were encoded, without converting them; private ones are gathered apart."""
    for tag in tags:
        element = None if tag.is_private else source.get_item(tag)
        if element is not None:
            flat[tag] = element


def _merge_groups(flat: Dataset, group: Dataset, one_beam: bool) -> None:
    for tag in tags_of(group):
        keyword = keyword_for_tag(tag)
        if keyword in CARRIED:
            _take(flat, group, (tag,))
        elif keyword in MERGED:
            found = items(group, keyword)
            out = _OF_ALL_FRAMES if keyword == _UNASSIGNED_SHARED else None
            if len(found) == 1:
                _take(flat, found[0], (one for one in tags_of(found[0]) if keyword_for_tag(one) != out))
            else:
                _take_agreed(flat, found, one_beam)


def _places(group: Dataset) -> Iterator[Place]:
    """Where private elements may stand: beside the macros and in them."""
    yield (group,)
    for tag in tags_of(group):
        keyword = keyword_for_tag(tag)
        if keyword in MERGED:
            yield items(group, keyword)


def _take_agreed(flat: Dataset, found: Sequence[Dataset], one_beam: bool) -> None:
    """Of several items, one an X-ray path, what is the same in all (PS3.3 C.8.2.2 for classic images)."""
    for tag in sorted({tag for item in found for tag in tags_of(item) if keyword_for_tag(tag)}):
        keyword = keyword_for_tag(tag)
        first = _told(found[0], keyword)
        is_share = keyword in PER_PATH and not one_beam
        if first and not is_share and all(_told(item, keyword) == first for item in found[1:]):
            _take(flat, found[0], (tag,))
        else:
            flat.pop(tag, None)
    steps = [code for item in found for code in items(item, "DerivationCodeSequence")]
    if steps:  # all of them: one may be our own mark
        _put(flat, "DerivationCodeSequence", steps)


def _told(item: Dataset, keyword: str) -> str:
    """A value to compare: of a sequence the code of its one item, nothing of others."""
    codes = code_of(item, keyword) if len(items(item, keyword)) == 1 else ()
    return "\\".join(codes) if codes and codes[0] else text(item, keyword)


def _is_one_beam(header: Dataset, group: Dataset) -> bool:
    """Whether all paths of a multi-energy scan are one tube's at one voltage, told apart in the detector.

    Photon counting or two layers: what all paths say of the exposure is then the whole, no share of it.
    """
    for place in (header, *items(header, SHARED)[:1], group):
        for scan in items(place, "MultienergyCTAcquisitionSequence"):
            sources = items(scan, "MultienergyCTXRaySourceSequence")
            paths = items(scan, "MultienergyCTPathSequence")
            beams = {text(path, "ReferencedXRaySourceIndex") for path in paths}
            constant = all(text(one, "MultienergySourceTechnique") == "CONSTANT_SOURCE" for one in sources)
            return len(sources) == 1 and constant and beams == {text(sources[0], "XRaySourceIndex")}
    return False


def _name_classically(flat: Dataset) -> None:
    """Give the values that a classic header has under another name that name."""
    image_type = _image_type(flat)
    if image_type:
        _put(flat, "ImageType", image_type)
    if text(flat, "FrameAcquisitionNumber"):
        _put(flat, "AcquisitionNumber", text(flat, "FrameAcquisitionNumber"))
    moment = re.fullmatch(
        r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)?([+-]\d{4})?", text(flat, "FrameAcquisitionDateTime")
    )
    if moment:
        _put(flat, "AcquisitionDateTime", moment[0])
        _put(flat, "AcquisitionDate", moment[1])
        if moment[2]:
            _put(flat, "AcquisitionTime", moment[2])
    _name_anatomy(flat)
    _name_position(flat)
    agent = _contrast_agent(flat)
    if agent:
        _put(flat, "ContrastBolusAgent", agent)


def _image_type(flat: Dataset) -> list[str]:
    """FrameType in the words of a classic ImageType; a value 4 that says something stays."""
    values = [value.upper() for value in texts(flat, "FrameType")]
    if len(values) < 3:
        return list(values)
    whole = text(flat, "VolumetricProperties").upper() in ("", "VOLUME")
    contrast = values[3] if len(values) > 3 else ""
    if values[2] in AXIAL_FLAVORS and whole and contrast in MEASURED_CONTRAST:
        values[2] = "AXIAL"
    return [*values[:3], *(value for value in values[3:] if value not in MEASURED_CONTRAST)]


def _name_anatomy(flat: Dataset) -> None:
    """BodyPartExamined by the meaning of the code, where that is a word (PS3.16 annex L)."""
    for region in items(flat, "AnatomicRegionSequence")[:1]:
        word = text(region, "CodeMeaning").upper()
        if not text(flat, "BodyPartExamined") and re.fullmatch(r"[A-Z0-9 _]{1,16}", word):
            _put(flat, "BodyPartExamined", word)
    if text(flat, "FrameLaterality") in ("L", "R") and not text(flat, "Laterality"):
        _put(flat, "Laterality", text(flat, "FrameLaterality"))


def _name_position(flat: Dataset) -> None:
    """PatientPosition from the codes that stand for it; left alone where they say something else."""
    for orientation in items(flat, "PatientOrientationCodeSequence")[:1]:
        lying = LYING.get(code_of(orientation, "PatientOrientationModifierCodeSequence")[0])
        entering = ENTERING.get(code_of(flat, "PatientGantryRelationshipCodeSequence")[0])
        if lying and entering and not text(flat, "PatientPosition"):
            _put(flat, "PatientPosition", entering + lying)


def _contrast_agent(flat: Dataset) -> str:
    """The agents that this frame was made with, by the meaning of their codes."""
    agents = items(flat, "ContrastBolusAgentSequence")
    if text(flat, "ContrastBolusAgent") or not agents:
        return ""
    usage = items(flat, "ContrastBolusUsageSequence")
    given = {
        text(one, "ContrastBolusAgentNumber")
        for one in usage
        if text(one, "ContrastBolusAgentAdministered").upper() == "YES"
    }
    named = [
        text(agent, "CodeMeaning") or code_of(agent, "ContrastBolusIngredientCodeSequence")[0]
        for agent in agents
        if not usage or text(agent, "ContrastBolusAgentNumber") in given
    ]
    return " + ".join(name for name in named if name)[:64].rstrip()


def encode_classic(flat: Dataset) -> bytes:
    """The bytes of a classic CT Image Storage header (Part 10, Explicit VR Little Endian) of one frame.

    SOP Instance UID stays that of the object; everything that only a multi-frame object has is left out.

    :raises BrokenInstance: a value cannot be written as what it was read as.
    """
    image = copy_elements(flat, _is_classic)
    _put(image, "SOPClassUID", CTImageStorage)
    _put(image, "ImageType", list(texts(flat, "ImageType")))
    for classic, precise in INTEGER_STRINGS:
        value = number(flat, precise)
        if value is not None and abs(value) < 2**31 and not text(flat, classic):
            _put(image, classic, round(value))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(text(flat, "SOPInstanceUID"))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    file = FileDataset(stream, image, preamble=b"\0" * 128, file_meta=meta)
    file.set_original_encoding(False, True, image.original_character_set)
    try:
        dcmwrite(stream, file, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except UNREADABLE as error:
        raise BrokenInstance(
            f"{label(flat)}: its header holds a value that cannot be written ({type(error).__name__})"
        ) from error
    return stream.getvalue()


def count_elements(flats: Sequence[Dataset]) -> list[int]:
    """How many elements and items the classic header of each frame has, with its sequences."""
    nested: dict[int, int] = {}  # what frames share is counted once
    return [
        sum(1 + _count_nested(flat, tag, nested) for tag in tags_of(flat) if _is_classic(tag))
        for flat in flats
    ]


def _count_nested(data: Dataset, tag: BaseTag, known: dict[int, int]) -> int:
    element = data.get_item(tag)
    if not isinstance(element, DataElement) or element.VR != "SQ":  # parsing has unpacked every sequence
        return 0
    if id(element) not in known:
        known[id(element)] = sum(
            1 + len(item) + sum(_count_nested(item, one, known) for one in tags_of(item))
            for item in element.value or ()
        )
    return known[id(element)]


def _is_classic(tag: BaseTag) -> bool:
    """Below 0008 lie commands and file meta."""
    return tag.group >= 0x0008 and not tag.is_private and keyword_for_tag(tag) not in ENHANCED_ONLY

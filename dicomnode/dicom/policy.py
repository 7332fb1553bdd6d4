"""What becomes of each attribute of the source in a derived CT image: the policy as a table.

KEEP copies the encoded element, byte for byte where its value is text. SET writes our own value.
REMOVE drops what would be a false statement about the new instance. An attribute without a row is kept if the
standard knows it and has not retired it, and dropped otherwise; private elements, overlays and curves are
dropped everywhere, nested sequences included.
"""

from dataclasses import dataclass
from typing import Final, Literal

from pydicom.datadict import dictionary_is_retired, keyword_for_tag
from pydicom.tag import BaseTag

Action = Literal["keep", "set", "remove", "remove-equipment"]

GEOMETRY: Final = "must be identical, or fusion and subtraction break"
DOSE: Final = "describes the acquisition that produced the data"
DATE: Final = "time of the examination"
ORDER: Final = "links to patient and order; never repaired here"
STEP: Final = "describes the acquisition step, not ours"
STALE: Final = "would be wrong for the new pixels"
STATEMENT: Final = "a statement about the source instance"
SCANNER: Final = (
    "General Equipment names what made this instance; the scanner moves to Contributing Equipment"
)


@dataclass(frozen=True)
class Row:
    """One attribute, what happens to it, and why."""

    keyword: str
    action: Action
    why: str


def _rows(action: Action, why: str, keywords: str) -> tuple[Row, ...]:
    return tuple(Row(keyword, action, why) for keyword in keywords.split())


TABLE: Final[tuple[Row, ...]] = (
    *_rows("keep", "CT stays CT", "SOPClassUID Modality SpecificCharacterSet"),
    *_rows("keep", GEOMETRY, "StudyInstanceUID FrameOfReferenceUID PositionReferenceIndicator"),
    *_rows("keep", GEOMETRY, "SynchronizationFrameOfReferenceUID PatientPosition PatientOrientation"),
    *_rows("keep", GEOMETRY, "ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness"),
    *_rows("keep", GEOMETRY, "SliceLocation SpacingBetweenSlices Rows Columns"),
    *_rows(
        "keep", GEOMETRY, "ReconstructionDiameter DataCollectionDiameter ReconstructionTargetCenterPatient"
    ),
    *_rows("keep", GEOMETRY, "GantryDetectorTilt TableHeight AnatomicalOrientationType"),
    *_rows("keep", ORDER, "PatientName PatientID PatientBirthDate PatientSex AccessionNumber StudyID"),
    *_rows("keep", ORDER, "ReferringPhysicianName RequestAttributesSequence StudyDescription"),
    # Retired, and still what many archives know a patient by.
    *_rows("keep", ORDER, "OtherPatientIDs"),
    *_rows("keep", ORDER, "PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence"),
    *_rows("keep", ORDER, "LongitudinalTemporalInformationModified InstitutionName InstitutionAddress"),
    *_rows("keep", "anatomy", "BodyPartExamined AnatomicRegionSequence Laterality ProtocolName"),
    *_rows("keep", DATE, "StudyDate StudyTime AcquisitionDate AcquisitionTime AcquisitionDateTime"),
    *_rows("keep", DATE, "TimezoneOffsetFromUTC"),
    *_rows("keep", DOSE, "KVP CTDIvol CTDIPhantomTypeCodeSequence Exposure ExposureInuAs ExposureTime"),
    *_rows("keep", DOSE, "XRayTubeCurrent SpiralPitchFactor RevolutionTime ConvolutionKernel FilterType"),
    *_rows("keep", DOSE, "SingleCollimationWidth TotalCollimationWidth TableSpeed TableFeedPerRotation"),
    *_rows("keep", DOSE, "ScanOptions AcquisitionNumber IrradiationEventUID AcquisitionUID AcquisitionType"),
    *_rows("keep", DOSE, "ExposureModulationType ContrastBolusAgent"),
    *_rows("keep", "one way from stored values to HU, slice by slice", "RescaleSlope RescaleIntercept"),
    *_rows(
        "keep", "same stored format", "SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored"
    ),
    *_rows("keep", "same stored format", "HighBit PixelRepresentation PixelPaddingValue"),
    *_rows("keep", "same stored format", "PixelPaddingRangeLimit"),
    *_rows("keep", "same units, same display", "WindowCenter WindowWidth WindowCenterWidthExplanation"),
    *_rows("keep", "same units, same display", "VOILUTSequence VOILUTFunction RealWorldValueMappingSequence"),
    *_rows("keep", "once lossy, always lossy", "LossyImageCompression LossyImageCompressionRatio"),
    *_rows("keep", "once lossy, always lossy", "LossyImageCompressionMethod"),
    *_rows("keep", "true of the derived image too", "BurnedInAnnotation SyntheticData QualityControlImage"),
    *_rows("keep", "true of the derived image too", "ReferencedImageSequence InstanceNumber"),
    *_rows("keep", "a face can be rebuilt from thin slices", "RecognizableVisualFeatures"),
    *_rows("set", "derived, still an axial image, with our own term as value 4", "ImageType"),
    *_rows(
        "set", "new objects under deterministic UIDs", "SOPInstanceUID SeriesInstanceUID InstanceCreatorUID"
    ),
    *_rows("set", "sorts behind the source, cannot be mistaken for it", "SeriesNumber SeriesDescription"),
    *_rows("set", "time of processing", "SeriesDate SeriesTime ContentDate ContentTime"),
    *_rows("set", "time of processing", "InstanceCreationDate InstanceCreationTime"),
    *_rows("set", "HU is implied only for ORIGINAL images", "RescaleType"),
    *_rows(
        "set",
        "what was done, in words and codes",
        "DerivationDescription DerivationCodeSequence ImageComments",
    ),
    *_rows("set", "the slice it replaces", "SourceImageSequence ReferencedSeriesSequence"),
    *_rows("set", "scanner and processor, kept by de-identification", "ContributingEquipmentSequence"),
    *_rows("set", "not a cleared product unless the operator says so", "ContentQualification"),
    *_rows("set", "the result", "PixelData"),
    *_rows("remove-equipment", SCANNER, "Manufacturer ManufacturerModelName SoftwareVersions DeviceUID"),
    *_rows("remove-equipment", SCANNER, "DeviceSerialNumber StationName UDISequence GantryID"),
    *_rows("remove-equipment", SCANNER, "ManufacturerDeviceClassUID"),
    *_rows("remove-equipment", SCANNER, "DateOfLastCalibration TimeOfLastCalibration SpatialResolution"),
    *_rows("remove-equipment", SCANNER, "DateOfManufacture DateOfInstallation InstitutionalDepartmentName"),
    *_rows("remove", STEP, "ReferencedPerformedProcedureStepSequence PerformedProcedureStepStartDate"),
    *_rows("remove", STEP, "PerformedProcedureStepStartTime PerformedProcedureStepEndDate"),
    *_rows("remove", STEP, "PerformedProcedureStepEndTime PerformedProcedureStepID"),
    *_rows("remove", STEP, "PerformedProcedureStepDescription PerformedProtocolCodeSequence"),
    *_rows("remove", STEP, "CommentsOnThePerformedProcedureStep SeriesDescriptionCodeSequence"),
    *_rows("remove", STALE, "SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries"),
    *_rows("remove", STALE, "LargestPixelValueInSeries IconImageSequence DigitalSignaturesSequence"),
    *_rows("remove", STALE, "MACParametersSequence EncryptedAttributesSequence DataSetTrailingPadding"),
    *_rows("remove", STALE, "PixelDataProviderURL ExtendedOffsetTable ExtendedOffsetTableLengths"),
    *_rows("remove", STALE, "GraphicAnnotationSequence HistogramSequence"),
    *_rows("remove", STATEMENT, "OriginalAttributesSequence InstanceCoercionDateTime SOPInstanceStatus"),
    *_rows("remove", STATEMENT, "SOPAuthorizationDateTime SOPAuthorizationComment QueryRetrieveView"),
    *_rows(
        "remove", STATEMENT, "AuthorizationEquipmentCertificationNumber ConversionSourceAttributesSequence"
    ),
    *_rows("remove", STATEMENT, "RelatedGeneralSOPClassUID OriginalSpecializedSOPClassUID ConversionType"),
    *_rows(
        "remove", STATEMENT, "RetrieveAETitle RetrieveURL RetrieveURI InstanceAvailability QueryRetrieveLevel"
    ),
    *_rows("remove", STATEMENT, "NumberOfPatientRelatedInstances NumberOfStudyRelatedInstances"),
    *_rows(
        "remove", STATEMENT, "NumberOfSeriesRelatedInstances StorageMediaFileSetID StorageMediaFileSetUID"
    ),
    *_rows("remove", STATEMENT, "InstanceOriginStatus CreatorVersionUID MultiFrameSourceSOPInstanceUID"),
    *_rows("remove", STATEMENT, "ContributingSourcesSequence HL7StructuredDocumentReferenceSequence"),
    *_rows("remove", "private data are removed", "PrivateDataElementCharacteristicsSequence"),
    *_rows("remove", "a saving that the scanner estimated", "EstimatedDoseSaving"),
)

ACTIONS: Final = {row.keyword: row.action for row in TABLE}


MUST_STAND: Final = (
    "PatientPosition",
    "PositionReferenceIndicator",
    "InstanceNumber",
    "SliceThickness",
    "KVP",
    "AcquisitionNumber",
)
"""Type 2 attributes of image and series (PS3.3 A.3.3): where the source lacks one it stands there empty. What
it lacks of patient and study stays away: images of one study must say the same of both."""

SAID_FOR_THE_SOURCE: Final = {"RecognizableVisualFeatures": "YES for a head in thin slices"}
"""Kept like the others; where the source is silent it is said, and when."""


def is_kept(tag: BaseTag, keep_equipment: bool) -> bool:
    """Does this element of the source go over into the derived image as it is?"""
    # Below 0008 lie commands and file meta, above FFFA signatures and padding.
    if tag.is_private or tag.group & 0xFF01 in (0x5000, 0x6000) or tag.group < 0x0008 or tag.group >= 0xFFFA:
        return False
    action = ACTIONS.get(keyword_for_tag(tag))
    if action == "remove-equipment":
        return keep_equipment
    if action is not None:
        return action == "keep"
    try:
        return not dictionary_is_retired(tag)
    except KeyError:
        return False

"""Makers of multi-frame CT objects from the files of a classic series: the same pixels, positions and dose.

    from tests.makers import make_series
    from tests.multiframe_makers import make_enhanced, make_legacy
    path = make_enhanced(tmp_path / "enhanced.dcm", make_series(tmp_path / "series"))

`make_legacy` asks highdicom for a Legacy Converted Enhanced CT; `make_enhanced` builds a true Enhanced CT
(PS3.3 A.38.1), which highdicom cannot.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests.makers import make_uid

OffsetTable = Literal["basic", "extended", "none"]
Change = Callable[[Dataset], None]

ROTATION_SECONDS = 0.5
"""As `tests.makers` writes its series."""

COPIED = (
    *("SpecificCharacterSet", "StudyInstanceUID", "FrameOfReferenceUID", "PositionReferenceIndicator"),
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"),
    *("ReferringPhysicianName", "StudyDate", "StudyTime", "SeriesDate", "SeriesTime", "ContentDate"),
    *("ContentTime", "Modality", "SeriesDescription", "Manufacturer", "ManufacturerModelName"),
    *(
        "PatientPosition",
        "BurnedInAnnotation",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "Rows",
        "Columns",
    ),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
)


def make_legacy(path: Path, paths: Sequence[Path], change: Change | None = None) -> Path:
    """A Legacy Converted Enhanced CT of a classic series, as highdicom makes it."""
    image = LegacyConvertedEnhancedCTImage(
        [dcmread(one) for one in paths],
        series_instance_uid=make_uid("legacy series", path.name),
        series_number=5,
        sop_instance_uid=make_uid("legacy", path.name),
        instance_number=1,
    )
    if change is not None:
        change(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path)
    return path


def make_enhanced(
    path: Path,
    paths: Sequence[Path],
    *,
    frame_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
    modulated: bool = True,
    transfer_syntax: str = ExplicitVRLittleEndian,
    offset_table: OffsetTable = "basic",
    fragments: int = 1,
    series_uid: str | None = None,
    part: tuple[int, int, int] | None = None,
    change: Change | None = None,
) -> Path:
    """Write one Enhanced CT object whose frames are the images of a classic series, and return its path.

    * `modulated`: CTExposureSequence is per frame; otherwise shared, with the values of the first image.
    * `offset_table` and `fragments` (a frame) say how compressed frames are laid down.
    * `part` makes it a part of a concatenation: (number, of how many, frames in the parts before).
    * `change(dataset)` edits the data set just before it is encoded and written.
    """
    images = [dcmread(one) for one in paths]
    data = _object(images, path, series_uid, part, frame_type)
    data.SharedFunctionalGroupsSequence = DicomSequence([_shared(images[0], frame_type, modulated)])
    data.PerFrameFunctionalGroupsSequence = DicomSequence(
        [_per_frame(image, index + (part[2] if part else 0), modulated) for index, image in enumerate(images)]
    )
    data.NumberOfFrames = len(images)
    kind = ">i2" if transfer_syntax == ExplicitVRBigEndian else "<i2"
    pixels = b"".join(image.pixel_array.astype(kind, casting="unsafe").tobytes() for image in images)
    data.add_new("PixelData", "OW", pixels)
    _save(data, path, UID(transfer_syntax), offset_table, fragments, change)
    return path


def _object(
    images: Sequence[Dataset],
    path: Path,
    series_uid: str | None,
    part: tuple[int, int, int] | None,
    frame_type: Sequence[str],
) -> Dataset:
    data = Dataset()
    for keyword in COPIED:
        if keyword in images[0]:
            data[keyword] = images[0][keyword]
    data.SOPClassUID = EnhancedCTImageStorage
    data.SOPInstanceUID = make_uid("enhanced", path.name, images[0].SeriesInstanceUID, part)
    data.SeriesInstanceUID = series_uid or make_uid("enhanced series", images[0].SeriesInstanceUID)
    data.SeriesNumber, data.InstanceNumber = 4, part[0] if part else 1
    data.DeviceSerialNumber, data.SoftwareVersions = "4711", "VA1"
    data.ImageType = list(frame_type)
    data.AcquisitionDateTime, data.AcquisitionDuration = "20240102101500", 5.0
    data.AcquisitionNumber = 1
    data.ContentQualification = "PRODUCT"
    data.PixelPresentation, data.VolumetricProperties = "MONOCHROME", "VOLUME"
    data.VolumeBasedCalculationTechnique = "NONE"
    data.PresentationLUTShape, data.LossyImageCompression = "IDENTITY", "00"
    data.AcquisitionContextSequence = DicomSequence()
    _dimensions(data, images[0])
    if part is not None:
        data.ConcatenationUID = make_uid("concatenation", data.SeriesInstanceUID)
        data.SOPInstanceUIDOfConcatenationSource = make_uid("whole", data.SeriesInstanceUID)
        data.InConcatenationNumber, data.InConcatenationTotalNumber = part[:2]
        data.ConcatenationFrameOffsetNumber = part[2]
    return data


def lie(data: Dataset, lying: tuple[str, str], entering: tuple[str, str]) -> None:
    """Say how the patient lies by codes (value, meaning) in place of PatientPosition."""
    del data.PatientPosition
    data.PatientOrientationCodeSequence = DicomSequence([_code("102538003", "SCT", "recumbent")])
    modifier = DicomSequence([_code(lying[0], "SCT", lying[1])])
    data.PatientOrientationCodeSequence[0].PatientOrientationModifierCodeSequence = modifier
    data.PatientGantryRelationshipCodeSequence = DicomSequence([_code(entering[0], "SCT", entering[1])])


def _dimensions(data: Dataset, image: Dataset) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = make_uid("dimensions", image.SeriesInstanceUID)
    data.DimensionOrganizationSequence = DicomSequence([organization])
    data.DimensionIndexSequence = DicomSequence()
    for keyword in (0x00209056, 0x00209057):
        index = Dataset()
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer = keyword
        index.FunctionalGroupPointer = 0x00209111
        data.DimensionIndexSequence.append(index)


def _shared(image: Dataset, frame_type: Sequence[str], modulated: bool) -> Dataset:
    group = Dataset()
    _put(group, "PixelMeasuresSequence", image, "PixelSpacing", "SliceThickness")
    _put(group, "PlaneOrientationSequence", image, "ImageOrientationPatient")
    _put(group, "PixelValueTransformationSequence", image, "RescaleIntercept", "RescaleSlope", "RescaleType")
    _put(group, "FrameVOILUTSequence", image, "WindowCenter", "WindowWidth")
    kind = _macro(group, "CTImageFrameTypeSequence")
    kind.FrameType = list(frame_type)
    kind.PixelPresentation, kind.VolumetricProperties = "MONOCHROME", "VOLUME"
    kind.VolumeBasedCalculationTechnique = "NONE"
    anatomy = _macro(group, "FrameAnatomySequence")
    anatomy.AnatomicRegionSequence = DicomSequence([_code("816094009", "SCT", "Chest")])
    anatomy.FrameLaterality = "U"
    _macro(group, "IrradiationEventIdentificationSequence").IrradiationEventUID = make_uid("event")
    _acquisition(group, image)
    if not modulated:
        _exposure(group, image)
    return group


def _acquisition(group: Dataset, image: Dataset) -> None:
    _macro(group, "CTAcquisitionTypeSequence").AcquisitionType = "SPIRAL"
    group.CTAcquisitionTypeSequence[0].ConstantVolumeFlag = "NO"
    group.CTAcquisitionTypeSequence[0].FluoroscopyFlag = "NO"
    details = _macro(group, "CTAcquisitionDetailsSequence")
    details.RotationDirection, details.RevolutionTime = "CW", ROTATION_SECONDS
    details.SingleCollimationWidth, details.TotalCollimationWidth = 0.6, image.TotalCollimationWidth
    details.TableHeight, details.GantryDetectorTilt, details.DataCollectionDiameter = "150", 0.0, "500"
    table = _macro(group, "CTTableDynamicsSequence")
    table.SpiralPitchFactor = image.SpiralPitchFactor
    table.TableFeedPerRotation = image.SpiralPitchFactor * image.TotalCollimationWidth
    table.TableSpeed = table.TableFeedPerRotation / ROTATION_SECONDS
    geometry = _macro(group, "CTGeometrySequence")
    geometry.DistanceSourceToDetector, geometry.DistanceSourceToDataCollectionCenter = "1040", 570.0
    rays = _macro(group, "CTXRayDetailsSequence")
    rays.KVP, rays.FocalSpots = image.KVP, [0.7, 0.7]
    rays.FilterType, rays.FilterMaterial = "WEDGE", "TITANIUM"
    reconstruction = _macro(group, "CTReconstructionSequence")
    reconstruction.ConvolutionKernel = image.ConvolutionKernel
    reconstruction.ConvolutionKernelGroup = "SOFT_TISSUE"
    reconstruction.ReconstructionAlgorithm = "FILTER_BACK_PROJ"
    reconstruction.ReconstructionDiameter = f"{float(image.PixelSpacing[0]) * image.Columns:.6g}"
    reconstruction.ReconstructionPixelSpacing = [float(one) for one in image.PixelSpacing]
    reconstruction.ReconstructionAngle, reconstruction.ImageFilter = 360.0, "NONE"
    position = _macro(group, "CTPositionSequence")
    position.TablePosition = 0.0
    position.DataCollectionCenterPatient = [0.0, 0.0, 0.0]
    position.ReconstructionTargetCenterPatient = [0.0, 0.0, 0.0]


def _per_frame(image: Dataset, index: int, modulated: bool) -> Dataset:
    group = Dataset()
    content = _macro(group, "FrameContentSequence")
    content.StackID, content.InStackPositionNumber = "1", index + 1
    content.DimensionIndexValues = [1, index + 1]
    content.FrameAcquisitionNumber = 1
    content.FrameAcquisitionDateTime = content.FrameReferenceDateTime = f"202401021015{index % 60:02d}.5"
    content.FrameAcquisitionDuration = 625.0
    _put(group, "PlanePositionSequence", image, "ImagePositionPatient")
    if modulated:
        _exposure(group, image)
    return group


def _exposure(group: Dataset, image: Dataset) -> None:
    """ExposureTimeInms of a spiral is rotation / pitch (PS3.3 C.8.15.3.8)."""
    exposure = _macro(group, "CTExposureSequence")
    exposure.ExposureTimeInms = 1000 * ROTATION_SECONDS / image.SpiralPitchFactor
    exposure.ExposureInmAs = float(image.Exposure)
    exposure.XRayTubeCurrentInmA = float(image.Exposure) * 1000 / exposure.ExposureTimeInms
    exposure.ExposureModulationType = "ANGULAR"
    exposure.CTDIvol = image.CTDIvol
    exposure.CTDIPhantomTypeCodeSequence = image.CTDIPhantomTypeCodeSequence


def _macro(group: Dataset, keyword: str) -> Dataset:
    item = Dataset()
    setattr(group, keyword, DicomSequence([item]))
    return item


def _put(group: Dataset, keyword: str, image: Dataset, *names: str) -> None:
    item = _macro(group, keyword)
    for name in names:
        item[name] = image[name]


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _save(
    data: Dataset, path: Path, syntax: UID, offset_table: OffsetTable, fragments: int, change: Change | None
) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    file = FileDataset(str(path), data, preamble=b"\0" * 128, file_meta=meta)
    if syntax.is_compressed:
        file.compress(syntax, generate_instance_uid=False)
        frames = list(generate_frames(file.PixelData, number_of_frames=file.NumberOfFrames))
        if offset_table == "extended":
            file.PixelData, file.ExtendedOffsetTable, file.ExtendedOffsetTableLengths = encapsulate_extended(
                frames
            )
        else:
            file.PixelData = encapsulate(frames, fragments, has_bot=offset_table == "basic")
    if change is not None:
        change(file)
        meta.MediaStorageSOPClassUID = file.SOPClassUID
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(
        path,
        file,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )

"""Everything that can go wrong, as one tree.

Each class says once whether trying again can help (`retry`) and, where a series is turned
away, which named rule turned it away (`rule`). Messages name the thing and the way out.
"""

from typing import ClassVar


class DicomnodeError(Exception):
    """Root of the tree."""

    retry: ClassVar[bool] = False


class SettingsError(DicomnodeError):
    """The configuration is wrong; the message starts with the path of the key."""


# --- spool -----------------------------------------------------------------------------


class SpoolError(DicomnodeError):
    """The spool folder cannot do what was asked."""


class DiskFull(SpoolError):
    """Less space is free than the configured reserve."""

    retry = True


# --- network ---------------------------------------------------------------------------


class NetworkError(DicomnodeError):
    """A DICOM peer did not do what was asked."""


class PeerUnreachable(NetworkError):
    """No association: connection refused, timed out, or rejected for the moment."""

    retry = True


class PeerBusy(NetworkError):
    """The peer answered a status that asks to come back later (A7xx), or hung up."""

    retry = True


class DeliveryInterrupted(PeerBusy):
    """Some instances are there already, the rest must be sent later.

    `sent` are the SOP Instance UIDs the peer keeps, `refused` those it will never take, with its status.
    """

    def __init__(self, message: str, sent: tuple[str, ...], refused: tuple[tuple[str, int], ...]) -> None:
        super().__init__(message)
        self.sent = sent
        self.refused = refused


class PeerRefused(NetworkError):
    """The peer refused for good: AE title unknown, class not supported, permanent status."""


class SourceUnknown(NetworkError):
    """The configuration has no archive of this name."""


class SeriesUnknown(NetworkError):
    """An archive does not have what it was asked for."""


class InstanceRefused(NetworkError):
    """An instance cannot be filed. `status` is the DIMSE status to answer with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


# --- series ----------------------------------------------------------------------------


class SeriesRefused(DicomnodeError):
    """A series that is kept but not enhanced. `rule` is its short, stable name."""

    rule: ClassVar[str] = "refused"


class NotCt(SeriesRefused):
    """An image is not a CT image of a class that is enhanced."""

    rule = "not-ct"


class Localizer(SeriesRefused):
    """An image is a scout, surview or topogram."""

    rule = "localizer"


class NotAxial(SeriesRefused):
    r"""An image is no cross-section as reconstructed: a reformat, a projection, a rendering, a dose screen,
    sagittal or coronal, or `DERIVED\SECONDARY`."""

    rule = "not-axial"


class AlreadyEnhanced(SeriesRefused):
    """An image carries the marks of a dicomnode: its own result came back. It is kept and ignored."""

    rule = "already-enhanced"


class Undecodable(SeriesRefused):
    """The transfer syntax has no decoder here, or the compressed pixel data cannot be decoded."""

    rule = "undecodable"


class BrokenInstance(SeriesRefused):
    """A file is missing, cut off, not DICOM, too large, or its headers contradict each other."""

    rule = "broken-instance"


class NotHounsfield(SeriesRefused):
    """Stored values do not map to Hounsfield units: no usable rescale, another Rescale Type, a virtual
    monoenergetic or material image."""

    rule = "not-hounsfield"


class BurnedInText(SeriesRefused):
    """Burned In Annotation is YES: text in the pixels would be smoothed into something else."""

    rule = "burned-in-text"


class MixedSeries(SeriesRefused):
    """Images that belong together differ where one stack has one value, and cannot be told apart safely."""

    rule = "mixed-series"


class GapInSeries(SeriesRefused):
    """Positions are missing between the first slice and the last."""

    rule = "gap-in-series"


class DuplicatePosition(SeriesRefused):
    """Two images lie at one position, or under one SOP Instance UID, and nothing tells them apart."""

    rule = "duplicate-position"


class UnsupportedGeometry(SeriesRefused):
    """Position, orientation or spacing is missing or unusable; the ways to be no even stack of square pixels
    across the long axis are below."""

    rule = "unsupported-geometry"


class GantryTilt(UnsupportedGeometry):
    """The planes are tilted, or shifted against each other as under a tilted gantry."""

    rule = "gantry-tilt"


class UnevenSpacing(UnsupportedGeometry):
    """The slices do not lie in equal steps."""

    rule = "uneven-spacing"


class PixelsNotSquare(UnsupportedGeometry):
    """Rows and columns are not equally far apart."""

    rule = "pixels-not-square"


class DoseUnknown(SeriesRefused):
    """The headers tell no usable dose, and the configuration says to refuse such series."""

    rule = "dose-unknown"


class ProjectionSeries(SeriesRefused):
    """Measured projections (DICOM-CT-PD) in a form that is not read; narrower refusals are below."""

    rule = "measured-projections"


class NoRawMode(ProjectionSeries):
    """The projections could be read; no engine takes them."""

    rule = "no-raw-mode"


class HelicalProjections(ProjectionSeries):
    """A helical scan: its projections would have to be interpolated along the patient first."""

    rule = "helical-projections"


class MissingViews(ProjectionSeries):
    """A turn of the tube is not whole: views are missing, or there are too few."""

    rule = "missing-views"


class UnknownDetector(ProjectionSeries):
    """A detector of a shape or beam that the geometry does not know."""

    rule = "unknown-detector"


class SpectralProjections(ProjectionSeries):
    """More than one energy spectrum or bin: attenuation has no single scale."""

    rule = "spectral-projections"


class InconsistentProjections(ProjectionSeries):
    """Elements are missing, cannot be read or contradict each other."""

    rule = "inconsistent-projections"


class ConeTooWide(ProjectionSeries):
    """The beam is so wide along the patient that its rays leave the slice."""

    rule = "cone-too-wide"


class ProjectionsTooLarge(ProjectionSeries):
    """More projection data than are worked at once."""

    rule = "projections-too-large"


class HeldByQuality(SeriesRefused):
    """The result was made and judged, and must not leave."""

    rule = "held-by-quality"


class NotADoseReport(DicomnodeError):
    """A file from which no dose of a CT can be read; it is kept and feeds no series."""


class DecoderUnavailable(DicomnodeError):
    """The process that decompresses images cannot be had at the moment."""

    retry = True


# --- jobs ------------------------------------------------------------------------------


class JobError(DicomnodeError):
    """A job cannot be made, found or started again."""


class JobUnknown(JobError):
    """There is no such job."""


# --- engines ---------------------------------------------------------------------------


class ModelError(DicomnodeError):
    """A model folder cannot be used."""


class NoSpread(ModelError):
    """An uncertainty would be zero everywhere: nothing is drawn, so every seed gives the same image."""


class WeightsMismatch(ModelError):
    """The weights are not the ones their card names."""


class DeviceFull(DicomnodeError):
    """The memory of the GPU does not hold the work; it may once other work on it has ended."""

    retry = True


class TrainingError(DicomnodeError):
    """Training or evaluation cannot go on."""


class SourceUnavailable(DicomnodeError):
    """Data that is not shipped (an example series, what a model is trained on) cannot be had."""


class NoTestSeries(TrainingError):
    """A folder holds no CT series that a model can be measured on."""


class AlreadyLowDose(TrainingError):
    """A series is no normal-dose scan, so lower doses of it mean nothing."""


class HeldOutScan(TrainingError):
    """A source of a corpus holds what models are measured on."""


class AlreadySeen(TrainingError):
    """A model would be measured on what it was trained on."""


class NotMeasurable(DicomnodeError):
    """A figure of image quality that these images cannot give: too few, too small or without its object."""

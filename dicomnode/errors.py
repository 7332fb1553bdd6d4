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
    rule = "not-ct"


class Localizer(SeriesRefused):
    rule = "localizer"


class NotAxial(SeriesRefused):
    rule = "not-axial"


class AlreadyEnhanced(SeriesRefused):
    rule = "already-enhanced"


class Undecodable(SeriesRefused):
    rule = "undecodable"


class BrokenInstance(SeriesRefused):
    rule = "broken-instance"


class NotHounsfield(SeriesRefused):
    rule = "not-hounsfield"


class BurnedInText(SeriesRefused):
    rule = "burned-in-text"


class MixedSeries(SeriesRefused):
    rule = "mixed-series"


class GapInSeries(SeriesRefused):
    rule = "gap-in-series"


class DuplicatePosition(SeriesRefused):
    rule = "duplicate-position"


class UnsupportedGeometry(SeriesRefused):
    rule = "unsupported-geometry"


class DoseUnknown(SeriesRefused):
    rule = "dose-unknown"


class HeldByQuality(SeriesRefused):
    """The result was made and judged, and must not leave."""

    rule = "held-by-quality"


class DecoderUnavailable(DicomnodeError):
    """The process that decompresses images cannot be had at the moment."""

    retry = True


# --- jobs ------------------------------------------------------------------------------


class JobError(DicomnodeError):
    """A job cannot be made, found or started again."""


# --- engines ---------------------------------------------------------------------------


class ModelError(DicomnodeError):
    """A model folder cannot be used."""


class WeightsMismatch(ModelError):
    """The weights are not the ones their card names."""


class TrainingError(DicomnodeError):
    """Training or evaluation cannot go on."""

"""Asking an archive: the dose reports of a study, and how many images a series has (Query/Retrieve, PS3.4 C).

Study Root C-FIND, and C-GET, which brings what is asked for over the same association: no port of ours
has to be known to the archive. A few messages for a study, so pynetdicom's own association does.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context, build_role

from dicomnode.checked import is_uid
from dicomnode.errors import DicomnodeError, NetworkError, PeerBusy, PeerRefused, PeerUnreachable
from dicomnode.network import protocol, requestor
from dicomnode.network.filing import Request
from dicomnode.network.requestor import USUAL_PATIENCE, Patience
from dicomnode.settings import Source

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
QUERY_CLASSES: Final = (STUDY_ROOT_FIND, STUDY_ROOT_GET)
PENDING: Final = (0xFF00, 0xFF01)
REFUSED_BY_US: Final = 0xA700
"""What a source is answered whose dose report cannot be kept."""
SYNTAXES: Final = protocol.UNCOMPRESSED
"""Proposed for every class, in each context."""

_log: Final = logging.getLogger(__name__)


def series_related_instances(
    source: Source, calling_ae: str, study_uid: str, series_uid: str, patience: Patience = USUAL_PATIENCE
) -> int | None:
    """Number of Series Related Instances (0020,1209); None where the source knows no such series or number.

    Raises PeerUnreachable, PeerRefused, PeerBusy.
    """
    wanted = count_keys(study_uid, series_uid)
    with _association(source, calling_ae, patience) as association:
        answers = list(_find(association, source, wanted))
    counts = [_count(answer) for answer in answers if answer.get("SeriesInstanceUID") == series_uid]
    return counts[0] if counts else None


def fetch_dose_reports(
    source: Source,
    calling_ae: str,
    study_uid: str,
    keep: Callable[[Request], object],
    patience: Patience = USUAL_PATIENCE,
) -> int:
    """Bring the dose reports of a study; `keep` files each (`Filing.file`) before the source is told.

    Returns how many were kept. Series of modality SR are asked for, of which only Radiation Dose SRs are
    negotiated: the source cannot send any other, and ends the C-GET of a series of those with a failure,
    which keeps no other series back. What `keep` refuses with a DicomnodeError is answered A700.
    Raises PeerUnreachable, PeerRefused; PeerBusy where a report was not kept, or none came and a C-GET
    failed.
    """
    wanted = dose_report_keys(study_uid)
    kept: list[str] = []
    lost: list[str] = []
    failures: list[PeerBusy] = []

    def on_store(event: evt.Event) -> int:
        request = _request(event, source)
        try:
            keep(request)
        except DicomnodeError as error:
            _log.warning("%s: a dose report cannot be kept (%s)", source.name, type(error).__name__)
            lost.append(request.affected_sop_instance_uid)
            return REFUSED_BY_US
        kept.append(request.affected_sop_instance_uid)
        return protocol.SUCCESS

    with _association(source, calling_ae, patience, on_store) as association:
        answers = list(_find(association, source, wanted))
        # Not every archive heeds a key that it need not know: the modality is looked at again here.
        named = (str(one.get("SeriesInstanceUID")) for one in answers if one.get("Modality") == "SR")
        series = [uid for uid in named if is_uid(uid)]
        for series_uid in series:
            try:
                _get(association, source, _series_level(study_uid, series_uid))
            except PeerBusy as failure:
                failures.append(failure)
                if not association.is_established:
                    raise
    if failures and (lost or not kept):
        raise failures[0]
    return len(set(kept))


def count_keys(study_uid: str, series_uid: str) -> Dataset:
    """What a source is asked for: how many images it has of a series."""
    wanted = _series_level(study_uid, series_uid)
    wanted.NumberOfSeriesRelatedInstances = None
    return wanted


def dose_report_keys(study_uid: str) -> Dataset:
    """What a source is asked for: the series of a study that may hold dose reports."""
    wanted = _series_level(study_uid, "")
    wanted.Modality = "SR"
    return wanted


def _series_level(study_uid: str, series_uid: str) -> Dataset:
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "SERIES"
    wanted.StudyInstanceUID = study_uid
    wanted.SeriesInstanceUID = series_uid
    return wanted


def _count(answer: Dataset) -> int | None:
    try:
        count = int(answer.get("NumberOfSeriesRelatedInstances"))
    except (TypeError, ValueError):
        return None
    return count if count > 0 else None


def _find(association: Association, source: Source, wanted: Dataset) -> Iterator[Dataset]:
    for status, answer in association.send_c_find(wanted, STUDY_ROOT_FIND):
        if _pending(status, source) and answer is not None:
            yield answer


def _get(association: Association, source: Source, wanted: Dataset) -> None:
    for status, _ in association.send_c_get(wanted, STUDY_ROOT_GET):
        _pending(status, source)


def _pending(status: Dataset, source: Source) -> bool:
    """Whether more answers follow. Raises PeerBusy for a failure, and for a peer that has hung up."""
    if "Status" not in status:
        raise PeerBusy(f"{source.name}: the peer ended the association instead of answering")
    value = int(status.Status)
    if value in PENDING:
        return True
    if not protocol.stored(value):  # success or a warning, as for C-STORE
        raise PeerBusy(f"{source.name}: the query ended with status {value:04X}")
    return False


def _request(event: evt.Event, source: Source) -> Request:
    context, store = event.context, event.request
    assert isinstance(store, C_STORE)
    return Request(
        affected_sop_class_uid=str(store.AffectedSOPClassUID),
        affected_sop_instance_uid=str(store.AffectedSOPInstanceUID),
        context_sop_class_uid=str(context.abstract_syntax),
        transfer_syntax_uid=str(context.transfer_syntax),
        calling_ae=source.ae_title,
        data_set=store.DataSet.getvalue() if store.DataSet is not None else b"",
    )


@contextmanager
def _association(
    source: Source, calling_ae: str, patience: Patience, on_store: Callable[[evt.Event], int] | None = None
) -> Iterator[Association]:
    """An association with a source; for C-GET we are the one that dose reports may be stored at."""
    protocol.hush_pynetdicom()
    entity = AE(calling_ae)
    entity.implementation_class_uid = UID(protocol.IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = protocol.IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = patience.connect_seconds
    entity.acse_timeout = patience.negotiation_seconds
    entity.dimse_timeout = entity.network_timeout = patience.answer_seconds
    classes = protocol.DOSE_REPORT_CLASSES if on_store is not None else ()
    queries = QUERY_CLASSES if on_store is not None else (STUDY_ROOT_FIND,)
    association = entity.associate(
        source.host,
        source.port,
        contexts=[build_context(uid, list(SYNTAXES)) for uid in (*queries, *classes)],
        ae_title=source.ae_title,
        max_pdu=requestor.OUR_LONGEST_PDU,
        ext_neg=[build_role(UID(uid), scp_role=True) for uid in classes],
        evt_handlers=[(evt.EVT_C_STORE, on_store)] if on_store is not None else [],
    )
    if not association.is_established:
        raise _no_association(association, source)
    try:
        yield association
    except ValueError as error:  # pynetdicom: the context that a message needs was not accepted
        raise PeerRefused(f"{source.name}: the peer does not accept Study Root queries") from error
    except RuntimeError as error:  # pynetdicom: the peer has hung up between two messages
        raise PeerBusy(f"{source.name}: the peer ended the association before it was asked") from error
    finally:
        if association.is_established:
            association.release()


def _no_association(association: Association, source: Source) -> NetworkError:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None and answer.result == 0x01:
        return PeerRefused(f"{source.name}: the peer rejects associations from us for good; is the AE known?")
    where = f"{source.host}:{source.port}"
    return PeerUnreachable(f"{source.name}: no association with {source.ae_title} at {where}")

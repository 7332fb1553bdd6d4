"""A node under a stream of hostile instances: it answers every one, stays alive, and still does its work."""

import io
import time
from collections import Counter
from pathlib import Path

import pytest
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import CTImageStorage

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.network import part10
from dicomnode.node import Node
from tests.fuzz.mutations import CANARY
from tests.fuzz.mutator import mutate
from tests.journey.scene import Pacs, low_dose_series, send_to, settings_for, wait_until
from tests.makers import make_series, phantom

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLSLossless,
)
HOSTILE = 200


def hostile(folder: Path, seed: int) -> tuple[str, str, bytes]:
    """(transfer syntax, SOP Instance UID to claim, data set) of an image of its own, mutated."""
    syntax = SYNTAXES[seed % len(SYNTAXES)]
    image = phantom(1, 64, 64, noise_hu=60.0, seed=seed)
    path = make_series(folder / str(seed), image, transfer_syntax=syntax, ctdivol_mgy=1.0)[0]
    meta = part10.read_meta(path)
    original = path.read_bytes()
    mutated, _ = mutate(original, "journey", seed)
    # The file meta information does not travel: what is left of the data set does.
    frame = original[: meta.data_set_at]
    data_set = mutated[len(frame) :] if mutated.startswith(frame) else mutated
    return str(syntax), meta.sop_instance_uid, data_set


class Sender:
    """Sends anything as a CT image, over one association for each transfer syntax at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: dict[str, Association] = {}

    def send(self, syntax: str, uid: str, data_set: bytes) -> int | None:
        association = self._association(syntax)
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CTImageStorage, uid
        request.DataSet = io.BytesIO(data_set)
        association._reactor_checkpoint.clear()
        while not association._is_paused:
            time.sleep(0.0001)
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        return None if answer is None else int(answer.Status)

    def _association(self, syntax: str) -> Association:
        if syntax not in self._open or not self._open[syntax].is_established:
            entity = AE("SCANNER")
            entity.add_requested_context(CTImageStorage, syntax)
            association = entity.associate("127.0.0.1", self._port, ae_title="DICOMNODE")
            assert association.is_established, "the node takes no association any more"
            self._open[syntax] = association
        return self._open[syntax]

    def release(self) -> None:
        for association in self._open.values():
            association.release()


def test_a_node_under_hostile_instances_answers_and_goes_on(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tmp_path, pacs.port, completeness={"quiet_seconds": 0.5, "give_up_seconds": 0.5})
    with Node(settings, engine=engine) as node:
        sender = Sender(node.port)
        sent = [hostile(tmp_path / "made", seed) for seed in range(HOSTILE)]
        answers = [sender.send(*one) for one in sent]
        sender.release()
        # A request without any data set is none (PS3.7 9.1.1.1): pynetdicom breaks that association off.
        unanswered = [seed for seed in range(HOSTILE) if answers[seed] is None and sent[seed][2]]
        assert not unanswered, f"the instances of seeds {unanswered} were not answered"
        statuses = Counter(answers)
        assert statuses[0x0000] > HOSTILE / 4
        assert statuses[0xC000] > HOSTILE / 20

        good = low_dose_series(tmp_path / "good", seed=1)
        assert len(send_to(node.port, good).sent) == len(good)
        wait_until(
            lambda: pacs.reports() and all(job.final for job in node.jobs()) and len(node.jobs()) > 20,
            600.0,
            told=lambda: Counter(job.status for job in node.jobs()),
        )
        jobs = node.jobs()

    ended = Counter(job.status for job in jobs)
    failed = [job.reason for job in jobs if job.status not in ("done", "refused", "held")]
    assert not failed, failed
    assert ended["refused"] > 5
    assert sum(job.status == "done" and job.destinations[0].total == 6 for job in jobs) == 1, "the good one"
    assert not [record for record in caplog.records if record.exc_info], "a traceback in the log"
    assert CANARY not in caplog.text
    assert not [job.job_id for job in jobs if CANARY in (job.reason or "")]

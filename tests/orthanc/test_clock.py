"""The clock of a server is set back: nothing waits until it is that late once more."""

import json
from typing import Any, cast

import pytest
from dicomnode_plugin.archive import Archive
from dicomnode_plugin.desk import Desk
from dicomnode_plugin.ledger import PropertyLedger
from dicomnode_plugin.node import NodeTrouble
from dicomnode_plugin.settings import Settings

from tests.orthanc.doubles import Database, OldSdk

HOUR_SECONDS = 3600.0
SERIES = "11111111-11111111-11111111-11111111-11111111"
HEADER = {
    "0008,0016": "1.2.840.10008.5.1.4.1.1.2",
    "0008,0060": "CT",
    "0008,0008": "ORIGINAL\\PRIMARY\\AXIAL",
}


class OneSeries(OldSdk):
    """An Orthanc with one CT series, and a modality that takes no connection."""

    def __init__(self) -> None:
        super().__init__(Database())
        self.attempts = 0
        self.metadata: dict[str, str] = {}

    def RestApiGet(self, uri: str) -> bytes:
        if uri.startswith("/instances/"):
            return json.dumps(HEADER).encode()
        if "/metadata/" in uri:
            if uri not in self.metadata:
                raise RuntimeError(17)
            return self.metadata[uri].encode()
        told = {"ID": SERIES, "MainDicomTags": {"Modality": "CT"}, "Instances": ["a", "b", "c"]}
        return json.dumps(told).encode()

    def RestApiPut(self, uri: str, body: str) -> bytes:
        self.metadata[uri] = body
        return b""

    def RestApiPost(self, uri: str, body: str) -> bytes:
        self.attempts += 1
        raise RuntimeError(9, "no connection")


def test_an_attempt_is_due_after_its_pause_though_the_clock_was_set_back_an_hour() -> None:
    sdk, now = OneSeries(), [100 * HOUR_SECONDS]
    archive: Any = Archive(sdk)
    settings = Settings(modality="dicomnode", retry_seconds=10.0)
    desk = Desk(settings, archive, PropertyLedger(sdk), None, lambda words: None, lambda: now[0])
    desk.consider(SERIES)
    desk.work()
    assert sdk.attempts == 1
    now[0] += 5
    desk.work()
    assert sdk.attempts == 1, "its pause is not over"
    now[0] -= HOUR_SECONDS
    desk.work()
    now[0] += 11
    desk.work()
    assert sdk.attempts == 2


class Flapping:
    """A node that goes and comes back all the time, and has no room."""

    def __init__(self) -> None:
        self.up, self.asked = True, 0

    def health(self) -> str:
        self.up = not self.up
        if not self.up:
            raise NodeTrouble("the node is away")
        return ""

    def fetch(self, source: str, study_uid: str, series_uid: str) -> None:
        self.asked += 1
        raise NodeTrouble("the disk is below its reserve", 503)


def test_a_node_that_flaps_is_given_up_after_as_long_as_any_other_and_not_before() -> None:
    sdk, node, now = OneSeries(), Flapping(), [100 * HOUR_SECONDS]
    archive: Any = Archive(sdk)
    settings = Settings(mode="pull", source="here", url="http://127.0.0.1:1", give_up_days=1.0 / 24.0)
    desk = Desk(settings, archive, PropertyLedger(sdk), cast(Any, node), lambda words: None, lambda: now[0])
    desk.consider(SERIES)
    began = now[0]

    def work_until(seconds: float) -> Any:
        while now[0] - began < seconds:
            now[0] += desk.work()
        return archive.record(SERIES)

    waiting = work_until(2900.0)
    assert node.asked > 20, "more often than the pauses of that time let"
    assert waiting.state == "waiting"
    assert waiting.attempts == node.asked, "the number that people read is the number of attempts"
    assert waiting.paused_seconds == pytest.approx(waiting.due - began, abs=10.0)
    gone = work_until(3700.0)
    assert gone.state == "failed"
    assert "given up" in gone.words

"""The clock of a server is set back: nothing waits until it is that late once more."""

import json
from typing import Any

from dicomnode_plugin.archive import Archive
from dicomnode_plugin.desk import Desk
from dicomnode_plugin.ledger import PropertyLedger
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

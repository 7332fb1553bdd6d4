"""One contract for both ways of keeping what is still to do."""

from typing import cast

import pytest
from dicomnode_plugin.archive import Archive, Sdk
from dicomnode_plugin.ledger import Ledger, PropertyLedger, QueueLedger, make_ledger
from hypothesis import given
from hypothesis import strategies as st

from tests.orthanc.doubles import Database, NewSdk, OldSdk

BOTH = pytest.mark.parametrize("sdk", [OldSdk, NewSdk])


class Clock:
    """Seconds, as told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(ledger: Ledger) -> list[str]:
    """All that can be taken, acknowledged."""
    found = []
    while (one := ledger.take()) is not None:
        found.append(one[0])
        ledger.acknowledge(one[1])
    return found


def test_the_better_way_is_found_by_looking() -> None:
    assert isinstance(make_ledger(NewSdk(Database())), QueueLedger)
    assert isinstance(make_ledger(OldSdk(Database())), PropertyLedger)


def test_a_database_without_queues_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("the database backend has no queues")

    monkeypatch.setattr(NewSdk, "GetQueueSize", refuse)
    assert isinstance(make_ledger(NewSdk(Database())), PropertyLedger)


@BOTH
@given(st.lists(st.text(min_size=1, max_size=8).filter(str.isascii)))
def test_announcements_come_in_order_each_once(sdk: type[OldSdk], texts: list[str]) -> None:
    ledger = make_ledger(sdk(Database()))
    for text in texts:
        ledger.announce(text)
    assert taken(ledger) == texts
    assert taken(ledger) == []


@BOTH
def test_what_was_not_acknowledged_comes_again_after_a_restart(sdk: type[OldSdk]) -> None:
    database, clock = Database(), Clock()
    before = make_ledger(sdk(database, clock))
    for text in ("a", "b", "c"):
        before.announce(text)
    first = before.take()
    assert first is not None
    before.acknowledge(first[1])
    assert before.take() is not None
    assert before.take() is not None
    assert before.take() is None, "nothing is handed out twice"

    clock.now += 3600.0
    assert taken(make_ledger(sdk(database, clock))) == ["b", "c"]


@BOTH
def test_what_is_under_way_outlives_the_process(sdk: type[OldSdk]) -> None:
    database = Database()
    before = make_ledger(sdk(database))
    for series in ("b", "a", "a", "c"):
        before.open(series)
    before.close("c")
    before.close("never opened")
    assert before.opened() == ("a", "b")
    assert make_ledger(sdk(database)).opened() == ("a", "b")


def test_a_result_counts_as_stable_at_once_where_orthanc_can() -> None:
    told: list[tuple[str, int]] = []

    class Newer(NewSdk):
        class StableStatus:
            STABLE, UNSTABLE = 0, 1

        def SetStableStatus(self, resource_id: str, stable_status: int) -> tuple[int, int]:
            told.append((resource_id, stable_status))
            return 0, 1

    for sdk in (OldSdk, NewSdk, Newer):
        Archive(cast("Sdk", sdk(Database()))).set_stable("a-b")
    assert told == [("a-b", 0)]


def test_broken_properties_are_an_empty_ledger() -> None:
    database = Database(properties={4311: "{", 4312: '{"a": 1}'})
    ledger = make_ledger(OldSdk(database))
    assert (ledger.opened(), ledger.take()) == ((), None)

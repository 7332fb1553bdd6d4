"""What is said of a series: one state out of several stacks, and a progress that never falls."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.journey.book import JobBook
from dicomnode.journey.job import FINAL, DestinationState, Job, Station, Status, begun, sending
from dicomnode.journey.order import Order
from dicomnode.journey.progress import reached
from dicomnode.journey.pulling import Pull
from dicomnode.journey.stations import STATIONS
from dicomnode.spool import Spool, key
from dicomnode.web.standing import Standing
from dicomnode.web.words import job_words

UID = "1.2.3"
PULL = Pull("orthanc-a", "1.2", UID, asked_at="2026-01-01T00:00:00+00:00")


@dataclass(frozen=True)
class Stillness:
    """A node in which nothing moves."""

    jobs: Sequence[Job] = ()
    pulls: Sequence[Pull] = ()
    receiving: bool = False
    ae_title: str = "DICOMNODE"

    def jobs_of(self, series_uid: str) -> Sequence[Job]:
        return self.jobs

    def instances_of(self, series_uid: str) -> Sequence[Path]:
        return ()

    def is_receiving(self, series_uid: str) -> bool:
        return self.receiving

    def pulls_of(self, series_uid: str) -> Sequence[Pull]:
        return self.pulls

    def fetch(self, source: str, study_uid: str, series_uid: str) -> None:
        raise NotImplementedError

    def retry(self, job_id: str) -> Job:
        raise NotImplementedError


def job(status: Status, progress: float = 0.5, **changes: object) -> Job:
    return replace(Job(job_id="one", status=status, progress=progress, instances=10), **changes)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(get_args(Status)), min_size=1, max_size=4), st.booleans())
def test_only_a_series_of_which_nothing_is_left_is_done(statuses: list[Status], asked: bool) -> None:
    jobs = [job(status, 1.0 if status == "done" else 0.5) for status in statuses]
    told = Standing(Stillness(jobs, [PULL] if asked else [])).of(UID)
    assert (told.progress == 1.0) == (told.state == "done")
    assert told.final == (told.state in FINAL)
    if any(status not in FINAL for status in statuses):
        assert not told.final
    if told.state == "done":
        assert set(statuses) == {"done"}
    assert told.words


def test_of_several_stacks_the_least_advanced_speaks_and_else_the_worst() -> None:
    def state(*jobs: Job) -> str:
        return Standing(Stillness(jobs)).of(UID).state

    assert state(job("done", 1.0), job("working", 0.4), job("queued", 0.05)) == "queued"
    assert state(job("done", 1.0), job("sending", 0.96), job("failed")) == "sending"
    assert state(job("done", 1.0), job("failed"), job("refused")) == "failed"
    assert state(job("done", 1.0), job("refused")) == "refused"


def test_while_it_is_looked_for_more_a_result_is_not_final() -> None:
    done = job("done", 1.0)
    looking = Standing(Stillness([done], [PULL])).of(UID)
    assert (looking.state, looking.final) == ("fetching", False)
    more = Standing(Stillness([done], [replace(PULL, listed=12, here=10, looked=True)])).of(UID)
    assert more.words == "fetching images from orthanc-a, 10 of 12"
    working = Standing(Stillness([job("working")], [PULL])).of(UID)
    assert working.state == "working", "what is under way is told rather than a question"


def test_a_request_that_came_to_nothing_is_a_failure_with_its_reason() -> None:
    ended = replace(
        PULL, words="orthanc-a: it does not know this series", ended_at="2026-01-02T00:00:00+00:00"
    )
    told = Standing(Stillness(pulls=[ended])).of(UID)
    assert (told.state, told.final, told.reason) == ("failed", True, ended.words)
    assert ended.words in Standing(Stillness([job("done", 1.0)], [ended])).of(UID).words


@pytest.mark.parametrize("status", get_args(Status))
def test_every_state_has_words_for_a_radiographer(status: Status) -> None:
    words = job_words(job(status, reason="the gate says so"))
    assert words
    assert not words.endswith(".")
    assert "_" not in words
    if status in ("refused", "held", "failed", "waiting", "undelivered"):
        assert "the gate says so" in words


# --- progress ---------------------------------------------------------------------------------------


def test_along_the_way_progress_grows() -> None:
    stations: list[Station] = [*STATIONS, "deliver"]
    way = [reached(None, "", 0, 0)]
    for station in stations:
        part = "bound" if station == "reconstruct" else ""
        way += [reached(station, part, done, 24) for done in range(25)]
    assert all(a <= b for a, b in pairwise(way))
    assert 0 < way[0] < way[-1] < 1
    half = reached("reconstruct", "bound", 12, 24)
    assert 0.45 < half < 0.55, "half of the long station is about half of the way"
    assert reached("reconstruct", "project", 4, 24) == reached("reconstruct", "", 0, 0), "not done yet"


def test_progress_never_falls_and_outlives_a_crash(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 0)
    order = Order("job", UID, key(UID), ("a.dcm",), "", "", 0, "", "closed", "")
    seen: list[float] = []
    book = JobBook(spool, lambda job: seen.append(job.progress))
    book.place(order)
    rng = random.Random(7)
    for _ in range(200):
        station = rng.choice([*STATIONS])
        if rng.random() < 0.5:
            book.update("job", lambda job, station=station: begun(job, station))
        else:
            done = rng.randrange(25)
            book.update("job", lambda job, done=done: replace(job, part="bound", done=done, total=24))
        if rng.random() < 0.1:  # the process dies
            book = JobBook(spool, lambda job: seen.append(job.progress))
    book.update("job", lambda job: sending(replace(job, status="working"), ["pacs"]))
    state = DestinationState("pacs", "delivered", 2, 2)
    last = book.update("job", lambda job: replace(job, status="done", destinations=(state,)))
    assert seen == sorted(seen)
    assert last.progress == 1.0
    assert all(progress < 1 for progress in seen[:-1])

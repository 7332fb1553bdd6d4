"""What is on record of a job: names that follow from the content, states that follow from the facts."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.errors import DiskFull, JobError, SpoolError
from dicomnode.journey.book import JobBook
from dicomnode.journey.delivery import pause_before
from dicomnode.journey.job import (
    DestinationState,
    Job,
    fresh_deliveries,
    read_jobs,
    sending,
    with_destination,
)
from dicomnode.journey.order import Order, new_orders, with_pipeline
from dicomnode.network import part10
from dicomnode.network.completeness import Completion
from dicomnode.settings import Retry
from dicomnode.spool import Spool

SERIES = "1.2.3.4"


def completion(*uids: str) -> Completion:
    return Completion(SERIES, "for this test", "closed", len(uids), (), 0, uids)


def store(spool: Spool, uid: str, content: bytes, sender: str = "CT") -> None:
    frame = part10.frame("1.2.840.10008.5.1.4.1.1.2", uid, "1.2.840.10008.1.2.1", sender)
    spool.file(SERIES, uid, frame, content)


def order_of(spool: Spool, *uids: str, latest: Order | None = None, pipeline: str = "p") -> Order:
    (order,) = new_orders(spool, completion(*uids), [latest] if latest else [], pipeline, "now")
    return order


def test_the_name_of_a_job_follows_from_series_content_and_pipeline(tmp_path: Path) -> None:
    one, same, other = (Spool(tmp_path / name, 0) for name in ("one", "same", "other"))
    for uid in ("1.1", "1.2"):
        store(one, uid, b"pixels of " + uid.encode())
        store(same, uid, b"pixels of " + uid.encode(), sender="ANOTHER")
        store(other, uid, b"other pixels of " + uid.encode())
    order = order_of(one, "1.1", "1.2")
    from_another = order_of(same, "1.2", "1.1")
    assert (order.senders, from_another.senders) == (("CT",), ("ANOTHER",))
    assert replace(from_another, senders=("CT",)) == order, "neither order of arrival nor sender counts"
    assert order_of(other, "1.1", "1.2").job_id != order.job_id
    assert order_of(one, "1.1").job_id != order.job_id
    assert with_pipeline(order, "another model").job_id != order.job_id
    assert SERIES not in order.job_id


def test_a_revision_has_all_images_and_the_next_generation(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 0)
    for uid in ("1.1", "1.2", "1.3"):
        store(spool, uid, b"pixels")
    first = order_of(spool, "1.1", "1.2")
    again = order_of(spool, "1.2", latest=first)
    later = order_of(spool, "1.3", latest=first)
    assert again == first
    assert (first.generation, later.generation) == (0, 1)
    assert set(first.files) < set(later.files)
    assert len(later.files) == 3
    with pytest.raises(JobError, match="none of its images"):
        order_of(spool, "9.9")


def test_a_record_survives_and_a_broken_one_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path, reserve_bytes=2**62)
    writer = Spool(tmp_path, 0)
    store(writer, "1.1", b"pixels")
    book = JobBook(spool)
    order = order_of(spool, "1.1")
    job = book.place(order)
    assert job.status == "queued", "records may be written into the reserve"
    assert book.place(order) == job
    path = tmp_path / "work" / order.job_id / "job.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "invented_later": 1}))
    assert read_jobs(tmp_path) == [job]
    broken = tmp_path / "work" / "broken"
    broken.mkdir()
    (broken / "job.json").write_text('{"half": ')
    (broken / "order.json").write_text("{}")
    assert read_jobs(tmp_path) == [job]
    assert list(JobBook(spool).orders()) == [order]
    assert "left out" in caplog.text


@pytest.mark.parametrize("damage", ["", "null", "[]", '{"half": ', '{"destinations": [3]}', "{}"])
def test_a_damaged_record_is_made_anew_from_its_order(tmp_path: Path, damage: str) -> None:
    spool = Spool(tmp_path, 0)
    store(spool, "1.1", b"pixels")
    order = order_of(spool, "1.1")
    job = JobBook(spool).place(order)
    (tmp_path / "work" / order.job_id / "job.json").write_text(damage)
    book = JobBook(spool)
    with pytest.raises(SpoolError):
        book.job(order.job_id)
    anew = book.place(order)
    assert (anew.status, anew.instances, anew.job_id) == ("queued", 1, job.job_id)
    assert read_jobs(tmp_path) == [anew]


def test_what_the_disk_does_not_take_is_kept_in_mind_until_it_does(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 0)
    store(spool, "1.1", b"pixels")
    book = JobBook(spool)
    job_id = book.place(order_of(spool, "1.1")).job_id
    book.records.reserve_bytes = 2**62
    with pytest.raises(DiskFull):
        book.update(job_id, lambda job: replace(job, status="failed"))
    assert book.job(job_id).status == "queued"
    book.note(job_id, lambda job: replace(job, status="waiting"))
    assert (book.job(job_id).status, read_jobs(tmp_path)[0].status) == ("waiting", "queued")
    book.records.reserve_bytes = 0
    book.note(job_id, lambda job: replace(job, run=2))
    assert [(job.status, job.run) for job in read_jobs(tmp_path)] == [("waiting", 2)]


def test_progress_is_told_at_once_and_written_when_it_is_due(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 0)
    store(spool, "1.1", b"pixels")
    seen: list[Job] = []
    book = JobBook(spool, seen.append)
    job_id = book.place(order_of(spool, "1.1")).job_id
    for done in range(50):
        book.update(job_id, lambda job, done=done: replace(job, done=done, total=50), durable=False)
    assert [job.done for job in seen[1:]] == list(range(50))
    assert book.job(job_id).done == 49
    assert read_jobs(tmp_path)[0].done < 49
    book.update(job_id, lambda job: replace(job, status="failed"))
    assert read_jobs(tmp_path)[0].finished_at is not None


STATES = st.sampled_from(["waiting", "sending", "delivered", "refused", "gave-up"])


@given(st.lists(STATES, min_size=1, max_size=4))
def test_a_job_has_ended_when_nothing_more_happens_anywhere(states: list[str]) -> None:
    names = [f"peer{number}" for number in range(len(states))]
    job = sending(Job("j"), names)
    for name, state in zip(names, states, strict=True):
        job = with_destination(job, DestinationState(name, state))  # type: ignore[arg-type]
    if {"waiting", "sending"} & set(states):
        assert job.status == "sending"
    elif set(states) == {"delivered"}:
        assert job.status == "done"
    else:
        assert job.status == "undelivered"
        again = fresh_deliveries(job)
        assert again.status == "sending"
        kept = [state == "delivered" for state in states]
        assert [peer.state == "delivered" for peer in again.destinations] == kept


def test_a_result_without_destinations_is_done() -> None:
    assert sending(Job("j"), []).status == "done"


@given(st.floats(0.1, 60), st.floats(60, 7200), st.integers(2, 2000))
def test_pauses_grow_up_to_the_longest(first: float, longest: float, attempt: int) -> None:
    retry = Retry(first_seconds=first, longest_seconds=longest)
    pause = pause_before(attempt, retry)
    assert first <= pause <= longest
    assert pause_before(attempt + 1, retry) >= pause


def test_a_week_of_pauses_is_few_attempts() -> None:
    retry, waited, attempt = Retry(), timedelta(), 2
    while waited < timedelta(days=retry.give_up_days):
        waited += timedelta(seconds=pause_before(attempt, retry))
        attempt += 1
    assert attempt < 200

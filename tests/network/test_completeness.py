"""When a series counts as complete: a table of evidence, with the clock as an argument."""

import math
import random
from dataclasses import replace

import pytest

from dicomnode.network.completeness import Arrival, SeriesWatch, judge
from dicomnode.settings import Completeness

CLOSED, QUIET, GIVE_UP = 10.0, 60.0, 900.0


@pytest.fixture
def watch():
    return SeriesWatch(Completeness(quiet_seconds=QUIET, closed_seconds=CLOSED, give_up_seconds=GIVE_UP))


def slices(count, *, start=1, spacing_mm=3.0, at=0.0, name="a"):
    return [
        Arrival(
            f"1.{ord(name)}.{start + n}", start + n, (-100.0, -100.0, 50.0 - spacing_mm * (start + n)), at
        )
        for n in range(count)
    ]


def feed(watch, arrivals, series="1.2"):
    for arrival in arrivals:
        watch.arrived(series, arrival)


def when_due(watch, upto=2000):
    """The first second at which something is due, and what."""
    for now in range(upto):
        due = watch.due(float(now))
        if due:
            return now, due
    return None, []


def test_a_whole_series_on_a_released_association_waits_for_the_short_time(watch):
    feed(watch, slices(20))
    watch.association_ended(["1.2"], 1.0)
    now, [completion] = when_due(watch)
    assert now == CLOSED
    assert (completion.confidence, completion.instances, completion.gaps) == ("closed", 20, ())
    assert completion.reason == (
        "20 instances, numbers 1 to 20 without gap, positions every 3.00 mm without gap; silent for 10 s"
    )


def test_while_the_association_is_open_it_waits_for_the_quiet_time(watch):
    feed(watch, slices(20))
    now, [completion] = when_due(watch)
    assert (now, completion.confidence) == (QUIET, "quiet")
    assert "still open" in completion.reason


def sent_by(sender, arrivals):
    return [replace(arrival, sender=sender) for arrival in arrivals]


def test_a_whole_series_is_closed_when_its_sender_begins_the_next(watch):
    """Scanners and archives often send a whole study on one association."""
    feed(watch, sent_by("CT", slices(20)), "1.2")
    feed(watch, sent_by("CT", slices(3, name="b", at=4.0)), "1.3")
    now, [completion] = when_due(watch)
    assert (now, completion.series_uid, completion.confidence) == (CLOSED, "1.2", "closed")
    assert "begun another series" in completion.reason


def test_another_senders_series_proves_nothing(watch):
    feed(watch, sent_by("CT1", slices(20)), "1.2")
    feed(watch, sent_by("CT2", slices(3, name="b", at=4.0)), "1.3")
    feed(watch, slices(3, name="c", at=4.0), "1.4")
    assert when_due(watch)[0] == QUIET


def test_a_sender_that_comes_back_had_not_gone_on(watch):
    """Interleaved series: only the last word counts."""
    feed(watch, sent_by("CT", slices(20)), "1.2")
    feed(watch, sent_by("CT", slices(3, name="b", at=4.0)), "1.3")
    feed(watch, sent_by("CT", slices(1, start=21, at=5.0)), "1.2")
    [completion] = watch.due(4.0 + CLOSED)
    assert completion.series_uid == "1.3"
    assert watch.due(5.0 + QUIET - 1) == []
    assert [due.series_uid for due in watch.due(5.0 + QUIET)] == ["1.2"]


def test_a_gap_is_not_closed_by_the_next_series(watch):
    held = sent_by("CT", slices(20))
    del held[7]
    feed(watch, held, "1.2")
    feed(watch, sent_by("CT", slices(3, name="b", at=4.0)), "1.3")
    assert all(due.series_uid != "1.2" for due in watch.due(GIVE_UP - 1))


def test_an_association_that_broke_off_proves_nothing(watch):
    feed(watch, slices(20))
    watch.association_ended(["1.2"], 1.0, released=False)
    now, [completion] = when_due(watch)
    assert (now, completion.confidence) == (QUIET, "quiet")
    assert "broke off" in completion.reason


def test_a_gap_is_waited_for_until_the_node_gives_up(watch):
    held = slices(20)
    del held[7:9]
    feed(watch, held)
    watch.association_ended(["1.2"], 1.0)
    now, [completion] = when_due(watch)
    assert (now, completion.confidence) == (GIVE_UP, "gave-up")
    assert completion.gaps[0] == "instance number 8-9"
    assert "9.00 mm instead of 3.00 mm" in completion.gaps[1]
    assert "gave up" in completion.reason


def test_filling_the_gap_ends_the_waiting(watch):
    held = slices(20)
    missing = held.pop(7)
    feed(watch, held)
    watch.association_ended(["1.2"], 0.0)
    assert watch.due(100.0) == []
    feed(watch, [Arrival(missing.sop_instance_uid, missing.instance_number, missing.position_mm, 100.0)])
    watch.association_ended(["1.2"], 100.0)
    assert watch.due(109.0) == []
    [completion] = watch.due(110.0)
    assert (completion.confidence, completion.instances) == ("closed", 20)


def test_the_order_of_arrival_does_not_matter(watch):
    held = slices(50)
    random.Random(0).shuffle(held)
    feed(watch, held)
    watch.association_ended(["1.2"], 0.0)
    assert when_due(watch)[1][0].confidence == "closed"


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        (lambda held: held, "closed"),
        (lambda held: held[::2], "quiet"),  # numbers skip, but positions are even
        (lambda held: held[:5] + held[8:], "gap"),
        (lambda held: held[3:], "quiet"),  # begins at number 4: the first ones may still come
        (lambda held: held[:1], "quiet"),
        (lambda held: held + slices(10, name="b"), "quiet"),  # two phases at the same places
        (lambda held: [Arrival(a.sop_instance_uid, None, None, 0) for a in held], "quiet"),
        (lambda held: [Arrival(a.sop_instance_uid, a.instance_number, None, 0) for a in held], "closed"),
        (lambda held: [Arrival(a.sop_instance_uid, None, a.position_mm, 0) for a in held], "closed"),
        # numbers skip where positions do not, and the other way round: one witness against the other
        (lambda held: [
            Arrival(a.sop_instance_uid, a.instance_number * 3, a.position_mm, 0)
            for a in held], "quiet"),
        (lambda held: held[:5] + [
            Arrival(a.sop_instance_uid, a.instance_number, (-100.0, -100.0, a.position_mm[2] - 30), 0)
            for a in held[5:]], "quiet"),
    ],
)  # fmt: skip
def test_evidence(change, evidence):
    assert judge(change(slices(20))).evidence == evidence


def test_an_oblique_stack_with_rounded_positions_is_even():
    step = (0.31, -1.27, 2.7)
    held = [
        Arrival(f"1.{n}", n + 1, tuple(round(n * s, 3) for s in step), 0.0)  # type: ignore[arg-type]
        for n in range(100)
    ]
    assert judge(held).evidence == "closed"


def test_two_interleaved_series_are_kept_apart(watch):
    one, other = slices(10), slices(12, name="b")
    for n in range(12):
        if n < 10:
            watch.arrived("1.2", one[n])
        if n != 6:
            watch.arrived("1.3", other[n])
    watch.association_ended(["1.2", "1.3"], 0.0)
    first = watch.due(CLOSED)
    assert [(c.series_uid, c.instances, c.confidence) for c in first] == [("1.2", 10, "closed")]
    second = watch.due(GIVE_UP)
    assert [(c.series_uid, c.instances, c.confidence) for c in second] == [("1.3", 11, "gave-up")]


def test_a_late_arrival_opens_the_next_revision(watch):
    feed(watch, slices(10))
    watch.association_ended(["1.2"], 0.0)
    [first] = watch.due(CLOSED)
    assert watch.due(math.inf) == []
    feed(watch, slices(1, start=11, at=500.0))
    watch.association_ended(["1.2"], 500.0)
    [second] = watch.due(500.0 + CLOSED)
    assert (first.revision, second.revision) == (0, 1)
    assert set(second.sop_instance_uids) - set(first.sop_instance_uids) == {f"1.{ord('a')}.11"}


def test_an_instance_sent_again_does_not_open_a_completed_series(watch):
    feed(watch, slices(10))
    watch.association_ended(["1.2"], 0.0)
    watch.due(CLOSED)
    feed(watch, slices(10, at=300.0))
    assert watch.due(5000.0) == []
    assert watch.open_series() == {}


def test_a_series_is_never_due_twice(watch):
    feed(watch, slices(5))
    assert len(watch.due(QUIET)) == 1
    assert watch.due(QUIET * 100) == []


def test_every_arrival_starts_the_silence_anew(watch):
    for n, arrival in enumerate(slices(10)):
        watch.arrived("1.2", Arrival(arrival.sop_instance_uid, None, None, 5.0 * n))
        assert watch.due(5.0 * n + QUIET - 1) == []
    assert len(watch.due(45 + QUIET)) == 1


def test_a_sender_that_trickles_gets_ten_times_its_usual_pause(watch):
    """One image an association, one association every 20 s: whole after each image, complete after none."""
    for n, arrival in enumerate(slices(10)):
        watch.arrived("1.2", replace(arrival, at_seconds=20.0 * n))
        watch.association_ended(["1.2"], 20.0 * n)
        if n:
            assert watch.due(20.0 * (n + 1) - 1) == []
    assert watch.due(180 + 199) == []
    [completion] = watch.due(180 + 200)
    assert (completion.confidence, completion.instances) == ("closed", 10)


def test_one_long_pause_is_no_trickle(watch):
    feed(watch, slices(19))
    feed(watch, slices(1, start=20, at=50.0))
    watch.association_ended(["1.2"], 50.0)
    assert len(watch.due(50.0 + CLOSED)) == 1


def test_no_trickle_is_waited_for_longer_than_a_gap(watch):
    for n, arrival in enumerate(slices(3)):
        watch.arrived("1.2", replace(arrival, at_seconds=500.0 * n))
    assert watch.due(1000 + GIVE_UP - 1) == []
    assert len(watch.due(1000 + GIVE_UP)) == 1


# --- what an archive knows ----------------------------------------------------------------


def test_an_archive_that_knows_of_more_is_waited_for(watch):
    """The end of a series is missing: numbers and positions alone would call it whole."""
    feed(watch, slices(20))
    watch.association_ended(["1.2"], 0.0)
    watch.told("1.2", 25)
    now, [completion] = when_due(watch)
    assert (now, completion.confidence) == (GIVE_UP, "gave-up")
    assert completion.gaps == ("5 of 25 images that the archive knows",)
    assert "the archive knows 25" in completion.reason


def test_what_was_missing_comes_and_the_archive_is_asked_anew(watch):
    feed(watch, slices(20))
    watch.told("1.2", 25)
    feed(watch, slices(5, start=21, at=30.0))
    watch.association_ended(["1.2"], 30.0)
    watch.told("1.2", 25)
    [completion] = watch.due(30.0 + CLOSED)
    assert (completion.confidence, completion.instances) == ("closed", 25)


def test_as_many_as_the_archive_knows_is_believed_when_said_twice(watch):
    """Numbers from 4 on, on an association that broke off: nothing else could prove it whole."""
    feed(watch, slices(17, start=4))
    watch.association_ended(["1.2"], 0.0, released=False)
    watch.told("1.2", 17)
    assert watch.due(QUIET - 1) == []
    watch.told("1.2", 17)
    [completion] = watch.due(CLOSED)
    assert (completion.confidence, completion.instances) == ("closed", 17)
    assert "as many as the archive knows" in completion.reason


def test_a_hole_that_the_archive_has_too_is_not_waited_for_to_the_end(watch):
    held = slices(20)
    del held[7]
    feed(watch, held)
    watch.told("1.2", 19)
    watch.told("1.2", 19)
    now, [completion] = when_due(watch)
    assert (now, completion.confidence) == (QUIET, "quiet")
    assert completion.gaps[0] == "instance number 8"


@pytest.mark.parametrize("told", [[12], [12, 12], [12, 20], [20]])
def test_an_archive_that_knows_fewer_or_is_growing_proves_nothing(watch, told):
    feed(watch, slices(20))
    for count in told:
        watch.told("1.2", count)
    assert when_due(watch)[1][0].reason.endswith("its association is still open; silent for 60 s")


def test_what_was_told_before_the_last_image_counts_no_more(watch):
    feed(watch, slices(19))
    watch.told("1.2", 20)
    feed(watch, slices(1, start=20))
    watch.told("1.2", 20)
    assert when_due(watch)[0] == QUIET, "once only since then"


def test_silent_series_are_named(watch):
    feed(watch, slices(3), "1.2")
    feed(watch, slices(3, name="b", at=5.0), "1.3")
    assert watch.silent(5.0, 5.0) == ["1.2"]
    watch.due(QUIET)
    assert watch.silent(100.0, 5.0) == ["1.3"]
    watch.told("1.9", 3)  # a series that was passed on meanwhile


def test_a_restored_series_waits_for_its_sender_to_come_back(watch):
    watch.restored("1.2", slices(10, at=1000.0))
    assert watch.due(1000.0 + CLOSED) == []
    [completion] = watch.due(1000.0 + QUIET)
    assert "broke off" in completion.reason


def test_a_restored_completed_series_is_left_alone_until_something_new_comes(watch):
    watch.restored("1.2", slices(10), revision=2, completed=True)
    assert watch.due(math.inf) == []
    watch.restored("1.2", slices(11, at=5.0))
    [completion] = watch.due(1000.0)
    assert (completion.revision, completion.instances) == (3, 11)


def test_a_forgotten_series_is_gone(watch):
    feed(watch, slices(3))
    watch.forget("1.2")
    assert watch.due(math.inf) == []


# --- multi-frame objects ------------------------------------------------------------------


def part(number, total, at=0.0):
    return Arrival(f"1.5.{number}", 1, None, at, frames=40, part=(number, total))


def test_a_multi_frame_object_is_whole_by_itself(watch):
    feed(watch, [Arrival("1.2.3", 7, None, 0.0, frames=120)])
    assert watch.due(QUIET - 1) == [], "its association is still open"
    watch.association_ended(["1.2"], 1.0)
    now, [completion] = when_due(watch)
    assert (now, completion.confidence) == (CLOSED, "closed")
    assert completion.reason == "1 instance, 120 frames in one object; silent for 10 s"


def test_a_single_image_alone_is_still_no_proof(watch):
    feed(watch, [Arrival("1.2.3", 1, None, 0.0)])
    watch.association_ended(["1.2"], 1.0)
    now, [_] = when_due(watch)
    assert now == QUIET


@pytest.mark.parametrize(
    ("held", "evidence", "gaps"),
    [
        ([(1, 3), (2, 3), (3, 3)], "closed", ()),
        ([(3, 3), (1, 3)], "gap", ("part 2 of 3",)),
        ([(1, 3)], "gap", ("part 2 of 3", "part 3 of 3")),
        ([(1, 2), (2, 3)], "quiet", ()),
    ],
)
def test_a_concatenation_is_whole_with_its_last_part(held, evidence, gaps):
    finding = judge([part(number, total) for number, total in held])
    assert (finding.evidence, finding.gaps) == (evidence, gaps)


def test_several_objects_without_concatenation_are_judged_by_their_numbers():
    objects = [Arrival(f"1.6.{number}", number, None, 0.0, frames=10) for number in (1, 2)]
    assert judge(objects).evidence == "closed"
    assert judge([objects[0], Arrival("1.6.9", 4, None, 0.0, frames=10)]).evidence == "gap"


def test_a_series_that_is_being_fetched_waits_for_its_last_image_however_long_it_takes():
    watch = SeriesWatch(Completeness(closed_seconds=1, quiet_seconds=2, give_up_seconds=3))
    for number in range(1, 4):
        watch.arrived("1.2", Arrival(f"1.2.{number}", number, None, 0.0))
    watch.awaits("1.2", 5)
    watch.awaits("1.3", 5)
    assert watch.due(1e6) == [], "a series of which nothing has come is none, either"
    watch.arrived("1.2", Arrival("1.2.4", 4, None, 1e6))
    watch.awaits("1.2", 4)
    watch.told("1.2", 4)
    watch.told("1.2", 4)
    (complete,) = watch.due(1e6 + 1)
    assert (complete.confidence, complete.instances) == ("closed", 4)
    watch.arrived("1.2", Arrival("1.2.5", 5, None, 1e6 + 5))
    watch.awaits("1.2", 6)
    assert watch.due(2e6) == []
    watch.awaits("1.2", 0)
    assert [one.revision for one in watch.due(2e6)] == [1]

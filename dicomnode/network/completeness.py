"""When is a series complete? DICOM has no end-of-series message, so it is judged from evidence.

Five things are known of a series while it arrives: how long it has been silent, whether its instance
numbers and positions leave a hole, whether the association that brought it has ended, whether its sender
has gone on to another series, and how many images an archive that was asked knows of it.

=========  ============================================================  =======================
evidence   what is seen                                                  waits, since the last one
=========  ============================================================  =======================
closed     no hole in numbers, positions, parts; associations released   closed_seconds
           or another series begun by the sender; or no hole proven, and
           the archive knows of no more
quiet      nothing proves it, nothing speaks against it                  quiet_seconds
gap        numbers and positions agree that something is missing, or     give_up_seconds
           the archive knows of more
=========  ============================================================  =======================

A sender that trickles gets more time: ten times the usual pause between its images, if that is longer.

Pure logic: the clock is an argument, in seconds of any steadily running clock. Not thread-safe by
itself; the owner calls it from one thread or under one lock.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from dicomnode.settings import Completeness

Confidence = Literal["closed", "quiet", "gave-up"]
Evidence = Literal["closed", "quiet", "gap"]
Association = Literal["open", "released", "broken"]
Position = tuple[float, float, float]

_SAME_PLACE_MM: Final = 0.01
_UNEVEN: Final = 0.05
"""Relative deviation from the usual spacing that still counts as even: headers round to a few digits."""
_MANY_GAPS: Final = 20
_PAUSES: Final = 10
"""How many of the usual pauses between images are a silence: a sender of one image a minute is not done after
one minute."""


@dataclass(frozen=True)
class Arrival:
    """One instance of a series, as its raw header describes it; `position_mm` is Image Position (Patient).

    `part`: which of how many parts of a concatenation it is.
    """

    sop_instance_uid: str
    instance_number: int | None
    position_mm: Position | None
    at_seconds: float
    frames: int = 1
    part: tuple[int, int] | None = None
    sender: str = ""


@dataclass(frozen=True)
class Completion:
    """Why a series counts as complete, and which snapshot of it does.

    `sop_instance_uids` are exactly the instances the judgement is about, sorted: whoever goes on works on
    these, whatever arrives meanwhile. `gaps` names what is missing, in plain words. `revision` is 0 the
    first time and one more each time a late arrival re-opened the series.
    """

    series_uid: str
    reason: str
    confidence: Confidence
    instances: int
    gaps: tuple[str, ...]
    revision: int
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What the instances held so far tell, before any clock."""

    evidence: Evidence
    words: str
    gaps: tuple[str, ...] = ()


@dataclass
class _Series:
    """What is known of one series."""

    arrivals: dict[str, Arrival] = field(default_factory=dict)
    last_at_seconds: float = -math.inf
    association: Association = "open"
    sender: str = ""
    followed: bool = False
    completed: bool = False
    revision: int = 0
    finding: Finding | None = None
    pause_seconds: float = 0.0
    told: list[int] = field(default_factory=list)


class SeriesWatch:
    """Watches any number of series at once; interleaved ones are kept apart by their UID."""

    def __init__(self, settings: Completeness) -> None:
        self._settings = settings
        self._series: dict[str, _Series] = {}
        self._awaited: dict[str, int] = {}

    def arrived(self, series_uid: str, arrival: Arrival) -> None:
        """Note an instance. One that comes after completion re-opens the series as its next revision.

        An instance that was noted before changes nothing but the silence: its sender is still at work.
        """
        series = self._series.setdefault(series_uid, _Series())
        series.association, series.sender, series.followed = "open", arrival.sender, False
        for uid, other in self._series.items():
            if uid != series_uid and arrival.sender and other.sender == arrival.sender:
                other.followed = True  # until the sender comes back to it
        if arrival.sop_instance_uid not in series.arrivals:
            series.arrivals[arrival.sop_instance_uid] = arrival
            series.finding = None
            series.told.clear()
            if series.completed:
                series.completed = False
                series.revision += 1
        series.last_at_seconds = max(series.last_at_seconds, arrival.at_seconds)

    def restored(
        self, series_uid: str, arrivals: Iterable[Arrival], revision: int = 0, completed: bool = False
    ) -> None:
        """Take up a series found in the spool at start; its association broke off with the old process.

        With `completed` the arrivals are those that revision was passed on with: restore these first, and
        then what came since without `completed`, which opens the next revision.
        """
        known = self._series.get(series_uid)
        for arrival in arrivals:
            self.arrived(series_uid, arrival)
        series = self._series.get(series_uid)
        if series is None:
            return
        series.association = "broken"
        if known is None:
            series.completed = completed
            series.revision = revision

    def association_ended(self, series_uids: Iterable[str], now: float, released: bool = True) -> None:
        """Note that no open association carries these series any more.

        An association that broke off (`released` is False: abort, connection lost) proves nothing: its
        sender may have had more. The silence counts on from the last instance; `now` can only shorten it
        when the clock went backwards.
        """
        for series_uid in series_uids:
            series = self._series.get(series_uid)
            if series is not None:
                series.association = "released" if released else "broken"
                series.last_at_seconds = min(series.last_at_seconds, now)

    def told(self, series_uid: str, count: int) -> None:
        """Note how many images an archive knows of a series (Number of Series Related Instances).

        More than are held is believed at once; as many, when it was said twice with nothing new between: an
        archive may still be growing itself. Fewer proves nothing: its images may not be there yet.
        """
        series = self._series.get(series_uid)
        if series is not None:
            series.told.append(count)

    def awaits(self, series_uid: str, count: int) -> None:
        """Wait for a series, however long it is silent, until it holds so many images; 0: no more.

        For images that this node fetches itself: it knows what it has still to fetch.
        """
        if count > 0:
            self._awaited[series_uid] = count
        else:
            self._awaited.pop(series_uid, None)

    def silent(self, now: float, seconds: float) -> list[str]:
        """Return the series that are waited for and have been silent for this long."""
        return [
            uid
            for uid, series in self._series.items()
            if not series.completed and now - series.last_at_seconds >= seconds
        ]

    def due(self, now: float) -> list[Completion]:
        """Return every series whose time has come, longest silent first, and mark it complete."""
        ready = [
            (series.last_at_seconds, series_uid)
            for series_uid, series in self._series.items()
            if not series.completed
            and self._due_at(series) <= now
            and len(series.arrivals) >= self._awaited.get(series_uid, 0)
        ]
        return [self._complete(series_uid, now) for _, series_uid in sorted(ready)]

    def forget(self, series_uid: str) -> None:
        """Drop a series that retention removed; the memory of a node must not grow for ever."""
        self._series.pop(series_uid, None)

    def open_series(self) -> dict[str, int]:
        """Return how many instances each series holds that is still being waited for."""
        return {uid: len(series.arrivals) for uid, series in self._series.items() if not series.completed}

    def _due_at(self, series: _Series) -> float:
        return series.last_at_seconds + self._wait_seconds(series)

    def _judged(self, series: _Series) -> Finding:
        if series.finding is None:
            series.finding = judge(series.arrivals.values())
            series.pause_seconds = _usual_pause_seconds(series.arrivals.values())
        held, finding = len(series.arrivals), series.finding
        if series.told and series.told[-1] > held:
            return _short_of(finding, series.told[-1], held)
        if series.told[-2:] == [held, held]:
            return _as_many(finding)
        if finding.evidence == "closed" and series.association == "open" and series.followed:
            return Finding("closed", f"{finding.words}, its sender has begun another series")
        if finding.evidence == "closed" and series.association != "released":
            how = "is still open" if series.association == "open" else "broke off"
            return Finding("quiet", f"{finding.words}, its association {how}")
        return finding

    def _wait_seconds(self, series: _Series) -> float:
        usual = {
            "closed": self._settings.closed_seconds,
            "quiet": self._settings.quiet_seconds,
            "gap": self._settings.give_up_seconds,
        }[self._judged(series).evidence]
        return max(usual, min(_PAUSES * series.pause_seconds, self._settings.give_up_seconds))

    def _complete(self, series_uid: str, now: float) -> Completion:
        series = self._series[series_uid]
        series.completed = True
        finding = self._judged(series)
        confidence: Confidence = "gave-up" if finding.evidence == "gap" else finding.evidence
        silent_seconds = now - series.last_at_seconds
        gave_up = "; gave up waiting" if confidence == "gave-up" else ""
        return Completion(
            series_uid=series_uid,
            reason=f"{finding.words}; silent for {silent_seconds:.0f} s{gave_up}",
            confidence=confidence,
            instances=len(series.arrivals),
            gaps=finding.gaps,
            revision=series.revision,
            sop_instance_uids=tuple(sorted(series.arrivals)),
        )


def judge(arrivals: Iterable[Arrival]) -> Finding:
    """Judge the instances of one series: proven whole, proven holed, or neither.

    Instance numbers and positions are two witnesses. A hole counts when no witness contradicts it
    (numbers may skip, spacing may change within a series); wholeness counts when none doubts it. A
    multi-frame object knows better than both how much of the series it is.
    """
    held = list(arrivals)
    frames = _ask_frames(held)
    witnesses = [_ask_numbers(held), _ask_positions(held)] if frames is None else [frames]
    told = [finding for finding in witnesses if finding is not None]
    many = f"{len(held)} instance{'s' if len(held) != 1 else ''}"
    if not told:
        return Finding("quiet", f"{many}, neither numbers nor positions to check")
    words = f"{many}, " + ", ".join(finding.words for finding in told)
    evidences = {finding.evidence for finding in told}
    if evidences == {"closed"}:
        return Finding("closed", words)
    if evidences == {"gap"}:
        return Finding("gap", words, tuple(gap for finding in told for gap in finding.gaps))
    return Finding("quiet", words)


def _usual_pause_seconds(arrivals: Iterable[Arrival]) -> float:
    """The median pause between one arrival and the next; 0 for fewer than two."""
    times = sorted(arrival.at_seconds for arrival in arrivals)
    return statistics.median([b - a for a, b in pairwise(times)]) if len(times) > 1 else 0.0


def _short_of(finding: Finding, known: int, held: int) -> Finding:
    gap = f"{known - held} of {known} images that the archive knows"
    return Finding("gap", f"{finding.words}, the archive knows {known}", (*finding.gaps, gap))


def _as_many(finding: Finding) -> Finding:
    """The archive has no more of it either: a hole is doubted then, anything else is whole."""
    evidence: Evidence = "quiet" if finding.evidence == "gap" else "closed"
    return Finding(evidence, f"{finding.words}, as many as the archive knows", finding.gaps)


def _ask_frames(held: list[Arrival]) -> Finding | None:
    """A single multi-frame object is whole by itself, a concatenation with its last part (PS3.3 C.7.6.16)."""
    if len(held) == 1 and held[0].frames > 1 and held[0].part is None:
        return Finding("closed", f"{held[0].frames} frames in one object")
    parts = {arrival.part for arrival in held if arrival.part is not None}
    totals = {total for _, total in parts}
    if len(totals) != 1 or len(parts) != len(held):
        return None
    total = totals.pop()
    missing = [number for number in range(1, total + 1) if (number, total) not in parts]
    if missing:
        gaps = tuple(f"part {number} of {total}" for number in missing[:_MANY_GAPS])
        return Finding("gap", f"{len(missing)} of {total} parts missing", gaps)
    return Finding("closed", f"all {total} parts of a concatenation")


def _ask_numbers(held: list[Arrival]) -> Finding | None:
    """Instance Number (0020,0013): whole when every number from 0 or 1 on is there once."""
    numbers = Counter(arrival.instance_number for arrival in held if arrival.instance_number is not None)
    if len(held) < 2 or not numbers:
        return None
    first, last = min(numbers), max(numbers)
    missing = _ranges(set(numbers))
    if missing:
        gaps = tuple(f"instance number {gap}" for gap in missing[:_MANY_GAPS])
        return Finding("gap", f"numbers {first} to {last} with {len(missing)} gap(s)", gaps)
    if sum(numbers.values()) != len(held) or max(numbers.values()) > 1:
        return Finding("quiet", "numbers missing or repeated")
    if first not in (0, 1):
        return Finding("quiet", f"numbers {first} to {last}")
    return Finding("closed", f"numbers {first} to {last} without gap")


def _ranges(numbers: set[int]) -> list[str]:
    """Return the runs of missing numbers between the least and the greatest, as '7' or '7-9'."""
    present = sorted(numbers)
    holes = [(a + 1, b - 1) for a, b in pairwise(present) if b - a > 1]
    return [f"{a}" if a == b else f"{a}-{b}" for a, b in holes]


def _ask_positions(held: list[Arrival]) -> Finding | None:
    """Image Position (Patient) (0020,0032): whole when the slices stand evenly on one line."""
    positions = [arrival.position_mm for arrival in held if arrival.position_mm is not None]
    if len(positions) < 3:
        return None
    if len(positions) != len(held):
        return Finding("quiet", "some positions missing")
    places = _along_the_line(positions)
    if places is None:
        return Finding("quiet", "positions not on one line")
    steps = [b - a for a, b in pairwise(places)]
    real_steps = sorted(step for step in steps if step > _SAME_PLACE_MM)
    if len(real_steps) < len(steps):
        return Finding("quiet", "positions repeated")
    usual_mm = real_steps[len(real_steps) // 2]
    gaps = tuple(
        f"{step:.2f} mm instead of {usual_mm:.2f} mm after position {place:.2f} mm"
        for place, step in zip(places, steps, strict=False)
        if step > usual_mm * 1.5
    )
    if gaps:
        return Finding("gap", f"positions with {len(gaps)} gap(s)", gaps[:_MANY_GAPS])
    if real_steps[-1] - real_steps[0] > max(_UNEVEN * usual_mm, _SAME_PLACE_MM):
        return Finding("quiet", "positions unevenly spaced")
    return Finding("closed", f"positions every {usual_mm:.2f} mm without gap")


def _along_the_line(positions: list[Position]) -> list[float] | None:
    """Return the sorted distances along the line the positions lie on, or None when they lie on none."""
    origin = min(positions)
    farthest = max(positions, key=lambda position: math.dist(origin, position))
    length_mm = math.dist(origin, farthest)
    if length_mm <= _SAME_PLACE_MM:
        return [0.0] * len(positions)
    direction = [(b - a) / length_mm for a, b in zip(origin, farthest, strict=True)]
    places = []
    for position in positions:
        offset = [b - a for a, b in zip(origin, position, strict=True)]
        place = sum(a * b for a, b in zip(offset, direction, strict=True))
        aside_mm = math.sqrt(max(math.dist(origin, position) ** 2 - place**2, 0.0))
        if aside_mm > 1.0:
            return None
        places.append(place)
    start = min(places)
    return sorted(place - start for place in places)

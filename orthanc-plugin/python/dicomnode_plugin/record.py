"""Where a series stands, as it is kept in the series' own metadata in Orthanc."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any, Iterable, Sequence

REST = "rest"  # nothing more will happen by itself
WAITING = "waiting"  # to be handed over, at once or after a pause
SENDING = "sending"  # a job of Orthanc sends it
FOLLOWING = "following"  # the node has all of it; its progress is followed

UNREADABLE = "unreadable"
"""State of a series of which Orthanc could not hand out the images."""

SENT_SHARE = 0.1
"""The part of the progress bar that stands for the way to the node."""

_STRETCH = 40


@dataclass(frozen=True)
class Record:
    """One series. `seen` and `sent` are fingerprints: of what was judged, of what the node has whole.

    `state` is the word that people see, `phase` what the worker has to do; `progress` is 0 to 1 and never
    falls while the images stay the same. Unix times in seconds: `due` (of the next attempt), `since` (the
    present step began), `listed` (the images to be handed over were listed). `paused_seconds`: the pauses of
    failures in a row, as far as they lasted. `untouched`: the last attempt brought no image over. `again`:
    the node knew the series before, so its first answers may be old ones. `told`: the node has told of it.
    `had`: how many results were here when it was handed over. `in_stretches`: the node has refused an
    image, and each job sends a short stretch of them, so that it tells which one is refused; `past`: how
    many of them, by name, are at the node or refused; `left_out`: how many were refused.
    """

    phase: str = REST
    state: str = "new"
    words: str = ""
    progress: float = 0.0
    seen: str = ""
    sent: str = ""
    sending: str = ""
    instances: int = 0
    job: str = ""
    attempts: int = 0
    paused_seconds: float = 0.0
    due: float = 0.0
    since: float = 0.0
    listed: float = 0.0
    untouched: bool = False
    again: bool = False
    told: bool = False
    by_hand: bool = False
    lost: int = 0
    rule: str | None = None
    reason: str | None = None
    results: tuple[str, ...] = ()
    had: int = 0
    in_stretches: bool = False
    past: int = 0
    left_out: int = 0

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is not as asked though the images were sent."""
        if not self.left_out:
            return ()
        return (f"{self.left_out} of {self.instances} images were refused by the node; its log says why",)

    @property
    def unfinished(self) -> bool:
        """Are there stretches that were not sent?"""
        return self.in_stretches and self.past < self.instances

    @property
    def turn(self) -> tuple[bool, float]:
        """Among those due: half-sent ones first, as what has come would count as all of it meanwhile."""
        return (not self.unfinished, self.due)

    @property
    def hopeless(self) -> bool:
        """Were so many refused in a row, from the first, that the others are not tried?

        Orthanc's names are hashes: the first are a random sample of the images.
        """
        return self.left_out == self.past >= min(_STRETCH, self.instances)

    def stretch(self, images: Iterable[str]) -> tuple[str, ...]:
        """Those of all images that the next job sends; few enough that per cent tell which one is refused."""
        return tuple(sorted(images)[self.past : self.past + _STRETCH]) if self.in_stretches else ()

    def past_the_stretch(self) -> Record:
        """The job has sent all of its images."""
        return self.but(past=self.past + _STRETCH) if self.in_stretches else self

    def past_the_refused(self, share: float) -> Record:
        """The job of a stretch has ended at an image that was refused, that share of them before it."""
        length = min(_STRETCH, self.instances - self.past)
        before = min(round(share * length), length - 1)
        return self.but(past=self.past + before + 1, left_out=self.left_out + 1)

    def from_the_first(self) -> Record:
        """No image of it is known to be refused; the next job sends them all."""
        return self.but(in_stretches=False, past=0, left_out=0)

    @property
    def has_more(self) -> bool:
        """Has a result come since it was handed over?"""
        return len(self.results) > self.had

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.phase == REST

    def is_behind(self, instances: Sequence[str], updated: float) -> bool:
        """Has the series, last changed at Unix time `updated` in seconds, images that were never looked at?

        Fewer than the node has, and none come since they were listed: some were deleted, nothing is to be
        sent. Orthanc's times are whole seconds.
        """
        if self.seen == fingerprint(instances):
            return False
        pruned = self.sent == self.seen and len(instances) < self.instances and updated < int(self.listed)
        return not (self.sent and pruned)

    def but(self, **changes: Any) -> Record:
        """The same with changes; progress falls only where the images are other ones."""
        if "progress" in changes and "sending" not in changes:
            changes["progress"] = max(self.progress, changes["progress"])
        return dataclasses.replace(self, **changes)

    def queued(self, images: str) -> Record:
        """To be handed over with the images of this fingerprint."""
        queued = self.but(phase=WAITING, state="waiting", sending=images, again=bool(self.sent))
        if self.sending == images and not self.final:
            return queued
        return dataclasses.replace(queued.from_the_first(), progress=0.0)

    def listing(self, images: str, instances: int, now: float) -> Record:
        """To be handed over with so many images of this fingerprint, listed at Unix time `now` in seconds."""
        return self.but(sending=images, instances=instances, listed=now)

    def earlier(self, seconds: float) -> Record:
        """As if all had been so many seconds earlier: the clock was set back."""
        moments = {name: max(0.0, getattr(self, name) - seconds) for name in ("due", "since", "listed")}
        return self.but(**moments)

    def not_after(self, now: float) -> Record:
        """As if all that has been had been by now: the clock may have been set back while nobody looked."""
        return self.earlier(max(0.0, self.since - now, self.listed - now))

    def on_the_way(self, share: float, paused: bool) -> Record:
        """A job of Orthanc's has sent that share of its images, and goes on or is paused by somebody."""
        words = f"sending {self.instances} images to the node"
        if paused:
            words = "the transfer is paused in Orthanc's list of jobs, and goes on when it is resumed there"
        state = "paused" if paused else "sending"
        return self.but(state=state, words=words, progress=round(SENT_SHARE * share, 2))

    def at_the_node(self, now: float) -> Record:
        """It was handed over at Unix time `now` in seconds."""
        handed = self.but(sent=self.sending, progress=SENT_SHARE, attempts=0, paused_seconds=0.0)
        return handed.but(since=now, had=len(self.results), in_stretches=False, past=0)

    def failed(self, trouble: str, now: float, pause_seconds: float) -> Record:
        """One attempt more has failed, at Unix time `now` in seconds; the next comes after a pause."""
        attempts, due = self.attempts + 1, now + pause_seconds
        moment = time.strftime("%H:%M:%S UTC", time.gmtime(due))
        words = f"attempt {attempts} failed ({trouble}); again at {moment}"
        paused = self.paused_seconds + pause_seconds
        return self.but(phase=WAITING, state="waiting", words=words).but(
            attempts=attempts, due=due, paused_seconds=paused
        )

    def hurried(self, now: float) -> Record:
        """Tried at once: what is left of its pause has not lasted."""
        left = min(max(self.due - now, 0.0), self.paused_seconds)
        return self.but(due=now, untouched=False, paused_seconds=self.paused_seconds - left)

    def arrived(self, more: str = "") -> Record:
        """Its result is in this Orthanc, and nothing more is to be done."""
        words = "; ".join((f"the enhanced series has arrived{more}", *self.remarks))
        done = self.but(phase=REST, state="done", words=words, progress=1.0)
        return done.but(again=False, rule=None, reason=None)

    def with_result(self, result_id: str, now: float, asks: bool) -> Record:
        """One result more has come, at Unix time `now` in seconds.

        To a series that the node had refused or given up it comes because somebody, or a dose report, made
        the node try again: the node is asked what is true now (`asks`: it can be), as other stacks of the
        series may still be refused.
        """
        record = self.but(results=(*self.results, result_id))
        if self.final and self.state in ("new", "sent", "done"):
            return record.arrived()
        if not (self.final and asks and self.sent and self.sent == self.seen):
            return record
        words = "a result has arrived; the node is asked what became of the series"
        followed = record.but(phase=FOLLOWING, state="asked", words=words, since=now, had=len(self.results))
        return followed.but(again=False, lost=0, rule=None, reason=None)

    def line(self) -> str:
        """One line for people: the state, how far, and words."""
        share = f" {100 * self.progress:.0f} %" if not self.final else ""
        return f"{self.state}{share}: {self.words}" if self.words else f"{self.state}{share}"


def fingerprint(instances: Iterable[str]) -> str:
    """Names a set of images: the same set gives the same text in whatever order Orthanc lists them."""
    return hashlib.sha256("\n".join(sorted(instances)).encode()).hexdigest()[:32]


def write_record(record: Record) -> str:
    """The record as one line of JSON; what stands at its default is left out."""
    told = {
        field.name: getattr(record, field.name)
        for field in dataclasses.fields(Record)
        if getattr(record, field.name) != field.default
    }
    return json.dumps(told, sort_keys=True)


def read_record(text: str) -> Record:
    """Read what `write_record` wrote. What cannot be read counts as a series never seen."""
    try:
        told = json.loads(text)
    except ValueError:
        return Record()
    if not isinstance(told, dict):
        return Record()
    known: dict[str, Any] = {}
    for field in dataclasses.fields(Record):
        value = told.get(field.name, field.default)
        if isinstance(field.default, tuple):
            known[field.name] = tuple(str(one) for one in value) if isinstance(value, list) else ()
        elif field.default is None:
            known[field.name] = value if isinstance(value, str) else None
        else:
            fits = isinstance(value, type(field.default)) or (
                isinstance(field.default, float) and isinstance(value, int)
            )
            known[field.name] = value if fits else field.default
    return Record(**known)

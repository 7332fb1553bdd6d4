"""Where a series stands, as it is kept in the series' own metadata in Orthanc."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Iterable

REST = "rest"  # nothing more will happen by itself
WAITING = "waiting"  # to be handed over, at once or after a pause
SENDING = "sending"  # a job of Orthanc sends it
FOLLOWING = "following"  # the node has all of it; its progress is followed

UNREADABLE = "unreadable"
"""State of a series of which Orthanc could not hand out the images."""

SENT_SHARE = 0.1
"""The part of the progress bar that stands for the way to the node."""


@dataclass(frozen=True)
class Record:
    """One series. `seen` and `sent` are fingerprints: of what was judged, of what the node has whole.

    `state` is the word that people see, `phase` what the worker has to do; `progress` is 0 to 1 and never
    falls while the images stay the same. `due` (of the next attempt) and `since` (the present step began)
    are Unix times in seconds. `untouched`: the last attempt brought no image over. `again`: the node knew the
    series before, so its first answers may be old ones. `had`: how many results were here when it was
    handed over.
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
    due: float = 0.0
    since: float = 0.0
    untouched: bool = False
    again: bool = False
    by_hand: bool = False
    lost: int = 0
    rule: str | None = None
    reason: str | None = None
    results: tuple[str, ...] = ()
    had: int = 0

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.phase == REST

    def but(self, **changes: Any) -> Record:
        """The same with changes; progress falls only where the images are other ones."""
        if "progress" in changes and "sending" not in changes:
            changes["progress"] = max(self.progress, changes["progress"])
        return dataclasses.replace(self, **changes)

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

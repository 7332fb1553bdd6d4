"""Series that archives are asked for over HTTP: requests that survive, worked off by a thread a source.

    requests/pull-<key(series)>-<source>.json     one request; removed when everything is here

What is fetched is filed like what is received, and goes the same way from there. A series that is being
fetched counts as complete only when the source has no more of it, or the request has come to its end.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from dicomnode.errors import (
    DicomnodeError,
    InstanceRefused,
    NetworkError,
    PeerBusy,
    SeriesUnknown,
    SourceUnknown,
    SpoolError,
)
from dicomnode.journey.order import encode_record, known, read_record
from dicomnode.journey.progress import ARRIVED
from dicomnode.journey.rounds import Rounds
from dicomnode.network import protocol
from dicomnode.network.filing import Filing, ReceivedInstance
from dicomnode.network.header import read_header
from dicomnode.network.web_archive import Listed, WebArchive, web_archive
from dicomnode.settings import Settings
from dicomnode.spool import Spool, key

FIRST_PAUSE_SECONDS: Final = 5.0
LONGEST_PAUSE_SECONDS: Final = 600.0
UNKNOWN_FOR_DAYS: Final = 1.0
"""An archive that does not know a series may still be getting it."""
TROUBLE_FOR_DAYS: Final = 7.0
TOLD_FOR_DAYS: Final = 30.0
"""How long a request that has ended with something to say is kept."""
AT_ONCE: Final = 3
_MOST_FAILURES: Final = 10
"""So many instances that cannot be had, one after the other, are trouble of the archive and not theirs."""
TRIES: Final = 5
"""An instance that alone cannot be had so often is left out."""
_REQUESTS: Final = "requests"
_PULL: Final = "pull-"

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pull:
    """A request to fetch a series, and how far it has come: `here` of the `listed` images of the source.

    `asked` counts how often it was asked for. `left_out`: SOP Instance UIDs that will not be filed, each
    with the reason; `left` counts those of them that the source still lists and nobody else has sent.
    `words` says what hinders it or, where it has `ended_at`, why that is not a success.
    """

    source: str
    study_uid: str
    series_uid: str
    asked_at: str
    asked: int = 1
    listed: int = 0
    here: int = 0
    looked: bool = False
    reached: float = 0.0
    words: str = ""
    trouble: str = ""
    trouble_since: str | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    left: int = 0
    not_received: int = 0
    ended_at: str | None = None

    @property
    def under_way(self) -> bool:
        """Whether the source will be asked again."""
        return self.ended_at is None

    @property
    def missing(self) -> int:
        """Images that the source is known to have and that are still to be fetched."""
        return max(self.listed - self.here - self.left, 0)


Subject = tuple[str, str]
"""Series Instance UID and the name of the source."""


class Pulling:
    """Fetches what was asked for, one series at a time from each source.

    `came` is called, in a thread of this, with each instance that is safe on the disk; `told` with a series
    and the number of its images whenever a source has listed them all and nothing is missing; `awaits` with
    a series and the number of images that it is not complete without, 0 for no such number; `has_too` with a
    series of which images were held already that a source has, too, and its AE title.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        filing: Filing,
        came: Callable[[ReceivedInstance], None],
        told: Callable[[str, int], None],
        awaits: Callable[[str, int], None],
        has_too: Callable[[str, str], None] = lambda series_uid, ae_title: None,
    ) -> None:
        self._settings = settings
        self._spool = spool
        # What a request has come to is small: it may use the reserve that keeps images out.
        self._records = Spool(spool.root, reserve_bytes=0)
        self._filing = filing
        self._came = came
        self._told = told
        self._awaits = awaits
        self._has_too = has_too
        self._sources = {source.name: source for source in settings.web_sources}
        self._guard = threading.RLock()
        self._stopping = threading.Event()
        self._pulls: dict[Subject, Pull] = {}
        self._failures: dict[tuple[Subject, str], int] = {}
        self._rounds = {
            name: Rounds[Subject](f"pulling from {name}", self._pass, pause_seconds) for name in self._sources
        }

    # --- life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Take up the requests that were left, and begin to fetch."""
        for pull in self._left():
            subject = pull.series_uid, pull.source
            here = min(pull.listed, len(self._spool.instances(pull.series_uid)))
            self._pulls[subject] = replace(pull, here=max(here, pull.here))
            if pull.under_way and pull.source not in self._sources:
                self._end(subject, f"{pull.source}: is no longer in web_sources; name it there and ask again")
            elif pull.under_way:
                self._say_awaited(pull.series_uid)
                self._rounds[pull.source].want(subject)
        for rounds in self._rounds.values():
            rounds.start()

    def stop(self, grace_seconds: float) -> bool:
        """Fetch no more; whether all threads have come to rest. What is open goes on at the next start."""
        self._stopping.set()
        rested = [rounds.stop(grace_seconds) for rounds in self._rounds.values()]
        return all(rested)

    def _left(self) -> Iterator[Pull]:
        for path in sorted((self._spool.root / _REQUESTS).glob(f"{_PULL}*.json")):
            try:
                values = known(read_record(path), Pull)
                pull = Pull(**values)
                if path != self._path((pull.series_uid, pull.source)):
                    raise SpoolError(f"{path}: is not the record of what its name says; remove it")
                over = pull.ended_at and _age(pull.ended_at) > timedelta(days=TOLD_FOR_DAYS)
            except (TypeError, ValueError, SpoolError) as error:
                log.error("a request to fetch is left out: %s (%s)", path.name, type(error).__name__)
                continue
            if over:
                path.unlink(missing_ok=True)
            else:
                yield pull

    def _path(self, subject: Subject) -> Path:
        series_uid, source = subject
        return self._spool.root / _REQUESTS / f"{_PULL}{key(series_uid)}-{source}.json"

    # --- asking and looking -----------------------------------------------------------------

    def ask(self, source: str, study_uid: str, series_uid: str) -> None:
        """Fetch of a series what is not here; durable when it returns, and the same again is the same.

        Raises SourceUnknown, DiskFull, SpoolError.
        """
        if source not in self._sources:
            there = ", ".join(self._sources) or "none"
            raise SourceUnknown(f"web_sources: there is no such source; the configuration has: {there}")
        subject = series_uid, source
        with self._guard:
            before = self._pulls.get(subject)
            pull = Pull(source, study_uid, series_uid, asked_at=_now())
            if before is not None and before.under_way and before.study_uid == study_uid:
                pull = replace(before, asked=before.asked + 1, trouble="", trouble_since=None)
            elif before is not None:
                pull = replace(pull, asked=before.asked + 1)
            self._spool.write_durably(self._path(subject), encode_record(pull))
            self._pulls[subject] = pull
        rounds = self._rounds[source]
        rounds.enough(subject)
        rounds.want(subject)

    def of_series(self, series_uid: str) -> list[Pull]:
        """The requests for a series that are under way, or have ended with something to say."""
        with self._guard:
            return [pull for (uid, _), pull in self._pulls.items() if uid == series_uid]

    # --- one pass ---------------------------------------------------------------------------

    def _pass(self, subject: Subject) -> bool:
        """Fetch what is missing; whether the source has to be asked again."""
        with self._guard:
            pull = self._pulls.get(subject)
        if pull is None or not pull.under_way:
            return False
        before = pull.here
        try:
            with web_archive(
                self._sources[pull.source], self._settings.network.max_instance_bytes
            ) as archive:
                whole = self._fetch_all(archive, subject)
        except SeriesUnknown as error:
            return self._trouble(subject, "unknown", error, UNKNOWN_FOR_DAYS)
        except (NetworkError, SpoolError) as error:
            if self._pulls[subject].here > before:  # it does not fail for ever: begin with short pauses again
                self._rounds[pull.source].enough(subject)
                self._rounds[pull.source].want(subject)
            return self._trouble(subject, "down", error, TROUBLE_FOR_DAYS)
        return not (whole and self._finish(subject, pull.asked))

    def _fetch_all(self, archive: WebArchive, subject: Subject) -> bool:
        """List, fetch, and list again until a list twice the same has nothing that is not here.

        False when the node is stopping. Raises NetworkError, SpoolError.
        """
        series_uid, source = subject
        before = -1
        while not self._stopping.is_set():
            pull = self._pulls[subject]
            listed = archive.instances(pull.study_uid, series_uid)
            absent = [one for one in listed if self._spool.find(one.sop_instance_uid) is None]
            missing = [one for one in absent if one.sop_instance_uid not in pull.left_out]
            self._note(
                subject,
                listed=len(listed),
                here=len(listed) - len(absent),
                left=len(absent) - len(missing),
                looked=True,
            )
            self._save(subject)
            self._say_awaited(series_uid)
            if before < 0 and len(missing) < len(listed):
                self._has_too(series_uid, self._sources[source].ae_title)
            if not missing and len(listed) == before:
                for _ in range(2):  # as often as it was listed, with nothing new in between
                    self._told(series_uid, len(listed) - pull.not_received)
                return True
            if missing:
                log.info("%s: fetches %d images of %s", source, len(missing), protocol.short(series_uid))
                self._fetch(archive, subject, missing)
            before = len(listed)
        return False

    def _fetch(self, archive: WebArchive, subject: Subject, missing: Sequence[Listed]) -> None:
        """Fetch instances, a few at a time. Raises the first trouble that is not of single instances."""
        work = _Work(missing)
        threads = [
            threading.Thread(
                target=self._worker, args=(archive, subject, work), name=f"pull-{number}", daemon=True
            )
            for number in range(min(AT_ONCE, len(missing)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if work.trouble is not None:
            raise work.trouble
        if work.failed:
            self._count_failures(subject, work)
            raise next(iter(work.failed.values()))

    def _worker(self, archive: WebArchive, subject: Subject, work: "_Work") -> None:
        for listed in work:
            if self._stopping.is_set():
                return
            uid = listed.sop_instance_uid
            try:
                self._came(self._take(archive, subject, listed))
            except InstanceRefused as refusal:
                self._leave_out(subject, uid, refusal)
            except (PeerBusy, SeriesUnknown) as failure:
                work.failed[uid] = failure
                if len(work.failed) >= _MOST_FAILURES:
                    work.end(failure)
            except (DicomnodeError, OSError) as error:
                work.end(error if isinstance(error, DicomnodeError) else _of_disk(error))
            except Exception as error:  # noqa: BLE001 - told without its message, which may quote a data set
                log.error("an error of the program while fetching (%s)", type(error).__name__)
                work.end(SpoolError("an error of the program; the log names it"))
            else:
                work.succeeded += 1
                with self._guard:
                    here = self._pulls[subject].here + 1
                    self._note(subject, here=here, words="", trouble="", trouble_since=None)

    def _take(self, archive: WebArchive, subject: Subject, listed: Listed) -> ReceivedInstance:
        """Fetch and file one instance. Raises DicomnodeError; InstanceRefused for one that is not filed."""
        series_uid, source = subject
        request = archive.fetch(listed)
        header = read_header(request.data_set, request.transfer_syntax_uid)
        asked_for = self._pulls[subject].study_uid, series_uid
        if (header.study_instance_uid, header.series_instance_uid) != asked_for:
            raise InstanceRefused(
                f"{source}: it sent an image of another study or series than asked for", protocol.OTHER_PLACE
            )
        return self._filing.file(request)

    def _leave_out(self, subject: Subject, sop_instance_uid: str, reason: NetworkError) -> None:
        log.warning("%s: an image is left out: %s", subject[1], reason)
        with self._guard:
            pull = self._pulls[subject]
            other = isinstance(reason, InstanceRefused) and reason.status == protocol.CLASS_NOT_SUPPORTED
            self._note(
                subject,
                left_out={**pull.left_out, sop_instance_uid: str(reason)},
                left=pull.left + 1,
                not_received=pull.not_received + other,
            )
            self._save(subject)

    def _count_failures(self, subject: Subject, work: "_Work") -> None:
        """An instance that cannot be had again and again, while others can, keeps no series from its end."""
        for uid, failure in work.failed.items():
            tries = self._failures.get((subject, uid), 0) + 1
            self._failures[subject, uid] = tries
            if tries >= TRIES:
                self._leave_out(subject, uid, failure)

    # --- how it stands ------------------------------------------------------------------------

    def _trouble(self, subject: Subject, kind: str, error: DicomnodeError, most_days: float) -> bool:
        """Note why nothing comes; whether the source is asked again."""
        with self._guard:
            pull = self._pulls[subject]
            since = pull.trouble_since if pull.trouble == kind and pull.trouble_since else _now()
            log.warning("a series cannot be fetched at the moment: %s", error)
            if _age(since) >= timedelta(days=most_days):
                self._end(subject, f"{error}; given up after {most_days:g} day{'s' * (most_days != 1)}")
                return False
            self._note(subject, words=f"{error}; tried again", trouble=kind, trouble_since=since)
            self._save(subject)
        return True

    def _finish(self, subject: Subject, asked: int) -> bool:
        """Everything is here or left out; False when it was asked for again meanwhile."""
        with self._guard:
            pull = self._pulls[subject]
            if pull.asked != asked:
                return False
            self._failures = {of: tries for of, tries in self._failures.items() if of[0] != subject}
            if len(pull.left_out) > pull.not_received:
                reason = list(pull.left_out.values())[-1]
                left = f"{len(pull.left_out)} of {pull.listed} images could not be fetched ({reason})"
                self._end(subject, f"{pull.source}: {left}")
            else:
                del self._pulls[subject]
                self._path(subject).unlink(missing_ok=True)
        log.info("%s: all images of %s are here", pull.source, protocol.short(pull.series_uid))
        self._say_awaited(pull.series_uid)
        return True

    def _end(self, subject: Subject, words: str) -> None:
        with self._guard:
            self._note(subject, words=words, ended_at=_now())
            self._save(subject)
        log.warning("a request to fetch has ended: %s", words)
        self._say_awaited(subject[0])

    def _note(self, subject: Subject, **changes: object) -> None:
        with self._guard:
            pull = replace(self._pulls[subject], **changes)  # type: ignore[arg-type]
            share = ARRIVED * pull.here / pull.listed if pull.listed else 0.0
            self._pulls[subject] = replace(pull, reached=max(pull.reached, share))

    def _save(self, subject: Subject) -> None:
        """What cannot be written now is found out anew at the next start."""
        with self._guard:
            try:
                self._records.write_durably(self._path(subject), encode_record(self._pulls[subject]))
            except (SpoolError, OSError) as error:
                log.warning("where a request to fetch stands cannot be written (%s)", type(error).__name__)

    def _say_awaited(self, series_uid: str) -> None:
        """Tell how many images the series is not complete without, by all requests that are under way."""
        pulls = [pull for pull in self.of_series(series_uid) if pull.under_way]
        counts = [pull.listed - pull.left for pull in pulls]
        self._awaits(series_uid, max(counts, default=0))


class _Work:
    """Instances to be fetched by several threads, and what became of it."""

    def __init__(self, missing: Sequence[Listed]) -> None:
        self._left = iter(missing)
        self._guard = threading.Lock()
        self.failed: dict[str, NetworkError] = {}
        self.succeeded = 0
        self.trouble: DicomnodeError | None = None

    def __iter__(self) -> Iterator[Listed]:
        while True:
            with self._guard:
                listed = None if self.trouble is not None else next(self._left, None)
            if listed is None:
                return
            yield listed

    def end(self, trouble: DicomnodeError) -> None:
        """Hand out no more."""
        with self._guard:
            self.trouble = self.trouble or trouble


def pause_seconds(asked: int) -> float:
    """Seconds before a source is asked again: doubling, from seconds to minutes."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(asked, 20), LONGEST_PAUSE_SECONDS)


def _of_disk(error: OSError) -> SpoolError:
    return SpoolError(f"the disk cannot be written ({error.strerror})")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _age(since: str) -> timedelta:
    return datetime.now(UTC) - datetime.fromisoformat(since)

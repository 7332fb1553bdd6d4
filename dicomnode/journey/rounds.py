"""Questions that are put again and again until they are answered, in a thread of their own."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

_TICK_SECONDS: Final = 0.5

log: Final = logging.getLogger(__name__)

Subject = TypeVar("Subject")


class Rounds(Generic[Subject]):
    """Calls `ask` with each subject that is wanted, at once and later again, one at a time.

    `ask` says whether the subject is still of interest; `pause_seconds` how long to wait after it was asked
    for the n-th time (from 0 on), or None for never again. `ask` may block: whoever wants something does
    not wait for it. When to ask again is in memory only: after a restart it begins anew. An error of `ask`
    is logged, and its subject asked about again in its turn: one peer's answer must not end all asking.
    """

    def __init__(
        self, name: str, ask: Callable[[Subject], bool], pause_seconds: Callable[[int], float | None]
    ) -> None:
        self._ask = ask
        self._pause_seconds = pause_seconds
        self._due: dict[Subject, tuple[float, int]] = {}
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self, grace_seconds: float) -> bool:
        """Ask no more; whether the thread has come to rest."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=grace_seconds)
        return not self._thread.is_alive()

    def want(self, subject: Subject) -> None:
        """Ask about this at once, and again later; what is asked about already stays as it is."""
        with self._guard:
            self._due.setdefault(subject, (time.monotonic(), 0))
        self._wake.set()

    def enough(self, subject: Subject) -> None:
        """Ask about this no more."""
        with self._guard:
            self._due.pop(subject, None)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(_TICK_SECONDS)
            self._wake.clear()
            now = time.monotonic()
            with self._guard:
                due = [subject for subject, (due_at, _) in self._due.items() if due_at <= now]
            for subject in due:
                if self._stopping.is_set():
                    return
                self._next(subject, self._asked(subject))

    def _asked(self, subject: Subject) -> bool:
        try:
            return self._ask(subject)
        except Exception as error:  # noqa: BLE001 - told without its message, which may quote a data set
            log.error("%s: an error of the program (%s)", self._thread.name, type(error).__name__)
            return True

    def _next(self, subject: Subject, wanted: bool) -> None:
        with self._guard:
            if subject not in self._due:
                return
            _, asked = self._due.pop(subject)
            pause_seconds = self._pause_seconds(asked) if wanted else None
            if pause_seconds is not None:
                self._due[subject] = (time.monotonic() + pause_seconds, asked + 1)

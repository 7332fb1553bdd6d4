"""Whether the node's HTTP answers, and when it is asked next. Only the worker's thread changes it."""

from __future__ import annotations

from typing import Callable

from .node import NodeApi, NodeTrouble
from .settings import Settings

HEALTH_SECONDS = 30.0


class Reach:
    """How the node was reached last; `due` is the Unix time in seconds before which nobody asks it.

    `failures` in a row, and `silent_seconds`: the pauses after them together, which no clock can hurry.
    """

    def __init__(
        self,
        node: NodeApi | None,
        settings: Settings,
        note: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._node, self._settings, self._note, self._clock = node, settings, note, clock
        self._health_due = 0.0
        self.due = 0.0
        self.failures = 0
        self.silent_seconds = 0.0
        self.words = "" if node else "no Url is given: progress cannot be seen"
        self.reachable: bool | None = None

    def check(self) -> bool:
        """Ask for its health where that is due; whether it answers again after it did not."""
        now = self._clock()
        if self._node is None or now < max(self.due, self._health_due):
            return False
        self._health_due = now + HEALTH_SECONDS
        try:
            self._node.health()
        except NodeTrouble as trouble:
            self.fails(trouble)
            return False
        return self.answers()

    def answers(self) -> bool:
        """It has answered; whether that is news."""
        back = self.failures > 0
        self.reachable, self.words, self.failures, self.silent_seconds = True, "", 0, 0.0
        return back

    def fails(self, trouble: NodeTrouble) -> None:
        """It has not, or not as asked: pauses grow."""
        self.failures += 1
        pause = min(HEALTH_SECONDS, self._settings.pause_seconds(self.failures))
        self.silent_seconds += pause
        self.due, self._health_due = self._clock() + pause, 0.0
        self.reachable, self.words = trouble.of_the_node, str(trouble)
        self._note(str(trouble))

    def forget_times(self) -> None:
        """The clock was set back: ask at once."""
        self.due = self._health_due = 0.0

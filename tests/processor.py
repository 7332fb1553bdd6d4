"""How long a piece of work keeps the processor, on a machine that others use too."""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Clock = Callable[[], float]

TRIES = 3
"""A host charges a guest what it does for others, and a neighbour on the same core halves its speed."""


def with_children() -> float:
    """Seconds of the processor so far: of this process, its children that ended, and those that live."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], T], clock: Clock = time.process_time) -> tuple[T, float]:
    """What `work` gives, and the seconds of the processor that it took."""
    began = clock()
    result = work()
    return result, clock() - began


def within(limit_seconds: float, work: Callable[[], T], clock: Clock = time.process_time) -> T:
    """What `work` gives, if one of a few runs takes less of the processor than that; else a failure."""
    took = []
    for _ in range(TRIES):
        result, seconds = timed(work, clock)
        if seconds < limit_seconds:
            return result
        took.append(f"{seconds:.2f} s")
    raise AssertionError(f"all runs took {limit_seconds} s or more: {', '.join(took)}")

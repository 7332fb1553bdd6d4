"""How long a piece of work keeps the processor, on a machine that others use too."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TRIES = 3
"""A host charges a guest what it does for others, and a neighbour on the same core halves its speed."""


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` gives, and the seconds of the processor that it took."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def within(limit_seconds: float, work: Callable[[], T]) -> T:
    """What `work` gives, if one of a few runs takes less of the processor than that; else a failure."""
    took = []
    for _ in range(TRIES):
        result, seconds = timed(work)
        if seconds < limit_seconds:
            return result
        took.append(f"{seconds:.2f} s")
    raise AssertionError(f"all runs took {limit_seconds} s or more: {', '.join(took)}")

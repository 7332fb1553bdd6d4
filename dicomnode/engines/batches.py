"""How many slices a device works at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from dicomnode.errors import DeviceFull

ON_A_GPU, ON_A_PROCESSOR = 16, 4

T = TypeVar("T")


def usual_batch(device: torch.device) -> int:
    """Slices that keep the device busy."""
    return ON_A_PROCESSOR if device.type == "cpu" else ON_A_GPU


def in_batches(items: Sequence[int], batch: int, work: Callable[[list[int]], T]) -> Iterator[T]:
    """What `work` gives for `batch` items at once, in order; for fewer where the memory does not suffice.

    :raises DeviceFull: it does not hold one.
    """
    first = 0
    while first < len(items):
        here = list(items[first : first + batch])
        try:
            answer = work(here)
        except torch.OutOfMemoryError as error:
            if len(here) == 1:
                raise DeviceFull(
                    "the memory of the GPU does not hold one slice: free it of other work, name a smaller "
                    "model, or set engine.device to cpu"
                ) from error
            batch = len(here) // 2
        else:
            yield answer
            first += len(here)
            continue
        torch.cuda.empty_cache()  # only now has the error let go of what was computed

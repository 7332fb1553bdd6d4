"""How many slices a device works at once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from dicomnode.errors import DeviceFull

ON_A_GPU, ON_A_PROCESSOR = 16, 4
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED")
FULL = (
    "the memory of the GPU does not hold this work: free it of other work, name a smaller model, or set "
    "engine.device to cpu"
)

T = TypeVar("T")


def usual_batch(device: torch.device) -> int:
    """Slices that keep the device busy."""
    return ON_A_PROCESSOR if device.type == "cpu" else ON_A_GPU


def in_batches(items: Sequence[int], batch: int, work: Callable[[list[int]], T]) -> Iterator[T]:
    """What `work` gives for `batch` items at once, in order; for fewer where the memory does not suffice.

    :raises DeviceFull: it does not for one.
    """
    first = 0
    while first < len(items):
        here = list(items[first : first + batch])
        try:
            answer = work(here)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if len(here) == 1:
                raise DeviceFull(FULL) from error
            batch = len(here) // 2
        else:
            yield answer
            first += len(here)
            continue
        torch.cuda.empty_cache()  # only now has the error let go of what was computed


@contextmanager
def all_at_once() -> Iterator[None]:
    """Around work that no batch divides. Raises DeviceFull where the memory does not hold it."""
    try:
        yield
    except RuntimeError as error:
        if _is_out_of_memory(error):
            raise DeviceFull(FULL) from error
        raise


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Libraries under torch have no class for it: cuFFT, cuDNN and cuBLAS say it in words."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in OUT_OF_MEMORY)

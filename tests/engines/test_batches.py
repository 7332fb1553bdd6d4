"""A device works as many slices at once as its memory holds, and no slice is lost or done twice for it."""

import pytest
import torch

from dicomnode.engines.batches import all_at_once, in_batches
from dicomnode.errors import DeviceFull


@pytest.mark.parametrize("holds", [1, 2, 3, 5, 16, 100])
@pytest.mark.parametrize("count", [0, 1, 7, 33])
def test_every_slice_is_worked_once_and_in_order(holds: int, count: int) -> None:
    tried: list[int] = []

    def work(slices: list[int]) -> list[int]:
        tried.append(len(slices))
        if len(slices) > holds:
            raise torch.OutOfMemoryError("no room")
        return slices

    done = list(in_batches(range(3, 3 + count), 16, work))
    assert [one for some in done for one in some] == list(range(3, 3 + count))
    assert max(map(len, done), default=0) <= min(holds, 16)
    assert sum(size > holds for size in tried) <= 4, "it learns"


def test_a_device_that_holds_not_one_slice_is_named() -> None:
    def work(slices: list[int]) -> None:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(DeviceFull, match=r"set engine\.device to cpu"):
        list(in_batches(range(5), 4, work))


@pytest.mark.parametrize("words", ["cuFFT error: CUFFT_ALLOC_FAILED", "CUDA error: out of memory"])
def test_libraries_say_it_in_words(words: str) -> None:
    def work(slices: list[int]) -> list[int]:
        if len(slices) > 2:
            raise RuntimeError(words)
        return slices

    assert list(in_batches(range(5), 4, work)) == [[0, 1], [2, 3], [4]]
    with pytest.raises(DeviceFull), all_at_once():
        raise RuntimeError(words)


def test_other_trouble_stays_what_it_is() -> None:
    def work(slices: list[int]) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(in_batches(range(5), 4, work))
    with pytest.raises(RuntimeError, match="shape mismatch"), all_at_once():
        work([])

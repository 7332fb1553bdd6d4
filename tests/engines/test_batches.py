"""A device works as many slices at once as its memory holds, and no slice is lost or done twice for it."""

import pytest
import torch

from dicomnode.engines.batches import in_batches
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

"""What a method beside the model is given."""

from collections.abc import Sequence

import numpy as np
import pytest

from dicomnode.appraisal.methods import Beside, Scan
from dicomnode.engines.start_step import StartStep
from dicomnode.errors import ModelError
from tests.appraisal.scans import Volume, start


def test_a_method_beside_sees_one_neighbour_and_their_steps() -> None:
    stack = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, 4, 4), np.float32)
    scan = Scan(stack, tuple(start(k) for k in range(6)), 1.0, 20.0)
    asked: list[tuple[list[float], list[int]]] = []

    def work(seen: Volume, starts: Sequence[StartStep]) -> Volume:
        asked.append((list(seen[:, 0, 0]), [one.step for one in starts]))
        return seen + 100

    method = Beside("work", work)
    assert list(method(scan, slice(2, 4))[:, 0, 0]) == [102, 103]
    assert list(method(scan, slice(0, 1))[:, 0, 0]) == [100]
    assert list(method(scan, slice(5, 6))[:, 0, 0]) == [105]
    assert asked == [([1, 2, 3, 4], [1, 2, 3, 4]), ([0, 1], [0, 1]), ([4, 5], [4, 5])]
    assert list(Beside("alone", work, neighbours=0)(scan, slice(2, 3))[:, 0, 0]) == [102]
    assert asked[-1] == ([2], [2])
    with pytest.raises(ModelError, match="short gave"):
        Beside("short", lambda seen, starts: seen[1:])(scan, slice(2, 4))

"""Changes that `make_series` makes to the images it writes."""

from collections.abc import Callable

from pydicom.dataset import Dataset

Change = Callable[[Dataset, int], None]


def put(**values: object) -> Change:
    """A change that sets elements in every image."""

    def change(data: Dataset, index: int) -> None:
        for keyword, value in values.items():
            setattr(data, keyword, value)

    return change


def put_in(at: int, **values: object) -> Change:
    """A change that sets elements in one image."""

    def change(data: Dataset, index: int) -> None:
        if index == at:
            put(**values)(data, index)

    return change


def without(*keywords: str) -> Change:
    def change(data: Dataset, index: int) -> None:
        for keyword in keywords:
            delattr(data, keyword)

    return change

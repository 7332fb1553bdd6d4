"""Journeys of series that were not whole the first time: the later result stands for the earlier."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.node import Node
from tests.journey.scene import Pacs, decoded, low_dose_series, send_to, settings_for, wait_for_jobs


def described(description: str) -> Callable[[Dataset, int], None]:
    """Gives each image a Series Description."""

    def change(data: Dataset, index: int) -> None:
        data.SeriesDescription = description

    return change


@pytest.mark.slow
def test_late_images_make_a_result_that_says_it_replaces_the_earlier(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    """Two series of one name and number in a PACS: a reader must see which one counts."""
    paths = low_dose_series(tmp_path / "in", slices=5, change=described("x" * 64))
    with Node(settings_for(tmp_path, pacs.port), engine=engine) as node:
        send_to(node.port, paths[:4])
        (first,) = wait_for_jobs(node)
        before = {uid: decoded(content) for uid, content in pacs.kept().items()}
        send_to(node.port, paths[4:])
        first, second = wait_for_jobs(node, 2)
    assert [job.status for job in (first, second)] == ["done", "done"], "what was sent is not taken back"
    news = [decoded(content) for uid, content in pacs.kept().items() if uid not in before]
    assert (len(before), len(news)) == (5, 6)
    assert not any("revision" in one.SeriesDescription for one in before.values())
    for one in news:
        assert one.SeriesDescription.endswith(" (revision 1)")
        assert len(one.SeriesDescription) <= 64
    comments = [one.ImageComments for one in news if one.Modality == "CT"]
    assert len(comments) == 5
    assert all("Replaces an earlier AI-processed series" in comment for comment in comments)


@pytest.mark.slow
def test_a_series_refused_for_its_gap_and_completed_is_listed_as_done_only(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    paths = low_dose_series(tmp_path / "in", slices=6)
    with Node(settings_for(tmp_path, pacs.port), engine=engine) as node:
        send_to(node.port, paths[:2] + paths[3:])
        (first,) = wait_for_jobs(node)
        assert (first.status, first.rule) == ("refused", "gap-in-series")
        send_to(node.port, paths)
        first, second = wait_for_jobs(node, 2)
    assert [job.status for job in (first, second)] == ["superseded", "done"]
    made = [decoded(content) for content in pacs.kept().values()]
    assert len(made) == 7
    assert not any("revision" in one.SeriesDescription for one in made), "nothing went before"

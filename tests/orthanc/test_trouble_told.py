"""Of which series trouble with the node is told, and what else is said with it."""

from typing import Any

from dicomnode_plugin.node import NodeSeries, NodeTrouble
from dicomnode_plugin.settings import DAY_SECONDS

from tests.orthanc.test_refused_images import REFUSED, TAKEN, Site
from tests.orthanc.test_silent_node import BUSY, SILENCE, Stacks, silent_for


class SomeFail(Stacks):
    """It has errors of its own at some series."""

    def series(self, uid: str) -> NodeSeries:
        if uid.startswith("bad"):
            raise NodeTrouble("the node could not answer (HTTP 500)", 500)
        return super().series(uid)


def test_trouble_with_the_node_is_told_of_all_and_trouble_with_a_series_of_that() -> None:
    """Two bad ones, so that their failures may follow on each other."""
    node = SomeFail()
    site = Site(lambda image: TAKEN, node)
    bad, good = ["bad1", "bad2"], [f"good{index}" for index in range(30)]
    for name in (*bad, *good):
        site.clinic.series[name] = [f"{name}{index}" for index in range(3)]
        site.desk.consider(name)
    most = 0
    for _ in range(200):
        site.work()
        most = max(most, site.desk.reach.failures)
        assert not any("HTTP 500" in site.record(name).words for name in good)
    assert most > 1
    assert all("HTTP 500" in site.record(name).words for name in bad)
    assert {site.record(name).words for name in good} == {"stack 2"}
    node.trouble = SILENCE
    site.work(60)
    assert {site.record(name).words for name in good} == {str(SILENCE)}


class FailsOnce(Stacks):
    """Of its series it cannot tell one time; that it is well it always tells."""

    def health(self) -> str:
        return ""

    def series(self, uid: str) -> NodeSeries:
        if self.trouble:
            self.trouble, trouble = None, self.trouble
            raise trouble
        return self.told


def five_at_work(node: Stacks) -> Site:
    site = Site(lambda image: TAKEN, node)
    for name in "abcde":
        site.clinic.series[name] = [f"{name}{index}" for index in range(3)]
        site.desk.consider(name)
    site.work(60)
    return site


def work_until_it_has_failed(site: Site, times: int) -> None:
    for _ in range(60):
        if site.desk.reach.failures == times:
            return
        site.work()
    raise AssertionError(f"it has failed {site.desk.reach.failures} times in a row, not {times}")


def test_trouble_that_passes_is_told_of_one_series() -> None:
    node = FailsOnce()
    site = five_at_work(node)
    node.trouble = BUSY
    work_until_it_has_failed(site, 1)
    assert sum(site.record(name).words == str(BUSY) for name in "abcde") == 1
    site.work(60)
    assert {site.record(name).words for name in "abcde"} == {"stack 2"}


def test_trouble_that_comes_twice_in_a_row_is_told_of_all() -> None:
    node = Stacks()
    site = five_at_work(node)
    node.trouble = SILENCE
    for times, told in ((1, 1), (2, 5)):
        work_until_it_has_failed(site, times)
        assert sum(site.record(name).words == str(SILENCE) for name in "abcde") == told


def with_a_refused_image(node: Stacks, **settings: Any) -> Site:
    site = Site(lambda image: REFUSED if image == "b" else TAKEN, node, **settings)
    site.clinic.series["one"] = list("abcdef")
    site.desk.consider("one")
    site.work(40)
    assert (site.record("one").phase, site.record("one").left_out) == ("following", 1)
    return site


def test_who_gives_up_says_that_images_were_refused() -> None:
    record = silent_for(with_a_refused_image(Stacks(SILENCE), give_up_days=0.1), DAY_SECONDS)
    assert record.state == "failed"
    assert "1 of 6 images were refused" in record.words


def test_where_nobody_can_be_asked_it_is_said_that_images_were_refused() -> None:
    site = with_a_refused_image(Stacks(SILENCE))
    site._node = None
    site.start()
    record = silent_for(site, 60.0)
    assert record.state == "sent"
    assert "1 of 6 images were refused" in record.words

"""What a record remembers of the hand-over: which images it was of, and whether a result has come since."""

import pytest
from dicomnode_plugin.node import NodeSeries
from dicomnode_plugin.record import Record, fingerprint, write_record

from tests.orthanc.test_refused_images import TAKEN, Clinic, Site

SENT = Record(seen=fingerprint("abc"), sent=fingerprint("abc"), instances=3, listed=100.9, since=500.0)


@pytest.mark.parametrize(
    ("images", "updated", "behind"),
    [
        ("abc", 300.0, False),
        ("ab", 99.0, False),  # one deleted, none come since
        ("ad", 300.0, True),  # one come while the node worked, two deleted
        ("ad", 100.0, True),  # in the second in which they were listed, which Orthanc does not divide
        ("abcd", 99.0, True),
    ],
)
def test_images_that_came_after_the_list_count_whatever_was_deleted(
    images: str, updated: float, behind: bool
) -> None:
    assert SENT.is_behind(images, updated) is behind


def test_the_list_is_as_old_as_the_attempt_that_sent_it() -> None:
    site = Site(lambda image: TAKEN)
    site.clinic.series["one"] = ["a", "b", "c"]
    site.desk.consider("one")
    site.work()
    listed = site.record("one").listed
    site.now += 60.0
    record = site.finish("one")
    assert record.listed == listed < record.since - 50.0


class Done:
    """A node that has sent its result, and tells a UID under which this Orthanc has nothing."""

    def health(self) -> str:
        return ""

    def series(self, uid: str) -> NodeSeries:
        return NodeSeries("done", True, 1.0, "", 3, None, None, ("1.2.840.99",), ())


class LookingUp(Clinic):
    """An Orthanc that finds no series by its UID."""

    def RestApiPost(self, uri: str, body: str) -> bytes:
        return b"[]" if uri == "/tools/lookup" else super().RestApiPost(uri, body)


@pytest.mark.parametrize(
    ("results", "words"), [((), "has not come into this Orthanc"), (("other",), "is here")]
)
def test_a_result_under_the_uid_of_another_destination_is_here_all_the_same(
    results: tuple[str, ...], words: str
) -> None:
    site = Site(lambda image: TAKEN, Done())
    site.clinic = LookingUp(lambda image: TAKEN)
    site.archive = type(site.archive)(site.clinic)
    site.start()
    site.clinic.series["one"] = ["a", "b", "c"]
    site.desk.consider("one")
    site.work(3)
    handed = site.record("one")
    assert handed.phase == "following"
    site.clinic.metadata["/series/one/metadata/4311"] = write_record(handed.but(results=results))
    site.start()
    record = site.finish("one")
    assert record.state == "done"
    assert words in record.words

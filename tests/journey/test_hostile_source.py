"""A source that sends something else than it was asked for: nothing of it is filed, and the rest comes."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.journey.pulling import Pull, Pulling
from dicomnode.network.filing import Filing, ReceivedInstance
from dicomnode.settings import Settings
from dicomnode.spool import Spool
from tests.journey.scene import settings_for, wait_until
from tests.makers import make_series
from tests.network.test_web_archive import ORTHANC_ID, Answer, Server, says, served, told

PULL = Pull("hostile", "", "", asked_at="")
SOURCE = {"name": "hostile", "ae_title": "HOSTILE", "kind": "orthanc"}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.journey.pulling.FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("dicomnode.journey.pulling.LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("dicomnode.journey.rounds._TICK_SECONDS", 0.02)


class FakeOrthanc:
    """Lists the images of a series, and hands over for each what it is told to."""

    def __init__(self, paths: list[Path]) -> None:
        self.files: dict[str, tuple[str, Answer]] = {}
        for number, path in enumerate(paths):
            uid = str(dcmread(path).SOPInstanceUID)
            known = f"{number:08x}{ORTHANC_ID[8:]}"
            self.files[known] = uid, says(path.read_bytes(), "application/dicom")

    def put(self, number: int, answer: Answer) -> None:
        known = list(self.files)[number]
        self.files[known] = self.files[known][0], answer

    def __call__(self, head: bytes, connection: socket.socket) -> None:
        path = head.split()[1].decode()
        if path == "/tools/lookup":
            answer = told([{"Type": "Series", "ID": ORTHANC_ID}])
        elif path.startswith("/series/"):
            answer = told(
                [
                    {"ID": known, "MainDicomTags": {"SOPInstanceUID": uid}}
                    for known, (uid, _) in self.files.items()
                ]
            )
        else:
            answer = self.files[path.split("/")[2]][1]
        answer(head, connection)


class Scene:
    """Pulling from a server, without a node around it."""

    def __init__(self, folder: Path, server: Server, paths: list[Path]) -> None:
        values = settings_for(folder).model_dump()
        source = SOURCE | {"url": f"http://127.0.0.1:{server.port}", "timeout_seconds": 2}
        values |= {"web_sources": [source], "network": {"max_instance_mib": 1}}
        self.spool = Spool(folder / "spool", 0)
        self.came: list[ReceivedInstance] = []
        self.told: list[int] = []
        self.awaited: list[int] = []
        self.pulling = Pulling(
            Settings.model_validate(values),
            self.spool,
            Filing(self.spool),
            self.came.append,
            lambda _, images: self.told.append(images),
            lambda _, images: self.awaited.append(images),
        )
        first = dcmread(paths[0])
        self.series_uid = str(first.SeriesInstanceUID)
        self.pulling.start()
        self.pulling.ask("hostile", str(first.StudyInstanceUID), self.series_uid)

    def pull(self) -> Pull | None:
        return next(iter(self.pulling.of_series(self.series_uid)), None)

    def ended(self) -> Pull | None:
        wait_until(lambda: (pull := self.pull()) is None or not pull.under_way, 60, told=self.pull)
        return self.pull()


@contextmanager
def scene(folder: Path, paths: list[Path], change: Callable[[FakeOrthanc], object]) -> Iterator[Scene]:
    fake = FakeOrthanc(paths)
    change(fake)
    with served(fake) as server:
        played = Scene(folder, server, paths)
        try:
            yield played
        finally:
            assert played.pulling.stop(10)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return make_series(tmp_path / "in", slices=6)


def dicom(content: bytes) -> Answer:
    return says(content, "application/dicom")


def other_series(folder: Path) -> bytes:
    return make_series(folder / "other", slices=1, seed=5)[0].read_bytes()


def endless(_: bytes, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom\r\n\r\n")
    while True:
        connection.send(bytes(65536))


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (lambda paths, folder: dicom(other_series(folder)), "another study or series"),
        (lambda paths, folder: dicom(paths[1].read_bytes()), "another SOP Instance"),
        (lambda paths, folder: dicom(paths[3].read_bytes()[:-500]), ""),
        (lambda paths, folder: dicom(b"\x7fELF" * 100), "no DICOM file"),
        (lambda paths, folder: endless, "more than 1 MiB"),
    ],
)
def test_what_was_not_asked_for_is_not_filed_and_the_rest_is(
    tmp_path: Path,
    paths: list[Path],
    sent: Callable[[list[Path], Path], Answer],
    words: str,
) -> None:
    with scene(tmp_path, paths, lambda fake: fake.put(3, sent(paths, tmp_path))) as played:
        ended = played.ended()
    assert ended is not None
    assert "1 of 6 images could not be fetched" in ended.words
    assert words in ended.words
    wanted = {str(dcmread(path).SOPInstanceUID) for path in paths[:3] + paths[4:]}
    assert {one.sop_instance_uid for one in played.came} == wanted
    assert len(list(played.spool.incoming.glob("*/*.dcm"))) == 5
    assert {one.calling_ae for one in played.came} == {"HOSTILE"}
    assert played.told == [6, 6], "one is missing, and whoever waits is told so"
    assert played.awaited[-1] == 0


def test_what_was_left_out_and_is_gone_makes_up_for_nothing_that_is_missing(
    tmp_path: Path, paths: list[Path]
) -> None:
    """One of six is no image and is removed at the source; one of the others cannot be had yet."""
    played_with: list[FakeOrthanc] = []

    def broken_and_shut(fake: FakeOrthanc) -> None:
        fake.put(3, dicom(b"\x7fELF" * 100))
        fake.put(5, says(b"", "text/plain", "401 Unauthorized"))
        played_with.append(fake)

    with scene(tmp_path, paths, broken_and_shut) as played:
        wait_until(lambda: len((played.pull() or PULL).left_out) == 1, 30, told=played.pull)
        wait_until(lambda: len(played.came) == 4, 30, told=played.pull)
        fake = played_with[0]
        del fake.files[list(fake.files)[3]]
        wait_until(lambda: (played.pull() or PULL).listed == 5, 30, told=played.pull)
        wait_until(lambda: played.awaited[-1] == 5, 5, told=lambda: played.awaited)
        pull = played.pull()
        assert pull is not None
        assert (pull.here, pull.missing) == (4, 1)
        fake.put(4, dicom(paths[5].read_bytes()))
        played.ended()
    assert len(played.came) == 5


def test_an_image_that_cannot_be_had_is_left_out_in_the_end(tmp_path: Path, paths: list[Path]) -> None:
    broken = says(b"", "text/plain", "500 Internal Server Error")
    with scene(tmp_path, paths, lambda fake: fake.put(0, broken)) as played:
        ended = played.ended()
    assert ended is not None
    assert "HTTP 500" in ended.words
    assert len(played.came) == 5


def test_a_server_in_trouble_is_waited_for_and_nothing_left_out(tmp_path: Path, paths: list[Path]) -> None:
    good: list[Answer] = []

    def all_broken(fake: FakeOrthanc) -> None:
        good.extend(answer for _, answer in fake.files.values())
        for number in range(6):
            fake.put(number, says(b"", "text/plain", "503 Service Unavailable"))
        played_with.append(fake)

    played_with: list[FakeOrthanc] = []
    with scene(tmp_path, paths, all_broken) as played:
        wait_until(lambda: "HTTP 503" in (played.pull() or PULL).words, 30, told=played.pull)
        for number, answer in enumerate(good):
            played_with[0].put(number, answer)
        assert played.ended() is None
    assert len(played.came) == 6


def test_nothing_is_told_as_complete_while_something_is_missing(tmp_path: Path, paths: list[Path]) -> None:
    with scene(tmp_path, paths, lambda fake: None) as played:
        assert played.ended() is None
        assert played.awaited[0] == 6
    assert (played.awaited[-1], played.told) == (0, [6, 6])
    assert not list((played.spool.root / "requests").iterdir())

"""`dicomnode inspect` on the disk: links, copies of names, what cannot be reached, names that are no text."""

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomnode.__main__ import main
from dicomnode.inspection.folder import gather
from tests.makers import make_series, phantom

Answer = Callable[..., dict]


def test_links_are_followed_once_and_nothing_is_waited_for(tmp_path: Path, inspect: Answer) -> None:
    make_series(tmp_path / "elsewhere", phantom(3, 64, 64), pixel_spacing_mm=(4.0, 4.0))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.dcm").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.write(next((tmp_path / "elsewhere").iterdir()))
    answer = inspect(folder)
    assert [(one["accepted"], one["files"]) for one in answer["series"]] == [(True, 3)]
    assert (answer["other_files"], answer["copies"]) == (2, 0)


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_looked_at(
    tmp_path: Path, inspect: Answer
) -> None:
    """Also where the tests run as root, who may read everything: what the kernel refuses to read."""
    make_series(tmp_path / "in", phantom(3, 64, 64), pixel_spacing_mm=(4.0, 4.0))
    (tmp_path / "in" / "0000.dcm").symlink_to("/proc/self/mem")
    refused, good = sorted(inspect(tmp_path)["series"], key=lambda one: one["accepted"])
    assert (good["accepted"], good["files"]) == (True, 3)
    assert refused["rule"] == "broken-instance"
    assert "cannot be read" in refused["reason"]


@contextmanager
def shut(folder: Path, mode: int) -> Iterator[None]:
    """Root may do everything, so root is somebody else meanwhile."""
    me = os.geteuid()
    folder.chmod(mode)
    try:
        if me == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(me)
        folder.chmod(0o755)


def test_a_folder_whose_files_cannot_be_reached_is_told_and_the_others_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be listed, but not searched."""
    make_series(tmp_path / "in" / "open", slices=1)
    make_series(tmp_path / "in" / "shut" / "below", slices=1)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with shut(tmp_path / "in" / "shut", 0o444):
        folder = gather([Path("in")], lambda files: files)
    assert [path.parent.name for one in folder.series for path in one.paths] == ["open"]
    assert folder.unreadable == (str(Path("in", "shut")),)


@pytest.mark.parametrize("asked", ["shut/below", "shut/below/0001.dcm", "in"])
def test_what_lies_in_a_shut_folder_is_told_and_the_others_are_looked_at(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named itself, or by links from outside; a link to nothing is nothing."""
    make_series(tmp_path / "shut" / "below", slices=1)
    make_series(tmp_path / "good", slices=1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("../shut/below")
    (tmp_path / "in" / "nowhere").symlink_to("gone")
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with shut(tmp_path / "shut", 0):
        folder = gather([Path(asked), Path("good")], lambda files: files)
        assert main(["inspect", asked]) == 1
    assert [path.parent.name for one in folder.series for path in one.paths] == ["good"]
    told = "in/link" if asked == "in" else asked
    assert folder.unreadable == (told,)
    assert f"cannot be read: {told}" in capsys.readouterr().err


def test_a_file_that_goes_while_it_is_looked_at_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_series(tmp_path / "in", slices=2)
    look = Path.stat

    def late(path: Path, **how: bool) -> os.stat_result:
        if path == first:
            first.unlink(missing_ok=True)
        return look(path, **how)

    monkeypatch.setattr(Path, "stat", late)
    folder = gather([tmp_path / "in"], lambda files: files)
    assert [one.paths for one in folder.series] == [(second,)]
    assert folder.unreadable == ()


@pytest.mark.parametrize("gone", [0, 1], ids=["the first", "the copy"])
def test_a_copy_that_goes_before_it_is_compared_ends_nothing(gone: int, tmp_path: Path) -> None:
    files = make_series(tmp_path / "in", slices=2)
    copy = tmp_path / "in" / "copy.dcm"
    copy.write_bytes(files[0].read_bytes())

    def late(paths: Sequence[Path]) -> Iterator[Path]:
        for path in paths:
            yield path
            if path == files[0]:
                (files[0], copy)[gone].unlink()

    found = gather([files[0], files[1], copy], late)
    paths = [path for one in found.series for path in one.paths]
    assert sorted(paths) == sorted([files[0], files[1], copy])
    assert found.copies == 0


def test_names_of_files_that_are_no_text_are_told_apart(
    tmp_path: Path, inspect: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file by its name, a folder by the series in it; bytes that are no UTF-8 are told as such."""
    (path,) = make_series(tmp_path / "in", slices=1)
    for byte in (b"\xfe", b"\xff"):
        (tmp_path / os.fsdecode(b"odd" + byte)).mkdir()
        (tmp_path / os.fsdecode(b"odd" + byte) / path.name).write_bytes(path.read_bytes()[:900])
        (tmp_path / os.fsdecode(b"odd" + byte + b".dcm")).write_bytes(path.read_bytes()[132:])
    answer = inspect(tmp_path)
    assert json.dumps(answer, ensure_ascii=False).encode()
    told = " ".join(one["reason"] for one in answer["series"] if not one["accepted"])
    folders = {Path(one["folder"]).name for one in answer["series"]}
    assert main(["inspect", str(tmp_path)]) == 0
    shown = "".join(capsys.readouterr().out.split())
    for name in (r"odd\xfe", r"odd\xff"):
        assert f"{name}.dcm" in told
        assert name in folders
        assert name in shown


def test_names_of_what_cannot_be_read_command_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_series(tmp_path / "good", phantom(3, 64, 64), pixel_spacing_mm=(4.0, 4.0))
    evil = tmp_path / (os.fsdecode(b"l\naccepted \x1b[31m\xff") + "\u009b31m\u202e")
    evil.symlink_to(evil)
    assert main(["inspect", str(tmp_path)]) == 0
    assert main(["inspect", str(evil)]) == 1
    shown = capsys.readouterr()
    assert not {"\x1b", "\u009b", "\u202e"} & {*shown.out, *shown.err}
    name = r"l\x0aaccepted \x1b[31m\xff?31m?"
    assert name in " ".join(shown.out.split())
    assert name in shown.err

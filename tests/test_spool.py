"""The spool: a file is whole or absent, under a name that no data set can choose."""

import errno
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from dicomnode.errors import DiskFull, SpoolError
from dicomnode.spool import Spool, key

SERIES = "1.2.3.4"
INSTANCE = "1.2.3.4.5"


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", reserve_bytes=0)


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]


def test_an_instance_is_found_again_by_its_uid(spool):
    path = spool.file(SERIES, INSTANCE, b"head", b"body")
    assert path.read_bytes() == b"headbody"
    assert path == spool.root / "incoming" / key(SERIES) / f"{key(INSTANCE)}.dcm"
    assert spool.instances(SERIES) == [path]
    assert spool.find(INSTANCE) == path
    assert list(spool.series()) == [path.parent]


def test_another_process_finds_what_is_on_disk(spool):
    path = spool.file(SERIES, INSTANCE, b"x")
    assert Spool(spool.root, 0).find(INSTANCE) == path


def test_nothing_is_held_of_a_series_that_never_came(spool):
    assert spool.instances("1.2.3") == []
    assert spool.find("1.2.3") is None
    assert list(spool.series()) == []


@pytest.mark.parametrize("uid", ["../../etc/x", "", "1..2", "1.02", "/etc/passwd", "1" * 65, "1.2\x00", "a"])
def test_text_that_is_no_uid_is_never_filed(spool, uid):
    for call in (spool.series_folder, spool.find, spool.refused_folder):
        with pytest.raises(SpoolError):
            call(uid)
    with pytest.raises(SpoolError):
        spool.file(SERIES, uid, b"x")
    assert files_below(spool.root) == []


@pytest.mark.parametrize("job", ["../x", "", ".hidden", "a/b", "a\x00"])
def test_a_job_id_cannot_leave_the_work_folder(spool, job):
    with pytest.raises(SpoolError):
        spool.work_folder(job)


def test_files_are_private_and_not_executable(spool):
    path = spool.file(SERIES, INSTANCE, b"x")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert spool.root.stat().st_mode & 0o777 == 0o700


def test_below_the_reserve_nothing_is_written(spool):
    full = Spool(spool.root, reserve_bytes=2**62)
    with pytest.raises(DiskFull, match="reserve"):
        full.file(SERIES, INSTANCE, b"x")
    assert files_below(spool.root) == []
    assert full.find(INSTANCE) is None


def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path, monkeypatch):
    # A file-size limit makes the kernel itself cut the write short, as a full disk does.
    child = multiprocessing.get_context("fork").Process(target=_write_above_the_file_limit, args=(tmp_path,))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert files_below(tmp_path) == []


def _write_above_the_file_limit(root: Path) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    spool = Spool(root / "spool", 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        spool.file(SERIES, INSTANCE, b"x" * 4000, b"y" * 4000)
    except DiskFull as error:
        os._exit(0 if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EFBIG else 2)
    os._exit(1)


def test_what_a_crash_left_is_removed_when_the_spool_is_claimed_and_not_before(spool):
    kept = spool.file(SERIES, INSTANCE, b"x")
    leftover = kept.parent / f".{kept.name}.999-0.tmp"
    leftover.write_bytes(b"half")
    other = Spool(spool.root, 0)
    assert leftover.exists()
    assert other.instances(SERIES) == [kept]
    assert other.claim() == 1
    assert files_below(spool.root) == [kept]
    assert other.claim() == 0


def test_two_owners_are_one_too_many(spool):
    spool.claim()
    other = Spool(spool.root, 0)
    with pytest.raises(SpoolError, match="another dicomnode"):
        other.claim()
    spool.release()
    other.claim()


def test_writers_at_once_leave_one_whole_file(spool):
    contents = [bytes([number]) * 50_000 for number in range(8)]
    threads = [threading.Thread(target=spool.file, args=(SERIES, INSTANCE, text)) for text in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() in contents for path in files_below(spool.root)] == [True]


def test_the_same_contradiction_is_quarantined_once(spool):
    first = spool.quarantine(INSTANCE, "ab" * 32, "other pixels", b"x")
    again = spool.quarantine(INSTANCE, "ab" * 32, "other pixels", b"x")
    other = spool.quarantine(INSTANCE, "cd" * 32, "other pixels", b"y")
    assert first == again != other
    assert first.with_suffix(".txt").read_text() == "other pixels\n"
    assert len(files_below(spool.quarantined)) == 4


def test_a_job_has_its_own_folder(spool):
    folder = spool.work_folder("job-1")
    (folder / "out.dcm").write_bytes(b"x")
    assert folder == spool.work_folder("job-1")


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "spool").write_text("")
    with pytest.raises(SpoolError, match="is a file"):
        Spool(tmp_path / "spool", 0)


def test_the_key_is_made_once_private_and_the_same_for_ever(spool):
    key_then = spool.uid_key()
    path = spool.root / "uid.key"
    assert len(key_then) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert Spool(spool.root, reserve_bytes=0).uid_key() == spool.uid_key() == key_then
    assert path.stat().st_mode & 0o777 == 0o600
    assert Spool(spool.root.parent / "another", reserve_bytes=0).uid_key() != key_then


def test_the_key_fits_on_a_disk_that_takes_no_images(tmp_path):
    full = Spool(tmp_path / "spool", reserve_bytes=1 << 60)
    assert full.uid_key() == full.uid_key()


def _killed_while_making_the_key(root, moment):
    patched = {"fsync": os.fsync, "rename": Path.rename}

    def die(*_):
        os._exit(9)

    if moment == "fsync":
        os.fsync = die
    else:
        Path.rename = die
    try:
        Spool(root, reserve_bytes=0).uid_key()
    finally:
        os.fsync, Path.rename = patched["fsync"], patched["rename"]


@pytest.mark.parametrize("moment", ["fsync", "rename"])
def test_a_crash_while_the_key_is_made_leaves_none_and_nothing_else(spool, moment):
    process = multiprocessing.get_context("fork").Process(
        target=_killed_while_making_the_key, args=(spool.root, moment)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (spool.root / "uid.key").exists()
    assert len(files_below(spool.root)) == 1, "the process should have died with the file half made"
    assert spool.claim() == 1
    key_made = spool.uid_key()
    assert [path.read_bytes() for path in files_below(spool.root)] == [key_made]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_told_and_not_replaced(spool, content):
    spool.uid_key()
    (spool.root / "uid.key").write_bytes(content)
    with pytest.raises(SpoolError, match=r"uid\.key: is damaged"):
        spool.uid_key()
    assert (spool.root / "uid.key").read_bytes() == content

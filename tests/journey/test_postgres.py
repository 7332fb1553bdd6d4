"""The same journey with its queue in PostgreSQL: one more URL in the configuration, no other code."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.node import Node
from tests.journey.scene import Pacs, low_dose_series, send_to, settings_for, wait_for_jobs, wait_until


def _programs() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("PostgreSQL is not installed")
    return folders[-1]


def _owner() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("there is no user 'postgres' to run PostgreSQL as")


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of its own, on a socket in a folder of its own."""
    programs, owner = _programs(), _owner()
    folder = Path(tempfile.mkdtemp(prefix="dicomnode-pg-"))
    if owner:
        shutil.chown(folder, owner)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=owner, cwd=folder, capture_output=True)

    data = folder / "data"
    try:
        run(str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "dicomnode", "--no-sync")
        options = f"-c listen_addresses='' -k {folder} -c fsync=off"
        run(
            str(programs / "pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start"
        )
        yield f"postgresql://dicomnode@/postgres?host={folder}"
        run(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_journey_with_postgresql_and_a_neighbour_in_the_same_database(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine, postgres_url: str
) -> None:
    late = Pacs().start()
    late.stop()
    first = settings_for(
        tmp_path / "first", late.port, node={"database": postgres_url, "executor_id": "first"}
    )
    second = settings_for(
        tmp_path / "second", pacs.port, node={"database": postgres_url, "executor_id": "second"}
    )
    paths = low_dose_series(tmp_path / "in")
    with Node(first, engine=engine) as node:
        send_to(node.port, paths)
        wait_until(lambda: node.jobs() and node.jobs()[0].status == "sending", told=node.jobs)
    with Node(second, engine=engine) as node:
        send_to(node.port, paths)
        (job,) = wait_for_jobs(node)
        assert job.status == "done", "the same series at two nodes is two jobs, each with its own files"
    with late, Node(first, engine=engine) as node:
        (job,) = wait_for_jobs(node)
    assert job.status == "done"
    assert len(late.images()) == len(pacs.images()) == 5

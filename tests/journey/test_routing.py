"""deploy/ROUTING.md: its commands, as they stand, bring series through the node."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.node import Node
from dicomnode.settings import Destination, Settings
from tests.archive import await_answer
from tests.conftest import missing
from tests.journey.scene import ROOT, Pacs, low_dose_series, send_to, settings_for, wait_for_jobs
from tests.network.conftest import free_port

pytestmark = pytest.mark.slow

PAGE = (ROOT / "deploy" / "ROUTING.md").read_text()
COMMANDS = dict(re.findall(r"^```sh routing: (\w+)\n(.*?)^```", PAGE, re.S | re.M))


def _environment(node: Node) -> dict[str, str]:
    return {**os.environ, "NODE_HOST": "127.0.0.1", "NODE_PORT": str(node.port), "TCP_NODELAY": "1"}


def _settings(folder: Path, pacs: Pacs) -> Settings:
    return settings_for(folder, pacs.port, callers=[{"ae_title": "CT-SCANNER"}])


def test_the_page_has_the_commands_that_are_tried() -> None:
    assert set(COMMANDS) == {"storescu", "dcmsend", "storescp"}
    for name in COMMANDS:
        if shutil.which(name) is None:
            missing(f"{name} (dcmtk) is not installed")


@pytest.mark.parametrize("name", ["storescu", "dcmsend"])
def test_a_command_that_sends_ends_in_an_enhanced_series(
    name: str, tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    low_dose_series(tmp_path / "study" / "deep")
    with Node(_settings(tmp_path, pacs), engine=engine) as node:
        said = subprocess.run(
            ["sh", "-c", COMMANDS[name]], cwd=tmp_path, env=_environment(node), capture_output=True, text=True
        )
        assert said.returncode == 0, said.stdout + said.stderr
        (job,) = wait_for_jobs(node)
    assert job.status == "done"
    assert len(pacs.images()) == 5


def test_the_router_hands_a_study_on(tmp_path: Path, pacs: Pacs, engine: NeedEngine) -> None:
    port = free_port()
    (tmp_path / "received").mkdir()
    command = COMMANDS["storescp"].replace("--eostudy-timeout 10", "--eostudy-timeout 1")
    assert command != COMMANDS["storescp"], "the test waits one second for what the page waits ten"
    with Node(_settings(tmp_path, pacs), engine=engine) as node:
        environment = {**_environment(node), "ROUTER_PORT": str(port)}
        log = tmp_path / "router.log"
        with log.open("wb") as to:
            router = subprocess.Popen(
                ["sh", "-c", command], cwd=tmp_path, env=environment, stdout=to, stderr=to, process_group=0
            )
        try:
            await_answer(router, Destination(name="r", ae_title="ROUTER", host="127.0.0.1", port=port), log)
            assert len(send_to(port, low_dose_series(tmp_path / "in")).sent) == 5
            until = time.monotonic() + 60
            while not node.jobs() and time.monotonic() < until:
                time.sleep(0.2)
            (job,) = wait_for_jobs(node)
        finally:
            os.killpg(router.pid, signal.SIGTERM)
            router.wait()
    assert job.status == "done"
    assert len(pacs.images()) == 5

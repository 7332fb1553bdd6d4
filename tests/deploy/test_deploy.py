"""deploy/: what stands there starts, and names what exists."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from dicomnode.demo.orthanc import OrthancMissing, check_orthanc
from dicomnode.network.send import echo
from dicomnode.settings import Destination, load_settings
from tests.conftest import missing
from tests.network.conftest import free_port
from tests.soak import soak

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module", autouse=True)
def orthanc() -> None:
    try:
        check_orthanc()
    except OrthancMissing as error:
        missing(str(error))


def test_what_compose_mounts_and_builds_is_there() -> None:
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).exists(), source
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    script = COMPOSE["services"]["orthanc"]["environment"]["ORTHANC__PYTHON_SCRIPT"]
    assert (DEPLOY / ".." / "orthanc-plugin" / "python" / Path(script).name).is_file()
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.M)
    for source in " ".join(copied).split():
        assert (DEPLOY.parent / source).exists(), source


def test_the_environment_of_compose_is_one_that_the_node_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    given = COMPOSE["services"]["dicomnode"]["environment"]
    for name, value in given.items():
        monkeypatch.setenv(name, "0" * 64 if value.startswith("${") else value)
    settings = load_settings(DEPLOY / "orthanc" / "node.yaml")
    assert settings.destinations[0].host == settings.sources[0].host == "orthanc"
    assert settings.web.host == "0.0.0.0"
    assert settings.web.token


@pytest.mark.slow
def test_the_plain_commands_start_both_and_end_both(tmp_path: Path) -> None:
    ports = {
        name: free_port()
        for name in ("ORTHANC_DICOM_PORT", "ORTHANC_HTTP_PORT", "DICOMNODE_PORT", "DICOMNODE_WEB_PORT")
    }
    environment = {**os.environ, **{name: str(port) for name, port in ports.items()}}
    environment.pop("TCP_NODELAY", None)
    with (tmp_path / "log").open("wb") as log:
        both = subprocess.Popen(
            [DEPLOY / "orthanc" / "run.sh", tmp_path / "site"], env=environment, stdout=log, stderr=log
        )
    try:
        web = f"http://127.0.0.1:{ports['ORTHANC_HTTP_PORT']}"
        archive = Destination(
            name="a", ae_title="ORTHANC", host="127.0.0.1", port=ports["ORTHANC_DICOM_PORT"]
        )

        def told() -> str:
            return "\n".join(p.read_text(errors="replace")[-1500:] for p in tmp_path.rglob("*log*"))

        _await(lambda: httpx.get(f"{web}/dicomnode/status").json()["node"]["reachable"] is True, both, told)
        assert echo(archive, "TEST") >= 0
        assert httpx.post(f"{web}/modalities/dicomnode/echo", json={}).is_success, "Orthanc reaches the node"
        started = Path(f"/proc/{both.pid}/task/{both.pid}/children").read_text().split()
        environments = [Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in started]
        assert sum(b"TCP_NODELAY=1" in one for one in environments) >= 2, "DCMTK sends without pauses"
    finally:
        both.send_signal(signal.SIGTERM)
        both.wait(timeout=60)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{ports['DICOMNODE_WEB_PORT']}/health")


def _await(met: Callable[[], bool], process: subprocess.Popen[bytes], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + 90
    while True:
        assert process.poll() is None, told()
        assert time.monotonic() < deadline, told()
        try:
            if met():
                return
        except (httpx.HTTPError, ValueError, KeyError):
            pass
        time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_series_exactly_once_while_both_are_killed(tmp_path: Path) -> None:
    """The small one; `python -m tests.soak` is the whole."""
    tally = soak(tmp_path, series=5, slices=6)
    assert tally.kills == 4
    assert tally.exactly_once, tally

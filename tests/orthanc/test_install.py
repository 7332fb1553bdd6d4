"""The commands of the plugin's README, run as they stand on the configuration that Debian ships."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.journey.scene import free_port
from tests.orthanc.orthancs import ROOT, Orthanc, running_plugin

DEBIAN = Path("/etc/orthanc")


def commands(tmp_path: Path) -> str:
    """The block of the README with the folders of a system that is this test's own; installs no package."""
    readme = (ROOT / "orthanc-plugin" / "README.md").read_text()
    block = re.search(r"```sh orthanc: debian\n(.*?)```", readme, re.S)
    assert block is not None
    lines = [line for line in block[1].splitlines() if not line.startswith("apt-get ")]
    own = {"/usr/share/orthanc/dicomnode": tmp_path / "plugin", "/etc/orthanc": tmp_path / "etc"}
    text = "\n".join(lines)
    for path, mine in own.items():
        text = text.replace(path, str(mine))
    return text


def test_on_a_fresh_debian_the_commands_of_the_readme_switch_the_plugin_on(
    orthanc_program: str, tmp_path: Path
) -> None:
    if not (DEBIAN / "python.json").exists() or "sample.py" not in (DEBIAN / "python.json").read_text():
        missing("/etc/orthanc is not as Debian's packages leave it")
    etc = tmp_path / "etc"
    shutil.copytree(DEBIAN, etc)
    subprocess.run(["sh", "-euc", commands(tmp_path)], cwd=ROOT, check=True)

    orthanc = Orthanc(orthanc_program, tmp_path / "orthanc")
    for key, value in {
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "storage"),
        "DicomPort": free_port(),
        "HttpPort": orthanc.http_port,
        "LuaScripts": [],
    }.items():
        _set(etc / "orthanc.json", key, json.dumps(value))
    orthanc.started_with = etc
    with running_plugin(orthanc):
        told = orthanc.get("/dicomnode/status")
        assert told["on"], told
        assert told["settings"]["Url"] == "http://127.0.0.1:8080"
        assert "dicomnode" in orthanc.get("/modalities")


def _set(path: Path, key: str, value: str) -> None:
    """Another value for a key that stands there."""
    text, count = re.subn(
        rf'"{key}" *: *(\[.*?\]|[^,]*),', f'"{key}" : {value},', path.read_text(), count=1, flags=re.S
    )
    assert count == 1, key
    path.write_text(text)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()

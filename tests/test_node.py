"""The process around the journey: start, refuse to start, stop, and the command line beside it."""

import json
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RawDataStorage

from dicomnode.__main__ import main
from dicomnode.engines.catalog import load_engine
from dicomnode.errors import JobError, ModelError, NetworkError, SpoolError
from dicomnode.journey.job import request_retry
from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.journey.scene import (
    MODELS,
    Pacs,
    free_port,
    low_dose_series,
    running,
    send_to,
    settings_for,
    wait_for_jobs,
    wait_until,
)

ENGINE = load_engine(MODELS, "need-small", "cpu", 1)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as server:
        yield server


def write_config(settings: Settings, folder: Path) -> str:
    path = folder / "node.yaml"
    path.write_text(json.dumps(settings.model_dump(mode="json")))
    return str(path)


def test_a_second_node_on_the_same_spool_does_not_start(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with Node(settings, engine=ENGINE), pytest.raises(SpoolError, match="another dicomnode process"):
        Node(settings, engine=ENGINE)._spool.claim()


def test_a_large_object_beside_the_images_takes_no_memory_at_the_start(tmp_path: Path) -> None:
    """Raw data of a scanner may be a gigabyte; of what lies in the spool only headers are wanted."""
    settings = settings_for(tmp_path)
    path = low_dose_series(tmp_path / "in", slices=1)[0]
    raw = dcmread(path)
    raw.SOPClassUID = raw.file_meta.MediaStorageSOPClassUID = RawDataStorage
    raw.PixelData = bytes(32 << 20)
    with Node(settings, engine=ENGINE) as node:
        folder = node._spool.series_folder(str(raw.SeriesInstanceUID))
        folder.mkdir(mode=0o700)
        raw.save_as(folder / "raw.dcm")
        del raw
        assert node._desk is not None
        tracemalloc.start()
        try:
            node._desk.sweep(0.0)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 8 << 20


def test_a_node_that_cannot_open_its_port_says_which_and_lets_everything_go(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NetworkError, match=f"cannot listen on 127.0.0.1 port {port}"):
            Node(settings_for(tmp_path, node={"port": port}), engine=ENGINE).start()
    with Node(settings_for(tmp_path), engine=ENGINE) as node:
        assert node.port > 0


def test_a_missing_model_stops_the_start_before_the_port_opens(tmp_path: Path) -> None:
    node = Node(settings_for(tmp_path, engine={"model": "no-such-model"}))
    with pytest.raises(ModelError, match="no-such-model"):
        node.start()


@pytest.mark.slow
def test_only_jobs_that_ended_badly_start_again(tmp_path: Path, pacs: Pacs) -> None:
    with Node(settings_for(tmp_path, pacs.port), engine=ENGINE) as node:
        send_to(node.port, low_dose_series(tmp_path / "in"))
        (job,) = wait_for_jobs(node)
        with pytest.raises(JobError, match="is done"):
            node.retry(job.job_id)
        with pytest.raises(JobError, match="is done; only failed, refused"):
            request_retry(tmp_path / "spool", job.job_id)
        with pytest.raises(JobError, match="there is no job nobody"):
            request_retry(tmp_path / "spool", "nobody")


@pytest.mark.slow
def test_retry_refuses_what_the_node_would_refuse(
    tmp_path: Path, pacs: Pacs, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(tmp_path, pacs.port)
    config = write_config(settings, tmp_path)
    assert main(["retry", "--config", config, "--undelivered"]) == 1
    assert "spool does not exist" in capsys.readouterr().err
    gap = low_dose_series(tmp_path / "gap", slices=5)
    del gap[2]
    with Node(settings, engine=ENGINE) as node:
        send_to(node.port, low_dose_series(tmp_path / "in", slices=3))
        send_to(node.port, gap)
        done, refused = sorted(wait_for_jobs(node, 2), key=lambda job: job.status)
    assert main(["retry", "--config", config, done.job_id, refused.job_id]) == 1
    told = capsys.readouterr()
    assert f"job {done.job_id} is done" in told.err
    assert told.out == f"{refused.job_id}: the node starts it again\n", "one refusal stops no other"
    assert [path.name for path in (tmp_path / "spool" / "requests").iterdir()] == [f"retry-{refused.job_id}"]
    assert main(["retry", "--config", config, "--undelivered"]) == 0
    assert "no job is undelivered" in capsys.readouterr().out


def test_retry_without_a_job_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["retry"])
    assert ended.value.code == 2
    assert "name a job" in capsys.readouterr().err


def test_status_tells_a_spool_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(settings_for(tmp_path), tmp_path)
    assert main(["status", "--config", config]) == 1
    told = capsys.readouterr()
    assert "spool does not exist" in told.err
    assert told.out == ""


def moved_table(data: Dataset, index: int) -> None:
    """The same UIDs at another place."""
    data.InstanceNumber = index + 50


@pytest.mark.slow
def test_served_from_the_command_line_and_asked_about_from_beside_it(
    tmp_path: Path, pacs: Pacs, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(tmp_path, pacs.port, node={"port": free_port()})
    port, config = settings.node.port, write_config(settings, tmp_path)
    gap = low_dose_series(tmp_path / "gap", slices=5)
    del gap[2]

    def told(*more: str) -> str:
        assert main(["status", "--config", config, *more]) == 0
        return capsys.readouterr().out

    with running(settings, tmp_path, "-m", "dicomnode", "serve", "--config", config) as node:
        node.wait_until_ready()
        send_to(port, gap)
        send_to(port, low_dose_series(tmp_path / "in"))
        wait_until(lambda: "pacs0 delivered 6/6" in told("--all") and "gap-in-series" in told(), told=told)
        assert "delivered" not in told()
        assert "put aside" not in told()
        other = low_dose_series(tmp_path / "other", name="in", change=moved_table)
        assert send_to(port, other).refused
        wait_until(lambda: "5 instances put aside" in told(), told=told)
        assert str(settings.node.spool / "quarantine") in told()
        job_id = told().split()[0]
        assert main(["retry", "--config", config, job_id]) == 0
        wait_until(lambda: not list((tmp_path / "spool" / "requests").iterdir()))
        assert main(["echo", "--config", config]) == 0
        assert main(["send", "--config", config, "pacs0", str(tmp_path / "in")]) == 0
        assert "5 stored" in capsys.readouterr().out
        assert main(["send", "--config", config, "pacs9", str(tmp_path / "in")]) == 1
        assert "there is no 'pacs9', the configuration has: pacs0" in capsys.readouterr().err
        assert node.terminate() == 0


def test_check_explains_a_configuration_and_names_a_wrong_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(settings_for(tmp_path, 11113), tmp_path)
    assert main(["check", "--config", config]) == 0
    told = capsys.readouterr().out
    assert "caller       SCANNER from any host" in told
    assert "destination  pacs0: PACS at 127.0.0.1:11113" in told
    assert "model        need-small" in told
    Path(config).write_text("node: {prot: 104}")
    assert main(["check", "--config", config]) == 1
    assert "did you mean 'port'" in capsys.readouterr().err


def test_check_tells_of_the_http_interface_and_its_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = settings_for(tmp_path, 104).model_dump(mode="json")
    values["destinations"][0]["callers"] = ["ORTHANC-A"]
    values["web"] = {"port": 8080, "token": "hush"}
    url = "http://127.0.0.1:8042"
    values["web_sources"] = [{"name": "a", "ae_title": "ORTHANC-A", "kind": "orthanc", "url": url}]
    path = tmp_path / "node.yaml"
    path.write_text(json.dumps(values))
    assert main(["check", "--config", str(path)]) == 0
    told = capsys.readouterr().out
    assert "http         127.0.0.1:8080, with a token" in told
    assert "web source   a: orthanc at http://127.0.0.1:8042, counts as ORTHANC-A" in told
    assert "of what ORTHANC-A sent" in told
    assert "hush" not in told
    values["web"] = {}
    path.write_text(json.dumps(values))
    assert main(["check", "--config", str(path)]) == 0
    assert "nobody can ask for a series" in capsys.readouterr().out


def test_check_tries_the_spool_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = tmp_path / "not" / "yet"
    config = write_config(settings_for(tmp_path, node={"spool": deep, "reserve_gib": 1e6}), tmp_path)
    assert main(["check", "--config", config]) == 0
    assert "less than the reserve: images will be refused" in capsys.readouterr().out
    assert not (tmp_path / "not").exists()
    (tmp_path / "not").write_text("a file")
    assert main(["check", "--config", config]) == 1
    assert f"node.spool: {deep} cannot be made or written" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, and would be used")
def test_check_loads_the_model_on_the_device_of_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(settings_for(tmp_path, engine={"device": "cuda"}), tmp_path)
    assert main(["check", "--config", config]) == 1
    assert "engine.device is cuda" in capsys.readouterr().err


def test_the_light_commands_import_no_torch(tmp_path: Path) -> None:
    config = write_config(settings_for(tmp_path), tmp_path)
    script = (
        "import sys; from dicomnode.__main__ import main; "
        f"print(main(['status', '--config', {config!r}]), 'torch' in sys.modules)"
    )
    (tmp_path / "spool").mkdir()
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[-1] == "0 False"

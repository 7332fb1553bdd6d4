"""No command answers with a traceback, whatever it is given."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dicomnode.__main__ import INTERRUPTED, main
from tests.makers import make_series, phantom

COMMAND = [sys.executable, "-m", "dicomnode"]


@pytest.mark.parametrize(
    "content",
    [
        "node: " + "[" * 5000,
        "node: " + "[" * 5000 + "]" * 5000,
        "node: {port: " + "9" * 5000 + "}",
        "node: {ae_title: 2020-13-45}",
        'node: {spool: "a\\0b"}',
        "node: {spool: ~nobody-of-this-name/spool}",
        'dose: {reference: "a\\0b"}',
        "dose: {reference: ~nobody-of-this-name/table.yaml}",
        "&a [*a]",
        "",
    ],
)
@pytest.mark.parametrize("command", ["conformance", "status", "serve"])
def test_an_odd_configuration_is_an_error_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, command: str
) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(content)
    if not content:
        config.unlink()
    assert main([command, "--config", str(config)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("dicomnode: ")
    assert "Traceback" not in told


def test_a_variable_that_cannot_be_read_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node.yaml").write_text("node: {}")
    monkeypatch.setenv("DICOMNODE__CALLERS", "[" * 5000)
    assert main(["conformance", "--config", str(tmp_path / "node.yaml")]) == 1
    assert "DICOMNODE__CALLERS" in capsys.readouterr().err


def test_what_a_terminal_cannot_show_is_shown_another_way(tmp_path: Path) -> None:
    def name(data, _: int) -> None:
        data.SpecificCharacterSet, data.ManufacturerModelName = "ISO_IR 192", "\u6771\u829d"

    make_series(tmp_path, phantom(2), change=name)
    done = subprocess.run(
        [*COMMAND, "inspect", str(tmp_path)],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\\u6771" in done.stdout


def test_an_interrupt_ends_a_command_in_good_order(tmp_path: Path) -> None:
    """While it waits for a peer that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        peer = f"{{name: pacs, ae_title: PACS, host: 127.0.0.1, port: {port}}}"
        (tmp_path / "node.yaml").write_text(f"destinations: [{peer}]")
        running = subprocess.Popen(
            [*COMMAND, "echo", "--config", str(tmp_path / "node.yaml")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        connection, _ = silent.accept()
        with connection:
            running.send_signal(signal.SIGINT)
            _, told = running.communicate(timeout=60)
    assert (running.returncode, told) == (INTERRUPTED, "dicomnode: interrupted\n")


def test_a_reader_that_has_read_enough_is_no_error_to_speak_of(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("node: {}")
    done = subprocess.run(
        f"{' '.join(COMMAND)} conformance --config {tmp_path / 'node.yaml'} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("# DICOM Conformance Statement")
    assert not done.stderr

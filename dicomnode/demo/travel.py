"""The journey of the demonstration: a scan leaves the scanner, and its enhanced series is in the PACS."""

import argparse
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.demo.acquisition import LowDoseScan
from dicomnode.demo.bars import Stations
from dicomnode.demo.pacs import NODE, SENDER, DemoFailed, Pacs, port_if_free
from dicomnode.dose_reference import DoseReference
from dicomnode.journey.job import Job
from dicomnode.network.send import send_files
from dicomnode.node import Node
from dicomnode.settings import Settings

GIVE_UP_SECONDS = 3600.0

Volume = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Journey:
    """What came of it: the job, what its stations noted, HU [slice, row, column], and seconds by station."""

    job: Job
    findings: dict[str, Any]
    enhanced: Volume
    seconds: dict[str, float]


def travel(
    arguments: argparse.Namespace, scan: LowDoseScan, spool: Path, pacs: Pacs, show: Stations
) -> tuple[Job, dict[str, float]]:
    """Send the scan the way this PACS has it.

    Returns the node's job when all is delivered, and the seconds. Raises DemoFailed.
    """
    ended = threading.Event()

    def observe(job: Job) -> None:
        show.job(job)
        if job.final:
            ended.set()

    with Node(_settings(arguments, spool, pacs, scan.reference), observe) as node:
        pacs.open(node.port)
        began = time.monotonic()
        send_files(scan.paths, pacs.entrance(node.port), SENDER)
        receive = round(time.monotonic() - began, 2)
        show.slices("receive", len(scan.paths), len(scan.paths))
        if not ended.wait(GIVE_UP_SECONDS):
            raise DemoFailed(f"the node did not finish within {GIVE_UP_SECONDS:g} seconds")
        job = node.jobs()[-1]
        pacs.settle()
    if job.status != "done":
        raise DemoFailed(f"the series ended as {job.status} at station {job.station}: {job.reason}")
    whole = round(time.monotonic() - began, 2)
    return job, {"receive": receive, **job.seconds, "from first image to last answer": whole}


def findings(spool: Path, job: Job) -> dict[str, Any]:
    """What the stations of the job noted down, by station."""
    folder = spool / "work" / job.job_id
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def _settings(arguments: argparse.Namespace, spool: Path, pacs: Pacs, reference: DoseReference) -> Settings:
    peer = {"name": "pacs", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
    values: dict[str, object] = {
        "node": {
            "ae_title": NODE, "host": "127.0.0.1", "port": port_if_free(arguments.port), "spool": spool,
            "log_level": "WARNING", "reserve_gib": 0.5,
        },
        "callers": [{"ae_title": title} for title in pacs.callers],
        "dose": {"reference": reference.model_dump()},
        "completeness": {"quiet_seconds": 5.0, "closed_seconds": 1.0},
        "destinations": [peer],
        "engine": {
            "model": arguments.model, "models_folder": arguments.models.resolve(),
            "device": arguments.device,
        },
    }  # fmt: skip
    if pacs.web_port is not None:
        values["web"] = {"port": pacs.web_port}
    return Settings.model_validate(values, context={"folder": Path.cwd()})

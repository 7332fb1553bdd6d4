"""The node's HTTP as the contract has it, in front of a real node; stands in until the node's own is merged.

Nothing is made up: states come from the node's jobs, a fetch gets the files over Orthanc's REST and
files them at the node by C-STORE. Only the durability of a fetch is missing.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dicomnode.journey.job import Job, request_retry
from dicomnode.network.send import send_files
from dicomnode.node import Node
from dicomnode.settings import Destination, Settings
from tests.orthanc.orthancs import Orthanc

SHARE = {"queued": 0.0, "working": 0.1, "waiting": 0.1, "sending": 0.9}


class ContractNode:
    """Answers for `node`; `sources` are Orthancs by their name in `web_sources`."""

    def __init__(
        self, node: Node, settings: Settings, folder: Path, sources: Mapping[str, Orthanc], token: str = ""
    ) -> None:
        self.node, self.settings, self.folder, self.sources, self.token = (
            node,
            settings,
            folder,
            sources,
            token,
        )
        self.asked: list[tuple[str, str]] = []
        self.down = False
        self._fetched: dict[str, set[str]] = {}
        self._most: dict[str, float] = {}

    def answer(self, method: str, path: str, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.asked.append((method, path))
        parts = path.strip("/").split("/")
        if parts == ["health"]:
            return 200, {"status": "ok", "version": "0", "ae_title": "DICOMNODE"}
        if (method, parts[0]) == ("GET", "series"):
            return 200, self.series(parts[1])
        if (method, parts) == ("POST", ["series"]):
            return self.fetch(body)
        if method == "POST" and parts[0] == "jobs" and parts[2:] == ["retry"]:
            return self.retry(parts[1])
        return 404, {"error": "no such thing"}

    def series(self, uid: str) -> dict[str, Any]:
        jobs = [job for job in self.node.jobs() if job.source_series_uid == uid]
        told: dict[str, Any] = {"series_instance_uid": uid, "rule": None, "reason": None, "results": []}
        told.update(jobs=[{"job_id": job.job_id, "status": job.status} for job in jobs])
        images = len(self._fetched.get(uid, ()))
        if not jobs:
            state = "receiving" if images else "unknown"
            return {**told, "state": state, "final": False, "progress": 0.0, "words": state, "images": images}
        job = max(jobs, key=lambda one: one.generation)
        results = [one.derived_series_uid for one in jobs if one.derived_series_uid and one.status == "done"]
        return {
            **told,
            "state": job.status,
            "final": job.final,
            "progress": self._progress(job),
            "words": f"{job.station or job.status}, {job.done} of {job.total}",
            "images": job.instances,
            "rule": job.rule,
            "reason": job.reason,
            "results": results,
        }

    def _progress(self, job: Job) -> float:
        if job.status == "done":
            return 1.0
        now = SHARE.get(job.status, 0.9)
        if job.status == "working" and job.station == "reconstruct" and job.total:
            now += 0.7 * job.done / job.total
        self._most[job.job_id] = max(now, self._most.get(job.job_id, 0.0))
        return self._most[job.job_id]

    def fetch(self, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if body["source"] not in self.sources:
            return 404, {"error": f"no web source {body['source']}"}
        uid = body["series_instance_uid"]
        threading.Thread(target=self._fetch, args=(self.sources[body["source"]], uid)).start()
        return 202, self.series(uid)

    def _fetch(self, orthanc: Orthanc, uid: str) -> None:
        (found,) = orthanc.post("/tools/lookup", uid)
        have = self._fetched.setdefault(uid, set())
        missing = set(orthanc.get(f"/series/{found['ID']}")["Instances"]) - have
        paths = []
        for instance in sorted(missing):
            path = self.folder / f"{instance}.dcm"
            path.write_bytes(orthanc.file(instance))
            paths.append(path)
        here = Destination(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=self.node.port)
        assert len(send_files(paths, here, orthanc.ae_title, 1).sent) == len(paths)
        have |= missing

    def retry(self, job_id: str) -> tuple[int, dict[str, Any]]:
        known = [job for job in self.node.jobs() if job.job_id == job_id]
        if not known:
            return 404, {"error": "no such job"}
        if known[0].status not in ("failed", "refused", "held", "undelivered"):
            return 409, {"error": f"it is {known[0].status}"}
        request_retry(self.settings.node.spool, job_id)
        return 202, {}


@contextmanager
def answering(contract: ContractNode) -> Iterator[str]:
    """Serve it on a free port of loopback; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET", {})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer("POST", json.loads(content or b"{}"))

        def _answer(self, method: str, body: dict[str, str]) -> None:
            wanted = f"Bearer {contract.token}" if contract.token else None
            if contract.down:
                status, told = 503, {"error": "below the reserve"}
            elif self.path != "/health" and wanted not in (None, self.headers.get("Authorization")):
                status, told = 401, {"error": "a token is needed"}
            else:
                status, told = contract.answer(method, self.path, body)
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()

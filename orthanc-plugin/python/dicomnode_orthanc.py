"""Entry script of the dicomnode plugin: `PythonScript` in orthanc.json names this file.

The one file that imports `orthanc`. Callbacks announce and return; a thread of its own does the work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orthanc
from dicomnode_plugin.archive import Archive, ArchiveTrouble
from dicomnode_plugin.desk import Desk
from dicomnode_plugin.ledger import QueueLedger, make_ledger
from dicomnode_plugin.node import NodeApi
from dicomnode_plugin.service import ROUTES, Answer, Service, off
from dicomnode_plugin.settings import Settings, SettingsWrong, read_settings
from dicomnode_plugin.worker import Worker

STABLE_AGE_SECONDS = 60.0  # Orthanc's own default


class Plugin:
    """What lives as long as this Orthanc. Its database can be asked only once Orthanc has started."""

    def __init__(self) -> None:
        configuration = json.loads(orthanc.GetConfiguration())
        self.stable_age_seconds = float(configuration.get("StableAge", STABLE_AGE_SECONDS))
        self.settings: Settings | None = None
        self.trouble = "Orthanc has not started yet"
        self.worker: Worker | None = None
        self.service: Service | None = None
        try:
            self.settings = read_settings(configuration)
        except SettingsWrong as wrong:
            self.trouble = str(wrong)
            orthanc.LogError(f"dicomnode: {wrong}. The plugin stays off.")

    def start(self) -> None:
        """Begin to work."""
        if self.settings is None:
            return
        settings, archive = self.settings, Archive(orthanc)
        ledger = make_ledger(orthanc)
        node = NodeApi(settings.url, settings.token) if settings.url else None
        desk = Desk(settings, archive, ledger, node, orthanc.LogWarning)
        self.worker = Worker(settings, orthanc, desk, ledger, self.stable_age_seconds, orthanc.LogWarning)
        kept_in = "queue" if isinstance(ledger, QueueLedger) else "global properties"
        self.service = Service(settings, archive, desk, self.worker, kept_in)
        self.worker.start()

    def stop(self) -> None:
        """Come to rest before Orthanc does."""
        if self.worker is not None:
            self.worker.stop()

    def answer(self, method: str, uri: str) -> Answer:
        """Answer one request under /dicomnode."""
        if self.service is None:
            return off(self.trouble, method, uri)
        try:
            return self.service.answer(method, uri)
        except ArchiveTrouble as trouble:
            return 500, {"error": str(trouble)}


def on_change(change: int, level: int, resource: str) -> None:
    """Called by Orthanc, in a thread of its own."""
    if change == orthanc.ChangeType.ORTHANC_STARTED:
        plugin.start()
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        plugin.stop()
    elif plugin.worker is None:
        return
    elif change == orthanc.ChangeType.STABLE_SERIES:
        plugin.worker.announce(resource)
    elif change in (orthanc.ChangeType.JOB_SUCCESS, orthanc.ChangeType.JOB_FAILURE):
        plugin.worker.job_ended(resource, change == orthanc.ChangeType.JOB_SUCCESS)


def on_request(output: Any, uri: str, **request: Any) -> None:
    """Called by Orthanc for /dicomnode/..."""
    status, told = plugin.answer(str(request["method"]), uri)
    body = json.dumps(told)
    if status == 200:
        output.AnswerBuffer(body, "application/json")
    elif status == 405:
        output.SendMethodNotAllowed(told["error"])
    else:
        output.SetHttpHeader("Content-Type", "application/json")
        output.SendHttpStatus(status, body, len(body))


plugin = Plugin()
orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterRestCallback(ROUTES, on_request)
orthanc.ExtendOrthancExplorer(
    (Path(__file__).parent / "dicomnode_plugin" / "explorer.js").read_text(encoding="utf-8")
)

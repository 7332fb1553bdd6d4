"""A PACS small enough to embed: it takes what it is sent over DICOM and keeps it as files."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]


class Archive:
    """Storage SCP on loopback; every object goes to `folder` under its SOP Instance UID."""

    def __init__(self, folder: Path, ae_title: str = "PACS", port: int = 0) -> None:
        self.folder, self.ae_title = folder, ae_title
        self._files: list[Path] = []
        self._guard = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        entity = AE(ae_title=ae_title)
        entity.supported_contexts = AllStoragePresentationContexts
        entity.add_supported_context(Verification)
        entity.maximum_pdu_size = 131072
        server = entity.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        if server is None:  # only a blocking start gives none
            raise RuntimeError(f"the archive {ae_title} did not start on port {port}")
        self._server = server

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def files(self) -> list[Path]:
        """What has been stored so far, in order of arrival."""
        with self._guard:
            return list(self._files)

    def _store(self, event: Event) -> int:
        request = event.request
        uid = request.AffectedSOPInstanceUID if isinstance(request, C_STORE) else None
        if uid is None or not uid.is_valid:
            return 0x0117
        path = self.folder / f"{uid}.dcm"
        path.write_bytes(event.encoded_dataset())
        with self._guard:
            self._files.append(path)
        return 0x0000

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()

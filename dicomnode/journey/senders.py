"""Who has sent a series, beside the senders that its files name.

    incoming/<key(series)>/senders.json     calling AE titles, written before the sender is answered

An image that comes again is not written again: its file names the first sender alone. Where several archives
have the same series, each of them wants the result.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dicomnode.errors import NetworkError, SpoolError
from dicomnode.journey.order import Order, read_record, senders_of
from dicomnode.network import part10
from dicomnode.network.filing import ReceivedInstance
from dicomnode.spool import Spool, key

_SENDERS: Final = "senders.json"
_MOST_REMEMBERED: Final = 10_000


class Senders:
    """The senders of the series of one spool; for any number of threads."""

    def __init__(self, spool: Spool) -> None:
        self._incoming = spool.incoming
        self._records = Spool(spool.root, reserve_bytes=0)
        self._settled: set[tuple[str, str]] = set()
        self._guard = threading.Lock()

    def came_again(self, received: ReceivedInstance) -> bool:
        """Note, durably, who sent an image that was held already; whether that is a new sender of its series.

        Raises SpoolError.
        """
        known = received.series_instance_uid, received.calling_ae
        if known in self._settled:
            return False
        if part10.read_meta(received.path).source_ae == received.calling_ae:
            return False
        return self.note(*known)

    def note(self, series_uid: str, calling_ae: str) -> bool:
        """Note, durably, that a series came from a sender, too; whether that is new. Raises SpoolError."""
        path = self._incoming / key(series_uid) / _SENDERS
        with self._guard:
            if (series_uid, calling_ae) in self._settled:
                return False
            noted = _noted(path)
            if calling_ae not in noted:
                content = json.dumps({"senders": sorted({*noted, calling_ae})}, indent=1)
                self._records.write_durably(path, content.encode())
            if len(self._settled) >= _MOST_REMEMBERED:
                self._settled.clear()
            self._settled.add((series_uid, calling_ae))
            return calling_ae not in noted

    def of(self, order: Order) -> tuple[str, ...]:
        """Every sender of the images of a job; what cannot be read tells none."""
        folder = self._incoming / order.series_key
        named = order.senders or senders_of(folder, order.files)
        return tuple(sorted({*named, *_noted(folder / _SENDERS)}))

    def noted(self) -> Iterator[str]:
        """The keys of the series of which senders were noted."""
        for path in sorted(self._incoming.glob(f"*/{_SENDERS}")):
            yield path.parent.name


def _noted(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return ()
    try:
        return tuple(str(one) for one in read_record(path).get("senders", ()))
    except (SpoolError, NetworkError, TypeError):
        return ()

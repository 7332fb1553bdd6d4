"""Who gets a result: destinations choose by the calling AE titles that the images came from."""

from collections.abc import Sequence

from dicomnode.journey.delivery import Delivery
from dicomnode.journey.job import ARRIVED, Job, JobBook, sending
from dicomnode.journey.order import senders_of
from dicomnode.settings import Destination, Settings
from dicomnode.spool import Spool


class Recipients:
    """The destinations of the results of one node, and the way of a result to each."""

    def __init__(self, settings: Settings, spool: Spool, book: JobBook) -> None:
        self._settings = settings
        self._spool = spool
        self._book = book

    def opened(self, job_id: str) -> Job:
        """Note which destinations get a result that is written, and return its job. Idempotent."""
        order = self._book.order(job_id)
        senders = order.senders or senders_of(self._spool.incoming / order.series_key, order.files)
        names = [peer.name for peer in self._settings.destinations if peer.wants(senders)]
        nobody = _nobody(senders) if self._settings.destinations else ""
        return self._book.update(job_id, lambda job: sending(job, names, nobody))

    def named(self, name: str) -> Destination | None:
        """A destination of the present configuration."""
        return next((peer for peer in self._settings.destinations if peer.name == name), None)

    def way(self, job_id: str, destination: Destination) -> Delivery:
        """The way of a result to a destination."""
        earlier = self._book.earlier(self._book.order(job_id))
        under_way = any(self._under_way(other, destination.name) for other in earlier)
        return Delivery(self._book.records, job_id, destination, self._settings, under_way)

    def _under_way(self, job_id: str, name: str) -> bool:
        """Whether part of a result has been sent to a destination and more will be."""
        job = self._book.job(job_id)
        state = job.destination(name)
        return not job.final and state is not None and state.sent > 0 and state.state not in ARRIVED


def _nobody(senders: Sequence[str]) -> str:
    came = ", ".join(senders) or "a sender that is not known"
    return (
        f"no destination takes results of images from {came}; name it in destinations[].callers and start the"
        " job again: `dicomnode retry`"
    )

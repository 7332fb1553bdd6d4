"""Who gets a result: destinations choose by the calling AE titles that the images came from."""

from collections.abc import Sequence
from dataclasses import replace

from dicomnode.journey.book import JobBook
from dicomnode.journey.delivery import Delivery
from dicomnode.journey.job import (
    ARRIVED,
    DestinationState,
    Job,
    sending,
)
from dicomnode.journey.order import Order
from dicomnode.journey.senders import Senders
from dicomnode.settings import Destination, Settings
from dicomnode.spool import Spool


class Recipients:
    """The destinations of the results of one node, and the way of a result to each."""

    def __init__(self, settings: Settings, spool: Spool, book: JobBook) -> None:
        self._settings = settings
        self._book = book
        self.senders = Senders(spool)

    def opened(self, job_id: str) -> Job:
        """Note which destinations get a result that is written, and return its job. Idempotent."""
        senders = self.senders.of(self._book.order(job_id))
        nobody = _nobody(senders) if self._settings.destinations else ""
        return self._book.update(job_id, lambda job: sending(job, self._names(senders), nobody))

    def widened(self, order: Order) -> Job | None:
        """The job of a result that more destinations get than were noted, now that another sender of its
        images is known; None where there are no more, or the result is not written yet."""
        job = self._book.job(order.job_id)
        names = self._names(self.senders.of(order))
        more = [DestinationState(name) for name in names if job.destination(name) is None]
        if not more or job.status not in ("sending", "done", "undelivered"):
            return None
        return self._book.update(order.job_id, lambda job: _with_more(job, more))

    def _names(self, senders: Sequence[str]) -> list[str]:
        return [peer.name for peer in self._settings.destinations if peer.wants(senders)]

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


def _with_more(job: Job, more: Sequence[DestinationState]) -> Job:
    """A written result that further destinations get."""
    destinations = (*job.destinations, *more)
    return replace(job, status="sending", reason=None, finished_at=None, destinations=destinations)


def _nobody(senders: Sequence[str]) -> str:
    came = ", ".join(senders) or "a sender that is not known"
    return (
        f"no destination takes results of images from {came}; name it in destinations[].callers and start the"
        " job again: `dicomnode retry`"
    )

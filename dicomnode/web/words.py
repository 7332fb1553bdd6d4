"""Where a series stands, in words that a radiographer understands."""

from collections.abc import Callable
from typing import Final

from dicomnode.journey.job import Job

_STATIONS: Final = {
    "assemble": "reading the images",
    "dose": "reading the dose",
    "measure": "measuring patient and noise",
    "match": "choosing how much to remove",
    "reconstruct": "reconstructing",
    "judge": "checking the result",
    "write": "writing the result",
}


def job_words(job: Job) -> str:
    """One sentence of a job, without a full stop."""
    return _SAID[job.status](job)


def _working(job: Job) -> str:
    doing = _STATIONS.get(job.station or "", "working")
    doing = "measuring the uncertainty" if job.part == "uncertainty" else doing
    return f"{doing}, slice {job.done} of {job.total}" if job.total else doing


def _sending(job: Job) -> str:
    open_ones = [peer for peer in job.destinations if peer.state in ("waiting", "sending")]
    if not open_ones:
        return "sending the result"
    peer = open_ones[0]
    counted = f", {peer.sent} of {peer.total}" if peer.total else ""
    return f"sending the result to {peer.name}{counted}" + (f"; {peer.reason}" if peer.reason else "")


def _done(job: Job) -> str:
    names = ", ".join(peer.name for peer in job.destinations)
    told = f"enhanced, the result is at {names}" if names else "enhanced, the result stays on the node"
    return f"{told}; {job.reason}" if job.reason else told


def _because(told: str) -> Callable[[Job], str]:
    return lambda job: f"{told}: {job.reason}" if job.reason else told


_SAID: Final[dict[str, Callable[[Job], str]]] = {
    "queued": lambda job: f"{job.instances} images are here, waiting for their turn",
    "working": _working,
    "waiting": _because("pausing, goes on by itself"),
    "sending": _sending,
    "done": _done,
    "undelivered": _because("enhanced, but not delivered everywhere"),
    "refused": _because("not enhanced"),
    "held": _because("enhanced and kept back"),
    "failed": _because("failed"),
    "ignored": _because("is a result itself, nothing to do"),
    "superseded": _because("another job stands for it"),
}

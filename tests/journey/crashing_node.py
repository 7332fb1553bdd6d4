"""A node that kills itself, again and again: `python -m tests.journey.crashing_node SETTINGS.json WHEN...`.

Each WHEN is one life, forked from a parent that has the modules loaded: a moment of `Fuse`, `poison` (the
engine kills the process at slices of 48 x 48), or `never`. SIGKILL from within is exact to the line: the
record has just reached the disk, the database does not know yet.
"""

import json
import os
import signal
import sys
from pathlib import Path

from dicomnode.engines.catalog import load_engine
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.journey.job import Job
from dicomnode.node import Node
from dicomnode.settings import Settings


def die() -> None:
    """As a power cut would: no exit handlers, no flushing."""
    os.kill(os.getpid(), signal.SIGKILL)


class Fuse:
    """Kills the process when a job reaches a moment.

    `queued`; `begin:STATION`, `amid:STATION`, `end:STATION`; `sending` (the result is written), `attempt`
    (about to be sent), `delivered` (everything is answered); `refused`, `again` (queued once more).
    """

    def __init__(self, when: str) -> None:
        self.moment, _, self.station = when.partition(":")

    def __call__(self, job: Job) -> None:
        if self.moment in self.reached(job) and self.station in ("", job.station):
            die()

    def reached(self, job: Job) -> set[str]:
        """The moments that this record stands for."""
        if job.status == "refused":
            return {"refused"}
        if job.station is None:
            return {job.status, "again"} if job.run > 1 else {job.status}
        if job.station == "deliver":
            states = {peer.state for peer in job.destinations}
            told = {"sending"} if states == {"waiting"} and job.destinations[0].attempts == 0 else set()
            return told | ({"attempt"} if "sending" in states else set()) | (states & {"delivered"})
        if job.station in job.seconds and not job.starts:
            return {"end"}
        return {"amid"} if job.done else {"begin"}


class Poisoned(NeedEngine):
    """An engine that takes the whole process with it, as a fault in a native library does."""

    def refine(self, prior, low_dose, neighbours, starts):
        if low_dose.shape[-1] == 48:
            die()
        return super().refine(prior, low_dose, neighbours, starts)


def live(settings: Settings, when: str) -> int:
    """One life of the node."""
    engine = None
    if when == "poison":
        good = load_engine(settings.engine.models_folder, settings.engine.model, "cpu", 1)
        engine = Poisoned(good.card, good.projection, good.image, good.device)
    return Node(settings, observe=Fuse(when), engine=engine).run()


def main() -> int:
    settings = Settings.model_validate(json.loads(Path(sys.argv[1]).read_text()))
    for when in sys.argv[2:]:
        print("life:", when, flush=True)
        child = os.fork()
        if child == 0:
            os._exit(live(settings, when))
        signal.signal(signal.SIGTERM, lambda *_, child=child: os.kill(child, signal.SIGTERM))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != -signal.SIGKILL:
            return status
        print("died of SIGKILL", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Progress: one bar a station of the journey."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dicomnode.journey.job import Job


def progress_of(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


class Stations:
    """One bar a station, drawn as the journey reaches it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def slices(self, station: str, done: int, total: int) -> None:
        """So many slices of a station are done."""
        if station not in self._bars:
            self._bars[station] = self._progress.add_task(station, total=total)
        self._progress.update(self._bars[station], completed=done, total=total)

    def job(self, job: Job) -> None:
        """A job of the node changed."""
        if job.station and job.total:
            self.slices(job.part or job.station, job.done, job.total)
        for peer in job.destinations:
            if peer.total:
                self.slices(f"to {peer.name}", peer.sent, peer.total)

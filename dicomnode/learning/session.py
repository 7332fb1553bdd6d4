"""One call of `dicomnode train`: what is known, where it is kept, how long it may take."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicomnode.engines.seen import Seen
from dicomnode.learning import provenance
from dicomnode.learning.corpus import PackedExample, build, load_example
from dicomnode.learning.recipe import Corpus
from dicomnode.learning.trainer import Task, Trainer

Thing = TypeVar("Thing")


@dataclass
class Session:
    """`folder`: of checkpoints; `corpus`: of examples, which runs may share; `deadline`: monotonic s."""

    folder: Path
    corpus: Path
    seed: int
    device: torch.device
    deadline: float
    console: Console
    workers: int = 0

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def gather(self, corpus: Corpus) -> bool:
        """Build the corpus, or go on with it; it is not cut short."""
        build(corpus, self.corpus, self.seed, self.console)
        provenance.complete(corpus, self.corpus, self.console)
        return True

    @property
    def seen(self) -> Seen:
        """Digests of what the corpus holds."""
        return provenance.seen_of(self.corpus)

    @cached_property
    def examples(self) -> tuple[PackedExample, ...]:
        """The corpus that was built."""
        return tuple(load_example(path) for path in sorted(self.corpus.glob("*.npz")))

    def fit(self, task: Task) -> bool:
        """Train a network; False when the deadline came first."""
        trainer = Trainer(task, self.folder, self.device, self.seed, self.workers)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task(task.name, total=task.stage.steps, completed=trainer.step)

            def tell(step: int, loss: float) -> None:
                progress.update(bar, completed=step, description=f"{task.name} loss {loss:.4f}")

            return trainer.fit(self.deadline, tell)

    def each(self, things: Iterable[Thing], what: str, do: Callable[[Thing], None]) -> bool:
        """Do something with each of many; False when the deadline came first."""
        with Progress(console=self.console) as progress:
            for thing in progress.track(list(things), description=what):
                if self.late:
                    return False
                do(thing)
        return True

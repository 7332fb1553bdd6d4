"""All that is measured, sorted by dose and kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from dicomnode.appraisal.cases import PAIRS, Case
from dicomnode.appraisal.methods import Method
from dicomnode.appraisal.panels import Panel
from dicomnode.appraisal.probing import Probed
from dicomnode.appraisal.scoring import Scored, Truth
from dicomnode.evaluation.shared_noise import SharedNoise, shared_noise


@dataclass(eq=False)
class Row:
    """What is known of one method at one dose and kernel."""

    scored: Scored = field(default_factory=Scored)
    probed: Probed = field(default_factory=Probed)


@dataclass(eq=False)
class Group:
    """All cases of one dose and kernel, a row a method; `panel` shows one slice of it.

    `shared`: of real pairs, what the two doses share of their noise; a simulation knows that beforehand.
    """

    dose: str
    kernel: str
    rows: dict[str, Row]
    slices: int = 0
    probed_slices: int = 0
    steps: list[int] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    panel: Panel | None = None
    shared: list[SharedNoise] = field(default_factory=list)

    def add(self, case: Case, truth: Truth, methods: Sequence[Method], done: Callable[[int], None]) -> None:
        """Run every method on a case."""
        starts = case.scan.starts[case.judged]
        self.slices += len(starts)
        self.probed_slices += len(case.plans)
        self.steps += [start.step for start in starts]
        self.fractions += [start.fraction for start in starts]
        if case.dose == PAIRS and (
            found := shared_noise(case.scan.hounsfield[case.judged], case.reference[case.judged])
        ):
            self.shared.append(found)
        results = {}
        for method in methods:
            results[method.name] = method(case.scan, case.judged)
            done(case.slices)
            row = self.rows[method.name]
            row.scored.add(results[method.name], truth)
            row.probed.add(method, case, done)
        if self.panel is None or (case.plans and not self.panel.planned):
            self.panel = Panel.of(case, results)

    @property
    def told_steps(self) -> list[float]:
        """Least, median and greatest start step."""
        return [min(self.steps), median(self.steps), max(self.steps)]


Groups = dict[tuple[str, str], Group]

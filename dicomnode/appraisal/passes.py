"""`dicomnode evaluate passes`: what each network pass of either stage is worth, so that cards need not guess.

SPDiff cleans projections and DGDiff slices; both walk from the start step to normal dose in as many passes as
the card says, at most one a step. The same cases, in the same noise, are worked with few passes and with all.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from rich.console import Console
from rich.progress import TaskID

from dicomnode.appraisal import asked, guard, passes_told
from dicomnode.appraisal.cases import FULL as NORMAL
from dicomnode.appraisal.cases import Case
from dicomnode.appraisal.inserts import MOST_PLACES, NOISE_SIDE_PX
from dicomnode.appraisal.methods import Enhanced, FromRays, Method, Unchanged, Volume
from dicomnode.appraisal.probing import Probed, shift_percent
from dicomnode.appraisal.report import Report, head, plain, write_json
from dicomnode.appraisal.scoring import Scored
from dicomnode.arguments import count
from dicomnode.engines.catalog import load_engine
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.errors import NoTestSeries
from dicomnode.evaluation.places import find_even
from dicomnode.evaluation.texture import NoisePower, power_in_difference, power_in_places

SLICES, INSERTS = 6, 3
COUNTS = (1, 2, 3, 5)
MOST_LOST_DB = 0.1
"""PSNR that few passes may cost against all steps."""

JSON, MARKDOWN = "passes.json", "passes.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode evaluate passes`."""
    asked.add_model(parser)
    asked.add_cases(parser, SLICES, INSERTS, "slices whose noise is looked at")
    parser.add_argument(
        "--passes",
        type=count,
        nargs="+",
        default=list(COUNTS),
        metavar="N",
        help="of each stage, beside as many as there are steps; default: %(default)s",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print a table a dose, write what was asked for."""
    asked.check(arguments)
    console, began = Console(), time.monotonic()
    engine = load_engine(arguments.models, arguments.model, arguments.device)
    groups, opened = _measure(arguments, engine, console)
    words = [*asked.command("passes", arguments), "--passes", *map(str, arguments.passes)]
    told = build(groups, {**head(opened, words, time.monotonic() - began), **_of_card(engine)})
    for table in passes_told.for_terminal(told):
        console.print(table)
    for line in (*guard.warnings(told["guard"]), *guard.compared(told["guard"]), *passes_told.advice(told)):
        console.print(line, highlight=False)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_json(told, arguments.output / JSON)
        drawn = passes_told.draw_all(told, arguments.output)
        (arguments.output / MARKDOWN).write_text(passes_told.markdown(told, drawn))
        console.print(f"look at [bold]{arguments.output / MARKDOWN}[/]")
    if arguments.json:
        write_json(told, arguments.json)
    return 0


@dataclass(frozen=True)
class Passes:
    """Network passes of SPDiff and of DGDiff; None: one a step of the schedule."""

    projection: int | None
    image: int | None

    @property
    def name(self) -> str:
        """What its row is called."""
        first, second = ("full" if n is None else n for n in (self.projection, self.image))
        return f"SPDiff {first}, DGDiff {second}"

    def of(self, engine: NeedEngine) -> NeedEngine:
        """The engine with a card that says so, for image mode and for raw mode where it has one."""
        card = engine.card
        raw = card.raw and card.raw.model_copy(update={"passes": self.projection})
        steps = max(card.schedule.steps, card.raw.schedule.steps if card.raw else 0)
        changed: dict[str, Any] = {
            "projection_passes": steps if self.projection is None else self.projection,
            "image_passes": steps if self.image is None else self.image,
            "raw": raw,
        }
        return replace(engine, card=card.model_copy(update=changed))


FULL = Passes(None, None)


def plan(counts: Iterable[int], own: Sequence[Passes]) -> list[Passes]:
    """All steps first; few of one stage beside all of the other, few of both; and what the card has."""
    few = sorted(set(counts))
    alone = [Passes(n, None) for n in few] + [Passes(None, n) for n in few]
    both = [Passes(n, m) for n, m in product(few, few) if n == m]
    return list(dict.fromkeys([FULL, *alone, *both, *own]))


def own_passes(engine: NeedEngine, *, raw: bool) -> Passes:
    """What the card has, in raw mode or in image mode."""
    card = engine.card
    first = card.raw.passes if raw and card.raw else card.projection_passes
    return Passes(first, card.image_passes)


@dataclass(eq=False)
class Row:
    """What one number of passes made of all cases of a dose and kernel."""

    scored: Scored = field(default_factory=Scored)
    probed: Probed = field(default_factory=Probed)
    seconds: float = 0.0
    slices: int = 0


@dataclass(eq=False)
class Group:
    """All cases of one dose and kernel: the input and a row for each number of passes."""

    dose: str
    kernel: str
    own: Passes
    rows: dict[str, Row]
    steps: list[int] = field(default_factory=list)
    slices: int = 0

    def add(self, case: Case, methods: dict[str, Method], done: Callable[[], None]) -> None:
        """Run every method on a case."""
        self.slices += case.slices
        reference = case.reference[case.judged]
        for name, method in methods.items():
            row, began = self.rows[name], time.perf_counter()
            result = method(case.scan, case.judged)
            row.seconds += time.perf_counter() - began
            # raw mode works on the neighbours too
            row.slices += case.slices if case.scan.rays is None else len(case.reference)
            row.scored.compare(result, reference)
            row.probed.powers += list(_noise_left(case, method, result))
            done()


Groups = dict[tuple[str, str], Group]


def start_steps(case: Case, engine: NeedEngine) -> list[int]:
    """Where SPDiff starts for each judged slice; of projections their photons alone tell (NEED 1.6)."""
    if case.scan.rays is None:
        return [start.step for start in case.scan.starts[case.judged]]
    return [engine.process.schedule.nearest(photons) for photons in case.scan.rays.levels[case.judged]]


def _noise_left(case: Case, method: Method, result: Volume) -> Iterator[NoisePower]:
    """The noise in a result, where tissue is even.

    Of simulated doses by the difference to the result of a second noise, in the planned slices; of
    projections by that to the scan at normal dose; of real pairs in the result alone.
    """
    first, pixel_mm = case.judged.start, case.scan.pixel_mm
    if case.scan.rays is not None:
        for image, target in zip(result, case.reference[case.judged], strict=True):
            if places := find_even(target[None], NOISE_SIDE_PX, most=MOST_PLACES):
                yield power_in_difference(image[None], target[None], places, NOISE_SIDE_PX, pixel_mm)
        return
    for plan in (plan for plan in case.plans if plan.squares):
        here = result[plan.at - first][None]
        if case.again is None:
            yield power_in_places(here, plan.squares, NOISE_SIDE_PX, pixel_mm)
        else:
            second = replace(case.scan, hounsfield=case.again)
            other = method(second, slice(plan.at, plan.at + 1))
            yield power_in_difference(here, other, plan.squares, NOISE_SIDE_PX, pixel_mm)


def _measure(
    arguments: argparse.Namespace, engine: NeedEngine, console: Console
) -> tuple[Groups, asked.Opened]:
    groups: Groups = {}
    with asked.progress(console) as progress:
        bar: TaskID = progress.add_task("looking at the series", total=None)
        opened = asked.open_all(arguments, engine, {}, console)
        warm = set[bool]()
        for case in opened.cases():
            steps = start_steps(case, engine)
            if case.dose == NORMAL or not any(steps):
                continue  # normal dose is left alone, in any number of passes
            progress.update(bar, description=f"{case.dose}, {case.kernel}")
            raw = case.scan.rays is not None
            methods = methods_of(engine, arguments.passes, raw=raw)
            if raw not in warm:  # what is compiled or chosen at the first call is no part of a pass
                methods[FULL.name](case.scan, case.judged)
                warm.add(raw)
            key = case.dose, case.kernel
            if key not in groups:
                groups[key] = Group(*key, own_passes(engine, raw=raw), {name: Row() for name in methods})
            groups[key].steps += steps
            groups[key].add(case, methods, lambda: progress.advance(bar))
    if not groups:
        raise NoTestSeries("nothing here starts below normal dose: give lower --doses, or other --pairs")
    return groups, opened


def methods_of(engine: NeedEngine, counts: Sequence[int], *, raw: bool) -> dict[str, Method]:
    """The input and the engine with every number of passes, by name."""
    mode: Callable[[NeedEngine], Method] = FromRays if raw else Enhanced
    variants = plan(counts, [own_passes(engine, raw=raw)])
    return {"input": Unchanged(), **{one.name: mode(one.of(engine)) for one in variants}}


def build(groups: Groups, known: Report) -> Report:
    """Everything measured, in JSON's own types."""
    report = plain({**known, "groups": [_group(group) for group in groups.values()]})
    return {**report, "fewest": passes_told.fewest_by_mode(report)}


def _of_card(engine: NeedEngine) -> Report:
    own = {"image": own_passes(engine, raw=False).name}
    if engine.card.raw:
        own["raw"] = own_passes(engine, raw=True).name
    return {"card": own, "most_lost_db": MOST_LOST_DB}


def _group(group: Group) -> Report:
    unchanged, full = group.rows["input"].probed, group.rows[FULL.name].scored.figures()["psnr_db"]
    rows: dict[str, dict[str, Any]] = {}
    for name, row in group.rows.items():
        figures = row.scored.figures()
        rows[name] = {
            **{figure: figures[figure] for figure in ("rmse_hu", "psnr_db", "ssim")},
            "nps_shift_percent": shift_percent(unchanged, row.probed),
            "seconds_per_slice": row.seconds / row.slices,
        }
        if name != "input":
            rows[name]["over_full_db"] = rows[name]["psnr_db"] - full
    return {
        "dose": group.dose,
        "kernel": group.kernel,
        "slices": group.slices,
        "start_steps": [min(group.steps), max(group.steps)],
        "card": group.own.name,
        "passes": rows,
    }

"""Nothing is judged on what it was trained on: the series to measure on against the digests in the cards."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicomnode.dicom.series import CtSeries
from dicomnode.engines.seen import Seen, series_digest, slice_digests, study_digest
from dicomnode.errors import AlreadySeen

SEEN_HELP = "measure on what a model was trained on all the same; the report says so at its head"


@dataclass(frozen=True)
class Guard:
    """What was compared with: digests a method was trained on, by its name, None where its card has none.

    `found`: a sentence for each series that a method was trained on.
    """

    known: Mapping[str, Seen | None]
    found: tuple[str, ...] = field(default=())

    @property
    def report(self) -> dict[str, Any]:
        """For evaluation.json."""
        compared = {
            name: None
            if seen is None
            else {"studies": len(seen.studies), "series": len(seen.series), "slices": len(seen.slices)}
            for name, seen in self.known.items()
        }
        return {"compared_with": compared, "trained_on_these": list(self.found)}


def check(judged: Iterable[tuple[str, Seen]], known: Mapping[str, Seen | None], allowed: bool) -> Guard:
    """Compare what is to be judged, each with what to call it, with what the methods have seen.

    :raises AlreadySeen: a method was trained on one of them, and that was not `allowed`.
    """
    found = [
        f"{where} is what {name} was trained on ({_by(seen & what, what)})"
        for where, what in judged
        for name, seen in known.items()
        if seen is not None and seen & what
    ]
    if found and not allowed:
        raise AlreadySeen(
            f"{'; '.join(found)}: its figures would flatter; give another, or --seen to measure all the same"
        )
    return Guard(known, tuple(found))


def digests(series: Sequence[CtSeries]) -> Seen:
    """Of some series, with all of their slices."""
    return Seen.together(
        Seen.of(
            [study_digest(one.study_instance_uid)],
            [series_digest(one.series_instance_uid)],
            slice_digests(one.hounsfield),
        )
        for one in series
    )


def of_series(where: Path, series: CtSeries) -> tuple[str, Seen]:
    """A series as it was asked for; of its folder the name, wherever it lies."""
    return f"--series {where.name}", digests([series])


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know before any figure: a method was trained on what it was measured on."""
    return [f"**Not a test: {one}; measured all the same (--seen).**" for one in report["trained_on_these"]]


def compared(report: Mapping[str, Any]) -> list[str]:
    """What was compared, a line a method."""
    lines = []
    for name, known in report["compared_with"].items():
        counted = known and ", ".join(f"{number} {kind}" for kind, number in known.items())
        lines.append(
            f"guard: compared with what {name} was trained on: {counted}"
            if counted
            else f"guard: the card of {name} knows no study that it was trained on: nothing to compare with"
        )
    return lines


def _by(shared: Seen, what: Seen) -> str:
    """By what a series was known again."""
    ways = ["the study"] * bool(shared.studies) + ["the series"] * bool(shared.series)
    if shared.slices:
        ways.append(f"{len(shared.slices)} of {len(what.slices)} slices")
    return ", ".join(ways)

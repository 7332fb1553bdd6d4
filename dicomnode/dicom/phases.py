"""Tell apart what lies at the same places, or on grids that do not fit: phases, repeated and other scans."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.dicom.series import ACQUISITION_KEYS
from dicomnode.dicom.stacking import step_tolerance_mm
from dicomnode.dicom.values import finite, numbers, text

TOLD_BY: Final = (
    *(*ACQUISITION_KEYS, "ImageType", "TriggerTime"),
    *("NominalCardiacTriggerDelayTime", "NominalPercentageOfRespiratoryPhase"),
)
"""What names the phase or scan of an image, surest first."""
TOLD_IN_WORDS: Final = ("SeriesNumber", "SeriesDescription", "ImageComments")
"""`Gated 30%`: what is left where neither numbers nor times tell, as after another series' UID was kept."""

TIMES: Final = ("AcquisitionDateTime", "AcquisitionTime", "ContentTime")
"""One value a phase, or one an image: then the pauses between them tell the phases."""
TIMES_OF_SCANS: Final = TIMES[:2]
"""Those of the X-rays; Content Time is of the reconstruction."""

SAME_PLACE_MM: Final = 0.01
LEAST_IN_SCAN: Final = 2

Image = tuple[Path, Dataset]


@dataclass(frozen=True, eq=False)
class Group:
    """Images that share `facts`."""

    facts: dict[str, Hashable]
    images: list[Image]


def apart(images: Iterable[Image], facts_of: Callable[[Dataset], dict[str, Hashable]]) -> list[Group]:
    """A group for each set of facts."""
    groups: dict[Hashable, Group] = {}
    for path, header in images:
        facts = facts_of(header)
        groups.setdefault(tuple(facts.items()), Group(facts, [])).images.append((path, header))
    return list(groups.values())


def place(image: Image) -> tuple[float, ...]:
    """Where an image lies, the height first; empty where that is not told."""
    return numbers(image[1], "ImagePositionPatient")[::-1]


def without_repeats(group: Group) -> list[Group]:
    """Phases or scans at the same places, if anything tells them apart; else the group as it is.

    Many images at one place only, as of bolus tracking, are no series of slices and stay together: whoever
    stacks them refuses them for that.
    """
    crowd = _crowd(group)
    if crowd < 2 or _span_mm(group) < SAME_PLACE_MM:
        return [group]
    told = _told_by((*TOLD_BY, *TIMES), group, crowd)
    if told:
        return told
    for keyword in (*TIMES, *ACQUISITION_KEYS):
        runs = _in_turn(group, keyword, crowd)
        if runs:
            return [
                Group(group.facts | {keyword: f"turn {number}"}, run) for number, run in enumerate(runs, 1)
            ]
    return _told_by(TOLD_IN_WORDS, group, crowd) or _overlapping(group)


def _told_by(keywords: Sequence[str], group: Group, crowd: int) -> list[Group]:
    """The images by the first attribute with which none of them share a place; none where no one does it."""
    for keyword in keywords:
        parts = apart(group.images, partial(_only, keyword))
        if 1 < len(parts) <= crowd and not any(_crowd(part) > 1 for part in parts):
            return [Group(group.facts | part.facts, part.images) for part in parts]
    return []


def _overlapping(group: Group) -> list[Group]:
    """Scans one behind the other that overlap at their ends: more of them than images lie at any place."""
    held = Counter(_places(group.images)).values()
    shared = sum(count > 1 for count in held)
    if 2 * shared > len(held):
        return [group]
    for keyword in (*ACQUISITION_KEYS, *TIMES_OF_SCANS):
        parts = apart(group.images, partial(_only, keyword))
        scans = all(len(part.images) >= LEAST_IN_SCAN and _crowd(part) == 1 for part in parts)
        if 1 < len(parts) <= shared + 1 and scans:
            return [Group(group.facts | part.facts, part.images) for part in parts]
    return [group]


def by_acquisition(group: Group) -> list[Group]:
    """Two scans on grids that do not fit each other, each of them even: one group each.

    Where the parts only leave a gap between them the group stays: an image may be missing.
    """
    if _is_even(group):
        return [group]
    for keyword in ACQUISITION_KEYS:
        parts = apart(group.images, partial(_only, keyword))
        whole = all(len(part.images) >= LEAST_IN_SCAN and _is_even(part) for part in parts)
        if len(parts) > 1 and whole and _do_not_fit(parts):
            return [Group(group.facts | part.facts, part.images) for part in _continued(parts)]
    return [group]


def _continued(parts: Iterable[Group]) -> list[Group]:
    """Rotations of one scan, which number themselves, put together: one goes on where the one before ends."""
    scans: list[Group] = []
    for part in sorted(parts, key=lambda one: float(_heights(one)[0])):
        whole = Group(scans[-1].facts, scans[-1].images + part.images) if scans else part
        if scans and _heights(scans[-1])[-1] < _heights(part)[0] and _is_even(whole):
            scans[-1] = whole
        else:
            scans.append(part)
    return scans


def _only(keyword: str, header: Dataset) -> dict[str, Hashable]:
    return {keyword: text(header, keyword)}


# --- at the same places ---------------------------------------------------------------------------


def _crowd(group: Group) -> int:
    """The most images at one place; 0 where no image tells its place."""
    counts = Counter(_places(group.images))
    return max(counts.values(), default=0)


def _places(images: Sequence[Image]) -> list[int]:
    """A number for each image that tells its place, the same for the same place."""
    told = [place(image) for image in images]
    order = sorted((at, index) for index, at in enumerate(told) if at)
    found: dict[int, int] = {}
    number = 0
    for (before, _), (at, index) in pairwise([((), -1), *order]):
        number += not _near(before, at)
        found[index] = number
    return [found[index] for index in sorted(found)]


def _near(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < SAME_PLACE_MM for a, b in zip(one, other, strict=True))


def _in_turn(group: Group, keyword: str, crowd: int) -> list[list[Image]] | None:
    """The images in the order of an attribute, cut at its longest pauses or where all places come again."""
    values = [_seconds(text(header, keyword)) for _, header in group.images]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    order = np.argsort(known, kind="stable")
    images = [group.images[index] for index in order]
    pauses = np.diff(np.array(known)[order])
    longest = sorted(int(at) + 1 for at in np.argsort(pauses, kind="stable")[::-1][: crowd - 1])
    rounds = [len(images) // crowd * k for k in range(1, crowd)]
    even = set(Counter(_places(images)).values()) == {crowd}
    for cuts in (longest, rounds) if even else (longest,):
        runs = _cut(images, cuts)
        # images of one moment are not told apart by the order in which they happen to stand
        if any(pauses[at - 1] <= 0 for at in cuts) or any(_crowd(Group({}, run)) > 1 for run in runs):
            continue
        if even or all(_one_way(run, keyword) for run in runs):
            return runs
    return None


def _one_way(run: Sequence[Image], keyword: str) -> bool:
    """Whether the images lie along the patient as they were made. A cut within a scan leaves its end with the
    next scan, which begins somewhere else."""
    moments: dict[str, list[float]] = {}
    for image in run:
        moments.setdefault(text(image[1], keyword), []).extend(place(image)[:1])
    steps = [
        (max(one) <= min(other) + SAME_PLACE_MM, min(one) >= max(other) - SAME_PLACE_MM)
        for one, other in pairwise(heights for heights in moments.values() if heights)
    ]
    return all(up for up, _ in steps) or all(down for _, down in steps)


def _cut(images: list[Image], at: Sequence[int]) -> list[list[Image]]:
    return [images[start:end] for start, end in pairwise([0, *at, len(images)])]


def _seconds(value: str) -> float | None:
    """A DICOM time or date and time as seconds; a plain number as it is."""
    clock = value.split("+")[0].split("-")[0]
    whole, _, part = clock.partition(".")
    if not whole.isdecimal() or len(whole) < 6:
        return finite(clock)
    digits = whole.ljust(14, "0") if len(whole) > 6 else "0" * 8 + whole
    days, hours, minutes, seconds = (int(digits[a:b]) for a, b in ((0, 8), (8, 10), (10, 12), (12, 14)))
    return 86400.0 * days + 3600.0 * hours + 60.0 * minutes + seconds + (finite(f"0.{part}") or 0.0)


# --- on grids that do not fit ---------------------------------------------------------------------


def _heights(group: Group) -> NDArray[np.float64]:
    return np.sort(np.array([at[0] for at in map(place, group.images) if len(at) == 3], np.float64))


def _span_mm(group: Group) -> float:
    places = [at for at in map(place, group.images) if len(at) == 3]
    return float(np.ptp(np.array(places), axis=0).max()) if places else 0.0


def _spacing_mm(group: Group) -> float:
    return float(np.median(np.diff(_heights(group))))


def _is_even(group: Group) -> bool:
    heights = _heights(group)
    if len(heights) < max(LEAST_IN_SCAN, len(group.images)):
        return True  # places that are not told speak for no cut
    steps = np.diff(heights)
    spacing = float(np.median(steps))
    return bool(spacing > SAME_PLACE_MM and np.all(np.abs(steps - spacing) <= step_tolerance_mm(spacing)))


def _do_not_fit(parts: Sequence[Group]) -> bool:
    """Parts that reach into each other, or step differently."""
    ranges = sorted((float(_heights(part)[0]), float(_heights(part)[-1])) for part in parts)
    steps = [_spacing_mm(part) for part in parts]
    overlap = any(before[1] > after[0] + SAME_PLACE_MM for before, after in pairwise(ranges))
    return overlap or max(steps) - min(steps) > step_tolerance_mm(min(steps))

"""Sort what one Series Instance UID holds into stacks: images of one acquisition, reconstructed in one way.

Scanners, archives and copy stations put scouts, several kernels, phases or repeated scans under one UID. Each
stack is worked by itself; whether it can be is for `series.read_series` to say, by the named rule it breaks.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.dicom.admission import admit
from dicomnode.dicom.dose import DOSE_JUMP, SCAN_KEYS
from dicomnode.dicom.exposure import read_exposure
from dicomnode.dicom.phases import Group, apart, by_acquisition, place, without_repeats
from dicomnode.dicom.series import ACQUISITION_KEYS, NUMBER_TOLERANCE, read_headers
from dicomnode.dicom.values import number, numbers, text
from dicomnode.errors import SeriesRefused

APART_BY_TEXT: Final = (
    "FrameOfReferenceUID",
    "ConvolutionKernel",
    "FilterType",
    "ContrastBolusAgent",
    "BitsStored",
    "PixelRepresentation",
    "MultienergyCTAcquisition",
)
APART_BY_NUMBER: Final = (
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImageOrientationPatient",
    "SliceThickness",
    "KVP",
    "ReconstructionDiameter",
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
)
"""Attributes with one value in a stack. Who the patient is and who made the image are not among them:
where those differ the series is not several stacks but a mistake, and is refused."""

DECIMALS: Final = 3
SHORTEST_SCAN: Final = 3
"""Images that share a time of acquisition, to be a scan by it; many scanners give each image its own."""


@dataclass(frozen=True)
class Stack:
    """Files that are worked together, in the order they were given.

    `key` names the stack within its series and follows from what its images share; `differs_by` names the
    attributes in which it differs from the other stacks, or the rule by which its images were set aside.
    """

    key: str
    paths: tuple[Path, ...]
    differs_by: tuple[str, ...] = ()


def sort_into_stacks(paths: Sequence[Path]) -> tuple[Stack, ...]:
    """The stacks of one series, the largest first. Every path is in exactly one of them.

    A file that cannot be read may belong to any: then all stay together, to be refused together.
    """
    try:
        images = [(path, read_headers([path])[0]) for path in paths]  # of many frames the first
    except SeriesRefused:
        return (Stack(_key({}), tuple(paths)),)
    groups = [
        part
        for group in apart(images, _sharing([header for _, header in images]))
        for by_place in without_repeats(group)
        for by_grid in by_acquisition(by_place)
        for part in _at_dose_jumps(by_grid)
    ]
    given = {path: number for number, path in enumerate(paths)}
    groups.sort(key=lambda group: (-len(group.images), _key(group.facts)))
    differing = tuple(sorted(_differing(groups)))
    return tuple(
        Stack(
            _key(group.facts),
            tuple(sorted((path for path, _ in group.images), key=given.__getitem__)),
            tuple(name for name in differing if name in group.facts),
        )
        for group in groups
    )


def _sharing(headers: Sequence[Dataset]) -> Callable[[Dataset], dict[str, Hashable]]:
    """What all images of a stack share; for an image that is never enhanced only the rule that says so."""
    levels = {keyword: _levels(numbers(header, keyword) for header in headers) for keyword in APART_BY_NUMBER}

    def shared(header: Dataset) -> dict[str, Hashable]:
        try:
            admit(header)
        except SeriesRefused as refusal:
            return {refusal.rule: True}
        facts: dict[str, Hashable] = {keyword: text(header, keyword) for keyword in APART_BY_TEXT}
        return facts | {keyword: levels[keyword][numbers(header, keyword)] for keyword in APART_BY_NUMBER}

    return shared


def _levels(found: Iterable[tuple[float, ...]]) -> dict[tuple[float, ...], tuple[float, ...]]:
    """Each value with the one that stands for it: the lowest that is as good as equal, rounded.

    Rounding alone would part 0.6835 from 0.6836, which is one spacing written in two ways.
    """
    levels: dict[tuple[float, ...], tuple[float, ...]] = {}
    stand_ins: list[tuple[float, ...]] = []
    for values in sorted(set(found)):
        stand_in = _stand_in(values, stand_ins)
        if stand_in is None:
            stand_ins.append(stand_in := values)
        levels[values] = tuple(round(value, DECIMALS) + 0.0 for value in stand_in)
    return levels


def _stand_in(
    values: tuple[float, ...], sorted_ones: Sequence[tuple[float, ...]]
) -> tuple[float, ...] | None:
    for one in reversed(sorted_ones):
        if _equal(one, values):
            return one
        if not _equal(one[:1], values[:1]):  # and so are all before it
            return None
    return None


def _equal(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= NUMBER_TOLERANCE for a, b in zip(one, other, strict=True)
    )


def _at_dose_jumps(group: Group) -> list[Group]:
    """Acquisitions that follow each other with another dose are two scans; with the same, steps of one."""
    for keyword in SCAN_KEYS:
        runs = _runs(group, keyword)
        if keyword not in ACQUISITION_KEYS and min(len(run.images) for run in runs) < SHORTEST_SCAN:
            continue
        parts = _cut_at_jumps(runs)
        if len(parts) > 1 and len(runs) == len({text(run.images[0][1], keyword) for run in runs}):
            return parts
    return [group]


def _cut_at_jumps(runs: Sequence[Group]) -> list[Group]:
    parts, before = [runs[0]], runs[1] if _is_outlier(runs, 0) else runs[0]
    for at, run in enumerate(runs[1:], 1):
        outlier = _is_outlier(runs, at)
        if not outlier and _jump(before, run):
            parts.append(run)
        else:
            parts[-1] = Group(parts[-1].facts, parts[-1].images + run.images)
        before = before if outlier else run
    return parts


def _is_outlier(runs: Sequence[Group], at: int) -> bool:
    """One image whose dose fits neither neighbour, which fit each other: that is no scan but a value that
    `dose_vector` replaces."""
    if len(runs[at].images) > 1 or len(runs) < 3:
        return False
    one, other, *_ = (runs[k] for k in (at - 1, at + 1, at - 2, at + 2) if 0 <= k < len(runs))
    return _jump(one, runs[at]) and _jump(runs[at], other) and not _jump(one, other)


def _runs(group: Group, keyword: str) -> list[Group]:
    """Images with one value of an attribute, one after the other along the patient."""
    images = sorted(group.images, key=place)
    runs: list[Group] = []
    for image in images:
        value = text(image[1], keyword)
        if not runs or runs[-1].facts[keyword] != value:
            runs.append(Group(group.facts | {keyword: value}, []))
        runs[-1].images.append(image)
    return runs


def _jump(before: Group, after: Group) -> bool:
    for dose_of in (_ctdivol_mgy, _mas):
        one, other = _median(before, dose_of), _median(after, dose_of)
        if one and other:
            return max(one / other, other / one) > DOSE_JUMP
    return False


def _median(group: Group, dose_of: Callable[[Dataset], float | None]) -> float:
    return median([dose_of(header) or 0.0 for _, header in group.images])


def _ctdivol_mgy(header: Dataset) -> float | None:
    return number(header, "CTDIvol")


def _mas(header: Dataset) -> float | None:
    return read_exposure(header).mas


def _differing(groups: Sequence[Group]) -> set[str]:
    values: dict[str, set[Hashable]] = defaultdict(set)
    for group in groups:
        for keyword, value in group.facts.items():
            values[keyword].add(value)
    everywhere = {keyword for keyword in values if all(keyword in group.facts for group in groups)}
    return {keyword for keyword in values if len(values[keyword]) > 1 or keyword not in everywhere}


def _key(facts: dict[str, Hashable]) -> str:
    told = "|".join(f"{keyword}={facts[keyword]!r}" for keyword in sorted(facts))
    return hashlib.sha256(told.encode()).hexdigest()[:12]

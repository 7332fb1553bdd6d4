"""What a model has seen, as digests: enough to know a scan again, nothing to read a patient or a UID from.

Three kinds, because copies of one scan differ: the Study and the Series Instance UID, and for copies under
other UIDs (de-identified again, from another archive) each slice itself, however its values are stored.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

AIR_HU = -1000.0
NEAR_HU = 300.0
COARSEST = 255
LEAST_PAIRS, LEAST_KINDS = 256, 16
"""Differences that a slice must have, and of how many sizes, to be told from others: air alone has none."""

UidDigest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
SliceDigest = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
"""64 bits: of 100000 slices against as many others one meets by chance in 2 of 10^9 trials."""


class Seen(BaseModel):
    """Digests of studies, series and slices; a volume that came without UIDs has slices alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    studies: tuple[UidDigest, ...] = ()
    series: tuple[UidDigest, ...] = ()
    slices: tuple[SliceDigest, ...] = ()

    @staticmethod
    def of(studies: Iterable[str], series: Iterable[str], slices: Iterable[str]) -> "Seen":
        """Each digest once, in order."""
        return Seen(
            studies=tuple(sorted(set(studies))),
            series=tuple(sorted(set(series))),
            slices=tuple(sorted(set(slices))),
        )

    @staticmethod
    def together(many: Iterable["Seen"]) -> "Seen":
        """What any of them knows."""
        every = list(many)
        return Seen.of(
            (digest for one in every for digest in one.studies),
            (digest for one in every for digest in one.series),
            (digest for one in every for digest in one.slices),
        )

    def __bool__(self) -> bool:
        return bool(self.studies or self.series or self.slices)

    def __or__(self, other: "Seen") -> "Seen":
        """What either knows."""
        return Seen.together((self, other))

    def __and__(self, other: "Seen") -> "Seen":
        """What both know; nothing where they share no study, no series and no slice."""
        return Seen.of(
            set(self.studies) & set(other.studies),
            set(self.series) & set(other.series),
            set(self.slices) & set(other.slices),
        )

    def counted(self) -> str:
        """How many of each, in words."""
        return f"{len(self.studies)} studies, {len(self.series)} series and {len(self.slices)} slices"


def study_digest(uid: str) -> str:
    """Of a Study Instance UID: SHA-256, hexadecimal, of it behind a word that no other digest starts with."""
    return sha256(b"dicomnode study " + uid.encode()).hexdigest()


def series_digest(uid: str) -> str:
    """Of a Series Instance UID, likewise."""
    return sha256(b"dicomnode series " + uid.encode()).hexdigest()


def slice_digest(hounsfield: NDArray[np.float32]) -> str | None:
    """Of a slice, HU [row, column]; None where there is too little in it to be told from others.

    What is digested is how often each difference between two neighbouring pixels occurs, in whole HU, in the
    central half of the slice, among pixels within 300 HU of its median. That is the same whatever slope,
    intercept, padding and compression without loss the slice is stored with, for a slice with a constant
    added, cut off at air, mirrored or turned by quarters; and another for any other slice, because noise
    decides it. It does not survive another reconstruction, resampling, or compression with loss.
    """
    rows, columns = hounsfield.shape
    centre = np.asarray(
        hounsfield[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4], np.float64
    )
    kept = (centre > AIR_HU) & (np.abs(centre - np.median(centre)) < NEAR_HU)
    steps = np.concatenate([np.abs(np.diff(centre, axis=axis))[_both(kept, axis)] for axis in (0, 1)])
    # a quarter more, or a value halfway between two would fall to either side
    counts = np.bincount(np.minimum(steps + 0.25, COARSEST + 1).astype(int), minlength=COARSEST + 2)
    counts = counts[1 : COARSEST + 1]
    if counts.sum() < LEAST_PAIRS or np.count_nonzero(counts) < LEAST_KINDS:
        return None
    return sha256(b"dicomnode slice " + counts.astype("<i8").tobytes()).hexdigest()[:16]


def slice_digests(stack: Iterable[NDArray[np.float32]]) -> list[str]:
    """Of those slices, HU [row, column] each, that can be told from others."""
    return [digest for digest in map(slice_digest, stack) if digest]


def _both(kept: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Where a pixel and the next one along `axis` are both kept."""
    before, after = (kept[:-1], kept[1:]) if axis == 0 else (kept[:, :-1], kept[:, 1:])
    both: NDArray[np.bool_] = before & after
    return both

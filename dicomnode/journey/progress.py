"""How far a job is, as a number for a progress bar."""

from typing import Final

ARRIVED: Final = 0.05
"""The share of the way that is behind a series when all its images are here."""
_NOT_QUITE: Final = 0.99
_BEGINS: Final = {
    "assemble": ARRIVED,
    "dose": 0.06,
    "measure": 0.06,
    "match": 0.09,
    "reconstruct": 0.09,
    "judge": 0.92,
    "write": 0.94,
    "deliver": 0.95,
}
"""By the seconds of the shipped model on two cores of a CPU, 24 slices of 512 x 512 pixels: assemble 0.9,
dose 0.01, measure 1.9, match 0.0, reconstruct 63.2, judge 1.5, write 1.0. Sending takes
what the network takes."""
_ENDS: Final = dict(zip(_BEGINS, [*list(_BEGINS.values())[1:], _NOT_QUITE], strict=True))
_AT_THE_END_OF_A_BATCH: Final = ("refine", "bound")


def reached(station: str | None, part: str, done: int, total: int) -> float:
    """The share of the way, below 1, at `done` of `total` slices (or objects sent) of a station.

    The slices of a batch are told as done from the first of its parts on; they count from the last.
    """
    if station is None:
        return ARRIVED
    begin, end = _BEGINS[station], _ENDS[station]
    if part == "uncertainty":
        return end
    counts = station == "deliver" or part in _AT_THE_END_OF_A_BATCH
    share = done / total if total and counts else 0.0
    return round(begin + (end - begin) * min(share, 1.0), 4)

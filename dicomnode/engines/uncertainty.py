"""How far the model's own draws move the image: the standard deviation over several seeds.

The result that leaves is made with the mean of the photons between two passes, where its card says so, and
then no seed matters. Here they are drawn, as in the published process. The spread is that of the model's
refill alone: the noise of the scan, and an error that every run makes, are not in it. It is zero on slices
whose path has a single pass, because nothing is drawn there.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dicomnode.engines.enhance import enhance
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import StartStep
from dicomnode.errors import NoSpread

Observer = Callable[[str, int, int], None]
"""Told ("uncertainty", slices done, slices in all)."""


def drawing(engine: NeedEngine) -> NeedEngine:
    """The same engine, drawing photons between its passes.

    :raises NoSpread: it has no two passes to draw between: every seed would give the same image.
    """
    if engine.card.projection_passes < 2:
        raise NoSpread(
            f"model {engine.card.id} has {engine.card.projection_passes} pass over the projections and draws "
            "nothing, so its spread over seeds is zero: set engine.uncertainty_seeds to 0"
        )
    return replace(engine, card=engine.card.model_copy(update={"refill": "drawn"}))


def draws_on(engine: NeedEngine, start: StartStep) -> bool:
    """Does a slice that starts here have two passes to draw between?"""
    return len(engine.schedule.path(start.step, engine.card.projection_passes)) > 1


def spread(
    engine: NeedEngine,
    hounsfield: NDArray[np.float32],
    pixel_mm: float,
    starts: Sequence[StartStep],
    seed: int,
    seeds: int,
    on_slice: Observer | None = None,
    batch: int = 4,
) -> NDArray[np.float32]:
    """Standard deviation of the result over `seeds` seeds that follow from `seed`, HU [slice, row, column].

    With Bessel's correction. Takes `seeds` times as long as `enhance`, and the memory of one batch more.

    :raises ValueError: fewer than two seeds.
    :raises NoSpread: nothing would be drawn, in this model or on any of these slices.
    """
    if seeds < 2:
        raise ValueError("a spread needs two seeds")
    engine = drawing(engine)
    if not any(draws_on(engine, start) for start in starts):
        raise NoSpread(
            "no slice starts far enough from normal dose for two passes; nothing is drawn, and the spread "
            "over seeds is zero"
        )
    deviation = np.zeros(hounsfield.shape, np.float32)
    for first in range(0, len(hounsfield), batch):
        here = slice(first, first + batch)
        if any(draws_on(engine, start) for start in starts[here]):
            runs = np.stack(
                [
                    enhance(
                        engine, hounsfield, pixel_mm, starts, _seed(seed, number, first), part=here
                    ).hounsfield
                    for number in range(seeds)
                ]
            )
            deviation[here] = runs.std(axis=0, ddof=1, dtype=np.float64)
        if on_slice:
            on_slice("uncertainty", min(first + batch, len(hounsfield)), len(hounsfield))
    return deviation


def _seed(seed: int, number: int, first: int) -> int:
    """The seed of one run over one batch: 63 bits that no other has."""
    digest = hashlib.sha256(f"{seed}|{number}|{first}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

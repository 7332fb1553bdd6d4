"""What a method does to noise, to edges, bars and dots, and to faint discs: seen in planned slices."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.appraisal.cases import Case
from dicomnode.appraisal.inserts import DISCS, DOT, DOT_ALONE, NOISE_SIDE_PX, Plan, bars, edge
from dicomnode.appraisal.methods import Method, Volume
from dicomnode.errors import NotMeasurable
from dicomnode.evaluation.detectability import Twice, dense_channels
from dicomnode.evaluation.insertion import Disc, Responses, together
from dicomnode.evaluation.places import cut
from dicomnode.evaluation.sharpness import Kept, Sharpness, Transfer, bars_kept, dot_kept, edge_transfer
from dicomnode.evaluation.texture import (
    NoisePower,
    RadialNoisePower,
    power_in_difference,
    power_in_places,
)

CHANNELS = 6
"""The finest of the ten: the coarse ones are flat over squares as small as these discs', and each costs
places, of which a patient has few."""

HIGHEST_PER_CM = 10.0
"""As far as curves are told."""

_Field = NDArray[np.float64]


@dataclass(eq=False)
class Probed:
    """What one method made of all planned slices of one dose and kernel, by pixel size where it matters."""

    powers: list[NoisePower] = field(default_factory=list)
    responses: dict[tuple[str, float, float], list[Responses]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """By kind, contrast in HU and pixel in mm."""

    present: dict[tuple[Disc, float], list[Volume]] = field(default_factory=lambda: defaultdict(list))
    absent: dict[tuple[Disc, float], list[Volume]] = field(default_factory=lambda: defaultdict(list))
    present_alone: dict[tuple[Disc, float], list[Volume]] = field(default_factory=lambda: defaultdict(list))
    """In one slice alone, at the same places as `present`: without it both are `absent`."""

    def add(self, method: Method, case: Case, done: Callable[[int], None]) -> None:
        """Run the method on the planned slices of a case; `done` is told of every slice worked on."""
        for plan in case.plans:
            work = _Window(method, case, plan)
            without = work(lambda image: image)
            self._add_noise(work, without, case, plan)
            done(2)
            for mixture in plan.mixtures:
                with_them = work(mixture.into) if mixture.objects else without
                for kind, planted in mixture.objects.items():
                    key = kind, mixture.contrast_hu, case.scan.pixel_mm
                    self.responses[key].append(planted.response(without, with_them))
                done(1)
            for discs in plan.discs:
                out: Volume = work(discs.into)[None]
                place = discs.disc, discs.pixel_mm
                with_disc: Volume = cut(out, discs.places, discs.side_px)
                without_disc: Volume = cut(without[None], discs.places, discs.side_px)
                self.present[place].extend(with_disc)
                self.absent[place].extend(without_disc)
                done(1)
            self._add_alone(work, without, case, plan, done)

    def _add_alone(
        self, work: "_Window", without: Volume, case: Case, plan: Plan, done: Callable[[int], None]
    ) -> None:
        """The small things once more, in the planned slice alone."""
        if plan.dots_alone:
            with_them = work(
                lambda image: reduce(lambda x, one: one.into(x), plan.dots_alone, image), alone=True
            )
            for mixture in plan.dots_alone:
                key = DOT_ALONE, mixture.contrast_hu, case.scan.pixel_mm
                self.responses[key].append(mixture.objects[DOT].response(without, with_them))
            done(1)
        if disc := plan.disc_alone:
            squares: Volume = cut(work(disc.into, alone=True)[None], disc.places, disc.side_px)
            self.present_alone[disc.disc, disc.pixel_mm].extend(squares)
            done(1)

    def _add_noise(self, work: "_Window", without: Volume, case: Case, plan: Plan) -> None:
        if not plan.squares:
            return
        pixel_mm = case.scan.pixel_mm
        if case.again is None:
            self.powers.append(power_in_places(without[None], plan.squares, NOISE_SIDE_PX, pixel_mm))
            return
        again = work.again()
        self.powers.append(
            power_in_difference(without[None], again[None], plan.squares, NOISE_SIDE_PX, pixel_mm)
        )

    def noise_power(self) -> RadialNoisePower | None:
        """The mean radial spectrum over all squares; None without squares.

        Of several pixel sizes at the rings of the largest, between whose first and last all are known: at
        frequency zero, of which the trend took all, nothing is.
        """
        if not self.powers:
            return None
        radials = [power.radial() for power in self.powers]
        coarsest = max(radials, key=lambda one: float(one.frequency_per_cm[1])).frequency_per_cm
        highest = min(float(radial.frequency_per_cm[-1]) for radial in radials)
        rings = coarsest[(coarsest > 0) & (coarsest <= highest + 1e-9)]
        curves = [np.interp(rings, one.frequency_per_cm[1:], one.density_hu2_cm2[1:]) for one in radials]
        known = np.average(curves, axis=0, weights=[power.squares for power in self.powers])
        return RadialNoisePower(np.r_[0.0, rings], np.r_[0.0, known])

    def sharpness(self, contrast_hu: float) -> Sharpness | None:
        """Transfer of the edges of one contrast; of several pixel sizes that with most places."""
        found = max(self._together("edge", contrast_hu), key=len, default=None)
        if found is None:
            return None
        try:
            return edge_transfer(found, edge(contrast_hu), rng=np.random.default_rng(0))
        except NotMeasurable:
            return None

    def dots(self, contrast_hu: float, *, alone: bool = False) -> Kept | None:
        """What is kept of a dot, through three slices or `alone` in one."""
        kind = DOT_ALONE if alone else DOT
        return _mean_kept([dot_kept(one) for one in self._together(kind, contrast_hu)])

    def bars(self, contrast_hu: float) -> Kept | None:
        """What is kept of the bars."""
        return _mean_kept([bars_kept(one, bars(contrast_hu)) for one in self._together("bars", contrast_hu)])

    def seen(self, disc: Disc, *, alone: bool = False) -> Twice | None:
        """What the observer sees of a disc; of several pixel sizes that with most places."""
        found = self.present_alone if alone else self.present
        keys = [key for key in found if key[0] == disc and found[key]]
        if not keys:
            return None
        key = max(keys, key=lambda one: len(found[one]))
        present, absent = np.stack(found[key]), np.stack(self.absent[key])
        return Twice.seen(present, absent, dense_channels(present.shape[1])[-CHANNELS:])

    def _together(self, kind: str, contrast_hu: float) -> list[Responses]:
        groups = [found for key, found in sorted(self.responses.items()) if key[:2] == (kind, contrast_hu)]
        return [together(found) for found in groups if found]


@dataclass(frozen=True, eq=False)
class _Window:
    """A method on one planned slice and its neighbours, through which goes what is put in, unless `alone`."""

    method: Method
    case: Case
    plan: Plan

    def __call__(self, change: Callable[[Volume], Volume], *, alone: bool = False) -> Volume:
        """The slice [row, column] as the method makes it once `change` was made to it and its neighbours."""
        return self._run(self.case.scan.hounsfield, change, alone)

    def again(self) -> Volume:
        """The slice as the method makes it of the second noise."""
        assert self.case.again is not None
        return self._run(self.case.again, lambda image: image)

    def _run(self, stack: Volume, change: Callable[[Volume], Volume], alone: bool = False) -> Volume:
        at = self.plan.at
        low, high = max(at - 1, 0), min(at + 2, len(stack))
        window = enumerate(stack[low:high], start=low)
        changed = np.stack([image if alone and n != at else change(image) for n, image in window])
        scan = replace(self.case.scan, hounsfield=changed, starts=self.case.scan.starts[low:high])
        result: Volume = self.method(scan, slice(at - low, at - low + 1))[0]
        return result


def shift_percent(before: Probed, after: Probed) -> float:
    """How far the mean frequency of the noise moved; NaN where there is none."""
    powers = [probed.noise_power() for probed in (before, after)]
    try:
        was, now = (float("nan") if p is None else p.mean_frequency_per_cm for p in powers)
    except NotMeasurable:
        return float("nan")
    return 100.0 * (now / was - 1.0)


@dataclass(frozen=True, eq=False)
class Found:
    """The figures of one method and the curves behind them: JSON's own types, NaN for what is unknown."""

    figures: dict[str, Any]
    curves: dict[str, Any]


def find(probed: Probed, unchanged: Probed) -> Found:
    """Sum up what one method made of the planned slices, against what they were before."""
    contrasts = sorted({key[1] for key in probed.responses})
    sharp = {f"{c:g} HU": found for c in contrasts if (found := probed.sharpness(c))}
    figures = {
        "nps_shift_percent": shift_percent(unchanged, probed),
        "mtf50_change_percent": {
            c: {"value": s.mtf50_change_percent, "interval": list(s.interval_percent), "places": s.places}
            for c, s in sharp.items()
        },
        "edge_height_kept": {c: s.contrast_kept for c, s in sharp.items()},
        "dot_kept": _shares(contrasts, probed.dots),
        "dot_kept_in_one_slice": _shares(contrasts, partial(probed.dots, alone=True)),
        "bars_kept": _shares(contrasts, probed.bars),
        "d_prime": _discs(probed, unchanged),
        "d_prime_in_one_slice": _discs(probed, unchanged, alone=True),
    }
    return Found(figures, {"nps": _power(probed), "mtf": {c: _transfer(s.after) for c, s in sharp.items()}})


def _discs(probed: Probed, unchanged: Probed, *, alone: bool = False) -> dict[str, Any]:
    """By disc: d', and d' over what it was in the input, at the same places in the same noise."""
    found: dict[str, Any] = {}
    for disc in DISCS:
        now, was = (one.seen(disc, alone=alone) for one in (probed, unchanged))
        if now is None or was is None:
            continue
        try:
            told, over = now.observe(), now.over(was)
        except NotMeasurable:
            continue
        found[_size(disc)] = {
            "value": told.d_prime,
            "interval": list(told.interval),
            "places": told.images[0],
            "over_input": {"value": over.value, "interval": list(over.interval)},
        }
    return found


def _power(probed: Probed) -> dict[str, list[float]] | None:
    power = probed.noise_power()
    if power is None:
        return None
    return {
        "frequency_per_cm": power.frequency_per_cm.tolist(),
        "density_hu2_cm2": power.density_hu2_cm2.tolist(),
    }


def _transfer(transfer: Transfer) -> dict[str, list[float]]:
    shown = transfer.frequency_per_cm <= HIGHEST_PER_CM
    return {
        "frequency_per_cm": transfer.frequency_per_cm[shown].tolist(),
        "modulation": transfer.modulation[shown].tolist(),
    }


def _shares(contrasts: Sequence[float], kept: Callable[[float], Kept | None]) -> dict[str, Any]:
    found = {c: one for c in contrasts if (one := kept(c))}
    return {f"{c:g} HU": {"value": k.share, "error": k.error, "places": k.places} for c, k in found.items()}


def _size(disc: Disc) -> str:
    return f"{disc.diameter_mm:g} mm, {disc.contrast_hu:g} HU"


def _mean_kept(found: Sequence[Kept]) -> Kept | None:
    """Over pixel sizes, weighted by places."""
    if not found:
        return None
    places = [one.places for one in found]
    share = float(np.average([one.share for one in found], weights=places))
    errors = [one.error for one in found]
    error = float(np.sqrt(np.sum((np.asarray(errors) * places) ** 2)) / sum(places))
    return Kept(share, error, sum(places))

"""What is compared: named ways from a stack at some dose to a better one."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from dicomnode.engines.catalog import chosen_device
from dicomnode.engines.enhance import enhance
from dicomnode.engines.enhance_rays import MeasuredRays, enhance_rays
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.seen import Seen
from dicomnode.engines.start_step import StartStep
from dicomnode.errors import ModelError
from dicomnode.evaluation.similarity import COMPARED_HU

SEED = 0
BASELINES = "dicomnode.learning.baselines"
"""Loaded only where one is asked for."""

Volume = NDArray[np.float32]

# scikit-image says it is typed, but this one is not
_chambolle: Callable[..., Volume] = denoise_tv_chambolle


@dataclass(frozen=True, eq=False)
class Scan:
    """A stack at some dose, HU [slice, row, column], with a start step a slice.

    `noise_hu` is measured in the stack itself, as the yardsticks need it. `rays`: the measured projections of
    the whole stack, where there are any; only `FromRays` looks at them.
    """

    hounsfield: Volume
    starts: tuple[StartStep, ...]
    pixel_mm: float
    noise_hu: float
    rays: MeasuredRays | None = None


class Method(Protocol):
    """A named way from the slices of a scan to better ones."""

    @property
    def name(self) -> str:
        """What its rows are called."""
        ...

    @property
    def made_by(self) -> str:
        """All that its results depend on beside the scan and the program; empty where that is not known."""
        ...

    def __call__(self, scan: Scan, part: slice) -> Volume:
        """The slices that `part` takes of the scan, HU [slice, row, column]; the others may be looked at.

        The same scan gives the same slices.
        """
        ...


@dataclass(frozen=True)
class Unchanged:
    """What a scan is without any method."""

    name: str = "input"
    made_by: str = "nothing"

    def __call__(self, scan: Scan, part: slice) -> Volume:
        return scan.hounsfield[part]


@dataclass(frozen=True)
class Smoother:
    """A plain denoiser: (image, noise in HU) -> image, each slice by itself."""

    name: str
    smooth: Callable[[Volume, float], Volume]

    @property
    def made_by(self) -> str:
        return self.smooth.__name__

    def __call__(self, scan: Scan, part: slice) -> Volume:
        return np.stack([self.smooth(image, scan.noise_hu) for image in scan.hounsfield[part]])


@dataclass(frozen=True, eq=False)
class Enhanced:
    """The engine as the node runs it in image mode."""

    engine: NeedEngine
    name: str = "enhanced"

    @property
    def made_by(self) -> str:
        return _engine_digest(self.engine)

    def __call__(self, scan: Scan, part: slice) -> Volume:
        return enhance(self.engine, scan.hounsfield, scan.pixel_mm, scan.starts, SEED, part=part).hounsfield


@dataclass(frozen=True, eq=False)
class FromRays:
    """The engine in raw mode, of the measured rays. Raises ModelError for a scan without."""

    engine: NeedEngine
    name: str = "raw"

    @property
    def made_by(self) -> str:
        return _engine_digest(self.engine)

    def __call__(self, scan: Scan, part: slice) -> Volume:
        if scan.rays is None:
            raise ModelError("raw mode works on projections, and this scan has none")
        return enhance_rays(self.engine, scan.rays, SEED).hounsfield[part]


def _engine_digest(engine: NeedEngine) -> str:
    """Weights, and what the card says of passes and limits; not of what it was trained on."""
    card = engine.card.model_dump_json(exclude={"seen", "trained_on"})
    return f"{engine.weights_digest} {card} seed {SEED}"


StackMethod = Callable[[Volume, Sequence[StartStep]], Volume]


@dataclass(frozen=True, eq=False)
class Beside:
    """A method that takes a stack, HU [slice, row, column], and its start steps, and returns it whole.

    It is given the asked slices with so many neighbours on either side, where there are any. `told`: what it
    is and was trained on, for people; `made_by`: as of `Method`. `seen`: digests of what it was trained on,
    where it has any.
    """

    name: str
    work: StackMethod
    neighbours: int = 1
    told: str = ""
    seen: Seen | None = None
    made_by: str = ""

    def __call__(self, scan: Scan, part: slice) -> Volume:
        first, last, _ = part.indices(len(scan.hounsfield))
        low, high = max(first - self.neighbours, 0), min(last + self.neighbours, len(scan.hounsfield))
        whole = self.work(scan.hounsfield[low:high], scan.starts[low:high])
        if whole.shape != scan.hounsfield[low:high].shape:
            raise ModelError(f"{self.name} gave {whole.shape} for {scan.hounsfield[low:high].shape}")
        return whole[first - low : last - low].astype(np.float32)


def yardsticks() -> list[Method]:
    """What everything is compared with: the input itself, non-local means, total variation."""
    return [Unchanged(), Smoother("nlm", non_local_means), Smoother("tv", total_variation)]


def load_beside(folder: Path, device: str) -> Beside:
    """A baseline that `dicomnode train` made, from its folder.

    Raises ModelError where there is none, or where this installation has no baselines.
    """
    if not folder.is_dir():
        raise ModelError(f"--beside {folder} is not a folder")
    try:
        baselines = importlib.import_module(BASELINES)
    except ModuleNotFoundError as error:
        if error.name != BASELINES:
            raise
        raise ModelError(f"--beside {folder}: this installation has no {BASELINES}") from error
    work = baselines.load_baseline(folder, chosen_device(device))
    # one that says how far it looks is spared what it does not look at
    return Beside(
        str(work.name),
        work,
        int(getattr(work, "neighbours", 1)),
        str(getattr(work, "told", "")),
        getattr(work, "seen", None),
        str(getattr(work, "made_by", "")),
    )


def check_names(methods: Sequence[Method]) -> None:
    """ModelError where two methods have one name: their rows could not be told apart."""
    names = [method.name for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ModelError(f"two methods are called {twice}: give each folder of --beside once")


def non_local_means(image: Volume, sigma_hu: float) -> Volume:
    """NLM, h = 0.6 sigma (Buades et al.), HU in and out."""
    x = np.clip(image, *COMPARED_HU)
    out: Volume = denoise_nl_means(
        x, patch_size=5, patch_distance=6, h=0.6 * sigma_hu, sigma=sigma_hu, fast_mode=True
    )
    return out.astype(np.float32)


def total_variation(image: Volume, sigma_hu: float) -> Volume:
    """Rudin-Osher-Fatemi TV, weight 0.5 sigma, HU in and out."""
    low, high = COMPARED_HU
    x = (np.clip(image, low, high) - low) / (high - low)
    out: Volume = _chambolle(x, weight=0.5 * sigma_hu / (high - low)) * (high - low) + low
    return out.astype(np.float32)

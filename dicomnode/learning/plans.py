"""The stages of each kind of recipe, in order. Each goes on where it stopped, and says whether it is done."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dicomnode.engines.need import dgdiff, raw, spdiff
from dicomnode.engines.start_step import PhotonSchedule
from dicomnode.engines.unet import UNet, UNetShape
from dicomnode.learning import baselines, draw
from dicomnode.learning.counts import raw_batch
from dicomnode.learning.publish import publish
from dicomnode.learning.recipe import AnyRecipe, BaselineRecipe, RawStage, Recipe
from dicomnode.learning.session import Session
from dicomnode.learning.trainer import Task, load_ema
from dicomnode.physics.geometry import WATER_ATTENUATION_PER_MM, ParallelBeam
from dicomnode.physics.projection import filtered_backprojection

Plan = dict[str, Callable[[], bool]]
STAGES = ("corpus", "raw", "projection", "priors", "image", "publish")
"""Of any plan."""


def plan(recipe: AnyRecipe, session: Session, models: Path) -> Plan:
    """What `dicomnode train` does for a recipe; `models` is where a model folder is written."""
    if isinstance(recipe, Recipe):
        return _need(recipe, session, models)
    return _baseline(recipe, session)


def _baseline(recipe: BaselineRecipe, session: Session) -> Plan:
    """One network, written into the run folder."""
    return {
        "corpus": lambda: session.gather(recipe.corpus),
        "image": lambda: session.fit(baselines.task(recipe, session.examples)),
        "publish": lambda: _written(
            session, baselines.publish_baseline(recipe, session.folder, session.seen)
        ),
    }


def _need(recipe: Recipe, session: Session, models: Path) -> Plan:
    """SPDiff on counts where asked for, SPDiff, its proposals, DGDiff that learns from them, model folder."""
    return {
        "corpus": lambda: session.gather(recipe.corpus),
        "raw": lambda: recipe.raw is None or session.fit(raw_task(recipe, recipe.raw, session)),
        "projection": lambda: session.fit(spdiff_task(recipe, session)),
        "priors": lambda: _propose(recipe, session),
        "image": lambda: session.fit(dgdiff_task(recipe, session)),
        "publish": lambda: _written(session, publish(recipe, session.folder, models, session.seen)),
    }


def _written(session: Session, folder: Path) -> bool:
    session.console.print(f"model written to [bold]{folder}[/]")
    return True


def raw_task(recipe: Recipe, stage: RawStage, session: Session) -> Task:
    """SPDiff on the counts of measured projections."""
    corpus, examples = recipe.corpus, session.examples
    beam = ParallelBeam(512, corpus.views, corpus.detectors, corpus.pitch_px)
    shape = UNetShape(raw.CHANNELS, stage.widths, raw.CONDITIONS)
    return Task("raw", stage, shape, lambda rng: raw_batch(examples, beam, stage, rng))


def spdiff_task(recipe: Recipe, session: Session) -> Task:
    """SPDiff on reprojected noise."""
    stage, examples = recipe.projection, session.examples
    shape = UNetShape(spdiff.CHANNELS, stage.widths, spdiff.CONDITIONS)
    return Task("projection", stage, shape, lambda rng: draw.projection_batch(examples, stage, rng))


def dgdiff_task(recipe: Recipe, session: Session) -> Task:
    """DGDiff with the proposals that are on disk."""
    stage, examples = recipe.image, session.examples
    priors = [draw.load_prior(path) for path in sorted((session.folder / "priors").glob("*.npz"))]
    shape = UNetShape(dgdiff.CHANNELS, stage.widths, dgdiff.CONDITIONS)
    return Task("image", stage, shape, lambda rng: draw.image_batch(examples, priors, stage, rng))


def _propose(recipe: Recipe, session: Session) -> bool:
    """Let the trained SPDiff propose corrections: `prior_variants` an example, kept on disk."""
    target = session.folder / "priors"
    target.mkdir(exist_ok=True)
    network = load_ema(session.folder / "projection.pt", session.device)

    def one(which: tuple[int, int]) -> None:
        k, variant = which
        path = target / f"{k:05d}-{variant}.npz"
        if not path.exists():
            rng = np.random.default_rng([recipe.seed, k, variant])
            _prior(recipe, session, network, k, draw.draw_mix(recipe.image, rng)).save(path)

    todo = [(k, v) for v in range(recipe.prior_variants) for k in range(len(session.examples))]
    return session.each(todo, "priors", one)


@torch.inference_mode()
def _prior(recipe: Recipe, session: Session, network: UNet, k: int, mix: draw.Mix) -> draw.Prior:
    example = session.examples[k]
    everything = (slice(None), slice(None))
    noisy = example.crop("sinogram", everything) + draw.mixed_noise(example, "noise_sinogram", mix)
    sinogram = torch.from_numpy(noisy)[None].to(session.device)
    state = draw.state_of(example, mix)
    cleaned = spdiff.clean(
        network, sinogram, [state], PhotonSchedule(), recipe.prior_passes, example.pixel_mm
    )
    corpus = recipe.corpus
    beam = ParallelBeam(512, corpus.views, corpus.detectors, corpus.pitch_px).for_side(
        example.arrays["slice_hu"].shape[-1]
    )
    per_pixel = WATER_ATTENUATION_PER_MM * example.pixel_mm
    correction = filtered_backprojection(cleaned - sinogram, beam)[0].cpu().numpy() * (1000.0 / per_pixel)
    step = float(np.abs(correction).max()) / 32000.0
    return draw.Prior(k, mix, np.rint(correction / step).astype(np.int16), step)

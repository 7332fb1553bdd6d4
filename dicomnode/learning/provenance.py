"""What a corpus was made from, as digests: noted beside its examples and in the cards of its models."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ValidationError
from rich.console import Console

from dicomnode.engines.seen import Seen, slice_digests, study_digest
from dicomnode.errors import TrainingError
from dicomnode.learning.corpus import NOTE, load_slices, note_seen, read_all, read_slices, refuse_held_out
from dicomnode.learning.recipe import Corpus, Source

WIDTH = 64
"""Of a line of digests: one of a UID, several of slices. The last begins before this column."""
MOST_OF_A_SERIES = 8
"""Slices of a held-out series that are named: a copy is known by any of them."""


def complete(corpus: Corpus, folder: Path, console: Console) -> None:
    """Note what is in a corpus that was made before there were notes, and see that nothing is held out.

    A corpus whose sources are gone goes on without a note; that is told. Raises HeldOutScan.
    """
    noted = _noted(folder)
    if noted is None and all(source.path.exists() for source in corpus.sources):
        console.print(f"reading the sources for the digests of {folder} ({NOTE})")
        noted = seen_in_sources(corpus) | _seen_in_examples(folder)
        note_seen(folder, noted)
    if noted is None:
        console.print(
            f"{folder} has no digests of its studies ({NOTE}), and not all of its sources are here: the "
            "card of a model will only name slices; put them back and run --until corpus"
        )
    else:
        refuse_held_out(f"corpus {folder}", noted, corpus.held_out)


def seen_of(folder: Path) -> Seen:
    """What a corpus holds: as noted, or the slices of its examples alone, whose UIDs are not known."""
    noted = _noted(folder)
    return _seen_in_examples(folder) if noted is None else noted


def seen_in_sources(corpus: Corpus) -> Seen:
    """Read every source. Raises TrainingError where one is missing, HeldOutScan."""
    return Seen.together(seen for _, seen in read_all(corpus))


def card_text(card: BaseModel) -> str:
    """`card.yaml` of a model or a baseline."""
    return _card_text(card.model_dump(mode="json"))


def note_in_card(folder: Path, corpus: Corpus) -> Seen:
    """Give the card of a finished model or baseline the digests of the sources it names. What was noted.

    :raises TrainingError: there is no card, or it names other sources than the recipe.
    """
    path = folder / "card.yaml"
    if not path.is_file():
        raise TrainingError(f"no card in {folder}: {path.name} is missing; name the folder of a model")
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict) or content.get("trained_on") != list(corpus.trained_on):
        raise TrainingError(f"{path} names other sources than this recipe: give the recipe it is from")
    seen = seen_in_sources(corpus)
    path.write_text(_card_text({**content, "seen": seen.model_dump(mode="json")}))
    return seen


def held_out_text(folders: Sequence[Path]) -> str:
    """What `corpus.held_out` takes for the scans in these folders, an item each, as YAML."""
    items = [{"name": folder.name, **_few_of(folder).model_dump(mode="json")} for folder in folders]
    text: str = yaml.safe_dump(items, sort_keys=False, width=WIDTH, default_flow_style=None)
    return text


def _few_of(folder: Path) -> Seen:
    studies: set[str] = set()
    digests: dict[str, list[str]] = defaultdict(list)
    for piece in read_slices(Source(name=folder.name, path=folder, licence="none")):
        studies.add(study_digest(piece.study_uid))
        digests[piece.series_uid] += slice_digests([piece.hounsfield])
    if not studies:
        raise TrainingError(f"{folder} holds no CT images that can be read")
    return Seen.of(studies, (), (one for found in digests.values() for one in _spread(found)))


def _spread(digests: Sequence[str]) -> list[str]:
    count = min(len(digests), MOST_OF_A_SERIES)
    return [digests[round(k)] for k in np.linspace(0, len(digests) - 1, count)]


def _card_text(content: dict[str, object]) -> str:
    """The digests last, several a line."""
    seen = content.pop("seen", None)
    text: str = yaml.safe_dump(content, sort_keys=False, width=110)
    if seen is not None:
        text += yaml.safe_dump({"seen": seen}, sort_keys=False, width=WIDTH, default_flow_style=None)
    return text


def _noted(folder: Path) -> Seen | None:
    path = folder / NOTE
    try:
        return Seen.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError) as error:
        raise TrainingError(f"{path} cannot be read: remove it, and it is made again") from error


def _seen_in_examples(folder: Path) -> Seen:
    """The slices of the examples and their neighbours, as they are stored."""
    return Seen.of((), (), _example_digests(folder))


def _example_digests(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.npz")):
        yield from slice_digests(load_slices(path))

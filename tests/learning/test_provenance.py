"""Digests of what a corpus was made from: whole, made afterwards where they lack, and nothing held out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from dicomnode.__main__ import main
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.engines.model_card import load_card
from dicomnode.engines.seen import Seen, series_digest, slice_digests, study_digest
from dicomnode.errors import HeldOutScan, TrainingError
from dicomnode.learning import corpus as corpora
from dicomnode.learning.corpus import NOTE, build
from dicomnode.learning.provenance import complete, seen_in_sources, seen_of
from dicomnode.learning.recipe import Corpus, HeldOut, Source, load_recipe
from dicomnode.learning.session import Session
from tests.makers import make_series, make_uid, phantom

ROOT = Path(__file__).resolve().parents[2]
QUIET = Console(quiet=True)
STAGE = {"widths": [8, 8], "steps": 4, "batch": 2, "patch_px": 16}


def whole(seed: int, slices: int = 3) -> Any:
    return np.rint(phantom(slices, seed=seed)).astype(np.float32)


def corpus_of(folder: Path, **more: Any) -> Corpus:
    """Two series of a patient each; of the second every other file is made an example."""
    make_series(folder / "one", whole(1))
    make_series(folder / "other", whole(2))
    sources = tuple(
        Source(name=name, path=folder / name, licence="none", every=every)
        for name, every in (("one", 1), ("other", 2))
    )
    return Corpus(sources=sources, views=60, detectors=140, least_body_share=0.0, **more)


def expected() -> Seen:
    names = ("one", "other")
    return Seen.of(
        [study_digest(make_uid("study", name, 0)) for name in names],
        [series_digest(make_uid("series", name, 0)) for name in names],
        [digest for seed in (1, 2) for digest in slice_digests(whole(seed))],
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources and the corpus made of them."""
    folder = tmp_path_factory.mktemp("provenance")
    build(corpus_of(folder), folder / "corpus", 1, QUIET)
    return folder


@pytest.fixture
def there(made: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return shutil.copytree(made, tmp_path / "copy")


@pytest.mark.slow
def test_a_corpus_notes_every_study_series_and_slice(made: Path) -> None:
    """Also the slices that only stand beside an example."""
    assert seen_of(made / "corpus") == expected()
    assert len(expected().slices) == 6
    text = (made / "corpus" / NOTE).read_text()
    assert make_uid("study", "one", 0) not in text


@pytest.mark.slow
def test_a_corpus_without_a_note_gets_it_and_is_not_made_again(there: Path) -> None:
    """As those are that were made before there were notes; a run on it goes on meanwhile."""
    (there / "corpus" / NOTE).unlink()
    corpus = corpus_of(there)
    stamps = {path: path.stat().st_mtime_ns for path in (there / "corpus").iterdir()}
    session = Session(there / "run", there / "corpus", 1, torch.device("cpu"), float("inf"), QUIET)
    assert session.gather(corpus)
    assert session.seen == expected()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    (there / "corpus" / NOTE).write_text("{")
    with pytest.raises(TrainingError, match="remove it"):
        session.gather(corpus)


@pytest.mark.slow
def test_where_the_sources_are_gone_the_examples_still_tell_their_slices(there: Path) -> None:
    """So a run elsewhere is not refused, and its card says what can be known."""
    (there / "corpus" / NOTE).unlink()
    corpus = corpus_of(there)
    shutil.rmtree(there / "other")
    session = Session(there / "run", there / "corpus", 1, torch.device("cpu"), float("inf"), QUIET)
    assert session.gather(corpus)
    assert not (there / "corpus" / NOTE).exists()
    assert session.seen == Seen.of((), (), expected().slices)


@pytest.mark.slow
@pytest.mark.parametrize("known_by", ["study", "slice"])
def test_what_is_held_out_is_refused_by_name(there: Path, known_by: str) -> None:
    """In a source, in a corpus that is there already, and under other UIDs."""
    digest = {"studies": expected().studies[:1]} if known_by == "study" else {"slices": expected().slices[:1]}
    held_out = (HeldOut(name="The Test Patient", **digest),)
    corpus = corpus_of(there, held_out=held_out)
    told = r"The Test Patient, which is held out.*held_out of the recipe"
    with pytest.raises(HeldOutScan, match=rf"source (one|other) \(.*{told}"):
        build(corpus, there / "new", 1, QUIET)
    assert not list((there / "new").glob("*.npz"))
    build(corpus, there / "corpus", 1, QUIET)
    with pytest.raises(HeldOutScan, match=rf"corpus .*{told}"):
        complete(corpus, there / "corpus", QUIET)
    complete(corpus_of(there), there / "corpus", QUIET)


def test_what_is_held_out_is_no_part_of_what_a_corpus_is_made_of(tmp_path: Path) -> None:
    """Byte for byte: a corpus from before the list is gone on with."""
    source = Source(name="a", path=tmp_path, licence="b")
    notes = []
    for folder, held_out in (("one", ()), ("other", (HeldOut(name="x", slices=("0" * 16,)),))):
        (tmp_path / folder).mkdir()
        corpora._same_recipe(Corpus(sources=(source,), held_out=held_out), tmp_path / folder, 1)
        notes.append((tmp_path / folder / "recipe.json").read_text())
    assert notes[0] == notes[1]
    assert list(json.loads(notes[0])) == [
        "seed", "sources", "views", "detectors", "pitch_px", "photons", "cutoff_per_px", "least_body_share",
        "most_examples",
    ]  # fmt: skip


def recipe_file(folder: Path, corpus: Corpus, **more: Any) -> Path:
    content = {"model_id": "m", "version": "1", "projection": STAGE, "image": STAGE, "prior_variants": 1}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**content, "corpus": corpus.model_dump(mode="json"), **more}))
    return path


@pytest.mark.slow
def test_a_model_published_after_its_corpus_got_its_digests_carries_them(there: Path) -> None:
    """Trained on a corpus without a note: the documented commands, one after the other."""
    (there / "corpus" / NOTE).unlink()
    recipe = recipe_file(there, corpus_of(there))
    words = ["--run", there / "run", "--corpus", there / "corpus", "--models", there / "models"]
    command = ["train", "--recipe", recipe, *words, "--device", "cpu"]
    assert main([*map(str, command), "--until", "image"]) == 0
    (there / "corpus" / NOTE).unlink()  # as if the code that trained knew none
    assert main([*map(str, command), "--until", "corpus"]) == 0
    assert main(list(map(str, command))) == 0
    engine = load_engine(there / "models", "m", "cpu")
    assert engine.card.seen == expected()
    text = (there / "models" / "m" / "card.yaml").read_text()
    assert max(map(len, text.splitlines())) <= 110


def test_a_finished_model_gets_its_digests_afterwards(tmp_path: Path) -> None:
    """The rest of its card stays as it is, byte for byte; another recipe's sources are refused."""
    recipe, folder = recipe_file(tmp_path, corpus_of(tmp_path)), tmp_path / "need-small"
    shutil.copytree(SHIPPED / "need-small", folder)
    card = yaml.safe_load((folder / "card.yaml").read_text())
    card.pop("seen", None)
    card["trained_on"] = ["one (none)", "other (none)"]
    before = yaml.safe_dump(card, sort_keys=False, width=110)
    (folder / "card.yaml").write_text(before)
    assert load_card(folder).seen is None  # an old card
    command = ["train", "--recipe", str(recipe), "--digests-into", str(folder)]
    assert main(command) == 0
    assert load_card(folder).seen == expected()
    after = (folder / "card.yaml").read_text()
    assert after.startswith(before)
    assert main(command) == 0
    assert (folder / "card.yaml").read_text() == after
    (folder / "card.yaml").write_text(before.replace("- other (none)", "- another (none)"))
    assert main(command) == 1


def test_what_is_to_be_held_out_is_printed_as_a_recipe_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few slices of a series are enough to know a copy of it."""
    make_series(tmp_path / "held", whole(3, 20))
    assert main(["train", "--digests-of", str(tmp_path / "held")]) == 0
    (one,) = (HeldOut.model_validate(item) for item in yaml.safe_load(capsys.readouterr().out))
    assert one.name == "held"
    assert one.studies == (study_digest(make_uid("study", "held", 0)),)
    assert len(one.slices) == 8
    assert set(one.slices) < set(slice_digests(whole(3, 20)))
    make_series(tmp_path / "copy", whole(3, 20), name="copy", intercept=-1100.0)
    source = Source(name="copy", path=tmp_path / "copy", licence="none")
    with pytest.raises(HeldOutScan, match="source copy"):
        seen_in_sources(Corpus(sources=(source,), held_out=(one,)))
    assert main(["train", "--digests-of", str(tmp_path)]) == 0
    (tmp_path / "empty").mkdir()
    assert main(["train", "--digests-of", str(tmp_path / "empty")]) == 1


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("train-*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_hold_out_what_models_are_measured_on(path: Path, shared_data: Path) -> None:
    """By the files themselves: every pair is refused as a source."""
    held_out = load_recipe(path).corpus.held_out
    assert {one.name for one in held_out} == {"pairs/mayo", "LIDC-IDRI-0001"}
    source = Source(name="pairs", path=shared_data / "pairs" / "mayo", licence="none", every=10)
    with pytest.raises(HeldOutScan, match="pairs/mayo"):
        seen_in_sources(Corpus(sources=(source,), held_out=held_out))

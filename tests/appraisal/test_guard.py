"""The guard: what a model was trained on is refused by name, or with --seen told in the report's head."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dicomnode.__main__ import main
from dicomnode.appraisal import guard
from dicomnode.engines.catalog import SHIPPED
from dicomnode.engines.seen import Seen, series_digest, slice_digests, study_digest
from dicomnode.errors import AlreadySeen
from tests.makers import make_series, phantom

PIXEL_MM = (4.0, 4.0)
"""A body of 64 pixels is then as wide as a patient."""


def whole(seed: int) -> Any:
    return np.rint(phantom(3, seed=seed, noise_hu=12.0)).astype(np.float32)


def noisier(stack: Any) -> Any:
    return np.rint(stack + np.random.default_rng(9).normal(0, 40, stack.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Series, pairs of them, and the shipped weights with a card that says they were trained on `trained`.

    The digests come from the command that gives them to a finished model.
    """
    folder = tmp_path_factory.mktemp("guard")
    make_series(folder / "trained", whole(1), pixel_spacing_mm=PIXEL_MM)
    make_series(folder / "copy", whole(1), pixel_spacing_mm=PIXEL_MM, intercept=-1100.0)
    make_series(
        folder / "same study", whole(2), pixel_spacing_mm=PIXEL_MM, name="trained", series_uid="1.2.3"
    )
    make_series(folder / "new", whole(3), pixel_spacing_mm=PIXEL_MM)
    make_series(folder / "low", noisier(whole(1)), pixel_spacing_mm=PIXEL_MM)
    make_series(folder / "new low", noisier(whole(3)), pixel_spacing_mm=PIXEL_MM)
    source = {"name": "trained", "path": str(folder / "trained"), "licence": "none"}
    stage = {"widths": [8], "steps": 1}
    recipe = {"model_id": "m", "version": "1", "corpus": {"sources": [source]}, "image": stage}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "projection": stage}))
    for name in ("knows", "knows none"):
        shutil.copytree(SHIPPED / "need-small", folder / "models" / name)
        path = folder / "models" / name / "card.yaml"
        card = yaml.safe_load(path.read_text())
        card.pop("seen", None)
        path.write_text(yaml.safe_dump({**card, "id": name, "trained_on": ["trained (none)"]}))
    command = ["train", "--recipe", folder / "recipe.yaml", "--digests-into", folder / "models" / "knows"]
    assert main([*map(str, command)]) == 0
    return folder


def evaluate(home: Path, model: str, what: str, *given: str | Path) -> int:
    models = ["--models", str(home / "models"), "--model", model, "--device", "cpu"]
    return main(["evaluate", what, *map(str, given), *models])


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("trained", "the study, the series, 3 of 3 slices"),
        ("copy", "3 of 3 slices"),
        ("same study", "the study"),
    ],
)
@pytest.mark.parametrize("what", ["model", "passes"])
def test_a_series_that_was_trained_on_is_refused_by_name(
    home: Path, name: str, by: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its study, and a copy under other UIDs by its pixels."""
    assert evaluate(home, "knows", what, "--series", home / name, "--slices", "1") == 1
    told = capsys.readouterr().err
    assert f"--series {name} is what knows was trained on ({by})" in told
    assert "--seen" in told


@pytest.mark.parametrize("sides", [("low", "trained"), ("trained", "low")])
def test_pairs_are_refused_by_either_side(
    home: Path, sides: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(home, "knows", "pairs", home / sides[0], home / sides[1]) == 1
    assert "the pairs in trained is what knows was trained on" in capsys.readouterr().err


@pytest.mark.slow
def test_pairs_say_what_the_guard_compared_with(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told.json"

    def report(model: str, low: str, full: str, *more: str) -> tuple[Any, str]:
        assert evaluate(home, model, "pairs", home / low, home / full, "--json", str(told), *more) == 0
        return json.loads(told.read_text())["guard"], " ".join(capsys.readouterr().out.split())

    found, printed = report("knows", "new low", "new")
    assert found == {
        "compared_with": {"knows": {"studies": 1, "series": 1, "slices": 3}},
        "trained_on_these": [],
    }
    assert "compared with what knows was trained on: 1 studies, 1 series, 3 slices" in printed
    found, printed = report("knows none", "new low", "new")
    assert found == {"compared_with": {"knows none": None}, "trained_on_these": []}
    assert "the card of knows none knows no study" in printed
    found, printed = report("knows", "low", "trained", "--seen")
    assert len(found["trained_on_these"]) == 1
    head, _ = printed.split("input", 1)
    assert "**Not a test: the pairs in trained is what knows was trained on" in head


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_was_seen_all_the_same_stands_at_the_head_of_the_report(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pairs: list[str | Path] = ["--pairs", home / "low", home / "trained", "--inserts", "1"]
    assert evaluate(home, "knows", "model", *pairs, "--seen", "--output", out) == 0
    lines = (out / "evaluation.md").read_text().splitlines()
    assert lines[2].startswith("**Not a test: the pairs in trained is what knows was trained on")
    assert "* guard: compared with what knows was trained on: 1 studies, 1 series, 3 slices" in lines
    told = json.loads((out / "evaluation.json").read_text())
    assert len(told["guard"]["trained_on_these"]) == 1
    assert " --seen " in told["command"]


def seen(name: str) -> Seen:
    return Seen.of([study_digest(name)], [series_digest(name)], slice_digests(whole(5)[:1]))


def test_every_method_is_asked_for_what_it_has_seen() -> None:
    """A baseline trained on the test is no baseline."""
    known = {"need": seen("a"), "unet": seen("b"), "old": None}
    other = Seen.of([study_digest("c")], (), ())
    with pytest.raises(AlreadySeen, match="x is what unet was trained on"):
        guard.check([("x", Seen.of([study_digest("b")], (), ()))], known, allowed=False)
    checked = guard.check([("x", other)], known, allowed=False)
    assert checked.found == ()
    assert guard.warnings(checked.report) == []
    assert len(guard.compared(checked.report)) == 3
    allowed = guard.check([("x", seen("a")), ("y", other)], known, allowed=True)
    # the slice that all know, the study of one
    assert [one.split(" was")[0] for one in allowed.found] == ["x is what need", "x is what unet"]

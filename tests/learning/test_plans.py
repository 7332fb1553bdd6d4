"""The command from a folder of DICOM to a model that answers: every kind of recipe, in slices, one corpus."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dicomnode.__main__ import main
from dicomnode.engines.catalog import load_engine
from dicomnode.engines.enhance import enhance
from dicomnode.engines.start_step import StartStep
from dicomnode.learning.baselines import load_baseline
from dicomnode.learning.train import TIME_IS_UP
from tests.makers import make_series

START = StartStep(3, 6e4, 0.25, 30.0, 0.4, "noise", None)
STAGE = {"widths": [8, 8], "steps": 4, "batch": 2, "patch_px": 16}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipes that share a corpus of two slices."""
    folder = tmp_path_factory.mktemp("recipes")
    make_series(folder / "series", slices=2)
    source = {"name": "made", "path": str(folder / "series"), "licence": "none"}
    corpus = {"sources": [source], "views": 60, "detectors": 140, "least_body_share": 0.0}
    need = {"projection": STAGE, "image": {**STAGE, "objects": 0.5}, "prior_variants": 1, "corpus": corpus}
    red_cnn = {"engine": "red-cnn", "image": STAGE, "corpus": "need.yaml"}
    unet = {"engine": "unet", "image": {**STAGE, "second_noise": 0}, "corpus": "need.yaml"}
    kinds: dict[str, dict[str, Any]] = {"need": need, "red-cnn": red_cnn, "unet": unet}
    for name, content in kinds.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**content, "model_id": name, "version": "1"}))
    return folder


def train(recipes: Path, kind: str, *more: str) -> int:
    run, corpus, models = recipes / "runs" / kind, recipes / "corpus", recipes / "models"
    where = ["--recipe", recipes / f"{kind}.yaml", "--run", run, "--corpus", corpus, "--models", models]
    return main(["train", *map(str, where), "--device", "cpu", "--fetch", *more])


@pytest.mark.slow
def test_from_dicom_to_a_model_in_slices(recipes: Path) -> None:
    assert train(recipes, "need", "--until", "corpus") == 0
    assert train(recipes, "need", "--minutes", "0.00001") == TIME_IS_UP
    assert not (recipes / "models").exists()
    assert train(recipes, "need") == 0
    assert np.float64(1e-310) * 1.0 > 0.0, "the process goes on as it was: denormal numbers count"
    engine = load_engine(recipes / "models", "need", "cpu")
    assert engine.card.trained_on == ("made (none)",)
    stack = np.random.default_rng(1).normal(0.0, 30.0, (2, 64, 64)).astype(np.float32)
    assert enhance(engine, stack, 0.7, [START] * 2, seed=0).hounsfield.shape == stack.shape
    assert {path.name for path in (recipes / "runs" / "need").glob("*.png")} == {
        "projection.png",
        "image.png",
    }
    for kind in ("red-cnn", "unet"):
        assert train(recipes, kind) == 0
        baseline = load_baseline(recipes / "runs" / kind, torch.device("cpu"))
        assert baseline(stack, [START] * 2).shape == stack.shape
        assert baseline.card.trained_on == ("made (none)",)
        assert not (recipes / "runs" / kind / "corpus").exists()


def test_a_stage_that_a_recipe_has_not_is_told(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(recipes, "unet", "--until", "priors") == 1
    assert "corpus, image, publish" in capsys.readouterr().err


def test_a_missing_source_is_told_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {"name": "Somewhere 001", "path": str(tmp_path / "none"), "licence": "CC BY 4.0"}
    recipe = {"model_id": "m", "version": "1", "corpus": {"sources": [source]}, "image": STAGE}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**recipe, "projection": STAGE}))
    assert main(["train", "--recipe", str(tmp_path / "r.yaml"), "--run", str(tmp_path), "--fetch"]) == 1
    assert "Somewhere 001 (CC BY 4.0)" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_where_there_is_none_is_told(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(recipes, "unet", "--device", "cuda") == 1
    assert "torch sees no GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--minutes", "0"], "0: give a positive number"),
        (["--minutes", "-1"], "-1: give a positive number"),
        (["--minutes", "nan"], "nan: give a positive number"),
        (["--minutes", "soon"], "soon: give a positive number"),
        (["--threads", "0"], "0: give a whole number of 1 or more"),
        (["--device", "gpu"], "gpu: give auto, cpu"),
    ],
)
def test_wrong_arguments_are_told(wrong: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--recipe", "nowhere.yaml", *wrong])
    assert told in capsys.readouterr().err

"""What a method made of a scan is made once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dicomnode.appraisal import kept
from dicomnode.appraisal.kept import Kept, kept_in, program_digest, taken
from dicomnode.appraisal.methods import (
    Beside,
    Enhanced,
    FromRays,
    Method,
    Scan,
    Smoother,
    Unchanged,
    non_local_means,
    yardsticks,
)
from dicomnode.engines.catalog import SHIPPED, load_engine
from dicomnode.engines.enhance_rays import MeasuredRays
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import StartStep
from dicomnode.engines.unet import bf16_pays
from tests.appraisal.scans import Volume, start

PART = slice(1, 3)
CPU = torch.device("cpu")


@dataclass
class Counting:
    """Adds one, and counts how often it was asked."""

    times: list[int] = field(default_factory=list)

    def __call__(self, stack: Volume, starts: Sequence[StartStep]) -> Volume:
        self.times.append(len(stack))
        return stack + 1


def scan() -> Scan:
    stack = np.random.default_rng(0).normal(0, 20, (4, 16, 16)).astype(np.float32)
    return Scan(stack, (start(5),) * 4, 0.7, 20.0)


def of_rays(**other: Any) -> Scan:
    quanta = np.full((1, 1, 8), 1e4, np.float32)
    rays = MeasuredRays(np.full((4, 6, 8), 0.5, np.float32), quanta, 1e4, 0.7, lambda lines: lines)
    return replace(scan(), rays=replace(rays, **other))


def keeping(
    folder: Path, work: Counting, made_by: str = "one", where: str = "here", name: str = "plus"
) -> Kept:
    return Kept(Beside(name, work, made_by=made_by), folder, where)


def test_the_same_is_made_once_and_is_the_same(tmp_path: Path) -> None:
    work = Counting()
    made, again = (keeping(tmp_path, work)(scan(), PART) for _ in range(2))
    assert work.times == [4]
    assert made.dtype == again.dtype == np.float32
    assert np.array_equal(made, scan().hounsfield[PART] + 1)
    assert np.array_equal(again, made)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_whatever_it_depends_on_makes_it_anew(tmp_path: Path) -> None:
    work = Counting()
    keeping(tmp_path, work)(scan(), PART)
    one_pixel = scan()
    one_pixel.hounsfield[3, 15, 15] += np.float32(0.5)  # of a neighbour, which a method may look at
    asked: list[tuple[Kept, Scan, slice]] = [
        (keeping(tmp_path, work), one_pixel, PART),
        (keeping(tmp_path, work), scan(), slice(1, 2)),
        (keeping(tmp_path, work), replace(scan(), starts=(start(5),) * 3 + (start(6),)), PART),
        (keeping(tmp_path, work), replace(scan(), pixel_mm=0.8), PART),
        (keeping(tmp_path, work), replace(scan(), noise_hu=21.0), PART),
        (keeping(tmp_path, work), of_rays(), PART),
        (keeping(tmp_path, work), of_rays(transmission=np.full((4, 6, 8), 0.6, np.float32)), PART),
        (keeping(tmp_path, work), of_rays(quanta=np.full((1, 1, 8), 2e4, np.float32)), PART),
        (keeping(tmp_path, work), of_rays(photons=2e4), PART),
        (keeping(tmp_path, work), of_rays(by_slice=(1e4, 1e4, 1e4, 2e4)), PART),
        (keeping(tmp_path, work), of_rays(pixel_mm=0.8), PART),
        (keeping(tmp_path, work, made_by="other weights"), scan(), PART),
        (keeping(tmp_path, work, where="on another device"), scan(), PART),
        (keeping(tmp_path, work, name="more"), scan(), PART),
    ]
    for number, (method, here, part) in enumerate(asked, start=2):
        method(here, part)
        assert len(work.times) == number
    for method, here, part in asked:
        method(here, part)
    assert len(work.times) == len(asked) + 1


@pytest.mark.parametrize("left", [0, 60, 1000])
def test_a_file_that_was_cut_off_is_made_anew(tmp_path: Path, left: int) -> None:
    work = Counting()
    made = keeping(tmp_path, work)(scan(), PART)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:left])
    assert np.array_equal(keeping(tmp_path, work)(scan(), PART), made)
    assert np.array_equal(keeping(tmp_path, work)(scan(), PART), made)
    assert len(work.times) == 2


def test_a_method_that_does_not_say_what_it_is_is_not_kept(tmp_path: Path) -> None:
    unknown = Beside("mine", Counting(), told="what I made")
    known = Beside("red-cnn", Counting(), made_by="weights 1234")
    methods: list[Method] = [*yardsticks(), unknown, known]
    ours = kept_in(tmp_path, methods, CPU)
    assert [one.name for one in ours] == [one.name for one in methods]
    assert isinstance(ours[0], Unchanged)
    assert [one.name for one in ours if isinstance(one, Kept)] == ["nlm", "tv", "red-cnn"]
    assert ours[3] is unknown
    assert kept_in(None, methods, CPU) == methods


def test_how_many_were_there_is_counted(tmp_path: Path) -> None:
    methods = [keeping(tmp_path, Counting(), made_by=made_by) for made_by in "ab"]
    for method in (*methods, *methods, methods[0]):
        method(scan(), PART)
    assert taken([Unchanged(), *methods]) == 3


def test_another_program_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte in one module of those that results depend on, a name, or one module more."""
    home = tmp_path / "package"
    (home / "engines" / "need").mkdir(parents=True)
    monkeypatch.setattr(kept, "PROGRAM", ("engines", "alone.py"))
    monkeypatch.setattr(kept.dicomnode, "__file__", str(home / "__init__.py"))
    deep, alone = home / "engines" / "need" / "one.py", home / "alone.py"
    deep.write_text("x = 1\n")
    alone.write_text("y = 1\n")
    digests = [program_digest()]
    assert program_digest() == digests[0]
    deep.write_text("x = 2\n")
    digests.append(program_digest())
    alone.write_text("y = 2\n")
    digests.append(program_digest())
    deep.rename(deep.with_name("two.py"))
    digests.append(program_digest())
    (home / "engines" / "more.py").write_text("")
    digests.append(program_digest())
    (home / "elsewhere.py").write_text("")
    assert program_digest() == digests[-1]
    assert len(set(digests)) == len(digests)


def test_every_module_that_results_depend_on_is_there() -> None:
    home = Path(kept.dicomnode.__file__).parent
    assert all((home / name).exists() for name in kept.PROGRAM)


def test_where_it_runs_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of what computes, and in how many bits."""

    def where() -> str:
        (one,) = kept_in(tmp_path, [Smoother("nlm", non_local_means)], CPU)
        assert isinstance(one, Kept)
        return one.where

    before = where()
    assert all(f"{name} none" not in before for name in kept.LIBRARIES)
    monkeypatch.setattr(kept, "bf16_pays", lambda device: not bf16_pays(device))
    other_bits = where()
    monkeypatch.setattr(kept, "version", lambda name: "0.0")
    assert len({before, other_bits, where()}) == 3


@pytest.mark.parametrize("of", [Enhanced, FromRays])
def test_an_engine_is_known_by_weights_and_card(of: Callable[[NeedEngine], Method]) -> None:
    """Whatever changes its pixels; not by what it was trained on."""
    engine = load_engine(SHIPPED, "need-small", "cpu")

    def made_by(**other: Any) -> str:
        return of(replace(engine, card=engine.card.model_copy(update=other))).made_by

    same = [made_by(), made_by(seen=None), made_by(trained_on=("nothing",))]
    weights = engine.card.image.model_copy(update={"sha256": "0" * 64})
    others = [
        made_by(image=weights),
        made_by(image_passes=2),
        made_by(projection_passes=0),
        made_by(mirrorings=1),
        made_by(limits=engine.card.limits.model_copy(update={"noise_hu": (1.0, 2.0)})),
    ]
    assert len(set(same)) == 1
    assert len({*same, *others}) == 1 + len(others)

"""The good files that hostile ones are made from: what this clone has, and the shared data.

A source is one series: its mutated member is drawn by the seed, the others stay as they are.
"""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pydicom.data import get_testdata_file
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.conftest import SHARED_DATA
from tests.fuzz.mutator import RECIPE, mutate
from tests.makers import Vendor, make_series, phantom

LARGEST_BYTES = 600_000
MADE: tuple[tuple[str, str, Vendor], ...] = (
    ("explicit", ExplicitVRLittleEndian, "siemens"),
    ("implicit", ImplicitVRLittleEndian, "philips"),
    ("big-endian", ExplicitVRBigEndian, "canon"),
    ("rle", RLELossless, "ge"),
    ("jpeg2000", JPEG2000Lossless, "siemens"),
    ("jpeg-ls", JPEGLSLossless, "none"),
)
PYDICOM_CT = ("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "badVR.dcm", "liver_1frame.dcm")
OFTEN = 8
"""How often a made or a CT source is drawn, where any other file is drawn once."""


@dataclass(frozen=True)
class Source:
    """A named series of whole files."""

    name: str
    files: tuple[bytes, ...]
    weight: int = 1


@dataclass(frozen=True)
class Case:
    """One hostile series; `source` and `seed` bring it back."""

    source: str
    seed: int
    files: tuple[bytes, ...]
    mutations: tuple[str, ...]

    def __str__(self) -> str:
        told = "+".join(self.mutations) or "as it is"
        return f"recipe {RECIPE}, {self.source}, seed {self.seed} ({told})"


def case(source: Source, seed: int) -> Case:
    """The series with one file mutated; seed -1 leaves it as it is."""
    if seed < 0:
        return Case(source.name, seed, source.files, ())
    member = Random(f"member|{source.name}|{seed}").randrange(len(source.files))
    mutated, names = mutate(source.files[member], source.name, seed)
    files = (*source.files[:member], mutated, *source.files[member + 1 :])
    return Case(source.name, seed, files, names)


def draw(sources: list[Source], count: int, first_seed: int = 0) -> list[tuple[str, int]]:
    """(name of the source, seed) of `count` cases: each seed draws its source by weight."""
    weights = [source.weight for source in sources]
    drawn = []
    for seed in range(first_seed, first_seed + count):
        (source,) = Random(f"draw|{seed}").choices(sources, weights)
        drawn.append((source.name, seed))
    return drawn


def all_sources(folder: Path, shared: bool = True) -> list[Source]:
    """Every source; `folder` is where the made ones are written first."""
    found = [*_made(folder), *_bundled()]
    if shared and SHARED_DATA.is_dir():
        found += _shared(SHARED_DATA.resolve())
    return found


def _made(folder: Path) -> Iterator[Source]:
    for name, syntax, vendor in MADE:
        paths = make_series(folder / name, slices=3, vendor=vendor, transfer_syntax=syntax, padding=0)
        yield Source(f"made-{name}", tuple(path.read_bytes() for path in paths), 2 * OFTEN)
        yield Source(f"made-{name}-single", (paths[0].read_bytes(),), 2 * OFTEN)
    large = make_series(folder / "large", phantom(1, 512, 512), transfer_syntax=JPEG2000Lossless)
    yield Source("made-512", (large[0].read_bytes(),), OFTEN)
    if shutil.which("dcmcjpeg"):
        paths = [folder / f"{number}.jpeg.dcm" for number in range(3)]
        for path, plain in zip(paths, sorted((folder / "explicit").glob("*.dcm")), strict=True):
            subprocess.run(["dcmcjpeg", "+un", "+e1", str(plain), str(path)], check=True)
        yield Source("made-jpeg", tuple(path.read_bytes() for path in paths), 2 * OFTEN)


def _bundled() -> Iterator[Source]:
    """Everything of a sane size that comes with pydicom, CT images more often than the rest."""
    first = get_testdata_file("CT_small.dcm", download=False)
    if first is None:
        return
    for path in sorted(Path(str(first)).parent.glob("*.dcm")):
        if path.stat().st_size <= LARGEST_BYTES:
            weight = OFTEN if path.name in PYDICOM_CT else 1
            yield Source(f"pydicom/{path.name}", (path.read_bytes(),), weight)


def _shared(folder: Path) -> Iterator[Source]:
    for part in ("zoo", "dose-reports"):
        for path in sorted((folder / part).rglob("*.dcm")):
            yield Source(str(path.relative_to(folder)), (path.read_bytes(),), OFTEN // 2)

"""What a method made of a scan stays on disk: a measurement of hours goes on where it was broken off."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

import dicomnode
from dicomnode.appraisal.methods import Method, Scan, Unchanged, Volume
from dicomnode.engines.unet import bf16_pays

PROGRAM = (
    "engines",
    "physics",
    "learning/baselines.py",
    "learning/red_cnn.py",
    "appraisal/methods.py",
    "appraisal/kept.py",
    "evaluation/similarity.py",
)
"""Of this package, what results depend on; all else that they depend on is in the scan itself."""

LIBRARIES = ("astra-toolbox", "numba", "numpy", "scikit-image", "scipy", "torch")


@dataclass(eq=False)
class Kept:
    """A method whose results stay in a folder, under a digest of all they depend on.

    Processes may share the folder. `where`: what runs it (program, libraries, device). `taken`: how many
    results were there already.
    """

    method: Method
    folder: Path
    where: str
    taken: int = 0

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def made_by(self) -> str:
        return self.method.made_by

    def __call__(self, scan: Scan, part: slice) -> Volume:
        """As the method: HU [slice, row, column]."""
        path = self.folder / f"{self._digest(scan, part)}.npy"
        try:
            result: Volume = np.load(path, allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):  # or cut off when the power went
            result = self.method(scan, part)
            _write(path, result)
        else:
            self.taken += 1
        return result

    def _digest(self, scan: Scan, part: slice) -> str:
        told = (self.name, self.made_by, self.where, part.indices(len(scan.hounsfield)), scan.starts)
        digest = sha256(repr((told, scan.pixel_mm, scan.noise_hu)).encode())
        arrays = [scan.hounsfield]  # made of the rays, where there are any: that says how
        if scan.rays is not None:
            digest.update(repr((scan.rays.photons, scan.rays.levels, scan.rays.pixel_mm)).encode())
            arrays += [scan.rays.transmission, scan.rays.quanta]
        for array in arrays:
            digest.update(repr((array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def kept_in(folder: Path | None, methods: Sequence[Method], device: torch.device) -> list[Method]:
    """The methods, keeping what they make in `folder` if there is one and if it is known what they are."""
    if folder is None:
        return list(methods)
    where = f"{program_digest()}; {libraries()}; {_told(device)}"
    return [
        one if isinstance(one, Unchanged) or not one.made_by else Kept(one, folder, where) for one in methods
    ]


def taken(methods: Sequence[Method]) -> int:
    """How many results were not made, but there from earlier runs."""
    return sum(one.taken for one in methods if isinstance(one, Kept))


def program_digest() -> str:
    """Of all modules that results depend on: a changed program makes them anew."""
    home, digest = Path(dicomnode.__file__).parent, sha256()
    for name in PROGRAM:
        for path in sorted((home / name).rglob("*.py")) or [home / name]:
            digest.update(f"{path.relative_to(home)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def libraries() -> str:
    """Names and versions of what computes."""
    return ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _told(device: torch.device) -> str:
    model = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{model} in {'sixteen' if bf16_pays(device) else 'thirty-two'} bits"


def _write(path: Path, result: Volume) -> None:
    """Whole or not at all; of two that write the same one wins."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            np.save(file, result)
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise

"""An installation, a result to write about, and images that frames are made of."""

import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicomnode.dicom.derived import Identity, Provenance
from dicomnode.dicom.dose import DoseReading
from tests.dicom.frames import CTDIVOL_MGY, MAS
from tests.makers import make_series


@pytest.fixture
def identity() -> Identity:
    return Identity(
        ae_title="DICOMNODE",
        device_uid="2.25.329800735698586629295641978511506172918",
        uid_key=b"a key for tests only, 32 bytes..",
    )


@pytest.fixture
def provenance() -> Provenance:
    dose = DoseReading(
        kvp=120.0,
        mas=(38.0, 40.0, 42.0),
        ctdivol_mgy=(2.4, 2.5, 2.6),
        phantom_cm=32,
        source="ctdivol-tag",
        flags=("PHANTOM_INFERRED",),
    )
    return Provenance(
        engine="need",
        model_id="need-small",
        model_version="1.0.0",
        weights_digest="ab" * 32,
        configuration_digest="cd" * 32,
        dose=dose,
        photons=81234.5,
        dose_fraction=0.25,
        dose_decided_by="noise",
        ssde_mgy=3.4,
        water_equivalent_diameter_mm=281.0,
        start_step=12,
        steps=50,
        seed=7,
        noise_before_hu=31.4,
        noise_after_hu=12.2,
        bias_hu={"air": 0.1, "fat": -0.4, "soft": 0.2},
        max_change_hu=140.0,
        verdict="pass",
        verdict_reasons=(),
        dose_decision="noise won in 3 of 3 slices: noisier than the tags say, a dose lower by a factor 4",
        dose_reference="a-table-3",
        regions="chest by image 2, abdomen-pelvis by tags 1",
        size_flags=("FOV_TRUNCATED",),
        processed_at=datetime(2026, 3, 4, 12, 30, 15, tzinfo=UTC),
    )


@pytest.fixture
def object_errors(dciodvfy: str) -> Callable[[Path], Counter[str]]:
    """The errors, not the warnings, that dciodvfy finds in one file."""

    def check(path: Path) -> Counter[str]:
        run = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, errors="replace")
        lines = (run.stdout + run.stderr).splitlines()
        return Counter(line for line in lines if line.startswith("Error"))

    return check


@pytest.fixture
def classic(tmp_path: Path) -> list[Path]:
    """Six slices whose dose follows the patient."""
    return make_series(tmp_path / "classic", effective_mas=MAS, ctdivol_mgy=CTDIVOL_MGY)

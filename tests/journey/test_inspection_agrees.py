"""`dicomnode inspect` against a running node: the same files, the same verdicts, the same figures."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

import numpy as np
import pytest
import yaml
from pydicom import Dataset, dcmread

from dicomnode.__main__ import main
from dicomnode.demo.projections import scan, write_projections
from dicomnode.dicom.dose import ssde_mgy
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.journey.job import Job
from dicomnode.journey.order import read_order
from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.dicom.test_projections import change, put
from tests.fan_makers import disc, small
from tests.journey.scene import Pacs, decoded, send_to, settings_for, wait_for_jobs
from tests.makers import make_series, make_uid, phantom
from tests.report_makers import Irradiation, make_dose_report

pytestmark = pytest.mark.slow

Change = Callable[[Dataset, int], None]
SSDE = "113930"


def told(**values: object) -> Change:
    def set_them(data: Dataset, index: int) -> None:
        for keyword, value in values.items():
            setattr(data, keyword, value)

    return set_them


def write_everything(folder: Path) -> None:
    """A folder as a physicist has it: what is enhanced, and what is refused in as many ways."""
    noisy = phantom(4, 64, 64, noise_hu=40.0)

    def put_series(name: str, volume: np.ndarray = noisy, **options: Any) -> list[Path]:
        return make_series(folder / name, volume, name=name, pixel_spacing_mm=(4.0, 4.0), **options)

    put_series("low", ctdivol_mgy=1.0, effective_mas=15.0)
    put_series("modulated", ctdivol_mgy=[0.5, 1.0, 3.0, 6.0], effective_mas=[8.0, 15.0, 45.0, 90.0])
    for kernel in ("B30f", "B70f"):
        put_series(kernel, series_uid="1.2.3.4", study_uid="1.2.3", kernel=kernel, ctdivol_mgy=1.5)
    put_series("gap", phantom(6))[3].unlink()
    put_series("scout", phantom(1), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    put_series("mpr", image_type=("DERIVED", "PRIMARY", "MPR"))
    put_series("untold", vendor="none")
    reported = told(IrradiationEventUID=make_uid("event"))
    put_series("reported", vendor="none", change=reported, study_uid="1.2.3.5")
    make_dose_report(folder / "sr.dcm", "1.2.3.5", [Irradiation(make_uid("event"), 1.2, 32)])
    fan = write_projections(scan(disc(), 3.0, small(views_per_turn=24)), folder / "axial")
    helical = write_projections(scan(disc(), 3.0, small(views_per_turn=24, kvp=100.0)), folder / "helical")
    change(helical, put("TypeofProjectionData", "HELICAL"))
    short = write_projections(scan(disc(), 3.0, small(views_per_turn=24, kvp=80.0)), folder / "short")
    short[5].unlink()
    assert len(fan) == 24


def inspected(
    folder: Path, models: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, object]]:
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"engine": {"models_folder": str(models)}}))
    assert main(["inspect", "--json", "--config", str(config), str(folder)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["judged_by"]["dose_reference"] == settings.dose.reference.version
    return [one for one in answer["series"] if one["rule"] != "dose-report"]


def station(settings: Settings, job: Job, name: str) -> dict[str, object]:
    return json.loads((settings.node.spool / "work" / job.job_id / f"{name}.json").read_text())


def test_what_is_told_beforehand_is_what_the_node_decides(
    tmp_path: Path,
    pacs: Pacs,
    image_engine: NeedEngine,
    image_models: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "in"
    write_everything(folder)
    settings = settings_for(tmp_path, pacs.port)
    found = inspected(folder, image_models, settings, capsys)
    files = sorted(folder.rglob("*.dcm"), key=lambda path: path.name != "sr.dcm")  # the report comes first
    with Node(settings, engine=image_engine) as node:
        assert len(send_to(node.port, files[:1]).sent) == 1
        assert len(send_to(node.port, files[1:]).sent) == len(files) - 1
        jobs = wait_for_jobs(node, len(found), seconds=280)
    verdicts = {(job.rule, unnumbered(job.reason), job.instances) for job in jobs}
    assert {(one["rule"], unnumbered(one["reason"]), one["files"]) for one in found} == verdicts
    assert {job.rule for job in jobs} >= {
        *("gap-in-series", "localizer", "not-axial", "dose-unknown"),
        *("no-raw-mode", "helical-projections", "missing-views"),
    }
    accepted = {(one["series_instance_uid"], one["kernel"]): one for one in found if one["accepted"]}
    enhanced = [job for job in jobs if job.rule is None]
    assert len(enhanced) == len(accepted) == 5
    for job in enhanced:
        compare(accepted[scanned(settings, job)], settings, job)
    told_mgy = sorted(value for uid in pacs.reports() for value in ssde_of(decoded(pacs.kept()[uid])))
    assert told_mgy == pytest.approx(sorted(one["dose"]["ssde_mgy"] for one in accepted.values()), rel=1e-3)


def unnumbered(reason: str | None) -> str | None:
    """Which image of several is named follows from the names of the files, which the node gives anew."""
    return reason and re.sub(r"instance number \d+", "instance number", reason)


def scanned(settings: Settings, job: Job) -> tuple[str, str]:
    """Series Instance UID and kernel of a job's first image."""
    order = read_order(settings.node.spool / "work" / job.job_id)
    header = dcmread(settings.node.spool / "incoming" / order.series_key / order.files[0])
    return str(header.SeriesInstanceUID), str(header.ConvolutionKernel)


def ssde_of(report: Dataset) -> list[float]:
    """Every Size Specific Dose Estimate of a report, mGy."""
    below = [item for child in report.get("ContentSequence", ()) for item in (ssde_of(child))]
    names = report.get("ConceptNameCodeSequence", ())
    if names and names[0].CodeValue == SSDE:
        below.append(float(report.MeasuredValueSequence[0].NumericValue))
    return below


def compare(one: dict, settings: Settings, job: Job) -> None:
    """Every figure of a finding against what the stations left of the job."""
    dose, sizes = station(settings, job, "dose"), station(settings, job, "measure")
    starts, slices = station(settings, job, "match")["starts"], sizes["slices"]
    assert one["accepted"]
    for name in ("source", "flags", "phantom_cm", "kvp", "report_uids"):
        assert one["dose"][name] == dose[name], name
    assert one["dose"]["ctdivol_by_slice_mgy"] == pytest.approx(dose["ctdivol_mgy"], abs=1e-4)
    assert one["start_step_by_slice"] == [start["step"] for start in starts]
    assert one["dose"]["fraction"] == pytest.approx(median_low([s["fraction"] for s in starts]), abs=1e-4)
    assert one["regions"] == sizes["regions"]
    assert one["size_flags"] == sizes["flags"]
    diameters_mm = [facts["diameter_mm"] for facts in slices]
    assert one["water_equivalent_diameter_mm"] == pytest.approx(fmean(diameters_mm), abs=0.06)
    assert one["noise_hu"] == pytest.approx(median_low([facts["noise_hu"] for facts in slices]), abs=0.006)
    by_slice = [
        ssde_mgy(mgy, dose["phantom_cm"], diameter)
        for mgy, diameter in zip(dose["ctdivol_mgy"], diameters_mm, strict=True)
    ]
    assert one["dose"]["ssde_mgy"] == pytest.approx(fmean(by_slice), abs=1e-4)

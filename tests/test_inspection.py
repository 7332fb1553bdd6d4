"""`dicomnode inspect` says what the node would do, before it does it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicomnode.__main__ import main
from dicomnode.dicom.series import read_series
from dicomnode.errors import SeriesRefused
from tests.makers import make_series, phantom
from tests.report_makers import Irradiation, make_dose_report

Answer = Callable[..., dict]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Answer:
    def ask(*paths: Path) -> dict:
        assert main(["inspect", "--json", *map(str, paths)]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def put(**values: object) -> Callable[[Dataset, int], None]:
    def change(data: Dataset, _: int) -> None:
        for keyword, value in values.items():
            setattr(data, keyword, value)

    return change


def test_each_series_with_its_verdict_and_its_dose(tmp_path: Path, inspect: Answer) -> None:
    quiet = phantom(5, 128, 128, noise_hu=8.0)
    make_series(tmp_path / "good", quiet, pixel_spacing_mm=(2.0, 2.0), ctdivol_mgy=3.0, effective_mas=45.0)
    gap = make_series(tmp_path / "gap", slices=6, series_uid="1.2.3.4")
    gap[3].unlink()
    make_series(tmp_path / "scout", slices=1, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    make_series(tmp_path / "untold", np.full((3, 64, 64), -1000.0, np.float32), vendor="none")
    broken = make_series(tmp_path / "broken", slices=1)[0]
    broken.write_bytes(broken.read_bytes()[:-1000])
    (tmp_path / "notes.txt").write_text("not DICOM")
    answer = inspect(tmp_path)
    assert answer["other_files"] == 1
    found = {(one["accepted"], one["rule"]): one for one in answer["series"]}
    assert len(answer["series"]) == len(found) == 5
    good = found[True, None]
    assert (good["files"], good["slices"], good["reason"]) == (5, 5, None)
    assert good["dose"]["source"] == "ctdivol-tag"
    assert good["dose"]["ctdivol_mgy"] == pytest.approx(3.0)
    assert good["dose"]["phantom_cm"] == 32
    assert good["dose"]["ctdivol_by_slice_mgy"] == [3.0] * 5
    assert 0 < good["dose"]["fraction"] < 1
    assert good["start_step"] in good["start_step_by_slice"]
    assert good["water_equivalent_diameter_mm"] > 100
    assert good["noise_hu"] > 0
    refused = {rule for accepted, rule in found if not accepted}
    assert refused == {"gap-in-series", "localizer", "dose-unknown", "broken-instance"}
    assert all(one["reason"] for one in answer["series"] if not one["accepted"])
    assert found[False, "localizer"]["dose"] is None, "the dose of a scout is not that of a scan"
    assert found[False, "gap-in-series"]["dose"]["ctdivol_mgy"] == pytest.approx(10.0)


@pytest.mark.parametrize("height_mm", [-230.0, -299.0])
def test_what_is_there_is_told_though_slices_are_missing(
    tmp_path: Path, inspect: Answer, height_mm: float
) -> None:
    """A hole or uneven steps: no series to enhance, but the dose of its slices can be seen."""

    def moved(data: Dataset, index: int) -> None:
        if index == 4:
            data.ImagePositionPatient = ["-24", "-150", str(height_mm)]

    quiet = phantom(5, 128, 128, noise_hu=8.0)
    make_series(tmp_path / "s", quiet, pixel_spacing_mm=(2.0, 2.0), ctdivol_mgy=3.0, change=moved)
    (found,) = inspect(tmp_path)["series"]
    assert not found["accepted"]
    assert found["rule"] in ("gap-in-series", "uneven-spacing")
    assert found["slices"] == 5
    assert found["water_equivalent_diameter_mm"] > 100
    assert 0 < found["dose"]["fraction"] < 1
    assert found["dose"]["decided_by"] in ("tags", "noise", "both")
    assert found["start_step"] is not None


@pytest.mark.slow
def test_a_quarter_dose_is_told_from_a_full_one(shared_data: Path, inspect: Answer) -> None:
    """Mayo: the same tags, chosen slices with holes between them. The noise tells."""
    found = inspect(shared_data / "pairs" / "mayo")["series"]
    assert len(found) == 6
    by_tags: dict[float, list[float]] = {}
    for one in found:
        by_tags.setdefault(one["dose"]["ctdivol_mgy"], []).append(one["dose"]["fraction"])
    assert {one["dose"]["decided_by"] for one in found} == {"both", "noise"}
    assert sum(one["dose"]["decided_by"] == "noise" for one in found) == 3
    assert len(by_tags) == 3, "the headers of each pair are the same"
    for fractions in by_tags.values():
        assert min(fractions) < 0.7 * max(fractions)


def test_the_verdict_is_the_nodes_own(tmp_path: Path, inspect: Answer) -> None:
    """Whatever the reader refuses is refused here, by the same rule and in the same words."""
    changes = {
        "burned": put(BurnedInAnnotation="YES"),
        "unit": put(RescaleType="US"),
        "mpr": put(ImageType=["DERIVED", "SECONDARY", "MPR"]),
        "square": put(PixelSpacing=[0.7, 0.8]),
        "type": put(Modality="MR"),
    }
    expected = {}
    for name, change in changes.items():
        paths = make_series(tmp_path / name, slices=3, change=change)
        with pytest.raises(SeriesRefused) as refused:
            read_series(paths)
        expected[refused.value.rule] = str(refused.value)
    answer = inspect(tmp_path)
    assert {one["rule"]: one["reason"] for one in answer["series"]} == expected


def test_stacks_are_told_apart(tmp_path: Path, inspect: Answer) -> None:
    for kernel in ("B30f", "B70f"):
        make_series(tmp_path / kernel, name="one", series_uid="1.2.3.4", kernel=kernel)
    answer = inspect(tmp_path)
    assert sorted(one["kernel"] for one in answer["series"]) == ["B30f", "B70f"]
    assert all("ConvolutionKernel" in one["differs_by"] for one in answer["series"])


def test_the_table_is_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_series(tmp_path / "good", phantom(3, 128, 128), pixel_spacing_mm=(2.0, 2.0))
    make_series(tmp_path / "bad", slices=2, change=put(Modality="[red]MR[/]"))
    assert main(["inspect", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "accepted" in shown
    assert "CTDIvol 10 mGy" in shown
    assert "not-ct" in shown
    assert "[red]MR" in shown, "markup in a header is text"


def test_nothing_to_inspect_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").touch()
    assert main(["inspect", str(tmp_path)]) == 1
    assert "no DICOM files" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_dose_report_in_the_folder_is_believed(tmp_path: Path, inspect: Answer) -> None:
    def without_dose(data: Dataset, _: int) -> None:
        del data.CTDIvol
        data.IrradiationEventUID = "1.2.3.99"

    quiet = phantom(4, 128, 128, noise_hu=8.0)
    paths = make_series(
        tmp_path / "in", quiet, pixel_spacing_mm=(2.0, 2.0), change=without_dose, study_uid="1.2.3"
    )
    (alone,) = inspect(tmp_path)["series"]
    assert alone["dose"]["source"] == "computed-from-mas"
    report = make_dose_report(tmp_path / "report.dcm", "1.2.3", [Irradiation("1.2.3.99", ctdivol_mgy=7.5)])
    told = {one["modality"]: one for one in inspect(tmp_path)["series"]}
    assert told["CT"]["dose"]["source"] == "radiation-dose-report"
    assert told["CT"]["dose"]["ctdivol_mgy"] == pytest.approx(7.5)
    assert told["CT"]["dose"]["report_uids"] == [dcmread(report).SOPInstanceUID]
    assert told["CT"]["files"] == len(paths)
    assert not told["SR"]["accepted"]

"""`dicomnode inspect` says what the node would do, before it does it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, JPEGExtended12Bit

from dicomnode.__main__ import main
from dicomnode.dicom.series import read_series
from dicomnode.dose_reference import DoseReference
from dicomnode.errors import InstanceRefused, SeriesRefused
from dicomnode.inspection import encoded
from dicomnode.inspection.finding import DoseFinding, Finding
from dicomnode.inspection.folder import Folder
from dicomnode.network.filing import read_file_header
from dicomnode.network.part10 import parse_meta
from tests.makers import make_series, phantom
from tests.report_makers import Irradiation, make_dose_report

Answer = Callable[..., dict]


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
    assert found[False, "localizer"]["dose"]["source"] == "not-read", "a scout's dose is not that of a scan"
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
    assert main(["inspect", "--json", str(tmp_path)]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["series"], answer["other_files"]) == ([], 1)
    make_series(tmp_path / "good", slices=2)
    assert main(["inspect", str(tmp_path / "good"), str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err, "one of several that is not there is not passed over"


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
    assert (told["SR"]["accepted"], told["SR"]["rule"]) == (False, "dose-report")
    assert "1 irradiation, CTDIvol 7.5 mGy" in told["SR"]["reason"]


# --- the answer for programs ----------------------------------------------------------------------


def test_every_series_has_every_name(tmp_path: Path, inspect: Answer) -> None:
    """Accepted or refused at whatever point: the same names, and no number that JSON does not know."""
    make_series(tmp_path / "good", phantom(3, 64, 64), pixel_spacing_mm=(4.0, 4.0))
    make_series(tmp_path / "scout", slices=1, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    make_series(tmp_path / "mr", slices=1, change=put(Modality="MR", CTDIvol=float("nan")))
    (tmp_path / "cut.dcm").write_bytes(make_series(tmp_path / "x", slices=1)[0].read_bytes()[:700])
    make_dose_report(tmp_path / "report.dcm", "1.2.3", [])
    series = inspect(tmp_path)["series"]
    assert len(series) == 6
    assert len({(tuple(one), tuple(one["dose"])) for one in series}) == 1
    assert {"accepted", "reason", "dose"} <= set(series[0])
    assert all(one["reason"] for one in series if not one["accepted"])


def test_numbers_that_are_none_are_null() -> None:
    """`json` writes NaN, which is no JSON."""
    found = Finding("1.2.3", 1, "/", noise_hu=float("nan"), dose=DoseFinding(ctdivol_mgy=float("inf")))
    folder = Folder((), (), 0, 0, ())

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (told,) = json.loads(encoded([found], folder, {}), parse_constant=refuse)["series"]
    assert told["noise_hu"] is None
    assert told["dose"]["ctdivol_mgy"] is None


def test_a_series_is_told_by_what_a_person_knows_it_by(
    tmp_path: Path, inspect: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    series = phantom(2, 64, 64)
    put_name = put(SeriesNumber=7, SeriesDescription="Thorax 1.0 Bl57")
    make_series(tmp_path / "deep" / "one", series, pixel_spacing_mm=(4.0, 4.0), change=put_name)
    (told,) = inspect(tmp_path)["series"]
    assert (told["series_number"], told["series_description"]) == ("7", "Thorax 1.0 Bl57")
    assert told["folder"] == str(tmp_path / "deep" / "one")
    assert main(["inspect", str(tmp_path)]) == 0
    assert "series 7 Thorax 1.0 Bl57" in " ".join(capsys.readouterr().out.split())


def test_what_the_verdicts_follow_from_is_told(tmp_path: Path, inspect: Answer) -> None:
    make_series(tmp_path / "in", slices=2)
    judged_by = inspect(tmp_path)["judged_by"]
    assert judged_by["model"].startswith("need-small ")
    assert len(judged_by["weights_digest"]) == 64
    assert judged_by["dose_reference"] == DoseReference().version


# --- folders as people have them --------------------------------------------------------------------


def test_a_copy_is_taken_once_and_another_image_under_its_uid_is_not(tmp_path: Path, inspect: Answer) -> None:
    """The node answers success to the same bytes, and does not know from which file they came."""
    paths = make_series(tmp_path / "in", phantom(4, 64, 64), pixel_spacing_mm=(4.0, 4.0))
    shutil.copy(paths[0], tmp_path / "copy.dcm")
    answer = inspect(tmp_path)
    assert [(one["accepted"], one["files"]) for one in answer["series"]] == [(True, 4)]
    assert answer["copies"] == 1
    content = bytearray(paths[1].read_bytes())
    content[-1] ^= 1
    (tmp_path / "other.dcm").write_bytes(content)
    (told,) = inspect(tmp_path)["series"]
    assert told["rule"] == "duplicate-position"


def test_a_data_set_without_its_frame_is_no_stranger(tmp_path: Path, inspect: Answer) -> None:
    (path,) = make_series(tmp_path / "in", slices=1)
    for name, start in (("meta.dcm", 132), ("data.dcm", parse_meta(path.read_bytes(), "").data_set_at)):
        (tmp_path / name).write_bytes(path.read_bytes()[start:])
    rules = [one["rule"] for one in inspect(tmp_path)["series"]]
    assert rules.count("broken-instance") == 2


def test_what_the_listener_does_not_take_spoils_nothing_else(tmp_path: Path, inspect: Answer) -> None:
    """One file of a series in a syntax that no node would be sent: the others are the series."""
    paths = make_series(tmp_path / "in", phantom(4, 64, 64), pixel_spacing_mm=(4.0, 4.0))
    strange = dcmread(paths[3])
    strange.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    strange.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    strange["PixelData"].VR = "OB"
    strange.save_as(paths[3])
    big = make_series(
        tmp_path / "big", phantom(3, 64, 64), transfer_syntax=ExplicitVRBigEndian, series_uid="1.2.9"
    )
    found = {(one["files"], one["series_instance_uid"]): one for one in inspect(tmp_path)["series"]}
    assert found[3, str(strange.SeriesInstanceUID)]["accepted"]
    assert found[3, str(strange.SeriesInstanceUID)]["door"] is None
    assert found[1, str(strange.SeriesInstanceUID)]["rule"] == "undecodable"
    assert "does not accept" in found[1, str(strange.SeriesInstanceUID)]["door"]
    assert found[len(big), "1.2.9"]["door"] is None
    assert found[len(big), "1.2.9"]["accepted"]


def test_what_the_listener_cannot_read_is_told_though_the_series_is_good(
    tmp_path: Path, inspect: Answer
) -> None:
    """A data set in another syntax than its file says: pydicom guesses, the listener does not."""
    (path,) = make_series(tmp_path, phantom(1, 64, 64), pixel_spacing_mm=(4.0, 4.0))
    syntax = b"1.2.840.10008.1.2.1\x00"
    path.write_bytes(path.read_bytes().replace(syntax, b"1.2.840.10008.1.2\x00\x00\x00", 1))
    with pytest.raises(InstanceRefused):
        read_file_header(path)
    (found,) = inspect(tmp_path)["series"]
    assert "the listener refuses it: data set is cut off or cannot be parsed" in found["door"]


@pytest.mark.parametrize("words", [b"DOE^JOHN^MIDDLENAME ", b"1.2.\x1b[31m.10008.1.2 "])
def test_only_a_uid_is_quoted_of_a_transfer_syntax(words: bytes, tmp_path: Path, inspect: Answer) -> None:
    (path,) = make_series(tmp_path, slices=1)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\x00", words, 1))
    (found,) = inspect(tmp_path)["series"]
    assert found["rule"] == "undecodable"
    assert "does not accept its transfer syntax" in found["door"]
    assert not any(words.decode().strip() in str(value) for value in found.values())


# --- the terminal -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 200])
def test_the_table_fits_and_commands_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    evil = put(
        SpecificCharacterSet="ISO_IR 192",
        Manufacturer="\x1b]0;owned\x07\x1b[31mMaker",
        ManufacturerModelName="\u202eledom",
    )
    make_series(tmp_path / "good", phantom(3, 64, 64), pixel_spacing_mm=(4.0, 4.0), change=evil)
    make_series(tmp_path / "bad", slices=2, change=put(Modality="MR"))
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) <= columns
    assert not set(shown.out + shown.err) & {"\x1b", "\x07", "\u202e"}
    for told in ("accepted", "not-ct", "mAs", "SSDE", "noise", "step"):
        assert told in shown.out


def test_warnings_about_values_stay_off_the_terminal(tmp_path: Path) -> None:
    """They quote what they warn of, which may be a patient's name."""
    odd = put(SpecificCharacterSet="ISO_IR 192", PatientName="\x1b$)CSecret", StudyDate="yesterday")
    make_series(tmp_path, phantom(2, 64, 64), pixel_spacing_mm=(4.0, 4.0), change=odd)
    done = subprocess.run(
        [sys.executable, "-m", "dicomnode", "inspect", "--json", str(tmp_path)],
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["series"][0]["accepted"]
    assert not done.stderr.strip(), done.stderr.decode()


def test_a_gap_beside_another_broken_rule_ends_nothing(tmp_path: Path, inspect: Answer) -> None:
    """A slice is missing, and what is there is sheared, or of two scans in turn: the others are told, too."""

    def sheared(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [-24, -150 + 0.5 * index, -300 + 3 * index]

    def in_turn(data: Dataset, index: int) -> None:
        data.AcquisitionNumber = index % 2 + 1

    for name, change in {"sheared": sheared, "turns": in_turn}.items():
        make_series(tmp_path / name, slices=9, change=change)[4].unlink()
    make_series(tmp_path / "scout", slices=1, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    rules = [one["rule"] for one in inspect(tmp_path)["series"]]
    assert sorted(rules) == ["gap-in-series", "gap-in-series", "localizer"]

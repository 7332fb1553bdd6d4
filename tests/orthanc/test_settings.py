"""Wrong settings are named, and leave Orthanc running with the plugin off."""

from pathlib import Path
from typing import Any

import pytest
from dicomnode_plugin.record import Record
from dicomnode_plugin.settings import Settings, SettingsWrong, read_settings

from tests.orthanc.conftest import PLUGIN
from tests.orthanc.orthancs import ROOT, Orthanc, running_plugin

PULL = {"Mode": "pull", "Url": "http://127.0.0.1:8080", "Source": "a"}


def read(section: dict[str, Any], **more: Any) -> Settings:
    return read_settings({"DicomModalities": {"dicomnode": ["N", "h", 104]}, "DicomNode": section, **more})


def test_a_section_with_what_is_needed_is_read_and_shown_without_its_token() -> None:
    assert read(PLUGIN).modality == "dicomnode"
    shown = read({**PULL, "Token": "hidden"}).shown()
    assert set(shown) == {
        "Modality", "Mode", "Url", "Token", "Source", "Automatic", "MinimumSlices", "SweepDays",
        "RetrySeconds", "LongestRetrySeconds", "GiveUpDays",
    }  # fmt: skip
    assert "hidden" not in str(shown)
    readme = (ROOT / "orthanc-plugin" / "README.md").read_text()
    assert all(f"`{key}`" in readme for key in shown), "every setting has its row"


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({**PLUGIN, "Modalty": "x"}, "Modalty"),
        ({}, "Modality"),
        ({"Modality": "elsewhere"}, "elsewhere"),
        ({**PLUGIN, "Mode": "fling"}, "Mode"),
        ({**PLUGIN, "Automatic": "yes"}, "Automatic"),
        ({**PLUGIN, "Automatic": 1}, "Automatic"),
        ({**PLUGIN, "MinimumSlices": 0}, "MinimumSlices"),
        ({**PLUGIN, "MinimumSlices": 2.5}, "MinimumSlices"),
        ({**PLUGIN, "MinimumSlices": True}, "MinimumSlices"),
        ({**PLUGIN, "SweepDays": -1}, "SweepDays"),
        ({**PLUGIN, "RetrySeconds": "10"}, "RetrySeconds"),
        ({**PLUGIN, "RetrySeconds": 20, "LongestRetrySeconds": 10}, "LongestRetrySeconds"),
        ({**PULL, "Token": "two\nlines"}, "Token"),
        ({**PULL, "Token": "umlauts: \u00fc"}, "Token"),
        ({**PULL, "Url": ""}, "Url"),
        ({**PULL, "Url": "127.0.0.1:8080"}, "Url"),
        ({**PULL, "Url": "file:///etc/passwd"}, "Url"),
        ({**PULL, "Url": "http://user:word@host/"}, "Url"),
        ({**PULL, "Url": "http://host:99999/"}, "Url"),
        ({**PULL, "Source": ""}, "Source"),
    ],
)
def test_what_is_wrong_is_named(section: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsWrong, match=named) as told:
        read(section)
    assert "word" not in str(told.value)


def test_no_section_and_revisions_are_refused() -> None:
    with pytest.raises(SettingsWrong, match="no section"):
        read_settings({})
    with pytest.raises(SettingsWrong, match="CheckRevisions"):
        read(PLUGIN, CheckRevisions=True)


def test_pauses_grow_up_to_the_longest_and_stay_there() -> None:
    settings = read({**PLUGIN, "RetrySeconds": 10, "LongestRetrySeconds": 600})
    pauses = [settings.pause_seconds(attempts) for attempts in range(1, 5000)]
    assert pauses[:4] == [10, 20, 40, 80]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 600


def test_it_is_given_up_when_the_pauses_have_lasted_so_many_days_and_not_before() -> None:
    settings = read({**PLUGIN, "RetrySeconds": 10, "LongestRetrySeconds": 600, "GiveUpDays": 2})
    record, pauses = Record(), [0.0]
    while not settings.is_over(record.paused_seconds):
        pauses.append(settings.pause_seconds(record.attempts + 1))
        record = record.failed("no room", now=0.0, pause_seconds=pauses[-1])
    assert sum(pauses[:-1]) <= 2 * 86400 < sum(pauses) == record.paused_seconds


def test_orthanc_starts_with_wrong_settings_and_says_what_is_wrong(
    orthanc_program: str, tmp_path: Path
) -> None:
    wrong = {**PLUGIN, "Automatik": True}
    orthanc = Orthanc(orthanc_program, tmp_path / "orthanc", plugin=wrong, node_port=1)
    with running_plugin(orthanc):
        told = orthanc.get("/dicomnode/status")
        assert told["on"] is False
        assert "DicomNode.Automatik" in told["error"]
        assert "DicomNode.Automatik" in orthanc.log()
        assert orthanc.status_of("GET", "/dicomnode/series/0")[0] == 503
        assert orthanc.get("/system")["DicomAet"] == "ORTHANC"


def test_routes_refuse_what_they_do_not_know(orthanc_program: str, tmp_path: Path) -> None:
    orthanc = Orthanc(orthanc_program, tmp_path / "orthanc", plugin=PLUGIN, node_port=1)
    with running_plugin(orthanc):
        assert orthanc.status_of("GET", "/dicomnode/series/x")[0] == 404
        assert orthanc.status_of("GET", "/dicomnode/series/" + "-".join(["00000000"] * 5))[0] == 404
        assert orthanc.status_of("POST", "/dicomnode/status")[0] == 405
        told = orthanc.get("/dicomnode/status")
        assert (told["on"], told["kept_in"]) == (True, "global properties")
        assert told["settings"]["Modality"] == "dicomnode"

"""Settings: what is refused, by which name, and that the documents tell the truth."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic_core import PydanticUndefined

from dicomnode.checked import is_uid
from dicomnode.dose_reference import DoseReference, Region
from dicomnode.errors import SettingsError
from dicomnode.physics.anatomy import REGIONS
from dicomnode.settings import Retry, Settings, all_keys, load_settings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def write(folder: Path, text: str) -> Path:
    path = folder / "node.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(write(folder, text), environment or {})
    return str(caught.value)


def test_the_file_that_comes_with_the_node_says_the_defaults(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    shutil.copy(CONFIGS / "dose-reference.yaml", folder)
    shipped = load_settings(write(folder, (CONFIGS / "node.yaml").read_text(encoding="utf-8")), {})
    empty = load_settings(write(folder, ""), {})
    for section in set(Settings.model_fields) - {"callers", "destinations"}:
        assert getattr(shipped, section) == getattr(empty, section), section
    assert shipped.destinations[0].retry == Retry()


def test_the_file_that_comes_with_the_node_holds_every_key():
    text = "\n".join((CONFIGS / name).read_text("utf-8") for name in ("node.yaml", "dose-reference.yaml"))
    leaves = {path.rsplit(".", 1)[-1] for path in all_keys()}
    assert {name for name in leaves if not re.search(rf"^#?[ -]*{name}:", text, re.MULTILINE)} == set()


def test_every_key_stands_in_the_readme_with_its_default():
    rows = {}
    told, _, _ = (CONFIGS / "README.md").read_text(encoding="utf-8").partition("## Training recipes")
    for line in told.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            rows[cells[0].strip("`")] = cells[1].strip("`").replace("\\|", "|")
    keys = all_keys()
    assert set(rows) == set(keys)
    for path, field in keys.items():
        default = "required" if field.default is PydanticUndefined else field.default
        assert rows[path].strip() == ("empty" if default is None else str(default).strip()), path


def test_an_empty_file_and_empty_sections_have_the_defaults(tmp_path):
    settings = load_settings(write(tmp_path, "node:\n  # nothing\ncallers:\n"), {})
    assert settings.node.port == 11112
    assert settings.network.max_pdu_bytes == 131072
    assert settings.callers == ()


@pytest.mark.parametrize(
    ("text", "path", "nearest"),
    [
        ("network: {max_asociations: 3}", "network.max_asociations", "'max_associations'"),
        ("network: {prot: 104}", "network.prot", "'node.port'"),
        ("netwrok: {}", "netwrok", "'network'"),
        ("destinations: [{name: a, ae_title: A, host: h, retry: {frist_seconds: 1}}]",
         "destinations[0].retry.frist_seconds", "'first_seconds'"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_refused_by_its_path_and_the_nearest_one(tmp_path, text, path, nearest):
    assert refused(tmp_path, text) == f"node.yaml: {path}: unknown key, did you mean {nearest}?"


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("node: {port: 70000}", "node.yaml: node.port: "),
        ("node: {ae_title: SEVENTEEN-LETTERS}", "node.yaml: node.ae_title: "),
        ("node: {ae_title: 'A\\B'}", "node.yaml: node.ae_title: "),
        ('node: {ae_title: "A\\tB"}', "node.yaml: node.ae_title: "),
        ("node: {ae_title: '   '}", "node.yaml: node.ae_title: "),
        ("node: {ae_title: NO}", "node.yaml: node.ae_title: "),
        ("node: {reserve_gib: -1}", "node.yaml: node.reserve_gib: "),
        ("node: {executor_id: '../x'}", "node.yaml: node.executor_id: "),
        ("network: {max_pdu_bytes: 0}", "node.yaml: network.max_pdu_bytes: "),
        ("network: {idle_seconds: .inf}", "node.yaml: network.idle_seconds: "),
        ("completeness: {quiet_seconds: 5}", "node.yaml: completeness: "),
        ("callers: [{host: 10.0.0.1}]", "node.yaml: callers[0].ae_title: is missing"),
        ("callers: [{ae_title: A}, {ae_title: A}]", "node.yaml: callers: "),
        ("destinations: [{name: a, ae_title: A, host: h, image_type2: LOCALIZER}]",
         "node.yaml: destinations[0].image_type2: "),
        ("identity: {uid_root: 1.02}", "node.yaml: identity.uid_root: "),
        ("identity: {uid_root: '1.02'}", "node.yaml: identity.uid_root: "),
        ("identity: {series_description_prefix: 'A\\B'}", "node.yaml: identity.series_description_prefix: "),
        ("engine: {uncertainty_seeds: 1}", "node.yaml: engine.uncertainty_seeds: one seed has no spread"),
        ("engine: {uncertainty_seeds: 33}", "node.yaml: engine.uncertainty_seeds: "),
        ("destinations: [{name: a, ae_title: A, host: h, uncertainty_map: true}]",
         "node.yaml: destinations: 'a' asks for an uncertainty_map, but engine.uncertainty_seeds"),
        ("destinations: [{name: a, ae_title: A, host: h, series_description_prefix: 'A\\B'}]",
         "node.yaml: destinations[0].series_description_prefix: "),
        ("identity: {uid_key: 'abc'}", "node.yaml: identity.uid_key: "),
        ("web: {host: 0.0.0.0, port: 8080}", "node.yaml: web: token must be given"),
        ("web: {host: node.hospital, port: 8080}", "node.yaml: web: token must be given"),
        ("web: {port: 70000}", "node.yaml: web.port: "),
        ("web: {token: 'a b'}", "node.yaml: web.token: "),
        ("web: {token: ''}", "node.yaml: web.token: "),
        ("web_sources: [{name: a, ae_title: A, kind: pacs, url: 'http://h'}]",
         "node.yaml: web_sources[0].kind: "),
        ("web_sources: [{name: a, ae_title: A, kind: orthanc, url: 'ftp://h'}]",
         "node.yaml: web_sources[0].url: "),
        ("web_sources: [{name: a, ae_title: A, kind: orthanc, url: 'http://u:p@h'}]",
         "node.yaml: web_sources[0].url: an address holds no credentials"),
        ("destinations: [{name: a, ae_title: A, host: h, callers: ['SEVENTEEN-LETTERS']}]",
         "node.yaml: destinations[0].callers[0]: "),
        ("engine: {device: tpu}", "node.yaml: engine.device: "),
        ("- a", "node.yaml: "),
        ("node: [", "node.yaml: line 1"),
        ("node: {}\nnode: {port: 1}", "node.yaml: line 2: the key 'node' stands here twice"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_its_path(tmp_path, text, beginning):
    assert refused(tmp_path, text).startswith(beginning)


def test_every_wrong_key_is_told_at_once(tmp_path):
    assert len(refused(tmp_path, "node: {port: -1, log_level: LOUD}\ncallrs: []").splitlines()) == 3


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml", {})


def test_paths_count_from_the_folder_of_the_file(tmp_path):
    settings = load_settings(write(tmp_path, "node: {spool: here}\nengine: {models_folder: /abs}"), {})
    assert settings.node.spool == tmp_path / "here"
    assert settings.engine.models_folder == Path("/abs")
    assert load_settings(write(tmp_path, ""), {}).engine.models_folder == tmp_path.parent / "models"
    assert settings.node.database_url == f"sqlite:///{tmp_path / 'here' / 'dicomnode.sqlite'}"


def test_the_environment_overrides_single_keys_items_and_lists(tmp_path):
    path = write(tmp_path, "destinations: [{name: a, ae_title: A, host: h}]")
    environment = {
        "DICOMNODE__NODE__PORT": "104",
        "DICOMNODE__NODE__AE_TITLE": "1234",
        "DICOMNODE__NODE__SPOOL": "there",
        "DICOMNODE__DESTINATIONS__0__HOST": "pacs",
        "DICOMNODE__CALLERS": "[{ae_title: CT1}, {ae_title: CT2, host: 10.0.0.5}]",
        "DICOMNODE__CALLERS__1__HOST": "",
        "DICOMNODE__ENGINE__THREADS": "2",
        "DICOMNODE_OTHER": "not ours",
    }
    settings = load_settings(path, environment)
    assert (settings.node.port, settings.node.ae_title) == (104, "1234")
    assert settings.node.spool == tmp_path / "there"
    assert settings.destinations[0].host == "pacs"
    assert [(caller.ae_title, caller.host) for caller in settings.callers] == [("CT1", None), ("CT2", None)]
    assert settings.engine.threads == 2


def test_a_wrong_variable_is_refused_by_its_name(tmp_path):
    assert refused(tmp_path, "", {"DICOMNODE__NODE__PROT": "1"}) == (
        "environment DICOMNODE__NODE__PROT: node.prot: unknown key, did you mean 'port'?"
    )
    assert refused(tmp_path, "", {"DICOMNODE__NODE__PORT": "x"}).startswith(
        "environment DICOMNODE__NODE__PORT:"
    )
    assert "there is no such place" in refused(tmp_path, "", {"DICOMNODE__CALLERS__3__HOST": "x"})


def test_a_key_is_taken_and_never_told(tmp_path):
    key = "0123456789abcdef" * 4
    settings = load_settings(write(tmp_path, ""), {"DICOMNODE__IDENTITY__UID_KEY": key})
    assert settings.identity.uid_key_bytes == bytes.fromhex(key)
    for shown in (repr(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "0123456789abcdef" not in shown
    with pytest.raises(SettingsError) as caught:
        load_settings(write(tmp_path, f"identity: {{uid_key: '{key}0'}}"), {})
    assert "0123456789abcdef" not in f"{caught.value} {caught.value.__cause__}"
    assert load_settings(write(tmp_path, ""), {}).identity.uid_key_bytes is None


def test_a_token_and_a_password_are_taken_and_never_told(tmp_path):
    text = (
        "web: {port: 0, host: 0.0.0.0, token: hush-hush}\n"
        "web_sources: [{name: a, ae_title: A, kind: dicomweb, url: 'http://h/dicom-web/',"
        " password: hush-hush}]"
    )
    settings = load_settings(write(tmp_path, text), {})
    assert settings.web.token is not None
    assert settings.web.token.get_secret_value() == "hush-hush"
    assert settings.web_sources[0].url == "http://h/dicom-web"
    for shown in (repr(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "hush" not in shown
    assert "hush" not in refused(tmp_path, "web: {token: 'hush hush'}")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_the_machine_itself_needs_no_token(tmp_path, host):
    assert load_settings(write(tmp_path, f"web: {{port: 8080, host: '{host}'}}"), {}).web.on_loopback


def test_a_destination_gets_images_and_report_unless_it_asks_for_more(tmp_path):
    text = (
        "destinations:\n- {name: a, ae_title: A, host: h}\n"
        "- {name: b, ae_title: B, host: h, uncertainty_map: %s}\n"
    )
    settings = load_settings(write(tmp_path, text % "false" + "engine: {uncertainty_seeds: 8}"), {})
    plain = settings.destinations[0]
    assert (plain.report, plain.removed_map, plain.uncertainty_map, plain.key_objects) == (
        True,
        False,
        False,
        False,
    )
    assert (plain.series_description_prefix, plain.keep_manufacturer) == (None, None)
    assert settings.uncertainty_seeds == 0, "nobody asks"
    assert (
        load_settings(write(tmp_path, text % "true" + "engine: {uncertainty_seeds: 8}"), {}).uncertainty_seeds
        == 8
    )


def test_settings_cannot_be_changed(tmp_path):
    settings = load_settings(write(tmp_path, ""), {})
    with pytest.raises(ValueError, match="frozen"):
        settings.node.port = 1


@pytest.mark.parametrize("text", ["1", "1.2.840.10008.1.1", "0.0", "2.25." + "9" * 38])
def test_uids(text):
    assert is_uid(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", ".1", "1..2", "01.2", "1.02", "1.2 ", "1.2\n", "../../etc/x", "1.a", "1" * 65, "١.٢"],
)
def test_not_uids(text):
    assert not is_uid(text)


def test_a_node_that_only_receives_and_sends_imports_no_torch():
    modules = "dicomnode.settings, dicomnode.spool, dicomnode.network.receive, dicomnode.network.send"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# --- the table of normal doses ----------------------------------------------------------------------

TABLE = (CONFIGS / "dose-reference.yaml").read_text(encoding="utf-8")


def test_the_table_names_the_regions_that_images_are_told_apart_by():
    assert get_args(Region) == REGIONS


def test_the_table_may_stand_in_a_file_of_its_own_or_in_place(tmp_path):
    (tmp_path / "ours.yaml").write_text(TABLE.replace("ctdivol_mgy: 9", "ctdivol_mgy: 7.5"))
    by_file = load_settings(write(tmp_path, "dose: {reference: ours.yaml}"), {}).dose.reference
    indented = "".join(f"    {line}\n" for line in (tmp_path / "ours.yaml").read_text().splitlines())
    in_place = load_settings(write(tmp_path, f"dose:\n  reference:\n{indented}"), {}).dose.reference
    by_variable = load_settings(
        write(tmp_path, ""), {"DICOMNODE__DOSE__REFERENCE": "ours.yaml"}
    ).dose.reference
    assert by_file == in_place == by_variable != DoseReference()
    assert by_file.row("chest").ctdivol_mgy == 7.5


def test_single_values_of_the_file_can_be_overridden(tmp_path):
    (tmp_path / "ours.yaml").write_text(TABLE)
    environment = {"DICOMNODE__DOSE__REFERENCE__VERSION": "ours-2"}
    settings = load_settings(write(tmp_path, "dose: {reference: ours.yaml}"), environment)
    assert settings.dose.reference.version == "ours-2"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("phantom_cm: 16", "phantom_cm: 20", ".regions[0].phantom_cm: "),
        ("phantom_cm: 16", "phantom: 16", ".regions[0].phantom: unknown key, did you mean 'phantom_cm'?"),
        ("ctdivol_mgy: 9", "ctdivol_mgy: 0", ".regions[2].ctdivol_mgy: "),
        ("    diameter_mm: 175\n    growth_per_cm: 0\n", "    diameter_mm: 175\n",
         ".regions[0].growth_per_cm: is missing"),
        ("region: chest", "region: thorax", ".regions[2].region: "),
        ("region: chest", "region: neck", ": regions: 'neck' stands there 2 times"),
        ("region: chest", "region: extremity", ": regions: 'chest' is missing"),
        ("version: registry", "varsion: registry", ".varsion: unknown key, did you mean 'version'?"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_by_its_own_name(tmp_path, before, after, told):
    assert before in TABLE
    (tmp_path / "dose-reference.yaml").write_text(TABLE.replace(before, after, 1))
    lines = refused(tmp_path, "dose: {reference: dose-reference.yaml}").splitlines()
    assert any(line.startswith(f"dose-reference.yaml: dose.reference{told}") for line in lines)


def test_a_table_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "broken.yaml").write_text("regions: [")
    assert refused(tmp_path, "dose: {reference: broken.yaml}").startswith("broken.yaml: line ")
    assert "cannot be read" in refused(tmp_path, "dose: {reference: nowhere.yaml}")


def test_a_limb_without_a_row_goes_by_size_from_the_body():
    assert DoseReference().row("extremity") == DoseReference().row("abdomen-pelvis")

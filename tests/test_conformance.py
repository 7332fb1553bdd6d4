"""The conformance statement: complete against its tables, well formed, and it tells no secret."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID

from dicomnode import errors
from dicomnode.__main__ import main
from dicomnode.conformance import statement
from dicomnode.conformance.document import Document, Section, Table, code, render
from dicomnode.conformance.facts import (
    KINDS,
    SENT_SYNTAX,
    codes,
    keys,
    kinds,
    refusals,
    sentence,
    status_ranges,
)
from dicomnode.conformance.objects import SCHEMES
from dicomnode.conformance.specimen import make_specimen
from dicomnode.dicom.marks import PRIVATE_SCHEME
from dicomnode.dicom.policy import TABLE
from dicomnode.dicom.projection_tags import PROJECTION_TAGS
from dicomnode.network import filing, header, protocol, receive
from dicomnode.network.query import QUERY_CLASSES
from dicomnode.settings import Destination, Settings, all_keys, load_settings

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "node.yaml"
FLAVOURS = ("image_type2", "keep_manufacturer")
"""Keys of a destination that say how objects are named, not which are sent."""


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(CONFIG, {})


@pytest.fixture(scope="module")
def document(settings: Settings) -> str:
    return statement(settings)


def changed(**sections: object) -> Settings:
    """The shipped configuration with sections exchanged."""
    values = load_settings(CONFIG, {}).model_dump()
    return Settings.model_validate(values | sections)


def cells(line: str) -> list[str]:
    """The cells of a Markdown row; a pipe behind a backslash belongs to its cell."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows_under(document: str, caption: str) -> list[list[str]]:
    """The rows of the one table with this caption."""
    [rest] = document.split(f"\n{caption}")[1:]
    lines = rest.split("\n\n")[1].splitlines()
    return [cells(line) for line in lines[2:]]


# --- complete -------------------------------------------------------------------------------------


def test_every_accepted_class_and_syntax_stands_there_with_its_registered_name(document: str) -> None:
    told = {tuple(row[:4]) for row in rows_under(document, "Accepted presentation contexts")}
    accepted = {
        (uid.name.replace("[", "\\[").replace("]", "\\]"), f"`{uid}`", syntax.name, f"`{syntax}`")
        for context in protocol.accepted_contexts()
        for uid in [UID(str(context.abstract_syntax))]
        for syntax in map(UID, context.transfer_syntax)
    }
    assert {tuple(part.replace("\\", "") for part in row) for row in told} == {
        tuple(part.replace("\\", "") for part in row) for row in accepted
    }
    assert not any(UID(uid).name == uid for row in accepted for uid in (row[1].strip("`"), row[3].strip("`")))


def test_every_row_of_the_attribute_policy_stands_there_once_with_its_reason(document: str) -> None:
    told = rows_under(document, "Attributes:")
    assert sorted(row[1].strip("`") for row in told) == sorted(row.keyword for row in TABLE)
    why = {row[1].strip("`"): row[5] for row in told}
    assert why == {row.keyword: row.why for row in TABLE}
    for row in told:
        tag = tag_for_keyword(row[1].strip("`")) or 0
        assert row[0] == f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


@pytest.mark.slow
def test_what_the_policy_removes_is_told_as_removed_and_what_it_sets_has_its_value(
    settings: Settings,
) -> None:
    """Against an image that the writer made, not against the words of the table."""
    for keep in (False, True):
        one = changed(identity=settings.identity.model_dump() | {"keep_manufacturer": keep})
        image = make_specimen(one, None).image
        for row in rows_under(statement(one), "Attributes:"):
            keyword, becomes = row[1].strip("`"), row[2]
            if becomes == "removed":
                assert keyword not in image, (keyword, keep)
            if becomes == "set":
                assert keyword in image, (keyword, keep)
                assert row[3], keyword
        [maker] = [row for row in rows_under(statement(one), "Attributes:") if row[1] == "`Manufacturer`"]
        assert (maker[2] == "kept") is keep


def test_every_key_stands_there_with_its_value(document: str, settings: Settings) -> None:
    told = {row[0].strip("`"): row[1] for row in rows_under(document, "Every key")}
    general = {re.sub(r"\[\d+\]", "[]", path) for path in told}
    assert not settings.sources, "a list without rows stands there as one row"
    assert not settings.web_sources
    assert general == {re.sub(r"^((web_)?sources)\[\].*", r"\1", path) for path in all_keys()}
    assert told["node.port"] == "`11112`"
    assert told["callers[1].ae_title"] == "`PACS`"
    assert told["identity.series_description_prefix"] == "`AI-DN | `"
    assert len(told) == len(keys(settings))


def test_every_rule_that_refuses_stands_there_with_a_sentence(document: str) -> None:
    defined = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SeriesRefused) and kind is not errors.SeriesRefused
    }
    assert set(refusals()) == defined
    for rule in refusals():
        assert sentence(rule).endswith("."), f"{rule.__name__} has no docstring that says what it refuses"
    told = {row[0].strip("`"): row[1] for row in rows_under(document, "Rules that refuse")}
    assert set(told) == {rule.rule for rule in defined}


def test_every_private_element_of_projections_that_is_read_stands_there(document: str) -> None:
    told = {tuple(row[:3]) for row in rows_under(document, "Private elements that are read of projections")}
    assert told == {
        (f"({tag.group:04X},xx{tag.element:02X})", tag.name, tag.kind) for tag in PROJECTION_TAGS.values()
    }


def test_every_status_that_the_code_names_is_in_the_table(document: str) -> None:
    """Statuses are constants of `protocol`; whatever the receiving modules use of them must be told."""
    table = {answer.status for answer in protocol.ANSWERS}
    assert len(table) == len(protocol.ANSWERS)
    used = set()
    for module in (filing, header, receive):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute) and isinstance(getattr(protocol, node.attr, None), int):
                used.add(getattr(protocol, node.attr))
    assert used | {protocol.HANDLER_FAILED} == table
    told = {row[1].strip("`") for row in rows_under(document, "Status codes answered")}
    assert told == {f"{status:04X}" for status in table}


def test_the_statuses_a_destination_may_answer_are_told_as_the_sender_takes_them(document: str) -> None:
    by_kind = {row[0]: row[1] for row in rows_under(document, "Status codes received")}

    def within(told: str, status: int) -> bool:
        spans = [re.findall(r"[0-9A-F]{4}", part) for part in told.split(",")]
        return any(int(span[0], 16) <= status <= int(span[-1], 16) for span in spans)

    for status in range(0x10000):
        assert within(by_kind["Success and warnings"], status) == protocol.stored(status)
        if not protocol.stored(status):
            assert within(by_kind["Come back later"], status) == protocol.come_back_later(status)


def test_ranges_of_statuses() -> None:
    assert status_ranges(lambda status: status in (1, 5, 6, 7, 0xFFFF)) == "`0001`, `0005` to `0007`, `FFFF`"
    assert status_ranges(lambda _: False) == ""


def test_every_code_has_a_scheme_with_a_name_and_every_code_written_is_told(settings: Settings) -> None:
    specimen = make_specimen(settings, None)
    everything = codes(specimen.image, specimen.report)
    assert {one.scheme_designator for one in everything} <= {*SCHEMES, PRIVATE_SCHEME}
    told = {row[0].strip("`") for row in rows_under(statement(settings), "Codes that are written")}
    assert told == {one.value for one in everything}


def test_the_content_tree_is_that_of_the_report(document: str, settings: Settings) -> None:
    """Every concept name of a real report, and no other, stands in annex A.B."""
    report = make_specimen(settings, None).report
    annex = document.split("\n## A.B ")[1].split("\n## A.C ")[0]
    told = set(re.findall(r"^\| \d \| [^|]+ \| [^|]+ \| \(([^,]+),", annex, re.MULTILINE))
    found = {
        element.value[0].CodeValue
        for element in report.iterall()
        if element.keyword == "ConceptNameCodeSequence"
    }
    assert told == found - {report.ConceptNameCodeSequence[0].CodeValue}


# --- what is sent ---------------------------------------------------------------------------------


def test_every_switch_of_a_destination_has_its_kind_of_object() -> None:
    switches = {
        name
        for name, field in Destination.model_fields.items()
        if field.annotation is bool and name not in FLAVOURS
    }
    assert switches == {kind.switch for kind in kinds()} - {""}
    assert {kind.switch for kind in KINDS} >= switches


def test_the_writers_make_what_the_table_of_kinds_says(settings: Settings) -> None:
    specimen = make_specimen(settings, None)
    made = {kind.switch: kind.sop_class_uid for kind in kinds()}
    for data, switch in ((specimen.image, ""), (specimen.report, "report")):
        assert data.SOPClassUID == made[switch]
        assert data.file_meta.TransferSyntaxUID == SENT_SYNTAX


# --- it follows the configuration -----------------------------------------------------------------


def test_the_same_configuration_gives_the_same_statement(document: str, settings: Settings) -> None:
    assert statement(settings) == document


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("node", "ae_title", "OTHER", "One application entity, `OTHER`, does everything."),
        ("network", "max_pdu_bytes", 65536, "65536 bytes (`network.max_pdu_bytes`)"),
        ("network", "max_associations", 3, "3 (`network.max_associations`)"),
        ("network", "message_seconds", 77, "77 (`network.message_seconds`)"),
        ("completeness", "quiet_seconds", 45, "quiet for 45 s"),
        ("quality", "on_failure", "label", "sent with the failure named in it"),
        ("dose", "without_dose", "noise-only", "by the noise measured in the images"),
        ("identity", "uid_root", "1.2.3.4", "`1.2.3.4` and a number below it"),
        ("identity", "series_number_offset", 500, "`503`"),
        ("identity", "content_qualification", "SERVICE", "Qualification (0018,9004) `SERVICE`"),
    ],
)  # fmt: skip
def test_a_changed_key_changes_what_is_said(
    document: str, settings: Settings, section: str, key: str, value: object, words: str
) -> None:
    other = statement(changed(**{section: getattr(settings, section).model_dump() | {key: value}}))
    assert words in other
    assert words not in document


def test_callers_and_destinations_are_told_each_with_what_it_gets() -> None:
    peers = [
        {"name": "one", "ae_title": "ONE", "host": "one.example", "report": False},
        {"name": "two", "ae_title": "TWO", "host": "two.example", "port": 11113, "image_type2": "SECONDARY"},
    ]
    told = statement(changed(callers=[], destinations=peers))
    assert "No callers are configured: every association is rejected." in told
    rows = rows_under(told, "Proposed presentation contexts")
    proposed = {(row[0].strip("`"), UID(row[3].strip("`")).name) for row in rows}
    assert proposed == {
        ("one", "CT Image Storage"),
        ("one", "Verification SOP Class"),
        ("two", "CT Image Storage"),
        ("two", "Comprehensive SR Storage"),
        ("two", "Verification SOP Class"),
    }
    [two] = [row for row in rows_under(told, "Destinations:") if row[0] == "`two`"]
    assert two[1:4] == ["`TWO`", "`two.example`", "11113"]
    assert "SECONDARY" in two[5]
    assert "results stay in the spool" in statement(changed(destinations=[]))


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["markdown", "html"])
def test_no_secret_shows(settings: Settings, kind: str) -> None:
    database = "postgresql+psycopg://node:hunter2@db.example/jobs?password=sesame"
    told = statement(changed(node=settings.node.model_dump() | {"database": database}), kind)  # type: ignore[arg-type]
    for secret in ("hunter2", "sesame", "db.example", "//node"):
        assert secret not in told
    assert "postgresql+psycopg" in told


# --- well formed ----------------------------------------------------------------------------------


def nasty() -> Settings:
    """Values that are markup elsewhere."""
    peers = [{"name": "a_b", "ae_title": "A|<B>*_", "host": "h_1.example"}]
    return changed(destinations=peers, callers=[{"ae_title": "`<i>&[x](y)"}], identity={
        "series_description_prefix": "<b>|`*_ "
    })  # fmt: skip


@pytest.mark.parametrize("make", [lambda: load_settings(CONFIG, {}), nasty])
def test_the_tables_of_the_markdown_have_as_many_cells_in_every_row(make: Callable[[], Settings]) -> None:
    tables = 0
    width = 0
    for line in statement(make()).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        if not width:
            tables, width = tables + 1, len(cells(line))
            assert width > 1
        assert len(cells(line)) == width, line
        assert line.count("`") % 2 == 0, line
    assert tables > 20


def test_headings_are_numbered_without_a_gap_and_referenced_sections_exist(document: str) -> None:
    found = re.findall(r"^#+ ([0-9A-E.]+) ", document, re.MULTILINE)
    assert len(found) == len(set(found))
    assert [number for number in found if "." not in number] == [str(number) for number in range(1, 9)]
    for number in found:
        head, _, last = number.rpartition(".")
        if last.isdigit() and last != "1":
            assert (f"{head}." if head else "") + str(int(last) - 1) in found, number
    prose = re.sub(r"`[^`]*`", "", document)  # values may hold numbers
    for reference in re.findall(r"(?:of|by|see|\() ?(\d(?:\.\d+)+)\b(?!\.\d| s| MiB|-)", prose):
        assert reference in found, reference
    contents = document.split("## 2 Table of contents")[1].split("## 3 ")[0]
    listed = re.findall(r"^ *\* ([0-9A-E.]+) ", contents, re.MULTILINE)
    assert listed == [number for number in found if number.count(".") <= (2 if number[0] == "A" else 1)]


@pytest.mark.parametrize("make", [lambda: load_settings(CONFIG, {}), nasty])
def test_the_html_is_well_formed_and_says_the_same(make: Callable[[], Settings]) -> None:
    settings = make()
    page = statement(settings, "html")
    tree = ElementTree.fromstring(page.split("\n", 1)[1])
    assert page.startswith("<!DOCTYPE html>\n")
    assert tree.tag == "html"
    assert {element.tag for element in tree.iter()} <= {
        *("html", "head", "meta", "title", "style", "body", "p", "ul", "li", "code"),
        *("table", "thead", "tbody", "tr", "th", "td", "h1", "h2", "h3", "h4", "h5", "h6"),
    }
    text = "".join(tree.itertext())
    for path, _, _ in keys(settings):
        assert path in text
    for peer in settings.destinations:
        assert peer.ae_title in text
    headings = re.findall(r"^#+ ([0-9A-E.]+) ", statement(settings), re.MULTILINE)
    assert [element.get("id") for element in tree.iter() if element.get("id")] == [f"s{n}" for n in headings]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        Table("a", ("x",), (("1", "2"),))


def test_a_value_cannot_become_markup() -> None:
    told = render(Document("t", (), (Section("s", (f"see {code('a`<b>|*')}",)),)), "markdown")
    assert "see `a'<b>|*`" in told
    assert (
        "<b>" not in render(Document("t", (), (Section("s", (code("<b>"),)),)), "html").split("</style>")[1]
    )


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_to_standard_output_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: str
) -> None:
    assert main(["conformance", "--config", str(CONFIG)]) == 0
    assert capsys.readouterr().out == document
    page = tmp_path / "statement.html"
    assert main(["conformance", "--config", str(CONFIG), "--format", "html", "--output", str(page)]) == 0
    assert capsys.readouterr().out == ""
    assert page.read_text(encoding="utf-8") == statement(load_settings(CONFIG, {}), "html")
    assert main(["conformance", "--config", str(tmp_path / "none.yaml")]) == 1
    assert main(["conformance", "--config", str(CONFIG), "--output", str(tmp_path / "no" / "x.md")]) == 1


@pytest.mark.slow
def test_the_statement_needs_no_torch_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dicomnode.conformance import statement;"
        "from dicomnode.settings import load_settings;"
        f"statement(load_settings(Path({str(CONFIG)!r}), {{}})); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT,
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("dicomnode")]


def test_the_specimen_is_a_valid_pair_of_objects(dciodvfy: str, tmp_path: Path, settings: Settings) -> None:
    specimen = make_specimen(settings, None)
    for name, data in (("image", specimen.image), ("report", specimen.report)):
        path = tmp_path / f"{name}.dcm"
        data.save_as(path, enforce_file_format=True)
        assert dcmread(path).SOPClassUID == data.SOPClassUID
        told = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True).stderr
        assert [line for line in told.splitlines() if line.startswith("Error")] == [], told


def test_sources_make_the_node_a_user_of_queries(settings: Settings) -> None:
    silent = statement(settings)
    assert "no `sources` are configured" in silent
    source = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 104}
    asking = statement(changed(sources=[source]))
    assert "while one knows of more" in asking
    assert "while one knows of more" not in silent
    for uid in (*QUERY_CLASSES, *protocol.DOSE_REPORT_CLASSES):
        assert any(f"`{uid}`" in row for row in rows_under(asking, "Proposed presentation contexts"))
    [role] = [row for row in rows_under(asking, "Roles") if row[0] == "Query/Retrieve"]
    assert role[1:] == ["yes", "no"]
    [role] = [row for row in rows_under(silent, "Roles") if row[0] == "Query/Retrieve"]
    assert role[1:] == ["no", "no"]


def test_sources_that_are_fetched_from_and_the_interface_are_told_without_their_secrets() -> None:
    plain = statement(changed())
    assert "no `web_sources` are configured" in plain
    assert "There are no web services." in plain
    source = {"name": "vna", "ae_title": "VNA", "kind": "dicomweb", "url": "https://vna.example/dicom-web"}
    orthanc = {
        "name": "orthanc-a",
        "ae_title": "ORTHANC-A",
        "kind": "orthanc",
        "url": "http://127.0.0.1:8042",
    }
    secrets = {"username": "hushed-user", "password": "hushed-password"}
    web = {"host": "0.0.0.0", "port": 8080, "token": "hushed-token"}
    told = statement(changed(web=web, web_sources=[source | secrets, orthanc]))
    assert rows_under(told, "Web sources")[0][:3] == ["`vna`", "dicomweb", "`https://vna.example/dicom-web`"]
    assert [row[0] for row in rows_under(told, "Requests to sources of kind")] == [
        "Search (QIDO-RS), 10.6",
        "Retrieve (WADO-RS), 10.4",
    ]
    ports = {row[0]: row[1:3] for row in rows_under(told, "Ports")}
    assert ports["`web`"] == ["in", "8080"]
    assert (ports["`vna`"], ports["`orthanc-a`"]) == (["out", "443"], ["out", "8042"])
    assert "a bearer token is asked for" in told
    assert "hushed-password" not in told
    assert "hushed-token" not in told


def test_a_destination_that_takes_the_results_of_some_callers_only_says_of_which() -> None:
    peer = changed().destinations[0].model_dump() | {"callers": ["ORTHANC-A", "ORTHANC-B"]}
    told = statement(changed(destinations=[peer]))
    assert "came from `ORTHANC-A` or `ORTHANC-B`" in told
    assert {row[0]: row[1] for row in rows_under(told, "Every key")}["`destinations[0].callers`"] == (
        "`ORTHANC-A`, `ORTHANC-B`"
    )

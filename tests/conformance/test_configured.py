"""The conformance statement follows the configuration, and tells none of its secrets."""

import pytest
from pydicom.uid import UID

from dicomnode.conformance import statement
from dicomnode.network import protocol
from dicomnode.network.query import QUERY_CLASSES
from dicomnode.network.web_archive import LONGEST_LIST_BYTES
from dicomnode.settings import Settings
from tests.conformance.statements import changed, rows_under


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
    flow = "Series are fetched over HTTP from `vna`, `orthanc-a` on request"
    assert flow in told
    assert "Series are fetched" not in plain
    assert f"no list beyond {LONGEST_LIST_BYTES >> 20} MiB" in told


def test_sources_that_nobody_can_ask_for_are_told_so() -> None:
    source = {"name": "vna", "ae_title": "VNA", "kind": "dicomweb", "url": "HTTPS://vna.example/dicom-web"}
    told = statement(changed(web_sources=[source]))
    assert "nobody can ask" in told
    assert "when the HTTP interface of the node is asked to" not in told
    assert {row[0]: row[1:3] for row in rows_under(told, "Ports")}["`vna`"] == ["out", "443"]


def test_a_destination_that_takes_the_results_of_some_callers_only_says_of_which() -> None:
    peer = changed().destinations[0].model_dump() | {"callers": ["ORTHANC-A", "ORTHANC-B"]}
    told = statement(changed(destinations=[peer]))
    assert "came from `ORTHANC-A` or `ORTHANC-B`" in told
    keys_told = {row[0]: row[1:] for row in rows_under(told, "Every key")}
    assert keys_told["`destinations[0].callers`"] == ["`ORTHANC-A`, `ORTHANC-B`", "none"]


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["markdown", "html"])
def test_no_secret_shows(settings: Settings, kind: str) -> None:
    database = "postgresql+psycopg://node:hunter2@db.example/jobs?password=sesame"
    told = statement(changed(node=settings.node.model_dump() | {"database": database}), kind)  # type: ignore[arg-type]
    for secret in ("hunter2", "sesame", "db.example", "//node"):
        assert secret not in told
    assert "postgresql+psycopg" in told

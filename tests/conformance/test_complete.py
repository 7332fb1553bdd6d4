"""The conformance statement: complete against the tables and the objects that the code writes."""

import ast
import inspect
import re
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID

from dicomnode import errors
from dicomnode.conformance import statement
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
from dicomnode.dicom import functional_groups, multiframe, parsing, pixels, series
from dicomnode.dicom.functional_groups import CARRIED, CLASSIC_NAMES, ENHANCED_ONLY, MERGED, PER_PATH
from dicomnode.dicom.marks import PRIVATE_SCHEME
from dicomnode.dicom.policy import SAID_FOR_THE_SOURCE, TABLE
from dicomnode.dicom.private_elements import PrivateElement
from dicomnode.dicom.projection_tags import PROJECTION_TAGS
from dicomnode.network import filing, header, protocol, receive
from dicomnode.settings import Destination, Settings, all_keys
from tests.conformance.statements import changed, rows_under

FLAVOURS = ("image_type2", "keep_manufacturer")
"""Keys of a destination that say how objects are named, not which are sent."""


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


def test_the_limits_of_an_image_are_those_of_the_code(document: str) -> None:
    (told,) = [line for line in document.splitlines() if line.startswith("By rule `broken-instance`, among")]
    limits = {
        (name, value >> 20 if name.endswith("_BYTES") else value)
        for module in (series, pixels, multiframe, functional_groups)
        for name, value in vars(module).items()
        if name.startswith(("LARGEST_", "MOST_"))
    }
    numbers = [*(limit for _, limit in limits), parsing.DEEPEST_SEQUENCE]
    assert sorted(map(int, re.findall(r"\d+", told))) == sorted(numbers)


def test_a_source_is_of_its_own_class(document: str) -> None:
    """CT Image Storage in the specimen, another one for the frames of a multi-frame object."""
    (row,) = [line for line in document.splitlines() if "| `SourceImageSequence` |" in line]
    assert "item with ReferencedSOPClassUID = that of what was received, " in row


def test_the_series_that_the_source_refers_to_are_told(document: str) -> None:
    (row,) = [line for line in document.splitlines() if "| `ReferencedSeriesSequence` |" in line]
    assert "SeriesInstanceUID = of the source; items of the source that name other series |" in row


def test_what_becomes_of_a_frame_is_told(document: str) -> None:
    start = document.index("Images of a multi-frame source\n\nEach frame gives a derived CT image")
    bullets = [line for line in document[start:].splitlines() if line.startswith("* ")][:4]
    taken, series, shares, left_out = (set(re.findall(r"`(\w+)`", bullet)) for bullet in bullets)
    assert taken == (MERGED | CARRIED) - ENHANCED_ONLY
    assert series == {"ReferencedSeriesSequence", "ReferencedImageSequence"}
    assert shares == PER_PATH | {"DerivationCodeSequence"}
    renamed = {
        row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in rows_under(document, "Under another")
    }
    assert renamed == {one: sorted(names.split()) for one, names in CLASSIC_NAMES.items()}
    assert left_out == ENHANCED_ONLY - CLASSIC_NAMES.keys() - {"ImageType"}


def test_every_private_element_of_images_that_is_read_stands_there(document: str) -> None:
    told = {
        (row[0], row[2].strip("`"))
        for row in rows_under(document, "Private elements that are read of images")
    }
    read = (element.value for element in PrivateElement)
    assert told == {(f"({group:04X},xx{offset:02X})", creator) for group, creator, offset, _ in read}


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


def test_what_every_group_of_a_report_says_is_told_with_values_that_hold_for_all(document: str) -> None:
    shared = document.split("In every measurement group:")[1].split("Further in the group")[0]
    titles = re.findall(r"Further in the group `(.+?)`", document)
    assert len(titles) >= 5
    assert not [title for title in titles if f"`{title}`" in shared]


def test_an_attribute_that_is_said_for_a_silent_source_is_not_told_as_always_copied(document: str) -> None:
    for keyword, when in SAID_FOR_THE_SOURCE.items():
        (row,) = [line for line in document.splitlines() if f"`{keyword}`" in line]
        assert when in row


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


def test_the_specimen_is_a_valid_pair_of_objects(dciodvfy: str, tmp_path: Path, settings: Settings) -> None:
    specimen = make_specimen(settings, None)
    for name, data in (("image", specimen.image), ("report", specimen.report)):
        path = tmp_path / f"{name}.dcm"
        data.save_as(path, enforce_file_format=True)
        assert dcmread(path).SOPClassUID == data.SOPClassUID
        told = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True).stderr
        assert [line for line in told.splitlines() if line.startswith("Error")] == [], told

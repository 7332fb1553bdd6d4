"""The annexes of the statement: the objects that are made, attribute by attribute and item by item."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicomnode.conformance.document import Items, Part, Section, Table, code, table
from dicomnode.conformance.facts import KINDS, codes, kinds, uid_name
from dicomnode.conformance.specimen import Specimen
from dicomnode.dicom import marks
from dicomnode.dicom.functional_groups import CARRIED, CLASSIC_NAMES, ENHANCED_ONLY, MERGED, PER_PATH
from dicomnode.dicom.policy import MUST_STAND, SAID_FOR_THE_SOURCE, TABLE, Row
from dicomnode.dicom.values import items, text
from dicomnode.settings import Settings

SCHEMES: Final = {
    "DCM": "DICOM Controlled Terminology (PS3.16 Annex D)",
    "SCT": "SNOMED CT",
    "LN": "LOINC",
    "UCUM": "Unified Code for Units of Measure",
    "RFC5646": "Tags for identifying languages",
}
_LONGEST_VALUE: Final = 200
_MEASUREMENTS: Final = "126010"
"""Imaging Measurements, the container of the measurement groups (TID 1500)."""


def annexes(settings: Settings, specimen: Specimen) -> tuple[Section, ...]:
    """Annexes A.A to A.E."""
    return (
        Section(
            "Information Object Definitions",
            (
                "Values are those that the writers of this program gave to a small example under the present "
                "configuration; the example's own numbers and UIDs mean nothing. Its source has Series "
                f"Number {code(specimen.source.SeriesNumber)} and Series Description "
                f"{code(specimen.source.SeriesDescription)}.",
            ),
            (
                _shared(settings, specimen),
                _image(specimen),
                _of_frames(),
                _report_header(specimen),
                *_others(),
            ),
            mark="A.A",
        ),
        Section("Structured Report content encoding", _tree(specimen), mark="A.B"),
        Section("Security details", ("No security profile is supported; see 8.",), mark="A.C"),
        Section("Mapping of attributes", _mapping(specimen), mark="A.D"),
        Section("Code set usage", _codes(specimen), mark="A.E"),
    )


# --- A.A ------------------------------------------------------------------------------------------


def _shared(settings: Settings, specimen: Specimen) -> Section:
    root = settings.identity.uid_root
    below = (
        "`2.25` and a 128-bit number (UUID, PS3.5 B.2)"
        if root == "2.25"
        else f"{code(root)} and a number below it"
    )
    types = code("\\".join(specimen.image.ImageType))
    return Section(
        "Information shared by all objects",
        (
            Items(
                (
                    f"UIDs: {below}. They follow from the source UID, model, weights, configuration, "
                    "software version and how often late images re-opened the series: the same input "
                    "under the same configuration gives the same UIDs, anything else gives others.",
                    "Private elements: none are written, and those of the source are removed, in nested "
                    "sequences too. There are no private SOP classes and no private transfer syntaxes.",
                    f"Image Type of derived images: {types} for a destination that asks for nothing; value "
                    "2 is `image_type2` of the destination. "
                    f"{code(marks.IMAGE_TYPE_TERM)} is a defined term of this program: noise reduced by a "
                    "neural network.",
                    f"Coding scheme {code(marks.PRIVATE_SCHEME)}: private, for what the standard has no "
                    "code; A.E lists it. Reports declare it in Coding Scheme Identification Sequence "
                    "(0008,0110).",
                    "Extensions: derived images use attributes of the CT Image IOD and of the modules it "
                    "contains; what the standard knows and the source held beyond them is kept (Standard "
                    "Extended SOP Class).",
                )
            ),
        ),
    )


def _image(specimen: Specimen) -> Section:
    rows = sorted(TABLE, key=lambda row: _tag(row))
    return Section(
        "Derived CT image",
        (
            f"{uid_name(specimen.image.SOPClassUID)} {code(str(specimen.image.SOPClassUID))}. Attributes "
            "without a line here are copied where the standard knows them and has not retired them, and "
            "dropped otherwise; overlays and curves are dropped.",
            table(
                "Attributes",
                "Tag | Attribute | What becomes of it | Value | Presence | Why",
                [(*_policy(row, specimen), row.why) for row in rows],
            ),
        ),
    )


def _of_frames() -> Section:
    left_out = ENHANCED_ONLY - CLASSIC_NAMES.keys() - {"ImageType"}
    return Section(
        "Images of a multi-frame source",
        (
            "Each frame gives a derived CT image; its Source Image Sequence names the class that was "
            "received, and the frame. What A.A.2 calls the source is then the frame as a classic image, "
            "and that is:",
            Items(
                (
                    "with what stands beside the functional groups, and with the values in these of them: "
                    f"{_names((MERGED | CARRIED) - ENHANCED_ONLY)}; other groups are left out;",
                    "with a `ReferencedSeriesSequence` of what its own `ReferencedImageSequence` names, not "
                    "of all that the object refers to; or with the one it had before it was converted;",
                    "of several items of one group, X-ray paths, with the values and codes that are the same "
                    "in all, and with all of `DerivationCodeSequence`; where the paths are not one beam, "
                    f"without the dose and exposure of which each has its share: {_names(PER_PATH)};",
                    f"without what belongs to the object of many frames alone: {_names(left_out)}.",
                )
            ),
            table(
                "Under another name",
                "In the frame | In its image",
                [(code(one), _names(CLASSIC_NAMES[one].split())) for one in sorted(CLASSIC_NAMES)],
            ),
        ),
    )


def _names(keywords: Iterable[str]) -> str:
    return ", ".join(code(one) for one in sorted(keywords))


def _tag(row: Row) -> BaseTag:
    found = tag_for_keyword(row.keyword)
    if found is None:
        raise KeyError(f"{row.keyword} of the attribute policy is no keyword of PS3.6")
    return Tag(found)


def _policy(row: Row, specimen: Specimen) -> tuple[str, str, str, str, str]:
    tag = _tag(row)
    named = f"({tag.group:04X},{tag.element:04X})", code(row.keyword)
    written = row.keyword in specimen.image
    if row.action == "keep":
        return *named, "kept", "as in the source", _presence_of_kept(row.keyword)
    if row.action == "remove-equipment" and not written:
        return *named, "removed", "", "never"
    if row.action == "remove":
        return *named, "removed", "", "never"
    if specimen.source.get(row.keyword) == specimen.image[row.keyword].value and row.action != "set":
        return *named, "kept", "as in the source", "as in the source"
    value = _value(specimen.image[row.keyword], specimen)
    if row.keyword == "ReferencedSeriesSequence":
        value += "; items of the source that name other series"
    return *named, "set", value, "always"


def _presence_of_kept(keyword: str) -> str:
    if keyword in MUST_STAND:
        return "always, empty where the source has none"
    if keyword in SAID_FOR_THE_SOURCE:
        return f"as in the source; else {SAID_FOR_THE_SOURCE[keyword]}"
    return "as in the source"


def _value(element: DataElement, specimen: Specimen) -> str:
    """How an element reads here: what differs from object to object is named by its kind."""
    if element.VR == "UI":
        return _uid(str(element.value), specimen)
    if element.VR in ("DA", "TM", "DT"):
        return "processing time"
    if element.VR in ("OW", "OB"):
        return "pixel data"
    if element.VR == "SQ":
        return "; ".join(_item(item, specimen) for item in element.value) or "no items"
    told = "\\".join(str(one) for one in element.value) if element.VM > 1 else str(element.value)
    return code(told if len(told) <= _LONGEST_VALUE else f"{told[:_LONGEST_VALUE]}...")


def _item(item: Dataset, specimen: Specimen) -> str:
    if "CodeValue" in item:
        return _coded(item)
    names = [
        f"{element.keyword} = {_purpose(element, specimen)}"
        for element in item
        if element.VR != "DT" and element.keyword
    ]
    return f"item with {', '.join(names)}"


def _purpose(element: DataElement, specimen: Specimen) -> str:
    if element.keyword == "ReferencedSOPClassUID":
        return "that of what was received"
    if element.VR == "SQ" and element.value and "CodeValue" in element.value[0]:
        return _coded(element.value[0])
    return "items" if element.VR == "SQ" else _value(element, specimen)


def _uid(uid: str, specimen: Specimen) -> str:
    if uid == specimen.image.InstanceCreatorUID:
        return "the Device UID of this installation"
    if uid_name(uid) != uid:
        return uid_name(uid)
    of_source = {str(element.value) for element in specimen.source if element.VR == "UI"}
    return "of the source" if uid in of_source else "new; see A.A.1"


def _coded(item: Dataset) -> str:
    return f"({text(item, 'CodeValue')}, {text(item, 'CodingSchemeDesignator')}, {text(item, 'CodeMeaning')})"


def _report_header(specimen: Specimen) -> Section:
    kept = (
        "SOPClassUID",
        "Modality",
        "SeriesNumber",
        "SeriesDescription",
        "Manufacturer",
        "ContentQualification",
    )
    own = (
        "ManufacturerModelName",
        "SoftwareVersions",
        "CompletionFlag",
        "VerificationFlag",
        "PreliminaryFlag",
    )
    rows = [
        (
            f"({element.tag.group:04X},{element.tag.element:04X})",
            code(element.keyword),
            _value(element, specimen),
        )
        for element in specimen.report
        if element.keyword in (*kept, *own) and element.VR != "UI"
    ]
    return Section(
        "Report",
        (
            f"{uid_name(specimen.report.SOPClassUID)} {code(str(specimen.report.SOPClassUID))}, one a "
            "derived series, in a series of its own. Its observer is a device; nobody has verified it.",
            table("Attributes of its own", "Tag | Attribute | Value", rows),
        ),
    )


def _others() -> tuple[Section, ...]:
    known = {KINDS[0].sop_class_uid, KINDS[-1].sop_class_uid}
    rows = [
        (
            kind.what,
            uid_name(kind.sop_class_uid),
            code(kind.sop_class_uid),
            code(f"destinations[].{kind.switch}"),
        )
        for kind in kinds()
        if kind.sop_class_uid not in known
    ]
    if not rows:
        return ()
    told = table("Sent where a destination asks for them", "What | SOP Class | SOP Class UID | Key", rows)
    return (Section("Further objects", (told,)),)


# --- A.B ------------------------------------------------------------------------------------------

_Line = tuple[int, str, str, str, str]
"""Depth, relationship, value type, concept, value."""
_HEADER: Final = "Level | Relationship | Value type | Concept | Value or unit"


def _tree(specimen: Specimen) -> tuple[Part, ...]:
    """The content tree of a real report: the root, what all measurement groups share, and what each adds."""
    report = specimen.report
    root: list[_Line] = []
    groups: list[list[_Line]] = []
    for item in items(report, "ContentSequence"):
        if _concept_value(item) == _MEASUREMENTS:
            root.append(_line(item, 1))
            groups = [_lines(group, 2) for group in items(item, "ContentSequence")]
        else:
            root += _lines(item, 1)
    everywhere = set.intersection(*({_name(line) for line in group} for group in groups))
    template = "".join(text(one, "TemplateIdentifier") for one in items(report, "ContentTemplateSequence"))
    parts: list[Part] = [
        f"Root: TID {template}, {code(_coded(items(report, 'ConceptNameCodeSequence')[0]))}. Measurement "
        "groups are TID 1501 and stand below Imaging Measurements. A figure that is not known is left "
        "out, and a group without figures with it.",
        _lines_table("Root", root),
        _lines_table("In every measurement group", _shared_lines(groups, everywhere)),
    ]
    for group in groups:
        title = next(line[4] for line in group if "112039" in line[3])
        own = [line for line in group if _name(line) not in everywhere]
        parts.append(_lines_table(f"Further in the group {title}", own))
    return tuple(parts)


def _shared_lines(groups: Sequence[list[_Line]], names: set[tuple[int, str, str, str]]) -> list[_Line]:
    """What every group says, each value only where it is the same in all of them."""
    others = [set(group) for group in groups[1:]]
    shared = [line for line in groups[0] if _name(line) in names]
    return [
        line if all(line in other for other in others) else (*line[:4], "the group's own") for line in shared
    ]


def _lines_table(caption: str, lines: Sequence[_Line]) -> Table:
    """Siblings that say the same with other values stand once, with their number."""
    counted = Counter(_name(line) for line in lines)
    first = {_name(line): line for line in reversed(lines)}
    rows = []
    for name, number in counted.items():
        depth, relationship, kind, concept, value = first[name]
        told = f"{value} and {number - 1} more" if number > 1 else value
        rows.append((str(depth), relationship, kind, concept, told))
    return table(caption, _HEADER, rows)


def _name(line: _Line) -> tuple[int, str, str, str]:
    return line[:4]


def _lines(item: Dataset, depth: int) -> list[_Line]:
    found = [_line(item, depth)]
    for nested in items(item, "ContentSequence"):
        found += _lines(nested, depth + 1)
    return found


def _line(item: Dataset, depth: int) -> _Line:
    names = items(item, "ConceptNameCodeSequence")
    return (
        depth,
        text(item, "RelationshipType"),
        text(item, "ValueType"),
        _coded(names[0]) if names else "",
        _content(item),
    )


def _content(item: Dataset) -> str:
    kind = text(item, "ValueType")
    if kind == "NUM":
        return "".join(
            f"unit {_coded(unit)}"
            for value in items(item, "MeasuredValueSequence")
            for unit in items(value, "MeasurementUnitsCodeSequence")
        )
    if kind == "CODE":
        return "".join(_coded(one) for one in items(item, "ConceptCodeSequence"))
    if kind == "IMAGE":
        return "reference to an image"
    if kind == "UIDREF":
        return "a UID"
    if kind == "CONTAINER":
        return "".join(
            f"TID {text(one, 'TemplateIdentifier')}" for one in items(item, "ContentTemplateSequence")
        )
    return code(text(item, "TextValue") or text(item, "PersonName"))


def _concept_value(item: Dataset) -> str:
    return "".join(text(one, "CodeValue") for one in items(item, "ConceptNameCodeSequence"))


# --- A.D and A.E ----------------------------------------------------------------------------------


def _mapping(specimen: Specimen) -> tuple[Part, ...]:
    """What the example's image and report hold exactly as its source does."""
    source, image, report = specimen.source, specimen.image, specimen.report
    rows = [
        (f"({tag.group:04X},{tag.element:04X})", code(source[tag].keyword), "yes", "yes")
        for tag in sorted(source.keys())
        if _same(source, image, tag) and _same(source, report, tag)
    ]
    return (
        "There is no worklist and no MPPS: all identification comes from the source images.",
        table("Copied from the source into both", "Tag | Attribute | Derived image | Report", rows),
        "Into derived images A.A.2 copies further attributes. Derived images reference their source slice "
        "in Source Image Sequence (0008,2112) and its series in Referenced Series Sequence (0008,1115); "
        "the report references source and derived images as evidence.",
    )


def _same(one: Dataset, other: Dataset, tag: BaseTag) -> bool:
    return tag in other and one[tag].value == other[tag].value


def _codes(specimen: Specimen) -> tuple[Part, ...]:
    ours = {
        text(item, "CodingSchemeDesignator"): text(item, "CodingSchemeName")
        for item in items(specimen.report, "CodingSchemeIdentificationSequence")
    }
    found = codes(specimen.image, specimen.report)
    names = SCHEMES | {designator: f"{name} (private, of this program)" for designator, name in ours.items()}
    schemes = [(code(one), names[one]) for one in dict.fromkeys(one.scheme_designator for one in found)]
    rows = [(code(one.value), code(one.scheme_designator), one.meaning) for one in found]
    return (
        table("Coding schemes", "Designator | Name", schemes),
        table("Codes that are written", "Value | Scheme | Meaning", rows),
        "Codes of the source are copied with the sequences that are kept.",
    )

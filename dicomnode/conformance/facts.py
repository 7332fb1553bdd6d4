"""What the statement says, read from the tables and functions the node itself works with."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from dicomnode.checked import Section
from dicomnode.conformance.document import code
from dicomnode.dicom import concepts, marks
from dicomnode.dicom.admission import is_ct_image
from dicomnode.dicom.derived import SOURCE_PURPOSE
from dicomnode.errors import NotCt, SeriesRefused
from dicomnode.network import protocol
from dicomnode.settings import Destination, Settings

COMPREHENSIVE_SR: Final = "1.2.840.10008.5.1.4.1.1.88.33"
PARAMETRIC_MAP: Final = "1.2.840.10008.5.1.4.1.1.30"
KEY_OBJECTS: Final = "1.2.840.10008.5.1.4.1.1.88.59"
NOT_SHOWN: Final = "set, not shown"
EMPTY: Final = "empty"
_SECRET_WORDS: Final = ("password", "passphrase", "secret", "token", "credential")
_ADDRESSES_WITH_SECRETS: Final = ("node.database",)


@dataclass(frozen=True)
class Kind:
    """A kind of object that is sent; `switch` is the key of a destination that asks for it ("": always)."""

    what: str
    switch: str
    sop_class_uid: str


KINDS: Final = (
    Kind("derived CT images", "", protocol.CT_IMAGE),
    Kind("map of what was removed", "removed_map", PARAMETRIC_MAP),
    Kind("map of the standard deviation over seeds", "uncertainty_map", PARAMETRIC_MAP),
    Kind("key object selections", "key_objects", KEY_OBJECTS),
    Kind("report", "report", COMPREHENSIVE_SR),
)
"""In the order in which they are sent."""

SENT_SYNTAX: Final = protocol.EXPLICIT_VR_LITTLE_ENDIAN
DEFAULT_SYNTAX: Final = protocol.IMPLICIT_VR_LITTLE_ENDIAN
"""For peers that take nothing else."""
"""In which everything is written and sent."""


def uid_name(uid: str) -> str:
    """The name of a UID in the registry of PS3.6."""
    return str(UID(uid).name)


def kinds() -> tuple[Kind, ...]:
    """The kinds for which destinations have a switch, or which all get."""
    return tuple(kind for kind in KINDS if not kind.switch or kind.switch in Destination.model_fields)


def sent_to(destination: Destination) -> tuple[Kind, ...]:
    """What a destination is sent."""
    return tuple(kind for kind in kinds() if not kind.switch or getattr(destination, kind.switch))


def sent_classes(settings: Settings) -> tuple[str, ...]:
    """SOP classes sent to any destination."""
    return tuple(
        dict.fromkeys(kind.sop_class_uid for peer in settings.destinations for kind in sent_to(peer))
    )


def accepted() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(SOP Class UID, transfer syntaxes in order of preference) of what the listener accepts."""
    return tuple(
        (str(context.abstract_syntax), tuple(str(one) for one in context.transfer_syntax))
        for context in protocol.accepted_contexts()
    )


def is_enhanced(sop_class_uid: str) -> bool:
    """Does the first rule of admission let this class pass?"""
    header = Dataset()
    header.SOPClassUID = sop_class_uid
    header.Modality = "CT"
    try:
        is_ct_image(header)
    except NotCt:
        return False
    return True


def status_ranges(holds: Callable[[int], bool]) -> str:
    """The status codes for which something holds, of all there are: "0000, B000 to BFFF"."""
    ranges: list[list[int]] = []
    for status in filter(holds, range(0x10000)):
        if ranges and ranges[-1][1] == status - 1:
            ranges[-1][1] = status
        else:
            ranges.append([status, status])
    return ", ".join(
        code(f"{first:04X}") if first == last else f"{code(f'{first:04X}')} to {code(f'{last:04X}')}"
        for first, last in ranges
    )


def refusals() -> list[type[SeriesRefused]]:
    """Every rule by which a series is kept and not enhanced, in the order of `errors`."""
    return list(_below(SeriesRefused))


def _below(kind: type[SeriesRefused]) -> Iterator[type[SeriesRefused]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)


def sentence(rule: type[SeriesRefused]) -> str:
    """What a rule refuses, as its docstring says."""
    return " ".join((rule.__doc__ or "").split())


# --- codes ----------------------------------------------------------------------------------------


def codes(*written: Dataset) -> list[Code]:
    """Every code this program may write, and those that the given objects hold, by scheme and value."""
    found = {SOURCE_PURPOSE: None}
    for data in written:
        found |= dict.fromkeys(_codes_in(data))
    for value in vars(marks).values():
        if isinstance(value, tuple) and len(value) == 3 and all(isinstance(one, str) for one in value):
            found[value] = None
    for value in vars(concepts).values():
        for one in value.values() if isinstance(value, dict) else (value,):
            if isinstance(one, Code):
                found[one.value, one.scheme_designator, one.meaning] = None
    return [Code(*one) for one in sorted(found, key=lambda one: (one[1], one[0]))]


def _codes_in(data: Dataset) -> Iterator[tuple[str, str, str]]:
    if "CodeValue" in data:
        yield str(data.CodeValue), str(data.CodingSchemeDesignator), str(data.CodeMeaning)
    for element in data:
        if element.VR == "SQ":
            for item in element.value:
                yield from _codes_in(item)


# --- configuration --------------------------------------------------------------------------------


def keys(settings: Settings) -> list[tuple[str, str, str]]:
    """(path, value, default) of every key; secrets and what may hold one are not shown."""
    return list(_keys(settings, ""))


def _keys(section: Section, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in type(section).model_fields.items():
        value, path = getattr(section, name), f"{prefix}{name}"
        if isinstance(value, Section):
            yield from _keys(value, f"{path}.")
        elif isinstance(value, tuple):
            if not value:
                yield path, "none", "none"
            if not all(isinstance(item, Section) for item in value):
                default = field.get_default(call_default_factory=True)
                yield path, _listed(value), "required" if field.is_required() else _listed(default)
                continue
            for position, item in enumerate(value):
                yield from _keys(item, f"{path}[{position}].")
        else:
            yield path, _shown(path, value), _default(path, field)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(code, values)) or "none"


def _default(path: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return _shown(path, field.get_default(call_default_factory=True))


def _shown(path: str, value: object) -> str:
    if value is None or value == "":
        return EMPTY
    if path in _ADDRESSES_WITH_SECRETS:
        return f"{code(str(value).partition(':')[0])} (address and credentials are not shown)"
    name = path.rsplit(".", 1)[-1]
    if isinstance(value, SecretStr) or name.endswith("_key") or any(word in name for word in _SECRET_WORDS):
        return NOT_SHOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return code(value)

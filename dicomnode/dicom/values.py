"""Tolerant reading of single values from headers that other software wrote.

Real headers hold text in numbers, decimals in integers, empty strings and wrong lengths. Nothing here
raises for them: what cannot be read is `None` or empty, and the caller decides what that means.
"""

import math
import struct
from collections.abc import Collection, Iterable
from typing import Final

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag

UNREADABLE: Final[tuple[type[Exception], ...]] = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    OSError,
    EOFError,
    struct.error,
    InvalidDicomError,
    BytesLengthException,
)
"""What pydicom raises while it turns bytes that other software wrote into values."""


LONGEST_LIST: Final = 8
LONGEST_VALUE: Final = 16 * 1024
"""Bytes of a value that is read. The longest text with a limit (LT) has 10240 characters; a megabyte of
numbers takes seconds to convert."""


def is_too_long(element: object) -> bool:
    """An element still encoded, no sequence, and longer than anything that is read as text or numbers."""
    if not isinstance(element, RawDataElement) or len(element.value or b"") <= LONGEST_VALUE:
        return False
    known = dictionary_has_tag(element.tag) and dictionary_VR(element.tag) == "SQ"
    return element.VR != "SQ" and not (element.VR in (None, "UN") and known)


def value_of(header: Dataset, keyword: str) -> object:
    """The value of an element, or None where it is absent, empty, too long or cannot be read."""
    try:
        if is_too_long(header.get_item(keyword)):
            return None
        return header.get(keyword)
    except UNREADABLE:
        return None


def texts(header: Dataset, keyword: str) -> tuple[str, ...]:
    """All values of an element as stripped text; empty tuple where absent or empty."""
    value = value_of(header, keyword)
    if value is None or isinstance(value, DicomSequence):  # a wrong VR; its items are no text
        return ()
    many: Iterable[object] = value if isinstance(value, MultiValue | list | tuple) else (value,)
    found = tuple(str(one).strip(" \0") for one in many if one is not None)
    return found if any(found) else ()


def text(header: Dataset, keyword: str) -> str:
    """The element as one stripped text, values joined by a backslash; empty where absent."""
    return "\\".join(texts(header, keyword))


def named(header: Dataset, keyword: str, known: Collection[str]) -> str:
    """The element for a message: words outside `known` are not repeated, they might be a patient's name."""
    found = texts(header, keyword)
    if not found:
        return "missing"
    words = [one.upper() if one.upper() in known else "?" for one in found[:LONGEST_LIST]]
    return "\\".join(words) if set(words) != {"?"} else "another value"


def numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """All values of an element as finite numbers; empty tuple if any of them is not one."""
    found = tuple(finite(one) for one in texts(header, keyword))
    return () if None in found else tuple(one for one in found if one is not None)


def number(header: Dataset, keyword: str) -> float | None:
    """An element as one finite number; None where it holds none, or several that are not the same.

    Which of two tube voltages or doses is meant nobody can tell.
    """
    found = {decimal(one) for one in texts(header, keyword)}
    return found.pop() if len(found) == 1 else None


def decimal(value: str) -> float | None:
    """A finite number from text, or None; a comma for the point is understood where there is no point."""
    return finite(value.replace(",", ".") if "." not in value else value)


def finite(value: object) -> float | None:
    """A finite float from a number or its text, or None."""
    try:
        found = float(str(value))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def tags_of(header: Dataset) -> tuple[BaseTag, ...]:
    """The tags of a data set; going over the data set itself would convert every element."""
    return tuple(header.keys())


def items(header: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of a sequence; empty tuple where absent or unreadable."""
    value = value_of(header, keyword)
    return tuple(value) if isinstance(value, DicomSequence) else ()


def code_of(header: Dataset, keyword: str) -> tuple[str, str]:
    """(code value, coding scheme designator) of a code sequence's first item; empty where absent."""
    for item in items(header, keyword):
        return text(item, "CodeValue"), text(item, "CodingSchemeDesignator")
    return "", ""

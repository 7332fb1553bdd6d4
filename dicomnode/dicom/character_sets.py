"""Write a text in the character sets that a data set names, with code extensions (PS3.5 6.1.2.4 and 6.1.2.5).

pydicom reads these well. Writing, it leaves out escape sequences: those of GB 2312, of a set of many bytes
that is named alone, of Latin-1 behind an empty first value, and the one that brings ASCII back behind kanji.
"""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom.charset import ENCODINGS_TO_CODES, python_encoding
from pydicom.charset import default_encoding as DEFAULT

_ESCAPE_LEFT: Final = "\x1b$)A"
"""What pydicom leaves of ISO 2022 IR 58 in a text that it has read."""
_ASCII: Final = b"\x1b(B"
_ROMAN: Final = b"\x1b(J"
"""The left half of JIS X 0201: what stands in the place of ASCII where the first set is ISO 2022 IR 13."""
_KATAKANA: Final = "shift_jis"
_IN_G0: Final = ("iso2022_jp", "iso2022_jp_2")
"""ISO 2022 IR 87 and 159, which take the place of ASCII; all others stand beside it, in G1."""
_CHINESE: Final = "iso_ir_58"
_NEVER_FIRST: Final = (*_IN_G0, _CHINESE, "euc_kr")
"""Sets of many bytes: where they are named first all the same, a value begins in ASCII."""
_FILLER: Final = b"\xa4\xd4"
"""With it Python composes the Korean syllables that KS X 1001 has not, and no other reader knows of that."""
_HALVES: Final = re.compile(rb"\x1b(\$@|\$B|\$\(D|\(B|\(J)")
"""What G0 is set to by escape sequences."""
_BY_CODEC: Final = {codecs.lookup(one).name: one for one in ENCODINGS_TO_CODES} | {"ascii": DEFAULT}


def encode(words: str, encodings: Sequence[str]) -> bytes:
    """A value without control characters in these sets, named as `pydicom.charset.convert_encodings` does.

    What none of them has becomes a question mark. With no set but the first and that one not named, letters
    that nobody knows, read byte by byte, stay the same bytes.
    """
    first = encodings[0] if encodings[0] in _NEVER_FIRST else _usual_name(encodings[0])
    alone = len(encodings) == 1 and first not in _NEVER_FIRST
    if alone or first not in ENCODINGS_TO_CODES:
        return words.encode(encodings[0], "replace")
    extensions = [one for one in map(_usual_name, encodings) if one in ENCODINGS_TO_CODES and one != DEFAULT]
    return _extended(words, DEFAULT if first in _NEVER_FIRST else first, extensions)


def without_escapes_left(words: str, encodings: Sequence[str]) -> str:
    """A text that pydicom has read in these sets, without the escape sequences that it leaves in it."""
    return words.replace(_ESCAPE_LEFT, "") if _CHINESE in encodings else words


def ends_in_ascii(value: bytes) -> bool:
    """Whether ASCII can be put behind it: kanji that nothing ends would take it for more of them."""
    return [b"", *_HALVES.findall(value)][-1] not in (b"$@", b"$B", b"$(D")


def _usual_name(encoding: str) -> str:
    """pydicom's own for what it forgives: latin1, iso_ir 100."""
    if encoding in python_encoding.values():
        return encoding
    return _BY_CODEC.get(codecs.lookup(encoding).name, encoding)


def _extended(words: str, first: str, extensions: Sequence[str]) -> bytes:
    used = [_set_of(one, extensions) for one in words if not one.isascii()]
    value = _Value(first, _IN_G0 if first == DEFAULT and {*used} <= {_CHINESE, None} else (*_IN_G0, _CHINESE))
    # Korean is announced at the head of the line (PS3.5 I.3), and ASCII may stand behind it.
    if used and used[0] is not None and used[0] not in value.apart:
        value.turn_to(used[0])
    for one in words:
        # A set that is active goes on as long as it has the letters: each turn costs bytes.
        found = None if one.isascii() else _set_of(one, [value.active, *extensions])
        value.turn_to(found or DEFAULT)
        value.written += _bytes_in(one, found) or b"?" if found else one.encode("ascii", "replace")
    return value.ended()


@dataclass
class _Value:
    """A value as it grows. For readers one set is active; for the standard there is one in G0 and one in G1.

    `apart`: sets beside which no ASCII is written. GB 2312 allows it, but DCMTK looks for the next escape
    sequence only after an even number of bytes; so Chinese stands alone where another follows.
    """

    first: str
    apart: Sequence[str]
    active: str = field(init=False)
    in_g1: str = field(init=False)
    written: bytes = b""

    def __post_init__(self) -> None:
        self.active = self.in_g1 = self.first

    def turn_to(self, encoding: str) -> None:
        """Make a set active; DEFAULT is ASCII, which is there beside the sets of G1."""
        if self.active in (self.apart if encoding == DEFAULT else _IN_G0) and encoding not in _IN_G0:
            self._turn_back()
        if encoding not in (self.active, DEFAULT):
            self._designate(encoding)

    def ended(self) -> bytes:
        """The first set has to be active at the end (PS3.5 6.1.2.5.3)."""
        if self.active in _IN_G0:
            self._turn_back()
        if self.first not in (self.in_g1, DEFAULT):
            self._designate(self.first)
        return self.written

    def _turn_back(self) -> None:
        if self.active == _CHINESE and self.first != DEFAULT:
            self._designate(self.first)
        else:
            self.written += _ROMAN if self.first == _KATAKANA else _ASCII
            self.active = DEFAULT

    def _designate(self, encoding: str) -> None:
        self.written += ENCODINGS_TO_CODES[encoding]
        self.active = encoding
        if encoding not in _IN_G0:
            self.in_g1 = encoding


def _set_of(letter: str, encodings: Sequence[str]) -> str | None:
    return next((one for one in encodings if one != DEFAULT and _bytes_in(letter, one)), None)


def _bytes_in(letter: str, encoding: str) -> bytes | None:
    """A letter beyond ASCII in a set that is active; None where it has no such letter."""
    try:
        code = letter.encode(encoding)
    except UnicodeEncodeError:
        return None
    if encoding == _KATAKANA:  # Python's has kanji, too, and a yen sign that is a backslash
        return code if len(code) == 1 and code >= b"\xa1" else None
    if encoding in _IN_G0:  # Python's have several sets each, and write the escape sequences
        escape = ENCODINGS_TO_CODES[encoding]
        return code.removeprefix(escape).removesuffix(_ASCII) if code.startswith(escape) else None
    return None if encoding == "euc_kr" and code.startswith(_FILLER) else code

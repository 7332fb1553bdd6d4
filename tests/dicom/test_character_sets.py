"""With code extensions, all readers read the same: pydicom, DCMTK and the letter of the standard."""

import subprocess
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import TEXT_VR_DELIMS

from dicomnode.dicom.character_sets import encode, without_escapes_left

LETTERS: Final = {
    "ISO 2022 IR 100": "Üéß±",
    "ISO 2022 IR 101": "Łódź",
    "ISO 2022 IR 109": "ĉĝĥŭ",
    "ISO 2022 IR 110": "āēģķ",
    "ISO 2022 IR 144": "Грудьё",
    "ISO 2022 IR 126": "Θώραξ",
    "ISO 2022 IR 127": "صدر",
    "ISO 2022 IR 138": "חזה",
    "ISO 2022 IR 148": "Göğüs",
    "ISO 2022 IR 166": "ทรวง",
    "ISO 2022 IR 13": "ﾑﾈｶﾞ",
    "ISO 2022 IR 58": "胸部单扫描",
    "ISO 2022 IR 149": "흉부검사胸",
    "ISO 2022 IR 87": "胸部単純ボ学",
    "ISO 2022 IR 159": "丂丄丅",
}
"""Defined terms (PS3.3 tables C.12-3 and C.12-4) and letters of theirs; one in JIS X 0208 holds a 5C."""
MANY_BYTES: Final = ("ISO 2022 IR 58", "ISO 2022 IR 149", "ISO 2022 IR 87", "ISO 2022 IR 159")
FIRST: Final = ("", *(term for term in LETTERS if term not in MANY_BYTES))
DESIGNATIONS: Final = {
    b"(B": (0, "ascii", 1),
    b"(J": (0, "ascii", 1),
    b"$B": (0, "iso2022_jp", 2),
    b"$(D": (0, "iso2022_jp_2", 2),
    b"-A": (1, "iso8859_1", 1),
    b"-B": (1, "iso8859_2", 1),
    b"-C": (1, "iso8859_3", 1),
    b"-D": (1, "iso8859_4", 1),
    b"-F": (1, "iso8859_7", 1),
    b"-G": (1, "iso8859_6", 1),
    b"-H": (1, "iso8859_8", 1),
    b"-L": (1, "iso8859_5", 1),
    b"-M": (1, "iso8859_9", 1),
    b"-T": (1, "tis_620", 1),
    b")I": (1, "shift_jis", 1),
    b"$)A": (1, "gb2312", 2),
    b"$)C": (1, "euc_kr", 2),
}
"""Escape sequences (PS3.3, the same tables): which half they fill, with what, and its bytes a letter."""
INITIAL: Final = {
    "": (b"(B", None),
    "ISO 2022 IR 100": (b"(B", b"-A"),
    "ISO 2022 IR 101": (b"(B", b"-B"),
    "ISO 2022 IR 109": (b"(B", b"-C"),
    "ISO 2022 IR 110": (b"(B", b"-D"),
    "ISO 2022 IR 126": (b"(B", b"-F"),
    "ISO 2022 IR 127": (b"(B", b"-G"),
    "ISO 2022 IR 138": (b"(B", b"-H"),
    "ISO 2022 IR 144": (b"(B", b"-L"),
    "ISO 2022 IR 148": (b"(B", b"-M"),
    "ISO 2022 IR 166": (b"(B", b"-T"),
    "ISO 2022 IR 13": (b"(J", b")I"),
}


def written(terms: Sequence[str], words: str) -> bytes:
    return encode(words, convert_encodings(list(terms)))


def by_pydicom(terms: Sequence[str], value: bytes) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = decode_bytes(value, convert_encodings(list(terms)), TEXT_VR_DELIMS)
    return without_escapes_left(read, convert_encodings(list(terms)))


def by_the_standard(terms: Sequence[str], value: bytes) -> str:
    """PS3.5 6.1.2.5: G0 and G1 are set one by one, and at the end those of value 1 have to be active."""
    first = INITIAL.get(terms[0], INITIAL[""])
    halves, read = list(first), ""
    while value:
        if value[:1] == b"\x1b":
            sequence = next(one for one in DESIGNATIONS if value.startswith(one, 1))
            halves[DESIGNATIONS[sequence][0]] = sequence
            value = value[1 + len(sequence) :]
            continue
        sequence = halves[value[0] >> 7]
        assert sequence is not None, "a byte above 7F before a set was designated for it"
        half, codec, width = DESIGNATIONS[sequence]
        width = 1 if value[:1] == b" " else width
        introduced = b"\x1b" + sequence if half == 0 and width == 2 else b""
        read += (introduced + value[:width]).decode(codec)
        value = value[width:]
    assert halves[0] == first[0]
    assert first[1] in (None, halves[1])
    return read


def by_dcmtk(dcmdump: str, folder: Path, terms: Sequence[str], value: bytes) -> str:
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID, data.SpecificCharacterSet = "1.2.3", "1.2.4", list(terms)
    data.add_new("SeriesDescription", "LO", value + b" " * (len(value) % 2))
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.save_as(folder / "one.dcm", enforce_file_format=True)
    asked = [dcmdump, "+U8", "+L", "+P", "0008,103e", str(folder / "one.dcm")]
    told = subprocess.run(asked, capture_output=True, check=True, text=True).stdout
    return told.split("[", 1)[1].rsplit("]", 1)[0]


def dcmtk_knows(terms: Sequence[str]) -> bool:
    """No set of many bytes as the first, no Japanese one: those names GNU's iconv does not know."""
    return terms[0] not in MANY_BYTES and terms != ["ISO 2022 IR 13"] and not {*terms} & {*MANY_BYTES[2:]}


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (["ISO 2022 IR 100", "ISO 2022 IR 58"], "AI | Ü 胸部"),
        (["ISO 2022 IR 100", "ISO 2022 IR 58"], "AI | Ü 胸部 CT 扫描 Ü x"),
        (["ISO 2022 IR 100", "ISO 2022 IR 58"], "AI | 胸部"),
        (["ISO 2022 IR 13", "ISO 2022 IR 58"], "AI | ﾑﾈ 胸部 ﾑ"),
        (["", "ISO 2022 IR 58"], "AI | 胸部 CT"),
        (["", "ISO 2022 IR 58", "ISO 2022 IR 144"], "胸部 ё扫描"),
        (["ISO 2022 IR 58"], "AI | 胸部 CT"),
        (["ISO 2022 IR 58", "ISO 2022 IR 100"], "Ü 胸部 Ü"),
        (["", "ISO 2022 IR 149"], "AI | 흉부 CT"),
        (["ISO 2022 IR 149"], "AI | 흉부 CT"),
        (["ISO 2022 IR 100", "ISO 2022 IR 149", "ISO 2022 IR 58"], "Ü 흉부 单 Ü"),
        (["", "ISO 2022 IR 87"], "AI | 胸部 CT ボ学"),
        (["ISO 2022 IR 87"], "AI | 胸部 CT"),
        (["ISO 2022 IR 144", "ISO 2022 IR 87"], "Грудь 胸部"),
        (["ISO 2022 IR 144", "ISO 2022 IR 87"], "Грудь 胸部 Г"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87", "ISO 2022 IR 159"], "ﾑﾈ 胸丂部 CTﾑ"),
        (["ISO 2022 IR 13"], "AI | ﾑﾈ CT"),
        (["", "ISO 2022 IR 100"], "AI | Übersicht"),
        (["ISO 2022 IR 100", "ISO 2022 IR 126", "ISO 2022 IR 144"], "Ü Грудь Ü Θώραξ Ü x"),
    ],
)
def test_every_reader_reads_what_was_written(
    terms: list[str], words: str, tmp_path: Path, program: Callable[[str], str]
) -> None:
    value = written(terms, words)
    assert by_the_standard(terms, value) == by_pydicom(terms, value) == words
    if dcmtk_knows(terms):
        assert by_dcmtk(program("dcmdump"), tmp_path, terms, value) == words


@st.composite
def described(draw: st.DrawFn) -> tuple[list[str], str]:
    """One to four sets, and words in their letters."""
    terms = draw(st.lists(st.sampled_from(list(LETTERS)), min_size=1, max_size=3, unique=True))
    terms = [draw(st.sampled_from(FIRST)), *terms]
    letters = "CT 1|" + "".join(LETTERS[term] for term in terms if term)
    return terms, draw(st.text(letters, min_size=1, max_size=20)).strip() + "."


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(described())
def test_every_reader_reads_any_mixture(
    tmp_path: Path, program: Callable[[str], str], given: tuple[list[str], str]
) -> None:
    terms, words = given
    value = written(terms, words)
    assert by_the_standard(terms, value) == by_pydicom(terms, value) == words
    if dcmtk_knows(terms):
        assert by_dcmtk(program("dcmdump"), tmp_path, terms, value) == words


@settings(max_examples=200)
@given(
    described(),
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\\"), max_size=12),
)
@example((["", "ISO 2022 IR 149"], "1."), "\u3164")
@example((["", "ISO 2022 IR 149"], "1."), "샦켒")
def test_only_what_no_set_has_becomes_a_question_mark(given: tuple[list[str], str], strange: str) -> None:
    terms, words = given
    value = written(terms, words + strange + words)
    read = by_pydicom(terms, value)
    assert read.startswith(words)
    assert read.endswith(words)
    kept = read[len(words) : -len(words)]
    assert all(one in (other, "?") for one, other in zip(kept, strange, strict=True))
    by_the_standard(terms, value)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (["latin1", "ISO 2022 IR 144"], "Ü Гр"),
        (["ISO_IR_100", "ISO 2022 IR 87"], "Ü 胸部"),
        (["iso_ir 100", "ISO 2022 IR 58"], "Ü 胸部"),
        (["ascii", "ISO 2022 IR 87"], "CT 胸部"),
    ],
)
def test_forgiven_spellings_name_the_same_sets(terms: list[str], words: str) -> None:
    first = "" if terms[0] == "ascii" else "ISO 2022 IR 100"
    assert written(terms, words) == written([first, *terms[1:]], words)

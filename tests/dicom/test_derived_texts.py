"""Texts of derived images: character sets, lengths, and what the reader is told."""

import struct
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode.dicom.derived import Identity, Provenance
from tests.dicom.changes import put
from tests.dicom.rewritten import Errors, raw, write
from tests.makers import make_series


def with_description(folder: Path, terms: str | list[str], came: bytes) -> list[Path]:
    """A series of one image with these bytes as Series Description, whatever the sets say to them."""

    def change(data: Dataset, index: int) -> None:
        data.SpecificCharacterSet = terms
        data.add_new("SeriesDescription", "LO", came)

    return make_series(folder, slices=1, change=change)


def test_foreign_character_sets_survive(tmp_path: Path, identity: Identity, provenance: Provenance) -> None:
    name = "Люкceмбypг"

    def cyrillic(data: Dataset, index: int) -> None:
        data.SpecificCharacterSet = "ISO_IR 144"
        data.PatientName = name
        data.SeriesDescription = name
        data.InstitutionName = name

    _, images = write(make_series(tmp_path / "s", change=cyrillic), identity, provenance, tmp_path / "d")
    assert images[0].PatientName == name
    assert images[0].SeriesDescription == f"AI-DN | {name}"
    assert images[0].ContributingEquipmentSequence[0].InstitutionName == name


def test_a_long_description_is_cut_at_64_characters(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    def change(data: Dataset, index: int) -> None:
        data.SeriesDescription = "x" * 64

    _, images = write(make_series(tmp_path / "s", change=change), identity, provenance, tmp_path / "d")
    assert len(images[0].SeriesDescription) == 64
    assert images[0].SeriesDescription.startswith("AI-DN | xxx")


def test_quality_reasons_are_shown_to_the_reader(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    labelled = replace(provenance, verdict="label", verdict_reasons=("bias in fat 3.1 HU",))
    _, images = write(make_series(tmp_path / "s"), identity, labelled, tmp_path / "d")
    assert "bias in fat 3.1 HU" in str(images[0].ImageComments)


def test_a_description_is_cut_at_64_bytes_too(
    tmp_path: Path, identity: Identity, provenance: Provenance, object_errors: Errors
) -> None:
    japanese = ["", "ISO 2022 IR 87"]
    for number, (terms, described) in enumerate([(japanese, "胸部単純" * 6), ("ISO_IR 192", "Грудь " * 9)]):

        def change(data: Dataset, index: int, terms=terms, described=described) -> None:
            data.SpecificCharacterSet, data.SeriesDescription = terms, described

        paths = make_series(tmp_path / f"s{number}", slices=1, change=change)
        (image,) = write(paths, identity, provenance, tmp_path / f"d{number}")[1]
        assert image.SeriesDescription.startswith(f"AI-DN | {described[:10]}")
        assert len(raw(tmp_path / f"d{number}" / "00001.dcm", "SeriesDescription")) <= 64
        assert object_errors(tmp_path / f"d{number}" / "00001.dcm") == Counter()


@pytest.mark.parametrize("words", ["ﾍｯﾄﾞ CT", "山田"])
def test_katakana_in_one_byte_each_stay_beside_our_prefix(
    words: str, tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    """Under ISO_IR 13 alone; kanji do not belong there, and are written as they came."""

    paths = with_description(tmp_path / "s", "ISO_IR 13", words.encode("shift_jis"))
    _, (image,) = write(paths, identity, provenance, tmp_path / "d")
    described = image.get_item("SeriesDescription").value
    assert described.rstrip() == b"AI-DN | " + words.encode("shift_jis")


@pytest.mark.parametrize(
    ("terms", "came"),
    [
        (["", "ISO 2022 IR 58"], b"CT \x1b$)A" + "胸部".encode("gb2312")),
        (["", "ISO 2022 IR 58"], b"\x1b$)A" + "胸部".encode("gb2312") * 20),
        (["ISO 2022 IR 100", "ISO 2022 IR 58"], "Übersicht".encode("latin-1")),
        (["ISO 2022 IR 100", "ISO 2022 IR 58"], b"\xdc \x1b$)A" + "胸部".encode("gb2312") + b"\x1b-A \xdc"),
        (["ISO 2022 IR 100", "ISO 2022 IR 58"], (b"\xdc\x1b$)A" + "胸部".encode("gb2312") + b"\x1b-A") * 5),
        (
            ["ISO 2022 IR 13", "ISO 2022 IR 58"],
            b"\xd1\xc8 \x1b$)A" + "胸部".encode("gb2312") + b"\x1b)I \xd1",
        ),
        (["", "ISO 2022 IR 100"], b"\x1b-A\xdcbersicht"),
    ],
    ids=["mixed", "too long", "no Chinese", "Latin", "Latin and too long", "katakana", "only Latin"],
)
def test_code_extensions_read_the_same_behind_our_prefix(
    terms: list[str],
    came: bytes,
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
    program: Callable[[str], str],
) -> None:
    paths = with_description(tmp_path / "s", terms, came)
    write(paths, identity, provenance, tmp_path / "d")
    written = tmp_path / "d" / "00001.dcm"
    before, after = (_read_by(program("dcmdump"), path) for path in (paths[0], written))
    cut = after.removeprefix("AI-DN | ")
    assert cut
    assert before.startswith(cut)
    # One letter more is up to nine bytes: two, the escape sequence before them, and the one that leads back.
    assert len(cut) == len(before) or 64 - 9 <= len(raw(written, "SeriesDescription")) <= 64


@pytest.mark.parametrize(
    ("terms", "came"),
    [
        (["", "ISO 2022 IR 149"], "감마".encode("euc_kr")),
        (["", "ISO 2022 IR 149"], "감마".encode("euc_kr") * 20),
        (["", "ISO 2022 IR 87", "ISO 2022 IR 159"], "ﾑﾈ".encode("shift_jis")),
        (["", "ISO 2022 IR 100"], "Łódź 胸部".encode()),
        (["", "ISO 2022 IR 100"], "胸部".encode("gb2312")),
        (["ISO 2022 IR 58"], "胸部".encode("gb2312")),
        (["ISO 2022 IR 138", "ISO 2022 IR 159"], b"\x1b$(D0!\x1b(B\xe6\xe6 \xe7\xe4"),
        (["", "ISO 2022 IR 149"], b"\x1b$)C\xc8\xe4\xba\xce \x1b(B CT \xc8\xe4"),
        (["latin1", "ISO 2022 IR 144"], b"\xdc \x1b-L\xb3\xe0"),
    ],
)
def test_bytes_that_fit_stay_as_they_came_and_too_many_without_an_escape_sequence_get_none(
    terms: list[str], came: bytes, tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    """Whether or not the sets that are named say what they mean: their own site may know."""

    paths = with_description(tmp_path / "s", terms, came)
    write(paths, identity, provenance, tmp_path / "d")
    assert raw(tmp_path / "d" / "00001.dcm", "SeriesDescription").rstrip() == (b"AI-DN | " + came)[:64]


@pytest.mark.parametrize("end", [b"", b"\x1b(B"])
def test_a_revision_is_told_in_ascii_also_behind_kanji_that_nothing_ends(
    end: bytes, tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    kanji = "丂丄".encode("iso2022_jp_2").removesuffix(b"\x1b(B")

    paths = with_description(tmp_path / "s", ["", "ISO 2022 IR 159"], kanji + end)
    write(paths, identity, replace(provenance, revision=2), tmp_path / "d")
    told = raw(tmp_path / "d" / "00001.dcm", "SeriesDescription").rstrip()
    assert told.startswith(b"AI-DN | " + kanji)
    assert told.endswith(b"\x1b(B (revision 2)")


@pytest.mark.parametrize(
    ("terms", "vr", "came", "told"),
    [
        ("ISO_IR 100", "LO", b"\\ ", b"AI-DN"),
        ("ISO_IR 100", "LO", b"a\\b", b"AI-DN | a b"),
        ("ISO_IR 100", "LO", b"a\x1b$)Ab", b"AI-DN | a $)Ab"),
        ("ISO_IR 100", "LO", b"a\nb", b"AI-DN | a b"),
        ("ISO_IR 100", "LO", b"ab\x7f", b"AI-DN | ab"),
        ("ISO_IR 192", "LO", b"\xdcbersicht", b"AI-DN |  bersicht"),
        ("ISO_IR 192", "CS", b"\xdcbersicht", b"AI-DN |  bersicht"),
        ("ISO_IR 192", "IS", b"12\xa0", b"AI-DN | 12"),
        ("ISO_IR 192", "AE", "Über\tsicht".encode(), "AI-DN | Über sicht".encode()),
        ("ISO_IR 192", "CS", "Übersicht ".encode() * 8, ("AI-DN |" + " Übersicht" * 5).encode()),
        (["", "ISO 2022 IR 87"], "CS", b"\x1b$B;3ED\x1b(B 1", b"AI-DN | \x1b$B;3ED\x1b(B 1"),
        (["", "ISO 2022 IR 87"], "CS", b"1\t\x1b$B;3ED\x1b(B", b"AI-DN | 1 \x1b$B;3ED\x1b(B"),
        ("ISO_IR 100", "DA", b"2020\x0b", b"AI-DN | 2020"),
        ("ISO_IR 100", "TM", b"a\x0bb", b"AI-DN | a b"),
        ("ISO_IR 100", "DT", b"a\x0bb", b"AI-DN | a b"),
        ("ISO_IR 100", "AS", b"a\x0bb", b"AI-DN | a b"),
        ("ISO_IR 100", "UI", b"1.2\x0b", b"AI-DN | 1.2"),
        ("ISO_IR 100", "UR", b"a\x0bb", b"AI-DN | a b"),
        ("ISO_IR 100", "IS", b"12\n", b"AI-DN | 12"),
        ("ISO_IR 100", "DS", b"\n1.5\x1f\x1c", b"AI-DN | 1.5"),
        ("ISO_IR 100", "AE", b"ab\n", b"AI-DN | ab"),
        ("ISO_IR 192", "AE", "Übersicht".encode(), "AI-DN | Übersicht".encode()),
        ("ISO_IR 192", "CS", "Übersicht".encode(), "AI-DN | Übersicht".encode()),
        ("ISO_IR 100", "OB", b"ab", b"AI-DN"),
        ("ISO_IR 100", "FD", bytes.fromhex("000000000000f83f"), b"AI-DN | 1.5"),
        ("ISO_IR 192", "LO", " é".encode() * 1000, ("AI-DN |" + " é" * 19).encode()),
        ("GB18030", "LO", ("1" + "胸" * 900).encode("gb18030"), ("AI-DN | 1" + "胸" * 27).encode("gb18030")),
    ],
)
def test_what_is_no_clean_text_is_not_kept_as_it_came(
    terms: str | list[str],
    vr: str,
    came: bytes,
    told: bytes,
    tmp_path: Path,
    identity: Identity,
    provenance: Provenance,
) -> None:
    plain = put(SpecificCharacterSet=terms, SeriesDescription="x" * len(came))
    (path,) = make_series(tmp_path / "s", slices=1, change=plain)
    value = came + b" " * (len(came) % 2)
    content = path.read_bytes()
    before, after = content.split(b"\x08\x00\x3e\x10LO" + struct.pack("<H", len(value)))
    length = struct.pack("<HI", 0, len(value)) if vr in ("OB", "UR") else struct.pack("<H", len(value))
    path.write_bytes(before + b"\x08\x00\x3e\x10" + vr.encode() + length + value + after[len(value) :])
    write([path], identity, provenance, tmp_path / "d")
    written = raw(tmp_path / "d" / "00001.dcm", "SeriesDescription").rstrip()
    assert written == told


def _read_by(dcmdump: str, path: Path) -> str:
    told = subprocess.run([dcmdump, "+U8", "+L", "+P", "0008,103e", path], capture_output=True, text=True)
    return told.stdout.split("[", 1)[1].split("]", 1)[0]


def test_a_description_in_letters_that_the_source_does_not_name_stays_as_it_is(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    described = "Łódź Übersicht".encode()

    def change(data: Dataset, index: int) -> None:
        del data.SpecificCharacterSet
        data.SeriesDescription = described.decode("latin-1")

    write(make_series(tmp_path / "s", slices=1, change=change), identity, provenance, tmp_path / "d")
    assert raw(tmp_path / "d" / "00001.dcm", "SeriesDescription").rstrip() == b"AI-DN | " + described


def test_a_tabulator_ends_what_an_escape_sequence_began(
    tmp_path: Path, identity: Identity, provenance: Provenance
) -> None:
    """PS3.5 section 6.1.2.5.3: at a control character the first set is in force again."""
    came = b"\x1b$)C" + "감마".encode("euc_kr") + b"\t\xdcbersicht"

    paths = with_description(tmp_path / "s", ["ISO 2022 IR 100", "ISO 2022 IR 149"], came)
    _, (image,) = write(paths, identity, provenance, tmp_path / "d")
    assert image.SeriesDescription == "AI-DN | 감마 Übersicht"

"""The conformance statement: well formed as Markdown and as HTML, and the command that writes it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dicomnode.__main__ import main
from dicomnode.conformance import statement
from dicomnode.conformance.document import Document, Section, Table, code, render
from dicomnode.conformance.facts import keys
from dicomnode.settings import Settings, load_settings
from tests.conformance.statements import CONFIG, ROOT, cells, changed


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
        *("table", "thead", "tbody", "tr", "th", "td", "h1", "h2", "h3", "h4", "h5", "h6", "wbr"),
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

"""A document of numbered sections, and how it is written: Markdown or HTML.

Text is plain, with names of keys and values in backticks. What comes from the configuration goes through
`code`, so that no value can become markup.
"""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Format = Literal["markdown", "html"]
_CODE: Final = re.compile(r"`([^`]*)`")
_STYLE: Final = (
    "body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}"
    "th,td{border:1px solid #999;padding:.25em .6em;text-align:left;vertical-align:top}"
    "th{background:#eee}h4,h5,h6{font-size:1em}"
    "code{overflow-wrap:anywhere}td:nth-child(-n+2) code{overflow-wrap:normal}"
    "td:nth-child(4){overflow-wrap:anywhere;min-width:9em}td:nth-child(6){min-width:9em}"
)


@dataclass(frozen=True)
class Table:
    """Rows under a header, all of one length; `caption` stands above."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"a row of {len(row)} cells in the table '{self.caption}' of {len(self.header)}"
                )


@dataclass(frozen=True)
class Items:
    """A list with bullets; two blanks at the start of an entry put it one level deeper."""

    entries: tuple[str, ...]


Part = str | Table | Items


@dataclass(frozen=True)
class Section:
    """A heading, what stands under it, and the sections below. `mark` replaces the number ("A.A")."""

    title: str
    parts: tuple[Part, ...] = ()
    sections: tuple["Section", ...] = ()
    mark: str = ""


@dataclass(frozen=True)
class Document:
    """A title, lines under it, and its sections."""

    title: str
    subtitle: tuple[str, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Numbered:
    """A section with its number: "5.2.1"."""

    number: str
    depth: int
    section: Section


def code(value: object) -> str:
    """A value as it stands in the configuration or in a data set, in backticks."""
    text = " ".join(str(value).replace("`", "'").splitlines())
    return f"`{text}`" if text else ""


def table(caption: str, header: str, rows: Sequence[tuple[str, ...]]) -> Table:
    """A table whose header is given as one text, its columns set off by ` | `."""
    return Table(caption, tuple(header.split(" | ")), tuple(rows))


def numbered(document: Document) -> list[Numbered]:
    """Every section in reading order with its number."""
    return list(_numbered(document.sections, "", 1))


def _numbered(sections: Sequence[Section], prefix: str, depth: int) -> Iterator[Numbered]:
    for position, section in enumerate(sections, 1):
        number = section.mark or f"{prefix}{position}"
        yield Numbered(number, depth, section)
        yield from _numbered(section.sections, f"{number}.", depth + 1)


def render(document: Document, kind: Format) -> str:
    """The whole document as one text, ending in a line feed."""
    return _markdown(document) if kind == "markdown" else _html(document)


# --- Markdown -------------------------------------------------------------------------------------


def _markdown(document: Document) -> str:
    blocks = [f"# {_md(document.title)}", *(_md(line) for line in document.subtitle)]
    for one in numbered(document):
        blocks.append(f"{'#' * min(one.depth + 1, 6)} {one.number} {_md(one.section.title)}")
        blocks += [_md_part(part) for part in one.section.parts]
    return "\n\n".join(blocks) + "\n"


def _md_part(part: Part) -> str:
    if isinstance(part, str):
        return _md(part)
    if isinstance(part, Items):
        return "\n".join(_md_item(entry) for entry in part.entries)
    if not part.rows:
        return f"{_md(part.caption)}: none."
    lines = [part.header, ("---",) * len(part.header)]
    rule = [f"| {' | '.join(lines[1])} |"]
    rows = [f"| {' | '.join(_md_cell(cell) for cell in row)} |" for row in part.rows]
    return "\n".join(
        [f"{_md(part.caption)}:", "", f"| {' | '.join(map(_md_cell, part.header))} |", *rule, *rows]
    )


def _md_item(entry: str) -> str:
    text = entry.lstrip(" ")
    return f"{entry[: len(entry) - len(text)]}* {_md(text)}"


def _md_cell(text: str) -> str:
    """Also in code a pipe would end the cell (GitHub Flavored Markdown, tables)."""
    return _md(text).replace("|", "\\|")


def _md(text: str) -> str:
    """Escape what Markdown would take for markup outside of backticks."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([\\*_<\[\]])", r"\\\1", piece) for piece in pieces
    )


# --- HTML -----------------------------------------------------------------------------------------


def _html(document: Document) -> str:
    """One file without scripts, pictures or links to anywhere else; well-formed XML."""
    body = [f"<h1>{_inline(document.title)}</h1>", *(f"<p>{_inline(line)}</p>" for line in document.subtitle)]
    for one in numbered(document):
        tag = f"h{min(one.depth + 1, 6)}"
        body.append(f'<{tag} id="s{one.number}">{one.number} {_inline(one.section.title)}</{tag}>')
        body += [_html_part(part) for part in one.section.parts]
    head = (
        f'<head><meta charset="utf-8"/><title>{html.escape(document.title)}</title>'
        f"<style>{_STYLE}</style></head>"
    )
    return "\n".join(["<!DOCTYPE html>", '<html lang="en">', head, "<body>", *body, "</body>", "</html>", ""])


def _html_part(part: Part) -> str:
    if isinstance(part, str):
        return f"<p>{_inline(part)}</p>"
    if isinstance(part, Items):
        return "<ul>" + "".join(_html_item(entry) for entry in part.entries) + "</ul>"
    if not part.rows:
        return f"<p>{_inline(part.caption)}: none.</p>"
    header = "".join(f"<th>{_inline(cell)}</th>" for cell in part.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>\n" for row in part.rows
    )
    body = f"<thead><tr>{header}</tr></thead>\n<tbody>{rows}</tbody>"
    return f"<p>{_inline(part.caption)}:</p>\n<table>{body}</table>"


def _html_item(entry: str) -> str:
    depth = (len(entry) - len(entry.lstrip(" "))) // 2
    indent = f' style="margin-left:{1.5 * depth:g}em"' if depth else ""
    return f"<li{indent}>{_inline(entry.strip())}</li>"


def _cell(text: str) -> str:
    """A keyword of DICOM may be broken before a capital letter: columns are narrow, keywords long."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "<wbr/>", _inline(text))


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", html.escape(text, quote=False))

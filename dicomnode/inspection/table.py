"""The answer of `dicomnode inspect` for people: one row a stack."""

import unicodedata
from collections.abc import Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from dicomnode.inspection.finding import DoseFinding, Finding
from dicomnode.inspection.folder import legible

_CONTROL: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Unicode categories of what could command a terminal or turn the direction of a line."""


def table(found: Sequence[Finding]) -> Table:
    """One row a stack."""
    shown = Table(title="what the node would make of it", show_lines=True)
    for name in ("", "series", "verdict", "dose, size, noise, start step"):
        shown.add_column(name, overflow="fold")
    for number, one in enumerate(found, 1):
        read = "\n".join(part for part in (_told(one.dose), _size_and_noise(one), _start(one)) if part)
        shown.add_row(str(number), _plain(_what(one)), _verdict(one), _plain(read))
    return shown


def plain(told: str) -> str:
    """What a terminal may show: what is no character to be seen becomes a question mark."""
    seen = legible(told)
    return "".join(one if one == "\n" or unicodedata.category(one) not in _CONTROL else "?" for one in seen)


def _plain(told: str) -> Text:
    """Text as it is, without markup."""
    return Text(plain(told))


def _what(one: Finding) -> str:
    maker = " ".join(part for part in (one.modality, one.manufacturer, one.model, one.kernel) if part)
    name = " ".join(part for part in (one.series_number, one.series_description) if part)
    lines = [maker or "no maker told", f"{one.files} file" + ("s" if one.files != 1 else "")]
    if one.slices and one.pixel_spacing_mm:
        lines[1] += f", {one.slices} x {one.slice_thickness_mm:g} mm, pixel {one.pixel_spacing_mm[0]:.3g} mm"
    lines.append(f"in {one.folder}")
    if one.differs_by:
        lines.append(f"apart by {', '.join(one.differs_by)}")
    return "\n".join([f"series {name}", *lines] if name else lines)


def _verdict(one: Finding) -> Text:
    told = Text("accepted", "green") if one.accepted else Text(one.rule or "refused", "red")
    if one.reason:
        told.append_text(Text(": ", "none")).append_text(_plain(one.reason))
    if one.door:
        told.append_text(_plain(f"\n{one.door}"))
    return told


def _told(dose: DoseFinding) -> str:
    if dose.source == "not-read":
        return ""
    flags = "\n" + ", ".join(dose.flags) if dose.flags else ""
    tube = ", ".join(
        f"{value:.3g} {unit}" for value, unit in ((dose.kvp, "kV"), (dose.mas, "mAs")) if value is not None
    )
    tube = f"\n{tube}" if tube else ""
    if dose.ctdivol_mgy is None:
        return f"no dose told{tube}{flags}"
    phantom = f"{dose.phantom_cm} cm" if dose.phantom_cm else "phantom unknown"
    ssde = f", SSDE {dose.ssde_mgy:.3g} mGy" if dose.ssde_mgy else ""
    return f"CTDIvol {dose.ctdivol_mgy:.3g} mGy ({phantom}, {dose.source}){ssde}{tube}{flags}"


def _size_and_noise(one: Finding) -> str:
    diameter_mm, noise_hu = one.water_equivalent_diameter_mm, one.noise_hu
    known = "unknown" if diameter_mm is None else f"{diameter_mm:.0f} mm"
    size = f"Dw {known} ({one.regions})" if one.regions else ""
    noise = "" if noise_hu is None else f"noise {noise_hu:.1f} HU"
    return ", ".join(part for part in (size, noise) if part)


def _start(one: Finding) -> str:
    if one.start_step is None or one.dose.fraction is None:
        return ""
    share = f"{100 * one.dose.fraction:.0f} % of normal dose by {one.dose.decided_by}"
    by_noise = one.dose.fraction_by_noise
    if one.dose.decided_by == "noise" and by_noise is not None and by_noise > one.dose.fraction:
        share = (
            f"{100 * one.dose.fraction:.0f} % of normal dose by tags, noise left as of {100 * by_noise:.0f} %"
        )
    return f"{share}: step {one.start_step} of {(one.steps or 1) - 1}"

"""The table: in the terminal, and as evaluation.md with notes on what each figure is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from dicomnode.appraisal import guard
from dicomnode.appraisal.cases import FULL, PAIRS, RAYS, dose_name
from dicomnode.appraisal.inserts import BARS_PER_CM, DISCS, DOT_MM, EDGE_MM, SMALL
from dicomnode.appraisal.report import Report
from dicomnode.appraisal.scoring import TISSUES
from dicomnode.evaluation.segmentation import ORGANS

NOTHING = "-"
THROUGH, IN_ONE = ", through three slices", ", in one slice"


@dataclass(frozen=True)
class Column:
    """A heading, and how a method's figures fill it."""

    heading: str
    cell: Callable[[dict[str, Any]], str]


def for_terminal(group: dict[str, Any]) -> Iterator[Table]:
    """The tables of one dose and kernel, a line a figure: a terminal is narrow."""
    for title, columns in _tables(group):
        out = Table("", *group["methods"], title=f"{_heading(group)}: {title}")
        for column in columns:
            out.add_row(column.heading, *(column.cell(figures) for figures in group["methods"].values()))
        yield out


def markdown(report: Report, pictures: Sequence[tuple[str, str]]) -> str:
    """The whole of evaluation.md."""
    parts = [f"# {report['model']['id']} measured", measured_on(report), *_glance(report)]
    for group in report["groups"]:
        parts.append(f"## {_heading(group)}\n\n{told_of(group)}")
        for title, columns in _tables(group):
            rows = [[n, *(c.cell(f) for c in columns)] for n, f in group["methods"].items()]
            parts.append(f"{title}\n\n{grid(['', *(c.heading for c in columns)], rows)}")
    parts.append("## Pictures")
    parts += [f"![{caption}]({name})" for name, caption in pictures]
    parts.append(notes(report))
    return "\n\n".join(parts) + "\n"


# --- columns -----------------------------------------------------------------------------------------


def _tables(group: dict[str, Any]) -> Iterator[tuple[str, list[Column]]]:
    yield (
        "Likeness to the reference",
        [
            _plain("PSNR, dB", "psnr_db", 2),
            _plain("SSIM", "ssim", 4),
            _plain("RMSE, HU", "rmse_hu", 2),
            _plain("VIF", "vif", 3),
            _plain("noise, HU", "noise_hu", 1),
            *(_inner(f"bias {tissue}, HU", "bias_hu", tissue, 2, sign=True) for tissue in TISSUES),
        ],
    )
    yield (
        "Dice of organs with those of the reference",
        [_inner(organ, "dice", organ, 4) for organ in ORGANS if _any(group, "dice", organ)],
    )
    if not group["curves"]:
        return
    contrasts, alone = _keys(group, "mtf50_change_percent"), _keys(group, "dot_kept_in_one_slice")
    through = THROUGH if alone else ""
    yield (
        "Texture and sharpness: change against the input",
        [
            _plain("NPS mean frequency, %", "nps_shift_percent", 1, sign=True),
            *(_ranged(f"MTF50 at {c}, %", "mtf50_change_percent", c, 1, sign=True) for c in contrasts),
        ],
    )
    yield (
        "Contrast kept, of 1",
        [
            *(_inner(f"edge, {c}", "edge_height_kept", c, 3) for c in contrasts),
            *(_ranged(f"dot, {c}{through}", "dot_kept", c, 3) for c in _keys(group, "dot_kept")),
            *(_ranged(f"dot, {c}{IN_ONE}", "dot_kept_in_one_slice", c, 3) for c in alone),
            *(_ranged(f"bars, {c}", "bars_kept", c, 3) for c in _keys(group, "bars_kept")),
        ],
    )
    if _keys(group, "d_prime"):
        yield "d' of discs, and over the input's (95 %)", list(_disc_columns(group))


def _disc_columns(group: dict[str, Any]) -> Iterator[Column]:
    """d', then d' over the input's, of each disc through three slices and of those in one."""
    small = _keys(group, "d_prime_in_one_slice")
    found = [(size, "d_prime", THROUGH if size in small else "") for size in _keys(group, "d_prime")]
    found += [(size, "d_prime_in_one_slice", IN_ONE) for size in small]
    yield from (_ranged(f"{size}{how}", figure, size, 2) for size, figure, how in found)
    yield from (_over_input(f"{size}{how}, over the input's", figure, size) for size, figure, how in found)


def _plain(heading: str, figure: str, digits: int, *, sign: bool = False) -> Column:
    return Column(heading, lambda figures: number(figures.get(figure), digits, sign))


def _inner(heading: str, figure: str, key: str, digits: int, *, sign: bool = False) -> Column:
    return Column(heading, lambda figures: number(figures.get(figure, {}).get(key), digits, sign))


def _ranged(heading: str, figure: str, key: str, digits: int, *, sign: bool = False) -> Column:
    """A value with its interval, where it has one, or with its standard error."""

    def cell(figures: dict[str, Any]) -> str:
        found = figures.get(figure, {}).get(key)
        if not found or found["value"] is None:
            return NOTHING
        value = number(found["value"], digits, sign)
        if found.get("error") is not None:
            return f"{value} +- {found['error']:.{digits}f}"
        low, high = found.get("interval", (None, None))
        if low is None or high is None or low == high:
            return value
        return f"{value} ({number(low, digits, sign)} to {number(high, digits, sign)})"

    return Column(heading, cell)


def _over_input(heading: str, figure: str, size: str) -> Column:
    """d' over the input's with its interval."""

    def cell(figures: dict[str, Any]) -> str:
        found = figures.get(figure, {}).get(size)
        return _share(found["over_input"]) if found else NOTHING

    return Column(heading, cell)


def _share(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    if found["value"] is None or low is None or high is None:
        return NOTHING
    told = f"{found['value']:.2f}"
    return told if low == high else f"{told} ({low:.2f} to {high:.2f})"


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A figure as it stands in a table; "-" for one that is not known."""
    if value is None:
        return NOTHING
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "", 1).replace("+", "", 1) if float(text) == 0 else text


def _keys(group: dict[str, Any], figure: str) -> list[str]:
    return list(
        dict.fromkeys(key for figures in group["methods"].values() for key in figures.get(figure, {}))
    )


def _any(group: dict[str, Any], figure: str, key: str) -> bool:
    return any(figures[figure].get(key) is not None for figures in group["methods"].values())


# --- words -------------------------------------------------------------------------------------------


def _heading(group: dict[str, Any]) -> str:
    return f"{group['kernel']}, {group['dose']}"


def told_of(group: dict[str, Any]) -> str:
    """What a reader needs to know before the tables of one dose and kernel."""
    least, middle, most = group["start_steps"]
    steps = f"{least:g}" if least == most else f"{least:g} to {most:g} (median {middle:g})"
    known = "told" if group["kernel"] == RAYS else "read"
    told = (
        f"{group['slices']} slices; {known} as {100 * group['fraction']:.0f} % of the normal dose (median), "
        f"start step {steps}."
    )
    if group["dose"] == FULL:
        return told + " No dose, no harm: the input is the reference, and should come back as it is."
    if group["kernel"] == RAYS:
        if group["dose"] == dose_name(1.0):
            return told + " This is the reference of the lower doses, and should come back as it is."
        return told + " Thinned to that share from the counts of normal dose, 250000 photons a reference ray."
    told += f" Things were put into {group['slices_with_inserts']} of them."
    return f"{told} {_told_shared(group['shared_noise'])}" if group.get("shared_noise") else told


def _told_shared(shared: dict[str, Any]) -> str:
    return (
        f"Of the reference's noise the input holds {100 * shared['share']:.0f} % (covariance over the "
        f"variance of the reference, {shared['squares']} even squares; 100 if the low dose was made of the "
        f"reference, 0 if measured apart). With the anatomy known and the best part of that noise kept, RMSE "
        f"would be {100 * shared['least_rmse_share']:.0f} % of the input's: the floor that noise sets."
    )


def measured_on(report: Report) -> str:
    """The head of a report: with what and on what it was measured, and whether that was a test."""
    lines = [
        *(f"{warning}\n" for warning in guard.warnings(report["guard"])),
        f"Model {report['model']['id']}, version {report['model']['version']}, weights "
        f"{report['model']['weights_sha256'][:12]}; dicomnode {report['dicomnode']}; seed {report['seed']}; "
        f"{_minutes(report['seconds'])}.",
    ]
    for one in report["series"]:
        judged = ", ".join(f"{first + 1} to {last}" for first, last in one["judged"])
        lines.append(
            f"* series: {one['scanner']}, {one['kernel']}, {one['slices']} slices, pixels of "
            f"{one['pixel_mm']:.3g} mm every {one['spacing_mm']:.3g} mm; "
            f"judged {judged}, counted from the feet"
        )
    if pairs := [group for group in report["groups"] if group["dose"] == PAIRS]:
        lines.append(f"* real pairs: {sum(group['slices'] for group in pairs)} slices")
    lines += [f"* {line}" for line in guard.compared(report["guard"])]
    lines.append(f"* command: `{report['command']}`")
    lines.append("* trained on: " + "; ".join(report["trained_on"]))
    lines += [
        f"* beside it **{name}**: {told or 'a method of your own'}"
        for name, told in report.get("beside", {}).items()
    ]
    return "\n".join(lines)


def _minutes(seconds: float | None) -> str:
    return "in several runs" if seconds is None else f"{seconds / 60:.0f} minutes"


def _glance(report: Report) -> list[str]:
    """What the rows of `enhanced` come to, and of `raw` where there are projections."""
    rows = [
        [_heading(group) if mode == "enhanced" else f"{_heading(group)}, {mode} mode", *_summed(group, mode)]
        for group in report["groups"]
        for mode in ("enhanced", "raw")
        if mode in group["methods"]
    ]
    heads = [
        "",
        "RMSE, HU",
        "greatest bias, HU",
        "NPS mean frequency, %",
        "MTF50, %",
        "least d' over input's",
    ]
    return ["## At a glance: enhanced", grid(heads, rows)]


def _summed(group: dict[str, Any], mode: str) -> list[str]:
    was, now = group["methods"]["input"], group["methods"][mode]
    bias = {t: v for t, v in now["bias_hu"].items() if v is not None}
    worst = max(bias, key=lambda tissue: abs(bias[tissue]), default=None)
    return [
        f"{number(was['rmse_hu'], 2, False)} -> {number(now['rmse_hu'], 2, False)}",
        f"{number(was['bias_hu'].get(worst), 2, True)} -> {bias[worst]:+.2f} ({worst})" if worst else NOTHING,
        number(now.get("nps_shift_percent"), 1, True),
        _furthest(now.get("mtf50_change_percent", {})),
        _least_over(
            {
                **now.get("d_prime", {}),
                **{f"{size}{IN_ONE}": one for size, one in now.get("d_prime_in_one_slice", {}).items()},
            }
        ),
    ]


def _furthest(changes: dict[str, Any]) -> str:
    known = {c: one["value"] for c, one in changes.items() if one["value"] is not None}
    at = max(known, key=lambda c: abs(known[c]), default=None)
    return f"{known[at]:+.1f} ({at})" if at else NOTHING


def _least_over(seen: dict[str, Any]) -> str:
    """The disc that lost most, with the interval: the least of several is by chance below their mean."""
    known = {size: one["over_input"] for size, one in seen.items() if one["over_input"]["value"] is not None}
    at = min(known, key=lambda size: known[size]["value"], default=None)
    return f"{_share(known[at])}, {at}" if at else NOTHING


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def notes(report: Report) -> str:
    """What every figure is, and what was left out."""
    left_out = "\n".join(f"* **{name}** is left out: {why}." for name, why in report["left_out"].items())
    discs = ", ".join(f"{disc.diameter_mm:g} mm of {disc.contrast_hu:g} HU" for disc in DISCS)
    return f"""## What the figures are

* **Reference**: the scan at its own dose, which has noise of its own, so nothing can reach an RMSE of 0
  or should. A lower dose is that scan with the noise it lacks, drawn in the projections and shaped as
  the scan's own. Full dose compares the scan with itself. Real pairs are two files of one patient, the
  lower dose measured apart or made of the other by noise inserted into its projections. The dose of the
  reference is the normal one that is asked for, as at a site that put its own doses into the configuration;
  the dose of the input is read as the node reads it.
* **input** is the scan at the lower dose; **nlm** is non-local means with h = 0.6 of the measured noise,
  **tv** total variation with a weight of half of it, both over +-1000 HU: cut off at the lower end, noisy
  air comes out brighter. Neither is tuned to the case. **enhanced** is the model as the node runs it: normal
  dose is left alone (step 0), the change bounded, the mean of each tissue kept. Baselines named above have
  no such rules and answer at full dose too; their difference in bias and at full dose is that of the rules.
* **Baselines** of the recipes in `configs`: **unet** has what NEED's image network has, small objects drawn
  into half of its training crops and its answer the mean over two mirrorings. **red-cnn** is as published:
  slices alone, no objects in its crops, one pass and no mirrorings; its rows carry that difference too. Other
  recipes may say otherwise: the lines at the top tell mirrorings.
* **One noise**: a simulated dose keeps the reference's own noise and adds what is missing, so of the noise
  in the input that share counts as right: an image without any noise scores worse than one that keeps the
  share (dose) of it, most at 50 %. Each dose and block has noise drawn for itself, once. In real pairs
  the two noises are independent where both doses were measured, and shared where the lower one was made of
  the other, as a simulated dose is: how far is measured, and told above their tables.
* **raw projections**, for a model with a raw mode: the same slices scanned by a virtual scanner whose views
  and bins no corpus has. The reference is that scan at normal dose, with its counting noise, reconstructed
  alike; each lower dose keeps every photon counted there with the probability of its share, so it holds the
  reference's noise, as simulated doses do. **raw** works on the counts, all others on slices made of them.
  All are told one share: the photons of that scanner, not the dose of the series. Nothing is put into these.
* **PSNR, SSIM, RMSE**: HU clipped to +-1000, PSNR and SSIM over the range of the reference, SSIM with 11
  x 11 pixels and sigma 1.5; means over slices. **VIF**: pixel domain, four scales, HU clipped to -1024
  to 1900.
* **Bias**: mean of result minus reference over all pixels of a tissue, told by the reference smoothed
  over 9 pixels: air around the patient below -900 HU, lung -900 to -500, fat -140 to -60, soft 0 to
  100, bone above 200. **Noise**: the commonest standard deviation in 6 mm of soft tissue.
* **NPS mean frequency**: of the difference of two results whose inputs have independent simulated noise;
  anatomy and the noise both have in common cancel. Change against the same of the inputs. Squares of 24
  pixels hold no coarser grain than their side: a shift of -29 % is read as -26, one of -55 % as -48. For
  real pairs, of one result in even tissue: what structure is left there counts as noise, so the shift
  looks larger than it is.
* **MTF50**: of the edge of discs of {EDGE_MM:g} mm put into even tissue of the noisy scan, as result with
  them minus result without; change against what was put in, with its 95 % interval over places.
  **Contrast kept**: height of that edge, contrast of dots of {DOT_MM:g} mm, modulation of bars of
  {BARS_PER_CM:g} line pairs a cm, the last two with their standard error. Everything put in goes through
  the neighbouring slices too at full contrast, as a vessel would: a method that sees neighbours finds it
  there again. Dots, and discs of {SMALL.diameter_mm:g} mm, are put in once more **in one slice** alone, as a
  small nodule or a calcification lies; for a method that sees one slice both are the same but for noise and
  places, and in pairs, which are single slices, there is but the one. Where a recipe trains with `objects`
  (need, unet), discs and bars of such kinds were in its training crops: not these, but others like them.
* **d'**: of an observer with 6 channels (difference of Gaussians) that looks for a disc it knows,
  {discs}, in even tissue, at every place with it and without it in the same noise. Over the input's above
  1 the disc is easier to find: places and noise are the same for both, and the interval (jackknife over
  places) is of that ratio; where it holds 1, nothing is proven. Above 3.3 a disc is missed by less than
  1 in 100 (AUC 0.99). "-" with fewer than 14 places.
* **Dice**: overlap of organs found by threshold and region growing with the same on the reference.
  **Airways** are grown inside each block of judged slices by itself, from the trachea there: what joins it
  only outside the block, as most small bronchi do, does not enter, and a block with less than 12 mm of
  trachea has none. It tells of trachea and large bronchi, not of small airways.
* **-**: could not be measured: too little even tissue, an organ that is not there, or noise that is gone.
{left_out}"""

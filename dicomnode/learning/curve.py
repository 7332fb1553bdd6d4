"""The curve of a training, as a picture."""

import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw_curve(log: Path, title: str) -> Path | None:
    """Picture beside a log of {"step", "loss", "learning_rate"} a line; None where nothing was told yet."""
    told = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if not told:
        return None
    steps = [line["step"] for line in told]
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    loss = figure.add_subplot(xlabel="step", ylabel="loss (Huber, running mean)", yscale="log", title=title)
    loss.plot(steps, [line["loss"] for line in told], color="tab:blue", marker="." if len(told) < 9 else "")
    loss.grid(which="both", alpha=0.3)
    loss.yaxis.set_major_formatter("{x:.3g}")
    loss.yaxis.set_minor_formatter("{x:.3g}")
    rate = loss.twinx()
    rate.set_ylabel("learning rate", color="tab:gray")
    rate.plot(steps, [line.get("learning_rate") for line in told], color="tab:gray", linestyle=":")
    rate.set_ylim(bottom=0.0)
    picture = log.with_suffix(".png")
    figure.savefig(picture, dpi=100)
    return picture

"""What the demonstration measured: the figures of report.json, and the table that is printed."""

import math
from collections import Counter
from typing import Any

import numpy as np
from rich.table import Table

from dicomnode.demo.acquisition import LowDoseScan
from dicomnode.demo.travel import Journey
from dicomnode.dicom.series import CtSeries
from dicomnode.evaluation.similarity import rmse_hu
from dicomnode.physics.noise import measure_noise
from dicomnode.quality import bias_by_tissue


def figures(original: CtSeries, scan: LowDoseScan, journey: Journey) -> dict[str, Any]:
    """The figures of report.json; the README says what each key means."""
    truth, low_dose, enhanced = original.hounsfield, scan.hounsfield, journey.enhanced
    pixel_mm = original.pixel_spacing_mm[0]
    noise = [measure_noise(volume, pixel_mm) for volume in (low_dose, enhanced)]
    starts = journey.findings["match"]["starts"]
    ctdivol = [v for v in journey.findings["dose"]["ctdivol_mgy"] if v is not None]
    bias = bias_by_tissue(truth, enhanced - truth)
    return {
        "series_in": scan.series_instance_uid,
        "series_out": journey.job.derived_series_uid,
        "slices_sent": len(scan.paths),
        "slices_returned": len(enhanced),
        "dose": {
            "source": journey.findings["dose"]["source"],
            "ctdivol_mgy": round(float(np.mean(ctdivol)), 3) if ctdivol else None,
            "photons": round(float(np.median([s["photons"] for s in starts]))),
            "fraction": round(float(np.median([s["fraction"] for s in starts])), 4),
            **_opinions(starts),
            "decided_by": Counter(s["decided_by"] for s in starts).most_common(1)[0][0],
        },
        "start_step": int(np.median([s["step"] for s in starts])),
        "noise_hu": {
            w: round(n.std_hu, 2) if n else None for w, n in zip(("before", "after"), noise, strict=True)
        },
        "rmse_hu": {
            "before": round(rmse_hu(low_dose, truth), 3),
            "after": round(rmse_hu(enhanced, truth), 3),
        },
        "bias_hu": {tissue: round(bias[tissue], 3) for tissue in ("air", "fat", "soft") if tissue in bias},
        "seconds": journey.seconds,
    }


def _opinions(starts: list[dict[str, Any]]) -> dict[str, float | None]:
    """The share of normal dose by header alone and by noise alone, median over slices."""
    tags: list[float] = []
    noise: list[float] = []
    for start in starts:
        ratio, fraction = start["log_ratio"], start["fraction"]
        if ratio is None:
            (tags if start["decided_by"] == "tags" else noise).append(fraction)
            continue
        half = 0.5 * ratio if start["decided_by"] == "both" else 0.0
        noise.append(fraction * math.exp(-half))
        tags.append(noise[-1] * math.exp(ratio))
    return {
        "fraction_by_tags": round(float(np.median(tags)), 4) if tags else None,
        "fraction_by_noise": round(float(np.median(noise)), 4) if noise else None,
    }


def table(report: dict[str, Any]) -> Table:
    """The figures as people read them."""
    dose, noise, rmse = report["dose"], report["noise_hu"], report["rmse_hu"]
    down = 100.0 * (1.0 - rmse["after"] / rmse["before"])
    out = Table(title="low-dose series in, enhanced series back", show_header=False, min_width=64)
    out.add_row("slices sent, returned", f"{report['slices_sent']}, {report['slices_returned']}")
    out.add_row(
        "dose read", f"CTDIvol {dose['ctdivol_mgy']} mGy ({dose['source']}), decided by {dose['decided_by']}"
    )
    out.add_row(
        "photon level, share of normal dose", f"{dose['photons']:,} a ray, {100 * dose['fraction']:.0f} %"
    )
    opinions = (dose["fraction_by_tags"], dose["fraction_by_noise"])
    shares = ("-" if share is None else f"{100 * share:.0f} %" for share in opinions)
    out.add_row("share by header, by noise", ", ".join(shares))
    out.add_row("start step", str(report["start_step"]))
    out.add_row("noise before, after", f"{noise['before']} -> {noise['after']} HU")
    out.add_row("RMSE to the normal dose", f"{rmse['before']} -> {rmse['after']} HU ({down:.0f} % down)")
    out.add_row("bias", ", ".join(f"{tissue} {value:+.2f} HU" for tissue, value in report["bias_hu"].items()))
    out.add_row("seconds", ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items()))
    return out

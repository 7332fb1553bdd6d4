"""`dicomnode demo`.

Scan with less dose, send, wait for what comes back, and measure it against the original.
"""

import argparse
import json
import math
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from dicomnode.demo.acquisition import LowDoseScan, scan_again, without_padding
from dicomnode.demo.archive import Archive
from dicomnode.demo.picture import draw
from dicomnode.demo.room import LOW_DOSE, PICTURE, REPORT, RETURNED, check_room, make_room, note_what_was_made
from dicomnode.demo.source import SourceUnavailable, lidc_series
from dicomnode.dicom.series import CtSeries, read_series
from dicomnode.dicom.values import finite
from dicomnode.dose_reference import DoseReference
from dicomnode.engines.catalog import SHIPPED, device_argument, load_engine
from dicomnode.errors import DicomnodeError, DoseUnknown
from dicomnode.evaluation.similarity import rmse_hu
from dicomnode.journey.job import Job
from dicomnode.journey.normal_dose import told_dose
from dicomnode.network.send import send_files
from dicomnode.node import Node
from dicomnode.physics.lower_dose import learn_scanner, own_noise
from dicomnode.physics.noise import measure_noise
from dicomnode.quality import bias_by_tissue
from dicomnode.settings import Destination, Settings

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SENDER, NODE, ARCHIVE = "SCANNER", "DICOMNODE", "PACS"
GIVE_UP_SECONDS = 3600.0

Volume = NDArray[np.float32]


class DemoFailed(DicomnodeError):
    """The journey did not end with an enhanced series in the archive."""


@dataclass(frozen=True, eq=False)
class Journey:
    """What came of it: the job, what its stations noted, HU [slice, row, column], and seconds by station."""

    job: Job
    findings: dict[str, Any]
    enhanced: Volume
    seconds: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dicomnode demo`."""
    parser.add_argument(
        "--slices",
        type=_slices,
        default=24,
        help="how many contiguous slices, or 'all' (default: %(default)s)",
    )
    parser.add_argument(
        "--dose", type=_fraction, default=0.25, help="share of the dose to scan with (default: %(default)s)"
    )
    parser.add_argument(
        "--series", type=Path, default=None, metavar="DIR", help="your own CT series instead of the example"
    )
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="default: %(default)s")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "dicomnode", help="where the example is kept"
    )
    parser.add_argument("--model", default="need-small")
    parser.add_argument("--models", type=Path, default=SHIPPED, help="folder of model folders")
    parser.add_argument("--device", type=device_argument, default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--port", type=_port, default=11112, help="of the node; a free one is taken if it is in use"
    )
    parser.add_argument("--seed", type=_seed, default=1)


def run(arguments: argparse.Namespace) -> int:
    """The main job, embedded. Raises DicomnodeError with the reason where it cannot be done."""
    console = Console()
    out: Path = arguments.output
    load_engine(arguments.models, arguments.model, arguments.device)  # before anything is cleared away
    paths = _sources(arguments, console)
    check_room(out, paths)
    whole = _readable(paths)
    make_room(out)
    with _progress(console) as progress:
        show = _Stations(progress)
        began = time.monotonic()
        own = own_noise(whole.hounsfield, whole.pixel_spacing_mm[0])
        scanner = learn_scanner(own, arguments.dose, arguments.seed)
        original = _middle(whole, arguments.slices)
        scan = scan_again(original, scanner, out / LOW_DOSE, arguments.seed, show.slices)
        scan_seconds = round(time.monotonic() - began, 2)
        with (
            tempfile.TemporaryDirectory(prefix="dicomnode-demo-") as spool,
            Archive(out / RETURNED, ARCHIVE) as archive,
        ):
            job, seconds = _travel(arguments, scan, Path(spool), archive, show)
            enhanced = _returned(archive, original)
            journey = Journey(job, _findings(Path(spool), job), enhanced, {"scan": scan_seconds, **seconds})
    report = _report(original, scan, journey)
    _write(report, original, scan, enhanced, out)
    note_what_was_made(out)
    console.print(_table(report))
    console.print(f"look at [bold]{out / PICTURE}[/]; the returned DICOM is in {out / RETURNED}")
    return 0


def _slices(text: str) -> int | None:
    """How many, or None for all."""
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number of slices, or 'all'")
    return int(text)


def _fraction(text: str) -> float:
    value = finite(text)
    if value is None or not 0.01 <= value <= 0.95:
        raise argparse.ArgumentTypeError(f"{text}: the dose is a share of the original between 0.01 and 0.95")
    return value


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text}: a port is a number from 0 (any free one) to 65535")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text}: a seed is a whole number from 0 to 2^63 - 1")
    return int(text)


# --- the journey -----------------------------------------------------------------------------------


def _travel(
    arguments: argparse.Namespace, scan: LowDoseScan, spool: Path, archive: Archive, show: "_Stations"
) -> tuple[Job, dict[str, float]]:
    """Send the scan to a node that knows this archive.

    Returns its job when all is delivered, and the seconds.
    """
    ended = threading.Event()

    def observe(job: Job) -> None:
        show.job(job)
        if job.final:
            ended.set()

    with Node(_settings(arguments, spool, archive.port, scan.reference), observe) as node:
        began = time.monotonic()
        to_node = Destination(name="node", ae_title=NODE, host="127.0.0.1", port=node.port, associations=2)
        send_files(scan.paths, to_node, SENDER)
        receive = round(time.monotonic() - began, 2)
        show.slices("receive", len(scan.paths), len(scan.paths))
        if not ended.wait(GIVE_UP_SECONDS):
            raise DemoFailed(f"the node did not finish within {GIVE_UP_SECONDS:g} seconds")
        job = node.jobs()[-1]
    if job.status != "done":
        raise DemoFailed(f"the series ended as {job.status} at station {job.station}: {job.reason}")
    whole = round(time.monotonic() - began, 2)
    return job, {"receive": receive, **job.seconds, "from first image to last answer": whole}


def _settings(
    arguments: argparse.Namespace, spool: Path, archive_port: int, reference: DoseReference
) -> Settings:
    peer = {"name": "pacs", "ae_title": ARCHIVE, "host": "127.0.0.1", "port": archive_port}
    values = {
        "node": {
            "ae_title": NODE, "host": "127.0.0.1", "port": _free(arguments.port), "spool": spool,
            "log_level": "WARNING", "reserve_gib": 0.5,
        },
        "callers": [{"ae_title": SENDER}],
        "dose": {"reference": reference.model_dump()},
        "completeness": {"quiet_seconds": 5.0, "closed_seconds": 1.0},
        "destinations": [peer],
        "engine": {
            "model": arguments.model, "models_folder": arguments.models.resolve(),
            "device": arguments.device,
        },
    }  # fmt: skip
    return Settings.model_validate(values, context={"folder": Path.cwd()})


def _free(port: int) -> int:
    """The port, or 0 (any) where somebody listens on it already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


# --- in and out --------------------------------------------------------------------------------------


def _sources(arguments: argparse.Namespace, console: Console) -> list[Path]:
    """The files of the series to scan again: the example, or the user's."""
    folder: Path | None = arguments.series
    if folder is None:
        return lidc_series(arguments.cache)
    if not folder.is_dir():
        raise SourceUnavailable(f"--series {folder} is not a folder")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    images = [path for path in files if _is_dicom(path)]
    if not images:
        raise SourceUnavailable(f"--series {folder} holds no DICOM files ({len(files)} others)")
    if len(images) < len(files):
        console.print(f"{len(files) - len(images)} files in {folder} are no DICOM images and are left out")
    return images


def _is_dicom(path: Path) -> bool:
    """A Part 10 file that is no directory of others."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" and path.name.upper() != "DICOMDIR"


def _readable(paths: Sequence[Path]) -> CtSeries:
    """The series; DoseUnknown where it tells no dose: the node would refuse what comes of it."""
    series = read_series(paths)
    if any(told_dose(header).mean_ctdivol_mgy is None for header in series.headers):
        raise DoseUnknown("the series tells no dose (CTDIvol, or kVp and mAs): no share of it can be made")
    return series


def _middle(whole: CtSeries, count: int | None) -> CtSeries:
    """So many contiguous slices from the middle, or the whole; the frames of one file stay together."""
    if count is None or count >= len(set(whole.source_paths)):
        return whole
    paths = tuple(dict.fromkeys(whole.source_paths))
    first = (len(paths) - count) // 2
    return read_series(paths[first : first + count])


def _returned(archive: Archive, like: CtSeries) -> Volume:
    """The enhanced images as any reader finds them in the archive, HU, in the order of `like`.

    Raises DemoFailed where one is missing.
    """
    place = {_position(header): k for k, header in enumerate(like.headers)}
    volume = np.full_like(like.hounsfield, np.nan)
    for path in archive.files:
        image = dcmread(path)
        if image.SOPClassUID == CT_IMAGE and _position(image) in place:
            volume[place[_position(image)]] = image.pixel_array * float(image.RescaleSlope) + float(
                image.RescaleIntercept
            )
    missing = int(np.isnan(volume).any(axis=(1, 2)).sum())
    if missing:
        raise DemoFailed(
            f"{missing} of {len(volume)} images did not come back; {archive.folder} holds what did"
        )
    return without_padding(like, volume)


def _position(header: Dataset) -> tuple[float, ...]:
    return tuple(float(v) for v in header.ImagePositionPatient)


def _findings(spool: Path, job: Job) -> dict[str, Any]:
    """What the stations of the job noted down, by station."""
    folder = spool / "work" / job.job_id
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


# --- measured --------------------------------------------------------------------------------------


def _report(original: CtSeries, scan: LowDoseScan, journey: "Journey") -> dict[str, Any]:
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


def _table(report: dict[str, Any]) -> Table:
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


def _write(
    report: dict[str, Any], original: CtSeries, scan: LowDoseScan, enhanced: Volume, out: Path
) -> None:
    (out / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    k = len(enhanced) // 2
    rmse = report["rmse_hu"]
    title = f"slice {k + 1} of {len(enhanced)}; over all slices RMSE {rmse['before']} -> {rmse['after']} HU"
    draw(original.hounsfield[k], scan.hounsfield[k], enhanced[k], out / PICTURE, title)


# --- progress ----------------------------------------------------------------------------------------


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


class _Stations:
    """One bar a station, drawn as the journey reaches it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def slices(self, station: str, done: int, total: int) -> None:
        """So many slices of a station are done."""
        if station not in self._bars:
            self._bars[station] = self._progress.add_task(station, total=total)
        self._progress.update(self._bars[station], completed=done, total=total)

    def job(self, job: Job) -> None:
        """A job of the node changed."""
        if job.station and job.total:
            self.slices(job.part or job.station, job.done, job.total)
        for peer in job.destinations:
            if peer.total:
                self.slices(f"to {peer.name}", peer.sent, peer.total)

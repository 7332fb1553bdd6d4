"""`dicomnode demo`.

Scan with less dose, send, wait for what comes back, and measure it against the original.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from rich.console import Console

from dicomnode.demo.acquisition import LowDoseScan, scan_again, without_padding
from dicomnode.demo.bars import Stations, progress_of
from dicomnode.demo.measured import figures, table
from dicomnode.demo.orthanc import OrthancPacs, check_orthanc
from dicomnode.demo.pacs import DemoFailed, EmbeddedPacs, Pacs
from dicomnode.demo.picture import draw
from dicomnode.demo.room import (
    LOW_DOSE,
    PAGE,
    PICTURE,
    REPORT,
    RETURNED,
    check_room,
    make_room,
    note_what_was_made,
)
from dicomnode.demo.source import SourceUnavailable, lidc_series
from dicomnode.demo.travel import Journey, findings, travel
from dicomnode.dicom.series import CtSeries, read_series
from dicomnode.dicom.values import finite
from dicomnode.engines.catalog import SHIPPED, device_argument, load_engine
from dicomnode.errors import DoseUnknown
from dicomnode.journey.normal_dose import told_dose
from dicomnode.physics.lower_dose import learn_scanner, own_noise

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"

Volume = NDArray[np.float32]


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
    parser.add_argument(
        "--pacs",
        choices=["embedded", "orthanc"],
        default="embedded",
        help="one in this process, or this machine's Orthanc with the plugin (default: %(default)s)",
    )
    parser.add_argument("--seed", type=_seed, default=1)


def run(arguments: argparse.Namespace) -> int:
    """The main job, embedded. Raises DicomnodeError with the reason where it cannot be done."""
    console = Console()
    out: Path = arguments.output
    load_engine(arguments.models, arguments.model, arguments.device)  # before anything is cleared away
    if arguments.pacs == "orthanc":
        check_orthanc()
    paths = _sources(arguments, console)
    check_room(out, paths)
    whole = _readable(paths)
    make_room(out)
    with _pacs(arguments) as pacs, tempfile.TemporaryDirectory(prefix="dicomnode-demo-") as spool:
        with progress_of(console) as progress:
            show = Stations(progress)
            began = time.monotonic()
            own = own_noise(whole.hounsfield, whole.pixel_spacing_mm[0])
            scanner = learn_scanner(own, arguments.dose, arguments.seed)
            original = _middle(whole, arguments.slices)
            scan = scan_again(original, scanner, out / LOW_DOSE, arguments.seed, show.slices)
            scan_seconds = round(time.monotonic() - began, 2)
            job, seconds = travel(arguments, scan, Path(spool), pacs, show)
            enhanced = _returned(pacs, original)
        seconds = {"scan": scan_seconds, **seconds}
        report = figures(original, scan, Journey(job, findings(Path(spool), job), enhanced, seconds))
        _write(report, original, scan, enhanced, out)
        console.print(table(report))
        console.print(f"look at [bold]{out / PICTURE}[/]; the returned DICOM is in {out / RETURNED}")
        if isinstance(pacs, OrthancPacs):
            _show_page(pacs, out / PAGE, console)
    note_what_was_made(out)
    return 0


def _pacs(arguments: argparse.Namespace) -> "EmbeddedPacs | OrthancPacs":
    folder: Path = arguments.output / RETURNED
    return OrthancPacs(folder) if arguments.pacs == "orthanc" else EmbeddedPacs(folder)


def _show_page(pacs: OrthancPacs, picture: Path, console: Console) -> None:
    """Keep a picture of the study's page where a browser is at hand, and the page open for who sits there."""
    if pacs.photograph(picture):
        console.print(f"the study as Orthanc shows it: [bold]{picture}[/]")
    if sys.stdin.isatty():
        console.input(f"look at it: {pacs.study_page} - Enter ends Orthanc ")


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


def _returned(pacs: Pacs, like: CtSeries) -> Volume:
    """The enhanced images as any reader finds them in the archive, HU, in the order of `like`.

    Raises DemoFailed where one is missing.
    """
    place = {_position(header): k for k, header in enumerate(like.headers)}
    volume = np.full_like(like.hounsfield, np.nan)
    for path in pacs.returned():
        image = dcmread(path)
        if image.SOPClassUID == CT_IMAGE and _position(image) in place:
            volume[place[_position(image)]] = image.pixel_array * float(image.RescaleSlope) + float(
                image.RescaleIntercept
            )
    missing = int(np.isnan(volume).any(axis=(1, 2)).sum())
    if missing:
        raise DemoFailed(
            f"{missing} of {len(volume)} images did not come back; what did is in {RETURNED} of the output"
        )
    return without_padding(like, volume)


def _position(header: Dataset) -> tuple[float, ...]:
    return tuple(float(v) for v in header.ImagePositionPatient)


# --- shown ----------------------------------------------------------------------------------------


def _write(
    report: dict[str, Any], original: CtSeries, scan: LowDoseScan, enhanced: Volume, out: Path
) -> None:
    (out / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    k = len(enhanced) // 2
    rmse = report["rmse_hu"]
    title = f"slice {k + 1} of {len(enhanced)}; over all slices RMSE {rmse['before']} -> {rmse['after']} HU"
    draw(original.hounsfield[k], scan.hounsfield[k], enhanced[k], out / PICTURE, title)

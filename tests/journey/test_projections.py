"""From CT-PD files to HU in the patient's frame, and what the node says of a series it cannot enhance."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicomnode.demo.projections import FanScanner, scan, write_projections
from dicomnode.dicom.projections import MeasuredProjections, read_projections
from dicomnode.dicom.series import read_headers
from dicomnode.engines.model_card import Network, RawMode, Schedule
from dicomnode.engines.need import raw
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.need.poisson import EXTENDED
from dicomnode.engines.unet import UNet, UNetShape
from dicomnode.errors import ConeTooWide, HelicalProjections, InconsistentProjections, NoRawMode
from dicomnode.journey.dose_reports import DoseReports
from dicomnode.journey.order import new_orders
from dicomnode.journey.projections import (
    ReconstructedSeries,
    read_measured_slices,
    rebin,
    reconstruct_projections,
    reconstruct_views,
    refuse,
)
from dicomnode.journey.stations import STATIONS, Stations
from dicomnode.node import Node
from dicomnode.physics.photons import REFERENCE_BIN_MM, REFERENCE_VIEWS
from dicomnode.physics.simulation import STANDARD
from dicomnode.spool import Spool, key
from tests.dicom.test_projections import change, put
from tests.fan_makers import disc, ends, small, through
from tests.journey.scene import Pacs, decoded, low_dose_series, send_to, settings_for, wait_for_jobs
from tests.journey.test_stations import filed

pytestmark = pytest.mark.slow

RAW_MODE = RawMode(
    network=Network(file="x", sha256="0" * 64, channels_in=6, widths=(8, 8), conditions=1, parameters=1),
    schedule=Schedule(
        most_photons=EXTENDED.most_photons, least_photons=EXTENDED.least_photons, steps=EXTENDED.steps
    ),
    passes=1,
    photons=(5e3, 3e5),
)


@pytest.fixture(scope="module")
def raw_engine(engine: NeedEngine) -> NeedEngine:
    """The shipped model with a raw mode whose weights are set by hand.

    It takes a ray for the mean of the 9 x 9 around it: what the middle slice has more goes straight through.
    """
    network = UNet(UNetShape(raw.CHANNELS, (8, 8), raw.CONDITIONS)).eval().requires_grad_(False)
    for weight in network.parameters():
        weight.zero_()
    network.enter.weight[0, raw.CONTEXT + 1, 1, 1] = 1.0
    network.leave.weight[0, 0, 1, 1] = 1.0
    return replace(engine, card=engine.card.model_copy(update={"raw": RAW_MODE}), raw=network)


FINE = {"columns": 240, "column_spacing_mm": 1.6, "central_column": 120.625, "views_per_turn": 360}


def means(series: ReconstructedSeries, slice_: int, left_mm: float, posterior_mm: float, half: int) -> float:
    """Mean HU around a place in the patient, found through the series' own position and orientation."""
    corner, directions = series.position_mm[slice_], np.array(series.orientation, float)
    away = np.array([left_mm, posterior_mm]) - corner[:2]
    column = round(float(away @ directions[:2]) / series.pixel_mm)
    row = round(float(away @ directions[3:5]) / series.pixel_mm)
    patch = series.hounsfield[slice_, row - half : row + half + 1, column - half : column + half + 1]
    return float(patch.mean())


def written(folder: Path, scanner: FanScanner, table_mm: Sequence[float] = (0.0,)) -> list[Path]:
    volume = disc(128, 1.5)
    volume[2:] -= 20.0 * (volume[2:] > -500)
    return write_projections(scan(volume, 1.5, scanner, table_mm), folder)


@pytest.mark.parametrize(
    ("position", "left", "upward"), [("HFS", 1, 1), ("FFS", -1, -1), ("HFP", -1, 1), ("FFP", 1, -1)]
)
def test_files_become_hounsfield_where_the_patient_is(
    tmp_path: Path, position: str, left: int, upward: int
) -> None:
    """The insert lies 35 mm right and 25 mm up, seen from the table; from height 2 on it is darker."""
    scanner = small(**FINE, patient_position=position)
    series = reconstruct_projections(written(tmp_path, scanner, (0.5, 3.0)), side_px=128)
    up = -1 if position.endswith("S") else 1
    assert series.hounsfield.shape == (4, 128, 128)
    assert np.all(np.diff(series.position_mm[:, 2]) > 0), "from feet to head"
    dark = [3, 2] if upward > 0 else [0, 1]
    for slice_ in range(4):
        level = -20.0 if slice_ in dark else 0.0
        assert means(series, slice_, 0.0, -40.0 * up, 6) == pytest.approx(level, abs=1.5)
        assert means(series, slice_, 35.0 * left, 25.0 * up, 5) == pytest.approx(60.0 + level, abs=1.5)
    assert series.mas == pytest.approx((100.0,) * 4)


def test_heights_and_thickness_are_those_at_the_axis(tmp_path: Path) -> None:
    """Row 1 is the farthest from the table; FFSZ makes two stacks, whose slices interleave."""
    scanner = small(**FINE, focal_spot_mode="FFSZ", spot_shift_mm=(0.0, 0.6, 0.0))
    projections = scan(disc(128, 1.5), 1.5, scanner, (10.0,))
    projections.line_integrals[:, 0] = 0.0
    measured = rebin(projections, side_px=64)
    shrink = 550.0 / 1000.0
    told = sorted(10.0 + dz + (t - dz) * shrink for dz in (-0.3, 0.3) for t in (0.625, -0.625))
    assert measured.height_mm == pytest.approx(told, abs=1e-4)
    assert measured.thickness_mm == pytest.approx(1.25 * shrink)
    dense = measured.line_integrals.max(axis=(1, 2)) > 1.0
    assert list(dense) == [True, True, False, False], "row 1 makes the highest slices"
    assert measured.mas == pytest.approx((50.0,) * 4), "half of the views each"


def test_photons_of_a_slice_are_those_of_its_rays() -> None:
    scanner = small(**FINE, quanta=8e4, bow_tie=0.3, modulation=0.2)
    projections = scan(disc(128, 1.5), 1.5, scanner)
    measured = rebin(projections, side_px=64)
    pitch_mm = 1.6 * 550.0 / 1000.0
    flat = 8e4 * 360 / REFERENCE_VIEWS * REFERENCE_BIN_MM / pitch_mm
    assert measured.photons is not None
    behind_bow_tie = 1.0 - 0.7 * (50.0 / (120 * pitch_mm)) ** 2 / 3.0
    assert measured.photons == pytest.approx((behind_bow_tie * flat,) * 2, rel=0.005)
    half = replace(scanner, tube_current_ma=100.0, quanta=4e4)
    halved = rebin(scan(disc(128, 1.5), 1.5, half), side_px=64).photons
    assert halved is not None
    assert halved[0] == pytest.approx(measured.photons[0] / 2, rel=1e-3)
    assert measured.incident_quanta is not None
    assert measured.incident_quanta.shape == measured.line_integrals.shape
    untold = replace(projections, incident_quanta=None)
    assert rebin(untold, side_px=64).photons is None
    assert rebin(untold, side_px=64).incident_quanta is None


def test_noise_of_the_files_is_the_noise_that_is_told(tmp_path: Path) -> None:
    """A noisy scan through the files and rebinned: its deviations have the variance exp(P) / quanta."""
    scanner = small(**FINE, quanta=5e4, bow_tie=0.5)
    volume = disc(128, 1.5)
    noisy = read_measured_slices(write_projections(scan(volume, 1.5, scanner, seed=3), tmp_path), side_px=64)
    clean = rebin(scan(volume, 1.5, scanner), side_px=64)
    assert noisy.incident_quanta is not None
    inside = clean.line_integrals > 1.0
    told = np.exp(clean.line_integrals[inside]) / noisy.incident_quanta[inside]
    score = (noisy.line_integrals - clean.line_integrals)[inside] / np.sqrt(told)
    assert float((score**2).mean()) == pytest.approx(1.0, abs=0.03)
    assert abs(float(score.mean())) < 0.05


def test_the_cone_decides_how_many_rows_are_fans() -> None:
    """A clinical scanner: 4 rows pass with a field of 500 mm, 8 do not, 8 do in the middle."""

    def rows(count: int) -> MeasuredProjections:
        scanner = small(
            rows=count, central_row=(count + 1) / 2, columns=80, column_spacing_mm=12.0, central_column=40.5,
            distance_mm=1085.6, row_spacing_mm=1.0947, views_per_turn=24,
        )  # fmt: skip
        return scan(disc(), 3.0, replace(scanner, radial_mm=595.0))

    assert rebin(rows(4), 64, field_mm=500.0).slices == 4
    with pytest.raises(ConeTooWide, match=r"8 rows stray by 1\.5 slices"):
        rebin(rows(8), 64, field_mm=500.0)
    assert rebin(rows(8), 64, field_mm=300.0).slices == 8
    kept = rebin(rows(8), 64, field_mm=500.0, outer_rows="leave")
    assert kept.height_mm == pytest.approx(
        [step * 1.0947 * 595.0 / 1085.6 for step in (-1.5, -0.5, 0.5, 1.5)]
    )


def test_tilted_rays_through_a_long_cylinder_keep_their_hounsfield() -> None:
    """Outer rows look through it aslant: longer chords, by what the cone's angle makes of them."""
    scanner = small(
        **{**FINE, "rows": 4, "central_row": 2.5, "row_spacing_mm": 30.0}, radial_mm=550.0
    )  # fmt: skip
    projections = scan(disc(128, 1.5), 1.5, scanner)
    integrals = projections.line_integrals.copy()
    for view, angle in enumerate(projections.focal_centre.angle_rad):
        spot, elements = ends(scanner, angle)
        chord = through(((0.0, 0.0, 80.0, 80.0, 1000.0),), spot, elements)
        for row in range(4):
            rise = (2.5 - (row + 1)) * 30.0
            integrals[view, row] = chord * math.hypot(1000.0, rise) / 1000.0
    measured = rebin(replace(projections, line_integrals=integrals), 64)
    middle = measured.line_integrals[:, :, measured.beam.detectors // 2]
    assert np.allclose(middle, 2 * 80.0 * 0.0192, rtol=2e-4)


def test_a_patient_without_position_is_not_guessed(tmp_path: Path) -> None:
    paths = write_projections(scan(disc(), 3.0, small(views_per_turn=24, patient_position="")), tmp_path)
    assert read_measured_slices(paths, 64).slices == 2
    with pytest.raises(InconsistentProjections, match="PatientPosition"):
        reconstruct_projections(paths, 64)


def test_a_readable_series_is_refused_for_want_of_a_raw_mode_and_another_for_what_it_is(
    tmp_path: Path,
) -> None:
    paths = write_projections(scan(disc(), 3.0, small(views_per_turn=24)), tmp_path)
    with pytest.raises(NoRawMode, match=r"24 views of 2 x 80 .* the present model has no raw mode"):
        refuse(paths)
    with pytest.raises(HelicalProjections):
        refuse(change(paths, put("TypeofProjectionData", "HELICAL")))


def test_projections_that_a_node_receives_are_kept_and_told(
    tmp_path: Path, pacs: Pacs, image_engine: NeedEngine
) -> None:
    paths = write_projections(scan(disc(), 3.0, small(views_per_turn=24)), tmp_path / "raw")
    settings = settings_for(tmp_path, pacs.port)
    with Node(settings, engine=image_engine) as node:
        assert len(send_to(node.port, paths).sent) == 24
        (raw,) = wait_for_jobs(node)
        send_to(node.port, low_dose_series(tmp_path / "in"))
        jobs = wait_for_jobs(node, 2)
    assert (raw.status, raw.rule) == ("refused", "no-raw-mode")
    assert "the present model has no raw mode" in (raw.reason or "")
    assert jobs[1].status == "done", "and the node goes on"
    series = read_projections(paths).acquisition.series_instance_uid
    received = sorted((settings.node.spool / "incoming" / key(series)).glob("*.dcm"))
    assert len(received) == 24
    again, before = reconstruct_projections(received, 64), reconstruct_projections(paths, 64)
    assert np.array_equal(again.hounsfield, before.hounsfield), "what is kept is what was sent"


def test_projections_go_through_a_node_whose_model_has_a_raw_mode(
    tmp_path: Path, pacs: Pacs, engine: NeedEngine
) -> None:
    """A tenth of the dose in, CT images and a report out, which say what they were made of."""
    scanner = small(**{**FINE, "views_per_turn": 180}, quanta=2.4e4, bow_tie=0.6)
    paths = write_projections(scan(disc(128, 1.5), 1.5, scanner, (0.5,), seed=1), tmp_path / "raw")
    patience = {"closed_seconds": 5.0, "quiet_seconds": 30.0, "give_up_seconds": 30.0}
    settings = settings_for(tmp_path, pacs.port, completeness=patience)
    with Node(settings, engine=engine) as node:
        assert len(send_to(node.port, paths).sent) == 180
        (job,) = wait_for_jobs(node, seconds=300)
    assert job.status == "done", job.reason
    made = sorted(
        (decoded(pacs.kept()[uid]) for uid in pacs.images()), key=lambda image: image.InstanceNumber
    )
    assert len(made) == 2
    assert len(pacs.reports()) == 1
    sent = {str(header.SOPInstanceUID) for header in read_headers(paths)}
    named = [image.SourceImageSequence[0] for image in made]
    assert len({str(one.ReferencedSOPInstanceUID) for one in named} & sent) == 2, "each by a view of its own"
    for image in made:
        assert list(image.ImageType) == ["DERIVED", "PRIMARY", "AXIAL", "AI_DENOISED"]
        assert image.DerivationDescription.startswith("Reconstructed from 180 measured views (DICOM-CT-PD)")
        assert "photons a reference ray" in image.DerivationDescription
        assert image.ImageComments.startswith("AI-processed image: reconstructed from measured projections")
        assert image.SourceImageSequence[0].SpatialLocationsPreserved == "NO"
        assert image.FrameOfReferenceUID == made[0].FrameOfReferenceUID
        assert not any(element.tag.is_private for element in image)
    plain = reconstruct_views(read_projections(paths), STANDARD)
    clean = reconstruct_views(scan(disc(128, 1.5), 1.5, scanner, (0.5,)), STANDARD)
    result = np.stack([image.pixel_array.astype(np.float32) for image in made])
    places = np.array([image.ImagePositionPatient for image in made], float)
    assert places == pytest.approx(plain.position_mm, abs=1e-4)
    water = np.hypot(*(np.mgrid[:512, :512] - 255.5)) * plain.pixel_mm < 70.0
    before, after = ((image - clean.hounsfield)[:, water] for image in (plain.hounsfield, result))
    assert after.std() < 0.6 * before.std()
    assert abs(float(after.mean())) < 1.0


@pytest.mark.parametrize("engine_changes", [False, True])
def test_a_crash_at_every_station_makes_the_same_result_of_projections(
    tmp_path: Path, raw_engine: NeedEngine, image_engine: NeedEngine, engine_changes: bool
) -> None:
    """Each station is reached by a process that knows only what is on the disk, and is broken off once.

    From the judge on it may be one whose model has no raw mode: the pixels are there already.
    """
    scanner = small(views_per_turn=120, quanta=2.4e4)
    paths = write_projections(scan(disc(), 3.0, scanner, (0.5,), seed=1), tmp_path / "raw")
    settings = settings_for(tmp_path, 1, quality={"on_failure": "label"})
    spool = Spool(settings.node.spool, reserve_bytes=0)
    pipeline = Stations(settings, spool, raw_engine, DoseReports()).pipeline_digest
    (order,) = new_orders(spool, filed(spool, paths), (), pipeline, "now")
    folder = spool.work_folder(order.job_id)

    def pixels() -> list[tuple[str, bytes]]:
        images = [dcmread(path) for path in sorted(folder.rglob("images/*.dcm"))]
        return [(str(image.SOPInstanceUID), image.PixelData) for image in images]

    whole = Stations(settings, spool, raw_engine, DoseReports())
    for station in STATIONS:
        whole.visit(station, order, lambda *_: None)
    expected = pixels()
    assert len(expected) == 2
    shutil.rmtree(folder)
    for station in STATIONS:
        late = engine_changes and station in ("judge", "write")
        anew = Stations(settings, spool, image_engine if late else raw_engine, DoseReports())
        assert anew.can_continue(order)
        if station == "reconstruct":
            with pytest.raises(KeyboardInterrupt):
                anew.visit(station, order, killed)
            anew = Stations(settings, spool, raw_engine, DoseReports())
        anew.visit(station, order, lambda *_: None)
    assert pixels() == expected


def killed(part: str, done: int, total: int) -> None:
    raise KeyboardInterrupt

"""The stations of a series between its arrival and its delivery: the one place where DICOM and physics meet.

    assemble -> dose -> measure -> match -> reconstruct -> judge -> write

Each station reads what the ones before it left under work/<job id>/, does one thing, and leaves
`<station>.json` there as its last act: a station whose file is there has been passed.
What a station writes depends on nothing but the images, the model, the configuration, and the dose reports
of the study that had come when the dose was read: `dose.json` names them.
"""

import hashlib
import io
import json
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from statistics import median_low
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomnode.dicom.dose import DoseReading, read_dose
from dicomnode.dicom.dose_joining import Scan, scans_of
from dicomnode.dicom.provenance import Identity, Provenance, pipeline_digest
from dicomnode.dicom.series import CtSeries
from dicomnode.engines.enhance import Enhanced, enhance
from dicomnode.engines.enhance_rays import EnhancedRays, enhance_rays
from dicomnode.engines.need.engine import NeedEngine
from dicomnode.engines.start_step import SliceFacts, StartStep
from dicomnode.engines.uncertainty import drawing, spread
from dicomnode.errors import HeldByQuality, NoSpread
from dicomnode.journey.dose_reports import DoseReports
from dicomnode.journey.job import Station
from dicomnode.journey.manifest import OUTGOING, read_manifest
from dicomnode.journey.matching import mean_diameter_mm, mean_ssde_mgy, regions_told, slice_facts
from dicomnode.journey.order import Order
from dicomnode.journey.raw_mode import Taken, match_taken, measured_rays, take_up
from dicomnode.journey.writing import Work, earlier_results, write_objects
from dicomnode.quality import Limits, judge
from dicomnode.settings import Settings
from dicomnode.spool import Spool

STATIONS: Final[tuple[Station, ...]] = (
    "assemble",
    "dose",
    "measure",
    "match",
    "reconstruct",
    "judge",
    "write",
)
_ENHANCED: Final = "enhanced.npy"
_SPREAD: Final = "spread.npy"
_MAKING: Final = "outgoing.making"

OnSlice = Callable[[str, int, int], None]
"""Told (part of the station, slices done, slices in all); may raise to break the station off."""


class Stations:
    """The stations of one node. Not for several threads: it holds the series it is working on."""

    def __init__(self, settings: Settings, spool: Spool, engine: NeedEngine, reports: DoseReports) -> None:
        self._settings = settings
        self._reports = reports
        self._spool = spool
        self._engine = engine
        self._uid_key = settings.identity.uid_key_bytes or spool.uid_key()
        self._held: tuple[str, Taken] | None = None
        self.configuration_digest = _configuration_digest(settings)
        if settings.uncertainty_seeds:
            drawing(engine)  # a model that cannot is refused now, and not after the first series
        card = engine.card
        self.pipeline_digest = pipeline_digest(
            card.id, card.version, engine.weights_digest, self.configuration_digest
        )

    def visit(self, station: Station, order: Order, on_slice: OnSlice) -> Mapping[str, object]:
        """Pass a station, or read what it found before. Raises DicomnodeError, SeriesRefused above all."""
        folder = self._spool.work_folder(order.job_id)
        mark = folder / f"{station}.json"
        if not mark.exists():
            began = time.monotonic()
            found = dict(self._do(station, order, folder, on_slice))
            found["seconds"] = round(time.monotonic() - began, 3)
            self._spool.write_durably(mark, (json.dumps(found, indent=1) + "\n").encode())
        return _read(mark)

    def _do(self, station: Station, order: Order, folder: Path, on_slice: OnSlice) -> Mapping[str, object]:
        if station == "assemble":
            return self._assemble(order)
        if station == "dose":
            return self._read_dose(order)
        if station == "measure":
            return self._measure(order, folder)
        if station == "match":
            return self._match(order, folder)
        if station == "reconstruct":
            return self._reconstruct(order, folder, on_slice)
        if station == "judge":
            return self._judge(order, folder)
        return self._write(order, folder)

    def can_continue(self, order: Order) -> bool:
        """Whether the pipeline that the job was ordered with is the present one, or is needed no more."""
        made = self._spool.work_folder(order.job_id) / "reconstruct.json"
        return order.pipeline_digest == self.pipeline_digest or made.exists()

    def discard(self, job_id: str) -> None:
        """Remove the pixels of a job whose result nobody will get."""
        self._drop_pixels(self._spool.work_folder(job_id))

    def _drop_pixels(self, folder: Path) -> None:
        for name in (_ENHANCED, _SPREAD):
            (folder / name).unlink(missing_ok=True)

    def dose_found(self, job_id: str) -> tuple[DoseReading, tuple[Scan, ...]] | None:
        """What the station `dose` read, and what joins the series to irradiation events; None before it."""
        folder = self._spool.work_folder(job_id)
        if not (folder / "dose.json").exists():
            return None
        return _dose(folder), _scans(folder)

    def forget_dose(self, job_id: str) -> None:
        """Take back the station `dose` and what rests on it, the last first: its dose will be read again."""
        folder = self._spool.work_folder(job_id)
        for station in reversed(STATIONS[STATIONS.index("dose") :]):
            (folder / f"{station}.json").unlink(missing_ok=True)
        _force_to_disk(folder, deep=False)

    def forget(self) -> None:
        """Let go of the pixels in memory."""
        self._held = None

    # --- the stations -----------------------------------------------------------------------

    def _series(self, order: Order) -> CtSeries:
        return self._taken(order).series

    def _taken(self, order: Order) -> Taken:
        """The series in memory; read again after a crash, with the same result."""
        if self._held is None or self._held[0] != order.job_id:
            folder = self._spool.series_folder(order.series_uid)
            paths = [folder / name for name in order.files]
            made = (self._spool.work_folder(order.job_id) / "reconstruct.json").exists()
            taken = take_up(paths, self._engine, enhanced=made)
            series = replace(taken.series, stack=order.stack, stack_number=order.stack_number)
            self._held = order.job_id, replace(taken, series=series)
        return self._held[1]

    def _assemble(self, order: Order) -> Mapping[str, object]:
        self.forget()
        series = self._series(order)
        return {
            "slices": series.slices,
            "shape": list(series.hounsfield.shape),
            "pixel_spacing_mm": list(series.pixel_spacing_mm),
            "slice_spacing_mm": series.slice_spacing_mm,
            "slice_thickness_mm": series.slice_thickness_mm,
            "content_digest": series.content_digest,
            "measured_views": self._taken(order).views,
        }

    def _read_dose(self, order: Order) -> Mapping[str, object]:
        """By the images and the dose reports of their study, and which reports those were."""
        series = self._series(order)
        events, considered = self._reports.events(series.study_instance_uid)
        return {
            **asdict(read_dose(series.headers, events)),
            "reports_considered": sorted(considered),
            "scans": [asdict(scan) for scan in scans_of(series.headers)],
        }

    def _measure(self, order: Order, folder: Path) -> Mapping[str, object]:
        """Region, size, dose and noise of every slice, as the engine will be told."""
        reference = self._settings.dose.reference
        facts = slice_facts(self._series(order), _dose(folder), reference)
        return {
            "dose_reference": reference.version,
            "regions": regions_told(facts),
            "flags": sorted({flag for one in facts for flag in one.flags}),
            "slices": [asdict(one) for one in facts],
        }

    def _match(self, order: Order, folder: Path) -> Mapping[str, object]:
        taken, facts = self._taken(order), _facts(folder)
        starts, sentence = match_taken(taken, facts, self._settings.dose, self._engine)
        return {"told": sentence, "starts": [asdict(start) for start in starts]}

    def _reconstruct(self, order: Order, folder: Path, on_slice: OnSlice) -> Mapping[str, object]:
        """The long one. The pixels are on the disk before the station counts as passed."""
        series = self._series(order)
        seed = int(order.content_digest[:8], 16)
        taken, starts = self._taken(order), _starts(folder)
        result: Enhanced | EnhancedRays
        outside: set[str] = set()
        if taken.projections is not None:
            rays = measured_rays(taken.projections, [start.photons for start in starts], series)
            result = enhance_rays(self._engine, rays, seed, on_slice)
            outside = {sentence for start in result.starts for sentence in start.outside}
        else:
            result = enhance(
                self._engine, series.hounsfield, _pixel_mm(series), starts, seed, on_slice=on_slice
            )
        self._spool.write_durably(folder / _ENHANCED, *_npy(result.hounsfield))
        card = self._engine.card
        return {
            "engine": card.engine,
            "model_id": card.id,
            "model_version": card.version,
            "weights_digest": self._engine.weights_digest,
            "configuration_digest": self.configuration_digest,
            "steps": taken.steps(self._engine),
            "outside": sorted(outside),
            "seed": seed,
            "seconds_by_part": result.seconds,
            "processed_at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "uncertainty": self._uncertainty(taken, folder, seed, on_slice),
        }

    def _uncertainty(self, taken: Taken, folder: Path, seed: int, on_slice: OnSlice) -> Mapping[str, object]:
        """The spread over seeds, on the disk, where a destination asks for it and there is one."""
        seeds, series = self._settings.uncertainty_seeds, taken.series
        if not seeds:
            return {"seeds": 0}
        if taken.projections is not None:
            return {"seeds": 0, "left_out": "the spread over seeds is not computed of measured projections"}
        try:
            deviation = spread(
                self._engine, series.hounsfield, _pixel_mm(series), _starts(folder), seed, seeds, on_slice
            )
        except NoSpread as reason:
            return {"seeds": 0, "left_out": str(reason)}
        if series.padding is not None:
            deviation[series.padding] = 0.0
        self._spool.write_durably(folder / _SPREAD, *_npy(deviation))
        return {"seeds": seeds}

    def _judge(self, order: Order, folder: Path) -> Mapping[str, object]:
        series = self._series(order)
        limits = Limits(self._settings.quality.max_bias_hu, self._settings.quality.on_failure)
        verdict = judge(
            series.hounsfield,
            np.load(folder / _ENHANCED),
            _pixel_mm(series),
            limits,
            changed=any(start.step > 0 for start in _starts(folder)),
            padding=series.padding,
        )
        if verdict.verdict == "hold":
            raise HeldByQuality("; ".join(verdict.reasons))
        return asdict(verdict)

    def _write(self, order: Order, folder: Path) -> Mapping[str, object]:
        """Everything into one folder, forced to the disk, and one rename: all files or none."""
        outgoing = folder / OUTGOING
        if not outgoing.exists():
            making = folder / _MAKING
            shutil.rmtree(making, ignore_errors=True)
            self._write_objects(order, folder, making)
            _force_to_disk(making)
            making.rename(outgoing)
            _force_to_disk(folder, deep=False)
        self._drop_pixels(folder)
        first, *others = [result.series_instance_uid for result in read_manifest(outgoing).results]
        return {"derived_series_uid": first, "other_series_uids": others}

    def _write_objects(self, order: Order, folder: Path, making: Path) -> None:
        series = self._series(order)
        seeds = int(_read(folder / "reconstruct.json").get("uncertainty", {}).get("seeds", 0))
        work = Work(
            series=series,
            hounsfield=np.load(folder / _ENHANCED),
            spread_hu=np.load(folder / _SPREAD) if seeds else None,
            seeds=seeds,
            identity=self._identity(),
            provenance=self._provenance(folder),
            generation=order.generation,
        )
        write_objects(work, self._settings, earlier_results(self._spool, order), making)

    def _identity(self) -> Identity:
        ours = self._settings.identity
        return Identity(
            ae_title=self._settings.node.ae_title,
            device_uid=ours.device_uid or _device_uid(self._settings),
            uid_key=self._uid_key,
            uid_root=ours.uid_root,
            series_description_prefix=ours.series_description_prefix,
            series_number_offset=ours.series_number_offset,
            keep_manufacturer=ours.keep_manufacturer,
            content_qualification=ours.content_qualification,
        )

    def _provenance(self, folder: Path) -> Provenance:
        """The facts for headers and report, from what the stations before left: the same after a crash."""
        made, verdict = _read(folder / "reconstruct.json"), _read(folder / "judge.json")
        starts, dose, facts = _starts(folder), _dose(folder), _facts(folder)
        measured = _read(folder / "measure.json")
        return Provenance(
            engine=made["engine"],
            model_id=made["model_id"],
            model_version=made["model_version"],
            weights_digest=made["weights_digest"],
            configuration_digest=_with_reports(made["configuration_digest"], dose.report_uids),
            dose=dose,
            photons=median_low([start.photons for start in starts]),
            dose_fraction=median_low([start.dose_fraction for start in starts]),
            dose_decided_by=Counter(start.dose_decided_by for start in starts).most_common(1)[0][0],
            ssde_mgy=mean_ssde_mgy(dose, facts),
            water_equivalent_diameter_mm=mean_diameter_mm(facts),
            start_step=median_low([start.step for start in starts]),
            steps=made["steps"],
            seed=made["seed"],
            noise_before_hu=verdict["noise_before_hu"],
            noise_after_hu=verdict["noise_after_hu"],
            bias_hu=verdict["bias_hu"],
            max_change_hu=verdict["max_change_hu"],
            verdict=verdict["verdict"],
            verdict_reasons=(
                *verdict["reasons"],
                *sorted({sentence for start in starts for sentence in start.outside}),
                *made.get("outside", ()),
            ),
            dose_decision=_read(folder / "match.json")["told"],
            measured_views=_read(folder / "assemble.json").get("measured_views", 0),
            # the table that was measured against; another one may be configured by now
            dose_reference=measured["dose_reference"],
            regions=measured["regions"],
            size_flags=tuple(measured["flags"]),
            processed_at=datetime.fromisoformat(made["processed_at"]),
        )


# --- what the stations say to each other ------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    """JSON that a station of ours wrote."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _dose(folder: Path) -> DoseReading:
    values = _read(folder / "dose.json")
    return DoseReading(
        kvp=values["kvp"],
        mas=tuple(values["mas"]),
        ctdivol_mgy=tuple(values["ctdivol_mgy"]),
        phantom_cm=values["phantom_cm"],
        source=values["source"],
        flags=tuple(values["flags"]),
        report_uids=tuple(values.get("report_uids", ())),
    )


def _scans(folder: Path) -> tuple[Scan, ...]:
    told = _read(folder / "dose.json").get("scans", ())
    return tuple(
        Scan(**{**one, "slices": tuple(one["slices"]), "event_uids": tuple(one["event_uids"])})
        for one in told
    )


def _facts(folder: Path) -> list[SliceFacts]:
    told = _read(folder / "measure.json")["slices"]
    return [SliceFacts(**{**values, "flags": tuple(values["flags"])}) for values in told]


def _starts(folder: Path) -> list[StartStep]:
    return [StartStep(**values) for values in _read(folder / "match.json")["starts"]]


def _pixel_mm(series: CtSeries) -> float:
    """One number for the virtual scanner, whose pixels are square."""
    return series.pixel_spacing_mm[0]


# --- names and digests --------------------------------------------------------------------------


def _configuration_digest(settings: Settings) -> str:
    """SHA-256 over every setting that changes what is written; not over device, host or time, nor secrets."""
    told = {
        "model": settings.engine.model,
        "dose": settings.dose.model_dump(mode="json"),
        "quality": settings.quality.model_dump(mode="json"),
        "identity": settings.identity.model_dump(mode="json", exclude={"uid_key"}),
        "ae_title": settings.node.ae_title,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _with_reports(configuration_digest: str, report_uids: tuple[str, ...]) -> str:
    """Images that differ in the dose reports joined to them need different UIDs."""
    told = [configuration_digest, *report_uids]
    return configuration_digest if len(told) == 1 else hashlib.sha256("|".join(told).encode()).hexdigest()


def _device_uid(settings: Settings) -> str:
    """A Device UID for an installation that was given none: from its name, so that it stays the same."""
    name = f"dicomnode {settings.node.executor_id} {settings.node.ae_title}"
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


# --- files ----------------------------------------------------------------------------------------


def _npy(hounsfield: NDArray[np.float32]) -> Iterator[bytes]:
    """A .npy file in pieces of one slice, so that no second copy of the volume is made."""
    header = io.BytesIO()
    volume = np.ascontiguousarray(hounsfield, dtype="<f4")
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(volume))
    yield header.getvalue()
    yield from (image.tobytes() for image in volume)


def _force_to_disk(folder: Path, deep: bool = True) -> None:
    """fsync a folder, and everything in it if `deep`."""
    for path in (*(sorted(folder.rglob("*")) if deep else ()), folder):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

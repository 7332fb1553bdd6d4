"""The stations by themselves: what one leaves is what the next goes by."""

import re
from pathlib import Path

from pydicom import dcmread

from dicomnode.engines.need.engine import NeedEngine
from dicomnode.journey.dose_reports import DoseReports
from dicomnode.journey.order import new_orders
from dicomnode.journey.stations import STATIONS, Stations
from dicomnode.network import part10
from dicomnode.network.completeness import Completion
from dicomnode.network.filing import Filing, Request
from dicomnode.spool import Spool
from tests.journey.scene import low_dose_series, settings_for


def filed(spool: Spool, paths: list[Path]) -> Completion:
    """A series that is complete in the spool."""
    filing, uids = Filing(spool), []
    for path in paths:
        meta = part10.read_meta(path)
        names = meta.sop_class_uid, meta.sop_instance_uid, meta.sop_class_uid, meta.transfer_syntax_uid
        uids.append(
            filing.file(Request(*names, "SCANNER", path.read_bytes()[meta.data_set_at :])).sop_instance_uid
        )
    series_uid = str(dcmread(paths[0]).SeriesInstanceUID)
    return Completion(series_uid, "told", "closed", len(uids), (), 0, tuple(sorted(uids)))


def test_a_report_names_the_table_of_normal_doses_that_was_measured_against(
    tmp_path: Path, engine: NeedEngine
) -> None:
    """Another one is configured while the job stands before its last station."""
    settings = settings_for(tmp_path, 1)
    spool = Spool(settings.node.spool, reserve_bytes=0)
    completion = filed(spool, low_dose_series(tmp_path / "in", slices=2))
    before = Stations(settings, spool, engine, DoseReports())
    (order,) = new_orders(spool, completion, (), before.pipeline_digest, "now")
    for station in STATIONS[:-1]:
        before.visit(station, order, lambda *_: None)
    other = settings.dose.reference.model_copy(update={"version": "another-table"})
    dose = settings.dose.model_copy(update={"reference": other})
    after = Stations(settings.model_copy(update={"dose": dose}), spool, engine, DoseReports())
    assert after.can_continue(order)
    after.visit("write", order, lambda *_: None)
    (report,) = spool.work_folder(order.job_id).rglob("report.dcm")
    told = set(re.findall(rb"dose reference=(\S*)", report.read_bytes()))
    assert told == {settings.dose.reference.version.encode()}

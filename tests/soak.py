"""Many series poured into an Orthanc while it and the node are killed and started again.

    python -m tests.soak --series 50 --slices 60 [--folder DIR]

Ends with a table, and with exit status 1 unless every series was enhanced exactly once: one derived series
with all of its images, one report, nothing derived from what is derived.
"""

import argparse
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from dicomnode.errors import NetworkError
from dicomnode.network.send import send_files
from tests.makers import make_series, phantom
from tests.site import Site

SETTINGS = {
    "DICOMNODE__COMPLETENESS__CLOSED_SECONDS": "2",
    "DICOMNODE__COMPLETENESS__QUIET_SECONDS": "45",
    "DICOMNODE__QUALITY__MAX_BIAS_HU": "50",
    "DICOMNODE__QUALITY__ON_FAILURE": "label",
}
"""Quiet for longer than a restart takes; the gate has its own tests, phantoms are not what it is made for."""


@dataclass(frozen=True)
class Tally:
    """What came of it. `missed`, `doubled`, `partial`: source series; `derived_twice`: results of results."""

    series: int
    once: int
    missed: int
    doubled: int
    partial: int
    derived_twice: int
    reports: int
    kills: int
    seconds: float

    @property
    def exactly_once(self) -> bool:
        """Whether each series has one result, whole, and one report, and nothing else was made."""
        return self.once == self.series == self.reports and not (
            self.missed or self.doubled or self.partial or self.derived_twice
        )


def soak(folder: Path, series: int, slices: int, side: int = 64, patience_seconds: float = 3000.0) -> Tally:
    """Pour the series in; kill Orthanc and node twice each on the way; wait until all is back, and count."""
    sources = {}
    for number in range(series):
        paths = make_series(
            folder / "in" / f"{number:03d}",
            phantom(slices, side, side, noise_hu=60.0, seed=number),
            seed=number,
            ctdivol_mgy=1.0,
            effective_mas=15.0,
        )
        sources[number] = paths
    began = time.monotonic()
    with Site(folder, stable_age_seconds=2, **SETTINGS) as site:
        poured = threading.Thread(target=_pour, args=(site, list(sources.values())), daemon=True)
        poured.start()
        kills = _kill_now_and_then(site, series)
        poured.join()
        uids = {_uid(paths[0]) for paths in sources.values()}
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline and not _all_back(site, uids, slices):
            time.sleep(2.0)
        time.sleep(15.0)  # whatever goes round in circles shows itself
        return _count(site, uids, slices, kills, time.monotonic() - began)


def _uid(path: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(path, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID)


def _pour(site: Site, sources: list[list[Path]]) -> None:
    """As a scanner does it: what was not answered with success is sent again."""
    for paths in sources:
        left = list(paths)
        while left:
            try:
                send_files(left, site.archive, "SCANNER")
                left = []
            except NetworkError:
                time.sleep(0.5)


def _kill_now_and_then(site: Site, series: int) -> int:
    """Orthanc, node, Orthanc, node: killed and started again, each when so much has come in or back."""
    kills = 0
    for share, victim in ((0.2, "orthanc"), (0.35, "node"), (0.6, "orthanc"), (0.8, "node")):
        while len(site.series()) < share * series * 2:
            time.sleep(0.5)
        if victim == "orthanc":
            site.kill_orthanc()
            site.start_orthanc()
        else:
            site.kill_node()
            time.sleep(3.0)
            site.start_node()
        kills += 1
    return kills


def _all_back(site: Site, uids: set[str], slices: int) -> bool:
    results = site.results()
    return all(any(images == slices for _, images in results.get(uid, [])) for uid in uids) and (
        _reports(site) >= len(uids)
    )


def _reports(site: Site) -> int:
    return sum(one["MainDicomTags"]["Modality"] == "SR" for one in site.series())


def _count(site: Site, uids: set[str], slices: int, kills: int, seconds: float) -> Tally:
    results = site.results()
    whole = [uid for uid in uids if [images for _, images in results.get(uid, [])] == [slices]]
    return Tally(
        series=len(uids),
        once=len(whole),
        missed=sum(uid not in results for uid in uids),
        doubled=sum(len(results.get(uid, [])) > 1 for uid in uids),
        partial=sum(any(images != slices for _, images in results.get(uid, [])) for uid in uids),
        derived_twice=len(set(results) - uids),
        reports=_reports(site),
        kills=kills,
        seconds=round(seconds, 1),
    )


def main() -> int:
    """Run it and print the tally."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=50)
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--side", type=int, default=64, help="rows and columns")
    parser.add_argument("--folder", type=Path, default=None, help="is kept; default: a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tally = soak(folder, given.series, given.slices, given.side)
    for name, value in vars(tally).items():
        print(f"{name:<14} {value}")
    print("each exactly once" if tally.exactly_once else "NOT each exactly once")
    return 0 if tally.exactly_once else 1


if __name__ == "__main__":
    raise SystemExit(main())

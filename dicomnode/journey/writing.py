"""The objects of one result: images, report, maps and key objects for each naming, and their manifest."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode.dicom.derived import derived_series_uid, write_derived
from dicomnode.dicom.envelope import Reference, references_in
from dicomnode.dicom.maps import write_removed_map, write_uncertainty_map
from dicomnode.dicom.provenance import Identity, Provenance
from dicomnode.dicom.report import write_report
from dicomnode.dicom.selection import write_key_objects, write_withdrawal
from dicomnode.dicom.series import CtSeries
from dicomnode.errors import SpoolError
from dicomnode.journey.delivery import read_ledger
from dicomnode.journey.manifest import (
    MANIFEST,
    OUTGOING,
    Extra,
    File,
    Manifest,
    Naming,
    Result,
    digest_for,
    encode_manifest,
    naming_for,
    read_manifest,
    usual_naming,
    wanted,
)
from dicomnode.journey.order import Order, read_order
from dicomnode.settings import Destination, Settings
from dicomnode.spool import Spool

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Work:
    """One result as it is before it is written; `spread_hu` over `seeds` seeds, None where there is none."""

    series: CtSeries
    hounsfield: NDArray[np.float32]
    spread_hu: NDArray[np.float32] | None
    seeds: int
    identity: Identity
    provenance: Provenance
    generation: int

    def named(self, naming: Naming, configuration_digest: str) -> "Work":
        """The same under another naming."""
        identity = replace(
            self.identity,
            image_type2=naming.image_type2,
            series_description_prefix=naming.series_description_prefix,
            keep_manufacturer=naming.keep_manufacturer,
        )
        provenance = replace(self.provenance, configuration_digest=configuration_digest)
        return replace(self, identity=identity, provenance=provenance)


def write_objects(work: Work, settings: Settings, earlier: Sequence[Path], making: Path) -> None:
    """Write everything that any destination asks for into the folder `making`, the manifest last.

    `earlier` are the job folders of the earlier generations of the series. The same arguments, and the same
    answers of the destinations to those, give the same bytes.
    """
    if any(read_ledger(folder, peer.name).stored for folder in earlier for peer in settings.destinations):
        work = replace(work, provenance=replace(work.provenance, revision=work.generation))
    usual = usual_naming(settings.identity)
    works = {
        naming: work.named(naming, digest_for(naming, usual, work.provenance.configuration_digest))
        for naming in wanted(settings)
    }
    results = [
        _write_result(works[naming], naming, extras, making, str(number))
        for number, (naming, extras) in enumerate(wanted(settings).items())
    ]
    withdrawals = _write_withdrawals(works, settings, earlier, making)
    manifest = Manifest(tuple(results), withdrawals)
    (making / MANIFEST).write_text(encode_manifest(manifest), encoding="utf-8")


def _write_result(work: Work, naming: Naming, extras: frozenset[Extra], making: Path, number: str) -> Result:
    folder = making / number
    facts = work.identity, work.provenance
    images = write_derived(work.series, work.hounsfield, *facts, folder / "images", work.generation)
    about = work.series, images, *facts
    made: dict[str, Sequence[Path]] = {}
    if "removed_map" in extras:
        made["removed_map"] = write_removed_map(*about, folder, work.generation)
    if "uncertainty_map" in extras and work.spread_hu is not None:
        made["uncertainty_map"] = write_uncertainty_map(
            work.series, work.spread_hu, work.seeds, images, *facts, folder, work.generation
        )
    if "key_objects" in extras:
        made["key_objects"] = (write_key_objects(*about, folder / "key-objects.dcm", work.generation),)
    made["report"] = (write_report(*about, folder / "report.dcm", work.generation),)
    return Result(
        naming,
        derived_series_uid(work.series, *facts, work.generation),
        _files(images, making),
        {kind: _files(paths, making) for kind, paths in made.items()},
    )


def _files(paths: Sequence[Path], making: Path) -> tuple[File, ...]:
    named = zip(paths, references_in(paths), strict=True)
    return tuple(File(str(path.relative_to(making)), one.sop_instance_uid) for path, one in named)


# --- what came before -----------------------------------------------------------------------------


def earlier_results(spool: Spool, order: Order) -> list[Path]:
    """The folders of jobs that wrote a result of an earlier generation of the same stack, oldest first."""
    found = []
    for folder in spool.work.glob(f"{order.series_key[:12]}-*"):
        if (folder / OUTGOING / MANIFEST).exists():
            try:
                other = read_order(folder)
            except SpoolError as error:
                log.warning("an earlier result cannot be withdrawn (%s)", error)
                continue
            same = (other.series_key, other.stack) == (order.series_key, order.stack)
            if same and other.generation < order.generation:
                found.append((other.generation, folder))
    return [folder for _, folder in sorted(found)]


def _write_withdrawals(
    works: Mapping[Naming, Work], settings: Settings, earlier: Sequence[Path], making: Path
) -> dict[str, File]:
    """By destination, the object that withdraws what it has got of earlier generations.

    Destinations that have got the same get the same object.
    """
    written: dict[tuple[Naming, tuple[Reference, ...]], File] = {}
    found = {}
    for peer in settings.destinations:
        held = tuple(one for folder in earlier for one in _held(folder, peer)) if peer.key_objects else ()
        if not held:
            continue
        naming = naming_for(peer, settings.identity)
        if (naming, held) not in written:
            work = works[naming]
            path = making / f"withdrawal-{len(written)}.dcm"
            write_withdrawal(work.series, held, work.identity, work.provenance, path, work.generation)
            written[naming, held] = _files([path], making)[0]
        found[peer.name] = written[naming, held]
    return found


def _held(folder: Path, peer: Destination) -> list[Reference]:
    """What a destination has got of one earlier result, or is about to get.

    Where it has an image: every image, and beside them what it asks for and has not refused.
    """
    ledger = read_ledger(folder, peer.name)
    outgoing = folder / OUTGOING
    held: list[Reference] = []
    for result in _results(outgoing):
        if not any(file.sop_instance_uid in ledger.stored for file in result.images):
            continue
        held += references_in([outgoing / file.path for file in result.images])
        for kind, files in result.extras.items():
            uids = {file.sop_instance_uid for file in files}
            if uids & set(ledger.stored) or (getattr(peer, kind) and not uids & set(ledger.refused)):
                held += references_in([outgoing / file.path for file in files])
    return held


def _results(outgoing: Path) -> Sequence[Result]:
    """What an earlier job wrote; nothing where it cannot be read any more, which must stop no new result."""
    try:
        return read_manifest(outgoing).results
    except SpoolError as error:
        log.warning("an earlier result cannot be withdrawn (%s)", error)
        return ()

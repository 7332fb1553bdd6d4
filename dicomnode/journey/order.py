"""What a job is about: which images, for which pipeline. Fixed before the job is queued, never changed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomnode.dicom.stacks import Stack, sort_into_stacks
from dicomnode.errors import DicomnodeError, JobError, SpoolError
from dicomnode.network import part10
from dicomnode.network.completeness import Completion
from dicomnode.network.filing import read_file_header
from dicomnode.spool import Spool, key

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Order:
    """The order of one job. `files` are names in the series folder; later ones are for a later generation.

    `stack` tells the stacks of a series apart ("" and `stack_number` 0: the first), `differs_by` in what.
    `pipeline_digest`: model, weights, configuration and software, as in `dicom.provenance.pipeline_digest`.
    `study_uid` joins dose reports to the series; empty where no image could be read.
    `senders`: the calling AE titles that its images came from; () in the orders of earlier versions.
    """

    job_id: str
    series_uid: str
    series_key: str
    files: tuple[str, ...]
    content_digest: str
    pipeline_digest: str
    generation: int
    completed_because: str
    confidence: str
    ordered_at: str
    stack: str = ""
    stack_number: int = 0
    differs_by: tuple[str, ...] = ()
    study_uid: str = ""
    senders: tuple[str, ...] = ()


def new_orders(
    spool: Spool, completion: Completion, known: Sequence[Order], pipeline_digest: str, ordered_at: str
) -> tuple[Order, ...]:
    """Return the orders for a complete series, one a stack; `known` are the latest of its stacks so far.

    A stack that has no new images keeps its order, one that has gets the next generation.
    Raises JobError when none of the images is in the spool.
    """
    folder = spool.series_folder(completion.series_uid)
    came = {f"{key(uid)}.dcm" for uid in completion.sop_instance_uids}
    before = {name for order in known for name in order.files}
    if known and came <= before:
        return tuple(known)
    files = sorted(name for name in came | before if (folder / name).exists())
    if not files:
        raise JobError("a series counts as complete, but none of its images is in the spool")
    stacks = sort_into_stacks([folder / name for name in files])
    orders, number = [], max((order.stack_number for order in known), default=-1)
    for stack, earlier in _with_earlier(stacks, known):
        names = tuple(sorted(path.name for path in stack.paths))
        if earlier is not None and set(names) == set(earlier.files):
            orders.append(earlier)
            continue
        if earlier is None:
            number += 1
        content_digest, senders = _content(folder, names)
        order = Order(
            job_id="",
            series_uid=completion.series_uid,
            series_key=key(completion.series_uid),
            files=names,
            content_digest=content_digest,
            pipeline_digest="",
            generation=earlier.generation + 1 if earlier else 0,
            completed_because=completion.reason,
            confidence=completion.confidence,
            ordered_at=ordered_at,
            stack=earlier.stack if earlier else stack.key if number else "",
            stack_number=earlier.stack_number if earlier else number,
            differs_by=stack.differs_by,
            study_uid=study_of(folder, names),
            senders=senders,
        )
        orders.append(with_pipeline(order, pipeline_digest))
    return tuple(orders)


def _with_earlier(stacks: Sequence[Stack], known: Sequence[Order]) -> Iterator[tuple[Stack, Order | None]]:
    """Each stack with the order that had most of its images; an order belongs to one stack only."""
    shared = sorted(
        (
            (len({path.name for path in stack.paths} & set(order.files)), i, k)
            for i, stack in enumerate(stacks)
            for k, order in enumerate(known)
        ),
        key=lambda found: (-found[0], found[1], found[2]),
    )
    belongs: dict[int, int] = {}
    for count, i, k in shared:
        if count and i not in belongs and k not in belongs.values():
            belongs[i] = k
    for i, stack in enumerate(stacks):
        yield stack, known[belongs[i]] if i in belongs else None


def with_pipeline(order: Order, pipeline_digest: str) -> Order:
    """The same images for another pipeline, which makes another job: its name follows from both."""
    named = f"{order.series_uid}|{order.content_digest}|{pipeline_digest}"
    job_id = f"{order.series_key[:12]}-{hashlib.sha256(named.encode()).hexdigest()[:16]}"
    return replace(order, job_id=job_id, pipeline_digest=pipeline_digest)


def study_of(folder: Path, files: Sequence[str]) -> str:
    """The Study Instance UID of the first image that can be read, or empty."""
    for name in files:
        try:
            return read_file_header(folder / name).study_instance_uid
        except (DicomnodeError, OSError, ValueError):
            continue
    return ""


def senders_of(folder: Path, files: Sequence[str]) -> tuple[str, ...]:
    """The calling AE titles that images came from, in alphabetical order; unreadable files tell none."""
    found = set()
    for name in files:
        try:
            found.add(part10.read_meta(folder / name).source_ae)
        except (DicomnodeError, OSError):
            continue
    return tuple(sorted(found - {""}))


def _content(folder: Path, files: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """SHA-256 over names and data sets, and who sent them: what the receiver wrote around a data set, such
    as its sender, is not in the digest."""
    digest, senders = hashlib.sha256(), set()
    for name in files:
        content = (folder / name).read_bytes()
        meta = part10.parse_meta(content, name)
        senders.add(meta.source_ae)
        digest.update(f"{name}|".encode())
        digest.update(hashlib.sha256(memoryview(content)[meta.data_set_at :]).digest())
    return digest.hexdigest(), tuple(sorted(senders - {""}))


# --- records as JSON ------------------------------------------------------------------------------


def read_order(folder: Path) -> Order:
    """Return what a job's folder was made for. Raises SpoolError."""
    values = read_record(folder / "order.json")
    try:
        lists = {name: tuple(values.get(name, ())) for name in ("files", "differs_by", "senders")}
        return Order(**{**known(values, Order), **lists})
    except (KeyError, TypeError) as error:
        raise SpoolError(f"{folder}: its order is incomplete ({error}); move it out of the spool") from error


def read_record(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises SpoolError with the way out."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpoolError(f"{path}: cannot be read ({error.strerror}); is this the right spool?") from error
    except ValueError as error:
        raise SpoolError(f"{path}: is not JSON ({error}); move its folder out of the spool") from error
    if not isinstance(values, dict):
        raise SpoolError(f"{path}: holds no JSON object; move its folder out of the spool")
    return values


def encode_record(record: "DataclassInstance") -> bytes:
    """A dataclass as JSON."""
    return (json.dumps(asdict(record), indent=1) + "\n").encode("utf-8")


def known(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Only the keys that a dataclass has: a record of another version of the program may have more."""
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in values.items() if name in names}

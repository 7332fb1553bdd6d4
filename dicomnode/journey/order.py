"""What a job is about: which images, for which pipeline. Fixed before the job is queued, never changed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    `pipeline_digest`: model, weights, configuration and software, as in `dicom.provenance.pipeline_digest`.
    `study_uid` joins dose reports to the series; empty where no image could be read.
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
    study_uid: str = ""


def new_order(
    spool: Spool, completion: Completion, latest: Order | None, pipeline_digest: str, ordered_at: str
) -> Order:
    """Return the order for a complete series: `latest` itself when that one has all its images.

    Raises JobError when none of the images is in the spool.
    """
    folder = spool.series_folder(completion.series_uid)
    came = {f"{key(uid)}.dcm" for uid in completion.sop_instance_uids}
    before = set(latest.files) if latest else set()
    if latest and came <= before:
        return latest
    files = tuple(sorted(name for name in came | before if (folder / name).exists()))
    if not files:
        raise JobError("a series counts as complete, but none of its images is in the spool")
    order = Order(
        job_id="",
        series_uid=completion.series_uid,
        series_key=key(completion.series_uid),
        files=files,
        content_digest=_content_digest(folder, files),
        pipeline_digest="",
        generation=latest.generation + 1 if latest else 0,
        completed_because=completion.reason,
        confidence=completion.confidence,
        ordered_at=ordered_at,
        study_uid=study_of(folder, files),
    )
    return with_pipeline(order, pipeline_digest)


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


def _content_digest(folder: Path, files: Sequence[str]) -> str:
    """SHA-256 over names and data sets; not over what the receiver wrote around them, such as the sender."""
    digest = hashlib.sha256()
    for name in files:
        content = (folder / name).read_bytes()
        start = part10.parse_meta(content, name).data_set_at
        digest.update(f"{name}|".encode())
        digest.update(hashlib.sha256(memoryview(content)[start:]).digest())
    return digest.hexdigest()


# --- records as JSON ------------------------------------------------------------------------------


def read_order(folder: Path) -> Order:
    """Return what a job's folder was made for. Raises SpoolError."""
    values = read_record(folder / "order.json")
    try:
        return Order(**{**known(values, Order), "files": tuple(values["files"])})
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

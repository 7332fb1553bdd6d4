"""What there is to send of one result, and under which names.

    work/<job id>/outgoing/manifest.json    written with the files, never changed
    work/<job id>/outgoing/<number>/        the objects of one naming

Destinations that want the same naming share the same objects. Others get others, under other UIDs.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from dicomnode.errors import SpoolError
from dicomnode.journey.order import read_record
from dicomnode.settings import Destination, IdentitySettings, Settings

OUTGOING: Final = "outgoing"
MANIFEST: Final = "manifest.json"

Extra = Literal["removed_map", "uncertainty_map", "key_objects", "report"]
EXTRAS: Final[tuple[Extra, ...]] = ("removed_map", "uncertainty_map", "key_objects", "report")
"""What goes with the images where a destination asks for it, in the order in which it is sent."""


@dataclass(frozen=True)
class Naming:
    """How objects name themselves to a destination; what differs here is a different object."""

    image_type2: Literal["PRIMARY", "SECONDARY"]
    series_description_prefix: str
    keep_manufacturer: bool


def naming_for(destination: Destination, identity: IdentitySettings) -> Naming:
    """What a destination asks for, and what all get where it does not."""
    prefix, keep = destination.series_description_prefix, destination.keep_manufacturer
    return Naming(
        destination.image_type2,
        identity.series_description_prefix if prefix is None else prefix,
        identity.keep_manufacturer if keep is None else keep,
    )


def usual_naming(identity: IdentitySettings) -> Naming:
    """The naming of a destination that asks for nothing."""
    return Naming("PRIMARY", identity.series_description_prefix, identity.keep_manufacturer)


def wanted(settings: Settings) -> dict[Naming, frozenset[Extra]]:
    """Each naming that a destination asks for, and what is to go with the images of it.

    The report is always written: somebody may ask for it later.
    """
    found: dict[Naming, frozenset[Extra]] = {}
    for peer in settings.destinations:
        asked = frozenset(extra for extra in EXTRAS if extra == "report" or getattr(peer, extra))
        naming = naming_for(peer, settings.identity)
        found[naming] = found.get(naming, frozenset()) | asked
    return found or {usual_naming(settings.identity): frozenset({"report"})}


def digest_for(naming: Naming, usual: Naming, configuration_digest: str) -> str:
    """The configuration digest of one naming, from which its UIDs follow; the usual one has that of all."""
    if naming == usual:
        return configuration_digest
    told = json.dumps([configuration_digest, asdict(naming)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


@dataclass(frozen=True)
class File:
    """One file to send: its path inside the outgoing folder and its SOP Instance UID."""

    path: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Result:
    """The objects of one naming: the images, and what goes with them by its kind."""

    naming: Naming
    series_instance_uid: str
    images: tuple[File, ...]
    extras: Mapping[str, tuple[File, ...]]

    def files(self) -> Iterator[File]:
        """Everything."""
        yield from self.images
        for files in self.extras.values():
            yield from files


@dataclass(frozen=True)
class Manifest:
    """What there is to send, and by destination what withdraws the result of an earlier generation."""

    results: tuple[Result, ...]
    withdrawals: Mapping[str, File]

    def result_for(self, naming: Naming) -> Result:
        """The objects of a naming; where it was asked for after they were written, those there are."""
        same = (one for one in self.results if one.naming == naming)
        alike = (one for one in self.results if one.naming.image_type2 == naming.image_type2)
        return next(same, None) or next(alike, None) or self.results[0]


def encode_manifest(manifest: Manifest) -> str:
    """A manifest as JSON."""
    return json.dumps(asdict(manifest), indent=1) + "\n"


def read_manifest(outgoing: Path) -> Manifest:
    """Read what the station `write` left. Raises SpoolError."""
    values = read_record(outgoing / MANIFEST)
    try:
        results = tuple(
            Result(
                Naming(**told["naming"]),
                told["series_instance_uid"],
                tuple(File(**one) for one in told["images"]),
                {kind: tuple(File(**one) for one in files) for kind, files in told["extras"].items()},
            )
            for told in values["results"]
        )
        withdrawals = {name: File(**one) for name, one in values["withdrawals"].items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise SpoolError(
            f"{outgoing / MANIFEST}: is not a manifest of this version ({error}); move the job's folder out"
            " of the spool and send its series again"
        ) from error
    return Manifest(results, withdrawals)

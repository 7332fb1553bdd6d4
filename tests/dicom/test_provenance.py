import hashlib
from dataclasses import replace

import pytest

from dicomnode.dicom.provenance import (
    IMPLEMENTATION_CLASS_UID,
    Identity,
    Provenance,
    derived_uid,
    pipeline_digest,
)
from dicomnode.network import protocol


def test_one_implementation_class_uid_in_the_whole_node() -> None:
    assert IMPLEMENTATION_CLASS_UID == protocol.IMPLEMENTATION_CLASS_UID


def test_uids_are_keyed_and_valid(identity: Identity, provenance: Provenance) -> None:
    digest = provenance.pipeline_digest
    uid = derived_uid(identity, "series", "1.2.3", digest)
    assert uid == derived_uid(identity, "series", "1.2.3", digest)
    others = {
        derived_uid(identity, "instance", "1.2.3", digest),
        derived_uid(identity, "series", "1.2.34", digest),
        derived_uid(identity, "series1", ".2.3", digest),
        derived_uid(identity, "series", "1.2.3", digest[:-1]),
        derived_uid(identity, "series", "1.2.3", digest, generation=1),
    }
    assert len(others | {uid}) == 6
    for root in ("2.25", "1.2.826.0.1.3680043.10.1234", "1.2.826.0.1.3680043.10.1234.5678901234"):
        for number in range(50):
            made = derived_uid(replace(identity, uid_root=root), "series", str(number), digest)
            assert made.startswith(f"{root}.")
            assert len(made) <= 64
            assert all(part == str(int(part)) for part in made.split("."))


def test_a_uid_cannot_be_made_without_the_key(identity: Identity, provenance: Provenance) -> None:
    """Who knows everything but the key: a search over original UIDs finds nothing."""
    digest = provenance.pipeline_digest
    with_key = derived_uid(identity, "series", "1.2.3", digest)
    guesses = {
        derived_uid(replace(identity, uid_key=key), "series", "1.2.3", digest)
        for key in (b"\0" * 32, b"another key, of 32 bytes as well", identity.uid_key[:-1])
    }
    assert len(guesses | {with_key}) == 4
    framed = b"".join(
        len(part).to_bytes(4, "big") + part.encode() for part in ("series", "1.2.3", digest, "0")
    )
    unkeyed = hashlib.sha256(framed).digest()
    other_root = replace(identity, uid_root="1.2.3.4")
    made = int(derived_uid(other_root, "series", "1.2.3", digest).removeprefix("1.2.3.4."))
    assert made != int.from_bytes(unkeyed, "big") % 10**39
    inner = hashlib.sha256(_padded(identity.uid_key, 0x36) + framed).digest()
    keyed = hashlib.sha256(_padded(identity.uid_key, 0x5C) + inner).digest()
    assert made == int.from_bytes(keyed, "big") % 10**39


def _padded(key: bytes, with_byte: int) -> bytes:
    """RFC 2104: the key, filled to the block of SHA-256, XOR a constant."""
    return bytes(one ^ with_byte for one in key.ljust(64, b"\0"))


def test_the_key_is_not_shown_and_not_short(identity: Identity) -> None:
    assert identity.uid_key.decode() not in repr(identity)
    assert "uid_key" not in repr(identity)
    with pytest.raises(ValueError, match="uid_key"):
        replace(identity, uid_key=b"short")


def test_the_pipeline_digest_covers_what_changes_pixels(provenance: Provenance) -> None:
    digest = provenance.pipeline_digest
    for change in (
        {"weights_digest": "ef" * 32},
        {"model_id": "other"},
        {"model_version": "2"},
        {"configuration_digest": "12" * 32},
    ):
        assert replace(provenance, **change).pipeline_digest != digest
    assert replace(provenance, noise_after_hu=1.0).pipeline_digest == digest
    assert pipeline_digest("m", "1", "w", "c", "0.1") != pipeline_digest("m", "1", "w", "c", "0.2")


@pytest.mark.parametrize("root", ["", "1.2.", "no", "1.02.3", "1." + "2" * 60, "1"])
def test_bad_uid_roots_are_refused(identity: Identity, root: str) -> None:
    if root == "1.2.":
        assert replace(identity, uid_root=root).uid_root == root
        return
    with pytest.raises(ValueError, match="uid_root"):
        replace(identity, uid_root=root)

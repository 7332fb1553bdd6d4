"""The recipe is frozen: the same source and seed give the same bytes, in every clone and for ever."""

import hashlib
import zlib
from random import Random

import pytest

from tests.fuzz import anatomy, codestreams
from tests.fuzz.anatomy import Encoding, encapsulated, encode
from tests.fuzz.mutations import Mutation, deflated_zeros
from tests.fuzz.mutator import MUTATIONS, RECIPE, mutate

FROZEN = {"1": "8b752489540f180bebb68e36c8479894082386548a4e8e3746106bae5c49ef56"}
"""SHA-256 over seeds 0 to 299 of `SAMPLE`. A new digest needs a new recipe number."""


def _sample() -> bytes:
    """A small image that rests on no library: file meta, a header, two fragments of something like JPEG."""
    meta = encode(anatomy.TRANSFER_SYNTAX, b"UI", b"1.2.840.10008.1.2.4.80", Encoding())
    header = [(0x00080060, b"CS", b"CT"), (0x00200013, b"IS", b"1"), (0x00280010, b"US", b"\x40\0")]
    frame = b"\xff\xd8\xff\xf7\x00\x0b\x10\x00\x40\x00\x40\x01\x01\x11\x00" + bytes(range(200)) + b"\xff\xd9"
    body = b"".join(encode(tag, vr, content, Encoding()) for tag, vr, content in header)
    pixels = encode(anatomy.PIXEL_DATA, b"OB", encapsulated(frame), Encoding(), anatomy.UNDEFINED)
    return bytes(128) + b"DICM" + meta + body + pixels


SAMPLE = _sample()


def test_the_recipe_gives_what_it_gave() -> None:
    digest = hashlib.sha256()
    for seed in range(300):
        digest.update(mutate(SAMPLE, "sample", seed)[0])
    assert digest.hexdigest() == FROZEN[RECIPE]


def test_the_deflate_bomb_goes_off() -> None:
    unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated_zeros(4))
    assert 4 * 2**20 - 4096 < len(unpacked) <= 4 * 2**20 + 4096
    assert not any(unpacked)


def test_source_and_seed_decide() -> None:
    assert mutate(SAMPLE, "a", 1) == mutate(SAMPLE, "a", 1)
    assert mutate(SAMPLE, "a", 1) != mutate(SAMPLE, "b", 1)
    assert mutate(SAMPLE, "a", 1) != mutate(SAMPLE, "a", 2)


def test_anatomy_finds_every_element_and_fragment() -> None:
    tags = [one.tag for one in anatomy.elements(SAMPLE)]
    assert tags == [anatomy.TRANSFER_SYNTAX, 0x00080060, 0x00200013, 0x00280010, anatomy.PIXEL_DATA]
    (start, end) = anatomy.fragments(SAMPLE)[1]
    assert SAMPLE[start : start + 2] == b"\xff\xd8"
    assert SAMPLE[end - 2 : end] in (b"\xff\xd9", b"\xd9\0")


@pytest.mark.parametrize(
    "mutation", list(dict.fromkeys(MUTATIONS)), ids=lambda one: str(getattr(one, "__name__", one))
)
def test_every_mutation_changes_what_it_can_strike_and_takes_any_bytes(mutation: Mutation) -> None:
    changed = sum(mutation(SAMPLE, Random(seed)) != SAMPLE for seed in range(20))
    assert changed >= 10
    for rubbish in (b"", b"DICM", bytes(200), bytes(128) + b"DICM\2\0", Random(1).randbytes(500)):
        for seed in range(5):
            assert isinstance(mutation(rubbish, Random(seed)), bytes)


def test_a_codestream_may_agree_with_its_header() -> None:
    """Else only the check of the dimensions would ever be tried, never the decoder behind it."""
    agreeing = 0
    for seed in range(60):
        mutated = codestreams.codestream_size(SAMPLE, Random(seed))
        (start, _), rows = (
            anatomy.fragments(mutated)[1],
            anatomy.value(mutated, anatomy.find(mutated, 0x00280010)),
        )
        stated = int.from_bytes(mutated[start + 7 : start + 9], "big")
        agreeing += mutated != SAMPLE and stated == int.from_bytes(rows, "little") != 0x40
    assert agreeing >= 5

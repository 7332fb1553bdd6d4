"""The frozen recipe: a source, a number, and what becomes of the source's bytes.

    mutated, names = mutate(original, seed=17, source="ct-explicit")

The same three give the same bytes for ever; a change to a mutation needs another RECIPE, so that a number
in an old report is never mistaken for a number in a new one.
"""

from random import Random

from tests.fuzz import codestreams, mutations
from tests.fuzz.mutations import Mutation

RECIPE = "1"
SOMETIMES_MORE = (1, 1, 1, 1, 1, 1, 1, 2, 2, 3)

MUTATIONS: tuple[Mutation, ...] = (
    *(mutations.flip_header, mutations.flip_header, mutations.flip_pixels, mutations.flip_fragments),
    *(mutations.truncate, mutations.swap_vr, mutations.swap_vr, mutations.lie_about_length),
    *(mutations.lie_about_length, mutations.undefined_length, mutations.nest, mutations.many_items),
    *(mutations.many_elements, mutations.repeat, mutations.group_lengths, mutations.deflate_bomb),
    *(mutations.rle_bomb, mutations.lie_about_size, mutations.lie_about_size, mutations.extreme_number),
    *(mutations.extreme_number, mutations.extreme_number, mutations.extreme_float, mutations.long_value),
    *(mutations.charset, mutations.hostile_text, mutations.hostile_text, mutations.hostile_uid),
    *(mutations.private_block, mutations.no_meta, mutations.wrong_syntax, mutations.drop),
    *(mutations.trailing, mutations.offset_table, codestreams.codestream_size, codestreams.codestream_size),
    codestreams.damage_entropy,
)
"""Each as often as it stands here."""


def mutate(original: bytes, source: str, seed: int) -> tuple[bytes, tuple[str, ...]]:
    """The mutated bytes, and the names of the mutations in the order in which they were applied."""
    rng = Random(f"{RECIPE}|{source}|{seed}")
    chosen = [rng.choice(MUTATIONS) for _ in range(rng.choice(SOMETIMES_MORE))]
    data = original
    for mutation in chosen:
        data = mutation(data, rng)
    return data, tuple(mutation.__name__ for mutation in chosen)

"""Hostile files from the command line.

python -m tests.fuzz --count 10000                     many cases, failures are printed
python -m tests.fuzz --source made-rle --seed 17       one case again, here and under the same limits
python -m tests.fuzz --source made-rle --seed 17 --keep DIR    and its files, to look at
"""

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.harness import Outcome, Workers
from tests.fuzz.mutator import RECIPE
from tests.fuzz.sources import Source, all_sources, case, draw


def main() -> int:
    """Play what the arguments ask for; 1 where anything failed."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="fuzz-sources-") as folder:
        sources = all_sources(Path(folder), shared=not arguments.plain)
    named = {source.name: source for source in sources}
    if arguments.source:
        if arguments.source not in named:
            sys.exit(f"no source {arguments.source}; there are:\n" + "\n".join(named))
        return _one(named[arguments.source], arguments.seed, arguments.keep)
    drawn = draw(sources, arguments.count, arguments.first)
    if arguments.unchanged:
        drawn = [(name, -1) for name in named]
    return _many(sources, drawn, arguments.workers)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--source")
    parser.add_argument("--seed", type=int, default=-1)
    parser.add_argument("--keep", type=Path, help="write the files of the one case here")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--plain", action="store_true", help="without the shared data")
    parser.add_argument("--unchanged", action="store_true", help="every source as it is")
    return parser.parse_args()


def _one(source: Source, seed: int, keep: Path | None) -> int:
    one = case(source, seed)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(one.files):
            (keep / f"{number}.dcm").write_bytes(content)
    (outcome,) = Workers([source], 1).play([(source.name, seed)])
    print(one)
    print(
        f"{outcome.verdict} in {outcome.seconds:.3f} s ({outcome.wall_seconds:.3f} on the wall):",
        outcome.told,
        outcome.trouble,
    )
    return int(outcome.verdict == "failure")


def _many(sources: list[Source], drawn: list[tuple[str, int]], workers: int | None) -> int:
    named = {source.name: source for source in sources}
    began, verdicts = time.monotonic(), collections.Counter[str]()
    slowest = largest = Outcome("", 0, "", 0.0)
    for outcome in Workers(sources, workers).play(drawn):
        verdicts[outcome.verdict] += 1
        slowest = max(slowest, outcome, key=lambda one: one.seconds)
        largest = max(largest, outcome, key=lambda one: one.memory_bytes)
        if outcome.verdict == "failure":
            print(f"{case(named[outcome.source], outcome.seed)}: {outcome.trouble}", flush=True)
    print(f"recipe {RECIPE}: {len(drawn)} cases of {len(sources)} sources, {time.monotonic() - began:.0f} s")
    print(f"slowest {slowest.seconds:.2f} s of processor ({slowest.source}, seed {slowest.seed})")
    print(f"largest {largest.memory_bytes >> 20} MiB ({largest.source}, seed {largest.seed})")
    for verdict, count in verdicts.most_common():
        print(f"{count:7d}  {verdict}")
    return int(verdicts["failure"] > 0)


if __name__ == "__main__":
    sys.exit(main())

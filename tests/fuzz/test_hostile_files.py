"""Nothing a sender can put into a file crashes, hangs or bloats the node, or makes it repeat what it read."""

import os
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dicomnode import errors
from tests.fuzz import harness
from tests.fuzz.harness import MEMORY_BYTES, SECONDS, Outcome, Workers, _Worker
from tests.fuzz.sources import Source, all_sources, draw

RULES = {kind.rule for kind in vars(errors).values() if hasattr(kind, "rule")}
QUICK = 100
MANY = int(os.environ.get("HOSTILE_FILES", "500"))
"""HOSTILE_FILES=10000 takes some twenty minutes on two cores."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    return all_sources(tmp_path_factory.mktemp("sources"))


def played(sources: list[Source], drawn: list[tuple[str, int]]) -> Counter[str]:
    """The verdicts; every failure is told with what brings it back."""
    outcomes = list(Workers(sources).play(drawn))
    failures = [told(one) for one in outcomes if one.verdict == "failure"]
    assert not failures, "\n".join([f"{len(failures)} of {len(drawn)}", *failures])
    verdicts = Counter(one.verdict for one in outcomes)
    assert set(verdicts) <= {"accepted", *RULES}
    return verdicts


def told(outcome: Outcome) -> str:
    return f"python -m tests.fuzz --source {outcome.source} --seed {outcome.seed}: {outcome.trouble}"


def test_some_hundred_hostile_files(sources: list[Source]) -> None:
    plain = [source for source in sources if source.name.startswith(("made-", "pydicom/"))]
    verdicts = played(plain, draw(plain, QUICK))
    assert verdicts["accepted"] > QUICK / 10, "hostile beyond any use: nothing gets past the first check"
    assert verdicts["broken-instance"] > QUICK / 20
    assert len(verdicts) >= 6


@pytest.mark.slow
def test_every_source_as_it_is(sources: list[Source]) -> None:
    """The bundled files, and where the shared data lie beside the clone the whole zoo and all reports."""
    verdicts = played(sources, [(source.name, -1) for source in sources])
    assert verdicts["accepted"] >= 14


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_hostile_files(sources: list[Source]) -> None:
    verdicts = played(sources, draw(sources, MANY, first_seed=QUICK))
    assert verdicts["accepted"] > MANY / 10
    assert len(verdicts) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["raise", "hang", "grow", "die", "tell", "wait"])
def test_the_harness_sees_what_it_is_there_for(deed: str, tmp_path: Path) -> None:
    """Each kind of failure, made on purpose in a worker: none of them goes unseen."""
    paths = {"raise": "ValueError", "hang": "took", "grow": "MemoryError", "die": "died", "tell": "quotes"}
    worker = _Worker({f"{DEED}{deed}": Source(f"{DEED}{deed}", (b"",))}, target=misbehave)
    try:
        outcome = worker.play(f"{DEED}{deed}", -1, patience_seconds=8.0)
    finally:
        worker.end()
    assert outcome.verdict == "failure"
    assert paths.get(deed, "no answer") in outcome.trouble


DEED = "deed-"


def misbehave(pipe: Connection, sources: dict[str, Source], folder: Path) -> None:
    """A worker whose work is a deed; it runs in a process of its own."""
    import logging
    import os
    import time

    def do(paths: list[Path], folder: Path, used: list[float], with_report: bool) -> tuple[str, str]:
        deed = next(iter(sources)).removeprefix(DEED)
        if deed == "raise":
            raise ValueError("a bug")
        if deed == "hang":
            end = time.process_time() + SECONDS + 0.1
            while time.process_time() < end:
                pass
        if deed == "grow":
            bytearray(MEMORY_BYTES + 2**26)
        if deed == "die":
            os.abort()
        if deed == "tell":
            logging.getLogger("dicomnode").warning("%s was here", harness.SECRETS[0])
        if deed == "wait":
            time.sleep(60)
        return "accepted", ""

    harness._everything = do
    harness.serve(pipe, sources, folder, warm=False)

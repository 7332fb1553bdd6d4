"""Questions that are put again and again."""

import logging

import pytest

from dicomnode.journey.rounds import Rounds
from tests.journey.scene import wait_until


def test_an_error_over_one_subject_ends_no_asking(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dicomnode.journey.rounds._TICK_SECONDS", 0.01)
    asked: list[str] = []

    def ask(subject: str) -> bool:
        asked.append(subject)
        if asked.count("odd") == 1 and subject == "odd":
            raise RuntimeError("Doe^John")
        return True

    rounds = Rounds[str]("asking", ask, lambda _: 0.05)
    rounds.want("odd")
    rounds.want("plain")
    with caplog.at_level(logging.ERROR):
        rounds.start()
        wait_until(lambda: asked.count("odd") > 1 and asked.count("plain") > 1, 10.0, lambda: asked)
    assert rounds.stop(5.0)
    assert "RuntimeError" in caplog.text
    assert "Doe" not in caplog.text

"""The same model, PACS and patience as in the journeys."""

from tests.journey.conftest import _impatient, engine, pacs

__all__ = ["_impatient", "engine", "pacs"]

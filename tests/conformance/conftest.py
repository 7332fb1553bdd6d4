"""The shipped configuration and its statement."""

import pytest

from dicomnode.conformance import statement
from dicomnode.settings import Settings, load_settings
from tests.conformance.statements import CONFIG


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(CONFIG, {})


@pytest.fixture(scope="module")
def document(settings: Settings) -> str:
    return statement(settings)

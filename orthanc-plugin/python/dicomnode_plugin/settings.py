"""The section `DicomNode` of orthanc.json, checked whole when Orthanc starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Callable, Mapping
from urllib.parse import urlsplit

SECTION = "DicomNode"
DAY_SECONDS = 86400.0


class SettingsWrong(ValueError):
    """A key of the section is unknown, missing or has a value of no use; the message names it."""


@dataclass(frozen=True)
class Settings:
    """How series go to the node. Field `longest_retry_seconds` is key `LongestRetrySeconds`, and so on."""

    modality: str = ""
    mode: str = "push"
    url: str = ""
    token: str = ""
    source: str = ""
    automatic: bool = True
    minimum_slices: int = 2
    sweep_days: float = 7.0
    retry_seconds: float = 10.0
    longest_retry_seconds: float = 600.0
    give_up_days: float = 7.0

    @property
    def pulls(self) -> bool:
        """Does the node fetch the images itself?"""
        return self.mode == "pull"

    def pause_seconds(self, attempts: int) -> float:
        """How long to wait after that many failures in a row: twice as long each time, up to the longest."""
        return min(self.longest_retry_seconds, self.retry_seconds * 2.0 ** min(attempts - 1, 30))

    def is_over(self, paused_seconds: float) -> bool:
        """Do pauses as long as these, together, last longer than `give_up_days`? No clock can hurry this."""
        return paused_seconds > self.give_up_days * DAY_SECONDS

    def shown(self) -> dict[str, Any]:
        """All of it under the keys of orthanc.json; the token only as given or not."""
        told = {key_of(field.name): getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**told, "Token": "(given)" if self.token else ""}


def key_of(name: str) -> str:
    """`sweep_days` is `SweepDays` in orthanc.json."""
    return "".join(part.capitalize() for part in name.split("_"))


def read_settings(configuration: Mapping[str, Any]) -> Settings:
    """Read the section from the whole configuration of Orthanc.

    :raises SettingsWrong: naming the first key that is unknown, missing or wrong.
    """
    section = configuration.get(SECTION)
    if not isinstance(section, dict):
        raise SettingsWrong(f'orthanc.json has no section "{SECTION}"; the README shows one')
    fields = {key_of(field.name): field.name for field in dataclasses.fields(Settings)}
    for key in section:
        if key not in fields:
            raise SettingsWrong(f"{SECTION}.{key} is no setting; there are {', '.join(fields)}")
    values = {fields[key]: _checked(fields[key], value) for key, value in section.items()}
    settings = Settings(**values)
    _check_together(settings, configuration)
    return settings


def _checked(name: str, value: Any) -> Any:
    wanted, check = _CHECKS[type(getattr(Settings, name))]
    if not check(value):
        raise SettingsWrong(f"{SECTION}.{key_of(name)} must be {wanted}")
    return value.strip().rstrip("/") if name == "url" else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9


_CHECKS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    str: ("a text", lambda value: isinstance(value, str)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number above 0", lambda value: _is_number(value) and isinstance(value, int)),
    float: ("a number above 0", _is_number),
}


def _check_together(settings: Settings, configuration: Mapping[str, Any]) -> None:
    if settings.mode not in ("push", "pull"):
        raise SettingsWrong(f'{SECTION}.Mode must be "push" or "pull"')
    needed = ("url", "source") if settings.pulls else ("modality",)
    for name in needed:
        if not getattr(settings, name):
            raise SettingsWrong(f"{SECTION}.{key_of(name)} is needed for Mode {settings.mode}")
    if settings.longest_retry_seconds < settings.retry_seconds:
        raise SettingsWrong(f"{SECTION}.LongestRetrySeconds must not be below RetrySeconds")
    if settings.url:
        _check_url(settings.url)
    if not all("!" <= sign <= "~" for sign in settings.token):
        raise SettingsWrong(f"{SECTION}.Token must be printable ASCII without blanks: it goes into a header")
    if configuration.get("CheckRevisions") is True:
        raise SettingsWrong(
            "CheckRevisions must be false: with it Orthanc lets no plugin write the metadata of a series"
        )
    _check_modality(settings, configuration)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.query or parts.fragment:
        raise SettingsWrong(f"{SECTION}.Url must be like http://127.0.0.1:8080 (a token goes into Token)")


def _check_modality(settings: Settings, configuration: Mapping[str, Any]) -> None:
    if settings.pulls or configuration.get("DicomModalitiesInDatabase") is True:
        return
    known = configuration.get("DicomModalities")
    if not isinstance(known, dict) or settings.modality not in known:
        raise SettingsWrong(f'{SECTION}.Modality "{settings.modality}" is not in DicomModalities')

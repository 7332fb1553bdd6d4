"""configs/node.yaml -> frozen, checked sections.

A misspelt key, a wrong unit or an AE title that no peer would accept is refused by its path before
anything opens. Environment variables override single keys: DICOMNODE__NODE__PORT=104,
DICOMNODE__DESTINATIONS__0__HOST=pacs (an item of a list by its number, whole lists as YAML).
Relative paths count from the folder of the YAML file. Every key, its unit and its default stand in
configs/README.md.
"""

import difflib
import os
from collections.abc import Hashable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dicomnode.checked import (
    AeTitle,
    DeviceName,
    HostName,
    LocalPath,
    Name,
    Prefix,
    Seconds,
    Section,
    Seeds,
    Uid,
    UidKey,
    UidRoot,
)
from dicomnode.dose_reference import DoseReference
from dicomnode.errors import SettingsError
from dicomnode.peers import Caller, Destination, Network, Retry, Source, Web, WebSource

__all__ = [
    "ENVIRONMENT_PREFIX",
    "Caller",
    "Completeness",
    "Destination",
    "Dose",
    "EngineSettings",
    "IdentitySettings",
    "Network",
    "Node",
    "Quality",
    "Retry",
    "Settings",
    "Source",
    "Web",
    "WebSource",
    "all_keys",
    "load_settings",
]

ENVIRONMENT_PREFIX: Final = "DICOMNODE__"


class Node(Section):
    """This node: its name and port on the network, its folder on the disk."""

    ae_title: AeTitle = "DICOMNODE"
    host: HostName = "0.0.0.0"
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    spool: LocalPath = Path("/var/lib/dicomnode/spool")
    database: str | None = None
    executor_id: Name = "dicomnode-1"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    reserve_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0

    @property
    def reserve_bytes(self) -> int:
        """Bytes that stay free on the spool's disk."""
        return int(self.reserve_gib * 2**30)

    @property
    def database_url(self) -> str:
        """Where the journal of jobs is kept: `database`, or an SQLite file in the spool."""
        return self.database or f"sqlite:///{self.spool / 'dicomnode.sqlite'}"


class Completeness(Section):
    """When a series counts as complete; DICOM has no end-of-series message."""

    quiet_seconds: Seconds = 60.0
    closed_seconds: Seconds = 10.0
    give_up_seconds: Seconds = 900.0

    @model_validator(mode="after")
    def _in_order(self) -> "Completeness":
        if not self.closed_seconds <= self.quiet_seconds <= self.give_up_seconds:
            raise ValueError("must be closed_seconds <= quiet_seconds <= give_up_seconds")
        return self


class EngineSettings(Section):
    """Which model enhances, and on what."""

    model: Name = "need-small"
    models_folder: LocalPath = Path("../models")
    device: DeviceName = "auto"
    threads: Annotated[int, Field(ge=1, le=512)] | None = None
    uncertainty_seeds: Seeds = 0


class Dose(Section):
    """What a normal dose is, and what happens when a series does not tell its own.

    In a file `reference` may be the path of another file that holds the table.
    """

    reference: DoseReference = Field(default_factory=DoseReference)
    without_dose: Literal["refuse", "noise-only"] = "refuse"


class Quality(Section):
    """May an image leave?"""

    max_bias_hu: Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)] = 2.0
    on_failure: Literal["hold", "label"] = "hold"


class IdentitySettings(Section):
    """What derived objects call themselves."""

    uid_root: UidRoot = "2.25"
    uid_key: UidKey | None = None
    series_description_prefix: Prefix = "AI-DN | "
    series_number_offset: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    keep_manufacturer: bool = False
    content_qualification: Literal["RESEARCH", "PRODUCT", "SERVICE"] = "RESEARCH"
    device_uid: Uid | None = None

    @property
    def uid_key_bytes(self) -> bytes | None:
        """The key that was given, or None where the spool keeps one."""
        return None if self.uid_key is None else bytes.fromhex(self.uid_key.get_secret_value())


class Settings(Section):
    """The whole configuration of a node."""

    node: Node = Field(default_factory=Node)
    callers: tuple[Caller, ...] = ()
    network: Network = Field(default_factory=Network)
    completeness: Completeness = Field(default_factory=Completeness)
    destinations: tuple[Destination, ...] = ()
    sources: tuple[Source, ...] = ()
    web: Web = Field(default_factory=Web)
    web_sources: tuple[WebSource, ...] = ()
    engine: EngineSettings = Field(default_factory=EngineSettings)
    dose: Dose = Field(default_factory=Dose)
    quality: Quality = Field(default_factory=Quality)
    identity: IdentitySettings = Field(default_factory=IdentitySettings)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Settings":
        _refuse_repeated("destinations", [peer.name for peer in self.destinations])
        _refuse_repeated("sources", [peer.name for peer in self.sources])
        _refuse_repeated("web_sources", [peer.name for peer in self.web_sources])
        _refuse_repeated(
            "callers", [f"{peer.ae_title} from {peer.host or 'any host'}" for peer in self.callers]
        )
        return self

    @model_validator(mode="after")
    def _uncertainty_has_seeds(self) -> "Settings":
        for peer in self.destinations:
            if peer.uncertainty_map and not self.engine.uncertainty_seeds:
                raise ValueError(
                    f"destinations: '{peer.name}' asks for an uncertainty_map, but engine.uncertainty_seeds"
                    " is 0; set it to 8, for example"
                )
        return self

    @property
    def uncertainty_seeds(self) -> int:
        """Seeds to run for the uncertainty map; 0 where no destination asks for one."""
        asked = any(peer.uncertainty_map for peer in self.destinations)
        return self.engine.uncertainty_seeds if asked else 0


def _refuse_repeated(section: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{section}: '{name}' stands there {names.count(name)} times")


def load_settings(path: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check a configuration file, with the environment's overrides.

    Raises SettingsError; its message has one line for each wrong key, with the path of the key
    (`node.yaml: network.max_asociations: unknown key, did you mean 'max_associations'?`).
    """
    path = Path(path)
    values, folder = _read_yaml(path), path.resolve().parent
    table = _include_reference(values, folder)
    variables = _override(values, os.environ if environment is None else environment)
    table = _include_reference(values, folder) or table
    _fill_empty_sections(values)
    try:
        return Settings.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        lines = [_told(problem, path.name, variables, table) for problem in error.errors()]
        raise SettingsError("\n".join(lines)) from error


# --- reading ------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key that stands twice is an error: YAML itself keeps the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{name}' stands here twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path.name}: is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SettingsError(f"{path.name}: {line}{error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # an impossible date, an integer of thousands of digits
        raise SettingsError(f"{path.name}: is not YAML ({error})") from error
    except RecursionError as error:
        raise SettingsError(f"{path.name}: lists and mappings are nested too deeply") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SettingsError(f"{path.name}: must be sections with keys, such as 'node:'")
    return values


def _include_reference(values: dict[str, object], folder: Path) -> str | None:
    """Put the table of normal doses in the place of its path; return the name of its file."""
    dose = values.get("dose")
    if not isinstance(dose, dict) or not isinstance(dose.get("reference"), str):
        return None
    named: str = dose["reference"]
    path = folder / os.path.expanduser(named)
    dose["reference"] = _read_yaml(path)
    return path.name


def _fill_empty_sections(values: dict[str, object]) -> None:
    """A section left out, or with every key commented out, has its defaults."""
    for name, field in Settings.model_fields.items():
        if values.get(name) is None:
            values[name] = () if get_args(field.annotation) else {}


# --- the environment ------------------------------------------------------------------------

_Path = tuple[str | int, ...]


def _override(values: dict[str, object], environment: Mapping[str, str]) -> dict[_Path, str]:
    """Put the environment's overrides into the values; return which path came from which variable."""
    variables: dict[_Path, str] = {}
    for variable in sorted(environment):
        if variable.startswith(ENVIRONMENT_PREFIX):
            parts = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            steps: _Path = tuple(int(part) if part.isdecimal() else part for part in parts)
            _put(values, steps, _scalar_or_yaml(variable, environment[variable]), variable)
            variables[steps] = variable
    return variables


def _scalar_or_yaml(variable: str, text: str) -> object:
    """Lists and mappings are YAML; anything else stays text, so that an AE title of digits is one."""
    if text.strip().lower() in {"", "null"}:
        return None
    if text.lstrip()[0] not in "[{":
        return text
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"environment {variable}: is not YAML") from error


def _put(values: object, steps: _Path, value: object, variable: str) -> None:
    for step, following in pairwise((*steps, None)):
        inner: object = value if following is None else [] if isinstance(following, int) else {}
        if isinstance(values, dict) and isinstance(step, str):
            if following is None or values.get(step) is None:
                values[step] = inner
            values = values[step]
        elif isinstance(values, list) and isinstance(step, int) and step <= len(values):
            if step == len(values):
                values.append(inner)
            elif following is None:
                values[step] = inner
            values = values[step]
        else:
            raise SettingsError(f"environment {variable}: there is no such place; lists count from 0")


# --- telling what is wrong ----------------------------------------------------------------------


def _told(
    problem: ErrorDetails, file_name: str, variables: Mapping[_Path, str], table: str | None = None
) -> str:
    path: _Path = problem["loc"]
    if table and path[:2] == ("dose", "reference"):
        file_name = table
    source = next((f"environment {name}" for steps, name in variables.items() if steps == path), file_name)
    return f"{source}: {_dotted(path)}{_wrong(problem)}"


def _dotted(path: _Path) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") + ": " if text else ""


def _wrong(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return f"unknown key{_suggestion(problem['loc'])}"
    if problem["type"] == "missing":
        return "is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "string_type":
        message += "; put it in quotes"
    return message


def _suggestion(path: _Path) -> str:
    """The nearest key of the same section, else the nearest one anywhere."""
    wrong = str(path[-1])
    section = _section_at(path[:-1])
    near = difflib.get_close_matches(wrong, section.model_fields, 1) if section else []
    near = near or difflib.get_close_matches(wrong, [dotted.rsplit(".", 1)[-1] for dotted in all_keys()], 1)
    if not near:
        return ""
    here = section is not None and near[0] in section.model_fields
    full = near[0] if here else next(dotted for dotted in all_keys() if dotted.rsplit(".", 1)[-1] == near[0])
    return f", did you mean '{full}'?"


def _section_at(path: _Path) -> type[Section] | None:
    section: type[Section] = Settings
    for step in path:
        if isinstance(step, str):
            inner = _section_of(section.model_fields[step]) if step in section.model_fields else None
            if inner is None:
                return None
            section = inner
    return section


def _section_of(field: FieldInfo) -> type[Section] | None:
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def all_keys(section: type[Section] = Settings, prefix: str = "") -> dict[str, FieldInfo]:
    """Return every key a file may have, by dotted path; items of a list are written `name[]`."""
    keys: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        inner = _section_of(field)
        if inner is None:
            keys[prefix + name] = field
        else:
            mark = "[]" if get_args(field.annotation) else ""
            keys |= all_keys(inner, f"{prefix}{name}{mark}.")
    return keys

"""Single values of the configuration, checked when they are read: names, addresses, UIDs, numbers."""

import os
import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationInfo,
)

_UID: Final = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*", re.ASCII)
_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}")


class Section(BaseModel):
    """A part of the configuration: complete, checked and unchangeable."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        protected_namespaces=(),
        hide_input_in_errors=True,  # it may be a secret
    )


def is_uid(text: str) -> bool:
    """Say whether a text is a UID: PS3.5 section 9.1, at most 64 characters, no leading zeros."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _ae_title(text: str) -> str:
    """AE value representation, PS3.5 section 6.2: leading and trailing blanks do not count."""
    title = text.strip(" ")
    if not title or len(title) > 16:
        raise ValueError(f"an AE title has 1 to 16 characters, this has {len(title)}")
    if "\\" in title or not all(" " <= letter <= "~" for letter in title):
        raise ValueError("an AE title has no backslash, no control character and only ASCII letters")
    return title


def _uid_root(text: str) -> str:
    if not is_uid(text) or len(text) > 24:
        raise ValueError("a UID root has digits and dots, no leading zeros, at most 24 characters")
    return text


def _uid(text: str) -> str:
    if not is_uid(text):
        raise ValueError("a UID has digits and dots, no leading zeros, at most 64 characters")
    return text


def _uid_key(secret: SecretStr) -> SecretStr:
    if not _KEY.fullmatch(secret.get_secret_value()):
        raise ValueError("a key has 64 hexadecimal digits; `openssl rand -hex 32` makes one")
    return secret


def _web_address(text: str) -> str:
    """The root of a web service, its scheme in small letters, without the slash at its end."""
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not all("!" <= letter <= "~" for letter in text):
        raise ValueError("an address begins with http:// or https:// and a host: http://127.0.0.1:8042")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("an address holds no credentials, no '?' and no '#'; username and password are keys")
    return (parts.scheme + text[len(parts.scheme) :]).rstrip("/")


def _token(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text or not all("!" <= letter <= "~" for letter in text):
        raise ValueError("a token has ASCII letters without blanks; `openssl rand -hex 32` makes one")
    return secret


def _not_one(seeds: int) -> int:
    if seeds == 1:
        raise ValueError("one seed has no spread: 0 for no uncertainty map, else 2 or more")
    return seeds


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """Resolve against the YAML file's folder, which `load_settings` hands over as context."""
    if "\0" in str(path):
        raise ValueError("a path cannot hold a null character")
    folder = info.context["folder"] if info.context else Path.cwd()
    try:
        return Path(os.path.normpath(folder / path.expanduser()))
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such user") from error


AeTitle = Annotated[str, AfterValidator(_ae_title)]
UidRoot = Annotated[str, AfterValidator(_uid_root)]
Uid = Annotated[str, AfterValidator(_uid)]
Prefix = Annotated[str, StringConstraints(min_length=1, max_length=24, pattern=r"^[ -\[\]-~]*$")]
UidKey = Annotated[SecretStr, AfterValidator(_uid_key)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Token = Annotated[SecretStr, AfterValidator(_token)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LocalPath = Annotated[Path, AfterValidator(_beside_the_file)]
HostName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[A-Za-z0-9._:%-]+$")
]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
DeviceName = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$")]
Seeds = Annotated[int, Field(ge=0, le=32), AfterValidator(_not_one)]

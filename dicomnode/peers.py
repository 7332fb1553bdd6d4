"""The sections of the configuration about those the node speaks with, and the limits of speaking."""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from dicomnode.checked import (
    AeTitle,
    HostName,
    Name,
    Port,
    Prefix,
    Seconds,
    Section,
    Token,
    WebAddress,
)


class Caller(Section):
    """A peer that may send to this node."""

    ae_title: AeTitle
    host: HostName | None = None


class Network(Section):
    """Limits of associations, incoming and outgoing."""

    max_associations: Annotated[int, Field(ge=1, le=256)] = 10
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1048576)] = 131072
    max_instance_mib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 512.0
    negotiation_seconds: Seconds = 30.0
    message_seconds: Seconds = 120.0
    idle_seconds: Seconds = 120.0

    @property
    def max_instance_bytes(self) -> int:
        """Bytes of one instance above which the association is aborted."""
        return int(self.max_instance_mib * 2**20)


class Retry(Section):
    """How long to keep trying a destination that does not take the series for the moment."""

    first_seconds: Seconds = 5.0
    longest_seconds: Seconds = 3600.0
    give_up_days: Annotated[float, Field(gt=0, le=365)] = 7.0

    @model_validator(mode="after")
    def _in_order(self) -> "Retry":
        if self.first_seconds > self.longest_seconds:
            raise ValueError("must be first_seconds <= longest_seconds")
        return self


class Destination(Section):
    """A peer that gets the derived series."""

    name: Name
    ae_title: AeTitle
    host: HostName
    port: Port = 104
    associations: Annotated[int, Field(ge=1, le=16)] = 4
    callers: tuple[AeTitle, ...] = ()
    report: bool = True
    removed_map: bool = False
    uncertainty_map: bool = False
    key_objects: bool = False
    image_type2: Literal["PRIMARY", "SECONDARY"] = "PRIMARY"
    series_description_prefix: Prefix | None = None
    keep_manufacturer: bool | None = None
    retry: Retry = Field(default_factory=Retry)

    def wants(self, senders: Iterable[str]) -> bool:
        """Whether it gets the result of a series whose images came from these calling AE titles."""
        return not self.callers or not set(self.callers).isdisjoint(senders)


class Source(Section):
    """An archive that is asked for the number of images of a series, and for dose reports (C-FIND, C-GET)."""

    name: Name
    ae_title: AeTitle
    host: HostName
    port: Port = 104


class WebSource(Section):
    """An archive that images of a series are fetched from on request, over HTTP."""

    name: Name
    ae_title: AeTitle
    kind: Literal["orthanc", "dicomweb"]
    url: WebAddress
    username: str | None = None
    password: SecretStr | None = None
    timeout_seconds: Seconds = 60.0


class Web(Section):
    """The HTTP interface for archives: asks and tells, carries no images."""

    host: HostName = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    token: Token | None = None

    @model_validator(mode="after")
    def _token_outside(self) -> "Web":
        if self.port is not None and self.token is None and not self.on_loopback:
            raise ValueError(
                f"token must be given where others can reach host {self.host}; `openssl rand -hex 32` makes"
                " one, or set host: 127.0.0.1"
            )
        return self

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

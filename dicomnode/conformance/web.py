"""What the statement says of HTTP: web services that series are fetched by, and the node's own interface."""

from typing import Final

from dicomnode.conformance.document import Items, Part, Section, code, table
from dicomnode.journey.pulling import (
    AT_ONCE,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    TRIES,
    TROUBLE_FOR_DAYS,
    UNKNOWN_FOR_DAYS,
)
from dicomnode.network.web_archive import LONGEST_LIST_BYTES, LONGEST_TIMES
from dicomnode.settings import Settings, WebSource

_TITLE = "DICOM Web Services"
_NO_DICOMWEB: Final = "Not used, because no `web_sources` of kind `dicomweb` are configured."
_NO_SERVER = "As origin server none is supported: nothing of this node can be queried, retrieved or stored."


def web_overview(settings: Settings) -> Section:
    """Section 1.3."""
    if not _dicomweb(settings):
        return Section(_TITLE, (_NO_DICOMWEB,))
    rows = [("Search (QIDO-RS): instances", "yes", "no"), ("Retrieve (WADO-RS): instance", "yes", "no")]
    return Section(_TITLE, (table("Web services", "Service | User agent | Origin server", rows),))


def web_services(settings: Settings) -> Section:
    """Section 5.3."""
    if not settings.web_sources:
        return Section(_TITLE, (f"Not used, because no `web_sources` are configured. {_NO_SERVER}",))
    sources = [
        (code(source.name), source.kind, code(source.url), code(source.ae_title))
        for source in settings.web_sources
    ]
    said: tuple[Part, ...] = (
        f"{_asked(settings)} Its instances are listed, those that are not held are retrieved, {AT_ONCE} at a "
        "time, and it is listed again, until nothing is missing. Each passes the checks of a C-STORE and is "
        "filed as if the AE title below had sent it, in the transfer syntax in which it came. Classes and "
        "transfer syntaxes that are not accepted (7.2.1.4), and instances of another study or series, are "
        f"not filed. One that alone cannot be had at {TRIES} attempts is left out. While others are missing "
        "the series does not count as complete.",
        f"A source in trouble is asked again with pauses of {FIRST_PAUSE_SECONDS:g} s, doubling up to "
        f"{LONGEST_PAUSE_SECONDS:g} s, for {TROUBLE_FOR_DAYS:g} days; one that does not know the series, for "
        f"{UNKNOWN_FOR_DAYS:g} day. Requests outlive a stop of the node.",
        table("Web sources", "Name | Kind | Root | Counts as sent by", sources),
    )
    if _dicomweb(settings):
        said = (
            *said,
            table(
                "Requests to sources of kind `dicomweb` (PS3.18)",
                "Service | Request | Accept",
                [
                    (
                        "Search (QIDO-RS), 10.6",
                        code("GET /studies/{study}/series/{series}/instances?limit=1000&offset={n}"),
                        code("application/dicom+json"),
                    ),
                    (
                        "Retrieve (WADO-RS), 10.4",
                        code("GET /studies/{study}/series/{series}/instances/{instance}"),
                        code('multipart/related; type="application/dicom"; transfer-syntax=*'),
                    ),
                ],
            ),
        )
    if any(source.kind == "orthanc" for source in settings.web_sources):
        said = (
            *said,
            "Sources of kind `orthanc` are asked by the REST API of Orthanc, no web service of DICOM: "
            "`POST /tools/lookup`, `GET /series/{id}/instances`, `GET /instances/{id}/file`.",
        )
    return Section(_TITLE, (*said, _NO_SERVER))


def web_flow(settings: Settings) -> tuple[str, ...]:
    """What section 4.1 says of series that are fetched."""
    if not settings.web_sources:
        return ()
    names = ", ".join(code(source.name) for source in settings.web_sources)
    return (
        f"Series are fetched over HTTP from {names} on request (5.3). One that is being fetched is waited "
        "for until its source has no more of it or the request ends, whatever else is said here.",
    )


def _asked(settings: Settings) -> str:
    if settings.web.port is None:
        return (
            "No series is fetched that was not asked for before, because `web.port` is not configured: "
            "nobody can ask."
        )
    return "A series is fetched when the HTTP interface of the node is asked to (8.6)."


def web_configuration(settings: Settings) -> Section:
    """Section 6.3."""
    said = "No `web_sources` are configured."
    if settings.web_sources:
        said = "`web_sources`: name, kind, root and credentials of what series are fetched from."
    return Section("Configuration of DICOM Web Services", (said,))


def web_security(settings: Settings) -> Section:
    """Section 8.6."""
    items = []
    if settings.web_sources:
        items.append(
            "To sources: HTTP Basic authentication where a username is configured; TLS where the root begins "
            "with https, with the certificate authorities of the machine. Redirects are not followed, "
            "proxies of the environment not used, nothing compressed is unpacked. No instance is read "
            f"beyond `network.max_instance_mib`, no list beyond {LONGEST_LIST_BYTES >> 20} MiB, and no "
            f"answer beyond {LONGEST_TIMES} times the timeout of the source."
        )
    if settings.web.port is not None:
        who = (
            "a bearer token is asked for, and compared in constant time; only whether the node is there "
            "is told without it"
            if settings.web.token
            else "no token is configured; only the machine itself can ask, and no page of a browser on it"
        )
        items.append(
            f"The HTTP interface of the node, on {code(settings.web.host)} port {settings.web.port}, is no "
            "web service of DICOM: it tells where a series stands, and takes requests to fetch one or to "
            f"start a job again. It carries UIDs and no other patient data; {who}. It speaks plain HTTP."
        )
    title = "Web services security features"
    return Section(title, (Items(tuple(items)),) if items else ("There are no web services.",))


def web_ports(settings: Settings) -> list[tuple[str, str, str, str]]:
    """(what, direction, port, use) for the table of ports."""
    ports = []
    if settings.web.port is not None:
        ports.append((code("web"), "in", str(settings.web.port), "HTTP, from archives"))
    return ports + [
        (code(source.name), "out", _port(source), f"HTTP, to fetch from ({source.kind})")
        for source in settings.web_sources
    ]


def _port(source: WebSource) -> str:
    scheme, _, rest = source.url.partition("://")
    given = rest.partition("/")[0].rpartition(":")[2]
    return given if given.isdigit() else {"http": "80", "https": "443"}[scheme]


def _dicomweb(settings: Settings) -> bool:
    return any(source.kind == "dicomweb" for source in settings.web_sources)

"""Sections 6 and 8 of the statement: the configuration as it is, and what protects the node."""

from dicomnode.conformance.document import Items, Section, code, table
from dicomnode.conformance.facts import NOT_SHOWN, keys
from dicomnode.conformance.web import web_configuration, web_ports, web_security
from dicomnode.settings import ENVIRONMENT_PREFIX, Settings

_NONE = "Not supported."


def configuration(settings: Settings) -> Section:
    """Section 6."""
    rows = [(code(path), value, default) for path, value, default in keys(settings)]
    return Section(
        "Configuration",
        (),
        (
            Section(
                "General configuration parameters",
                (
                    "One YAML file, read at the start; environment variables that begin with "
                    f"{code(ENVIRONMENT_PREFIX)} override single keys. A change takes a restart. Units stand "
                    f"in the names. Secrets are told as '{NOT_SHOWN}'.",
                    table("Every key, with its value in this configuration", "Key | Value | Default", rows),
                ),
            ),
            Section(
                "Configuration of DIMSE services",
                (
                    "Local AE title, host and port: `node`. Remote ones: `callers` (who may send), "
                    "`destinations` (who is sent to) and `sources` (who is asked). SOP classes and transfer "
                    "syntaxes are not configurable, except that a destination chooses "
                    "what it gets.",
                ),
            ),
            web_configuration(settings),
            Section("Configuration of media storage services", (_NONE,)),
            Section("Configuration of Real-Time Video service", (_NONE,)),
            Section("Configuration of audit trail", (_NONE,)),
        ),
    )


def security(settings: Settings) -> Section:
    """Section 8."""
    node = settings.node
    ports = [(code(node.ae_title), "in", str(node.port), "DICOM, from the callers")]
    ports += [
        (code(peer.name), "out", str(peer.port), "DICOM, to this destination")
        for peer in settings.destinations
    ]
    ports += [
        (code(source.name), "out", str(source.port), "DICOM, to this source") for source in settings.sources
    ]
    ports += web_ports(settings)
    return Section(
        "Security",
        (),
        (
            Section(
                "Introduction",
                (
                    "The node speaks plain DICOM and is to stand in a protected network. An AE title "
                    "identifies a peer and does not authenticate it. Where the network cannot be trusted, "
                    "put a TLS proxy in front of the port and one on the way to the destinations.",
                ),
            ),
            Section(
                "External network requirements",
                (
                    "DNS, where hosts are given by name. The clock is that of the machine: keep it right "
                    "(NTP), it gives the dates of the derived objects. No access to the internet, no "
                    "LDAP, no DHCP.",
                ),
            ),
            Section("TCP port configuration", (table("Ports", "What | Direction | Port | Use", ports),)),
            Section(
                "DICOM security profiles",
                (
                    Items(
                        (
                            "Secure Transport Connection (TLS): not supported by the node itself.",
                            "Secure Use, User Identity, Digital Signatures: not supported. Signatures of "
                            "the source are removed from derived images, because they no longer hold.",
                            "Attribute Confidentiality, Media Storage Security: not supported.",
                            "Audit Trail Message Format and Transmission: not supported.",
                        )
                    ),
                ),
            ),
            Section("User Identity Negotiation", ("Not supported: not proposed, and ignored where it is.",)),
            web_security(settings),
            _other_security(),
        ),
    )


def _other_security() -> Section:
    return Section(
        "Other security features",
        (
            Items(
                (
                    "Associations: only called AE title and callers as configured (7.2.1.4), with "
                    "limits of number, size and time (7.1.1, 7.2.1.2).",
                    "Deflated transfer syntax is refused, sizes are checked before pixels are "
                    "decoded, and file names come from hashes, never from data.",
                    "Spool: folders with mode 0700, files with 0600, not encrypted by the node. "
                    "It holds identified images: use an encrypted disk, and a user for the node "
                    "alone.",
                    "Log: UIDs as hashes; no patient data and no data sets. AE titles and "
                    "addresses of peers do appear.",
                    "Preambles of received files are replaced by zeros.",
                    "Weights of a model are read without executing anything, and only when their "
                    "digest is the one its card names.",
                )
            ),
        ),
    )

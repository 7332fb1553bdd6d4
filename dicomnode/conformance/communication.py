"""Section 7 of the statement: associations, presentation contexts, status codes."""

from dicomnode.conformance.document import Items, Section, Table, code, table
from dicomnode.conformance.facts import (
    DEFAULT_SYNTAX,
    SENT_SYNTAX,
    accepted,
    sent_to,
    status_ranges,
    uid_name,
)
from dicomnode.conformance.querying import proposed_to_sources, query_statuses
from dicomnode.journey.delivery import pause_before
from dicomnode.network import listener, protocol, requestor
from dicomnode.network.requestor import Patience
from dicomnode.settings import Retry, Settings


def communication(settings: Settings) -> Section:
    """Section 7."""
    return Section(
        "Network and media communication details",
        (),
        (
            Section(
                "General",
                (),
                (Section("General association parameters", (_parameters(settings), _negotiation(settings))),),
            ),
            Section(
                "Specifications",
                (),
                (
                    Section(
                        f"{code(settings.node.ae_title)} Application Entity",
                        (),
                        (
                            Section(
                                "Sequencing of activities",
                                ("Reception, enhancement and delivery go on side by side; see 4.1.",),
                            ),
                            Section("Association parameters", (_timeouts(settings),)),
                            _initiation(settings),
                            _acceptance(settings),
                        ),
                    ),
                ),
            ),
            Section("Status codes", (), (_general_failures(settings), _dimse_statuses(settings))),
        ),
    )


def _parameters(settings: Settings) -> Table:
    network = settings.network
    return table(
        "Association parameters",
        "Parameter | Value",
        [
            ("Application Context Name", code("1.2.840.10008.3.1.1.1")),
            ("Implementation Class UID", code(protocol.IMPLEMENTATION_CLASS_UID)),
            ("Implementation Version Name", code(protocol.IMPLEMENTATION_VERSION_NAME)),
            (
                "Maximum PDU size received, as acceptor",
                f"{network.max_pdu_bytes} bytes (`network.max_pdu_bytes`)",
            ),
            ("Maximum PDU size received, as initiator", f"{requestor.OUR_LONGEST_PDU} bytes"),
            (
                "PDU size sent, as initiator",
                f"the peer's maximum, at most {requestor.LONGEST_FRAGMENT} bytes",
            ),
            (
                "Associations accepted at once",
                f"{network.max_associations} (`network.max_associations`); {listener.SPARE_CONNECTIONS} more "
                "connections may be open without an association",
            ),
            (
                "Associations initiated at once",
                ", ".join(
                    [f"{peer.associations} to {code(peer.name)}" for peer in settings.destinations]
                    + [f"1 to a source, {code(source.name)}" for source in settings.sources]
                )
                or "none: no destination is configured",
            ),
            (
                "Largest instance accepted",
                f"{network.max_instance_mib:g} MiB (`network.max_instance_mib`); a larger one ends its "
                "association by A-ABORT",
            ),
            ("IP versions", "IPv4 and IPv6; listens on the one address given as `node.host`"),
        ],
    )


def _negotiation(settings: Settings) -> Table:
    silent = "accepted, not answered: the default of the standard applies"
    roles = "to sources: SCP of the dose report classes, for C-GET" if settings.sources else "no"
    return table(
        "Negotiation of further items",
        "Item | Proposed, as initiator | As acceptor",
        [
            ("Asynchronous Operations Window", "no", f"{silent} (one operation at a time)"),
            ("SCP/SCU Role Selection", roles, f"{silent} (the initiator is SCU)"),
            ("SOP Class Extended Negotiation", "no", silent),
            ("SOP Class Common Extended Negotiation", "no", "ignored"),
            (
                "User Identity",
                "no",
                "ignored: no response, and the association is judged by 7.2.1.4 alone",
            ),
        ],
    )


def _timeouts(settings: Settings) -> Table:
    network, patience = settings.network, Patience.configured(settings.network)
    return table(
        "Timeouts",
        "Waiting for | Seconds | Then",
        [
            (
                "A TCP connection to a destination or source",
                f"{patience.connect_seconds:g}",
                "tried again by 7.3.1",
            ),
            (
                "An answer to an association request or release",
                f"{patience.negotiation_seconds:g} (`network.negotiation_seconds`)",
                "tried again by 7.3.1",
            ),
            (
                "A destination's answer to an instance",
                f"{patience.answer_seconds:g} (`network.message_seconds`)",
                "A-ABORT; tried again by 7.3.1",
            ),
            *(
                [
                    (
                        "A source's answer to a query or retrieval",
                        f"{patience.answer_seconds:g} (`network.message_seconds`)",
                        "A-ABORT; asked again by 7.3.2.4",
                    )
                ]
                if settings.sources
                else []
            ),
            (
                "A caller's association request after it has connected",
                f"{network.negotiation_seconds:g} (`network.negotiation_seconds`)",
                "the connection is closed",
            ),
            (
                "Anything from a caller; also for one whole PDU",
                f"{network.idle_seconds:g} (`network.idle_seconds`)",
                "A-ABORT",
            ),
        ],
    )


def _initiation(settings: Settings) -> Section:
    rows = [
        (
            code(peer.name),
            kind.what,
            uid_name(kind.sop_class_uid),
            code(kind.sop_class_uid),
            f"{uid_name(syntax)} {code(syntax)}",
            "SCU",
        )
        for peer in settings.destinations
        for kind in sent_to(peer)
        for syntax in (SENT_SYNTAX, DEFAULT_SYNTAX)
    ]
    echo = (
        uid_name(protocol.VERIFICATION),
        code(protocol.VERIFICATION),
        f"{uid_name(protocol.IMPLICIT_VR_LITTLE_ENDIAN)} {code(protocol.IMPLICIT_VR_LITTLE_ENDIAN)}",
        "SCU",
    )
    rows += [(code(peer.name), "`dicomnode echo`", *echo) for peer in settings.destinations]
    rows += proposed_to_sources(settings)
    return Section(
        "Association initiation policy",
        (
            "An association is initiated when there is something to send or to ask, and by the commands "
            "`dicomnode echo` and `dicomnode send`. It proposes the contexts that its objects need and no "
            "other, to destinations one transfer syntax a context. Each kind of object is sent on "
            "associations of its own; a source is asked for dose reports on one association with all its "
            "contexts, for a number of images with that of Study Root C-FIND alone. "
            f"Calling AE title is {code(settings.node.ae_title)}.",
            table(
                "Proposed presentation contexts",
                "Peer | For | SOP Class | SOP Class UID | Transfer syntax | Role",
                rows,
            ),
            "`dicomnode send` proposes the SOP class and transfer syntax of each file it is given, up to 128 "
            "of them.",
        ),
    )


def _acceptance(settings: Settings) -> Section:
    rows = [
        (uid_name(uid), code(uid), uid_name(syntax), code(syntax), "SCP")
        for uid, syntaxes in accepted()
        for syntax in syntaxes
    ]
    callers = [
        (code(caller.ae_title), code(caller.host) if caller.host else "any") for caller in settings.callers
    ]
    rejections = [
        (str(one.result), str(one.source), str(one.reason), one.name, one.when) for one in protocol.REJECTIONS
    ]
    return Section(
        "Association acceptance policy",
        (
            f"Associations are accepted on TCP port {settings.node.port} at {code(settings.node.host)}, "
            "from the callers listed here and no others.",
            table("Callers", "AE title | From host", callers)
            if callers
            else "No callers are configured: every association is rejected.",
            table(
                "Associations that are rejected (A-ASSOCIATE-RJ, in the order of the checks)",
                "Result | Source | Reason | Name | When",
                rejections,
            ),
            table(
                "Accepted presentation contexts; of several transfer syntaxes proposed in one context the "
                "first of this list is taken",
                "SOP Class | SOP Class UID | Transfer syntax | Transfer Syntax UID | Role",
                rows,
            ),
            "All other SOP classes and transfer syntaxes are refused, among them Deflated Explicit VR Little "
            "Endian and, for CT, every lossy syntax. An association of which no "
            "context is accepted is still accepted. A message on a context that was not accepted ends the "
            "association by A-ABORT.",
        ),
    )


# --- statuses -------------------------------------------------------------------------------------


def _general_failures(settings: Settings) -> Section:
    rows = [
        (code(peer.name), _pauses(peer.retry), f"{peer.retry.give_up_days:g} days")
        for peer in settings.destinations
    ]
    return Section(
        "General communication and failure behaviour",
        (
            "As initiator, trying again can help when: the connection is refused, times out or is lost; the "
            "association is rejected as transient or aborted; an instance is not answered; or a status "
            "asks to come back later. Then what the destination has not stored is sent again after a "
            "pause. Each destination has its own queue. The queue survives a restart.",
            table("Retry", "Destination | Pauses | Given up after", rows),
            "It cannot help when the association is rejected as permanent, none of the contexts is "
            "accepted, or an instance is refused for good. The job is then `undelivered`; `dicomnode "
            "retry` starts it again.",
            "As acceptor: an instance whose transfer is broken off is not stored. Those answered before "
            "are. An association that breaks off does not count as the end of its series.",
        ),
    )


def _pauses(retry: Retry) -> str:
    pauses = [f"{pause_before(attempt, retry):g}" for attempt in range(2, 6)]
    return f"{', '.join(pauses)} s and so on, doubling up to {retry.longest_seconds:g} s"


def _received_statuses() -> list[tuple[str, str, str]]:
    stored, later = protocol.stored, protocol.come_back_later
    return [
        (
            "Success and warnings",
            status_ranges(stored),
            "The instance counts as stored; `0111` (duplicate) as well, because what is sent under a UID "
            "never changes.",
        ),
        (
            "Come back later",
            status_ranges(lambda status: later(status) and not stored(status)),
            "No further instance is sent; the associations are released, and the rest is sent again by "
            "7.3.1.",
        ),
        (
            "Refused for good",
            "any other",
            "The instance is not sent again, the others still are. `dicomnode status` tells it, with the "
            "status.",
        ),
    ]


def _dimse_statuses(settings: Settings) -> Section:
    answers = [
        (one.kind, code(f"{one.status:04X}"), one.meaning, one.sender)
        for one in sorted(protocol.ANSWERS, key=lambda one: one.status)
    ]
    return Section(
        "DIMSE services",
        (),
        (
            Section(
                "C-STORE as SCP",
                (
                    table(
                        "Status codes answered",
                        "Status | Code | Meaning | What the sender can do",
                        answers,
                    ),
                    "A failure carries an Error Comment (0000,0902) that names the reason and holds "
                    "nothing out of the data set. No warnings are answered: nothing is coerced and no "
                    "element is dropped.",
                ),
            ),
            Section(
                "C-STORE as SCU",
                (table("Status codes received", "Meaning | Codes | Behaviour", _received_statuses()),),
            ),
            Section(
                "C-ECHO",
                (
                    Items(
                        (
                            f"As SCP: {code(f'{protocol.SUCCESS:04X}')}, always.",
                            f"As SCU: {code(f'{protocol.SUCCESS:04X}')} is taken as an answer, every other "
                            "status is told as an error.",
                        )
                    ),
                ),
            ),
            *query_statuses(settings),
            Section(
                "Other messages",
                (
                    "A message of a service that is not offered is answered with a failure status, or "
                    "ends the association by A-ABORT.",
                ),
            ),
        ),
    )

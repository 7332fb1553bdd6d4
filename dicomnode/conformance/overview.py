"""Sections 1, 3 and 4 of the statement: what is exchanged, for whom it is written, how a series travels."""

from typing import Final

from dicomnode import __version__
from dicomnode.conformance.document import Items, Section, Table, code, table
from dicomnode.conformance.facts import (
    SENT_SYNTAX,
    accepted,
    is_enhanced,
    kinds,
    sent_classes,
    sent_to,
    uid_name,
)
from dicomnode.conformance.web import web_flow, web_overview
from dicomnode.network import protocol
from dicomnode.settings import Destination, Settings

_COUNTED: Final = (
    " The sources are asked how many images it has (5.2.7): while one knows of more, the series is waited "
    "for as with a gap; as many, said twice, prove it whole, and of one with a gap that no more will come."
)
EDITION = "Layout: DICOM PS3.2, Annex N (2024 and later)."


def overview(settings: Settings) -> Section:
    """Section 1."""
    none = "Not supported."
    return Section(
        "Overview",
        (
            "dicomnode receives low-dose CT series, reads the dose they were made with, enhances them with a "
            "diffusion model, and sends the result as a new, derived series to the configured destinations. "
            "The received series is never changed and never sent on.",
        ),
        (
            Section("Content and transfer", (_content(settings),)),
            Section("DIMSE services", (_services(settings),)),
            web_overview(settings),
            Section("Media services", (none,)),
            Section("Real-Time Video service", (none,)),
            Section(
                "De-identification profiles",
                (
                    "No profile is applied. Marks of de-identified images are kept in what is derived "
                    "from them.",
                ),
            ),
            Section("Specific Character Sets", ("Any is accepted and kept; see 5.7.",)),
        ),
    )


def _content(settings: Settings) -> Table:
    created = dict.fromkeys(kind.sop_class_uid for kind in kinds())
    received = [uid for uid, _ in accepted() if uid != protocol.VERIFICATION]
    asked = sent_classes(settings)
    rows = [
        (
            uid_name(uid),
            code(uid),
            "yes" if uid in received else "no",
            _use(uid) if uid in received else "-",
            "yes" if uid in created else "no",
            ("yes" if uid in asked else "to no destination, as configured") if uid in created else "no",
        )
        for uid in dict.fromkeys([*received, *created])
    ]
    return table(
        "Objects received, created and sent",
        "SOP Class | UID | Received | What becomes of it | Created | Sent",
        rows,
    )


def _use(uid: str) -> str:
    if is_enhanced(uid):
        return "kept, enhanced where no rule of 5.6 refuses it"
    if uid in protocol.IMAGE_CLASSES:
        return "kept, not enhanced (rule `not-ct` of 5.6)"
    if uid in protocol.DOSE_REPORT_CLASSES:
        return "kept, and read for the dose of the series of its study"
    if uid in protocol.COMPANION_IMAGE_CLASSES:
        return "kept, not enhanced, no job: a picture"
    return "kept, not enhanced, no job: a document"


def _services(settings: Settings) -> Table:
    rows = [
        ("Verification", "yes", "yes"),
        ("Storage", "yes", "yes"),
        ("Query/Retrieve", "yes" if settings.sources else "no", "no"),
        *(
            (service, "no", "no")
            for service in (
                "Storage Commitment",
                "Basic Worklist Management",
                "Modality Performed Procedure Step",
                "Unified Worklist and Procedure Step",
                "Instance Availability Notification",
                "Print Management",
            )
        ),
    ]
    return table("Roles", "Service | SCU | SCP", rows)


def introduction(settings: Settings) -> Section:
    """Section 3. Without a date: the same program and configuration give the same statement."""
    return Section(
        "Introduction",
        (),
        (
            Section(
                "Revision history",
                (
                    f"Written by `dicomnode conformance` of version {__version__} from its own code and one "
                    "configuration. Write it again after each change of either.",
                ),
            ),
            Section(
                "Audience",
                (
                    "Administrators of PACS and modalities who connect this node, and the engineers who help "
                    "them. Knowledge of DICOM is assumed.",
                ),
            ),
            Section(
                "Remarks",
                (
                    "Read it beside the statements of the peers. That two statements agree does not prove "
                    "that the systems work together: test with data of your own before clinical use. "
                    "`dicomnode echo` and `dicomnode send` help with that.",
                    "dicomnode is not a cleared medical device. Its objects carry Content Qualification "
                    f"(0018,9004) {code(settings.identity.content_qualification)}.",
                ),
            ),
            Section(
                "Terms and definitions",
                (
                    Items(
                        (
                            "Caller: an application entity that may send to this node.",
                            "Destination: an application entity to which results are sent.",
                            "Spool: the folder in which everything received and made is kept.",
                            "Stack: images of one acquisition, reconstructed in one way, evenly spaced. A "
                            "series may hold several; each gives a derived series of its own.",
                            "Job: the work on one stack, from complete to delivered.",
                        )
                    ),
                ),
            ),
            Section(
                "Abbreviations",
                (
                    "AE: Application Entity. HU: Hounsfield unit. PDU: Protocol Data Unit. SCP, SCU: Service "
                    "Class Provider, User. SOP: Service-Object Pair. SR: Structured Report. TID: Template "
                    "Identifier. UID: Unique Identifier.",
                ),
            ),
            Section("References", (f"DICOM standard, PS3.2 to PS3.8, PS3.10, PS3.15, PS3.16. {EDITION}",)),
        ),
    )


def model(settings: Settings) -> Section:
    """Section 4."""
    node, when = settings.node, settings.completeness
    flow = (
        f"Callers send images to {code(node.ae_title)} (C-STORE). Each is written to the spool and forced "
        "to the disk before it is answered.",
        f"A series counts as complete when it has been quiet for {when.quiet_seconds:g} s; after "
        f"{when.closed_seconds:g} s already, when instance numbers and positions have no gap and its "
        "association was released or its sender has begun another series. With a gap it is waited for until "
        f"{when.give_up_seconds:g} s. A sender that trickles gets ten times its usual pause between images."
        + (_COUNTED if settings.sources else ""),
        *web_flow(settings),
        "The series is sorted into stacks. A stack that a rule of 5.6 refuses stays in the spool, with the "
        "reason; no peer is told.",
        "The others are enhanced and judged. A result outside the limits of `quality` is "
        + (
            "kept and not sent."
            if settings.quality.on_failure == "hold"
            else "sent with the failure named in it."
        ),
        *(_delivery(settings)),
        "Images that come later re-open the series: all images of the stack are worked again, and the new "
        "result has new UIDs, and its number in every Series Description: `(revision n)`. The earlier one is "
        "not changed.",
    )
    return Section(
        "Implementation model",
        (),
        (
            Section(
                "Application Entities and data flow",
                (f"One application entity, {code(node.ae_title)}, does everything.", Items(flow)),
                (
                    Section(
                        f"Functional definition of {code(node.ae_title)}",
                        (
                            "It provides Storage and Verification to callers, and uses Storage at "
                            "destinations"
                            + (" and Query/Retrieve at sources" if settings.sources else "")
                            + ". Verification is used by the command `dicomnode echo`, and "
                            "Storage also by `dicomnode send`, which sends files as they are.",
                        ),
                    ),
                ),
            ),
        ),
    )


def _of_whom(peer: Destination) -> str:
    senders = " or ".join(map(code, peer.callers))
    return f" Only of series of which an image came from {senders}." if senders else ""


def _delivery(settings: Settings) -> list[str]:
    if not settings.destinations:
        return ["No destination is configured: results stay in the spool."]
    return [
        f"Destination {code(peer.name)}: {code(peer.ae_title)} at {code(f'{peer.host}:{peer.port}')} gets, "
        f"in this order: {', '.join(kind.what for kind in sent_to(peer))}; in "
        f"{uid_name(SENT_SYNTAX)}, if it is accepted.{_of_whom(peer)}"
        for peer in settings.destinations
    ]

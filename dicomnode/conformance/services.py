"""Section 5 of the statement: what each service does, and which images are enhanced."""

from typing import get_args

from dicomnode.conformance.document import Section, code, table
from dicomnode.conformance.facts import (
    DEFAULT_SYNTAX,
    SENT_SYNTAX,
    is_enhanced,
    refusals,
    sent_to,
    sentence,
    uid_name,
)
from dicomnode.conformance.querying import query_service
from dicomnode.conformance.web import web_services
from dicomnode.dicom import functional_groups, multiframe, parsing, pixels, series
from dicomnode.dicom.admission import PROJECTION_GROUPS
from dicomnode.dicom.dose import DoseSource
from dicomnode.dicom.private_elements import PrivateElement
from dicomnode.dicom.projection_tags import CREATORS, PROJECTION_TAGS
from dicomnode.errors import BrokenInstance, HelicalProjections, NoRawMode, ProjectionSeries
from dicomnode.network import protocol, send
from dicomnode.settings import Settings

_NOT = "Not supported."


def services(settings: Settings) -> Section:
    """Section 5."""
    name = settings.node.ae_title
    dimse = (
        Section("Basic Worklist Management service", (_NOT,)),
        Section("Modality Performed Procedure Step service", (_NOT,)),
        Section("Unified Worklist and Procedure Step service", (_NOT,)),
        Section("Instance Availability Notification service", (_NOT,)),
        Section("Storage service", (), (_storage_scu(settings), _storage_scp())),
        Section(
            "Storage Commitment service",
            (
                "Not supported, neither as SCU nor as SCP. That a destination answered success is all "
                "that is known of an object; this node promises callers nothing beyond its own answer.",
            ),
        ),
        query_service(settings),
        Section("Print Management service", (_NOT,)),
        Section(
            "Verification service",
            (
                "As SCP: C-ECHO of every caller is answered success. As SCU: `dicomnode echo` asks the "
                "destinations.",
            ),
        ),
    )
    return Section(
        "Service and interoperability description",
        (),
        (
            Section(
                "Mapping of services to Application Entities",
                (
                    table(
                        "Services and roles",
                        "Application Entity | Service | SCU | SCP",
                        [
                            (code(name), "Verification", "yes", "yes"),
                            (code(name), "Storage", "yes", "yes"),
                            (code(name), "Query/Retrieve", "yes" if settings.sources else "no", "no"),
                        ],
                    ),
                ),
            ),
            Section("DIMSE services", (), dimse),
            web_services(settings),
            Section("Media services", (_NOT,)),
            Section("Real-Time Video services", (_NOT,)),
            _rules(settings),
            _character_sets(),
        ),
    )


def _character_sets() -> Section:
    return Section(
        "Specific Character Sets",
        (
            "Received data sets are kept byte for byte, whatever their character set. Derived "
            "images and reports keep Specific Character Set (0008,0005) and the encoded names and "
            "texts of the source, which are not converted. What this program adds is 7-bit ASCII "
            "without backslash and tilde, so that it reads the same in every set. Series "
            "Description keeps its bytes between the prefix and the number of the revision where all "
            "fits into 64 bytes and holds no control character; otherwise it is decoded, cut to 64 "
            "characters and 64 bytes, and encoded again in the sets of the source.",
        ),
    )


def _storage_scu(settings: Settings) -> Section:
    return Section(
        "SCU of the Storage SOP Classes",
        (
            "Instances are sent as they lie on the disk: an instance that is sent again is the same, byte "
            "for byte. What goes with the images is sent after them, on associations of its own, and only "
            "when the destination has stored every image.",
            f"For one series up to `associations` of the destination are opened at once, one for every "
            f"{send.FEWEST_FOR_AN_ASSOCIATION} instances at most. Instances are sent in the order of their "
            "positions, from feet to head; with several associations they arrive interleaved.",
            table(
                "Destinations",
                "Name | AE title | Host | Port | Gets | Image Type value 2 | Associations at once",
                [
                    (
                        code(peer.name),
                        code(peer.ae_title),
                        code(peer.host),
                        str(peer.port),
                        ", ".join(kind.what for kind in sent_to(peer)),
                        code(peer.image_type2),
                        str(peer.associations),
                    )
                    for peer in settings.destinations
                ],
            ),
        ),
        (
            Section(
                "Transcoding of transfer syntaxes",
                (
                    f"Objects are written, and sent byte for byte, in {uid_name(SENT_SYNTAX)}. A destination "
                    f"that accepts a class in {uid_name(DEFAULT_SYNTAX)} only gets its objects without their "
                    "VRs, otherwise unchanged. What it accepts in neither it does not get.",
                ),
            ),
        ),
    )


def _storage_scp() -> Section:
    enhanced = [uid_name(uid) for uid in protocol.IMAGE_CLASSES if is_enhanced(uid)]
    return Section(
        "SCP of the Storage SOP Classes",
        (
            "Every element of an accepted instance is kept as it came, private and unknown ones included, "
            "in the transfer syntax in which it came. The preamble is replaced by zeros. No level of "
            "support is negotiated, and no data are coerced. Digital signatures are neither verified nor "
            "changed.",
            "This node is no archive: nothing can be queried or retrieved. It deletes nothing it has "
            "received; how long the spool keeps it is for the operator to decide.",
            "The same image under the same UID may be sent any number of times, also in another lossless "
            "transfer syntax or with a corrected header: the first stays as it is and is what results are "
            "made from, the other is put into quarantine. Other pixels, or another place, under a UID that "
            "is held are refused and quarantined (7.3.2).",
            f"Enhanced: {', '.join(enhanced)}. Everything else is kept only.",
        ),
    )


def _rules(settings: Settings) -> Section:
    dose = (
        "refused by the rule `dose-unknown`"
        if settings.dose.without_dose == "refuse"
        else "enhanced by the noise measured in the images, at most as strongly as a quarter of normal dose"
    )
    return Section(
        "Cross-service considerations",
        (
            "An accepted instance is not necessarily enhanced. Its series is, unless one of these rules "
            "refuses it. A refused series stays in the spool; the rule and the reason stand in `dicomnode "
            "status`. The sender is not told: its images were stored.",
            table(
                "Rules that refuse a series or a stack",
                "Rule | What it refuses",
                [(code(rule.rule), sentence(rule)) for rule in refusals()],
            ),
            f"By rule {code(BrokenInstance.rule)}, among others: an image of more than "
            f"{series.LARGEST_FILE_BYTES >> 20} MiB, {pixels.LARGEST_SIDE} pixels a side or "
            f"{pixels.MOST_PIXELS} pixels; an image or frame of more than {parsing.MOST_ELEMENTS} elements, "
            f"with those of its sequences; sequences nested deeper than {parsing.DEEPEST_SEQUENCE}; a "
            f"multi-frame object of more than {multiframe.LARGEST_FILE_BYTES >> 20} MiB, "
            f"{multiframe.LARGEST_DECODED_BYTES >> 20} MiB decoded or {functional_groups.MOST_FRAMES} "
            "frames.",
            f"The dose of a series may come from: {', '.join(map(code, get_args(DoseSource)))}. One that "
            f"tells no usable dose is {dose}.",
            "Results of this or another dicomnode that come back are recognised by their marks, which "
            "survive the Basic De-identification Profile: value 4 of Image Type, the private code in "
            "Derivation Code Sequence, the item of Contributing Equipment Sequence. Still, exclude them "
            "from the rule that routes images to this node.",
        ),
        (_private_elements(), _projections()),
    )


def _private_elements() -> Section:
    rows = [
        (f"({group:04X},xx{offset:02X})", tells, code(creator))
        for group, creator, offset, tells in (element.value for element in PrivateElement)
    ]
    return Section(
        "Private elements of images",
        (
            "These are read beside the standard's attributes, for the dose and for how an image was "
            "reconstructed. They are found by their creator, whatever block it has reserved, also with value "
            "representation UN; in a multi-frame object outside its functional groups, beside the macros and "
            "in those macros whose values are taken, where a frame's own come first and what each X-ray path "
            "states for itself is not taken. They are in no derived object.",
            table("Private elements that are read of images", "Tag | What it tells | Private creator", rows),
        ),
    )


def _projections() -> Section:
    """DICOM-CT-PD: what it is known by, and the private elements that are read of it."""
    groups = ", ".join(code(f"{group:04X}") for group in PROJECTION_GROUPS)
    rows = [
        (f"({tag.group:04X},xx{tag.element:02X})", tag.name, tag.kind, code(CREATORS[tag.group]))
        for tag in PROJECTION_TAGS.values()
    ]
    return Section(
        "Measured projections",
        (
            f"An object with private elements of the groups {groups} is measured projections (DICOM-CT-PD), "
            "whatever its SOP class and Image Type say. They are received as CT images, one object a view, "
            "read, checked and kept as they came. Where the model has a raw mode, an axial fan-beam scan "
            "whose slices make one even stack is reconstructed from its cleaned rays to CT images. These say "
            "in Derivation Description of how many measured views a slice was made; each names as its source "
            "one of them, with Spatial Locations Preserved NO. Without a raw mode such a scan is refused by "
            f"the rule {code(NoRawMode.rule)}; helical ones are by {code(HelicalProjections.rule)}, those "
            f"in multi-frame objects by {code(ProjectionSeries.rule)}, others by what is wrong with them. "
            "Elements are found by group and low byte in whatever private block they stand, also with value "
            "representation UN.",
            table("Private elements that are read of projections", "Tag | Name | VR | Private creator", rows),
        ),
    )

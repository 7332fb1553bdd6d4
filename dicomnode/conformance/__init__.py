"""The DICOM conformance statement of this program under one configuration, in the layout of PS3.2 Annex N.

Nothing about the network or the objects is written down here a second time: it is read from the tables the
node works with, and from objects that its own writers make of a small example.
"""

from dicomnode import __version__
from dicomnode.conformance.communication import communication
from dicomnode.conformance.configuring import configuration, security
from dicomnode.conformance.document import Document, Format, Items, Section, code, numbered, render
from dicomnode.conformance.objects import annexes
from dicomnode.conformance.overview import EDITION, introduction, model, overview
from dicomnode.conformance.services import services
from dicomnode.conformance.specimen import make_specimen
from dicomnode.settings import Settings

__all__ = ["Format", "statement"]

_DEEPEST_CONTENTS = 2


def statement(settings: Settings, kind: Format = "markdown") -> str:
    """The whole statement; the same settings give the same text."""
    sections = [
        overview(settings),
        Section("Table of contents"),
        introduction(settings),
        model(settings),
        services(settings),
        configuration(settings),
        communication(settings),
        security(settings),
        *annexes(settings, make_specimen(settings, None)),
    ]
    subtitle = (
        f"Product: dicomnode {__version__}, AE title {code(settings.node.ae_title)}.",
        EDITION,
    )
    document = Document("DICOM Conformance Statement: dicomnode", subtitle, tuple(sections))
    sections[1] = Section(sections[1].title, (_contents(document),))
    return render(Document(document.title, subtitle, tuple(sections)), kind)


def _contents(document: Document) -> Items:
    return Items(
        tuple(
            f"{'  ' * (one.depth - 1)}{one.number} {one.section.title}"
            for one in numbered(document)
            if one.depth <= _DEEPEST_CONTENTS
        )
    )

"""What the statement says of sources: archives that are asked for dose reports (C-FIND, C-GET)."""

from dicomnode.conformance.document import Items, Part, Section, Table, code, table
from dicomnode.conformance.facts import status_ranges, uid_name
from dicomnode.journey.asking import PAUSES_SECONDS
from dicomnode.network import protocol, query
from dicomnode.settings import Settings

Row = tuple[str, str, str, str, str, str]

NO_SCP = "Not supported as SCP: what was received cannot be asked for."


def query_service(settings: Settings) -> Section:
    """Section 5.2.7."""
    title = "Query/Retrieve service class"
    if not settings.sources:
        return Section(title, (f"Not used as SCU, because no `sources` are configured. {NO_SCP}",))
    names = ", ".join(code(source.name) for source in settings.sources)
    rows = [
        (code(source.name), code(source.ae_title), code(source.host), str(source.port))
        for source in settings.sources
    ]
    return Section(
        title,
        (
            f"As SCU, in the Study Root model: when a series tells no dose, each of the sources {names} is "
            "asked for dose reports of its study: C-FIND at SERIES level, then C-GET of each series that is "
            "answered with Modality `SR`. Only the classes of 7.2.1.3 are proposed: nothing else can come. "
            f"Nothing is ever changed at a source. {NO_SCP}",
            table("Sources", "Name | AE title | Host | Port", rows),
            _keys(),
            "No relational queries, no extended negotiation, no C-MOVE, no C-CANCEL.",
        ),
    )


def _keys() -> Table:
    """Of C-FIND, as they are sent; the study is that of the series in question."""
    told = {"StudyInstanceUID": ("single value", "of the series without dose")}
    rows = [
        (
            f"({element.tag.group:04X},{element.tag.element:04X})",
            code(element.keyword),
            *told.get(
                element.keyword,
                ("single value", code(element.value)) if element.value else ("universal", "returned"),
            ),
        )
        for element in query.dose_report_keys("")
    ]
    return table("Keys of C-FIND", "Tag | Attribute | Matching | Value", rows)


def proposed_to_sources(settings: Settings) -> list[Row]:
    """Rows of the table of proposed presentation contexts."""
    classes = [(uid, "SCU") for uid in query.QUERY_CLASSES]
    classes += [(uid, "SCP, by role selection") for uid in protocol.DOSE_REPORT_CLASSES]
    return [
        (
            code(source.name),
            "dose reports",
            uid_name(uid),
            code(uid),
            f"{uid_name(syntax)} {code(syntax)}",
            role,
        )
        for source in settings.sources
        for uid, role in classes
        for syntax in query.SYNTAXES
    ]


def query_statuses(settings: Settings) -> tuple[Section, ...]:
    """What becomes of a source's answers; none where there are no sources."""
    if not settings.sources:
        return ()
    pending, stored = set(query.PENDING), protocol.stored
    rows = [
        ("Pending", status_ranges(pending.__contains__), "The next answer is awaited."),
        ("Success and warnings", status_ranges(stored), "The query has ended; what was answered counts."),
        (
            "Failure",
            "any other",
            "The query has failed; the source is asked again as below.",
        ),
    ]
    parts: tuple[Part, ...] = (
        table("Status codes received", "Meaning | Codes | Behaviour", rows),
        Items(
            (
                f"A dose report that comes by C-GET is answered {code(f'{protocol.SUCCESS:04X}')} when it is "
                f"safe on the disk, else {code(f'{query.REFUSED_BY_US:04X}')}.",
                f"A study is asked for at once, and {len(PAUSES_SECONDS)} times more after pauses of "
                f"{', '.join(f'{pause:g}' for pause in PAUSES_SECONDS)} s, while its series wait for a dose.",
            )
        ),
    )
    return (Section("C-FIND and C-GET as SCU", parts),)

"""What the statement says of sources: archives that are asked for counts and dose reports (C-FIND, C-GET)."""

from pydicom.dataset import Dataset

from dicomnode.conformance.document import Items, Part, Section, Table, code, table
from dicomnode.conformance.facts import status_ranges, uid_name
from dicomnode.journey.asking import COUNT_PAUSE_SECONDS, PAUSES_SECONDS
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
            f"As SCU, in the Study Root model, of each of the sources {names}. While a series is waited for, "
            f"each is asked every {COUNT_PAUSE_SECONDS:g} s how many images it has: C-FIND at SERIES level. "
            "When a series tells no dose, each is asked for dose reports of its study: C-FIND at SERIES "
            "level, then C-GET of each series that is answered with Modality `SR`. Only the classes of "
            "7.2.1.3 are proposed: nothing else can come. "
            f"Nothing is ever changed at a source. {NO_SCP}",
            table("Sources", "Name | AE title | Host | Port", rows),
            _keys("Keys of C-FIND for the number of images", query.count_keys("", "")),
            _keys("Keys of C-FIND for dose reports", query.dose_report_keys("")),
            "No relational queries, no extended negotiation, no C-MOVE, no C-CANCEL.",
        ),
    )


def _keys(title: str, keys: Dataset) -> Table:
    """Of C-FIND, as they are sent."""
    told = {"StudyInstanceUID": ("single value", "of the series in question")}
    if "NumberOfSeriesRelatedInstances" in keys:
        told["SeriesInstanceUID"] = ("single value", "of the series in question")
    rows = [
        (
            f"({element.tag.group:04X},{element.tag.element:04X})",
            code(element.keyword),
            *told.get(
                element.keyword,
                ("single value", code(element.value)) if element.value else ("universal", "returned"),
            ),
        )
        for element in keys
    ]
    return table(title, "Tag | Attribute | Matching | Value", rows)


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
            "The query has failed; the source is asked again as below. A C-GET that fails for one series "
            "keeps no other back: a source cannot send reports of other classes, and may call it failed.",
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

"""The conformance statement against what happens on the wire, found by peers that try everything."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, AllStoragePresentationContexts, build_context, build_role, evt
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext

from dicomnode.conformance import statement
from dicomnode.conformance.facts import sent_to
from dicomnode.conformance.specimen import make_specimen
from dicomnode.network import protocol
from dicomnode.network.query import QUERY_CLASSES, fetch_dose_reports, series_related_instances
from dicomnode.network.send import send_files
from dicomnode.settings import Destination, Settings, Source
from tests.makers import make_series
from tests.network.conftest import CALLER, NODE, Node, Sender, data_set_of

SYNTAXES = [uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"]
CLASSES = [uid for uid, entry in UID_dictionary.items() if entry[1] in ("SOP Class", "Meta SOP Class")]


def table(text: str, caption: str) -> list[list[str]]:
    """The rows under a caption of the Markdown statement."""
    lines = text.split(f"\n{caption}")[1].split("\n\n")[1].splitlines()
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def accepted_of(node: Node, pairs: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Of (class, syntax) pairs, each proposed in a context of its own, those the listener accepts."""
    accepted = set()
    for start in range(0, len(pairs), 128):
        contexts = [build_context(*pair) for pair in pairs[start : start + 128]]
        association = AE(CALLER).associate("127.0.0.1", node.port, ae_title=NODE, contexts=contexts)
        for context in association.accepted_contexts:
            assert not context.as_scp
            accepted.add((str(context.abstract_syntax), str(context.transfer_syntax[0])))
        association.release()
    return accepted


def test_what_the_listener_negotiates_is_what_the_table_says(node: Node) -> None:
    told = {
        (row[1], row[3])
        for row in table(statement(node.receiver._settings), "Accepted presentation contexts")
    }
    classes = {sop_class for sop_class, _ in told}
    tried = [(uid, "1.2.840.10008.1.2.1") for uid in CLASSES if uid not in classes]
    tried += [(uid, syntax) for uid in sorted(classes) for syntax in SYNTAXES]
    assert len(tried) > 500
    assert accepted_of(node, tried) == told


def test_of_several_syntaxes_in_one_context_the_first_of_the_table_is_taken(node: Node) -> None:
    told = [
        row[3]
        for row in table(statement(node.receiver._settings), "Accepted presentation contexts")
        if row[1] == CTImageStorage
    ]
    for position in range(len(told)):
        contexts = [build_context(CTImageStorage, told[position:][::-1])]
        association = AE(CALLER).associate("127.0.0.1", node.port, ae_title=NODE, contexts=contexts)
        assert association.accepted_contexts[0].transfer_syntax == [told[position]]
        association.release()


def test_further_items_are_not_answered_and_harm_nothing(node: Node) -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    user = UserIdentityNegotiation()
    user.user_identity_type, user.primary_field, user.positive_response_requested = 1, b"somebody", True
    level = SOPClassExtendedNegotiation()
    level.sop_class_uid, level.service_class_application_information = CTImageStorage, b"\x02\0\x03\0\x01\0"
    role = build_role(CTImageStorage, scu_role=True, scp_role=True)
    entity = AE(CALLER)
    entity.add_requested_context(CTImageStorage)
    association = entity.associate("127.0.0.1", node.port, ae_title=NODE, ext_neg=[window, user, level, role])
    assert association.is_established
    assert association.acceptor.primitive is not None
    answered = {type(item).__name__ for item in association.acceptor.primitive.user_information}
    assert answered == {
        "MaximumLengthNotification",
        "ImplementationClassUIDNotification",
        "ImplementationVersionNameNotification",
    }
    association.release()


def test_an_association_without_any_accepted_context_is_accepted(node: Node) -> None:
    entity = AE(CALLER)
    entity.add_requested_context(MRImageStorage)
    accepted: list[evt.Event] = []
    association = entity.associate(
        "127.0.0.1", node.port, ae_title=NODE, evt_handlers=[(evt.EVT_ACCEPTED, accepted.append)]
    )
    assert accepted
    assert not association.is_rejected
    assert not association.accepted_contexts


def test_every_status_of_the_table_can_be_provoked_and_no_other_comes(
    start_node: Callable[..., Node], series: list[Path], tmp_path: Path
) -> None:
    """One data set after the other that deserves its status, on real associations."""
    node = start_node()
    sender, path = Sender(node), series[0]
    data = data_set_of(path)
    came = [sender.send(path)]

    def move(header: Dataset, index: int) -> None:
        header.InstanceNumber = 77

    def to_mr(header: Dataset, index: int) -> None:
        header.SOPClassUID = MRImageStorage

    def take_study(header: Dataset, index: int) -> None:
        header.SOPInstanceUID = "1.2.3.4.5"
        del header.StudyInstanceUID

    nameless = make_series(tmp_path / "nameless", slices=1, change=take_study)[0]
    moved = make_series(tmp_path / "again", name="series", slices=1, change=move)[0]
    as_mr = make_series(tmp_path / "mr", slices=1, change=to_mr)[0]
    implicit = make_series(
        tmp_path / "implicit", name="series", slices=1, transfer_syntax=ImplicitVRLittleEndian
    )[0]
    came += [
        sender.send(path, data=data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
        sender.send(moved),
        Sender(node, ImplicitVRLittleEndian).send(implicit),
        sender.send(path, uid="../../etc/x"),
        sender.send(path, uid="1.2.3"),
        sender.send(path, sop_class=str(MRImageStorage)),
        sender.send(as_mr, sop_class=str(CTImageStorage)),
        sender.send(series[1], data=data_set_of(series[1])[:-100]),
        sender.send(nameless, uid="1.2.3.4.5"),
    ]
    node.spool.reserve_bytes = 2**62
    came.append(sender.send(series[2]))
    node.spool.reserve_bytes = 0

    def break_down(received: object) -> None:
        raise RuntimeError("an error of ours")

    node.receiver._on_stored = break_down
    came.append(sender.send(series[3]))
    assert {answer.Status for answer in came} == {answer.status for answer in protocol.ANSWERS}


@pytest.mark.parametrize("report", [True, False])
def test_what_is_proposed_to_a_destination_is_what_the_table_says(report: bool, tmp_path: Path) -> None:
    """The objects of our own writers, sent by our own sender, to a peer that notes what it is asked for."""
    asked: list[PresentationContext] = []
    entity = AE("PEER")
    entity.supported_contexts = AllStoragePresentationContexts
    server = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[
            (evt.EVT_ACCEPTED, lambda event: asked.extend(event.assoc.requestor.requested_contexts)),
            (evt.EVT_C_STORE, lambda event: 0x0000),
        ],
    )
    assert server is not None
    destination = Destination(
        name="peer", ae_title="PEER", host="127.0.0.1", port=server.server_address[1], report=report
    )
    settings = Settings(destinations=(destination,))
    try:
        for path in written(settings, destination, tmp_path):
            send_files([path], destination, NODE)
    finally:
        server.shutdown()
    rows = table(statement(settings), "Proposed presentation contexts")
    told = {(row[3], row[4].split("`")[-1]) for row in rows if row[1] != "dicomnode echo"}
    proposed = {
        (str(context.abstract_syntax), str(syntax)) for context in asked for syntax in context.transfer_syntax
    }
    assert proposed == told
    assert len(proposed) == 2 * len(sent_to(destination))


def test_what_is_proposed_to_a_source_is_what_the_table_says(tmp_path: Path) -> None:
    """Contexts, roles, the longest PDU and the keys, as a peer that answers a query sees them."""
    asked: list[evt.Event] = []
    keys: list[Dataset] = []

    def answer(event: evt.Event) -> Iterator[tuple[int, None]]:
        keys.append(event.identifier)
        yield 0x0000, None

    entity = AE("ARCHIVE")
    entity.supported_contexts = [build_context(uid) for uid in QUERY_CLASSES]
    server = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[(evt.EVT_ACCEPTED, asked.append), (evt.EVT_C_FIND, answer)],
    )
    assert server is not None
    source = Source(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=server.server_address[1])
    text = statement(Settings(sources=(source,)))
    try:
        fetch_dose_reports(source, NODE, "1.2.3", lambda request: None)
        assert series_related_instances(source, NODE, "1.2.3", "1.2.3.4") is None
    finally:
        server.shutdown()
    event, _ = asked
    requestor = event.assoc.requestor
    told = table(text, "Proposed presentation contexts")
    assert {(row[0], row[3], row[4].split("`")[-1]) for row in told} == {
        ("archive", str(context.abstract_syntax), str(syntax))
        for context in requestor.requested_contexts
        for syntax in context.transfer_syntax
    }
    by_role = {row[3] for row in told if row[5] == "SCP, by role selection"}
    assert by_role == {str(uid) for uid, role in requestor.role_selection.items() if role.scp_role}
    items = {row[0]: row[1] for row in table(text, "Negotiation of further items")}
    assert items["SCP/SCU Role Selection"] != "no"
    longest = {row[0]: row[1] for row in table(text, "Association parameters")}
    assert longest["Maximum PDU size received, as initiator"] == f"{requestor.maximum_length} bytes"
    for title, sent in zip(("dose reports", "the number of images"), keys, strict=True):
        rows = table(text, f"Keys of C-FIND for {title}")
        assert {row[1] for row in rows} == {element.keyword for element in sent}
    assert [row[1:3] for row in table(text, "Ports") if row[0] == "archive"] == [["out", str(source.port)]]


def test_without_sources_no_query_is_told() -> None:
    text = statement(Settings())
    assert "C-FIND and C-GET as SCU" not in text
    items = {row[0]: row[1] for row in table(text, "Negotiation of further items")}
    assert items["SCP/SCU Role Selection"] == "no"
    assert "\nDestinations: none.\n" in text, "no table of nothing"


def written(settings: Settings, destination: Destination, folder: Path) -> list[Path]:
    specimen = make_specimen(settings, destination)
    objects = [specimen.image, *([specimen.report] if destination.report else [])]
    paths = [folder / f"{number}.dcm" for number in range(len(objects))]
    for data, path in zip(objects, paths, strict=True):
        data.save_as(path, enforce_file_format=True)
    return paths

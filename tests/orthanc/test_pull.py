"""The node fetches the images itself; and progress, outcome and retries as its HTTP tells them."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.journey.scene import free_port, low_dose_series, wait_until
from tests.makers import make_series
from tests.orthanc.conftest import PLUGIN, node_settings
from tests.orthanc.contract_node import ContractNode, answering
from tests.orthanc.orthancs import Orthanc, running_plugin, settle

StartNode = Callable[[Settings], Node]
TOKEN = "a-very-secret-token"


def pulling(url: str, **more: object) -> dict[str, object]:
    """Settings of a plugin that lets the node pull."""
    impatient = {"RetrySeconds": 0.3, "LongestRetrySeconds": 1.0}
    return {"Mode": "pull", "Url": url, "Source": "orthanc-a", "Token": TOKEN, **impatient, **more}


@pytest.fixture
def orthanc(orthanc_program: str, tmp_path: Path) -> Orthanc:
    return Orthanc(orthanc_program, tmp_path / "orthanc", plugin=PLUGIN, node_port=free_port())


def contract_for(node: Node, settings: Settings, tmp_path: Path, orthanc: Orthanc) -> ContractNode:
    folder = tmp_path / "fetched"
    folder.mkdir()
    return ContractNode(node, settings, folder, {"orthanc-a": orthanc}, TOKEN)


@pytest.mark.slow
def test_the_node_fetches_a_series_and_its_progress_is_seen(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    settings = node_settings(tmp_path, free_port(), orthanc)
    contract = contract_for(running_node(settings), settings, tmp_path, orthanc)
    with answering(contract) as url:
        orthanc.configuration["DicomNode"] = pulling(url)
        with running_plugin(orthanc):
            paths = low_dose_series(tmp_path / "in", slices=10, side=96)
            source = orthanc.upload(paths[:9])
            seen: list[tuple[str, float]] = []

            def ended() -> bool:
                told = orthanc.plugin(source)
                if (now := (told["state"], told["progress"])) not in seen[-1:]:
                    seen.append(now)
                time.sleep(0.2)
                return bool(told["state"] == "done" and told["final"])

            wait_until(ended, told=lambda: (seen, orthanc.log()[-2000:]))
            shares = [share for _, share in seen]
            assert shares == sorted(shares)
            assert any(0.1 < share < 1.0 for share in shares), seen
            assert "working" in {state for state, _ in seen}
            (result,) = orthanc.enhanced()
            assert [one["id"] for one in orthanc.plugin(source)["results"]] == [result["ID"]]
            assert len(result["Instances"]) == 9
            assert orthanc.jobs() == [], "nothing was pushed"

            orthanc.upload(paths[9:])
            wait_until(lambda: sorted(len(one["Instances"]) for one in orthanc.enhanced()) == [9, 10])
            orthanc.wait_for(source, "done")
            settle(3)
            assert [path for _, path in contract.asked].count("/series") == 2
            assert TOKEN not in orthanc.log()
            assert TOKEN not in str(orthanc.get("/dicomnode/status"))
            assert orthanc.get("/dicomnode/status")["node"]["reachable"] is True


@pytest.mark.slow
def test_a_pull_waits_for_a_node_that_is_down_or_full_and_outlives_a_kill(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    settings = node_settings(tmp_path, free_port(), orthanc)
    contract = contract_for(running_node(settings), settings, tmp_path, orthanc)
    contract.down = True
    with answering(contract) as url:
        orthanc.configuration["DicomNode"] = pulling(url)
        with running_plugin(orthanc):
            source = orthanc.upload(low_dose_series(tmp_path / "in"))
            wait_until(lambda: orthanc.plugin(source)["attempts"] >= 3)
            assert "below the reserve" in orthanc.metadata(source)["4310"]
            orthanc.kill()
            orthanc.start()
            assert orthanc.plugin(source)["state"] == "waiting"
            contract.down = False
            orthanc.wait_for(source, "done")
            assert len(orthanc.enhanced()) == 1


@pytest.mark.slow
def test_a_refusal_of_the_node_is_shown_and_can_be_tried_again_by_hand(
    tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    settings = node_settings(tmp_path, node_port(orthanc), orthanc)
    contract = contract_for(running_node(settings), settings, tmp_path, orthanc)
    with answering(contract) as url:
        orthanc.configuration["DicomNode"] = {**PLUGIN, "Url": url, "Token": TOKEN}
        with running_plugin(orthanc):
            tilted = (1.0, 0.0, 0.0, 0.0, 0.8, 0.6)
            source = orthanc.upload(make_series(tmp_path / "in", orientation=tilted))
            told = orthanc.wait_for(source, "refused")
            assert told["rule"] is not None
            assert told["reason"] in orthanc.metadata(source)["4310"]
            pushed = len(orthanc.jobs())

            orthanc.post(f"/dicomnode/series/{source}/enhance")
            wait_until(lambda: ("POST", _retry_of(contract)) in contract.asked, 20)
            orthanc.wait_for(source, "refused")
            assert len(orthanc.jobs()) == pushed, "the node has all images: it is only asked to try again"


def _retry_of(contract: ContractNode) -> str:
    return f"/jobs/{contract.node.jobs()[0].job_id}/retry"


@pytest.mark.parametrize(
    ("wrong", "words"), [({"Token": "guessed"}, "refuses the token"), ({"Source": "b"}, "no web source b")]
)
def test_a_wrong_token_and_a_wrong_source_are_told(
    wrong: dict[str, str], words: str, tmp_path: Path, orthanc: Orthanc, running_node: StartNode
) -> None:
    settings = node_settings(tmp_path, free_port(), orthanc)
    contract = contract_for(running_node(settings), settings, tmp_path, orthanc)
    with answering(contract) as url:
        orthanc.configuration["DicomNode"] = pulling(url, **wrong)
        with running_plugin(orthanc):
            source = orthanc.upload(make_series(tmp_path / "in"))
            wait_until(lambda: orthanc.plugin(source)["attempts"] >= 1, 20)
            assert words in orthanc.metadata(source)["4310"]
            assert words in orthanc.get("/dicomnode/status")["last_error"]["words"]


def node_port(orthanc: Orthanc) -> int:
    return int(orthanc.configuration["DicomModalities"]["dicomnode"][2])

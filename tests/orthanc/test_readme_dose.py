"""The node.yaml of the plugin's README, against an Orthanc whose series tell their dose in a report alone."""

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.journey.scene import free_port, settings_for
from tests.journey.test_dose_reports import LOW, series_without_dose, study_of
from tests.orthanc.conftest import PLUGIN
from tests.orthanc.orthancs import ROOT, Orthanc, running_plugin
from tests.report_makers import make_dose_report


def readme_sections() -> dict[str, Any]:
    """callers, destinations, sources, web: as the first step of the README has them."""
    readme = (ROOT / "orthanc-plugin" / "README.md").read_text()
    block = re.search(r"node\.yaml`:\n\n(       callers:\n.*?)\n\n", readme, re.S)
    assert block is not None
    return dict(yaml.safe_load(textwrap.dedent(block[1])))


@pytest.mark.slow
def test_the_node_of_the_readme_finds_the_dose_report_in_orthanc(
    orthanc_program: str, tmp_path: Path, running_node: Callable[[Settings], Node]
) -> None:
    port, web_port = free_port(), free_port()
    plugin = {**PLUGIN, "Url": f"http://127.0.0.1:{web_port}"}
    orthanc = Orthanc(orthanc_program, tmp_path / "orthanc", plugin=plugin, node_port=port)
    told = readme_sections()
    for peer in (*told["destinations"], *told.get("sources", [])):
        peer["port"] = orthanc.dicom_port
    told["web"]["port"] = web_port
    running_node(settings_for(tmp_path, node={"port": port}, **told))
    with running_plugin(orthanc):
        paths = series_without_dose(tmp_path / "in")
        orthanc.upload([make_dose_report(tmp_path / "sr" / "1.dcm", study_of(paths), [LOW])])
        source = orthanc.upload(paths)
        ended = orthanc.wait_for(source, "done")  # for a moment it is refused: then the node asks for reports
        assert (ended["final"], ended["reason"], len(ended["results"])) == (True, None, 1)

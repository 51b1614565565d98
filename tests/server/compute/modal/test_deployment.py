"""A lab's deployment on Modal, as its file keeps it from version to version."""

from pathlib import Path

import pytest

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.modal import deployment
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.trainer import protocol


def test_a_deployment_of_an_older_version_keeps_its_compile_caches_and_a_newer_one_says_what_to_run(deployed: Path, tmp_path: Path) -> None:
    older = protocol.read_json(StatePaths(deployed).deployment) or {}
    older["graphs"] = {**older.pop("compile_caches"), "h100": "a volume"}  # as it was called
    protocol.write_json(StatePaths(tmp_path).deployment, older)
    assert deployment.load(tmp_path).compile_caches == {"h100": "a volume"}
    older.pop("graphs")
    protocol.write_json(StatePaths(tmp_path).deployment, older)
    assert deployment.load(tmp_path).compile_caches == {}
    deployment.check(deployment.load(tmp_path), "tiny")
    protocol.write_json(StatePaths(tmp_path).deployment, {**older, "of the future": 1})
    with pytest.raises(ComputeError, match="setup modal"):
        deployment.load(tmp_path)

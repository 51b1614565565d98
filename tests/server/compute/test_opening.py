"""`open_compute`: what lab.toml can name, and nothing else, opens."""

from pathlib import Path
from typing import get_args

import pytest

from autoresearch_mcp.server.compute import BACKENDS, open_compute
from autoresearch_mcp.server.compute.base import Compute
from autoresearch_mcp.server.settings import ComputeSection, Settings

NAMES = get_args(ComputeSection.model_fields["backend"].annotation)


def test_every_backend_that_lab_toml_can_name_is_in_the_table() -> None:
    assert set(BACKENDS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_backend_opens_by_its_name_in_the_folder_of_that_name(name: str, tmp_path: Path) -> None:
    settings = Settings.model_validate({"lab": {"name": "a lab"}, "compute": {"backend": name}})
    backend = open_compute(settings, tmp_path, tmp_path / "log")
    assert type(backend).__module__ == f"autoresearch_mcp.server.compute.{name}.backend"
    methods = {method for method in vars(Compute) if not method.startswith("_")}
    assert methods and all(callable(getattr(backend, method)) for method in methods) and backend.poll_s > 0

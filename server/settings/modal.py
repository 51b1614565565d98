"""Defines `[compute.modal]` of `lab.toml`: what rented containers hold."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from autoresearch_mcp.server.settings.section import Section
from autoresearch_mcp.server.settings.training import is_inside

REQUIREMENTS = "-r "  # before a file of the repository that lists packages
_NAME, _VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]*", r"(===?|[<>~!]=|[<>])\s*[A-Za-z0-9.*+!_-]+"
_REQUIREMENT = re.compile(rf"({_NAME})(\s*\[[A-Za-z0-9._,\s-]*\])?\s*({_VERSION}(\s*,\s*{_VERSION})*)?\s*(;[^\n\r]*)?")


class ModalSection(Section):
    """Say what rented containers hold."""

    packages: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default=[],
        max_length=100,
        description="what pip installs there for code that keeps no contract, such as `torch==2.13.*`, or `-r requirements.txt` for a file of the "
        "repository; `setup modal` builds the image. They belong to the conditions. numpy is there, and scikit-learn where `[scorer]` needs it",
    )

    @field_validator("packages")
    @classmethod
    def _are_requirements(cls, given: list[str]) -> list[str]:
        for text in given:
            file = text.removeprefix(REQUIREMENTS).strip() if text.startswith(REQUIREMENTS) else ""
            if not (is_inside(file) if file else name_of(text)):
                raise ValueError(
                    f'hold packages such as "numpy>=2", or "-r requirements.txt" for a file of the repository; {text!r} is neither'
                )
        return given


def name_of(requirement: str) -> str:
    """Return which package a requirement is for, as indexes write it; empty where it is none that names a package and versions."""
    match = _REQUIREMENT.fullmatch(requirement.strip())
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""

"""Reads `lab.toml`, with messages that name the key."""

import json
import tomllib
from pathlib import Path

from pydantic import ValidationError

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.models import Model
from autoresearch_mcp.server.paths import SETTINGS, STATE, LabPaths
from autoresearch_mcp.server.settings.model import SCHEMA, Settings
from autoresearch_mcp.server.settings.profile import ProfileSection


def load(root: Path) -> Settings:
    """Read and check `root/lab.toml`.

    Raises:
        LabError: `not_a_lab`, `newer_lab` or `bad_settings`.
    """
    path = LabPaths(root).settings
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8").removeprefix("\ufeff"))  # some editors begin a file with a byte order mark
    except (FileNotFoundError, NotADirectoryError):
        raise LabError(f"{root} is not a lab: it has no {SETTINGS}. Make one with `autoresearch-mcp init DIR`.", "not_a_lab") from None
    except tomllib.TOMLDecodeError as error:
        raise LabError(f"{SETTINGS} is not valid TOML: {error}. Correct it; nothing was changed.", "bad_settings") from None
    except UnicodeDecodeError:
        raise LabError(f"{SETTINGS} is not UTF-8 text: save it with the encoding UTF-8. Nothing was changed.", "bad_settings") from None
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}.", "bad_settings") from None
    schema = raw["lab"].get("schema", SCHEMA) if isinstance(raw.get("lab"), dict) else SCHEMA
    if isinstance(schema, int) and schema > SCHEMA:
        raise LabError(
            f"This lab was made by a newer autoresearch-mcp (schema {schema}, this one knows {SCHEMA}). "
            "Upgrade with `pip install -U autoresearch-mcp`; nothing was changed.",
            "newer_lab",
        )
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        mistakes = [e for e in error.errors() if e["loc"][:2] != ("training", "own_profile")]  # the same as of [profile.NAME]
        raise LabError("\n".join(_sentence(e["loc"], e["msg"], e["input"], e["type"]) for e in mistakes), "bad_settings") from None
    data = Path(settings.training.data).expanduser().resolve()
    if settings.training.data and (root.resolve().is_relative_to(data) or data.is_relative_to(root.resolve() / STATE)):
        raise LabError(
            f"{SETTINGS}: [training] data must not hold the lab itself, nor be in {STATE}/: training code may read all of it.",
            "bad_settings",
        )
    _check_apart(root.resolve(), settings)
    return settings


def _check_apart(root: Path, settings: Settings) -> None:
    """Refuse a scorer whose answers or code a training could read.

    Raises:
        LabError: `bad_settings`.
    """
    data = [("[training] data", Path(settings.training.data).expanduser().resolve())] if settings.training.data else []
    own = settings.scorer.folders
    for key, folder in own:
        others = [("the lab", root), *data, *((f"[scorer] {name}", other) for name, other in own if name != key)]
        for name, other in others:
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                raise LabError(
                    f"{SETTINGS}: [scorer] {key}, in {folder}, and {name} must be apart: neither may lie in the other, or trainings could read "
                    "what scores them. Move it.",
                    "bad_settings",
                )


def _sentence(where: tuple[int | str, ...], message: str, got: object, kind: str) -> str:
    if not where:  # a rule over several keys, which its text names
        return f"{SETTINGS}: {message.removeprefix('Value error, ')}."
    section, *rest = [str(part) for part in where]
    if section == "profile" and rest:
        section, rest = f"profile.{rest[0]}", rest[1:]
    key = " ".join([f"[{section}]", *rest[:1]])
    if kind == "extra_forbidden":
        return (
            f"{SETTINGS}: {key} is not a known setting. Remove it, or correct it to one of: {', '.join(_known(section if rest else None))}."
        )
    if kind == "missing":
        return f"{SETTINGS}: {key} is missing."
    text = message.removeprefix("Input ").removeprefix("Value error, ").removeprefix("should ")
    if section == "alerts":  # addresses hold secrets
        return f"{SETTINGS}: {' '.join([key, *rest[1:]])} must {text}."
    return f"{SETTINGS}: {key} must {text}, got {json.dumps(got, default=str)[:120]}."


def _known(section: str | None) -> list[str]:
    """Return the keys of a section, or the names of the sections."""
    if section and section.startswith("profile."):
        return list(ProfileSection.model_fields)
    model = Settings.model_fields[section].annotation if section else Settings
    assert isinstance(model, type) and issubclass(model, Model)
    return [field.alias or name for name, field in model.model_fields.items() if name != "own_profile"]

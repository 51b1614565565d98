"""The arguments that tools share, with their limits. The lab checks what only it can know; these stop what can never be right."""

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from autoresearch_mcp.server.lab.query import COMMIT, TAG, TAG_FORM, Commit, Tag
from autoresearch_mcp.server.mcp.schema import MAX_TEXT

__all__ = [
    "COMMIT",
    "FORMS",
    "ID",
    "Against",
    "Author",
    "Commit",
    "Edit",
    "ExperimentId",
    "ExperimentName",
    "Files",
    "MemoryId",
    "Path",
    "Tag",
    "Tags",
    "Text",
]

# No `\w{1,64}`: a repeated class takes milliseconds to compile, and each tool's model compiles its own.
ID = r"^[a-z]-[0-9a-z]{15}$"

EXPERIMENT = r"^([a-z]-[0-9a-z]{15}|champion|[0-9a-f]{7,64})$"
AGAINST = r"^(base|champion|[0-9a-f]{7,64})$"
AUTHOR = r"^[\w .@:/+-]+$"
FORMS = {  # by pattern: what a refusal says of it
    ID: "an id as the lab gives them, such as e-01h2xk3m4n5p6q7",
    AUTHOR: "made of letters, digits, blanks and _.@:/+-",
    TAG: f"made of {TAG_FORM}, without blanks",
    EXPERIMENT: "an id, such as e-01h2xk3m4n5p6q7, or a commit",
    AGAINST: "base, champion, or a commit's hash",
    COMMIT: "a commit's hash (7 or more of its hex digits), or champion",
}


def _plain(path: str) -> str:
    """Return a path as git writes it: `./train.py` is train.py."""
    return str(PurePosixPath(path.strip())) if path.strip() else path


def _against(value: object) -> object:
    """Take a yes, as earlier versions asked for it, for the base, and a no for none."""
    return {"true": "base", "false": None}.get(str(value).lower(), value)


def _plain_paths(files: dict[str, str | None]) -> dict[str, str | None]:
    plain = {_plain(path): text for path, text in files.items()}
    if len(plain) < len(files):
        raise ValueError("must name each file once")
    return plain


Author = Annotated[str, Field(pattern=AUTHOR, max_length=64, description="letters, digits")]
ExperimentId = Annotated[str, Field(pattern=ID, description="like e-01h2xk3m4n5p6q7")]
ExperimentName = Annotated[str, Field(pattern=EXPERIMENT, description="id (e-...), or a commit")]
Against = Annotated[Annotated[str, Field(pattern=AGAINST)] | None, BeforeValidator(_against)]
MemoryId = Annotated[str, Field(pattern=ID)]
Path = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_plain)]
Tags = Annotated[list[Tag], Field(max_length=16, description=TAG_FORM)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
_TextOrNone = Annotated[Text | None, WithJsonSchema({"type": ["string", "null"]})]
Files = Annotated[dict[str, _TextOrNone], Field(max_length=20, description="path -> new text; null deletes"), AfterValidator(_plain_paths)]


class Edit(BaseModel):
    """One search and replace."""

    model_config = ConfigDict(extra="forbid")

    path: Path
    search: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    replace: Text

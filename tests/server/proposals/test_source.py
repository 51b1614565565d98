"""The text of an editable file must be one that can run, whatever an agent sends."""

from pathlib import Path

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals import source
from autoresearch_mcp.server.proposals.making import NewRepo
from autoresearch_mcp.server.proposals.repo import Repo
from tests.server.proposals.helpers import change, commit_all, refused


def test_new_text_must_be_capped_utf8_python(repo: Repo) -> None:
    assert "line 2: `b = = 1`" in refused(repo, "syntax_error", files={"train.py": "a = 1\nb = = 1\n"})
    refused(repo, "bad_encoding", files={"train.py": "a = '\0'\n"})
    refused(repo, "bad_encoding", files={"train.py": "a = '\ud800'\n"})
    refused(repo, "bad_encoding", files={"train.py": "# coding: utf-7\na = 1\n"})
    refused(repo, "too_large", files={"train.py": "#" + "x" * (512 * 1024)})
    refused(repo, "too_large", files={"train.py": "#" + "x" * (10 * 1024 * 1024)})
    refused(repo, "empty_file", files={"train.py": " \n"})


def test_a_file_that_only_a_newer_python_reads_may_be_changed_where_one_may_run_it() -> None:
    newer, changed, older = b"lr = = 1\n", b"lr = = 2\n", b"lr = 1\n"
    source.check("train.py", changed, None, {"train.py": newer})
    for modules, before in ((None, older), ((), newer)):
        with pytest.raises(LabError, match=r"would not parse as Python 3\.\d+: invalid syntax at line 1"):
            source.check("train.py", changed, modules, {"train.py": before})


IMPORTED = [
    "import torch, numpy as np\nfrom safetensors.torch import save_file\nimport os.path\n",
    "from autoresearch_mcp.trainer import client\nfrom kernels import get_kernel\n",
    "import train\n",
    "from . import other\n",
    "try:\n    import a_module_that_is_nowhere\nexcept ImportError:\n    pass\n",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a_module_that_is_nowhere\n",
    "import sys\nif sys.platform == 'win32':\n    import a_module_that_is_nowhere\n",
    "try:\n    pass\nexcept ValueError:\n    import a_module_that_is_nowhere\n",
    "def late():\n    from a_module_that_is_nowhere.deep import thing\n",
]
NOT_IMPORTED = [
    "import a_module_that_is_nowhere\n",
    "if __name__ == '__main__':\n    import a_module_that_is_nowhere\n",
    "try:\n    import a_module_that_is_nowhere\nfinally:\n    pass\n",
]


def test_an_import_of_what_is_nowhere_is_refused_unless_the_code_can_do_without(repo: Repo) -> None:
    for text in IMPORTED:
        repo.build(repo.champion(), "imports", "ada", files={"train.py": text})
    for text in NOT_IMPORTED:
        assert "imports a_module_that_is_nowhere at line" in refused(repo, "unknown_import", files={"train.py": text})


def test_a_package_that_was_installed_meanwhile_can_be_imported(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    code = {"train.py": "import a_module_of_later\n"}
    refused(repo, "unknown_import", files=code)
    (tmp_path / "a_module_of_later.py").write_text("", encoding="utf-8")
    assert repo.build(repo.champion(), "imports", "ada", files=code).files_changed == 1


@pytest.mark.parametrize(
    "text", ["(" * 5_000, "-" * 100_000 + "1", "1" + "+1" * 90_000, "a" + ".b" * 90_000, "x = 0x" + "f" * 90_000, "if 1:\n" * 50_000]
)
def test_code_made_to_break_the_parser_is_refused_like_any_other(repo: Repo, text: str) -> None:
    refused(repo, "syntax_error", files={"train.py": text})


def test_a_file_that_is_not_text_can_only_be_replaced(repo: Repo) -> None:
    (repo.root / "train.py").write_bytes(b"\xff\xfe\0")
    base = commit_all(repo.root)
    with pytest.raises(LabError) as error:
        change(repo, "depth = 2", "depth = 3", base)
    assert error.value.code == "bad_encoding" and "`files` can replace or delete it" in str(error.value)
    draft = repo.build(base, "text again", "ada", files={"train.py": "depth = 3\n"})
    assert repo.read(draft.commit, "train.py") == b"depth = 3\n"


def test_what_was_there_already_is_no_fault_of_a_change(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    root.mkdir()
    NewRepo.create(root)
    repo = NewRepo(root, ["train.py", "pkg/**"])
    files = {
        "train.py": b"import a_module_that_is_nowhere\nlr = 1\n",
        "pkg/__init__.py": b"",
        "pkg/template.py": b"x = {{ value }}\n",
        "pkg/old.py": "# coding: latin-1\nname = 'M\u00fcller'\n".encode("latin-1"),
        "pkg/full.py": b"a = 1\n",
    }
    repo.commit_files(files, "the owner's")
    changes = {"train.py": "import a_module_that_is_nowhere\nlr = 2\n", "pkg/more.py": "from a_module_that_is_nowhere import x\n"}
    draft = repo.build(repo.champion(), "all at once", "ada", files={**changes, "pkg/full.py": "", "pkg/sub/__init__.py": ""})
    assert draft.files_changed == 4 and repo.read(draft.commit, "pkg/full.py") == b""
    assert repo.editable_files(draft.commit)["pkg/old.py"] == files["pkg/old.py"]
    refused(repo, "unknown_import", files={"pkg/more.py": "import another_that_is_nowhere\n"})
    gone = repo.build(repo.champion(), "without it", "ada", files={"pkg/old.py": None})
    assert "pkg/old.py" not in repo.paths(gone.commit)


def test_a_change_is_nested_no_deeper_than_it_can_be_told_from_others() -> None:
    deep = b"x = a" + b".b" * 2_000 + b"\n"
    with pytest.raises(LabError, match="write it more simply"):
        source.check("train.py", deep)
    source.check("train.py", deep, is_new=False)  # it runs


def test_what_is_launched_may_import_only_what_is_there_as_what_is_new() -> None:
    with pytest.raises(LabError, match="imports nowhere at line 1"):
        source.check("train.py", b"import nowhere\n", is_new=False)

"""Patches as language models write them apply where they can only mean one thing; a refusal says which part failed and shows the lines there."""

import contextlib
import difflib
import random
import time
from typing import Any

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.patch import Editable, apply
from autoresearch_mcp.server.proposals.placement import MAX_STEPS, Effort, FileLines
from autoresearch_mcp.server.proposals.unified_diff import parse

FILE = "import math\n\ndepth = 2\nwidth = 64\n\n\ndef build():\n    return depth * width\n\n\ndef step():\n    return width\n\n\nlr = 0.1\n"
HUNK = "@@ -3,2 +3,2 @@\n-depth = 2\n+depth = 3\n width = 64\n"


def applied(text: str | None = FILE, path: str = "train.py", editable: tuple[str, ...] = ("train.py",), **form: object) -> str:
    after = apply(lambda asked: text if asked == path else None, Editable(editable), **form).texts[path]  # type: ignore[arg-type]
    assert after is not None
    return after


def refused(code: str, text: str | None = FILE, **form: object) -> str:
    with pytest.raises(LabError) as error:
        applied(text, **form)  # type: ignore[arg-type]
    assert error.value.code == code, error.value
    return str(error.value)


@pytest.mark.parametrize(
    "diff",
    [
        f"--- a/train.py\n+++ b/train.py\n{HUNK}",
        f"--- train.py\n+++ train.py\n{HUNK}",
        f"--- a/train.py\t2026-01-01\n+++ b/train.py\t2026-01-01\n{HUNK}",
        f"diff --git a/train.py b/train.py\nindex 1234567..89abcde 100644\n--- a/train.py\n+++ b/train.py\n{HUNK}",
        f"From 1234 Mon Sep 17 00:00:00 2001\nSubject: deeper\n\n---\n train.py | 2 +-\n\n--- a/train.py\n+++ b/train.py\n{HUNK}-- \n2.39.5\n\n",
        f"```diff\n--- a/train.py\n+++ b/train.py\n{HUNK}```\n",
        HUNK,
        "--- a/train.py\n+++ b/train.py\n@@ -3,2 +3,2 @@\n-depth = 2\n+depth = 3\n width = 64",
        "--- a/train.py\n+++ b/train.py\n@@ -99,7 +99,9 @@ def x\n-depth = 2\n+depth = 3\n width = 64\n\n",
        "--- a/train.py\n+++ b/train.py\n@@ ... @@\n-depth = 2\n+depth = 3\n",
        "--- a/train.py\n+++ b/train.py\n@@\n import math\n\n-depth = 2\n+depth = 3\n",
        "--- a/train.py\n+++ b/train.py\n@@ -3 +3 @@\n-depth = 2  \n+depth = 3\n",
        f"--- a/train.py\n+++ b/train.py\n{HUNK}".replace("\n", "\r\n"),
        f"--- i/train.py\n+++ w/train.py\n{HUNK}",
        f"--- ./train.py\n+++ ./train.py\n{HUNK}",
        f"\ufeff--- a/train.py\n+++ b/train.py\n{HUNK}",
        f"A deeper one:\n```diff\n--- a/train.py\n+++ b/train.py\n{HUNK}```\nIt should help, since it is deeper.\n",
        f"\x1b[1m--- a/train.py\x1b[m\n\x1b[1m+++ b/train.py\x1b[m\n{HUNK}".replace("+depth", "\x1b[32m+depth"),
        f"diff --git a/train.py b/train.py\nold mode 100644\nnew mode 100755\nindex 1..2\n--- a/train.py\n+++ b/train.py\n{HUNK}",
    ],
    ids=[
        "git",
        "no prefix",
        "times",
        "full header",
        "mail",
        "fenced",
        "no header",
        "cut end",
        "wrong numbers",
        "no numbers",
        "bare",
        "blanks",
        "CRLF",
        "mnemonic prefixes",
        "dot",
        "byte order mark",
        "prose around a fence",
        "colours",
        "another mode",
    ],
)
def test_the_same_change_in_many_spellings(diff: str) -> None:
    assert applied(diff=diff) == FILE.replace("depth = 2", "depth = 3")


def test_any_diff_that_difflib_makes_applies_exactly() -> None:
    chance = random.Random(7)
    for _ in range(300):
        old = "".join(f"{chance.choice('abcd')}\n" for _ in range(chance.randrange(1, 30)))
        new = "".join(
            line if chance.random() < 0.8 else chance.choice(["", f"{line}--x\n", "++ y\n"]) for line in old.splitlines(keepends=True)
        )
        old, new = (text.rstrip("\n") if chance.random() < 0.3 else text for text in (old, new))
        lines = difflib.unified_diff(
            old.splitlines(keepends=True), new.splitlines(keepends=True), "a/train.py", "b/train.py", n=chance.randrange(4)
        )
        diff = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
        if diff:
            assert applied(old, diff=diff) == new, diff


def test_several_hunks_and_files_apply_as_one() -> None:
    diff = f"--- a/train.py\n+++ b/train.py\n{HUNK}@@ -15,1 +15,1 @@\n-lr = 0.1\n+lr = 0.2\n--- /dev/null\n+++ b/model/new.py\n@@ -0,0 +1,1 @@\n+a = 1\n"
    new = apply(lambda path: FILE if path == "train.py" else None, Editable(["train.py", "model/**"]), diff=diff)
    assert new.texts == {"train.py": FILE.replace("= 2", "= 3").replace("0.1", "0.2"), "model/new.py": "a = 1\n"}


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (
            {"diff": "diff --git a/m/a.py b/m/a.py\ndeleted file mode 100644\n--- a/m/a.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-a = 1\n"},
            {"m/a.py": None},
        ),
        ({"diff": "--- a/m/a.py\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-a = 1\n"}, {"m/a.py": None}),
        ({"diff": "diff --git a/m/e.py b/m/e.py\ndeleted file mode 100644\nindex e69de29..0000000\n"}, {"m/e.py": None}),
        ({"diff": "diff --git a/m/n.py b/m/n.py\nnew file mode 100644\nindex 0000000..e69de29\n"}, {"m/n.py": ""}),
        (
            {"diff": "diff --git a/m/a.py b/m/b.py\nsimilarity index 100%\nrename from m/a.py\nrename to m/b.py\n"},
            {"m/b.py": "a = 1\n", "m/a.py": None},
        ),
        (
            {
                "diff": "diff --git a/m/a.py b/m/b.py\nsimilarity index 60%\nrename from m/a.py\nrename to m/b.py\nindex 1..2 100644\n"
                "--- a/m/a.py\n+++ b/m/b.py\n@@ -1 +1 @@\n-a = 1\n+a = 2\n"
            },
            {"m/b.py": "a = 2\n", "m/a.py": None},
        ),
        (
            {
                "diff": 'diff --git "a/m/n\\303\\257 e.py" "b/m/n\\303\\257 e.py"\nnew file mode 100755\nindex 0..1\n--- /dev/null\n'
                '+++ "b/m/n\\303\\257 e.py"\n@@ -0,0 +1 @@\n+a = 2\n'
            },
            {"m/nï e.py": "a = 2\n"},
        ),
        ({"diff": "*** Begin Patch\n*** Delete File: m/a.py\n*** End Patch"}, {"m/a.py": None}),
        (
            {"diff": "*** Begin Patch\n*** Update File: m/a.py\n*** Move to: m/b.py\n@@\n-a = 1\n+a = 2\n*** End Patch"},
            {"m/b.py": "a = 2\n", "m/a.py": None},
        ),
        ({"files": {"m/a.py": None, "m/b.py": "a = 2\n"}}, {"m/a.py": None, "m/b.py": "a = 2\n"}),
    ],
)
def test_files_are_made_deleted_and_renamed(change: dict[str, Any], after: dict[str, str | None]) -> None:
    assert apply({"m/a.py": "a = 1\n", "m/e.py": ""}.get, Editable(["m/**"]), **change).texts == after


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"files": {"m/none.py": None}}, "deletes m/none.py, which does not exist"),
        ({"diff": "diff --git a/m/none.py b/m/none.py\ndeleted file mode 100644\n"}, "does not exist"),
        ({"diff": "diff --git a/m/a.py b/m/e.py\nrename from m/a.py\nrename to m/e.py\n"}, "exists at this commit"),
        ({"diff": "--- a/m/a.py\n+++ b/m/b.py\n@@ -1 +1 @@\n-a = 1\n+a = 2\n"}, "rename from"),
        ({"files": {"other.py": None}}, "not editable"),
    ],
)
def test_a_deletion_or_a_new_name_that_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        apply({"m/a.py": "a = 1\n", "m/e.py": ""}.get, Editable(["m/**"]), **change)


def test_line_endings_stay_those_of_the_file() -> None:
    windows = FILE.replace("\n", "\r\n")
    for form in (
        {"diff": f"--- a/train.py\n+++ b/train.py\n{HUNK}"},
        {"edits": [{"path": "train.py", "search": "depth = 2\nwidth", "replace": "depth = 3\nwidth"}]},
        {"files": {"train.py": FILE.replace("depth = 2", "depth = 3")}},
    ):
        assert applied(windows, **form) == windows.replace("depth = 2", "depth = 3")
    assert applied(files={"train.py": windows}) == FILE


def test_a_missing_newline_at_the_end_is_kept_or_mended_as_the_diff_says() -> None:
    assert applied("a\nb", diff="@@ -1,2 +1,2 @@\n-a\n+c\n b\n") == "c\nb"
    assert applied("a\nb", diff="@@ -1,2 +1,3 @@\n a\n b\n\\ No newline at end of file\n+c\n") == "a\nb\nc\n"
    assert applied("a\nb\n", diff="@@ -1,2 +1,2 @@\n a\n-b\n+c\n\\ No newline at end of file\n") == "a\nc"


def test_a_hunk_that_does_not_apply_is_named_with_the_lines_there() -> None:
    diff = f"--- a/train.py\n+++ b/train.py\n{HUNK}@@ -11,2 +11,2 @@\n def step():\n-    return depth\n+    return 1\n"
    text = refused("does_not_apply", diff=diff)
    assert "Hunk 2 of 2 (@@ -11,2 +11,2 @@) of train.py" in text
    assert "line 12 of the file is `    return width`, but the hunk expects `    return depth`" in text
    assert "   12 |     return width" in text and "    1 | import math" not in text
    assert "end" in refused("does_not_apply", diff="@@ -15,2 +15,2 @@\n lr = 0.1\n-x = 1\n+x = 2\n")


def test_a_hunk_that_fits_twice_or_overlaps_is_refused() -> None:
    assert "lines 1, 3" in refused("does_not_apply", "a\nb\na\nc\n", diff="@@ -2 +2 @@\n-a\n+x\n")
    assert applied("a\nb\na\nc\n", diff="@@ -3 +3 @@\n-a\n+x\n") == "a\nb\nx\nc\n"
    assert "overlap" in refused("does_not_apply", diff=HUNK + HUNK)
    assert "place is unknown" in refused("does_not_apply", diff="@@ -3,1 +3,2 @@\n+x = 1\n")


@pytest.mark.parametrize(
    ("diff", "says"),
    [
        ("diff --git a/train.py b/x.py\nsimilarity index 100%\nrename from train.py\nrename to x.py\n", "not editable"),
        ("diff --git a/train.py b/x.py\nsimilarity index 100%\ncopy from train.py\ncopy to x.py\n", "copies"),
        (f"--- a/train.py\n+++ b/x.py\n{HUNK}", "not editable"),
        (f"--- a/other.py\n+++ b/train.py\n{HUNK}", "not editable"),
        ("--- a/train.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-import math\n", "leave lines"),
        ("diff --git a/train.py b/train.py\nold mode 100644\nnew mode 100755\n", "mode"),
        (
            "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc/passwd\n\\ No newline at end of file\n",
            "symbolic link",
        ),
        ("diff --git a/s b/s\nnew file mode 160000\n", "submodule"),
        ("diff --git a/train.py b/train.py\nGIT binary patch\nliteral 3\nKcmZ\n", "binary"),
        ("Binary files a/train.py and b/train.py differ\n", "binary"),
        ("--- a/../train.py\n+++ b/../train.py\n" + HUNK, "not editable"),
        ("--- /etc/passwd\n+++ /etc/passwd\n" + HUNK, "not editable"),
        ("--- /dev/null\n+++ b/train.py\n@@ -0,0 +1 @@\n+x\n", "exists"),
        ("please make it deeper", "No hunk"),
        ("--- a/train.py\n+++ b/train.py\n", "No hunk"),
        (f"{HUNK}and then some words\n", "not part of a hunk"),
        ("   \n", "empty"),
        ("", "empty"),
    ],
)
def test_what_is_no_change_of_text_is_refused(diff: str, says: str) -> None:
    with pytest.raises(LabError, match=says):
        applied(diff=diff)


def test_edits_apply_in_order_and_each_search_must_occur_once() -> None:
    def edit(search: str, replace: str) -> dict[str, str]:
        return {"path": "train.py", "search": search, "replace": replace}

    assert applied(edits=[edit("depth = 2", "depth = 3"), edit("depth = 3", "depth = 4")]) == FILE.replace("depth = 2", "depth = 4")
    assert applied(edits=[{"search": "0.1", "replace": ""}]) == FILE.replace("0.1", "")
    assert "occurs 3 times, first at lines 4, 8, 12" in refused("does_not_apply", edits=[edit("width", "w")])
    text = refused("does_not_apply", edits=[edit("lr = 0.1", "lr = 1"), edit("  return depth*width", "x")])
    assert "Edit 2 of 2" in text and "0 times" in text and "    8 |     return depth * width" in text
    refused("bad_patch", edits=[edit("", "x")])
    refused("bad_patch", edits=[{"path": "train.py", "search": "x"}])
    refused("bad_patch", edits=[{"path": "train.py", "old": "x", "replace": "y"}])
    refused("does_not_apply", None, edits=[edit("a", "b")])


@pytest.mark.parametrize(
    ("text", "search", "replace"),
    [
        (FILE.replace("depth = 2", "depth = 2  "), "depth = 2\nwidth = 64", "depth = 3\nwidth = 64"),
        (FILE, "depth = 2 \t\nwidth = 64", "depth = 3\nwidth = 64"),
        (FILE.replace("= 2\n", "= 2\r\n"), "import math\n\ndepth = 2\nwidth", "import math\n\ndepth = 3\nwidth"),
        (FILE, "    3 | depth = 2\n    4 | width = 64", "    3 | depth = 3\n    4 | width = 64"),
        (FILE, "3\tdepth = 2\n4\twidth = 64\n", "depth = 3\nwidth = 64\n"),
        (FILE, "   3→depth = 2 \n   4→width = 64", "depth = 3\nwidth = 64"),
    ],
    ids=["blanks in the file", "blanks in the edit", "mixed endings", "numbers of a refusal", "numbers and tabs", "both"],
)
def test_an_edit_is_forgiven_what_can_not_be_mistaken(text: str, search: str, replace: str) -> None:
    edit = {"path": "train.py", "search": search, "replace": replace}
    texts, notes = apply(lambda _: text, Editable(["train.py"]), edits=[edit])
    assert [line.rstrip() for line in texts["train.py"].split("\n")] == FILE.replace("depth = 2", "depth = 3").split("\n")
    assert texts["train.py"].count("\r") <= text.count("\r")
    assert len(notes) == 1 and notes[0].startswith("Edit 1 of 1 applied without ")


def test_an_edit_is_forgiven_nothing_where_two_places_or_meanings_are_left() -> None:
    def edit(search: str, replace: str = "x") -> list[dict[str, str]]:
        return [{"path": "train.py", "search": search, "replace": replace}]

    twice = "a = 1  \nb = 2\n\na = 1\t\nb = 2\n"
    refused("does_not_apply", twice, edits=edit("a = 1\nb = 2"))
    refused("does_not_apply", edits=edit("    3 | depth = 2\n    9 | width = 64"))
    refused("does_not_apply", edits=edit("    3 | depth = 2\nwidth = 64"))
    refused("does_not_apply", edits=edit("    3 | depth = 2", "    3 | depth = 3\nheight = 3"))
    refused("does_not_apply", edits=edit("  depth = 2"))


def test_a_patch_in_an_envelope_is_the_diff_inside() -> None:
    patch = (
        "*** Begin Patch\n*** Update File: train.py\n depth = 2\n-width = 64\n+width = 32\n@@ def step():\n-lr = 0.1\n+lr = 0.2\n"
        "*** Add File: model/new.py\n+a = 1\n*** End of File\n*** End Patch\n"
    )
    texts, notes = apply(lambda path: FILE if path == "train.py" else None, Editable(["train.py", "model/**"]), diff=patch)
    assert texts == {"train.py": FILE.replace("= 64", "= 32").replace("0.1", "0.2"), "model/new.py": "a = 1\n"}
    assert "Begin Patch" in notes[0]
    refused("bad_patch", diff="*** Begin Patch\n*** Rewrite File: train.py\n*** End Patch")


def test_the_nearest_lines_are_those_that_hold_most_of_the_text() -> None:
    text = (
        '"""Trains with a ratio of warmup, 0.1 by default."""\n\n'
        + "x = 1\n" * 20
        + "WARMUP_RATIO = 0.0  # share of the budget that warms up\n)\n"
    )
    assert "   23 | WARMUP_RATIO = 0.0" in refused("does_not_apply", text, edits=[{"search": "WARMUP_RATIO = 0.1", "replace": ""}])
    several = refused("does_not_apply", ")\n" * 9 + text, edits=[{"search": "WARMUP_RATIO = 0.1  # of the budget\n)\n", "replace": ""}])
    assert "   32 | WARMUP_RATIO = 0.0" in several


def test_exactly_one_form_is_taken() -> None:
    refused("bad_patch")
    refused("bad_patch", diff=HUNK, files={"train.py": "x"})
    refused("bad_patch", edits=[])
    refused("bad_patch", files={})
    refused("too_large", diff="+" * (1024 * 1024 + 1))
    refused("too_large", edits=[{"search": "a", "replace": "b"}] * 1_001)


def test_editable_paths_are_exact_or_below_a_folder() -> None:
    editable = Editable(["train.py", "model/**"])
    assert all(path in editable for path in ("train.py", "model/a.py", "model/b/c.py"))
    others = [
        "train.py/x",
        "Train.py",
        "./train.py",
        "model",
        "model/",
        "models/a.py",
        "model/../train.py",
        "model/.GIT/x",
        "model/.gitattributes",
    ]
    unclear = ["model/git~1", "model/a\\b", "model/a:b", "model/ a", "model/a.", "model/" + "x" * 400, "model/\u202etxt.py"]
    assert [path for path in others + unclear if path in editable] == []
    assert (editable.only, Editable(["train.py"]).only) == (None, "train.py")


@pytest.mark.parametrize(
    ("patterns", "inside", "outside"),
    [
        (["*.py"], ["a.py", "a/b.py"], ["a.yaml", ".git/x.py", "lab.toml"]),
        (["src/*.py"], ["src/a.py"], ["src/x/a.py", "a.py"]),
        (["src/**/net?.py"], ["src/net1.py", "src/a/b/net2.py"], ["net1.py", "src/net.py"]),
        (["src/**", "!src/fixed.py", "!*.lock"], ["src/a.py"], ["src/fixed.py", "src/a.lock"]),
        (["conf/", "[a-c].py"], ["conf/x.yaml", "x/conf/y.yaml", "b.py"], ["conf", "d.py"]),
        (["*"], ["train.py"], ["lab.toml", ".mcp.json", ".claude/agents/x.md", ".autoresearch/x"]),
        (["train.py", "[z-a]"], ["train.py"], ["model/train.py", "z"]),
    ],
)
def test_patterns_mean_what_they_mean_in_gitignore(patterns: list[str], inside: list[str], outside: list[str]) -> None:
    editable = Editable(patterns)
    assert [path for path in [*inside, *outside] if path in editable] == inside


@pytest.mark.parametrize(
    "diff",
    [
        "\n" * 500_000 + "x",
        "@@\n" * 49_000,
        "--- \n+++ \n" * 24_000,
        "@@ -1 +1 @@\n" + "\n" * 49_000 + "+x",
        "@@ -9 +9 @@\n" + " x\n" * 49_000,
        "@@ -1,400000 +1 @@\n" + "-x\n" * 49_000,
        "@@ -5 +5 @@\n" + "-- \n" * 49_000,
        "@@ -5 +5 @@\n-x\n+y\n" * 16_000,
        "@@ -5 +5 @@\n-x\n-y\n+y\n" * 999,
    ],
)
def test_hostile_diffs_are_answered_in_time(diff: str) -> None:
    started = time.process_time()
    with contextlib.suppress(LabError):
        applied("x\n" * 250_000, diff=diff)
    assert time.process_time() - started < 3


def steps(lines: list[str], diff: str) -> int:
    """Place every hunk of a diff, and count the comparisons of lines that it took."""
    effort = Effort()
    file = FileLines("train.py", lines, effort)
    for hunk in parse(diff, Editable(["train.py"]))[0].hunks:
        file.place(hunk, "Hunk")
    return effort.steps


def test_hunks_with_wrong_numbers_cost_as_little_as_their_own_lines() -> None:
    lines = [f"value_{n} = {n}" if n % 2 else "    return x" for n in range(60_000)]  # 0.8 MB
    moved = "".join(f"@@ -1,2 +1,2 @@\n     return x\n-{lines[at]}\n+value = 0\n" for at in range(1, 2_000, 2))
    assert moved.count("@@ -") == 1_000
    assert steps(lines, moved) <= 2 * 1_000


def test_hunks_that_would_take_too_long_to_place_are_refused() -> None:
    chance = random.Random(7)
    lines = [chance.choice("ab") for _ in range(100_000)]  # each line is everywhere, and each run of 30 lines is in one place
    hunks = ["@@ -1 +1 @@\n" + "".join(f" {line}\n" for line in lines[at : at + 30]) + "+c\n" for at in range(0, 99_000, 99)]
    assert 0 < steps(lines, hunks[1]) < MAX_STEPS / 10
    assert "Correct the line numbers" in refused("too_large", "\n".join(lines), diff="".join(hunks))
    effort = Effort()
    with pytest.raises(LabError):
        for hunk in parse("".join(hunks), Editable(["train.py"]))[0].hunks:
            FileLines("train.py", lines, effort).place(hunk, "Hunk")
    assert effort.steps <= MAX_STEPS + 1, "the work is capped over all files of a patch"


def test_a_line_that_resembles_thousands_is_compared_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def count(_: None, text: str, line: str, autojunk: bool) -> difflib.SequenceMatcher[str]:
        compared.append(line)
        return difflib.SequenceMatcher(None, text, line, autojunk)

    monkeypatch.setattr("autoresearch_mcp.server.proposals.placement.SequenceMatcher", count)
    chance = random.Random(7)
    lines = ["".join(chance.choices("dewp th*", k=119)) + "." for _ in range(2_990)]
    lines[1_999] = "    return depth * width"
    text = refused("does_not_apply", "\n".join(lines), edits=[{"search": "return  depth*width", "replace": ""}])
    assert " 2000 |     return depth * width" in text and 0 < len(compared) <= 20

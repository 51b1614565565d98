"""What a campaign leaves behind for people: a report, and a branch."""

import contextlib
import re
import subprocess

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.page.report import report
from tests.server.mcp.conftest import FakeRunnerLab
from tests.server.page.hostile import STRINGS

Named = tuple[FakeRunnerLab, dict[str, str]]


def test_a_report_tells_the_champions_way_and_how_to_reproduce_it(page_lab: Named) -> None:
    with contextlib.closing(Lab(page_lab[0].root)) as lab:
        files, promotion = report(lab), lab.promotions()[0]
        later = report(lab, since=4e9)
    for text in files.values():
        assert "From 1.5000" in text and promotion.commit[:12] in text and "reproduce e-" in text
        assert re.search(r"DEPTH = 2\n.*DEPTH = 1", text) and "crashed" in text and re.search(r"width \d+, depth \d+\.", text)
    assert "https://" not in files["report.html"] and "<script" not in files["report.html"]
    assert promotion.commit[:12] not in later["report.md"].partition("## Promotions")[2] and "0 trainings ended" in later["report.md"]


def test_a_report_of_the_last_hours_starts_at_the_champion_of_then(page_lab: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Lab(page_lab[0].root)) as lab:
        promotion = lab.promotions()[0]
        adopted = promotion.model_copy(update={"commit": "f" * 40, "created_at": promotion.created_at - 100})  # and measured by nobody
        monkeypatch.setattr(lab, "promotions", lambda: [adopted, promotion])
        before, after = (report(lab, since=promotion.created_at + shift)["report.md"] for shift in (-1, 1))
    assert re.search(rf"From 1\.5000 [^(]*\(`{promotion.previous[:12]}`\) to ", before)
    assert re.search(rf"From 1\.4602 [^(]*\(`{promotion.commit[:12]}`\) to ", after)  # the mean of its measurements, as in the table


def test_hostile_text_is_text_in_a_report(page_lab: Named) -> None:
    from autoresearch_mcp.server.page.rendering import render_markdown

    for text in STRINGS:
        shown = render_markdown("report", {"lab_name": text, **dict.fromkeys(("since", "last", "noise"), None), **_EMPTY})
        assert "\n" not in shown.partition("# Report of ")[2].partition("\n\n")[0]
        assert not re.search(r"(?<!\\)[<`\[]", shown.partition("\n")[0])


_EMPTY = {
    "now": 1.0,
    "metric": "m",
    "promotions": [],
    "futile": [],
    "failures": [],
    "tags": [],
    "ended": 0,
    "seconds": 0.0,
    "expected": 0.0,
}
_EMPTY["budget"] = type("Budget", (), {"spent_s": 0.0, "total_s": 0.0, "usd": None})


def test_a_branch_has_a_commit_with_its_evidence_for_each_promotion(page_lab: Named) -> None:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(page_lab[0].root), *words], capture_output=True, text=True, check=True).stdout

    with contextlib.closing(Lab(page_lab[0].root)) as lab:
        commits, promotions = lab.publish("overnight"), lab.promotions()
        for name in ("overnight", "-x", "a..b", "", "a b"):
            with pytest.raises(LabError):
                lab.publish(name)
    assert len(commits) == len(promotions) and git("rev-parse", "overnight").strip() == commits[-1]
    assert git("log", "--format=%H", f"{promotions[0].previous}..overnight").split() == commits[::-1]
    assert git("diff", commits[0], promotions[0].commit) == ""
    message = git("log", "-1", "--format=%B", commits[0])
    assert "Evidence: Better" in message and promotions[0].commit in message and "reproduce e-" in message

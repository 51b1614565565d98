"""What a campaign leaves behind for people: a report, and a branch."""

import contextlib
import re
import subprocess
import time
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.progress import headline
from autoresearch_mcp.server.mcp.front import Guests
from autoresearch_mcp.server.mcp.http import LOOPBACK, security_of
from autoresearch_mcp.server.page import report as report_of
from autoresearch_mcp.server.page.door import PageDoor
from autoresearch_mcp.server.page.report import report
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.page.conftest import finish
from tests.server.page.hostile import STRINGS

Named = tuple[FakeRunnerLab, dict[str, str]]


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout


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


def test_a_champion_that_replaced_another_and_one_that_was_taken_back_are_named_everywhere(tmp_path: Path) -> None:
    def edits(depth: int) -> list[dict[str, str]]:
        return [{"path": "train.py", "search": "DEPTH = 2", "replace": f"DEPTH = {depth}"}]

    levels = [0.0, 0.001, -0.001, 0.0005, -0.0005, 0.002, -0.002, 0.0001]
    for fake in make_runner_lab(tmp_path / "lab"):
        with contextlib.closing(Lab(fake.root)) as lab:
            now = time.time() - 9_000
            finish(fake, lab.launch_training("champion", "ada", 8).experiments, [1.5 + each for each in levels], now, by_lab=True)
            first, other = (
                lab.propose_patch(f"{name}.", "ada", edits=edits(n)).commit for n, name in ((1, "One layer"), (3, "Three layers"))
            )
            worse = lab.propose_patch("Four layers.", "ada", edits=edits(4)).commit
            finish(fake, lab.launch_training(worse, "ada", 3).experiments, [1.54 + each for each in levels[:3]], now + 500)
            assert lab.promote_commit(worse, "boss").verdict.code == "futile"
            runs = lab.launch_training(other, "ada", 6).experiments
            won = lab.launch_training(first, "ada", 3).experiments
            finish(fake, won, [1.46 + each for each in levels[:3]], now + 1_000)
            finish(fake, runs, [1.4 + each for each in levels[:6]], now + 2_000)
            assert lab.promote_commit(first, "boss").promoted
            finish(
                fake, lab.launch_training("champion", "ada", 8).experiments, [1.46 + each for each in levels], time.time() + 10, by_lab=True
            )
            finish(fake, lab.launch_training(other, "ada", 3).experiments, [1.4 + each for each in levels[:3]], time.time() + 500)
            answer = lab.promote_commit(other, "boss", confirm=True)
            assert answer.promoted and answer.champion != other, answer.note  # its code, on the champion of then
            replaced = _shown(lab, "/", "/promotions", "/proposals", f"/commit/{answer.champion}", f"/commit/{worse}")
            files = report(lab)
            lab.demote("owner", "It leaks.")
            taken_back = _shown(lab, "/", "/promotions", "/proposals")
            moves = headline(lab.overview().progress)
            demoted = report(lab)["report.md"]
            (one, three, back) = (git(fake.root, "log", "-1", "--format=%an%n%B", commit) for commit in lab.publish("out"))
    assert "Three layers" in replaced["/"].partition('id="leaders-head"')[2] and "a commit of the owner's" not in "".join(replaced.values())
    assert re.search(r"<h2[^>]*>Three layers", replaced["/promotions"])
    assert re.search(r'Three layers</strong>\s*<span class="state finished">champion', replaced["/proposals"])
    assert "Three layers</h1>" in replaced[f"/commit/{answer.champion}"] and f"/commit/{other}" in replaced[f"/commit/{answer.champion}"]
    assert f"reproduce {runs[0]}" in files["report.html"] and "### Three layers" in files["report.md"]
    assert "Four layers" in files["report.md"].partition("## What didn't work")[2]  # the champions of then are gone, the verdict isn't
    assert f'<td class="n"><code>{worse[:12]}' in files["report.html"]  # a column that isn't cut into pieces
    assert re.search(r'Four layers</strong>\s*<span class="state">futile', replaced["/proposals"])
    assert "The gate says: futile" in replaced[f"/commit/{worse}"] and "champion of then" in replaced[f"/commit/{worse}"]
    assert re.search(r"<h2[^>]*>Taken back: Three layers", taken_back["/promotions"]) and taken_back["/promotions"].count("<dt>Gain") == 2
    assert "taken back by the lab&#39;s owner" in taken_back["/"].partition('id="leaders-head"')[2]
    assert "2 promotions" in moves  # and not the owner's move back
    assert re.search(r'Three layers</strong>\s*<span class="state finished">taken back', taken_back["/proposals"])
    assert "### Taken back: Three layers" in demoted and "It leaks." in demoted
    assert one.startswith("ada\nOne layer") and three.startswith("ada\nThree layers") and f"reproduce {runs[0]}" in three
    assert f"\nIts experiments: {', '.join(won)}\n" in one  # what the gate saw, and none that came later
    assert back.startswith("owner\nTake back: Three layers") and "\nThe reason: It leaks.\n" in back and "boss" in one


@pytest.mark.parametrize("goal", ["min", "max"])
def test_a_reports_chart_has_every_champion_inside_and_the_worst_at_its_edge(goal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = 1.0 if goal == "min" else -1.0
    values = [sign * (1.0 + n / 1_000) for n in range(40)] + [sign * 99.0]
    champions = [{"start": 1, "level": sign * 2.0}, {"start": 40, "level": sign}]
    data = {"goal": goal, "total": 41, "points": {"tried": [[*range(1, 42)], values]}, "champions": champions}
    monkeypatch.setattr(report_of, "progress_data", lambda *_: data)
    chart = report_of._chart(None)  # type: ignore[arg-type]
    monkeypatch.setattr(report_of, "progress_data", lambda *_: data | {"champions": []})
    assert report_of._chart(None)["line"] == ""  # type: ignore[arg-type]
    assert {chart["low"], chart["high"]} == {sign, sign * 2.0}
    heights = [y for _, y, _ in chart["points"]]
    assert heights[-1] == (30 if goal == "min" else 280) and len({*heights}) == 41  # the worst lies where the first champion does
    assert chart["line"].startswith(f"M{50 + 830 / 41:.1f} {heights[-1]}")


def _shown(lab: Lab, *paths: str) -> dict[str, str]:
    door = PageDoor(lab, Guests(lab, ""), security_of(LOOPBACK), PlainTextResponse(""))
    browser = TestClient(door, f"http://{LOOPBACK}", headers={"Prefer": "wait"})
    return {path: browser.get(path).text for path in paths}


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
    root = page_lab[0].root
    with contextlib.closing(Lab(page_lab[0].root)) as lab:
        commits, promotions = lab.publish("overnight"), lab.promotions()
        for name in ("overnight", "-x", "a..b", "", "a b"):
            with pytest.raises(LabError):
                lab.publish(name)
    assert len(commits) == len(promotions) and git(root, "rev-parse", "overnight").strip() == commits[-1]
    assert git(root, "log", "--format=%H", f"{promotions[0].previous}..overnight").split() == commits[::-1]
    assert git(root, "diff", commits[0], promotions[0].commit) == ""
    message = git(root, "log", "-1", "--format=%B", commits[0])
    assert "\nThe evidence: Better" in message and promotions[0].commit in message and "reproduce e-" in message

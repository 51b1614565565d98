"""The campaign that is kept in memory and extended is the one that a fresh reader sees, whatever happened in between."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.lab import campaigns
from autoresearch_mcp.server.lab.campaigns import Overview
from autoresearch_mcp.server.lab.lab import Lab
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.measured import MeasuredLab

CONDITIONS = "k"


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path_factory.mktemp("labs") / "lab")


@pytest.fixture(scope="module")
def lab(fake: FakeRunnerLab) -> Iterator[Lab]:
    with contextlib.closing(Lab(fake.root)) as lab:
        yield lab


def propose(lab: Lab, width: int, base: str | None = None, tags: list[str] | None = None) -> str:
    edits = [{"path": "train.py", "search": "WIDTH = 64" if base is None else "DEPTH = 2", "replace": f"WIDTH = {width}"}]
    return lab.propose_patch(f"Width {width} learns more", f"agent-{width % 3}", base=base, edits=edits, tags=tags or ["width"]).commit


def end(fake: FakeRunnerLab, ids: list[str], level: float, at: float, conditions: str = CONDITIONS, by_lab: bool = False) -> None:
    for n, id in enumerate(ids):
        fake.ledger.keep_evidence(id, "landlock-7+seccomp", level + n / 1000, None)
        values = {"val_bpb": level + n / 1000, "conditions": conditions, "started_at": at - 50 + n, "finished_at": at + n, "by_lab": by_lab}
        fake.move(id, "finished", **values)


def fresh(root: Path) -> Overview:
    with contextlib.closing(Lab(root)) as lab:
        return lab.overview()


def same(lab: Lab) -> Overview:
    kept, read = lab.overview(), fresh(lab.root)
    assert kept.progress == read.progress
    assert [each.id for each in kept.ended] == [each.id for each in read.ended]
    assert dict(kept.proposals) == dict(read.proposals)
    return kept


def test_a_campaign_is_extended_by_what_ends_in_order_out_of_order_and_apart(lab: Lab, fake: FakeRunnerLab) -> None:
    assert same(lab).progress.total == 0
    end(fake, lab.launch_training("champion", "lab", 8).experiments, 1.5, 1000, by_lab=True)
    first = same(lab)
    commits = [propose(lab, width) for width in range(65, 71)]
    for n, commit in enumerate(commits):
        end(fake, lab.launch_training(commit, "ada", 3).experiments, 1.51 - n / 100, 2000 + 100 * n)
        assert same(lab).progress.total == 8 + 3 * (n + 1)
    assert first.progress.total == 8 and len(first.proposals) == 0  # what was read stays as it was
    end(fake, lab.launch_training(commits[0], "ada", 1).experiments, 1.52, 2050)  # ended before others that were recorded before it
    assert [number for number, _, commit in same(lab).progress.verified if commit == commits[0]] == [9, 10, 11, 12]
    (crashed,) = lab.launch_training(commits[1], "ada", 1).experiments
    fake.move(crashed, "crashed", finished_at=3000.0, started_at=2990.0)
    assert same(lab).progress.failed == [28]
    lab.withdraw(commits[2], "agent-1", "a mistake")
    assert same(lab).progress.total == 25
    assert lab.promote_commit(commits[-1], "ada").promoted
    assert [champion.commit for champion in same(lab).progress.champions][-1] == lab.champion()
    end(
        fake, lab.launch_training("champion", "lab", 8).experiments, 1.46, 4e9, "other hardware", by_lab=True
    )  # all before is elsewhere now
    assert same(lab).progress.elsewhere and same(lab).progress.total == 33


def test_what_proposals_say_is_told_without_parsing_them_all(lab: Lab) -> None:
    base = lab.champion()
    child = propose(lab, 80, base, ["depth", 'odd "größe"'])
    overview = lab.overview()
    assert lab.tags() == ["depth", 'odd "größe"', "width"]
    assert (
        overview.proposals.tagged('odd "größe"') == overview.proposals.tagged("depth") == {child}
        and overview.proposals.tagged("wid") == set()
    )
    assert [each.commit for each in lab.built_on(base, 5)] == [child]
    assert overview.authors == ["ada", "the lab"] and overview.devices == ["cpu"]
    shares = lab.agents()
    assert (shares["the lab"].ended, shares["ada"].ended, shares["ada"].device_s) == (16, 17, 17 * 50 - 40)
    assert sum(share.proposals for share in shares.values()) == len(overview.proposals) == 7
    assert shares["ada"].by_day == {"1970-01-01": shares["ada"].device_s}


def test_the_leaderboard_goes_on_where_the_status_ends(lab: Lab) -> None:
    status, every = lab.status().leaderboard, lab.leaderboard(25)
    assert every[: len(status)] == status and len(every) == len({row.commit for row in every})
    assert lab.leaderboard(2) == every[:2]


def test_a_commit_is_undecided_while_the_gate_asks_for_more_of_it(lab: Lab, fake: FakeRunnerLab) -> None:
    promising, worse = (propose(lab, width, lab.champion()) for width in (81, 82))
    for commit, n, level, code in ((promising, 1, 1.455, "continue"), (worse, 3, 1.5, "futile")):
        end(fake, lab.launch_training(commit, "ada", n).experiments, level, 4e9 + 100, "other hardware")
        assert lab.promote_commit(commit, "ada").verdict.code == code
    assert list(same(lab).progress.undecided) == [promising]


def test_where_much_ended_after_what_is_recorded_late_all_is_put_together_anew(
    lab: Lab, fake: FakeRunnerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = same(lab).progress
    monkeypatch.setattr(campaigns, "_LATE", 0)
    (late,) = lab.launch_training("champion", "ada", 1).experiments
    end(fake, [late], 1.52, 500)
    after = same(lab).progress
    assert after.total == before.total + 1


def test_what_the_owner_took_back_waits_for_nobodys_yes(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.champion(), [1.50, 1.501, 1.499, 1.5005, 1.4995, 1.502, 1.498, 1.5001])
    better = measured.propose("DEPTH = 2", "DEPTH = 3")
    measured.measure(better, [1.30, 1.301, 1.299, 1.29])
    toml = measured.root / "lab.toml"
    by_hand = toml.read_text("utf-8").replace('approval = "none"', 'approval = "human"')
    assert measured.lab.promote_commit(better, "ada").promoted
    measured.lab.demote("owner", "It was a mistake.")
    toml.write_text(by_hand, "utf-8")
    (leader,) = [each for each in measured.lab.leaderboard(5) if each.commit == better]
    assert leader.why == "taken back by the lab's owner" and measured.lab.awaiting_approval() == {}

"""The order of launches: candidates take turns, the champion's replicates are spread among them, and no slot waits without need."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from autoresearch_mcp.server.runner.order import OPEN, Launch, Waiting, next_launch, open_limit, spacing

CHAMPION = "champion"


class Campaign:
    """Slots that run what the order chooses. Each candidate takes its replicates one at a time."""

    def __init__(self, ideas: int, replicates: int, slots: int, seed: int = 0, authors: int = 1) -> None:
        self.dice = random.Random(seed)
        self.left = {f"c{n}": replicates for n in range(ideas)}
        self.author = {f"c{n}": f"a{n % authors}" for n in range(ideas)}
        self.slots = slots
        self.queue = [*self.left]
        self.open: list[str] = []
        self.running: list[Launch] = []
        self.history: list[Launch] = []
        self.idle = 0  # times that a slot had nothing to do while there was work

    @property
    def m(self) -> int:
        return sum(launch.by_lab for launch in self.history)

    def fill(self) -> None:
        while len(self.running) < self.slots:
            queue = [Waiting(commit, self.author[commit], commit) for commit in self.queue]
            choice = next_launch(self.history[-64:], self.running, self.open, queue, CHAMPION, self.m, self.slots)
            if choice is None:
                self.idle += bool(self.queue)
                return
            beside = tuple(launch.author for launch in self.running)
            if choice == "champion":
                launch = Launch(CHAMPION, "lab", True, beside)
            else:
                launch = Launch(choice.commit, choice.author, False, beside)
                self.queue.remove(choice.commit)
                if choice.commit not in self.open:
                    self.open.append(choice.commit)
            self.running.append(launch)
            self.history.append(launch)

    def end_one(self) -> None:
        launch = self.running.pop(self.dice.randrange(len(self.running)))
        if launch.by_lab:
            return
        self.left[launch.commit] -= 1
        if self.left[launch.commit]:
            self.queue.append(launch.commit)
        else:
            self.open.remove(launch.commit)

    def run(self) -> None:
        self.fill()
        while self.running:
            self.end_one()
            self.fill()


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 12])
def test_a_campaign_ends_and_trains_everything_once(slots: int) -> None:
    campaign = Campaign(ideas=40, replicates=5, slots=slots, seed=slots)
    campaign.run()
    trained = Counter(launch.commit for launch in campaign.history if not launch.by_lab)
    assert trained == {f"c{n}": 5 for n in range(40)}
    assert campaign.idle == 0


@pytest.mark.parametrize("slots", [1, 2, 4, 8])
def test_no_commit_starts_twice_in_a_row_while_there_is_other_work(slots: int) -> None:
    campaign = Campaign(ideas=40, replicates=5, slots=slots)
    campaign.run()
    commits = [launch.commit for launch in campaign.history]
    assert all(one != next_ for one, next_ in pairwise(commits))


def test_the_champion_is_trained_at_every_2nd_then_4th_then_9th_launch() -> None:
    campaign = Campaign(ideas=60, replicates=4, slots=4)
    campaign.run()
    at = [number for number, launch in enumerate(campaign.history) if launch.by_lab]
    gaps = [after - before for before, after in pairwise(at) if after < 200]  # at the end other work runs out
    assert at[0] == 1
    assert gaps[:7] == [2] * 7 and gaps[7:15] == [4] * 8
    assert set(gaps[15:]) == {9}
    assert [spacing(m) for m in (0, 7, 8, 15, 16, 500)] == [2, 2, 4, 4, 9, 9]


def test_at_most_eight_candidates_take_turns() -> None:
    campaign = Campaign(ideas=30, replicates=6, slots=4)
    campaign.fill()
    while campaign.running:
        assert len(campaign.open) <= OPEN
        campaign.end_one()
        campaign.fill()
    assert open_limit(4) == OPEN and open_limit(20) == 20


def test_candidates_take_turns() -> None:
    campaign = Campaign(ideas=8, replicates=6, slots=1)
    campaign.run()
    first = [launch.commit for launch in campaign.history if not launch.by_lab][:24]
    assert first == [f"c{n}" for n in range(8)] * 3


def test_one_agent_with_two_hundred_queued_does_not_delay_another_with_one() -> None:
    many, history, open_ = [Waiting(f"a{n}", "ada", f"a{n}") for n in range(200)], list[Launch](), list[str]()
    for _ in range(OPEN):  # as many of hers as take turns, each with more to come
        choice = next_launch(history, [], open_, many, CHAMPION, None)
        assert isinstance(choice, Waiting)
        history.append(Launch(choice.commit, choice.author))
        open_.append(choice.commit)
    bobs = Waiting("b0", "bob", "b0")
    assert next_launch(history, [], open_, [*many, bobs], CHAMPION, None) == bobs
    history.append(Launch("b0", "bob"))
    turn = next_launch(history, [], [*open_, "b0"], [*many, bobs], CHAMPION, None)
    assert isinstance(turn, Waiting) and turn.commit in open_, "then it is her turn again, and her ninth waits"


def test_of_one_author_what_a_verdict_needs_comes_before_new_single_trainings() -> None:
    history = [Launch("c0", "ada"), Launch("c1", "ada")]
    new, needed = Waiting("c2", "ada", "e2", single=True), Waiting("c0", "ada", "e0")
    assert next_launch(history, [], ["c0"], [new, needed], CHAMPION, None) == needed
    several = Waiting("c3", "ada", "e3")
    assert next_launch(history, [], ["c0"], [new, needed, several], CHAMPION, None) == several, "it takes turns with c0"
    bobs = Waiting("c4", "bob", "e4", single=True)
    assert next_launch(history, [], ["c0"], [new, needed, bobs], CHAMPION, None) == bobs


def test_one_candidate_alone_alternates_with_the_champion() -> None:
    campaign = Campaign(ideas=1, replicates=20, slots=1)
    campaign.run()
    assert [launch.commit for launch in campaign.history] == ["c0", CHAMPION] * 19 + ["c0"]


def test_the_champion_is_not_trained_when_nothing_is_compared_with_it() -> None:
    only_champion = [Waiting(CHAMPION, "ada", "e1")]
    history = [Launch("c0"), Launch(CHAMPION, "ada")]
    assert next_launch(history, [], [], only_champion, CHAMPION, 0) == only_champion[0]
    assert next_launch(history, [], [], [], CHAMPION, 0) is None


def test_what_clients_launch_of_the_champion_does_not_delay_the_lab_own_replicates() -> None:
    history = [Launch("c0"), *[Launch(CHAMPION, "eve")] * 20]
    queue = [Waiting(CHAMPION, "eve", "e1"), Waiting("c0", "ada", "e2")]
    assert next_launch(history, [], ["c0"], queue, CHAMPION, 0) == queue[1]
    assert next_launch([*history, Launch("c0", "ada")], [], ["c0"], queue, CHAMPION, 0) == "champion"
    assert next_launch(history, [], ["c0"], queue[:1], CHAMPION, 0) == "champion"


def test_a_candidate_that_waits_for_the_champion_gets_it() -> None:
    history = [Launch("c0"), Launch(CHAMPION, "lab", True)]
    assert next_launch(history, [], ["c0"], [], CHAMPION, 3) == "champion"
    assert next_launch(history, [history[1]], ["c0"], [], CHAMPION, 3) is None


def test_without_replicates_of_the_champion_the_work_goes_on() -> None:
    history = [Launch("c0")]
    assert next_launch(history, [], ["c0"], [Waiting("c0", "ada", "e1")], CHAMPION, None) == Waiting("c0", "ada", "e1")


def test_a_new_champion_is_measured_at_once() -> None:
    history = [Launch("old", "lab", True), Launch("c0"), Launch("c1")]
    assert next_launch(history, [], ["c1"], [Waiting("c1")], "c0", 0) == "champion"


def test_on_two_slots_the_champion_changes_its_neighbour() -> None:
    """One author's runs could slow the champion down, if they were always those beside it."""
    eve, ada = Launch("c0", "eve"), Waiting("c1", "ada", "e1")
    before = [Launch("c0", "eve"), Launch(CHAMPION, "lab", True, ("eve",)), eve]
    assert next_launch(before, [eve], ["c0"], [ada], CHAMPION, 3, slots=2) == ada
    assert next_launch(before, [eve], ["c0"], [], CHAMPION, 3, slots=2) == "champion"
    alone = [*before, Launch(CHAMPION, "lab", True, ("eve",))]
    queue = [Waiting("c2", "eve", "e2"), ada]
    assert next_launch(alone, [alone[-1]], ["c0"], queue, CHAMPION, 3, slots=2) == ada


@pytest.mark.parametrize("seed", range(5))
def test_on_two_slots_every_author_is_the_champion_neighbour_in_turn(seed: int) -> None:
    campaign = Campaign(ideas=60, replicates=4, slots=2, seed=seed, authors=3)
    campaign.run()
    assert campaign.idle == 0
    beside = [launch.beside[0] for launch in campaign.history if launch.by_lab and launch.beside]
    assert all(count < 0.6 * len(beside) for count in Counter(beside).values())

"""Alerts by webhook, to a real server on this machine: what is told, once, in which form, and what happens while it is away."""

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.alerts_beside import alerts_beside
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.http import LOOPBACK
from autoresearch_mcp.server.models import Promotion, new_id
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.health import HealthFile
from autoresearch_mcp.server.settings.alerts import Webhook
from autoresearch_mcp.server.settings.live import SettingsFile
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.standins.web import Answer, Request, served
from tests.waiting import until

SECRET = "whisper-1234"


class Hook:
    """A webhook's receiver."""

    def __init__(self) -> None:
        self.heard: list[Request] = []
        self.status = 204
        self.url = ""

    def answer(self, request: Request) -> Answer:
        self.heard.append(request)
        return Answer(self.status, location="/elsewhere")


@pytest.fixture
def hook() -> Iterator[Hook]:
    receiver = Hook()
    with served(receiver.answer) as address:
        receiver.url = f"{address}/{SECRET}"
        yield receiver


@pytest.fixture
def runner_lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab")


def configure(lab: FakeRunnerLab, *webhooks: str) -> None:
    path = LabPaths(lab.root).settings
    text = path.read_text(encoding="utf-8").partition("\n[[alerts")[0]
    path.write_text("".join([text, *(f"\n[[alerts.webhooks]]\n{each}\n" for each in webhooks)]), encoding="utf-8")


def promoted(lab: FakeRunnerLab, lab_opened: Lab) -> Promotion:
    champion = lab_opened.champion()
    promotion = Promotion(
        id=new_id("p"),
        commit=champion,
        previous=champion,
        author="<!channel> ada",
        approved_by="policy",
        verdict={},
        created_at=time.time(),
    )
    lab.ledger.intend_promotion(promotion)
    lab.ledger.confirm_promotion(promotion)
    return promotion


def test_each_event_is_told_once_in_the_form_that_the_place_takes(
    runner_lab: FakeRunnerLab, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_HOOK", hook.url)
    monkeypatch.setenv("LAB_SECRET", SECRET)
    configure(
        runner_lab,
        'url = "$LAB_HOOK"\nsecret = "$LAB_SECRET"',
        f'url = "{hook.url}/slack"\nform = "slack"',
        f'url = "{hook.url}/discord"\nform = "discord"\non = ["promotion"]',
        f'url = "{hook.url}/never"\non = ["stalled"]',
        'url = "$NOT_SET"',
    )
    with contextlib.closing(Lab(runner_lab.root)) as lab, contextlib.closing(Lab(runner_lab.root)) as other:
        promoted(runner_lab, lab)  # before the lab began to look: no news
        lab.alerting.tick()
        assert hook.heard == []
        promotion = promoted(runner_lab, lab)
        for each in (lab, other, lab):
            each.alerting.tick()
        by_path = {path.removeprefix(f"/{SECRET}"): (headers, json.loads(body), body) for path, headers, body in hook.heard}
        assert len(hook.heard) == 3 and {*by_path} == {"", "/slack", "/discord"}
        headers, plain, raw = by_path[""]
        assert plain["type"] == "promotion" and promotion.commit[:12] in plain["text"] and plain["id"] == headers["webhook-id"]
        signed = f"{plain['id']}.{headers['webhook-timestamp']}.".encode() + raw
        expected = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert "&lt;!channel&gt; ada" in by_path["/slack"][1]["text"]
        assert by_path["/discord"][1]["allowed_mentions"] == {"parse": []}
        assert SECRET.encode() not in b"".join(path.read_bytes() for path in runner_lab.state.glob("ledger.sqlite*"))


def test_a_secret_of_standard_webhooks_signs_as_their_libraries_check(
    runner_lab: FakeRunnerLab, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_SECRET", f"whsec_{base64.b64encode(b'key of 24 random bytes..').decode()}")
    configure(runner_lab, f'url = "{hook.url.replace("//", "//lab:p%40ss@")}"\nsecret = "$LAB_SECRET"')
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        lab.alerting.approval_wanted("c" * 40, "a" * 40, "ada", "Better.")
        lab.alerting.tick()
    ((_, headers, body),) = hook.heard
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(b"key of 24 random bytes..", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert base64.b64decode(headers["authorization"].removeprefix("Basic ")) == b"lab:p@ss"  # as the address has them


def test_an_answer_that_comes_by_drops_holds_nothing_up(
    runner_lab: FakeRunnerLab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.lab.alerting._TIMEOUT_S", 0.3)

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 ")
            while not gone.wait(0.02):
                connection.sendall(b"x")

    gone = threading.Event()
    with socket.create_server((LOOPBACK, 0)) as listening:
        threading.Thread(target=drip, args=[listening], daemon=True).start()
        configure(runner_lab, f'url = "http://{LOOPBACK}:{listening.getsockname()[1]}"')
        with contextlib.closing(Lab(runner_lab.root)) as lab:
            for commit in ("c" * 40, "d" * 40):
                lab.alerting.approval_wanted(commit, "a" * 40, "ada", "Better.")
            lab.alerting.tick()
            assert lab.alerting.places()[0].waiting == 2
        gone.set()
    assert caplog.text.count("can't be sent: no answer within 0 s") == 1  # and the other one isn't tried at once


def test_an_approval_is_asked_for_once_a_candidate(runner_lab: FakeRunnerLab, hook: Hook) -> None:
    configure(runner_lab, f'url = "{hook.url}"')
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        for _ in range(2):
            lab.alerting.approval_wanted("c" * 40, "a" * 40, "ada", "Better by 0.01.")
            lab.alerting.tick()
    ((_, _, body),) = hook.heard
    assert "autoresearch-mcp approve cccccccccccc" in json.loads(body)["text"]


def test_budget_and_its_end_are_told(runner_lab: FakeRunnerLab, hook: Hook) -> None:
    configure(runner_lab, f'url = "{hook.url}"')
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        (id,) = lab.launch_training("champion", "ada").experiments
        total = lab.status().budget.total_s
        runner_lab.move(id, "crashed", finished_at=2.0, started_at=1.0, cost_s=0.85 * total)
        lab.alerting.tick()
        assert [json.loads(body)["text"].split()[0] for *_, body in hook.heard] == ["85%"]
        (id,) = lab.launch_training("champion", "ada").experiments
        runner_lab.move(id, "crashed", finished_at=2.0, started_at=1.0, cost_s=0.15 * total)
        lab.alerting.tick()
    assert [json.loads(body)["type"] for *_, body in hook.heard] == ["budget", "budget", "ended"]


@pytest.mark.parametrize("status", [500, 302])
def test_what_does_not_arrive_is_tried_again_and_no_secret_is_shown(
    runner_lab: FakeRunnerLab, hook: Hook, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configure(runner_lab, f'url = "{hook.url}"')
    hook.status, clock, real = status, [0.0], time.time
    monkeypatch.setattr("time.time", lambda: real() + clock[0])
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        lab.alerting.approval_wanted("c" * 40, "a" * 40, "ada", "Better.")
        for later, tries in ((0, 1), (1, 1), (6, 2), (10, 2), (17, 3)):  # after 5 s, then 10 s
            clock[0] = later
            lab.alerting.tick()
            assert len(hook.heard) == tries
        hook.status, clock[0] = 200, 60
        lab.alerting.tick()
        lab.alerting.tick()
        assert len(hook.heard) == 4 and {path for path, *_ in hook.heard} == {f"/{SECRET}"}
        hook.status = 500
        lab.alerting.approval_wanted("d" * 40, "a" * 40, "ada", "Better.")
        lab.alerting.tick()
        clock[0] = 100_000
        lab.alerting.tick()
        lab.alerting.tick()
        assert len(hook.heard) == 6  # given up after a day
    assert SECRET not in caplog.text and f"{status}" in caplog.text


def test_without_webhooks_nothing_is_kept(runner_lab: FakeRunnerLab) -> None:
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        lab.alerting.approval_wanted("c" * 40, "a" * 40, "ada", "Better.")
        lab.alerting.tick()
    assert (
        not runner_lab.ledger.has_alert(f"approval {'a' * 40} {'c' * 40}")
        and runner_lab.ledger.take_deliveries(1, 9, [], time.time()) == []
    )


def test_only_a_server_that_knows_the_address_and_the_secret_sends(
    runner_lab: FakeRunnerLab, hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configure(runner_lab, 'url = "$LAB_HOOK"\nsecret = "$LAB_SECRET"')
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        lab.alerting.approval_wanted("c" * 40, "a" * 40, "ada", "Better.")
        for address, secret in (("", "s"), (hook.url, ""), ("http://hooks.example/x", "s"), ("https://[", "s")):
            monkeypatch.setenv("LAB_HOOK", address)
            monkeypatch.setenv("LAB_SECRET", secret)
            lab.alerting.tick()
        assert hook.heard == []
        monkeypatch.setenv("LAB_HOOK", hook.url)
        lab.alerting.tick()
        assert [headers["webhook-signature"][:3] for _, headers, _ in hook.heard] == ["v1,"]
        lab.alerting.approval_wanted("d" * 40, "a" * 40, "ada", "Better.")
        monkeypatch.delenv("LAB_HOOK")
        real = time.time
        for days in (0.9, 1.1):
            monkeypatch.setattr("time.time", lambda days=days: real() + days * 86_400)
            lab.alerting.tick()
            assert ("its webhook" in caplog.text) == (days > 1)
        monkeypatch.setenv("LAB_HOOK", hook.url)
        lab.alerting.tick()
    assert len(hook.heard) == 1


def test_trouble_and_a_search_that_is_stuck_are_told_once(runner_lab: FakeRunnerLab, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(runner_lab, f'url = "{hook.url}"')
    clock, real = [0.0], time.time
    monkeypatch.setattr("time.time", lambda: real() + clock[0])
    health = HealthFile(runner_lab.state)
    with contextlib.closing(Lab(runner_lab.root)) as lab:

        def told() -> list[str]:
            hook.heard.clear()
            lab.write_memory("finding", f"Something new at {clock[0]:.0f}.", "ada")  # the ledger changes, so the lab is looked at
            lab.alerting.tick()
            return sorted(json.loads(body)["text"] for *_, body in hook.heard)

        assert told() == []
        health.round_failed("the disk is full")
        assert [text.split(",")[0] for text in told()] == ["The runner has failed 1 rounds in a row"]
        health.round_failed("the disk is full")
        assert told() == []
        clock[0] = 400
        assert [text.split()[0] for text in told()] == ["Records"]
        oldest, *_ = runner_lab.ledger.outbox("memories")
        runner_lab.ledger.settle("memories", {oldest.id: oldest.version})  # one got into the log, and the next still waits
        assert told() == []
        monkeypatch.setattr("autoresearch_mcp.server.lab.search_state.PATIENCE", 0)
        assert [text.split(":")[0] for text in told()] == ["The search is stalled"]
        assert told() == []


def test_a_thread_sends_beside_the_lab(runner_lab: FakeRunnerLab, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.lab.alerting.TICK_S", 0.02)
    configure(runner_lab, f'url = "{hook.url}"')
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        lab.alerting.start()
        lab.alerting.approval_wanted("c" * 40, "a" * 40, "ada", "Better.")
        until(lambda: hook.heard, 20)
    assert len(hook.heard) == 1


def test_the_runner_sends_while_no_server_is_up(runner_lab: FakeRunnerLab, hook: Hook) -> None:
    configure(runner_lab, f'url = "{hook.url}"')
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        lab.alerting.approval_wanted("c" * 40, "a" * 40, "ada", "Better.")
        with alerts_beside(runner_lab.root, look_s=0.02):
            until(lambda: hook.heard, 20)
        assert len(hook.heard) == 1
        lab.alerting.approval_wanted("d" * 40, "a" * 40, "ada", "Better.")
    assert cli.main(["runner", str(runner_lab.root)]) == 0  # another is at work, so it leaves at once
    assert len(hook.heard) == 2


def test_the_runner_of_a_lab_without_webhooks_opens_nothing(runner_lab: FakeRunnerLab, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[Path]()
    monkeypatch.setattr(Lab, "__init__", lambda _, root: opened.append(root))
    with alerts_beside(runner_lab.root):
        pass  # it looks once at its end
    assert opened == []


def test_a_person_sees_where_alerts_go_and_tries_it(
    runner_lab: FakeRunnerLab, hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*options: str) -> tuple[int, list[str]]:
        status = cli.main(["alerts", *options, str(runner_lab.root)])
        return status, capsys.readouterr().out.splitlines()

    assert shown("--test") == (0, ["lab.toml names no webhooks: see docs/alerts.md. No alert is sent."])
    configure(runner_lab, f'url = "{hook.url}"\non = ["budget"]', 'url = "$LAB_HOOK"\nform = "slack"\nsecret = "$LAB_SECRET"')
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        lab.alerting.approval_wanted("c" * 40, "a" * 40, "ada", "Better.")
    status, lines = shown()
    assert status == 0 and hook.heard == [] and SECRET not in "".join(lines)
    assert lines[0] == "1. json, the address in lab.toml, on budget: can be sent to from here"
    assert "the address in $LAB_HOOK" in lines[1] and "1 waiting: can't be sent to from here: $LAB_HOOK" in lines[1]
    status, lines = shown("--test")
    assert status == 1 and lines[0].endswith("the test arrived") and json.loads(hook.heard[0].body)["type"] == "test"
    monkeypatch.setenv("LAB_HOOK", hook.url)
    assert shown("--test")[1][1].endswith("$LAB_SECRET is missing")
    monkeypatch.setenv("LAB_SECRET", SECRET)
    assert shown("--test")[0] == 0 and len(hook.heard) == 4
    hook.status = 404
    status, lines = shown("--test")
    assert status == 1 and lines[1].endswith("the test failed: the answer's status was 404")


@pytest.mark.parametrize(
    "wrong", [f'url = "http://a.example/{SECRET}"', f'url = "https://a.example/{SECRET}"\nform = "{SECRET}"', f'url = ["{SECRET}"]']
)
def test_a_mistake_is_told_without_the_address(runner_lab: FakeRunnerLab, wrong: str) -> None:
    configure(runner_lab, wrong)
    with pytest.raises(LabError, match=r"\[alerts\] webhooks") as refusal:
        SettingsFile(runner_lab.root)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("secret", ["whsec_\u00fc", "whsec_not base64", "a plain text"])
def test_a_secret_that_is_no_base64_signs_as_the_text_that_it_is(secret: str) -> None:
    assert Webhook(url="https://ops.example/hook", secret=secret).key == secret.encode()

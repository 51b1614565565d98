"""The door and its pulse without a socket: what is rendered anew, and which event reaches an open page."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import httpx2
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.front import Guests
from autoresearch_mcp.server.mcp.http import LOOPBACK, security_of
from autoresearch_mcp.server.page import events, views
from autoresearch_mcp.server.page.door import PageDoor
from autoresearch_mcp.server.page.events import Pulse
from tests.server.mcp.conftest import FakeRunnerLab
from tests.server.page.conftest import TOKEN

Named = tuple[FakeRunnerLab, dict[str, str]]


@pytest.fixture
def lab(page_lab: Named) -> Iterator[Lab]:
    with contextlib.closing(Lab(page_lab[0].root)) as lab:
        yield lab


def test_a_view_of_a_quiet_lab_tells_the_time_of_now(lab: Lab, page_lab: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = TestClient(PageDoor(lab, Guests(lab, ""), security_of(LOOPBACK), PlainTextResponse("")), f"http://{LOOPBACK}")
    path = f"/commit/{page_lab[1]['commit']}"
    first, later = browser.get(path).text, time.time() + 7200
    monkeypatch.setattr("time.time", lambda: later)
    assert " s ago" in first or " min ago" in first
    assert "2.0 h ago" in browser.get(path).text


def test_a_view_is_rendered_anew_where_nobody_can_tell_whether_the_lab_changed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = TestClient(PageDoor(lab, Guests(lab, ""), security_of(LOOPBACK), PlainTextResponse("")), f"http://{LOOPBACK}")
    monkeypatch.setattr(lab, "stamp", lambda: None)
    browser.get("/promotions")
    monkeypatch.setattr(lab, "promotions", list)
    assert "None yet." in browser.get("/promotions").text


def test_a_visitor_who_asks_too_often_waits(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    slow = lab.settings.model_copy(update={"auth": lab.settings.auth.model_copy(update={"requests_per_minute": 60})})
    monkeypatch.setattr(Lab, "settings", slow)
    browser = TestClient(PageDoor(lab, Guests(lab, TOKEN), security_of(LOOPBACK), PlainTextResponse("")), f"http://{LOOPBACK}")
    browser.cookies["autoresearch_session_80"] = TOKEN
    assert {browser.get("/static/icon.svg").status_code for _ in range(10)} == {200}
    refused = browser.get("/promotions")
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1" and "more requests than 60 a minute" in refused.text
    browser.cookies.clear()
    assert browser.get("/static/icon.svg").status_code == 200


@pytest.mark.anyio
async def test_what_changes_while_an_event_is_sent_is_an_event_of_its_own() -> None:
    pulse = Pulse(lambda: 0, lambda: False)
    stream = pulse.stream()
    assert "data: 0" in await anext(stream)
    pulse.beat = 1
    assert "data: 1" in await anext(stream)
    pulse.beat = 2  # before the stream asks for more
    assert "data: 2" in await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_a_stream_ends_where_the_ledger_cannot_be_read_so_that_the_browser_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def changes() -> Any:
        raise OSError("gone")

    monkeypatch.setattr(events, "_BREATH_S", 0.01)
    with anyio.fail_after(10):
        first, *_ = [event async for event in Pulse(changes, lambda: False).stream()]
    assert first.endswith("data: 0\n\n")


@pytest.mark.anyio
async def test_who_need_not_wait_gets_an_outline_and_the_view_is_made_once_for_all_who_ask(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, go_on, campaign, now = [], threading.Event(), views.VIEWS["campaign"], time.time()
    monkeypatch.setattr("time.time", lambda: now)  # a view of another minute would be made anew, for its times

    def slow(asked: views.Asked) -> views.Context:
        made.append(asked)
        assert go_on.wait(20)
        return campaign(asked)

    monkeypatch.setitem(views.VIEWS, "campaign", slow)
    app = PageDoor(lab, Guests(lab, ""), security_of(LOOPBACK), PlainTextResponse(""))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=f"http://{LOOPBACK}") as browser:
        outline = await browser.get("/")
        assert outline.status_code == 200 and "data-pending" in outline.text
        whole: list[str] = []

        async def wait() -> None:
            whole.append((await browser.get("/", headers={"Prefer": "wait"})).text)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(wait)
                waiting.start_soon(wait)
                assert "data-pending" in (await browser.get("/")).text
                go_on.set()
            whole.append((await browser.get("/")).text)
    assert len(made) == 1 and whole[0] == whole[1] == whole[2] and "data-pending" not in whole[0]
    parts = re.findall(r'data-live="\w+"', whole[0])
    assert parts and re.findall(r'data-live="\w+"', outline.text) == parts  # what the page puts in their places


@pytest.mark.anyio
async def test_a_view_that_fails_after_its_visitor_left_is_asked_for_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, campaign = threading.Event(), views.VIEWS["campaign"]

    def failing(asked: views.Asked) -> views.Context:
        assert go_on.wait(20)
        raise LabError("The disk is full.", "disk_full")

    monkeypatch.setitem(views.VIEWS, "campaign", failing)
    app = PageDoor(lab, Guests(lab, ""), security_of(LOOPBACK), PlainTextResponse(""))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=f"http://{LOOPBACK}") as browser:
        assert "data-pending" in (await browser.get("/")).text
        go_on.set()
        refused = await browser.get("/", headers={"Prefer": "wait"})
        assert refused.status_code == 409 and "The disk is full." in refused.text
        monkeypatch.setitem(views.VIEWS, "campaign", campaign)
        assert (await browser.get("/", headers={"Prefer": "wait"})).status_code == 200

"""The page over a real socket: who sees what, what a form may do, and what a browser is told."""

import contextlib
import hashlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from autoresearch_mcp.server import page
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.front import Guests
from autoresearch_mcp.server.mcp.http import LOOPBACK, security_of
from autoresearch_mcp.server.page.door import PageDoor
from autoresearch_mcp.server.page.events import Pulse
from autoresearch_mcp.server.roles import Role
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.server.page.conftest import TOKEN

Named = tuple[FakeRunnerLab, dict[str, str]]
STATIC = Path(page.__file__).parent / "static"


NEEDED = {  # by route: its method, the role that it takes (None: anybody), and what it is asked with
    **dict.fromkeys(("/", "/proposals", "/memories", "/agents", "/promotions", "/health"), ("GET", Role.VIEWER)),
    **dict.fromkeys(("/experiment/{name}", "/commit/{name}", "/progress.json", "/curve/{name}.json", "/events"), ("GET", Role.VIEWER)),
    **dict.fromkeys(("/login", "/static/{path:path}"), ("GET", None)),
    "/logout": ("POST", None),
    "/cancel": ("POST", Role.ORCHESTRATOR),
    "/approve": ("POST", Role.OWNER),
    "/refuse": ("POST", Role.OWNER),
}


@pytest.fixture(scope="module")
def tokens(page_lab: Named) -> dict[str, str]:
    made = {role.value: page_lab[0].ledger.add_token(f"{role}-ann", role, None) for role in Role}
    return made | {"the environment's": TOKEN}


@pytest.fixture(scope="module")
def url(page_lab: Named, tokens: dict[str, str]) -> Iterator[str]:
    with served_over_http(page_lab[0].root, AUTORESEARCH_TOKEN=TOKEN) as server:
        yield server.url


class Answer:
    def __init__(self, response: HTTPResponse) -> None:
        self.status, self.text = response.status, response.read().decode()
        self.headers = {name.lower(): value for name, value in response.getheaders()}


def ask(url: str, path: str, token: str = "", form: dict[str, str] | None = None, **headers: str) -> Answer:
    where = urlsplit(url)
    given = {"Prefer": "wait"} | {name.replace("_", "-"): value for name, value in headers.items()}
    given |= {"Cookie": f"autoresearch_session_{where.port}={token}"} if token else {}
    given |= {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}
    with contextlib.closing(HTTPConnection(where.hostname or "", where.port, timeout=20)) as connection:
        connection.request("POST" if form is not None else "GET", path, urlencode(form or {}), given)
        with connection.getresponse() as response:
            return Answer(response)


def views(names: dict[str, str]) -> list[str]:
    lists = ["/", "/proposals", "/memories", "/agents", "/promotions", "/health"]
    return [*lists, f"/experiment/{names['running']}", f"/experiment/{names['failed']}", f"/commit/{names['winner']}"]


def mark(text: str) -> str:
    match = re.search(r'name="mark" value="([0-9a-f]{64})"', text)
    assert match is not None
    return match[1]


def test_every_role_sees_every_view_and_nobody_else_sees_any(url: str, page_lab: Named, tokens: dict[str, str]) -> None:
    names = page_lab[1]
    for view in views(names):
        assert (ask(url, view).status, ask(url, view, "wrong").headers["location"]) == (303, "/login")
        for role, token in tokens.items():
            assert ask(url, view, token).status == 200, (view, role)
    for data in ("/progress.json", f"/curve/{names['running']}.json", "/events"):
        assert ask(url, data).status == 401
    assert json.loads(ask(url, "/progress.json", tokens["viewer"]).text)["total"] > 10
    assert ask(url, "/experiment/e-1m8dd3qhgr0w99r", TOKEN).status == 404


@pytest.mark.parametrize("role", [*Role, None])
def test_every_route_with_every_role_and_none(
    page_lab: Named, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch, role: Role | None
) -> None:
    async def one(self: Pulse) -> AsyncIterator[str]:
        yield "data: 0"

    monkeypatch.setattr(Pulse, "stream", one)
    with contextlib.closing(Lab(page_lab[0].root)) as lab:
        door = PageDoor(lab, Guests(lab, TOKEN), security_of(LOOPBACK), PlainTextResponse("next"))
        assert {route.path for route in door.routes} == {*NEEDED}, "a new route gets its line there"
        changes, token = lab.recorded_changes(), tokens[role] if role else ""
        browser = TestClient(door, f"http://{LOOPBACK}", follow_redirects=False, headers={"Prefer": "wait"})
        browser.cookies["autoresearch_session_80"] = token
        mark = re.search(r'name="mark" value="(\w+)"', browser.get("/").text)
        for route, (method, needed) in NEEDED.items():
            name = page_lab[1]["commit" if "commit" in route else "failed"]
            path = route.replace("{name}", name).replace("{path:path}", "page.css")
            form = {"what": "e-1m8dd3qhgr0w99r", "mark": mark[1] if mark else ""} if method == "POST" else None
            answer = browser.request(method, path, data=form)
            refused = answer.status_code in (401, 403) or answer.headers.get("location") == "/login"
            assert refused == (route == "/logout" or (needed is not None and (role is None or not role.covers(needed)))), (route, answer)
            assert answer.status_code < 500 and answer.text != "next"
        assert lab.recorded_changes() == changes


def test_forms_take_their_role_and_the_pages_own_mark(url: str, page_lab: Named, tokens: dict[str, str]) -> None:
    fake, names = page_lab
    for role, token in tokens.items():
        text = ask(url, "/", token).text
        assert ("Yes, promote" in text) == (role in ("owner", "the environment's")), role
        assert (f"Cancel {names['queued']}" in text) == (role not in ("viewer", "worker")), role
    own = mark(ask(url, "/", TOKEN).text)
    orchestrators = mark(ask(url, "/", tokens["orchestrator"]).text)
    winner, queued = {"what": names["winner"], "mark": own}, {"what": names["queued"], "mark": orchestrators, "reason": "in the way"}
    assert ask(url, "/approve", form=winner).status == 303  # to the login page
    assert ask(url, "/approve", TOKEN, winner | {"mark": orchestrators}).status == 403
    assert ask(url, "/approve", TOKEN, winner | {"mark": ""}).status == 403
    assert ask(url, "/approve", TOKEN, winner, Origin="http://127.0.0.1:1").status == 403
    assert ask(url, "/approve", tokens["orchestrator"], winner | {"mark": orchestrators}).status == 403
    assert ask(url, "/approve", TOKEN, Origin="http://attacker.example").status == 403  # before anything else
    assert fake.ledger.promotion_count() == 1
    assert ask(url, "/cancel", tokens["orchestrator"], queued).status == 200
    assert ask(url, "/approve", TOKEN, winner).status == 200
    assert (fake.ledger.promotion_count(), fake.ledger.promotions()[-1].approved_by) == (2, "owner on the page")
    assert [(c.action, c.who, c.way) for c in fake.ledger.recorded_changes(limit=2)] == [
        ("approve", "owner", "http"),
        ("cancel", "orchestrator-ann", "http"),
    ]
    with contextlib.closing(Lab(fake.root)) as lab:
        lab.demote("owner", "Other tests look at this lab as it was.")


@pytest.mark.parametrize(
    "address", ["https://127.0.0.1:8443", "https://localhost", "http://[::1]", "https://lab.example", "http://lab.example:1"]
)
def test_forms_work_at_each_address_of_the_page(page_lab: Named, address: str) -> None:
    with contextlib.closing(Lab(page_lab[0].root)) as lab:
        door = PageDoor(lab, Guests(lab, TOKEN), security_of(LOOPBACK, ["Lab.Example"]), PlainTextResponse("next"))
        browser = TestClient(door, address, follow_redirects=False, headers={"Prefer": "wait"})
        assert browser.post("/login", data={"token": TOKEN}, headers={"Origin": "https://attacker.example"}).status_code == 403
        assert browser.post("/login", data={"token": TOKEN}, headers={"Origin": address}).headers["location"] == "/"
        form = {"what": "e-1m8dd3qhgr0w99r", "mark": mark(browser.get("/").text)}
        for origin, status in ((address, 409), ("http://127.0.0.1:9", 403)):  # another page of this machine has another mark to know
            answer = browser.post("/cancel", data=form, headers={"Origin": origin})
            assert answer.status_code == status, answer.text


def test_a_login_puts_the_token_where_no_script_reads_it(url: str, page_lab: Named) -> None:
    gone = [page_lab[0].ledger.add_token("late", Role.OWNER, time.time() - 1), page_lab[0].ledger.add_token("cy", Role.OWNER, None)]
    page_lab[0].ledger.revoke_token("cy")
    answer = ask(url, "/login", form={"token": TOKEN})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert all(word in answer.headers["set-cookie"] for word in ("HttpOnly", "SameSite=strict", "Path=/"))
    said = set()
    for wrong in ("", "wrong", TOKEN[:-1], TOKEN + "\n.", "x" * 60_000, *gone):
        refused = ask(url, "/login", form={"token": wrong})
        assert refused.status == 401 and "set-cookie" not in refused.headers
        said.add(refused.text)
    assert len(said) == 1  # it doesn't tell which is wrong how
    assert ask(url, "/login", form={"token": "x" * 1_000_000}).status == 413


def test_a_revoked_token_sees_nothing_from_the_next_request_on(url: str, page_lab: Named) -> None:
    token = page_lab[0].ledger.add_token("bea", Role.VIEWER, None)
    assert ask(url, "/", token).status == 200
    page_lab[0].ledger.revoke_token("bea")
    assert ask(url, "/", token).status == 303


def test_the_browser_may_run_and_fetch_only_what_the_page_brings(url: str) -> None:
    for path in ("/", "/login", "/static/page.js", "/nowhere/", "/static/../door.py", "/static/vendor/vendor.json"):
        answer = ask(url, path, TOKEN)
        if path.startswith("/nowhere"):
            assert answer.status == 401  # as everything behind the page
            continue
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<[^>]+ (?:style|on\w+)=|<script(?! src=\"/static)", answer.text) or path.endswith(".js")
    assert ask(url, "/static/../door.py", TOKEN).status == 404


def test_what_is_vendored_is_what_its_record_says() -> None:
    recorded = json.loads((STATIC / "vendor" / "vendor.json").read_text("utf-8"))
    files = {name: digest for each in recorded.values() for name, digest in each["files"].items()}
    there = {path.name: f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in (STATIC / "vendor").iterdir()}
    assert there.pop("vendor.json") and there == files
    assert all({"version", "license", "source"} <= each.keys() for each in recorded.values())


def test_without_tokens_the_page_only_shows_whatever_the_servers_role(page_lab: Named, tmp_path: Path) -> None:
    for fake in make_runner_lab(tmp_path / "lab"):
        with served_over_http(fake.root, options=["--as", "ann", "--role", "owner"]) as server:
            shown = ask(server.url, "/")
            assert shown.status == 200 and "asks for no token here" in shown.text and "Log out" not in shown.text
            refused = ask(server.url, "/approve", form={"what": "champion", "mark": ""})
            assert refused.status == 403
            assert fake.ledger.recorded_changes() == []


def test_a_view_is_kept_by_no_browser_and_not_sent_again_unchanged(url: str) -> None:
    for path in ("/promotions", "/login", "/experiment/e-1m8dd3qhgr0w99r"):
        assert ask(url, path, TOKEN).headers["cache-control"] == "no-store"
    first = ask(url, "/promotions", TOKEN)
    assert ask(url, "/promotions", TOKEN, If_None_Match=first.headers["etag"]).status == 304


def test_an_open_page_hears_of_a_change(url: str, page_lab: Named) -> None:
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=15) as line:
        line.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: autoresearch_session_{where.port}={TOKEN}\r\n\r\n".encode())
        stream = line.makefile("rb")
        events = (text for text in stream if text.startswith(b"data: "))
        first = next(events)
        page_lab[0].ledger.record_change("ada", "owner", "command line", "here", "token revoke", "bob")
        assert next(events) != first

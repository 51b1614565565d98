"""The page in a real browser, on a lab whose agents wrote hostile text into every field."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.page import views as views_of
from autoresearch_mcp.server.page.serving import served_page
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import Listening, served_over_http
from tests.server.mcp.test_http import ask
from tests.server.page.conftest import TOKEN, populate
from tests.server.page.hostile import STRINGS
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs Debian's chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python, of the extra dev")
expect = playwright.expect

Named = tuple[FakeRunnerLab, dict[str, str]]
HOST = Path(__file__).with_name("host.html")
LISTS = ["/", "/proposals", "/memories", "/agents", "/promotions", "/health"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeRunnerLab, dict[str, str]]]:
    groups = [" ".join(STRINGS[n : n + 10]) for n in range(0, 50, 10)]
    for fake in make_runner_lab(tmp_path_factory.mktemp("labs") / "lab", {'approval = "none"': 'approval = "human"'}):
        names = populate(fake, groups, author=STRINGS[2])
        for text in STRINGS:
            fake.ledger.record_change(text, "owner", "http", text, text, text)
        yield fake, names


@pytest.fixture(scope="module")
def server(hostile: Named) -> Iterator[Listening]:
    with served_over_http(hostile[0].root, AUTORESEARCH_TOKEN=TOKEN) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is logged in, and what it complained of or asked of others."""

    def __init__(self, browser: "Browser", server: Listening, **options: Any) -> None:
        self.base = server.url.removesuffix("/mcp")
        self.page: Page = browser.new_context(**options).new_page()
        self.troubles: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", lambda dialog: self.troubles.append(dialog.message))
        self.page.on("request", lambda request: None if request.url.startswith(self.base) else self.troubles.append(request.url))
        expect.set_options(timeout=30_000)
        self.go(f"/login?key={TOKEN}")

    def go(self, view: str) -> None:
        self.page.goto(self.base + view)
        expect(self.page.locator("#live")).to_have_text("live")


def views(names: dict[str, str]) -> list[str]:
    return [
        *LISTS,
        f"/experiment/{names['running']}",
        f"/experiment/{names['failed']}",
        f"/experiment/{names['finished']}",
        f"/commit/{names['winner']}",
        f"/commit/{names['commit']}",
        f"/commit/{names['champion']}",
    ]


def test_hostile_text_neither_runs_nor_breaks_a_view_on_a_phone(
    browser: "Browser", server: Listening, hostile: Named, tmp_path: Path
) -> None:
    visit = Visit(browser, server, viewport={"width": 360, "height": 740})
    for view in views(hostile[1]):
        visit.go(view)
        assert visit.page.evaluate("window.owned") is None, view
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360, view
        assert visit.page.locator("footer").is_visible() and visit.page.locator("nav a").count() == 6, view
    visit.go(f"/experiment/{hostile[1]['finished']}")
    shown = visit.page.locator("main").inner_text()
    assert "Said later: <script>window.owned=1</script>" in shown and "metrics.<script>" in shown  # remarks and provenance
    visit.go("/memories")
    for text in (STRINGS[0], "{{ 7 * 7 }} {% for x in", "@@mark@@", "gnp.exe"):
        assert visit.page.get_by_text(text).count() > 0, text  # they are there to be read
    assert visit.troubles == []
    assert cli.main(["report", "--out", str(tmp_path), str(hostile[0].root)]) == 0
    visit.page.goto((tmp_path / "report.html").as_uri())
    visit.page.locator("summary").first.click()
    assert visit.page.get_by_text(STRINGS[0]).count() > 0 and visit.page.evaluate("window.owned") is None
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    high, low = (visit.page.locator(f"svg .{name}").bounding_box() for name in ("high", "low"))
    assert high is not None and low is not None and high["height"] > 9 and low["height"] > 9  # can be read
    assert visit.troubles == [f"file://{tmp_path}/report.html"]  # it asks for nothing else


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: "Browser", server: Listening, hostile: Named, scheme: str) -> None:
    visit = Visit(browser, server, color_scheme=scheme, bypass_csp=True)
    for view in [*views(hostile[1]), "/login"] if scheme == "light" else [LISTS[0], views(hostile[1])[6]]:
        visit.page.goto(visit.base + view)
        found = axe.Axe().run(visit.page).response["violations"]
        serious = {each["id"]: each["nodes"][0]["html"][:200] for each in found if each["impact"] in ("serious", "critical")}
        assert serious == {}, view


def test_a_view_follows_the_lab_by_itself(browser: "Browser", server: Listening, hostile: Named) -> None:
    visit = Visit(browser, server)
    visit.go("/health")
    hostile[0].ledger.record_change("grace", "owner", "command line", "here", "token create", f"since {time.time()}")
    expect(visit.page.get_by_role("cell", name="grace", exact=True)).to_be_visible(timeout=15_000)
    assert visit.troubles == []


def test_a_view_that_was_made_before_it_could_listen_catches_up(browser: "Browser", server: Listening, hostile: Named) -> None:
    visit = Visit(browser, server)
    visit.go("/health")
    earlier = [visit.page.content()]
    hostile[0].ledger.record_change("joan", "owner", "command line", "here", "token create", f"since {time.time()}")

    def serve(route: "Route") -> None:
        if earlier:
            route.fulfill(body=earlier.pop(), content_type="text/html")
        else:
            route.continue_()

    visit.page.route("**/health", serve)
    visit.page.route("**/events", lambda route: route.fulfill(body="retry: 60000\ndata: 1\n\n", content_type="text/event-stream"))
    visit.page.goto(f"{visit.base}/health")
    expect(visit.page.get_by_role("cell", name="joan", exact=True)).to_be_visible(timeout=15_000)


def test_an_open_page_comes_back_by_itself_after_the_server_was_killed(browser: "Browser", hostile: Named) -> None:
    with served_over_http(hostile[0].root, AUTORESEARCH_TOKEN=TOKEN) as first:
        visit = Visit(browser, first)
        visit.go("/health")
        address = visit.base.removeprefix("http://")
    live = visit.page.locator("#live")
    expect(live).to_have_text("connecting again", timeout=15_000)
    hostile[0].ledger.record_change("lise", "owner", "command line", "here", "token create", f"since {time.time()}")
    away = [502]  # what a proxy answers while its server is away

    def serve(route: "Route") -> None:
        if away:
            route.fulfill(status=away.pop())
        else:
            route.continue_()

    visit.page.route("**/events", serve)
    with served_over_http(hostile[0].root, address, AUTORESEARCH_TOKEN=TOKEN):
        expect(live).to_have_text("live", timeout=20_000)
        expect(visit.page.get_by_role("cell", name="lise", exact=True)).to_be_visible(timeout=15_000)
        visit.go("/")
        visit.page.get_by_label("Why not").fill("as before")  # forms are made anew, with this server's mark
        assert not away


def test_the_outline_of_a_long_campaign_fills_itself(browser: "Browser", hostile: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, campaign = threading.Event(), views_of.VIEWS["campaign"]

    def slow(asked: views_of.Asked) -> views_of.Context:
        assert go_on.wait(20)
        return campaign(asked)

    monkeypatch.setitem(views_of.VIEWS, "campaign", slow)
    with served_page(hostile[0].root) as address:
        page: Page = browser.new_page()
        page.goto(address)
        expect(page.locator("[data-pending]")).to_be_visible()
        expect(page.locator("#progress[data-points]")).to_be_visible(timeout=15_000)  # drawn before the numbers are there
        go_on.set()
        expect(page.locator("[data-live=leaders] tbody tr")).not_to_have_count(0, timeout=15_000)
        expect(page.locator("[data-pending]")).to_have_count(0)
        page.locator("select[name=author]").select_option(index=1)
        page.wait_for_url("**author=**")
        page.close()


def test_what_somebody_types_outlasts_what_the_lab_does(browser: "Browser", server: Listening, hostile: Named) -> None:
    visit = Visit(browser, server)
    visit.go("/")
    why, warning = visit.page.get_by_label("Why not"), visit.page.get_by_text("The lab's owner paused the lab")
    why.fill("the curve looks odd")
    visit.page.locator("#progress-head").click()
    hostile[0].ledger.pause()
    visit.page.evaluate("refresh()")
    expect(why).to_have_value("the curve looks odd")
    assert warning.count() == 0
    why.fill("")
    visit.page.locator("h1").click()
    expect(warning).to_be_visible(timeout=15_000)
    hostile[0].ledger.resume()
    assert visit.troubles == []


def test_a_campaign_is_drawn_zoomed_and_filtered(browser: "Browser", server: Listening) -> None:
    visit = Visit(browser, server, viewport={"width": 1200, "height": 900})
    visit.go("/")
    chart = visit.page.locator("#progress[data-points]")
    expect(chart).to_be_visible()
    box = visit.page.locator("#progress .u-over").bounding_box()
    assert box is not None and int(chart.get_attribute("data-points") or 0) > 10
    with visit.page.expect_response(lambda answer: "from=" in answer.url) as zoomed:
        visit.page.mouse.move(box["x"] + 20, box["y"] + 50)
        visit.page.mouse.down()
        visit.page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 60, steps=4)
        visit.page.mouse.up()
    assert zoomed.value.json()["range"][1] < zoomed.value.json()["total"]
    visit.page.get_by_label("Tag").select_option("depth")
    visit.page.wait_for_url("**tag=depth**")
    assert visit.troubles == []


class Host:
    """A chat client that renders the MCP App of `plot_progress` under the strictest policy of the specification, and asks the real server."""

    POLICY = (
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'none'"
    )

    def __init__(self, browser: "Browser", server: Listening, capabilities: dict[str, Any], **options: Any) -> None:
        self.server, self.calls, self.troubles = server, list[str](), list[str]()
        self.page: Page = browser.new_context(**options).new_page()
        self.page.on("console", lambda message: self.troubles.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on(
            "request",
            lambda request: None if request.url.startswith(("http://host.test/", "data:image/png")) else self.troubles.append(request.url),
        )
        self.page.expose_function("serverCall", self.call)
        html = HOST.read_text(encoding="utf-8")
        self.page.route(
            "http://host.test/",
            lambda route: route.fulfill(body=html, content_type="text/html", headers={"Content-Security-Policy": self.POLICY}),
        )
        self.page.goto("http://host.test/")
        (document,) = self.ask("resources/read", uri="ui://lab/progress")["contents"]
        self.page.evaluate("([html, capabilities]) => render(html, capabilities)", [document["text"], capabilities])
        self.view = self.page.frame_locator("#view")

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        status, text, _ = ask(self.server.url, "POST", message, Authorization=f"Bearer {TOKEN}")
        assert status == 200, text
        result: dict[str, Any] = json.loads(text[text.index("{") :])["result"]
        return result

    def call(self, name: str) -> dict[str, Any]:
        self.calls.append(name)
        return self.ask("tools/call", name=name, arguments={})


def test_a_host_of_mcp_apps_shows_the_progress_live_and_hostile_text_as_text(browser: "Browser", server: Listening, hostile: Named) -> None:
    host = Host(browser, server, {"serverTools": {}}, viewport={"width": 360, "height": 740})
    expect(host.view.get_by_role("img")).to_be_visible(timeout=20_000)
    assert host.view.get_by_role("img").evaluate("image => image.naturalWidth") == 1000
    expect(host.view.locator("#leaders tbody tr")).not_to_have_count(0, timeout=15_000)
    expect(host.view.locator("#tiles")).to_contain_text("Champion")
    assert host.view.locator("#running").inner_text().count("<script>window.owned=1</script>") >= 1  # there to be read
    frame = host.page.frames[1]
    assert frame.evaluate("window.owned") is None and host.page.evaluate("window.owned") is None
    assert frame.evaluate("document.documentElement.scrollWidth") <= 360
    assert frame.evaluate("getComputedStyle(document.body).color") == "rgb(1, 2, 3)"  # the host's theme
    assert frame.evaluate("document.documentElement.style.getPropertyValue('--x')") == ""
    until(lambda: host.page.evaluate("parseFloat(view.style.height)") > 400)
    until(lambda: frame.evaluate("innerHeight >= document.body.scrollHeight"))  # as high as it said that it is
    asked = len(host.calls)
    host.view.get_by_role("button", name="Look again").click()
    until(lambda: host.page.evaluate("heard.filter((each) => each.method === 'tools/call').length") >= 3)
    assert {*host.calls[asked:]} == {"get_status", "plot_progress"}
    host.page.evaluate("post({ id: 7, method: 'ui/resource-teardown', params: {} }), post({ id: 8, method: 'ui/what-is-this' })")
    until(
        lambda: host.page.evaluate(
            "heard.some((each) => each.id === 7 && each.result) && heard.some((each) => each.id === 8 && each.error)"
        )
    )
    assert host.troubles == []


def test_a_host_that_calls_no_tools_for_a_view_shows_the_picture_alone(browser: "Browser", server: Listening, hostile: Named) -> None:
    host = Host(browser, server, {}, color_scheme="light")
    expect(host.view.get_by_role("img")).to_be_visible(timeout=20_000)
    expect(host.view.get_by_role("button")).to_be_hidden()
    assert host.calls == ["plot_progress"] and host.troubles == []
    host.page.evaluate(
        "post({ method: 'ui/notifications/tool-result', params: { isError: true, content: [{ type: 'text', text: 'The lab is gone.' }] } })"
    )
    expect(host.view.locator("#note")).to_have_text("The lab is gone.")


def test_a_person_logs_in_cancels_says_yes_and_logs_out_by_the_pages_own_forms(
    browser: "Browser", server: Listening, hostile: Named
) -> None:
    fake, names = hostile
    page: Page = browser.new_context().new_page()
    page.goto(server.url.removesuffix("/mcp") + "/")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#live")).to_have_text("live")
    queue = page.get_by_role("row").filter(has_text=names["queued"])
    queue.get_by_text("Cancel", exact=True).click()
    queue.get_by_role("button", name=f"Cancel {names['queued']}").click()
    expect(page.get_by_role("main")).to_contain_text("came back to the budget")
    page.goto(server.url.removesuffix("/mcp") + "/promotions")
    page.get_by_role("button", name="Yes, promote").click()
    expect(page.get_by_role("main")).to_contain_text("champion")
    assert [change.action for change in fake.ledger.recorded_changes(limit=2)] == ["approve", "cancel"]
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()

"""The lab's progress as an MCP App: who hears of it, and that the document may load nothing."""

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterator

import pytest
from mcp import Client
from mcp.client.extension import advertise
from mcp.types import TextResourceContents

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.mcp.progress_app import URI
from tests.server.mcp.conftest import make_runner_lab

pytestmark = pytest.mark.anyio

UI, MIME = "io.modelcontextprotocol/ui", "text/html;profile=mcp-app"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for fake in make_runner_lab(tmp_path_factory.mktemp("labs") / "lab"):
        with contextlib.closing(Lab(fake.root)) as lab:
            yield lab


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_host_that_shows_apps_finds_the_view_at_its_tool(lab: Lab, mode: str) -> None:
    async with Client(build_server(lab), mode=mode, extensions=[advertise(UI, {"mimeTypes": [MIME]})]) as host:
        metas = {tool.name: tool.meta for tool in (await host.list_tools()).tools}
        assert {name: meta for name, meta in metas.items() if meta} == {"plot_progress": {"ui": {"resourceUri": URI}}}
        (listed,) = [each for each in (await host.list_resources()).resources if str(each.uri) == URI]
        (view,) = (await host.read_resource(URI)).contents
        assert isinstance(view, TextResourceContents) and view.mime_type == listed.mime_type == MIME
        assert view.meta == {"ui": {"csp": {"connectDomains": [], "resourceDomains": []}, "prefersBorder": True}}
        if mode == "auto":  # the older era has no place for it
            assert host.server_capabilities is not None and UI in (host.server_capabilities.extensions or {})


@pytest.mark.parametrize("settings", [None, {}, {"mimeTypes": ["text/plain"]}])
async def test_others_hear_nothing_of_it_and_get_the_picture(lab: Lab, settings: dict[str, object] | None) -> None:
    extensions = [] if settings is None else [advertise(UI, settings)]
    async with Client(build_server(lab), extensions=extensions) as client:
        assert not any(tool.meta for tool in (await client.list_tools()).tools)
        assert not any("ui://" in str(each.uri) for each in (await client.list_resources()).resources)
        drawn = await client.call_tool("plot_progress", {})
        assert [block.type for block in drawn.content] == ["text", "image"]


async def test_the_view_lets_only_its_own_script_and_style_through(lab: Lab) -> None:
    async with Client(build_server(lab)) as client:
        (view,) = (await client.read_resource(URI)).contents
    assert isinstance(view, TextResourceContents)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', view.text)
    assert policy is not None and "unsafe" not in policy[1] and policy[1].startswith("default-src 'none'; img-src data:;")
    for name in ("script", "style"):
        (inside,) = re.findall(rf"<{name}>(.*?)</{name}>", view.text, re.DOTALL)
        assert f"{name}-src 'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'" in policy[1]
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(|https?://|fetch\(|\son\w+=", view.text)

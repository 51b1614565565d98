"""The lab's progress as an MCP App: hosts that render such views show `plot_progress` with the status beside it, live; others get the PNG as ever.

The view is one document that may load nothing. It gets all that it shows from `plot_progress` and `get_status`, by way of the host. Only clients
that declare the extension hear of it, so it costs the others no byte of `tools/list`.

Source: https://github.com/modelcontextprotocol/ext-apps/blob/main/specification/2026-01-26/apps.mdx
"""

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID, client_supports_apps
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, ResourceBinding
from mcp.server.mcpserver.resources import FunctionResource

from autoresearch_mcp.server import __version__

URI = "ui://lab/progress"
TOOL = "plot_progress"  # whose answers are shown so. An agent asks get_status all the time: nobody wants to see a view each time
META = {"ui": {"csp": {"connectDomains": [], "resourceDomains": []}, "prefersBorder": True}}  # nothing from anywhere


class ProgressApp(Extension):
    """The extension, and the middleware that tells those of it who can show it."""

    identifier = EXTENSION_ID

    def resources(self) -> Sequence[ResourceBinding]:
        """Return the view."""
        view = FunctionResource(
            uri=URI, name="progress", title="Progress", description="The view of plot_progress.", mime_type=APP_MIME_TYPE, meta=META, fn=document
        )  # fmt: skip
        return [ResourceBinding(view)]

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Pass a request on. To lists for who can show the view, add where it is; out of lists for others, leave it."""
        result = await call_next(ctx)
        if not isinstance(result, dict) or ctx.method not in ("tools/list", "resources/list"):
            return result
        knows = client_supports_apps(ctx)
        if ctx.method == "resources/list":
            return result if knows else {**result, "resources": [each for each in result["resources"] if each["uri"] != URI]}
        shown = {"_meta": {"ui": {"resourceUri": URI}}}
        return {**result, "tools": [each | shown if each["name"] == TOOL else each for each in result["tools"]]} if knows else result


@functools.cache
def document() -> str:
    """Return the view. Its policy lets just its own script and style through, whatever else a host would allow."""
    text = (files("autoresearch_mcp.server.mcp") / "progress_app.html").read_text("utf-8").replace("$VERSION", __version__)
    for name in ("script", "style"):
        inside = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        assert inside is not None
        text = text.replace(f"${name.upper()}", f"'sha256-{base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()}'", 1)
    return text

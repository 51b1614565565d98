"""Defines `[alerts]`: webhooks that tell people what happened in the lab."""

import base64
import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from autoresearch_mcp.server.addresses import encrypted_or_here
from autoresearch_mcp.server.settings.section import Section

AlertKind = Literal["promotion", "approval", "stalled", "budget", "trouble", "ended"]
KINDS: tuple[AlertKind, ...] = ("promotion", "approval", "stalled", "budget", "trouble", "ended")
_PREFIX = "whsec_"
_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")


def _is_address(given: str) -> str:
    if not _VARIABLE.fullmatch(given) and not encrypted_or_here(given):
        raise ValueError("be an https:// address, or $NAME for what the environment's variable NAME holds")
    return given


def _resolved(given: str) -> str:
    """Return a setting, or what the environment's variable holds that it names; empty where that is not set."""
    return os.environ.get(given[1:], "") if _VARIABLE.fullmatch(given) else given


class Webhook(Section):
    """One place that alerts are sent to."""

    url: Annotated[str, AfterValidator(_is_address)] = Field(repr=False)
    form: Literal["json", "slack", "discord"] = "json"
    secret: str = Field(default="", repr=False)
    on: list[AlertKind] = list(KINDS)

    @property
    def address(self) -> str:
        """Return where to send; empty where this process' environment doesn't say it, or says what isn't HTTPS."""
        address = _resolved(self.url)
        return address if encrypted_or_here(address) else ""

    @property
    def key(self) -> bytes:
        """Return what signs; empty for nothing. After `whsec_` a secret is base64, as Standard Webhooks write theirs; any other is a text."""
        secret = _resolved(self.secret)
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True) if secret.startswith(_PREFIX) else secret.encode()
        except ValueError:
            return secret.encode()

    @property
    def lacks(self) -> str:
        """Return which variable of the environment is missing for it; empty for none."""
        return self.url if not self.address else self.secret if self.secret and not self.key else ""

    @property
    def is_ready(self) -> bool:
        """Return whether this process can send there. Other servers of the lab may have other environments."""
        return not self.lacks


class AlertsSection(Section):
    """Send alerts by webhook, while a server of the lab or its runner runs."""

    webhooks: list[Webhook] = Field(
        default=[],
        max_length=16,
        description="as tables `[[alerts.webhooks]]`: `url`, an https address or `$NAME` of a variable of the environment; `form`, which is `json`, "
        "`slack` or `discord`; `secret` that signs JSON, or `$NAME`; and `on`, a list out of promotion, approval, stalled, budget, trouble and ended "
        "(default: all)",
    )

"""The base of `lab.toml`'s sections."""

from pydantic import ConfigDict

from autoresearch_mcp.server.models import Model


class Section(Model):
    """Base of the sections. Refuses `nan` and `inf`, which TOML can write."""

    model_config = ConfigDict(allow_inf_nan=False)

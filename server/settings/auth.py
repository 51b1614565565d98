"""Defines `[auth]`: who else may call over HTTP, and how often."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from autoresearch_mcp.server.addresses import encrypted_or_here
from autoresearch_mcp.server.roles import Role
from autoresearch_mcp.server.settings.section import Section


class AuthSection(Section):
    """Accept the access tokens of an OAuth issuer beside the lab's own, and limit how often one caller may ask."""

    requests_per_minute: int = Field(
        default=6_000,
        ge=60,
        le=1_000_000,
        description="HTTP requests that the holder of one token may make in a minute, on average over ten seconds",
    )
    issuer: str = Field(
        default="", description='the OAuth issuer whose access tokens open the lab over HTTP, such as `https://id.example`; "": none'
    )
    audience: str = Field(default="", max_length=400, description="with issuer: the audience that its tokens for this lab have")
    jwks: str = Field(default="", description='with issuer: address of its public keys; "": the one that its metadata names')
    name_claim: str = Field(
        default="sub", min_length=1, max_length=100, description="with issuer: the claim that names who calls, and signs"
    )
    role_claim: str = Field(
        default="scope", min_length=1, max_length=100, description="with issuer: the claim that says the role: a list, or words in a text"
    )
    roles: dict[str, Role] = Field(
        default={role.value: role for role in Role},
        description='with issuer, as a table `[auth.roles]`: the role that each value of that claim gives, such as `ml-team = "worker"`; '
        "the highest counts",
    )

    @field_validator("issuer", "jwks")
    @classmethod
    def _is_trustworthy(cls, address: str) -> str:
        if address and not encrypted_or_here(address):
            raise ValueError("be an https:// address")
        return address

    @model_validator(mode="after")
    def _names_its_audience(self) -> Self:
        if self.issuer and not self.audience:
            raise ValueError("name an audience beside its issuer: else a token that was made for another service would open this lab")
        return self

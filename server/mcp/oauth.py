"""Accepts access tokens of the OAuth issuer in `[auth]`: JSON Web Tokens (RFC 9068), checked against the issuer's public keys."""

import json
import logging
import re
import threading
import time
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request

from autoresearch_mcp.server.addresses import encrypted_or_here, opener
from autoresearch_mcp.server.mcp.arguments import AUTHOR
from autoresearch_mcp.server.roles import Identity, Role
from autoresearch_mcp.server.settings.auth import AuthSection

if TYPE_CHECKING:
    from jwt import PyJWK

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")  # none with a shared secret
_LONGEST_NAME = 64
_LONGEST_TOKEN = 16_384
_FRESH_S = 600.0  # after which keys are fetched again, so that withdrawn ones end
_PATIENCE_S = 5.0  # for the issuer's answer
_PAUSE_S = 10.0  # after a fetch, so that invented key names cause no flood
_MOST_READ = 1 << 20
_LEEWAY_S = 30  # between the clocks of issuer and lab

_log = logging.getLogger(__name__)


class Issuer:
    """Checks the tokens of one issuer. Thread-safe.

    Args:
        auth: who it is, and what its claims mean.
    """

    def __init__(self, auth: AuthSection) -> None:
        self.auth = auth
        self._turn = threading.Lock()
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = self._asked_at = -_FRESH_S
        self._told = set[str]()  # reasons, of which there are few

    def identify(self, token: str) -> Identity | None:
        """Return who holds a token, or None where it opens nothing: invalid, expired, for another service, or without name or role."""
        import jwt

        if len(token) > _LONGEST_TOKEN or token.count(".") != 2:
            return None
        try:
            key = self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name] if key.algorithm_name in _ALGORITHMS else [],
                audience=self.auth.audience,
                issuer=self.auth.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", self.auth.name_claim]},
            )
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError, jwt.MissingRequiredClaimError) as error:
            self._unfit(str(error))  # the signature holds: it is looked at first
            return None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None
        name, role = claims.get(self.auth.name_claim), self._role(claims.get(self.auth.role_claim))
        if not isinstance(name, str) or len(name) > _LONGEST_NAME or not re.fullmatch(AUTHOR, name):
            self._unfit(f"the claim {self.auth.name_claim} is no name that an agent can have: [auth] name_claim may name another")
            return None
        if role is None:
            self._unfit(f"the claim {self.auth.role_claim} holds no value that [auth.roles] knows")
            return None
        return Identity(name, role)

    def _unfit(self, why: str) -> None:
        """Tell the owner, once, why what the issuer signed opens nothing: its settings or the lab's don't fit."""
        if why not in self._told:
            self._told.add(why)
            _log.warning("A token that the issuer in [auth] signed opens nothing here: %s.", why.rstrip("."))

    def _role(self, given: Any) -> Role | None:
        values = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
        held = [self.auth.roles[value] for value in values if isinstance(value, str) and value in self.auth.roles]
        return max(held, key=list(Role).index, default=None)

    def _key(self, name: str) -> "PyJWK | None":
        # One asks the issuer. Meanwhile a known key serves the others, so that an issuer that is away holds up nobody else.
        if self._is_due(name) and self._turn.acquire(blocking=self._known(name) is None):
            try:
                if self._is_due(name):
                    self._refresh()
            finally:
                self._turn.release()
        return self._known(name)

    def _known(self, name: str) -> "PyJWK | None":
        keys = self._keys
        if not name and len(keys) == 1:  # a token needn't name the only key that there is
            return next(iter(keys.values()))
        return keys.get(name)

    def _is_due(self, name: str) -> bool:
        now = time.monotonic()
        return (self._known(name) is None or now - self._fetched_at > _FRESH_S) and now - self._asked_at > _PAUSE_S

    def _refresh(self) -> None:
        try:
            self._keys = self._fetch()
            self._fetched_at = time.monotonic()
        except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
            _log.warning("The keys of the issuer in [auth] can't be read: %s. Its tokens are checked against those of before.", error)
        finally:
            self._asked_at = time.monotonic()

    def _fetch(self) -> "dict[str, PyJWK]":
        from jwt import PyJWK, PyJWTError

        address = self.auth.jwks or self._metadata()["jwks_uri"]
        keys = {}
        for each in _read(address)["keys"]:
            try:
                if each.get("use", "sig") == "sig":
                    keys[str(each.get("kid", ""))] = PyJWK(each)
            except PyJWTError:  # of a kind that we don't know
                continue
        return keys

    def _metadata(self) -> dict[str, Any]:
        """Return what the issuer says of itself, as OpenID Connect or RFC 8414 place it."""
        parts = urlsplit(self.auth.issuer)
        path = parts.path.rstrip("/")
        places = (f"{path}/.well-known/openid-configuration", f"/.well-known/oauth-authorization-server{path}")
        for place in places:
            try:
                metadata = _read(urlunsplit((parts.scheme, parts.netloc, place, "", "")))
            except (OSError, HTTPException, ValueError):
                continue
            if metadata.get("issuer") == self.auth.issuer:
                return metadata
        raise ValueError(f"{self.auth.issuer} has no metadata that names it as the issuer")


def _read(address: str) -> dict[str, Any]:
    if not encrypted_or_here(address):
        raise ValueError("an address isn't encrypted")
    asked = Request(address, headers={"Accept": "application/json"})  # noqa: S310 https, or this machine
    with opener().open(asked, timeout=_PATIENCE_S) as answer:
        read = json.loads(answer.read(_MOST_READ))
    if not isinstance(read, dict):
        raise ValueError("an answer is no JSON object")
    return read

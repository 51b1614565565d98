"""Addresses that secrets are sent to, or that are trusted for what they answer."""

import ipaddress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from autoresearch_mcp.server.errors import LabError

if TYPE_CHECKING:
    from urllib.request import OpenerDirector


def opener() -> "OpenerDirector":
    """Return urllib's opener, but for redirects: they lead to an address that nobody checked, and are errors here."""
    from urllib.request import HTTPRedirectHandler, build_opener  # 15 ms, which most processes needn't spend

    class NoRedirects(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    return build_opener(NoRedirects)


def encrypted_or_here(address: str) -> bool:
    """Return whether nobody between reads or changes what goes to an address and back: it is HTTPS, or on this machine."""
    try:
        parts = urlsplit(address)
    except ValueError:  # its words may hold the address
        return False
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and local))


def checked_url(url: str, name: str) -> str:
    """Return the address without a slash at its end.

    Args:
        url: where a secret is sent.
        name: where it was set, for the error.

    Raises:
        LabError: `bad_settings`, where a secret would travel in the clear, or where one stands in the address.
    """
    if not encrypted_or_here(url):
        raise LabError(f"{name} must begin with https://; what is sent there would travel in the clear otherwise.", "bad_settings")
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise LabError(f"{name} must be an address without a name or password in it.", "bad_settings")
    return url.rstrip("/")

"""Addresses that secrets are sent to."""

import ipaddress
from urllib.parse import urlsplit

from autoresearch_mcp.server.errors import LabError


def checked_url(url: str, name: str) -> str:
    """Return the address without a slash at its end.

    Args:
        url: where a secret is sent.
        name: where it was set, for the error.

    Raises:
        LabError: `bad_settings`, where a secret would travel in the clear, or where one stands in the address.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise LabError(f"{name} must begin with https://; what is sent there would travel in the clear otherwise.", "bad_settings")
    if parts.username or parts.password or not host:
        raise LabError(f"{name} must be an address without a name or password in it.", "bad_settings")
    return url.rstrip("/")

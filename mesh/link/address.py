"""What an address says: whether it asks for TLS, whether only this machine reaches it, and how it may be shown. Pure."""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from mesh.errors import ConfigError

SECURE: Final = ("tls", "wss")
"""The schemes of a broker's address that ask for TLS. `nats` takes it where the broker demands it."""

_USERINFO: Final = re.compile(r"(?<=://)[^/@\s,]*@")


def is_secure(url: str) -> bool:
    """Whether an address (or any of several, with commas) asks for TLS."""
    return any(each.partition("://")[0].strip() in SECURE for each in url.split(","))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener there. Raises ConfigError for what is no address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        hint = "give 127.0.0.1, 0.0.0.0 (every address of this machine), or one of its addresses"
        raise ConfigError(f"{host!r} is no address to listen on", hint=hint) from None


def hosts(url: str) -> list[str]:
    """The hosts of an address, or of several."""
    return [urlsplit(each if "://" in each else f"nats://{each}").hostname or "" for each in url.split(",")]


def without_userinfo(url: str) -> str:
    """An address, or several, as it may be shown and stored: a password in it is for the connection alone."""
    return _USERINFO.sub("", url)

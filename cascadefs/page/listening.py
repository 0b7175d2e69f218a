"""Where a page listens, checked before anything is started. Pure.

Without TLS nobody but this machine may be listened to, unless that is said: the token would travel for all to read.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

__all__ = ["DEFAULT", "Listening", "loopback", "parse_address"]

DEFAULT = "127.0.0.1:7480"
"""Where, if nobody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """How to be reached."""

    host: str
    port: int
    """0: any that is free."""

    names: tuple[str, ...] = ()
    """Under which names browsers may ask for the page, beside addresses and `localhost`."""

    tls: ssl.SSLContext | None = None


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[V6]:PORT``, ``:PORT`` or ``HOST``.

    Raises:
        ValueError: it is none; the message is for people.
    """
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text, DEFAULT.rpartition(":")[2]
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise ValueError(f"{text!r} has no port below 65536; write HOST:PORT, such as {DEFAULT}")
    return host.strip("[]") or "127.0.0.1", int(port)


def loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

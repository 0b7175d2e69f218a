"""Where a page listens, checked before anything is started. Pure, but for reading a certificate.

Without TLS nobody but this machine may be listened to, unless that is said: the token would travel for all to read.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.errors import Unusable

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DEFAULT", "Listening", "certified", "loopback", "parse_address"]

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


def certified(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """TLS with a chain of PEM, and its key, if that is not in the same file.

    Raises:
        Unusable: one cannot be read, or they are none; the message names it.
    """
    for path in (certificate, key):
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}; name a file of PEM") from error
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        tls.load_cert_chain(certificate, key, password="")  # Nobody is asked for one.
    except ssl.SSLError as error:
        what = str(certificate) if key is None else f"{certificate} with {key}"
        raise Unusable(
            f"{what}: no certificate with its key, in PEM and without a password: {error.reason}"
        ) from error
    return tls


def loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

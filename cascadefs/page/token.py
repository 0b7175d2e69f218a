"""The token that lets people in: a file of one line, readable by its owner alone."""

from __future__ import annotations

import os
import re
import secrets
import stat
from typing import TYPE_CHECKING

from storage.errors import Unusable

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["link_of", "token_at"]

TOKEN_BYTES = 32
TEXT_MIN = 32
"""Characters of a token that somebody wrote by hand."""


def token_at(path: Path | None) -> str:
    """The token in a file, made if there is none; None: one that is kept nowhere.

    Raises:
        Unusable: others can read it, or it is none.
        OSError: it cannot be read or made.
    """
    made = secrets.token_urlsafe(TOKEN_BYTES)
    if path is None:
        return made
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _kept(path)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(made + "\n")
    return made


def _kept(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, encoding="ascii", errors="replace") as file:
        found = os.fstat(file.fileno())
        text = file.read(1024).strip()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Unusable(f"{path}: others can read or write it; chmod 600 it, or remove it")
    if len(text) < TEXT_MIN or not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise Unusable(f"{path}: holds no token; remove it, and a new one is made")
    return text


def link_of(scheme: str, host: str, port: int, token: str) -> str:
    """What people open."""
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}/?token={token}"

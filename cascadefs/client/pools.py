"""Where the pools of `cascade://` are: the user's configuration, and whether there is anything."""

from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path

__all__ = ["check_there", "pools", "where_of"]


def where_of(pool: str) -> str:
    """What `cascadefs.connect` takes for a pool.

    Raises:
        FileNotFoundError: nobody has said.
    """
    where = pools().get(pool)
    if where is None:
        raise FileNotFoundError(
            errno.ENOENT,
            f"no pool {pool!r}: name it in {_configuration()}, or give the storage option where=",
        )
    return where


def pools() -> dict[str, str]:
    """Pools by name, as the user's configuration has them.

    Raises:
        ValueError: it is not TOML.
    """
    try:
        with _configuration().open("rb") as file:
            return {name: str(where) for name, where in tomllib.load(file).items()}
    except FileNotFoundError:
        return {}


def check_there(where: str) -> None:
    """`cascadefs.connect` would make a store of what is not there; who reads by name has mistyped it, or not mounted yet.

    Raises:
        FileNotFoundError: there is nothing.
    """
    path = Path(where)
    is_empty = path.is_dir() and not path.is_mount() and not any(path.iterdir())
    if is_empty or not path.exists():
        raise FileNotFoundError(
            errno.ENOENT, f"{where}: neither a mount nor a data directory; is it mounted?"
        )


def _configuration() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "cascadefs/pools.toml"

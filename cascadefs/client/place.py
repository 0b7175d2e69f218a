"""What a path of `cascade://` means: names with "@" are read as a mount reads them (SEMANTICS 2)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from cascadefs import vpath

if TYPE_CHECKING:
    from cascadefs.client.client import Client, Instant

__all__ = ["Place", "resolve"]


class Place(NamedTuple):
    """What a path means: in the store, and when."""

    path: str
    version: int | None
    at: Instant | None


def resolve(client: Client, path: str, outer: Instant | None) -> Place:
    """Read the names with "@" in a path, as a mount would: a name that is there as it stands is just a name."""
    names = path.split("/")[1:]
    plain: list[str] = []
    at = outer
    for position, name in enumerate(names):
        parsed = vpath.parse(os.fsencode(name)) if "@" in name else None
        if isinstance(parsed, vpath.Malformed) and not _is_plain(
            client, plain, name, os.fsdecode(parsed.base), outer
        ):
            raise OSError(errno.EINVAL, f"{path}: {name!r}: {parsed.why}")
        if not isinstance(parsed, vpath.Historic) or at is not outer:
            plain.append(name)
            continue
        base = os.fsdecode(parsed.base)
        if _is_plain(client, plain, name, base, outer):
            plain.append(name)
            continue
        if base != ".":
            plain.append(base)
        match parsed.spec:
            case vpath.Time(timestamp):
                at = timestamp
            case vpath.Ago(duration_us):
                at = (client.now() - duration_us) // 1_000_000 * 1_000_000
            case vpath.Now():
                at = client.now()
            case vpath.Version(number) if position == len(names) - 1:
                return Place("/".join(plain), number, outer)
            case vpath.VersionBack(steps) if position == len(names) - 1:
                head = client.stat("/".join(plain), at=outer).version
                return Place("/".join(plain), head - steps, outer)
            case _:
                raise ValueError(
                    f"{path}: {name!r}: versions of files and instants of directories are known here; "
                    "labels and event times at a mount"
                )
    return Place("/".join(plain), None, at)


def _is_plain(client: Client, above: list[str], name: str, base: str, at: Instant | None) -> bool:
    """Whether a name with "@" is just a name: it is there as it stands, or its base has no history."""
    if base == ".":
        return False
    if _is_there(client, "/".join([*above, name]), at):
        return True
    path = "/".join([*above, base])
    return not _is_there(client, path, None) and not client.versions(path, limit=1)


def _is_there(client: Client, path: str, at: Instant | None) -> bool:
    try:
        client.stat(path, at=at)
    except FileNotFoundError:
        return False
    return True

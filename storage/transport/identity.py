"""An `Identity` as a URI, the one spelling of it in certificates and greetings. Pure.

    cascadefs://CLUSTER/ROLE/NAME?uid=RANGE&uid=RANGE&gid=RANGE

A range is ``FIRST``, ``FIRST-LAST``, or either with ``:TARGET`` behind it where the numbers are others here. Without any
``uid`` the peer speaks for no user. What is printed parses to the same identity, and there is one way to print it
(FORMAT, "Certificates").
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from storage.transport.contract import Identity, IdMap, IdRange, Role

__all__ = ["NAME", "URI_BYTES_MAX", "parse", "serial", "spell"]

URI_BYTES_MAX = 4096
"""A greeting is read into memory before anybody is known to be at the other end."""

RANGES_MAX = 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RANGE = re.compile(r"(0|[1-9][0-9]{0,9})(?:-([1-9][0-9]{0,9}))?(?::(0|[1-9][0-9]{0,9}))?")
ID_END = 2**32 - 1


def spell(identity: Identity) -> str:
    """The URI of an identity.

    Raises:
        ValueError: A name in it is none; the message says which.
    """
    for what, name in (("cluster", identity.cluster), ("name", identity.name)):
        if not NAME.fullmatch(name):
            raise ValueError(f"{what} {name!r}: use 1 to 64 letters, digits, '.', '_' and '-'")
    pairs = [("uid", r) for r in identity.uids.ranges] + [("gid", r) for r in identity.gids.ranges]
    query = "&".join(f"{key}={_spell_range(r)}" for key, r in pairs)
    uri = f"cascadefs://{identity.cluster}/{identity.role.value}/{identity.name}"
    uri += f"?{query}" if query else ""
    if len(uri) > URI_BYTES_MAX:
        raise ValueError(f"{identity}: its maps of users and groups are too long")
    return uri


def serial(number: int) -> str:
    """How a certificate's serial number is written: hexadecimal, without leading zeros."""
    return f"{number:x}"


def parse(uri: str) -> Identity:
    """The identity that a URI spells.

    Raises:
        ValueError: It is none; the message says what is wrong.
    """
    if len(uri) > URI_BYTES_MAX:
        raise ValueError("an identity longer than 4096 characters")
    parts = urlsplit(uri)
    path = parts.path.split("/")
    if parts.scheme != "cascadefs" or len(path) != 3 or path[0] or parts.fragment:
        raise ValueError(f"{uri[:100]!r} is not cascadefs://CLUSTER/ROLE/NAME")
    if not NAME.fullmatch(parts.netloc) or not NAME.fullmatch(path[2]):
        raise ValueError(f"{uri[:100]!r}: no cluster or no name in it")
    try:
        role = Role(path[1])
    except ValueError:
        raise ValueError(f"{uri[:100]!r}: the role is none of node, mount, client") from None
    maps: dict[str, list[IdRange]] = {"uid": [], "gid": []}
    query = (
        parse_qsl(parts.query, strict_parsing=True, keep_blank_values=True) if parts.query else []
    )
    for key, value in query:
        if key not in maps:
            raise ValueError(f"{uri[:100]!r}: {key[:20]!r} is neither uid nor gid")
        maps[key].append(_parse_range(value))
    if max(map(len, maps.values())) > RANGES_MAX:
        raise ValueError(f"{uri[:100]!r}: more than {RANGES_MAX} ranges")
    uids, gids = (IdMap(tuple(ranges)) for ranges in maps.values())
    return Identity(parts.netloc, role, path[2], uids, gids)


def _spell_range(r: IdRange) -> str:
    last = "" if r.count == 1 else f"-{r.first + r.count - 1}"
    return f"{r.first}{last}" + ("" if r.target == r.first else f":{r.target}")


def _parse_range(text: str) -> IdRange:
    match = RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no range of users or groups; write FIRST-LAST:TARGET")
    first = int(match[1])
    count = int(match[2] or first) - first + 1
    target = int(match[3] or first)
    if count < 1 or max(first, target) + count > ID_END:
        raise ValueError(f"{text[:40]!r}: a range ends before it begins, or beyond {ID_END - 1}")
    return IdRange(first, target, count)

"""Where a value stands in the authority and how it is written there: a key, and JSON that people can read.

Below a prefix (``/cascadefs/`` unless the configuration says otherwise): ``cluster``, ``pools/NAME``,
``shards/NUMBER``, ``nodes/NAME``, ``epochs/NUMBER``, ``live/NAME``, ``certificates/SERIAL``, ``recovered``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from storage import limits
from storage.membership.values import (
    Certificate,
    Cluster,
    Epoch,
    Node,
    Pool,
    Presence,
    Recovered,
    Shard,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.membership.contract import Change
    from storage.membership.values import Value

__all__ = ["Kept", "Unreadable", "decode", "encode", "key_of", "keys_changed"]

Kept: TypeAlias = "Value | Presence"
"""All that has a key."""

T = TypeVar("T")

_kinds: dict[str, msgspec.json.Decoder[Kept]] = {
    "cluster": msgspec.json.Decoder(Cluster),
    "pools": msgspec.json.Decoder(Pool),
    "shards": msgspec.json.Decoder(Shard),
    "nodes": msgspec.json.Decoder(Node),
    "epochs": msgspec.json.Decoder(Epoch),
    "live": msgspec.json.Decoder(Presence),
    "certificates": msgspec.json.Decoder(Certificate),
    "recovered": msgspec.json.Decoder(Recovered),
}


class Unreadable(ValueError):
    """A key or value of the authority that is none of ours; the message names the key."""


def key_of(value: Kept) -> str:
    """The key below the prefix."""
    match value:
        case Cluster():
            return "cluster"
        case Pool(name=name):
            return f"pools/{name}"
        case Shard(shard=shard):
            return f"shards/{shard}"
        case Node(name=name):
            return f"nodes/{name}"
        case Epoch(shard=shard):
            return f"epochs/{shard}"
        case Presence(name=name):
            return f"live/{name}"
        case Certificate(serial=serial):
            return f"certificates/{serial}"
        case Recovered():
            return "recovered"


def encode(value: Kept) -> bytes:
    """The value as it is kept; `decode` with its key gives it back."""
    return msgspec.json.encode(value)


def decode(key: str, raw: bytes) -> Kept:
    """The value kept under a key.

    Raises:
        Unreadable: the key is of no known kind, or the value is not one of that kind, or stands under another's key.
    """
    decoder = _kinds.get(key.partition("/")[0])
    if decoder is None:
        raise Unreadable(f"{key}: a key of no known kind")
    try:
        value = decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise Unreadable(f"{key}: {error}") from error
    if key_of(value) != key:
        raise Unreadable(f"{key}: holds what belongs at {key_of(value)}")
    return value


def keys_changed(changes: Sequence[Change]) -> list[str]:
    """The key of each change. Changes that no caller may ask for (`Authority.change`) are a bug here."""
    assert 0 < len(changes) <= limits.CHANGES_MAX
    keys = [_key_changed(change) for change in changes]
    assert len(set(keys)) == len(keys)
    return keys


def _key_changed(change: Change) -> str:
    old, new = change
    both = [value for value in (old, new) if value is not None]
    assert both
    assert len({key_of(value) for value in both}) == 1
    if isinstance(both[0], Epoch):
        assert isinstance(new, Epoch)
        assert new.epoch == (old.epoch if isinstance(old, Epoch) else 0) + 1
        assert new.leader in new.members
        assert len(set(new.members)) == len(new.members)
        assert not new.forced or new.members == (new.leader,)
    return key_of(both[0])

"""`user.cascade.*`: extended attributes that are answered from history, not stored (SEMANTICS 10).

Answered by name, never listed, so `cp -a` and `rsync -X` do not carry them off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

from cascadefs import vpath
from cascadefs.filesystem.node import Live, Node, Past
from storage.attributes import REGULAR, TYPE_MASK, is_directory
from storage.errors import Reason, Refused
from storage.namespace.keys import BUDGET_XATTR, HOME_XATTR
from storage.namespace.quotas import QUOTA_XATTR
from storage.retention import HOLD, RETENTION
from triggers import provenance

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.filesystem.history import History
    from storage.attributes import Attributes
    from storage.store import Store

__all__ = ["EVENT_TIME", "IF_VERSION", "PREFIX", "STORED", "Answers"]

PREFIX = b"user.cascade."

STORED = frozenset({PREFIX + b"at_names", RETENTION, HOLD, QUOTA_XATTR, BUDGET_XATTR, HOME_XATTR})
"""Those of ours that are settings of a directory, stored like any other attribute."""

EVENT_TIME = PREFIX + b"event_time"
"""Of a directory a setting, stored; of a file said of what is being written, and answered from history."""

IF_VERSION = PREFIX + b"if_version"
"""Of a file that is open: what is being written depends on it (`claims`, `conditional`)."""

HASH_BLOCK_BYTES = 1 << 20

_EVER = 2**64 - 1


class Answers:
    """Computes the read-only attributes of a node."""

    def __init__(self, store: Store, history: History) -> None:
        self._store = store
        self._history = history
        self._answers: dict[bytes, Callable[[Live | Past], bytes | None]] = {
            b"version": self._version,
            b"head": self._head,
            b"commit_time": self._commit_time,
            b"event_time": self._event_time,
            b"resolved_time": self._resolved_time,
            b"canonical": self._canonical,
            b"hash": self._hash,
            b"origin": self._origin,
            b"fid": lambda node: b"%d" % _inode(node),
            b"store_version": lambda node: (
                b"%d:%d"
                % (self._store.shard_of(_inode(node)), self._attributes(node).content_timestamp)
            ),
            b"moved_to": self._moved_to,
            b"clock_skew_us": lambda node: b"%d" % self._history.clock_skew_us(),
            b"shard": lambda node: b"%d" % self._store.shard_of(_inode(node)),
            b"stable_time": lambda node: vpath.format_time(self._store.now()),
            b"labels": self._labels,
            b"from": self._from,
            b"stored_bytes": lambda node: b"%d" % self._attributes(node).stored,
        }

    def get(self, node: Node, name: bytes) -> bytes:
        """The value of `user.cascade.NAME`.

        Raises:
            Refused: NO_SUCH_ATTRIBUTE for an unknown one, or where it says nothing about this node.
        """
        answer = self._answers.get(name.removeprefix(PREFIX))
        if answer is None or not isinstance(node, Live | Past):
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        value = answer(node)
        if value is None:
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        return value

    def _attributes(self, node: Live | Past) -> Attributes:
        if isinstance(node, Past):
            return node.attributes
        attributes = self._store.attributes(node.number)
        assert attributes is not None
        return attributes

    def _since(self, node: Live | Past) -> int:
        """As of when a node is asked about: of a live one, all that anybody has committed, in its own shard alone."""
        if isinstance(node, Past):
            return node.since
        self._store.refresh(node.number)
        return _EVER

    def _alias(self, node: Live | Past) -> tuple[int, bytes, int | None] | None:
        if node.alias is None:
            return None
        return node.alias if len(node.alias) == 3 else (*node.alias, None)

    def _number(self, node: Live | Past) -> int | None:
        alias = self._alias(node)
        if alias is None:
            return None
        return self._history.version_number(alias, self._since(node)) or None

    def _version(self, node: Live | Past) -> bytes | None:
        number = self._number(node)
        return b"%d" % number if number is not None else None

    def _head(self, node: Live | Past) -> bytes | None:
        alias = self._alias(node)
        head = self._store.head(alias[0], alias[1]) if alias is not None else 0
        return b"%d" % head if head else None

    def _commit_time(self, node: Live | Past) -> bytes | None:
        timestamp = self._attributes(node).content_timestamp
        return vpath.format_time(timestamp) if timestamp else None

    def _event_time(self, node: Live | Past) -> bytes | None:
        """When what a version of a file tells of happened: as its writer said, else when it was committed."""
        alias, number = self._alias(node), self._number(node)
        if alias is None or number is None or is_directory(self._attributes(node).mode):
            return None
        event_us = self._store.event_of(alias[0], alias[1], number)
        if event_us is None:
            version = self._store.version(alias[0], alias[1], number)
            event_us = version.timestamp if version is not None else None
        return vpath.format_time(event_us) if event_us is not None else None

    def _resolved_time(self, node: Live | Past) -> bytes | None:
        return vpath.format_time(node.timestamp) if isinstance(node, Past) else None

    def _canonical(self, node: Live | Past) -> bytes | None:
        alias = self._alias(node)
        if isinstance(node, Past) and node.is_directory:
            return vpath.format_at(alias[1] if alias is not None else b".", node.timestamp)
        number = self._number(node)
        if alias is None or number is None:
            return None
        return vpath.format_version(alias[1], number)

    def _hash(self, node: Live | Past) -> bytes | None:
        """xxh3-64 of the committed content."""
        attributes = self._attributes(node)
        if attributes.mode & TYPE_MASK != REGULAR:
            return None
        timestamp = node.timestamp if isinstance(node, Past) else None
        if timestamp is None and self._store.has_others:
            timestamp = attributes.content_timestamp  # They may commit another between two blocks.
        digest = xxhash.xxh3_64()
        for offset in range(0, attributes.size, HASH_BLOCK_BYTES):
            digest.update(
                self._store.read(_inode(node), attributes, timestamp, offset, HASH_BLOCK_BYTES)
            )
        return digest.hexdigest().encode()

    def _origin(self, node: Live | Past) -> bytes | None:
        alias = self._alias(node)
        if alias is None:
            return None
        binding = self._store.binding_at(alias[0], alias[1], self._since(node))
        if binding is None or not binding.origin_directory:
            return None
        path = self._history.path_of(binding.origin_directory, binding.origin_name)
        return path.encode(errors="surrogateescape") if path is not None else None

    def _moved_to(self, node: Live | Past) -> bytes | None:
        """Where a rename took what a name of the past showed."""
        alias = self._alias(node)
        number = self._number(node)
        if alias is None or number is None:
            return None
        end = self._history.end_of(alias[0], alias[1], number)
        if end is None or not end.moved_directory:
            return None
        path = self._history.path_of(end.moved_directory, end.moved_name)
        return path.encode(errors="surrogateescape") if path is not None else None

    def _from(self, node: Live | Past) -> bytes | None:
        """Which run of a script committed this content, and from what (docs/TRIGGERS.md 10)."""
        attributes = self._attributes(node)
        if attributes.mode & TYPE_MASK != REGULAR or not attributes.content_timestamp:
            return None
        kept = self._store.provenance_of(_inode(node), attributes.content_timestamp)
        return provenance.as_json(provenance.decode(kept)) if kept is not None else None

    def _labels(self, node: Live | Past) -> bytes | None:
        names = [label for label, _ in self._store.labels(_inode(node))]
        return b" ".join(names) if names else None


def _inode(node: Live | Past) -> int:
    return node.inode if isinstance(node, Past) else node.number

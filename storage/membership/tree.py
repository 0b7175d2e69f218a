"""The authority's keys as last heard, and the `View` they make.

Fed with whole readings and with events of a watch, in any mixture: each key's revision says which is newer. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from storage.membership.keys import Unreadable, decode
from storage.membership.values import (
    Certificate,
    Cluster,
    Epoch,
    Node,
    Pool,
    Presence,
    Recovered,
    Shard,
    View,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from storage.membership.keys import Kept

__all__ = ["Event", "Item", "Tree", "view_of"]


class Item(NamedTuple):
    """A key below the prefix, the revision it was last changed at, and its bytes."""

    key: str
    revision: int
    raw: bytes


class Event(NamedTuple):
    """A key changed at a revision; None: it was removed."""

    key: str
    revision: int
    raw: bytes | None


def view_of(revision: int, values: Iterable[Kept | None]) -> View:
    """The view of everything that is kept at a revision. Some hundred values at most, and seldom changed."""
    kept = list(values)
    return View(
        revision=revision,
        cluster=next((value for value in kept if isinstance(value, Cluster)), None),
        pools={value.name: value for value in kept if isinstance(value, Pool)},
        shards={value.shard: value for value in kept if isinstance(value, Shard)},
        nodes={value.name: value for value in kept if isinstance(value, Node)},
        epochs={value.shard: value for value in kept if isinstance(value, Epoch)},
        live={value.name: value for value in kept if isinstance(value, Presence)},
        certificates={value.serial: value for value in kept if isinstance(value, Certificate)},
        recovered=next((value for value in kept if isinstance(value, Recovered)), None),
    )


class Tree:
    """What the authority keeps, as far as it was heard.

    Invariant: `view` is exactly what the authority kept at ``view.revision``, less what is in `unreadable`.
    """

    __slots__ = ("_items", "unreadable", "view")

    def __init__(self) -> None:
        self._items: dict[str, tuple[int, Kept | None]] = {}
        self.unreadable: dict[str, str] = {}
        """Keys whose values were not understood (a newer version's, a stranger's), with what was wrong."""
        self.view = View()

    def reset(self, revision: int, items: Iterable[Item]) -> bool:
        """Take a whole reading as of `revision`; answers whether it was newer than what was there."""
        if revision <= self.view.revision:
            return False
        self._items.clear()
        self.unreadable.clear()
        for key, changed, raw in items:
            self._put(key, changed, raw)
        self.view = view_of(revision, (value for _, value in self._items.values()))
        return True

    def apply(self, revision: int, events: Iterable[Event]) -> bool:
        """Take all events up to `revision` behind what was taken before; answers whether that was news.

        Events that are already part of a newer reading are left out.
        """
        if revision <= self.view.revision:
            return False
        for key, changed, raw in events:
            if changed <= self.view.revision:
                continue
            if raw is None:
                self._items.pop(key, None)
                self.unreadable.pop(key, None)
            else:
                self._put(key, changed, raw)
        self.view = view_of(revision, (value for _, value in self._items.values()))
        return True

    def revision_of(self, key: str, expected: Kept | None) -> int | None:
        """The revision (0: absent) of a key, if what stands there is what is expected; else None."""
        revision, value = self._items.get(key, (0, None))
        if value != expected or (expected is None and revision):
            return None
        return revision

    def _put(self, key: str, revision: int, raw: bytes) -> None:
        self.unreadable.pop(key, None)
        try:
            self._items[key] = (revision, decode(key, raw))
        except Unreadable as error:
            self._items[key] = (revision, None)
            self.unreadable[key] = str(error)

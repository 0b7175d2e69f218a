"""The root's `.cascade` directory: served, never listed (SEMANTICS 9), and what is served in those that hold scripts.

`README` for people who stumble on it, `status` as JSON, `at/<time>/` the whole tree as of any instant, and
`by-id/<inode>/v<N>` content by inode number whatever its names are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cascadefs.filesystem.node import Listing, Node, Text
from cascadefs.filesystem.scripts import SERVED
from storage.namespace import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cascadefs.filesystem.history import History
    from cascadefs.filesystem.scripts import Scripts
    from storage.store import Store

__all__ = ["Control"]

README = b"""\
This directory belongs to cascadefs, the file system in which every file remembers.

  cat file@v3                      the third version of that name
  cat 'file@t=2026-11-21T10:00'    what it was then (UTC); also file@20261121T100000Z, file@-10m
  ls dir@-1h/                      a whole directory as it was, one consistent cut
  ls -l file@@/                    every version of a file;  ls dir@@/  instants of a directory
  ls dir/.@deleted/                names deleted there, readable as they were last
  cp file@v3 file                  restore: commits a new version, history is never rewound

Here: at/<time>/ is the whole tree as of then, by-id/<inode>/v<N> content by inode number, status is JSON.
It is found by name in the root of the mount and never listed. docs/SEMANTICS.md has all the rules.
"""


class Control:
    """Builds the nodes of the control directory."""

    def __init__(
        self,
        store: Store,
        history: History,
        status: Callable[[], dict[str, object]],
        name: bytes = b".cascade",
    ) -> None:
        self._store = store
        self._history = history
        self._status = status
        self.name = name
        self._children: dict[bytes, Callable[[], Node]] = {
            b"README": lambda: self._text(b"README", lambda: iter((README,))),
            b"at": lambda: self._listing(("at",), self._at, {}),
            b"by-id": lambda: self._listing(("by-id",), self._by_id, {}),
            b"status": lambda: self._text(b"status", self._status_text),
        }
        self.served = SERVED | self._children.keys()
        """The names that may be served in a `.cascade` that is stored: a look at the name tells whether to ask."""
        self.scripts: Scripts[Any] | None = None
        """What is known of scripts, where triggers are on."""

    def base_of(self, directory: int) -> int | None:
        """The directory in which this one is stored as `.cascade`; None if it is called otherwise."""
        names = self._store.names_at(directory)
        return names[0][0] if len(names) == 1 and names[0][1] == self.name else None

    def within(self, directory: int, name: bytes) -> Node | None:
        """What a name means that is not stored in a directory: something served, if that is a `.cascade`."""
        base = self.base_of(directory)
        if base is None:
            return None
        if base == ROOT and name in self._children:
            return self._children[name]()
        return self.scripts.lookup(base, name) if self.scripts is not None else None

    def root(self) -> Listing:
        """`.cascade` itself."""
        children = self._children

        def lookup(name: bytes) -> Node | None:
            make = children.get(name)
            return make() if make is not None else None

        return self._listing(("control",), lookup, children)

    def _status_text(self) -> Iterator[bytes]:
        yield json.dumps(self._status(), indent=2).encode() + b"\n"

    def _at(self, name: bytes) -> Node | None:
        return self._history.tree(ROOT, name)

    def _by_id(self, name: bytes) -> Node | None:
        inode = _number(name)
        attributes = self._store.attributes(inode) if inode is not None else None
        if inode is None or attributes is None:
            return None
        versions = range(1, attributes.content + 1)

        def lookup(text: bytes) -> Node | None:
            number = _number(text[1:]) if text[:1] == b"v" else None
            timestamp = self._store.content_timestamp(inode, number) if number else None
            return self._history.past(inode, timestamp) if timestamp is not None else None

        def names(after: bytes) -> Iterator[bytes]:
            done = int(after[1:]) if after else 0
            return (b"v%d" % number for number in versions[done:])

        return Listing(
            ("by-id", inode),
            lookup,
            names,
            uid=attributes.uid,
            gid=attributes.gid,
            time_ns=attributes.mtime_ns,
            # Here no directory of then stands in the way, so nobody may pass whom one may have kept out.
            mode=0o500,
        )

    def _listing(
        self,
        key: tuple[object, ...],
        lookup: Callable[[bytes], Node | None],
        names: dict[bytes, Callable[[], Node]],
    ) -> Listing:
        listed = sorted(names)

        def behind(after: bytes) -> Iterator[bytes]:
            return (name for name in listed if name > after)

        return Listing((b"control", *key), lookup, behind, uid=0, gid=0, time_ns=self._time_ns())

    def _text(self, name: bytes, produce: Callable[[], Iterator[bytes]]) -> Text:
        return Text(("control-text", name), produce, uid=0, gid=0, time_ns=self._time_ns())

    def _time_ns(self) -> int:
        root = self._store.attributes(ROOT)
        assert root is not None
        return root.mtime_ns


def _number(digits: bytes) -> int | None:
    """A number in its one spelling, or None."""
    canonical = digits.isdigit() and len(digits) <= 15 and not digits.startswith(b"0")
    return int(digits) if canonical else None

"""What is served in a `.cascade` that holds scripts: how they are, what they said, what failed, and a file for commands.

A `.cascade` with scripts is a stored directory like any other, and `watch/` and `lib/` in it are stored. The names
below are answered by look-ups in it, never listed, and nobody can make them, so copying and removing trees meet
nothing but scripts. Source: docs/TRIGGERS.md 1, 11.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

from cascadefs.filesystem.node import Listing, Node, Pointer, Text
from cascadefs.filesystem.served import commands, stream
from storage.errors import Reason, Refused
from storage.limits import SYMLINK_BYTES_MAX
from triggers.operator import BadCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cascadefs.filesystem.served import Stream
    from storage.attributes import Attributes
    from storage.store import Store
    from triggers.provenance import Letter
    from triggers.queue import Position

__all__ = ["SERVED", "Scripts"]

SERVED = frozenset({b"status", b"status.json", b"events", b"log", b"failed", b"metrics", b"ctl"})


class Binding(Protocol):
    """What is shown of a binding."""

    @property
    def name(self) -> bytes:
        """As its files are called."""
        ...

    @property
    def output(self) -> Stream:
        """What its runs printed."""
        ...


B = TypeVar("B", bound=Binding)


class Answers(Protocol[B]):
    """Who knows about scripts: `triggers.operator.Operator` where they run, `triggers.onlooker.Onlooker` elsewhere.

    `Refused` with UNSUPPORTED is raised for what is not known here.
    """

    unknown: frozenset[bytes]
    """The files that tell of what is not known here."""

    def command(self, line: str, base: int) -> None:
        """Do what a line says."""
        ...

    def refused(self, line: str, why: str, base: int) -> None:
        """Note that it was not done."""
        ...

    def rearm(self, follower: B, position: Position, *, again: bool) -> None:
        """Do a dead letter again, or forget it."""
        ...

    def letters(self, follower: B) -> list[tuple[str, Letter]]:
        """The dead letters of a binding."""
        ...

    def followers(self, base: int) -> list[B]:
        """The bindings of a base."""
        ...

    def events(self, base: int) -> Stream:
        """What happened."""
        ...

    def status(self, only: int) -> dict[str, object]:
        """How the bindings of a base are."""
        ...

    def status_text(self, only: int) -> str:
        """The same for people."""
        ...

    def metrics(self, only: int) -> str:
        """Figures for Prometheus."""
        ...


class Scripts(Generic[B]):
    """Builds the nodes of one store's bases."""

    def __init__(self, store: Store, operator: Answers[B]) -> None:
        self._store = store
        self._operator = operator
        self._removed: dict[tuple[object, ...], set[bytes]] = {}
        """Of a dead letter: its files that somebody has removed, on the way to removing it."""

    def lookup(self, base: int, name: bytes) -> Node | None:
        """What `name` is in the `.cascade` of a base; None for what is not served.

        Raises:
            Refused: UNSUPPORTED for what can be told where scripts run only.
        """
        if name in self._operator.unknown:
            raise Refused(Reason.UNSUPPORTED)
        owner = self._store.attributes(base)
        if owner is None:
            return None
        operator = self._operator
        made: dict[bytes, Callable[[], Node]] = {
            b"status": lambda: self._text(
                base, b"status", owner, lambda: _encoded(operator.status_text(base))
            ),
            b"status.json": lambda: self._text(
                base,
                b"status.json",
                owner,
                lambda: json.dumps(operator.status(base), indent=2).encode() + b"\n",
            ),
            b"metrics": lambda: self._text(
                base, b"metrics", owner, lambda: _encoded(operator.metrics(base))
            ),
            b"events": lambda: stream(
                ("events", base), operator.events(base), uid=owner.uid, gid=owner.gid, time_ns=0
            ),
            b"ctl": lambda: commands(
                ("ctl", base), partial(self._command, base), uid=owner.uid, gid=owner.gid, time_ns=0
            ),
            b"log": lambda: self._listing(("log", base), owner, self._outputs(base, owner)),
            b"failed": lambda: self._listing(("failed", base), owner, self._failed(base, owner)),
        }
        make = made.get(name)
        return make() if make is not None else None

    def _command(self, base: int, line: str) -> None:
        try:
            self._operator.command(line, base)
        except BadCommand as error:
            self._operator.refused(line, str(error), base)
            raise

    def _outputs(self, base: int, owner: Attributes) -> Mapping[bytes, Callable[[], Node]]:
        return {
            follower.name: partial(
                stream,
                ("log", base, follower.name),
                follower.output,
                uid=owner.uid,
                gid=owner.gid,
                time_ns=0,
            )
            for follower in self._operator.followers(base)
        }

    def _failed(self, base: int, owner: Attributes) -> Mapping[bytes, Callable[[], Node]]:
        return {
            follower.name: partial(self._letters, base, owner, follower)
            for follower in self._operator.followers(base)
        }

    def _letters(self, base: int, owner: Attributes, follower: B) -> Node:
        dead = {
            name.encode(): (letter.event.position, letter)
            for name, letter in self._operator.letters(follower)
        }
        letters = {
            name: partial(self._letter, base, owner, follower.name, letter)
            for name, (_, letter) in dead.items()
        }

        def remove(name: bytes, directory: bool) -> None:
            letter = letters.get(name)
            if letter is None:
                raise Refused(Reason.ABSENT)
            if not directory:
                raise Refused(Reason.IS_A_DIRECTORY)
            node = letter()
            assert isinstance(node, Listing)
            if next(node.names(b""), None) is not None:
                raise Refused(Reason.NOT_EMPTY)
            position, _ = dead[name]
            self._operator.rearm(follower, position, again=False)
            self._removed.pop(node.key(), None)

        return self._listing(("failed", base, follower.name), owner, letters, remove)

    def _letter(self, base: int, owner: Attributes, name: bytes, letter: Letter) -> Node:
        event = msgspec.to_builtins(letter.event)
        told = {
            **event,
            "failure": letter.kind,
            "message": letter.message,
            "died_ns": letter.died_ns,
        }
        told["attempts"] = letter.attempts
        key = ("letter", base, name, *letter.event.position)
        version = f"{letter.event.path}@v{letter.event.version}".encode(errors="surrogateescape")
        above = b"../" * 4
        files: dict[bytes, Callable[[], Node]] = {
            b"event.json": lambda: self._text(
                key, b"event.json", owner, lambda: json.dumps(told, indent=2).encode() + b"\n"
            ),
            b"traceback": lambda: self._text(
                key, b"traceback", owner, lambda: letter.traceback.encode(errors="replace")
            ),
            b"output": lambda: self._text(key, b"output", owner, lambda: letter.output),
        }
        if len(above + version) <= SYMLINK_BYTES_MAX:
            files[b"input"] = lambda: Pointer(
                (*key, "input"), above + version, uid=owner.uid, gid=owner.gid
            )
        removed = self._removed.get(("scripts", *key), set())

        def remove(name: bytes, directory: bool) -> None:
            if name not in files or name in removed:
                raise Refused(Reason.ABSENT)
            if directory:
                raise Refused(Reason.NOT_A_DIRECTORY)
            removed.add(name)
            self._removed[("scripts", *key)] = removed

        left = {name: make for name, make in files.items() if name not in removed}
        return self._listing(key, owner, left, remove)

    @staticmethod
    def _listing(
        key: tuple[object, ...],
        owner: Attributes,
        children: Mapping[bytes, Callable[[], Node]],
        remove: Callable[[bytes, bool], None] | None = None,
    ) -> Node:
        listed = sorted(children)

        def lookup(name: bytes) -> Node | None:
            make = children.get(name)
            return make() if make is not None else None

        def behind(after: bytes) -> Iterator[bytes]:
            return (name for name in listed if name > after)

        return Listing(
            ("scripts", *key), lookup, behind, uid=owner.uid, gid=owner.gid, time_ns=0,
            mode=0o550 if remove is None else 0o750, remove=remove,
        )  # fmt: skip

    @staticmethod
    def _text(key: object, name: bytes, owner: Attributes, produce: Callable[[], bytes]) -> Node:
        return Text(
            ("scripts", key, name),
            lambda: iter((produce(),)),
            uid=owner.uid,
            gid=owner.gid,
            time_ns=0,
            mode=0o440,
        )


def _encoded(text: str) -> bytes:
    """Bytes of names that are no UTF-8 are shown as \\udcXX: what reads this may take UTF-8 only."""
    return text.encode(errors="backslashreplace")

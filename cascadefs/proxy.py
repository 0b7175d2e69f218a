"""The scripts of a cluster, as a mount shows them: what the log says, and what the nodes where they run say and do.

Counts and dead letters are rows of each shard that are here, too (`triggers.onlooker`). Everything else is asked of a node, which passes it on to
the one that leads the shard (`cascadefs.node.desk`); others have the file system meanwhile. Where no node answers, status
is what the log says, and the rest is refused with EAGAIN.

Source: docs/TRIGGERS.md 15.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from cascadefs.client import calls
from storage.errors import Refused
from storage.namespace import ROOT
from triggers.onlooker import Onlooker, Seen, filled, status_text
from triggers.operator import BadCommand, metrics_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from storage.store import Store
    from triggers.provenance import Letter
    from triggers.queue import Position

    Ask = Callable[[int, calls.Order], calls.Told]
    """Has a node do what is asked about a shard. Raises Refused or BadCommand."""

__all__ = ["Proxy", "Stream"]

LOOK_S: Final = 0.5
"""Between two looks whether there is more in a stream that somebody waits for."""


class Stream:
    """A stream of lines at the node that leads. It goes on with that of the next leader, from its beginning."""

    def __init__(
        self,
        ask: Callable[[int, int], calls.Told],
        look: Callable[[], calls.Told],
        waiting: set[Stream],
    ) -> None:
        """`ask`: (offset, length) of the node; `look`: by whom does not hold the store; `waiting`: has this one while somebody waits for more."""
        self._ask = ask
        self._look = look
        self._all_waiting = waiting
        self._life: str | None = None
        self._shift = 0
        """What is added to the offsets of this leader's stream."""
        self._reached = 0
        self._waiting: dict[object, Callable[[], None]] = {}

    @property
    def start(self) -> int:
        """The offset of the oldest line kept."""
        return self._told(0, 0).start + self._shift

    @property
    def end(self) -> int:
        """The offset behind the last line."""
        return self._told(0, 0).end + self._shift

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from an offset on; empty at the end."""
        return self._told(offset, size).data

    def wait(self, who: object, wake: Callable[[], None]) -> None:
        """Call `wake` when there is more, once."""
        self._waiting[who] = wake
        self._all_waiting.add(self)

    def wait_no_more(self, who: object) -> None:
        """Take back what `wait` asked for; harmless if it was not asked."""
        self._waiting.pop(who, None)
        if not self._waiting:
            self._all_waiting.discard(self)

    def wake(self) -> None:
        """There is more. With the file system held."""
        waiting, self._waiting = self._waiting, {}
        self._all_waiting.discard(self)
        for wake in waiting.values():
            wake()

    def has_more(self) -> bool:
        """Whether there is more than anybody was told. By whom does not hold the store."""
        try:
            told = self._look()
        except (Refused, BadCommand, OSError):
            return False
        return told.life != self._life or told.end + self._shift > self._reached

    def _told(self, offset: int, size: int) -> calls.Told:
        told = self._ask(max(0, offset - self._shift), size)
        if told.life != self._life:
            if self._life is not None:
                self._shift = self._reached - told.start
                told = self._ask(max(0, offset - self._shift), size)
            self._life = told.life
        self._reached = max(self._reached, told.end + self._shift)
        return told


class Bound(NamedTuple):
    """A binding of a cluster, with its output."""

    seen: Seen
    output: Stream

    @property
    def name(self) -> bytes:
        """As its files are called."""
        return self.seen.name


class Proxy:
    """`triggers.operator.Operator` of all the scripts of a cluster. Whoever calls holds the store, but for `run`."""

    unknown: frozenset[bytes] = frozenset()
    """See `Operator`."""

    def __init__(self, store: Store, ask: Ask, ask_beside: Ask) -> None:
        """`ask` lets others have the store, which the caller holds; `ask_beside` is for callers that do not."""
        self._store = store
        self._log = Onlooker(store)
        self._ask = ask
        self._ask_beside = ask_beside
        self._waiting: set[Stream] = set()

    async def run(self, apart: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Wake whoever waits for more of a stream, until cancelled. `apart` calls something with the file system held."""
        while True:
            await trio.sleep(LOOK_S)  # noqa: TID251  Nodes tell nobody of it.
            for stream in list(self._waiting):
                if await trio.to_thread.run_sync(stream.has_more):
                    await apart(stream.wake)

    # --- commands ----------------------------------------------------------------------------------------------

    def command(self, line: str, base: int = ROOT) -> None:
        """Do what one line says: about dead letters that are in the log here, what else there is where it runs.

        Raises:
            BadCommand: it cannot be done.
            Refused: nobody answers, or scripts do not run.
        """
        word = line.strip().partition(" ")[0]
        if word in ("retry", "drop"):
            try:
                self._log.command(line, base)
            except BadCommand:
                pass  # What holds up its key is no dead letter; the engine has it.
            else:
                return
        self._ask_about(base, "command", line.strip().encode(errors="surrogateescape"))

    def refused(self, line: str, why: str, base: int) -> None:
        """It is in the stream of events already, where it was refused."""

    def rearm(
        self, follower: Bound, position: Position, *, again: bool, as_was: bool = False
    ) -> None:
        """See `Onlooker`."""
        self._log.rearm(follower.seen, position, again=again, as_was=as_was)

    # --- answers -----------------------------------------------------------------------------------------------

    def followers(self, base: int) -> list[Bound]:
        """The bindings of a base."""
        return [
            Bound(seen, self._stream(base, "log", seen.name)) for seen in self._log.followers(base)
        ]

    def letters(self, follower: Bound) -> list[tuple[str, Letter]]:
        """See `Onlooker`."""
        return self._log.letters(follower.seen)

    def events(self, base: int) -> Stream:
        """The stream of what happens in a base."""
        return self._stream(base, "events", b"")

    def status(self, only: int | None = None) -> dict[str, Any]:
        """How every binding is, or those of one base, JSON-able; None for what no node tells."""
        told: dict[str, Any] = {}
        try:
            answer = self._ask_about(ROOT if only is None else only, "status", b"")
            told = json.loads(answer.data)  # Names that are no UTF-8 are in it, as surrogates.
        except (Refused, BadCommand, OSError):
            pass
        return filled(self._log.status(only), told)  # The log last: it is at least as far.

    def status_text(self, only: int | None = None) -> str:
        """For people."""
        return status_text(self.status(only))

    def metrics(self, only: int | None = None) -> str:
        """Prometheus text; nothing for what no node tells."""
        return metrics_of(self.status(None if only == ROOT else only))

    # --- leaves ------------------------------------------------------------------------------------------------

    def _ask_about(self, base: int, what: Any, text: bytes) -> calls.Told:
        return self._ask(self._store.shard_of(base), calls.Order(base, what, text))

    def _stream(self, base: int, what: Any, text: bytes) -> Stream:
        shard = self._store.shard_of(base)

        def ask(offset: int, length: int) -> calls.Told:
            return self._ask(shard, calls.Order(base, what, text, offset, length))

        def look() -> calls.Told:
            return self._ask_beside(shard, calls.Order(base, what, text))

        return Stream(ask, look, self._waiting)

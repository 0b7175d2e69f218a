"""Replays: events of the past run once more, for a newer script or to make files again that are gone.

A replay is a binding of its own, `NAME@replay-TIME`, with a queue, a mark and a state of its own, over a span of the log
or some events in it; it ends by itself, also after a restart. Making a file again is the replay of the one run that
wrote it: with the script, the events and the cut that its provenance names, and of what it writes now only that file is
kept.

Source: docs/TRIGGERS.md 4, 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from storage import record
from triggers import provenance
from triggers.follower import REPLAYED, encode_definition, own_name
from triggers.loading import REPLAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triggers.engine import Engine
    from triggers.follower import Definition, Follower
    from triggers.queue import Position

__all__ = ["Replays", "Unmakeable"]


class Unmakeable(ValueError):
    """A file cannot be made again; the message says why."""


class Replays:
    """Of one engine. Whoever calls holds the store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(
        self,
        follower: Follower,
        since: int,
        until: int,
        events: Sequence[Position] = (),
    ) -> str:
        """Run the newest version of a binding once more for events of the past; the replay's name.

        Args:
            follower: the binding.
            since: what was committed behind this timestamp,
            until: and up to this one.
            events: of that span only these; empty: all.
        """
        newest = follower.newest
        assert newest is not None, "a follower was active once"
        definition = msgspec.structs.replace(
            newest, until=until, events=list(events), outputs=[], cut=0
        )
        return self._begin(follower, definition, since)

    def remake(self, base: int | None, path: str, timestamp: int) -> str:
        """Make a file again as a run made it; the replay's name.

        Args:
            base: where the run was; None: anywhere.
            path: of the file, relative to its base, as the run wrote it.
            timestamp: of the commit in which the run wrote it.

        Raises:
            Unmakeable: no run wrote that, or what it ran is not known any more.
        """
        engine = self._engine
        address = engine.store.deliveries.finish_address(timestamp)
        finish = engine.store.committed_at(address).record if address is not None else None
        if not isinstance(finish, record.Finish) or base not in (None, finish.base):
            raise Unmakeable(f"{path}: no run wrote a file at {timestamp}; a program did")
        known = provenance.decode(finish.provenance)
        written = {output.rpartition("@v")[0] for output in known.outputs}
        if path not in written:
            raise Unmakeable(f"{path}: run {known.run} wrote {', '.join(sorted(written)) or '-'}")
        follower = engine.registry.get((finish.base, own_name(finish.consumer)))
        then = None
        if follower is not None:
            then = next(
                (
                    one
                    for _, one in follower.definitions
                    if one and one.script_id == known.script_id
                ),
                None,
            )
        if follower is None or then is None:
            raise Unmakeable(f"{path}: the script of run {known.run} is not known any more")
        definition = msgspec.structs.replace(
            then,
            until=max(position[0] for position in finish.events),
            events=list(finish.events),
            outputs=[path],
            cut=known.cut,
        )
        return self._begin(follower, definition, min(position[0] for position in finish.events) - 1)

    def _begin(self, follower: Follower, definition: Definition, since: int) -> str:
        engine = self._engine
        number = b"%d" % engine.store.now()
        key = own_name(follower.name) + REPLAYED + number
        low = (since, engine.store.address_of_time(since))
        owner = REPLAY + key
        consumers = [(key, encode_definition(definition), *low)]
        engine.store.propose(record.Activate(follower.base, owner, consumers))
        engine.activated(follower.base, owner)
        return key.decode(errors="surrogateescape")

    def finish(self) -> None:
        """Replays that have come to their end are bindings no more."""
        engine = self._engine
        for key in list(engine.replays):
            follower = engine.registry.get(key)
            newest = follower.newest if follower is not None else None
            if follower is None or newest is None or not follower.active:
                engine.replays.discard(key)
            elif not len(follower.queue) and (follower.live or follower.scanned >= newest.until):
                owner = REPLAY + follower.name
                engine.store.propose(record.Activate(follower.base, owner, []))
                engine.activated(follower.base, owner)
                self._ended(follower)

    def _ended(self, follower: Follower) -> None:
        """What is left of a replay are its dead letters; without any it is known no more, here and after a start."""
        engine = self._engine
        consumer = engine.store.deliveries.consumer(*follower.key)
        failed = len(engine.store.deliveries.letters(*follower.key))
        done = consumer.done if consumer is not None else 0
        engine.report.line(
            follower.base, "replayed", binding=follower.text, done=done, failed=failed
        )
        if not failed:
            engine.registry.remove(follower)

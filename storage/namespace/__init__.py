"""The state machine of one shard: inodes, entries, content and their whole past.

Theory of operation. `apply(timestamp, address, record)` executes one log record and is total and deterministic: a
refusal is an `Outcome`, has no effect and leaves no trace but the record in the log. State lives in versioned maps
over an ordered table (`storage.mvcc`), so every query exists twice: as it is now, and as of a timestamp. A snapshot
is therefore nothing but a timestamp; timestamps strictly increase within a shard.

Modules: `rows` (the maps), `questions` (all that can be asked), and one for each family of records: `names`,
`contents`, `metadata`, `conditions`, `events`, `pruning`, `deliveries`; `sessions` says which were sent twice. `frames` counts who refers to
the log, `quotas` what files hold below some directories; `keys`, `counters` and `outcome` are values they share.

Does not know the log (addresses are opaque), paths, permissions, drafts or who asks.

Sources: DESIGN 4; SEMANTICS 1; POSIX.1-2017 link(), rename(), unlink(), rmdir().
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.errors import Reason
from storage.namespace.conditions import Conditions
from storage.namespace.contents import Contents
from storage.namespace.counters import Counters
from storage.namespace.deliveries import Deliveries
from storage.namespace.events import Events
from storage.namespace.frames import Frames
from storage.namespace.keys import ROOT, first_inode, shard_of
from storage.namespace.metadata import Metadata
from storage.namespace.names import RENAME_EXCHANGE, RENAME_NOREPLACE, Names
from storage.namespace.outcome import DONE, REFUSED, Outcome
from storage.namespace.pruning import Pruning, Sweep
from storage.namespace.questions import KEPT, PRUNED, PURGED, Questions, Version
from storage.namespace.quotas import Quotas
from storage.namespace.rows import Rows
from storage.namespace.sessions import Sessions
from storage.record import (
    Activate,
    Adopt,
    Advance,
    Attempt,
    Batch,
    Close,
    Commit,
    Create,
    CreateUnnamed,
    Denied,
    Detach,
    Drop,
    Event,
    Expect,
    Finish,
    Label,
    Link,
    Once,
    Prune,
    Rearm,
    Record,
    Rename,
    Reserve,
    SetAttributes,
    SetXattr,
    Still,
    Unlabel,
    Unlink,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.table import Table

__all__ = [
    "DONE",
    "KEPT",
    "PRUNED",
    "PURGED",
    "REFUSED",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "ROOT",
    "Counters",
    "Namespace",
    "Outcome",
    "Version",
    "shard_of",
]


class Namespace(Questions):
    """See the module. One owner at a time; nothing here waits."""

    def __init__(
        self,
        table: Table,
        *,
        keep_past: bool = True,
        counters: Counters | None = None,
        shard: int = 0,
        forgets: bool = False,
    ) -> None:
        """The tree that a table holds.

        Args:
            table: its rows.
            keep_past: whether rows are kept with all they ever were.
            counters: None: of an empty table, to be filled in.
            shard: whose.
            forgets: without a past, whether files without a name and names that ended are let go of by time (`forgetting`).
        """
        assert not (keep_past and forgets)
        self.shard = shard
        self.keeps_past = keep_past
        self.counters = counters or Counters(first_inode(shard))
        rows = self._rows = Rows(
            table, self.counters, keep_past=keep_past, shard=shard, forgets=forgets
        )
        self.forgetting = rows.forgetting
        super().__init__(rows)
        events = self.events = Events(rows, self)
        self.conditions = Conditions(self)
        quotas = self.quotas = Quotas(rows, self)
        names, metadata = Names(rows, self, events, quotas), Metadata(rows, quotas)
        pruning = Pruning(rows, self, events)
        self.frames = Frames(rows)
        contents = self._contents = Contents(rows, self, self.frames, quotas)
        self.sweep = Sweep(rows, self, self.frames)
        self.sessions = Sessions(table)
        deliveries = self.deliveries = Deliveries(table, self)
        self.overlong = contents.overlong
        self.released = contents.released
        self.take_overlong = contents.take_overlong
        self.refers = contents.refers
        self.forget = contents.forget
        self._handlers: dict[type, Callable[[int, int, Any], Outcome]] = {
            Create: names.create,
            CreateUnnamed: names.create_unnamed,
            Link: names.link,
            Unlink: names.unlink,
            Rename: names.rename,
            SetAttributes: metadata.set_attributes,
            SetXattr: metadata.set_xattr,
            Write: self._write,
            Commit: contents.commit,
            Label: metadata.label,
            Unlabel: metadata.unlabel,
            Batch: self._batch,
            Expect: self.conditions.expect,
            Still: self.conditions.still,
            Once: self.sessions.once,
            Reserve: names.reserve,
            Close: names.close,
            Detach: names.detach,
            Denied: lambda *_: REFUSED[Reason.NOT_PERMITTED],
            Event: events.event,
            Prune: pruning.prune,
            Drop: pruning.drop,
            Adopt: deliveries.adopt,
            Activate: deliveries.activate,
            Finish: self._finish,
            Attempt: deliveries.attempt,
            Advance: deliveries.advance,
            Rearm: deliveries.rearm,
        }
        if forgets:
            unsupported = REFUSED[Reason.UNSUPPORTED]
            for kind in (Prune, Drop, Adopt, Activate, Finish, Attempt, Advance, Rearm):
                self._handlers[kind] = lambda *_: unsupported  # They are about a past.

    def apply(self, timestamp: int, address: int, record: Record) -> Outcome:
        """Execute a record that stands in the log at `address` with `timestamp`."""
        if self.forgetting.is_on:
            self.forgetting.step(timestamp, self._contents)
        return self._handlers[type(record)](timestamp, address, record)

    def reload(self) -> None:
        """The table is another than it was: forget what was remembered of it."""
        self.sweep.restart()
        self.quotas.reload()
        self.sessions.restart()
        self.forgetting.restart()
        if not self.keeps_past:
            self._contents.recount()

    def _write(self, _timestamp: int, address: int, _record: Write) -> Outcome:
        if self._keep_past:
            self.frames.staged(address)
        return DONE

    def _finish(self, timestamp: int, address: int, record: Finish) -> Outcome:
        reason = self.deliveries.stale(record)
        if reason is not None:
            return REFUSED[reason]
        outcome = self._batch(timestamp, address, record)
        if outcome.reason is None:
            self.deliveries.finish(timestamp, address, record)
        return outcome

    def _batch(self, timestamp: int, address: int, record: Batch | Finish) -> Outcome:
        # One timestamp is one journal row: it has to name the directories of every part.
        rows, table = self._rows, self._rows.table
        touched = rows.batched = {}
        outcome = DONE
        # Whoever proposed it has checked every part, but others' records may have come between: all of it, or nothing.
        undoes = len(record.records) > 1
        if undoes:
            counters = self.counters.pack()
            table.note()
            self._contents.note()
        try:
            for part in record.records:
                outcome = self._handlers[type(part)](timestamp, address, part)
                if outcome.reason is not None:
                    break
        finally:
            rows.batched = None
        if undoes and outcome.reason is not None:
            table.undo()
            self._contents.undo()
            self.counters.restore(counters)
            self.quotas.reload()
            self.sessions.restart()
            return outcome
        if undoes:
            table.keep()
            self._contents.keep()
        if touched:
            rows.journal(timestamp, *touched)
        return outcome

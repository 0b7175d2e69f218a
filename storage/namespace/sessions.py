"""Which proposals of a client had their effect: each once, in the order of their numbers.

A client numbers what it proposes to a shard 1, 2, 3 ...; its session is the last number that took effect (or was
refused with a reason, which is an effect, too). A record with another number than the next has none: it is a repetition
that was sent because nobody knew whether it had arrived, or comes behind one that was lost.

A session nobody used for `SESSION_US` is forgotten when another begins, by the records' own timestamps, so on every replica alike.
A client that lives on proposes something more often than that (`storage.record.Reserve` of nothing will do).

Rows: ``Z`` client -> last number, timestamp of that record. Sources: DESIGN 7; Ongaro, "Consensus" (2014), 6.3.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from storage.errors import Reason
from storage.namespace.keys import U64
from storage.namespace.outcome import DONE, REFUSED, Outcome

if TYPE_CHECKING:
    from storage.record import Once
    from storage.table import Table

__all__ = ["SESSION_US", "Sessions"]

SESSION_US: Final = 7 * 24 * 3600 * 1_000_000
"""Longer than any program waits for an answer, and any node is repaired."""

_SESSION = struct.Struct(">QQ")


class Sessions:
    """The sessions of one namespace."""

    def __init__(self, table: Table) -> None:
        self._table = table
        # No session is older, as of the last look at all of them; None: not known. They only become younger, unless rows are put back.
        self._oldest: int | None = None

    def restart(self) -> None:
        """Rows may be other than they were: the table was abandoned, or changes undone."""
        self._oldest = None

    def last(self, client: int) -> int:
        """The last number of a client that was applied; 0 if there was none."""
        row = self._table.get(b"Z" + U64.pack(client))
        return 0 if row is None else _SESSION.unpack(row)[0]

    def all(self) -> dict[int, int]:
        """Client -> last number applied."""
        rows = self._table.scan(b"Z", b"[")
        return {U64.unpack_from(key, 1)[0]: _SESSION.unpack(row)[0] for key, row in rows}

    def accept(self, timestamp: int, client: int, number: int) -> bool:
        """Whether record `number` of a client is to be applied; it is the client's last from then on.

        What is nobody's in particular (client 0) always is.
        """
        if client == 0:
            return True
        last = self.last(client)
        if number != last + 1:
            return False
        if last == 0:
            self._expire(timestamp)
        self._table.put(b"Z" + U64.pack(client), _SESSION.pack(number, timestamp))
        return True

    def once(self, timestamp: int, _address: int, record: Once) -> Outcome:
        """Apply the record: REPEATED if that request of a client, or a later one, was done; it is done from then on."""
        last = self.last(record.client)
        if record.number <= last:
            return REFUSED[Reason.REPEATED]
        if last == 0:
            self._expire(timestamp)
        self._table.put(b"Z" + U64.pack(record.client), _SESSION.pack(record.number, timestamp))
        return DONE

    def done(self, client: int) -> tuple[int, int]:
        """(number, timestamp) of the last request of a client that was done; (0, 0) if there was none."""
        row = self._table.get(b"Z" + U64.pack(client))
        return (0, 0) if row is None else _SESSION.unpack(row)

    def _expire(self, timestamp: int) -> None:
        """Forget who was not heard of; a look at all only if there may be one."""
        before = timestamp - SESSION_US
        if self._oldest is not None and self._oldest >= before:
            return
        oldest = timestamp
        for key, row in list(self._table.scan(b"Z", b"[")):
            since = _SESSION.unpack(row)[1]
            if since < before:
                self._table.delete(key)
            else:
                oldest = min(oldest, since)
        self._oldest = oldest

"""What consumers of the commits have done: cursors, attempts, dead letters, state; each change is a record.

A *consumer* follows the commits below a directory, its *base*, and is known by (base, name). An *event* is a place in
the log's order: (timestamp of the commit, ordinal within it). Which commits are events, and what is done about them, is
the consumer's business; here is only what makes it happen exactly once. `Finish` carries the effects of a run and the
events it is for in one record, and is refused if one of them is done already or the epoch is over.

The cursor of a consumer is a *low-water mark* (a timestamp; every event at or before it is done) with the address of a
frame to read on from, and the sparse set of events done above it.

Rows (FORMAT, "Deliveries"), all beginning with ``T``; *key* is u64be base, name, NUL; *event* u64be timestamp, u32be
ordinal: ``Tb`` key -> cursor; ``Tv`` key ~timestamp -> definition since; ``Td`` key event -> done above the mark; ``Ta`` key event
-> attempt; ``Tf`` key event -> dead letter; ``Tr`` key event -> dead letter that is to be done again, wherever the mark is; ``Ts`` key hash -> state;
``Tp`` timestamp -> address of the Finish (and its provenance, where the log is elsewhere); ``Te`` -> epoch. None of them has a past: what a consumer has done is no
file's history.

Sources: TRIGGERS 7 and 10; Kafka's consumer groups for cursor and epoch.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec
import xxhash

from storage.attributes import is_directory
from storage.errors import Reason
from storage.namespace.keys import MAX, U64, entry_key
from storage.namespace.outcome import DONE, REFUSED, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.namespace.questions import Questions
    from storage.record import Activate, Adopt, Advance, Attempt, Finish, Rearm
    from storage.table import Table

__all__ = ["Attempted", "Consumer", "Deliveries"]

_EVENT = struct.Struct(">QI")


class Consumer(msgspec.Struct, array_like=True):
    """How far one consumer has come."""

    owner: bytes
    """What registered it: an `Activate` of the same owner replaces it."""

    low_timestamp: int
    """Invariant: every event at or before it is done. Never goes back, but where it is started over."""

    low_address: int
    """A frame at or before the first event above the mark; 0: the first of the log."""

    active: bool = True
    """Whether commits from now on are events for it; what is pending stays so either way."""

    done: int = 0
    skipped: int = 0
    dead: int = 0
    retries: int = 0
    last_timestamp: int = 0
    """Of the newest event done."""


class Attempted(msgspec.Struct, array_like=True):
    """What is known of an event that failed and will be tried again."""

    attempts: int
    not_before_ms: int
    failure: bytes


_encode = msgspec.msgpack.Encoder().encode
_consumer = msgspec.msgpack.Decoder(Consumer).decode
_attempted = msgspec.msgpack.Decoder(Attempted).decode
_state = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


class Deliveries:
    """Applies the records of consumers, and answers what is known of them."""

    def __init__(self, table: Table, questions: Questions) -> None:
        self._table = table
        self._questions = questions
        self.keeps_provenance = False
        """Whether rows have a copy of it, because the log cannot be asked here."""

    # --- questions ---------------------------------------------------------------------------------------------

    def epoch(self) -> int:
        """The epoch of the last `Adopt`; 0 before the first."""
        row = self._table.get(b"Te")
        return U64.unpack(row)[0] if row is not None else 0

    def consumer(self, base: int, name: bytes) -> Consumer | None:
        """The cursor of a consumer; None if there never was one."""
        row = self._table.get(b"Tb" + entry_key(base, name))
        return _consumer(row) if row is not None else None

    def consumers(self, base: int | None = None) -> list[tuple[int, bytes, Consumer]]:
        """All of them, or those of a base: (base, name, cursor)."""
        prefix = b"Tb" if base is None else b"Tb" + U64.pack(base)
        return [
            (U64.unpack_from(key, 2)[0], key[10:-1], _consumer(row))
            for key, row in self._rows(prefix)
        ]

    def definitions(self, base: int, name: bytes) -> list[tuple[int, bytes]]:
        """(since which timestamp, definition) of a consumer, newest first; an empty one: not active since."""
        prefix = b"Tv" + entry_key(base, name)
        return [
            (MAX - U64.unpack_from(key, len(prefix))[0], row) for key, row in self._rows(prefix)
        ]

    def done(self, base: int, name: bytes) -> list[tuple[int, int]]:
        """The events above the mark that are done."""
        return self._events(b"Td", base, name)

    def rearmed(self, base: int, name: bytes) -> dict[tuple[int, int], tuple[bytes, bool]]:
        """The events to be done again, with their dead letters, and whether by what the consumer was then."""
        prefix = b"Tr" + entry_key(base, name)
        return {
            _event(key, prefix): (row.removeprefix(AS_WAS), row.startswith(AS_WAS))
            for key, row in self._rows(prefix)
        }

    def attempts(self, base: int, name: bytes) -> dict[tuple[int, int], Attempted]:
        """The events that failed and are not done, with their attempts."""
        prefix = b"Ta" + entry_key(base, name)
        return {_event(key, prefix): _attempted(row) for key, row in self._rows(prefix)}

    def letters(self, base: int, name: bytes) -> list[tuple[int, int]]:
        """The events that are in the dead letters, oldest first."""
        return self._events(b"Tf", base, name)

    def letter(self, base: int, name: bytes, event: tuple[int, int]) -> bytes | None:
        """A dead letter, as the consumer wrote it."""
        return self._table.get(b"Tf" + entry_key(base, name) + _EVENT.pack(*event))

    def state(self, base: int, name: bytes, key: str) -> bytes | None:
        """What the consumer keeps under a key."""
        row = self._table.get(_state_key(base, name, key))
        return _state(row)[1] if row is not None else None

    def finish_address(self, timestamp: int) -> int | None:
        """Where the `Finish` of a timestamp stands in the log, if one that changed files has it."""
        row = self._table.get(b"Tp" + U64.pack(timestamp))
        return U64.unpack_from(row)[0] if row is not None else None

    def provenance(self, timestamp: int) -> bytes | None:
        """What the `Finish` of a timestamp says of its run, where `keeps_provenance`."""
        row = self._table.get(b"Tp" + U64.pack(timestamp))
        return row[U64.size :] or None if row is not None else None

    def _events(self, letter: bytes, base: int, name: bytes) -> list[tuple[int, int]]:
        prefix = letter + entry_key(base, name)
        return [_event(key, prefix) for key, _ in self._rows(prefix)]

    def _rows(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._table.scan(prefix, prefix + b"\xff" * 13)

    # --- records -----------------------------------------------------------------------------------------------

    def adopt(self, _timestamp: int, _address: int, record: Adopt) -> Outcome:
        """A new epoch begins; refused if it is not newer."""
        if record.epoch <= self.epoch():
            return REFUSED[Reason.CONDITION_FAILED]
        self._table.put(b"Te", U64.pack(record.epoch))
        return DONE

    def activate(self, timestamp: int, _address: int, record: Activate) -> Outcome:
        """From here on an owner has these consumers and no others."""
        if record.base != NOWHERE:
            attributes = self._questions.attributes(record.base)
            if attributes is None or not is_directory(attributes.mode):
                return REFUSED[Reason.ABSENT]
        given = {name for name, _, _, _ in record.consumers}
        for _, name, consumer in self.consumers(record.base):
            if consumer.owner == record.owner and consumer.active and name not in given:
                self._define(record.base, name, timestamp, b"")
                consumer.active = False
                self._save(record.base, name, consumer)
        for name, definition, low_timestamp, low_address in record.consumers:
            self._define(record.base, name, timestamp, definition)
            known = self.consumer(record.base, name)
            if known is None:
                known = Consumer(record.owner, low_timestamp, low_address)
            known.owner, known.active = record.owner, True
            self._save(record.base, name, known)
        return DONE

    def stale(self, record: Finish) -> Reason | None:
        """Why a `Finish` must not take effect: an old epoch, an event done, a version that is not the one expected."""
        consumer = self.consumer(record.base, record.consumer)
        if consumer is None or record.epoch < self.epoch():
            return Reason.CONDITION_FAILED
        prefix = entry_key(record.base, record.consumer)
        for event in record.events:
            key = prefix + _EVENT.pack(*event)
            if self._table.get(b"Tr" + key) is not None:
                continue
            if event[0] <= consumer.low_timestamp or self._table.get(b"Td" + key) is not None:
                return Reason.CONDITION_FAILED
        for directory, name, number in record.conditions:
            bound = self._questions.binding(directory, name) is not None
            if (self._questions.head(directory, name) if bound else 0) != number:
                return Reason.CONDITION_FAILED
        return None

    def finish(self, timestamp: int, address: int, record: Finish) -> None:
        """Note that the events are done; `stale` had no objection and the effects are applied."""
        base, name = record.base, record.consumer
        prefix = entry_key(base, name)
        consumer = self.consumer(base, name)
        assert consumer is not None, "stale says so"
        table = self._table
        for event in record.events:
            key = prefix + _EVENT.pack(*event)
            table.delete(b"Tr" + key)
            table.delete(b"Ta" + key)
            if event[0] > record.low[0]:
                table.put(b"Td" + key, b"")
            if record.verdict == FINISH_DEAD:
                table.put(b"Tf" + key, record.letter)
            else:
                table.delete(b"Tf" + key)
            consumer.last_timestamp = max(consumer.last_timestamp, event[0])
        count = len(record.events)
        consumer.done += count if record.verdict == FINISH_DONE else 0
        consumer.skipped += count if record.verdict == FINISH_SKIPPED else 0
        consumer.dead += count if record.verdict == FINISH_DEAD else 0
        self._raise(base, name, consumer, record.low)
        self._save(base, name, consumer)
        for key_text, value in record.states:
            row = _state_key(base, name, key_text)
            if value is None:
                table.delete(row)
            else:
                table.put(row, _encode((key_text, value)))
        if record.records:
            kept = record.provenance if self.keeps_provenance else b""
            table.put(b"Tp" + U64.pack(timestamp), U64.pack(address) + kept)

    def attempt(self, _timestamp: int, _address: int, record: Attempt) -> Outcome:
        """Events failed and will be tried again."""
        consumer = self.consumer(record.base, record.consumer)
        if consumer is None or record.epoch < self.epoch():
            return REFUSED[Reason.CONDITION_FAILED]
        row = _encode(Attempted(record.attempts, record.not_before_ms, record.failure))
        for event in record.events:
            self._table.put(
                b"Ta" + entry_key(record.base, record.consumer) + _EVENT.pack(*event), row
            )
        consumer.retries += len(record.events)
        self._save(record.base, record.consumer, consumer)
        return DONE

    def advance(self, _timestamp: int, _address: int, record: Advance) -> Outcome:
        """Nothing was pending up to these marks."""
        if record.epoch < self.epoch():
            return REFUSED[Reason.CONDITION_FAILED]
        for base, name, low_timestamp, low_address in record.marks:
            consumer = self.consumer(base, name)
            if consumer is not None:
                self._raise(base, name, consumer, (low_timestamp, low_address))
                self._save(base, name, consumer)
        return DONE

    def rearm(self, _timestamp: int, _address: int, record: Rearm) -> Outcome:
        """Dead letters are done again, or no longer kept."""
        prefix = entry_key(record.base, record.consumer)
        letters = {}
        for event in record.events:
            key = prefix + _EVENT.pack(*event)
            letter = self._table.get(b"Tf" + key)
            if letter is None:
                return REFUSED[Reason.ABSENT]
            letters[key] = letter
        for key, letter in letters.items():
            self._table.delete(b"Tf" + key)
            if record.again:
                self._table.put(b"Tr" + key, AS_WAS + letter if record.as_was else letter)
        return DONE

    def _define(self, base: int, name: bytes, timestamp: int, definition: bytes) -> None:
        self._table.put(b"Tv" + entry_key(base, name) + U64.pack(MAX - timestamp), definition)

    def _save(self, base: int, name: bytes, consumer: Consumer) -> None:
        self._table.put(b"Tb" + entry_key(base, name), _encode(consumer))

    def _raise(self, base: int, name: bytes, consumer: Consumer, low: tuple[int, int]) -> None:
        """Raise the mark; what is done below it need not be listed any more."""
        if low[0] <= consumer.low_timestamp:
            return
        consumer.low_timestamp, consumer.low_address = low
        prefix = b"Td" + entry_key(base, name)
        stop = prefix + _EVENT.pack(low[0], 2**32 - 1)
        while (row := self._table.first(prefix, stop)) is not None:
            self._table.delete(row[0])


NOWHERE = 0
"""The base of a consumer that is of a shard, and of no directory in it."""

AS_WAS = b"\0"
"""In front of a dead letter that is done again as the consumer was then: no letter begins so."""

FINISH_DONE, FINISH_SKIPPED, FINISH_DEAD = 1, 2, 3
"""What became of the events of a `Finish`."""


def _event(key: bytes, prefix: bytes) -> tuple[int, int]:
    timestamp, ordinal = _EVENT.unpack_from(key, len(prefix))
    return timestamp, ordinal


def _state_key(base: int, name: bytes, key: str) -> bytes:
    """Keys of states are paths, hence longer than a row's key may be: 128 bits of hash stand for them."""
    digest = xxhash.xxh3_128_digest(key.encode(errors="surrogateescape"))
    return b"Ts" + entry_key(base, name) + digest

"""Bugs planted on purpose: each is one that somebody could write, and that the programme has to notice.

A mutant is a function that takes pytest's ``monkeypatch`` and spoils one thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import pytest

from storage import opening
from storage.clock import HybridClock
from storage.index import CLEAN
from storage.log import Log
from storage.log.reader import Reader
from storage.log.writer import Writer
from storage.namespace import DONE
from storage.shard import Shard
from storage.superblock import FORMAT_VERSION, Superblock
from tests.simulation.index import SimulatedTable

__all__ = ["MUTANTS"]

repair = import_module("storage.log.repair")  # The package has a function of this name.
Patch = pytest.MonkeyPatch
MUTANTS: dict[str, Callable[[Patch], None]] = {}


def mutant(function: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MUTANTS[function.__name__] = function
    return function


@mutant
def a_sync_forgets_the_segments_before_the_last(patch: Patch) -> None:
    real = Writer.sync

    def sync(self: Writer) -> int:
        del self._unsynced[:-1]
        return real(self)

    patch.setattr(Writer, "sync", sync)


@mutant
def a_sync_forgets_the_directory(patch: Patch) -> None:
    real = Writer.sync

    def sync(self: Writer) -> int:
        self._named = self._slot.number
        return real(self)

    patch.setattr(Writer, "sync", sync)


@mutant
def acknowledged_before_it_is_on_the_disk(patch: Patch) -> None:
    patch.setattr(Log, "sync", lambda self: self.last_index)


@mutant
def a_sync_answers_for_what_came_while_it_ran(patch: Patch) -> None:
    real = Writer.sync

    def sync(self: Writer) -> int:
        real(self)
        self.durable_index = self.last_index
        return self.last_index

    patch.setattr(Writer, "sync", sync)


@mutant
def the_durable_mark_is_written_before_the_sync(patch: Patch) -> None:
    real = Writer.sync

    def sync(self: Writer) -> int:
        self._mark(*self._unsynced[-1], self.last_index)
        return real(self)

    patch.setattr(Writer, "sync", sync)


@mutant
def after_a_failed_sync_it_goes_on(patch: Patch) -> None:
    real = Writer.sync

    def sync(self: Writer) -> int:
        try:
            return real(self)
        except OSError:
            self._refusal = None
            raise

    patch.setattr(Writer, "sync", sync)


@mutant
def a_failed_append_is_not_erased(patch: Patch) -> None:
    patch.setattr(Writer, "_erase", lambda _self, _offset: None)


@mutant
def applied_before_it_is_appended(patch: Patch) -> None:
    real = Shard._append

    def append(self: Shard, proposal: object, payload: object) -> object:
        self.namespace.apply(self._hybrid.last_us + 1, self.log.end_address, proposal)
        return real(self, proposal, payload)

    patch.setattr(Shard, "_append", append)


@mutant
def a_failed_write_of_the_index_is_shrugged_off(patch: Patch) -> None:
    patch.setattr(Shard, "_start_over", lambda _self, _error: DONE)


@mutant
def the_last_record_known_is_applied_again(patch: Patch) -> None:
    real = Shard._apply_tail

    def apply_tail(self: Shard) -> object:
        self._position = self._position._replace(index=self._position.index - 1)
        return real(self)

    patch.setattr(Shard, "_apply_tail", apply_tail)


@mutant
def a_torn_payload_is_taken(patch: Patch) -> None:
    patch.setattr(Reader, "payload", lambda _self, _frame: b"")


@mutant
def what_lies_behind_the_end_is_left_there(patch: Patch) -> None:
    real = repair._finish_tail
    patch.setattr(repair, "_finish_tail", lambda r, end: real(r, replace(end, what=None)))


@mutant
def what_was_found_is_not_written_again(patch: Patch) -> None:
    patch.setattr(repair, "_write_again", lambda _reader, _end, _address: None)


@mutant
def what_was_found_is_not_synced(patch: Patch) -> None:
    patch.setattr(repair, "unsynced_from", lambda _reader, _numbers, _known: 10**9)


@mutant
def the_index_of_another_boot_is_trusted(patch: Patch) -> None:
    patch.setattr(opening, "why_not", lambda _mark, _boot: None)


@mutant
def the_boot_is_not_noted(patch: Patch) -> None:
    real = opening.write_mark

    def write_mark(disk: object, mark: bytes) -> None:
        if mark == CLEAN:
            real(disk, mark)

    patch.setattr(opening, "write_mark", write_mark)


@mutant
def a_clean_stop_does_not_sync_the_index(patch: Patch) -> None:
    patch.setattr(SimulatedTable, "sync", SimulatedTable.commit)


@mutant
def the_store_is_described_before_it_is_made(patch: Patch) -> None:
    real = opening._make

    def make(disk: object, random: object, segment_bytes: int) -> Superblock:
        Superblock(FORMAT_VERSION, f"{7:016x}", segment_bytes).write(disk)
        return real(disk, random, segment_bytes)

    patch.setattr(opening, "_make", make)


@mutant
def the_description_is_not_synced(patch: Patch) -> None:
    def write(self: Superblock, disk: object) -> None:
        text = b'{"format": 1, "identity": "%s", "segment_bytes": %d}'
        file = disk.open("cascadefs.json", create=True)
        file.pwritev([text % (self.identity.encode(), self.segment_bytes)], 0)

    patch.setattr(Superblock, "write", write)


@mutant
def the_clock_does_not_learn_from_the_log(patch: Patch) -> None:
    patch.setattr(HybridClock, "observe", lambda _self, _timestamp: None)


@mutant
def two_records_may_have_one_time(patch: Patch) -> None:
    def tick(self: HybridClock, now_ns: int) -> int:
        self.last_us = max(self.last_us, now_ns // 1000)
        return self.last_us

    patch.setattr(HybridClock, "tick", tick)

"""The model can fail: with a fault planted in the product, it says so within a few hundred calls.

Each mutant is one plausible mistake, put in the place of something right for the length of the test. Sequences are as
in `test_layer`, always the same ones, and not made smaller. A mutant that lives says that the model does not look there.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from cascadefs.filesystem.draft import Draft
from cascadefs.filesystem.files import Files
from cascadefs.filesystem.inodes import Inodes
from cascadefs.filesystem.node import Past
from cascadefs.filesystem.posix import Filesystem
from cascadefs.filesystem.ranges import Ranges
from storage.extents import Span
from storage.log import Log
from storage.mvcc import VersionedMap
from storage.namespace import Namespace
from storage.record import Commit, Label, Link, Rename, Unlink
from tests.model.comparison import Divergence
from tests.model.exerciser import Exerciser, Mismatch
from tests.model.layer import Layer, small_limits
from tests.model.test_layer import LayerMachine

if TYPE_CHECKING:
    from collections.abc import Callable

    Patch = pytest.MonkeyPatch

SEQUENCES = 2000
EXERCISER_OPERATIONS = 3000


def rewrite(patch: Patch, change: Callable[[object], object]) -> None:
    """Let every record be another one when it is applied."""
    right = Namespace.apply
    patch.setattr(Namespace, "apply", lambda self, t, a, record: right(self, t, a, change(record)))


def changed(kind: type, **fields: Callable[[object], object]):
    """A change of records of one kind, field by field."""

    def change(record: object) -> object:
        if type(record) is not kind:
            return record
        return msgspec.structs.replace(
            record, **{name: new(record) for name, new in fields.items()}
        )

    return change


def truncation_forgets_what_is_committed(patch: Patch) -> None:
    def truncate(self, size, now_ns):
        if size < self.size:
            self.dirty.cut(size)
        self.size = size

    patch.setattr(Draft, "truncate", truncate)


def a_commit_loses_its_last_piece(patch: Patch) -> None:
    change = changed(Commit, extents=lambda r: r.extents[:-1] if len(r.extents) > 1 else r.extents)
    rewrite(patch, change)


def a_commit_forgets_a_cut(patch: Patch) -> None:
    rewrite(patch, changed(Commit, keep=lambda r: None))


def noreplace_replaces(patch: Patch) -> None:
    rewrite(patch, changed(Rename, flags=lambda r: r.flags & ~1))


def exchange_moves(patch: Patch) -> None:
    rewrite(patch, changed(Rename, flags=lambda r: r.flags & ~2))


def labels_name_a_moment_to_come(patch: Patch) -> None:
    rewrite(patch, changed(Label, timestamp=lambda r: r.timestamp + 10))


def a_link_is_to_another_directory(patch: Patch) -> None:
    rewrite(patch, changed(Link, parent=lambda r: 1))


def rmdir_removes_files(patch: Patch) -> None:
    rewrite(patch, changed(Unlink, directory=lambda r: False))


def a_time_excludes_the_commit_at_it(patch: Patch) -> None:
    right = VersionedMap.at
    patch.setattr(VersionedMap, "at", lambda self, key, time: right(self, key, time - 1))


def part_of_a_span_is_its_beginning(patch: Patch) -> None:
    def part(self, start, end):
        return Span(start, end - start, self.data, self.address, self.offset)

    patch.setattr(Span, "part", part)


def versions_are_read_as_of_now(patch: Patch) -> None:
    right = Files.read

    def read(self, handle, offset, length):
        node = getattr(self.opened[handle], "node", None)
        if isinstance(node, Past):
            attributes = self._store.attributes(node.inode)
            return self._store.read(node.inode, attributes, None, offset, length)
        return right(self, handle, offset, length)

    patch.setattr(Files, "read", read)


def a_clean_handle_commits(patch: Patch) -> None:
    right = Files.flush

    def flush(self, handle):
        self.opened[handle].dirty = True
        right(self, handle)

    patch.setattr(Files, "flush", flush)


def close_forgets_to_commit(patch: Patch) -> None:
    patch.setattr(Files, "flush", lambda self, handle: None)


def fsync_does_not_wait(patch: Patch) -> None:
    async def fsync(self, handle, data_only):
        self.save(handle)

    patch.setattr(Files, "fsync", fsync)


def autocommit_is_off(patch: Patch) -> None:
    patch.setattr(Inodes, "housekeep", lambda self, now_ns: None)


def a_stop_forgets_drafts(patch: Patch) -> None:
    patch.setattr(Filesystem, "commit_all", lambda self, shard=None: None)


def a_start_forgets_the_last_record(patch: Patch) -> None:
    right = Log.frames

    def frames(self, *arguments, **keywords):
        found = list(right(self, *arguments, **keywords))
        return iter(found[:-1] if len(found) > 1 else found)

    patch.setattr(Log, "frames", frames)


def numbers_of_the_past_change_with_the_process(patch: Patch) -> None:
    right = Past.key
    salts = random.Random(1)

    def key(self):
        return (*right(self), salts.random())

    patch.setattr(Past, "key", key)


def a_hole_keeps_its_last_byte(patch: Patch) -> None:
    right = Ranges._clear
    patch.setattr(
        Ranges,
        "_clear",
        lambda self, live, ranges: right(self, live, [(a, b - 1) for a, b in ranges if b - a > 1]),
    )


MUTANTS = [
    truncation_forgets_what_is_committed,
    a_commit_loses_its_last_piece,
    a_commit_forgets_a_cut,
    noreplace_replaces,
    exchange_moves,
    labels_name_a_moment_to_come,
    a_link_is_to_another_directory,
    rmdir_removes_files,
    a_time_excludes_the_commit_at_it,
    part_of_a_span_is_its_beginning,
    versions_are_read_as_of_now,
    a_clean_handle_commits,
    close_forgets_to_commit,
    fsync_does_not_wait,
    autocommit_is_off,
    a_stop_forgets_drafts,
    a_start_forgets_the_last_record,
    numbers_of_the_past_change_with_the_process,
    a_hole_keeps_its_last_byte,
]

OF_BYTES = [
    truncation_forgets_what_is_committed,
    a_commit_loses_its_last_piece,
    part_of_a_span_is_its_beginning,
    versions_are_read_as_of_now,
    fsync_does_not_wait,
    a_hole_keeps_its_last_byte,
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_the_model_catches(plant, monkeypatch):
    plant(monkeypatch)
    with pytest.raises(Divergence):
        run_state_machine_as_test(
            LayerMachine,
            settings=settings(
                max_examples=SEQUENCES,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                phases=(Phase.generate,),
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )


@pytest.mark.parametrize("plant", OF_BYTES, ids=lambda plant: plant.__name__)
def test_the_exerciser_catches(plant, monkeypatch):
    plant(monkeypatch)
    with small_limits(), pytest.raises(Mismatch):
        Exerciser(Layer(), 1, border=64, largest=900).run(EXERCISER_OPERATIONS)

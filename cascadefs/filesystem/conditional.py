"""Writing on a condition by name: `f@if=v12` is the live file as long as its head is 12 (SEMANTICS 6).

Theory of operation. A look-up that finds the condition met makes a node of its own, never shared with another look-up:
so a node is one writer, with a draft that nobody else sees. It becomes a version when its writer closes, in one record
with an `Expect`; of two that began at version 12 the one that commits first wins, and the other's draft is dropped, with
CONDITION_FAILED from that close or fsync and from every one after it. Having won, a writer is bound to its own version.

The kernel has pages and attributes of such a node apart from those of the file, and is told to forget the file's when a
draft is committed. Writers without a condition share the file's own draft: it is laid over the new version, as it would
have been over the old one.
"""

from __future__ import annotations

import contextlib
import os
from itertools import count
from typing import TYPE_CHECKING

from cascadefs.filesystem.draft import Draft
from cascadefs.filesystem.interface import WRITE, Caller, Changes, FilesystemOptions, Stat, may
from cascadefs.filesystem.node import Live, Node, number_of
from cascadefs.filesystem.privileges import always, never
from storage import record
from storage.attributes import REGULAR, TYPE_MASK, Attributes
from storage.errors import Reason, Refused
from storage.limits import FILE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.filesystem.history import History
    from cascadefs.filesystem.inodes import Inodes
    from cascadefs.filesystem.names import Names
    from cascadefs.filesystem.privileges import Privileges
    from storage.clock import Clock
    from storage.store import Store

__all__ = ["Conditional", "Conditionals", "OpenConditional"]


class Conditional(Node):
    """A file on condition of its head, as one writer sees it.

    `attributes` and `timestamp` are of the version it began with; `staging` is the number under which the store has
    what is written and not committed, and the file's own if it is still to be made. `writer` is who opened it for writing;
    `may_keep` says whether he, being user 0, may leave set-id bits (`privileges`). `is_busy`: as of a `Live`.
    """

    __slots__ = (
        "attributes",
        "draft",
        "event_us",
        "expect",
        "handles",
        "is_busy",
        "lost",
        "may_keep",
        "now",
        "serial",
        "staging",
        "timestamp",
        "writer",
    )

    def __init__(
        self,
        serial: int,
        expect: record.Expect,
        attributes: Attributes,
        now: Callable[[int], Attributes | None],
    ) -> None:
        """`now` gives the attributes of an inode as they are now."""
        self.serial = serial
        self.now = now
        self.writer: Caller | None = None
        self.may_keep: Callable[[], bool] = always
        self.expect = expect
        self.attributes = attributes
        self.timestamp = attributes.content_timestamp
        self.draft: Draft | None = None
        self.event_us: int | None = None
        self.handles = 0
        self.is_busy = False
        self.lost = False
        self.staging = 0
        super().__init__(number_of(self.key(), is_directory=True))

    def key(self) -> tuple[object, ...]:
        """See `Node`."""
        return ("condition", self.serial)

    def stat(self) -> Stat:
        """The file with this writer's draft; the kernel asks every time. Who may what is as of now, as of any file."""
        stat = Stat.of(self.number, self.attributes)
        if (now := self.now(self.expect.inode)) is not None:
            stat.mode, stat.uid, stat.gid = now.mode, now.uid, now.gid
        stat.entry_timeout_s = stat.attribute_timeout_s = 0.0
        if self.draft is not None:
            self.draft.show(stat, self.attributes)
        return stat


class OpenConditional:
    """An open handle of a `Conditional`; what the fields mean is as for `OpenFile`."""

    __slots__ = ("_conditionals", "dirty", "node", "pid", "synchronous", "writable")

    def __init__(self, conditionals: Conditionals, node: Conditional, flags: int, pid: int) -> None:
        self.pid = pid
        self._conditionals = conditionals
        self.node = node
        self.writable = flags & os.O_ACCMODE != os.O_RDONLY
        self.synchronous = bool(flags & os.O_DSYNC)
        self.dirty = False
        node.handles += 1

    def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """The version it began with, and its own writes over it."""
        return self._conditionals.read(self.node, offset, length)

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Into the draft of this writer."""
        if offset + len(data) > FILE_BYTES_MAX:
            raise Refused(Reason.TOO_LARGE)
        self._conditionals.write(self.node, offset, data)
        self.dirty = True
        return len(data)

    def save(self) -> int:
        """Commit; whose durability to wait for, 0: nobody's."""
        if not self.writable:
            return 0
        self._conditionals.commit(self.node)
        self.dirty = False
        return self.node.expect.inode

    def flush(self) -> None:
        """A descriptor was closed. Also one that only created or truncated commits now: release could not say it lost."""
        self.save()

    def release(self) -> None:
        """The last descriptor is gone. What is still to be committed came through a mapping, and nobody can be told."""
        if self.dirty and not self.node.lost:
            with contextlib.suppress(Refused):
                self.save()
        self.node.handles -= 1
        if self.node.handles == 0:
            self._conditionals.discard(self.node)


class Conditionals:
    """See the module. `invalidations` gathers what the kernel must forget."""

    def __init__(
        self,
        inodes: Inodes,
        names: Names,
        privileges: Privileges,
        store: Store,
        clock: Clock,
        history: History,
        options: FilesystemOptions,
        invalidations: list[tuple[int, bytes | None]],
    ) -> None:
        self._inodes = inodes
        self._names = names
        self._privileges = privileges
        self._store = store
        self._clock = clock
        self._history = history
        self._options = options
        self._invalidations = invalidations
        self._serials = count(1)
        self._drafts: dict[int, Conditional] = {}
        history.conditional = self.find

    def find(self, directory: int, base: bytes, version: int) -> Conditional:
        """The live file, if the condition is met.

        Raises:
            Refused: CONDITION_FAILED if it is not; ABSENT where it is, and there is nothing yet; MALFORMED of what is no
                regular file.
        """
        binding = self._store.binding(directory, base)
        expect = record.Expect(directory, base, version, binding.inode if binding else 0)
        if not self._store.holds(expect):
            raise Refused(Reason.CONDITION_FAILED)
        if binding is None:
            raise Refused(Reason.ABSENT)
        attributes = self._store.attributes(binding.inode)
        if attributes is None or attributes.mode & TYPE_MASK != REGULAR:
            raise Refused(Reason.MALFORMED)
        return Conditional(next(self._serials), expect, attributes, self._store.attributes)

    def create(self, directory: int, name: bytes, mode: int, caller: Caller) -> Conditional | None:
        """A file to be made at the first commit, on condition; None if `name` names no condition.

        Raises:
            Refused: CONDITION_FAILED, or as `Names.make` for the name without its condition.
        """
        condition = self._history.condition_of(directory, name)
        if condition is None:
            return None
        base, version = condition
        if base == b".":
            raise Refused(Reason.MALFORMED)
        self._inodes.live(directory)
        self._names.check_new_name(directory, base)
        expect = record.Expect(directory, base, version, 0)
        if not self._store.holds(expect):
            raise Refused(Reason.CONDITION_FAILED)
        gid, mode = self._names.inherited(directory, mode, caller)
        now_ns = self._clock.now_ns()
        attributes = Attributes(
            mode, caller.uid, gid, 1, 0, 0, now_ns, now_ns, now_ns, 0, 0, 0, 0, directory
        )
        node = Conditional(next(self._serials), expect, attributes, self._store.attributes)
        self._inodes.nodes.intern(node, directory, name)
        self._draft(node)
        return node

    def open(self, node: Conditional, flags: int, caller: Caller) -> OpenConditional:
        """Open it, the condition being met still."""
        writes = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if writes and self._options.read_only:
            raise Refused(Reason.READ_ONLY)
        if not self._store.holds(node.expect):
            raise Refused(Reason.CONDITION_FAILED)
        if writes:
            node.writer = caller
        if flags & os.O_TRUNC:
            self._changed(node).truncate(0, self._clock.now_ns())
        return OpenConditional(self, node, flags, caller.pid)

    def read(self, node: Conditional, offset: int, length: int) -> bytes | bytearray | memoryview:
        """See `OpenConditional`."""
        store, inode, attributes = self._store, node.expect.inode, node.attributes
        if not store.keeps_past_of(inode) and not store.holds(node.expect):
            raise Refused(Reason.CONDITION_FAILED)  # A volatile store has the version no more.
        if node.draft is None:
            return store.read(inode, attributes, node.timestamp, offset, length)
        return node.draft.read(store, inode, attributes, offset, length, node.timestamp)

    def _check_room(self, node: Conditional, size: int) -> None:
        """As `Inodes.check_room`."""
        quotas = self._store.quotas
        room = quotas.room(node.expect.directory) if quotas.some else None
        if room is not None and size - node.attributes.size > room:
            raise Refused(Reason.OVER_QUOTA)

    def write(self, node: Conditional, offset: int, data: bytes | memoryview) -> None:
        """See `OpenConditional`."""
        self._draft(node)
        with self._inodes.alone(node):
            draft = self._draft(node)
            self._check_room(node, offset + len(data))
            draft.write(self._store, node.staging, offset, data, self._clock.now_ns())

    def setattr(
        self, node: Conditional, changes: Changes, file: OpenConditional | None, caller: Caller
    ) -> Stat:
        """Size and mtime belong to the draft; what else there is, to the file as it is now.

        Raises:
            Refused: NOT_PERMITTED for somebody who owns the file no more: the kernel goes by what it was last shown.
        """
        if self._options.read_only:
            raise Refused(Reason.READ_ONLY)
        if changes.size is not None:
            if changes.size > FILE_BYTES_MAX:
                raise Refused(Reason.TOO_LARGE)
            self._check_room(node, changes.size)
            node.writer = node.writer or caller
            self._changed(node).truncate(changes.size, self._clock.now_ns())
            if file is not None:
                file.dirty = True
            elif node.handles == 0:
                self.commit(node)
        if changes.uid is not None or changes.gid is not None:
            self._end_set_id(node, caller)
        mtime_ns = changes.mtime_ns
        self._inodes.wait_saved(node)
        if mtime_ns is not None and node.draft is not None:
            node.draft.touch(mtime_ns)
            mtime_ns = None
        fields = (changes.mode, changes.uid, changes.gid, changes.atime_ns, mtime_ns)
        if any(field is not None for field in fields):
            self._check_owner(node, fields, caller)
            self._set(node, fields)
        return node.stat()

    def _check_owner(
        self, node: Conditional, fields: tuple[int | None, ...], caller: Caller
    ) -> None:
        now = self._store.attributes(node.expect.inode)
        if now is None or caller.uid in (0, now.uid):
            return
        if any(field is not None for field in fields[:3]) or not may(now, caller, WRITE):
            raise Refused(Reason.NOT_PERMITTED)

    def _set(self, node: Conditional, fields: tuple[int | None, ...]) -> None:
        attributes, inode = node.attributes, node.expect.inode
        mode, uid, gid, _, _ = fields
        if inode:
            self._inodes.propose(record.SetAttributes(inode, *fields))
            self._invalidations.append((inode, None))
        if mode is not None:
            attributes.mode = attributes.mode & TYPE_MASK | mode & 0o7777
        attributes.uid = attributes.uid if uid is None else uid
        attributes.gid = attributes.gid if gid is None else gid

    def _end_set_id(self, node: Conditional, caller: Caller) -> None:
        """The content or the owner changes: see `Privileges`."""
        if node.expect.inode:
            self._privileges.end_by_write(Live(node.expect.inode), caller, never)

    def _changed(self, node: Conditional) -> Draft:
        """The draft, to be changed: not while it is on its way."""
        self._draft(node)
        self._inodes.wait_saved(node)
        return self._draft(node)

    def _draft(self, node: Conditional) -> Draft:
        if not node.staging and not node.lost:
            staging = self._store.allocate_inode(node.expect.directory)
            node.staging = node.staging or staging
        if node.lost:
            raise Refused(Reason.CONDITION_FAILED)
        if node.draft is None:
            node.draft = Draft(node.attributes.size, self._clock.now_ns())
            self._drafts[node.number] = node
        return node.draft

    def commit(self, node: Conditional) -> None:
        """Make the draft the next version, if there is one and the condition is met.

        Raises:
            Refused: CONDITION_FAILED, now and ever after; the draft is dropped.
            OSError: the log could not take it; the draft stays.
        """
        with self._inodes.alone(node):
            self._commit(node)

    def _commit(self, node: Conditional) -> None:
        draft, expect = node.draft, node.expect
        if node.lost:
            raise Refused(Reason.CONDITION_FAILED)
        if draft is None:
            return
        if not self._store.holds(expect):  # The record would say so too, and stay in the log.
            self._drop(node)
            raise Refused(Reason.CONDITION_FAILED)
        if expect.inode and node.writer is not None:
            self._privileges.end_by_write(Live(expect.inode), node.writer, node.may_keep)
        inode = expect.inode or node.staging
        before: list[record.Part] = [expect]
        if not expect.inode:
            made = node.attributes
            before.append(
                record.Create(expect.directory, expect.name, inode, made.mode, made.uid, made.gid)
            )
        event_us = self._inodes.event_time(expect.directory, draft, node.event_us)
        outcome = self._store.commit(
            inode,
            draft.dirty,
            draft.size,
            draft.keep,
            draft.mtime_ns,
            draft.changed_ns,
            before=before,
            after=() if event_us is None else (record.Event(inode, event_us),),
        )
        if outcome.reason is not None:
            self._drop(node)
            raise Refused(outcome.reason)
        self._won(node, inode)

    def _won(self, node: Conditional, inode: int) -> None:
        """The condition from now on is the version just made; the kernel forgets what it knew of the file."""
        expect = node.expect
        directory, name = expect.directory, expect.name
        attributes = self._store.attributes(inode)
        assert attributes is not None, "it was just committed"
        before = node.attributes.size
        number = expect.version + 1  # Not the newest: others may have been quick.
        if not expect.inode and not expect.version:  # There may have been a name before.
            number = self._store.head(directory, name) - attributes.content + 1
        node.expect = record.Expect(directory, name, number, inode)
        node.attributes, node.timestamp = attributes, attributes.content_timestamp
        node.draft = None
        del self._drafts[node.number]
        if node.staging != inode:
            self._store.forget(node.staging)
        self._inodes.versions_committed += 1
        live = self._inodes.nodes.get(inode)
        if type(live) is Live and live.draft is not None:
            live.draft.rebase(before, attributes.size)
            self._inodes.follow(live)
        self._invalidations.append((inode, None))
        if not expect.inode:
            self._invalidations += [(directory, name), (directory, None)]

    def give_up(self, node: Conditional) -> None:
        """Drop the draft, if it is not on its way; nothing that this writer does afterwards comes into the file."""
        self._inodes.wait_saved(node)
        self._drop(node)

    def _drop(self, node: Conditional) -> None:
        node.lost = True
        node.draft = None
        if self._drafts.pop(node.number, None) is not None:
            self._store.forget(node.staging)

    def discard(self, node: Conditional) -> None:
        """Nobody has it open any more."""
        self.give_up(node)
        self._inodes.drop_if_unused(node)

    def unsaved(self) -> set[int]:
        """The shards in which there are drafts."""
        return {self._shard_of(node) for node in self._drafts.values()}

    def _shard_of(self, node: Conditional) -> int:
        return self._store.shard_of(node.expect.directory)

    def commit_all(self, shard: int | None = None) -> None:
        """The daemon is about to stop: drafts whose conditions are met become versions, those of one shard or all.

        Raises:
            Exception: of the first that could not be saved; all others were tried.
        """
        failure: Exception | None = None
        for node in list(self._drafts.values()):
            if shard is not None and self._shard_of(node) != shard:
                continue
            try:
                self.commit(node)
            except Refused:
                pass  # It would have been told so at its close.
            except Exception as error:  # As of other drafts (`Inodes.save`).
                failure = failure or error
        if failure is not None:
            raise failure

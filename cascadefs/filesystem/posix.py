"""POSIX over the store: what every call of a mount means, in plain types, testable without a mount.

Theory of operation. Nodes are live inodes, the past, or made up (`node`). Calls on live inodes go straight to the
store; writes gather in drafts (`draft`) that every handle of the inode shares, and become versions at the close of a
dirty handle, at fsync, or after `autocommit_s`. Names with "@" go through `history`. Everything is a plain call that
finishes in the caller's thread; only what waits for the disk is a coroutine. One thread at a time.

The calls are those of `Names`, `Files`, `Directories`, `Xattrs` and `Inodes`; `Filesystem` joins them.

Permission bits are checked by the kernel (default_permissions) on what we show; here only what it cannot know: that
the past must be allowed now as well as then (SEMANTICS 4).

Refusals are raised as `Refused`; `OSError` and `Corruption` pass through from the store.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from cascadefs.filesystem.conditional import Conditional, Conditionals, OpenConditional
from cascadefs.filesystem.control import Control
from cascadefs.filesystem.directories import Directories
from cascadefs.filesystem.files import Files, OpenFile
from cascadefs.filesystem.foreign import stale_by
from cascadefs.filesystem.history import History
from cascadefs.filesystem.inodes import Inodes
from cascadefs.filesystem.interface import Caller, Changes, FilesystemOptions, Stat, Usage
from cascadefs.filesystem.names import Names
from cascadefs.filesystem.others import Others
from cascadefs.filesystem.privileges import Privileges, never
from cascadefs.filesystem.ranges import Ranges
from cascadefs.filesystem.retention import Keeping
from cascadefs.filesystem.xattrs import Xattrs
from storage import record
from storage.errors import Reason, Refused
from storage.limits import FILE_BYTES_MAX, NAME_BYTES_MAX, TIME_NS_MAX, TIME_NS_MIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cascadefs.filesystem.node import Live
    from storage.clock import Clock
    from storage.record import Part
    from storage.store import Store

__all__ = ["Filesystem"]


def _kept(time_ns: int | None) -> int | None:
    return time_ns if time_ns is None else min(max(time_ns, TIME_NS_MIN), TIME_NS_MAX)


class Filesystem:
    """See the module. Calls are bound here once, so that asking through it costs nothing."""

    def __init__(self, store: Store, clock: Clock, options: FilesystemOptions) -> None:
        self._store = store
        self._clock = clock
        self.invalidations: list[tuple[int, bytes | None]] = []
        self.status_extra: Callable[[], dict[str, object]] = dict
        """Set by the daemon: what the door knows, merged into `.cascade/status`."""
        history = History(store, clock)
        self.control = control = Control(store, history, self.full_status, options.control_name)
        handles = count(1)
        self.inodes = inodes = Inodes(store, clock, options, self.invalidations)
        self.privileges = privileges = Privileges(inodes, store, self.invalidations)
        self.others = others = Others(inodes, store)
        """Of a cluster: told of what other mounts change."""
        names = Names(inodes, store, history, control, options.control_name)
        self._conditionals = conditionals = Conditionals(
            inodes, names, privileges, store, clock, history, options, self.invalidations
        )
        self.files = files = Files(
            inodes, names, privileges, conditionals, store, clock, options, handles, others
        )
        self._directories = directories = Directories(inodes, store, history, handles, others)
        self.ranges = Ranges(inodes, files, store, clock)
        keeping = Keeping(inodes, files, store, history, self.invalidations)
        xattrs = Xattrs(
            inodes,
            files,
            privileges,
            conditionals,
            store,
            clock,
            history,
            keeping,
            self.invalidations,
        )

        self.is_reserved = history.is_reserved
        self.remember, self.forget = inodes.remember, inodes.forget
        self.getattr, self.birth_ns = inodes.getattr, inodes.birth_ns
        self.housekeep = inodes.housekeep
        self.lookup, self.negative_timeout_s = names.lookup, names.negative_timeout_s
        self.mknod, self.mkdir, self.symlink = names.mknod, names.mkdir, names.symlink
        self.readlink, self.link, self.rename = names.readlink, names.link, names.rename
        self.unlink, self.rmdir = names.unlink, names.rmdir
        self.create, self.open, self.release = files.create, files.open, files.release
        self.create_unnamed = files.create_unnamed
        self.read, self.write, self.flush = files.read, files.write, files.flush
        self.poll = files.poll
        self.immutable, self.is_synchronous = files.immutable, files.is_synchronous
        self.save, self.fsync, self.sync = files.save, files.fsync, files.sync
        self.fsync_directory = files.fsync_directory
        self.opendir, self.readdir = directories.opendir, directories.readdir
        self.releasedir = directories.releasedir
        self.getxattr, self.listxattr = xattrs.getxattr, xattrs.listxattr
        self.setxattr, self.removexattr = xattrs.setxattr, xattrs.removexattr

    def setattr(self, number: int, changes: Changes, handle: int | None, caller: Caller) -> Stat:
        """Change attributes; a change of size is a write session of its own unless it comes through a handle.

        A time that cannot be kept becomes the nearest that can, as the kernel does for file systems of other limits.
        """
        node = self.inodes.nodes.get(number)
        if isinstance(node, Conditional):
            file = self.files.opened.get(handle) if handle is not None else None
            through = file if isinstance(file, OpenConditional) else None
            changes.atime_ns, changes.mtime_ns = _kept(changes.atime_ns), _kept(changes.mtime_ns)
            return self._conditionals.setattr(node, changes, through, caller)
        live = self.inodes.live(number)
        is_chown = self.privileges.is_chown(live, changes, caller)
        if changes.ends_set_id:
            self.privileges.end_by_write(live, caller, never)
        if changes.size is not None:
            self.privileges.end_by_write(live, caller)
            self._truncate(live, changes.size, handle)
        mode, atime_ns, mtime_ns = changes.mode, _kept(changes.atime_ns), _kept(changes.mtime_ns)
        if is_chown and (left := self.privileges.left_by_chown(live, caller)) is not None:
            mode = left if mode is None else mode & left
        if mode is not None and changes.size is not None:
            # Asked for together by no program: the kernel clears what set-id bits it sees, and may leave others.
            mode &= self.inodes.live_stat(live).mode
        fields = (mode, changes.uid, changes.gid, atime_ns, mtime_ns)
        if mtime_ns is not None:
            with self.inodes.alone(live):  # What is written afterwards has a time of its own.
                self.inodes.propose(record.SetAttributes(number, *fields))
                if live.draft is not None:
                    live.draft.touch(mtime_ns)
        elif is_chown or any(field is not None for field in fields):
            self.inodes.propose(record.SetAttributes(number, *fields))
        return self.inodes.live_stat(live)

    def _truncate(self, live: Live, size: int, handle: int | None) -> None:
        if size > FILE_BYTES_MAX:
            raise Refused(Reason.TOO_LARGE)
        file = self.files.opened.get(handle) if handle is not None else None
        self.inodes.wait_saved(live)  # Somebody may claim it after that.
        self.inodes.check_claim(live, file if isinstance(file, OpenFile) else None)
        self.inodes.check_room(live, size)
        draft = self.inodes.draft(live)
        draft.truncate(size, self._clock.now_ns())
        if isinstance(file, OpenFile):
            file.dirty = True
        elif live.handles == 0:
            self.inodes.commit(live)
            self.inodes.discard_if_dead(live)

    def end_set_id(self, number: int, caller: Caller, may_keep: Callable[[], bool] = never) -> None:
        """See `Privileges.end_by_write`."""
        node = self.inodes.nodes.get(number)
        if isinstance(node, Conditional):
            node.may_keep = may_keep  # Its commit ends them.
            return
        self.privileges.end_by_write(self.inodes.live(number), caller, may_keep)

    def unsaved(self) -> set[int]:
        """The shards in which there are drafts."""
        return self.inodes.unsaved() | self._conditionals.unsaved()

    def commit_all(self, shard: int | None = None) -> None:
        """Every draft becomes a version, those of one shard or all: the daemon is about to stop.

        Raises:
            Exception: of the first that could not be saved; it stays a draft, and all others were tried.
        """
        try:
            self._conditionals.commit_all(shard)
        finally:
            self.inodes.save(shard=shard)

    def take_invalidations(self) -> list[tuple[int, bytes | None]]:
        """What the kernel must forget: (node, None) its pages and attributes, (parent, name) an entry."""
        taken = self.invalidations.copy()
        self.invalidations.clear()
        return taken

    def changed_beside(self, records: Iterable[Part]) -> None:
        """A program or a script changed the store, not the kernel: note what that must forget, and that it may believe in names that are gone."""
        for part in records:
            self.invalidations.extend(stale_by([part]))
            self.inodes.names_go_beside |= isinstance(part, record.Unlink | record.Rename)

    def statfs(self) -> Usage:
        """Used is what the store holds, history too; free is what the disk below has (SEMANTICS 12)."""
        _, free, available = self._store.space()
        block = 4096
        used_blocks = -(-self._store.held_bytes // block)
        files = self._store.counters.live_inodes
        return Usage(
            block,
            used_blocks + free // block,
            free // block,
            available // block,
            files + free // block,
            free // block,
            NAME_BYTES_MAX,
        )

    def status(self) -> dict[str, object]:
        """What the file system is doing, JSON-able."""
        return {
            "store": self._store.status(),
            "open_files": len(self.files.opened),
            "open_directories": len(self._directories.opened),
            "nodes": len(self.inodes.nodes),
            "drafts": len(self.inodes.drafts),
            "draft_memory_bytes": sum(
                live.draft.dirty.memory_bytes
                for live in self.inodes.drafts.values()
                if live.draft is not None
            ),
            "versions_committed": self.inodes.versions_committed,
        }

    def full_status(self) -> dict[str, object]:
        """`status` with what the daemon and the door add."""
        return self.status() | self.status_extra()

"""POSIX over the store: what every call of a mount means, in plain types, testable without a mount.

Theory of operation. Nodes are live inodes, the past, or made up (`node`). Calls on live inodes go straight to the
store; writes gather in drafts (`draft`) that every handle of the inode shares, and become versions at the close of a
dirty handle, at fsync, or after `autocommit_s`. Names with "@" go through `history`. Everything is a plain call that
finishes in the caller's thread; only what waits for the disk is a coroutine. One thread at a time.

Permission bits are checked by the kernel (default_permissions) on what we show; here only what it cannot know: that
the past must be allowed now as well as then (SEMANTICS 4).

Refusals are raised as `Refused`; `OSError` and `Corruption` pass through from the store.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

from cascadefs.filesystem.control import Control
from cascadefs.filesystem.draft import Draft
from cascadefs.filesystem.history import History
from cascadefs.filesystem.interface import (
    FOREVER_S,
    READ,
    SEARCH,
    Caller,
    Changes,
    FilesystemOptions,
    Opened,
    Stat,
    Usage,
    may,
)
from cascadefs.filesystem.node import Listing, Live, Node, NodeTable, Past, Text
from cascadefs.filesystem.xattrs import PREFIX, STORED, Answers
from storage import record
from storage.attributes import DIRECTORY, REGULAR, SYMLINK, TYPE_MASK, is_directory
from storage.errors import Reason, Refused
from storage.limits import (
    FILE_BYTES_MAX,
    NAME_BYTES_MAX,
    RECORD_INODE_MAX,
    SYMLINK_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
)
from storage.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from storage.clock import Clock
    from storage.store import LocalStore

__all__ = ["Filesystem"]

LISTING_BATCH = 128
"""Entries fetched from the store at a time while a directory is read."""

TEXT_BLOCK_BYTES = 64 * 1024


class OpenFile:
    """An open file handle.

    `dirty`: it wrote, so the next close of one of its descriptors makes a version. `pending`: it only created or
    truncated by open(2), which becomes a version when the last descriptor is gone, or with the first write: a shell's
    ``> file`` closes a duplicate before it writes, and one redirection shall be one version.
    """

    __slots__ = ("dirty", "node", "pending", "synchronous", "writable")

    def __init__(self, node: Live | Past, *, writable: bool, synchronous: bool) -> None:
        self.node = node
        self.writable = writable
        self.synchronous = synchronous
        self.dirty = False
        self.pending = False


class OpenText:
    """An open made-up file: produced as it is read, front to back."""

    __slots__ = ("_buffer", "_source", "_start", "_text")

    def __init__(self, text: Text) -> None:
        self._text = text
        self._source = text.produce()
        self._buffer = b""
        self._start = 0

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on; reading backwards produces the text afresh."""
        if offset < self._start:
            self._source, self._buffer, self._start = self._text.produce(), b"", 0
        while offset + length > self._start + len(self._buffer):
            part = next(self._source, None)
            if part is None:
                break
            self._buffer += part
        at = offset - self._start
        result = self._buffer[at : at + length]
        if at > TEXT_BLOCK_BYTES:
            self._buffer, self._start = self._buffer[at:], offset
        return result


class OpenDirectory:
    """An open directory: `given` are the names handed out, so an offset is a place in it, stable under changes."""

    __slots__ = ("given", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.given: list[bytes] = []


class Filesystem:
    """See the module."""

    def __init__(self, store: LocalStore, clock: Clock, options: FilesystemOptions) -> None:
        self._store = store
        self._clock = clock
        self._options = options
        self._control_name = options.control_name
        self._nodes = NodeTable()
        self._files: dict[int, OpenFile | OpenText] = {}
        self._directories: dict[int, OpenDirectory] = {}
        self._next_handle = 1
        self._drafts: dict[int, Live] = {}
        self._invalidations: list[tuple[int, bytes | None]] = []
        self._absence_may_end = False
        self._offered: tuple[int, tuple[int, bytes]] | None = None
        self._versions_committed = 0
        self._history = History(store, clock)
        self._answers = Answers(store, self._history)
        self._control = Control(store, self._history, self.full_status)
        self.status_extra: Callable[[], dict[str, object]] = dict
        """Set by the daemon: what the door knows, merged into `.cascade/status`."""

    # --- names -------------------------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes, caller: Caller) -> Stat:
        """Find a name in a directory; the kernel holds one more reference to what is found.

        Raises:
            Refused: ABSENT, and for history names the reasons of SEMANTICS 5.
        """
        self._absence_may_end = b"@" in name
        if parent < RECORD_INODE_MAX:
            binding = self._store.binding(parent, name)
            if binding is not None:
                live = self._nodes.live(binding.inode)
                live.lookups += 1
                live.alias = (parent, name)
                return self._live_stat(live)
            node, timeout_s = self._lookup_special(parent, name)
        else:
            node, timeout_s = self._lookup_child(self._node(parent), name, caller)
        node = self._nodes.intern(node, parent, name)
        node.lookups += 1
        stat = self._stat(node)
        stat.entry_timeout_s = min(stat.entry_timeout_s, timeout_s)
        if isinstance(node, Past) and self._is_narrower_now(node):
            stat.entry_timeout_s = stat.attribute_timeout_s = 0.0
        return stat

    def _lookup_special(self, parent: int, name: bytes) -> tuple[Node, float]:
        if name == self._control_name and parent == ROOT:
            return self._control.root(), FOREVER_S
        if b"@" in name:
            return self._history.resolve(parent, name)
        raise Refused(Reason.ABSENT if len(name) <= NAME_BYTES_MAX else Reason.NAME_TOO_LONG)

    def _lookup_child(self, parent: Node, name: bytes, caller: Caller) -> tuple[Node, float]:
        if isinstance(parent, Past):
            if not parent.is_directory:
                raise Refused(Reason.NOT_A_DIRECTORY)
            self._check_now(parent, caller, SEARCH)
            return self._history.child(parent, name), FOREVER_S
        if not isinstance(parent, Listing):
            raise Refused(Reason.NOT_A_DIRECTORY)
        self._absence_may_end = True
        node = parent.lookup(name)
        if node is None:
            raise Refused(Reason.ABSENT)
        return node, 0.0

    def negative_timeout_s(self, name: bytes) -> float:
        """How long the kernel may remember that the name just looked up in vain does not exist.

        History comes to be without the kernel's doing: names with "@", and what made-up directories show.
        """
        return 0.0 if self._absence_may_end or b"@" in name else FOREVER_S

    def remember(self, number: int) -> None:
        """The kernel holds one more reference to a node (the readdir entry given last, which it took)."""
        if number < RECORD_INODE_MAX:
            live = self._nodes.live(number)
            live.lookups += 1
            if self._offered is not None and self._offered[0] == number:
                live.alias = self._offered[1]
        else:
            self._node(number).lookups += 1

    def forget(self, number: int, count: int) -> None:
        """The kernel gave back references."""
        node = self._nodes.get(number)
        if node is None:
            return
        node.lookups -= count
        assert node.lookups >= 0, "the kernel gives back no more than it took"
        self._drop_if_unused(node)

    def _drop_if_unused(self, node: Node) -> None:
        if node.lookups > 0 or node.number == ROOT:
            return
        if type(node) is Live:
            if node.handles or node.draft is not None:
                return
            attributes = self._store.attributes(node.number)
            if attributes is not None and attributes.nlink == 0:
                self._store.forget(node.number)
        self._nodes.drop(node)

    def _node(self, number: int) -> Node:
        node = self._nodes.get(number)
        if node is not None:
            return node
        if number < RECORD_INODE_MAX and self._store.attributes(number) is not None:
            return self._nodes.live(number)
        raise Refused(Reason.ABSENT)

    def _live(self, number: int) -> Live:
        """The live node a change is asked for."""
        node = self._node(number)
        if type(node) is not Live:
            raise Refused(Reason.PAST_IS_READ_ONLY)
        if self._options.read_only:
            raise Refused(Reason.READ_ONLY)
        return node

    # --- attributes --------------------------------------------------------------------------------------------

    def getattr(self, number: int) -> Stat:
        """The attributes of a node."""
        return self._stat(self._node(number))

    def _stat(self, node: Node) -> Stat:
        if type(node) is Live:
            return self._live_stat(node)
        assert isinstance(node, Past | Listing | Text)
        return node.stat()

    def _live_stat(self, live: Live) -> Stat:
        attributes = self._store.attributes(live.number)
        if attributes is None:
            raise Refused(Reason.ABSENT)
        stat = Stat.of(live.number, attributes)
        draft = live.draft
        if draft is not None:
            stat.size = draft.size
            stat.mtime_ns = draft.mtime_ns
            stat.ctime_ns = max(stat.ctime_ns, draft.changed_ns)
            kept = attributes.stored if draft.keep is None else min(attributes.stored, draft.keep)
            stat.blocks = max(kept, draft.stored_bytes) + 511 >> 9
        return stat

    def birth_ns(self, number: int) -> int | None:
        """When a node came to be, where that is known: for a file, the commit of its first content."""
        node = self._node(number)
        if not isinstance(node, Live | Past):
            return None
        inode = node.inode if isinstance(node, Past) else number
        timestamp = self._store.content_timestamp(inode, 1)
        return timestamp * 1000 if timestamp is not None else None

    def setattr(self, number: int, changes: Changes, handle: int | None, caller: Caller) -> Stat:
        """Change attributes; a change of size is a write session of its own unless it comes through a handle."""
        del caller
        live = self._live(number)
        if changes.size is not None:
            self._truncate(live, changes.size, handle)
        fields = (changes.mode, changes.uid, changes.gid, changes.atime_ns, changes.mtime_ns)
        if any(field is not None for field in fields):
            self._propose(record.SetAttributes(number, *fields))
            if live.draft is not None and changes.mtime_ns is not None:
                live.draft.mtime_ns = changes.mtime_ns
        return self._live_stat(live)

    def _truncate(self, live: Live, size: int, handle: int | None) -> None:
        if size > FILE_BYTES_MAX:
            raise Refused(Reason.TOO_LARGE)
        file = self._files.get(handle) if handle is not None else None
        draft = self._draft(live)
        draft.truncate(size, self._clock.now_ns())
        if isinstance(file, OpenFile):
            file.dirty = True
        elif live.handles == 0:
            self._commit(live)
            self._discard_if_dead(live)

    def _is_narrower_now(self, node: Past) -> bool:
        """Whether the live object denies somebody what it allowed then, so every access must be asked anew."""
        live = self._store.attributes(node.inode)
        if live is None or live.nlink == 0:
            return False
        then = node.attributes
        lost = then.mode & ~live.mode & 0o777
        return bool(lost) or live.uid != then.uid or live.gid != then.gid

    def _check_now(self, node: Past, caller: Caller, want: int) -> None:
        """Refuse what is not allowed now: the object, if it still exists, and every live directory above it."""
        if caller.uid == 0:
            return
        attributes = self._store.attributes(node.inode)
        if attributes is None:
            return
        if attributes.nlink and not may(attributes, caller, want):
            raise Refused(Reason.DENIED)
        inode = attributes.parent
        while inode:
            attributes = self._store.attributes(inode)
            if attributes is None:
                return
            if attributes.nlink and not may(attributes, caller, SEARCH):
                raise Refused(Reason.DENIED)
            inode = attributes.parent

    # --- making and removing names -----------------------------------------------------------------------------

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Stat:
        """Make a node of any type but directory; a regular one starts with an empty version."""
        live = self._make(parent, name, mode & ~caller.umask, caller, rdev=rdev)
        if mode & TYPE_MASK == REGULAR:
            self._draft(live)
            self._commit(live)
        return self._referenced(live)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Stat:
        """Make a directory; `mkdir dir@tag-L` names this moment of a directory instead (SEMANTICS 7)."""
        label = self._label_of(parent, name)
        if label is not None:
            return self._make_label(parent, name, *label)
        mode = DIRECTORY | mode & 0o7777 & ~caller.umask
        return self._referenced(self._make(parent, name, mode, caller))

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Stat:
        """Make a symbolic link."""
        if len(target) > SYMLINK_BYTES_MAX:
            raise Refused(Reason.NAME_TOO_LONG)
        return self._referenced(self._make(parent, name, SYMLINK | 0o777, caller, target=target))

    def link(self, number: int, new_parent: int, new_name: bytes, caller: Caller) -> Stat:
        """Give a file one more name."""
        del caller
        live = self._live(number)
        self._live(new_parent)
        self._check_new_name(new_parent, new_name)
        self._propose(record.Link(new_parent, new_name, number))
        live.alias = (new_parent, new_name)
        return self._referenced(live)

    def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        """Remove a name that is not a directory's; open handles keep the file."""
        del caller
        binding = self._bound(parent, name)
        self._propose(record.Unlink(parent, name))
        self._after_unlink(binding)

    def rmdir(self, parent: int, name: bytes, caller: Caller) -> None:
        """Remove an empty directory, or a label (`rmdir dir@tag-L`)."""
        del caller
        self._live(parent)
        label = self._label_of(parent, name)
        if label is not None:
            inode = self._history.directory_named(parent, label[0])
            self._propose(record.Unlabel(inode, label[1]))
            return
        binding = self._bound(parent, name)
        self._propose(record.Unlink(parent, name, directory=True))
        self._after_unlink(binding)

    def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        caller: Caller,
    ) -> None:
        """Move a name (rename(2), with NOREPLACE and EXCHANGE): one record, nobody sees neither or both."""
        del caller
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise Refused(Reason.MALFORMED)
        inode = self._bound(parent, name)
        self._live(new_parent)
        target = self._store.binding(new_parent, new_name)
        if target is None:
            self._check_new_name(new_parent, new_name)
        self._propose(record.Rename(parent, name, new_parent, new_name, flags))
        moved = self._nodes.get(inode)
        if type(moved) is Live:
            moved.alias = (new_parent, new_name)
        if target is None or target.inode == inode:
            return
        if flags & RENAME_EXCHANGE:
            exchanged = self._nodes.get(target.inode)
            if type(exchanged) is Live:
                exchanged.alias = (parent, name)
        else:
            self._after_unlink(target.inode)

    def _bound(self, parent: int, name: bytes) -> int:
        """The live inode a name means, for a change of the name."""
        self._live(parent)
        binding = self._store.binding(parent, name)
        if binding is None:
            special = name == self._control_name or b"@" in name
            if special and self._is_special(parent, name):
                raise Refused(Reason.PAST_IS_READ_ONLY)
            raise Refused(Reason.ABSENT)
        return binding.inode

    def _is_special(self, parent: int, name: bytes) -> bool:
        if name == self._control_name:
            return parent == ROOT
        return self._is_historic(parent, name)

    def _is_historic(self, parent: int, name: bytes) -> bool:
        return b"@" in name and self._history.is_reserved(parent, name)

    def _label_of(self, parent: int, name: bytes) -> tuple[bytes, bytes] | None:
        """(base, label) where `name` spells a label in this directory and is no name of its own."""
        label = self._history.label_of(name)
        if label is None or not self._is_historic(parent, name):
            return None
        return label if self._store.binding(parent, name) is None else None

    def _check_new_name(self, parent: int, name: bytes) -> None:
        if len(name) > NAME_BYTES_MAX:
            raise Refused(Reason.NAME_TOO_LONG)
        if name == self._control_name:
            raise Refused(Reason.NOT_PERMITTED)
        if b"@" in name and self._history.is_reserved(parent, name):
            raise Refused(Reason.MALFORMED)

    def _make(
        self,
        parent: int,
        name: bytes,
        mode: int,
        caller: Caller,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Live:
        self._live(parent)
        self._check_new_name(parent, name)
        directory = self._store.attributes(parent)
        if directory is None:
            raise Refused(Reason.ABSENT)
        gid = caller.gid
        if (
            directory.mode & 0o2000
        ):  # POSIX leaves it open; Linux: the group of a set-group-id directory is inherited
            gid = directory.gid
            if is_directory(mode):
                mode |= 0o2000
        inode = self._store.allocate_inode()
        self._propose(record.Create(parent, name, inode, mode, caller.uid, gid, rdev, target))
        live = self._nodes.live(inode)
        live.alias = (parent, name)
        return live

    def _make_label(self, parent: int, name: bytes, base: bytes, label: bytes) -> Stat:
        self._live(parent)
        inode = self._history.directory_named(parent, base)
        attributes = self._store.attributes(inode)
        if attributes is not None and not is_directory(attributes.mode):
            raise Refused(Reason.NOT_A_DIRECTORY)
        now = self._store.now()
        self._propose(record.Label(inode, label, now))
        node = self._nodes.intern(
            self._history.past(inode, now, (parent, base, None)), parent, name
        )
        node.lookups += 1
        stat = self._stat(node)
        stat.entry_timeout_s = 0.0
        return stat

    def _referenced(self, live: Live) -> Stat:
        live.lookups += 1
        return self._live_stat(live)

    def _after_unlink(self, inode: int) -> None:
        node = self._nodes.get(inode)
        if type(node) is Live:
            self._discard_if_dead(node)
            self._drop_if_unused(node)

    def _discard_if_dead(self, live: Live) -> None:
        """The bytes of a file without names and handles are nobody's: they become no version."""
        if live.handles or live.draft is None:
            return
        attributes = self._store.attributes(live.number)
        if attributes is None or attributes.nlink == 0:
            live.draft = None
            self._drafts.pop(live.number, None)

    def _propose(self, proposal: record.Record) -> None:
        reason = self._store.propose(proposal).reason
        if reason is not None:
            raise Refused(reason)

    # --- open files --------------------------------------------------------------------------------------------

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Opened, Stat]:
        """Make a regular file and open it; its first close makes version 1, written to or not."""
        binding = self._store.binding(parent, name) if parent < RECORD_INODE_MAX else None
        if binding is not None:
            if flags & os.O_EXCL:
                raise Refused(Reason.EXISTS)
            opened = self.open(binding.inode, flags, caller)
            return opened, self._referenced(self._nodes.live(binding.inode))
        mode = REGULAR | mode & 0o7777 & ~caller.umask
        live = self._make(parent, name, mode, caller)
        self._draft(live)
        opened = self._open_live(live, flags)
        self._begin(opened)
        return opened, self._referenced(live)

    def _begin(self, opened: Opened) -> None:
        """Note that opening this handle made or emptied the file."""
        file = self._files[opened.handle]
        assert isinstance(file, OpenFile)
        file.pending = True

    def open(self, number: int, flags: int, caller: Caller) -> Opened:
        """Open a node. The past opens for reading only."""
        node = self._node(number)
        writes = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if type(node) is Live:
            if writes and self._options.read_only:
                raise Refused(Reason.READ_ONLY)
            if flags & os.O_TRUNC:
                self._draft(node).truncate(0, self._clock.now_ns())
            opened = self._open_live(node, flags)
            if flags & os.O_TRUNC:
                self._begin(opened)
            return opened
        if writes:
            raise Refused(Reason.PAST_IS_READ_ONLY)
        if isinstance(node, Text):
            return Opened(self._handle(OpenText(node)), keep_cache=False, direct_io=True)
        if not isinstance(node, Past) or node.is_directory:
            raise Refused(Reason.IS_A_DIRECTORY)
        self._check_now(node, caller, READ)
        return Opened(self._handle(OpenFile(node, writable=False, synchronous=False)))

    def _open_live(self, live: Live, flags: int) -> Opened:
        synchronous = bool(flags & os.O_DSYNC)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        handle = self._handle(OpenFile(live, writable=writable, synchronous=synchronous))
        live.handles += 1
        return Opened(handle)

    def _handle(self, opened: OpenFile | OpenText) -> int:
        handle = self._next_handle
        self._next_handle = handle + 1
        self._files[handle] = opened
        return handle

    def read(self, handle: int, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Bytes as any process on the mount last wrote them; short only at the end of the file.

        Raises:
            Corruption: what is stored is not what was written.
        """
        file = self._files[handle]
        if isinstance(file, OpenText):
            return file.read(offset, length)
        node = file.node
        if type(node) is Live:
            attributes = self._store.attributes(node.number)
            assert attributes is not None, "an open inode exists"
            if node.draft is not None:
                return node.draft.read(self._store, node.number, attributes, offset, length)
            return self._store.read(node.number, attributes, None, offset, length)
        assert isinstance(node, Past)
        return self._store.read(node.inode, node.attributes, node.timestamp, offset, length)

    def write(self, handle: int, offset: int, data: bytes | memoryview) -> int:
        """Write into the draft; visible at once to every process on the mount. `data` is not kept.

        Raises:
            OSError: the log could not take staged bytes (ENOSPC).
        """
        file = self._files[handle]
        if isinstance(file, OpenText) or type(file.node) is not Live:
            raise Refused(Reason.PAST_IS_READ_ONLY)
        if offset + len(data) > FILE_BYTES_MAX:
            raise Refused(Reason.TOO_LARGE)
        live = file.node
        draft = live.draft or self._draft(live)
        draft.write(self._store, live.number, offset, data, self._clock.now_ns())
        file.dirty = True
        return len(data)

    def immutable(self, handle: int) -> tuple[Hashable, int] | None:
        """What names the bytes of an open file for ever, and how many they are; None for what may change."""
        file = self._files[handle]
        if isinstance(file, OpenText) or not isinstance(file.node, Past):
            return None
        node = file.node
        return (node.inode, node.timestamp), node.attributes.size

    def is_synchronous(self, handle: int) -> bool:
        """Whether each write must be on the disk before it returns (O_SYNC, O_DSYNC)."""
        file = self._files[handle]
        return isinstance(file, OpenFile) and file.synchronous

    def flush(self, handle: int) -> None:
        """A descriptor was closed: a dirty handle commits its version.

        Raises:
            OSError: the log could not take it; the draft stays and close(2) says so.
        """
        file = self._files[handle]
        if isinstance(file, OpenFile) and file.dirty:
            live = file.node
            assert type(live) is Live
            if live.draft is not None:
                self._commit(live)
            file.dirty = file.pending = False

    def release(self, handle: int) -> None:
        """The last descriptor of a handle is gone."""
        file = self._files.pop(handle)
        if isinstance(file, OpenText) or type(file.node) is not Live:
            return
        live = file.node
        live.handles -= 1
        if live.draft is not None:
            self._discard_if_dead(live)
            if live.draft is not None and (file.dirty or file.pending or live.handles == 0):
                self._commit(live)
        if live.handles == 0:
            self._drop_if_unused(live)

    async def fsync(self, handle: int, data_only: bool) -> None:
        """Commit what is dirty and wait for the disk."""
        del data_only
        inode = self.save(handle)
        if inode:
            await self._store.wait_durable(inode)

    def save(self, handle: int) -> int:
        """The part of fsync that does not wait: commit what is dirty. Whose durability to wait for; 0: nobody's."""
        file = self._files.get(handle)
        if not isinstance(file, OpenFile) or type(file.node) is not Live:
            return 0
        if file.node.draft is not None:
            self._commit(file.node)
        file.dirty = file.pending = False
        return file.node.number

    async def fsync_directory(self, handle: int) -> None:
        """Every name made or removed before is on the disk."""
        del handle
        await self._store.wait_durable()

    async def sync(self) -> None:
        """Everything committed is on the disk."""
        await self._store.wait_durable()

    # --- drafts ------------------------------------------------------------------------------------------------

    def _draft(self, live: Live) -> Draft:
        """The draft of an inode, begun if there is none."""
        draft = live.draft
        if draft is None:
            attributes = self._store.attributes(live.number)
            if attributes is None:
                raise Refused(Reason.ABSENT)
            if attributes.mode & TYPE_MASK != REGULAR:
                raise Refused(Reason.MALFORMED)
            draft = live.draft = Draft(attributes.size, self._clock.now_ns())
            self._drafts[live.number] = live
        return draft

    def _commit(self, live: Live) -> None:
        """Make the draft the next version, unless the file has no name left (then only its handles see it)."""
        draft = live.draft
        assert draft is not None
        attributes = self._store.attributes(live.number)
        if attributes is not None and attributes.nlink == 0:
            return
        outcome = self._store.commit(
            live.number, draft.dirty, draft.size, draft.keep, draft.mtime_ns, draft.changed_ns
        )
        if outcome.reason is not None:
            raise Refused(outcome.reason)
        live.draft = None
        del self._drafts[live.number]
        self._versions_committed += 1

    def housekeep(self, now_ns: int) -> None:
        """About once a second: files kept open become versions, the index is published.

        Raises:
            OSError: of the first draft the log could not take; it stays a draft, and all others were tried.
        """
        patience_ns = int(self._options.autocommit_s * 1e9)
        try:
            self._commit_drafts(lambda draft: now_ns - draft.since_ns >= patience_ns)
        finally:
            self._store.publish()

    def commit_all(self) -> None:
        """Every draft becomes a version: the daemon is about to stop.

        Raises:
            OSError: as `housekeep`.
        """
        self._commit_drafts(lambda draft: True)

    def _commit_drafts(self, is_due: Callable[[Draft], bool]) -> None:
        failure: OSError | None = None
        for live in list(self._drafts.values()):
            if live.draft is not None and is_due(live.draft):
                try:
                    self._commit(live)
                except OSError as error:
                    failure = failure or error
                self._drop_if_unused(live)
        if failure is not None:
            raise failure

    # --- directories -------------------------------------------------------------------------------------------

    def opendir(self, number: int, caller: Caller) -> int:
        """Open a directory for reading."""
        node = self._node(number)
        if type(node) is not Live and not node.is_directory:
            raise Refused(Reason.NOT_A_DIRECTORY)
        if isinstance(node, Past):
            self._check_now(node, caller, READ)
        handle = self._next_handle
        self._next_handle = handle + 1
        self._directories[handle] = OpenDirectory(node)
        return handle

    def readdir(self, handle: int, offset: int) -> Iterator[tuple[bytes, Stat, int]]:
        """Entries from an offset on: (name, attributes, offset behind it). History is never among them.

        An entry made or removed meanwhile may or may not be given; every other one is given once (POSIX readdir()).
        The caller calls `remember` for each entry the kernel took, but not for "." and "..".
        """
        opened = self._directories[handle]
        given = opened.given
        node = opened.node
        if offset > len(given):  # A place from before a rewinddir(): find it again.
            given += [b""] * (2 - len(given))
            names = (name for name, _ in self._entries(node, given[-1]))
            given += islice(names, offset - len(given))
        del given[offset:]
        stat = self._stat(node)
        for dots in (b".", b"..")[offset:]:
            given.append(b"")
            yield dots, stat, len(given)
        for name, entry in self._entries(node, given[-1]):
            given.append(name)
            self._offered = (entry.number, (node.number, name))
            yield name, entry, len(given)

    def releasedir(self, handle: int) -> None:
        """A directory handle is gone."""
        del self._directories[handle]

    def _entries(self, node: Node, after: bytes) -> Iterator[tuple[bytes, Stat]]:
        if type(node) is Live:
            return self._live_entries(node.number, after)
        if isinstance(node, Past):
            return self._made_entries(node, self._history.children(node, after))
        assert isinstance(node, Listing)
        return self._made_entries(node, self._listed(node, after))

    @staticmethod
    def _listed(listing: Listing, after: bytes) -> Iterator[tuple[bytes, Node]]:
        """What a listing shows; a name that went meanwhile is left out, as in any directory."""
        for name in listing.names(after):
            try:
                child = listing.lookup(name)
            except Refused as refusal:
                if refusal.reason is not Reason.ABSENT:
                    raise
                continue
            if child is not None:
                yield name, child

    def _live_entries(self, directory: int, after: bytes) -> Iterator[tuple[bytes, Stat]]:
        store = self._store
        while True:
            batch = []
            for entry in store.children(directory, after):
                batch.append(entry)
                if len(batch) == LISTING_BATCH:
                    break
            for name, binding in batch:
                node = self._nodes.get(binding.inode)
                if type(node) is Live and node.draft is not None:
                    yield name, self._live_stat(node)
                else:
                    attributes = store.attributes(binding.inode)
                    if attributes is not None:
                        yield name, Stat.of(binding.inode, attributes)
            if len(batch) < LISTING_BATCH:
                return
            after = batch[-1][0]

    def _made_entries(
        self, parent: Node, children: Iterator[tuple[bytes, Node]]
    ) -> Iterator[tuple[bytes, Stat]]:
        for name, child in children:
            node = self._nodes.intern(child, parent.number, name)
            try:
                yield name, self._stat(node)
            finally:
                self._drop_if_unused(node)  # the kernel did not take it

    # --- links and attributes ----------------------------------------------------------------------------------

    def readlink(self, number: int) -> bytes:
        """The target of a symbolic link, as text, now as then."""
        node = self._node(number)
        inode = node.inode if isinstance(node, Past) else node.number
        target = self._store.target(inode)
        if target is None:
            raise Refused(Reason.MALFORMED)
        return target

    def getxattr(self, number: int, name: bytes, caller: Caller) -> bytes:
        """One extended attribute; `user.cascade.*` tells of history (SEMANTICS 10).

        ACLs and SELinux contexts are "not supported", not "absent": `ls -l` then stops asking every file for them.
        """
        if _is_unkept(name):
            raise Refused(Reason.UNSUPPORTED)
        node = self._node(number)
        if isinstance(node, Past) and name.startswith(b"user."):
            self._check_now(node, caller, READ)
        if name.startswith(PREFIX) and name not in STORED:
            return self._answers.get(node, name)
        if type(node) is Live:
            value = self._store.xattr(number, name)
        elif isinstance(node, Past):
            value = self._store.xattr(node.inode, name, node.timestamp)
        else:
            value = None
        if value is None:
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        return value

    def listxattr(self, number: int, caller: Caller) -> list[bytes]:
        """The names of the stored attributes, ours not among them: `cp -a` must not carry them off."""
        del caller
        node = self._node(number)
        names: list[bytes] = []
        if type(node) is Live:
            names = self._store.xattrs(number)
        elif isinstance(node, Past):
            names = self._store.xattrs(node.inode, node.timestamp)
        return [name for name in names if not name.startswith(PREFIX)]

    def setxattr(self, number: int, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        """Set an attribute. ACLs and SELinux contexts are refused rather than kept unenforced."""
        live = self._live(number)
        if name == PREFIX + b"restore":
            self._restore(live, value, caller)
            return
        if _is_unkept(name) or (name.startswith(PREFIX) and name not in STORED):
            raise Refused(Reason.UNSUPPORTED)
        if len(value) > XATTR_VALUE_BYTES_MAX:
            raise Refused(Reason.ARGUMENT_TOO_LARGE)
        self._propose(record.SetXattr(number, name, value, flags))

    def removexattr(self, number: int, name: bytes, caller: Caller) -> None:
        """Remove an attribute."""
        del caller
        self._live(number)
        if name.startswith(PREFIX) and name not in STORED:
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        self._propose(record.SetXattr(number, name, None))

    def _restore(self, live: Live, spec: bytes, caller: Caller) -> None:
        """Make the content of another version of the same name the next one; its bytes are shared, not copied.

        Only where "the same name" is certain: not for a file of several names, whose histories differ.
        """
        attributes = self._store.attributes(live.number)
        if attributes is None or attributes.nlink != 1 or live.alias is None:
            raise Refused(Reason.UNSUPPORTED)
        directory, name = live.alias
        binding = self._store.binding(directory, name)
        if binding is None or binding.inode != live.number:
            raise Refused(Reason.UNSUPPORTED)
        node, _ = self._history.resolve(directory, name + b"@" + spec)
        if not isinstance(node, Past) or node.attributes.mode & TYPE_MASK != REGULAR:
            raise Refused(Reason.MALFORMED)
        if not may(node.attributes, caller, READ):
            raise Refused(Reason.DENIED)
        self._check_now(node, caller, READ)
        if live.draft is not None and (attributes.content or live.draft.size):
            self._commit(
                live
            )  # what others are writing stays in history; a file just made is not written yet
        now_ns = self._clock.now_ns()
        draft = self._draft(live)
        draft.truncate(0, now_ns)
        generation = node.attributes.generation
        for chunk, pieces in self._store.chunks(node.inode, generation, node.timestamp):
            draft.share(chunk, pieces, node.attributes.size)
        draft.size = node.attributes.size
        self._commit(live)
        self._invalidations.append((live.number, None))

    def take_invalidations(self) -> list[tuple[int, bytes | None]]:
        """What the kernel must forget: (node, None) its pages and attributes, (parent, name) an entry."""
        taken, self._invalidations = self._invalidations, []
        return taken

    # --- totals ------------------------------------------------------------------------------------------------

    def statfs(self) -> Usage:
        """What the disk below has; what is kept of history counts as used (SEMANTICS 12)."""
        total, free, available = self._store.space()
        block = 4096
        files = self._store.counters.live_inodes
        return Usage(
            block,
            total // block,
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
            "open_files": len(self._files),
            "open_directories": len(self._directories),
            "nodes": len(self._nodes),
            "drafts": len(self._drafts),
            "draft_memory_bytes": sum(
                live.draft.dirty.memory_bytes
                for live in self._drafts.values()
                if live.draft is not None
            ),
            "versions_committed": self._versions_committed,
        }

    def full_status(self) -> dict[str, object]:
        """`status` with what the daemon and the door add."""
        return self.status() | self.status_extra()


def _is_unkept(name: bytes) -> bool:
    """Whether an attribute asks for something the kernel would have to enforce, and nobody here would."""
    return name.startswith(b"system.") or name == b"security.selinux"

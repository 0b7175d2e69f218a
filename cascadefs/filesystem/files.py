"""Open files: bytes in and out, and when they become a version."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cascadefs.filesystem.interface import READ, Caller, FilesystemOptions, Opened, Stat
from cascadefs.filesystem.node import Live, Past, Text
from storage.attributes import REGULAR
from storage.errors import Reason, Refused
from storage.limits import FILE_BYTES_MAX, RECORD_INODE_MAX

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from cascadefs.filesystem.inodes import Inodes
    from cascadefs.filesystem.names import Names
    from cascadefs.filesystem.privileges import Privileges
    from storage.clock import Clock
    from storage.store import LocalStore

__all__ = ["Files", "OpenFile", "OpenText"]

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


class Files:
    """See the module. `opened` are the open ones by handle; `handles` gives the numbers."""

    def __init__(
        self,
        inodes: Inodes,
        names: Names,
        privileges: Privileges,
        store: LocalStore,
        clock: Clock,
        options: FilesystemOptions,
        handles: Iterator[int],
    ) -> None:
        self._inodes = inodes
        self._names = names
        self._privileges = privileges
        self._store = store
        self._clock = clock
        self._options = options
        self._handles = handles
        self.opened: dict[int, OpenFile | OpenText] = {}

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Opened, Stat]:
        """Make a regular file and open it; its first close makes version 1, written to or not."""
        binding = self._store.binding(parent, name) if parent < RECORD_INODE_MAX else None
        if binding is not None:
            if flags & os.O_EXCL:
                raise Refused(Reason.EXISTS)
            opened = self.open(binding.inode, flags, caller)
            return opened, self._inodes.referenced(self._inodes.nodes.live(binding.inode))
        mode = REGULAR | mode & 0o7777 & ~caller.umask
        live = self._names.make(parent, name, mode, caller)
        self._inodes.draft(live)
        opened = self._open_live(live, flags)
        self._begin(opened)
        return opened, self._inodes.referenced(live)

    def create_unnamed(
        self, parent: int, mode: int, flags: int, caller: Caller
    ) -> tuple[Opened, Stat]:
        """Make a regular file without a name and open it (O_TMPFILE).

        The link that gives it its first name makes what was written until then version 1 of that name, in one step; until
        then nothing of it is in any history, and with its last user it is gone.
        """
        live = self._names.make_unnamed(parent, REGULAR | mode & 0o7777 & ~caller.umask, caller)
        return self._open_live(live, flags), self._inodes.referenced(live)

    def _begin(self, opened: Opened) -> None:
        """Note that opening this handle made or emptied the file."""
        file = self.opened[opened.handle]
        assert isinstance(file, OpenFile)
        file.pending = True

    def open(self, number: int, flags: int, caller: Caller) -> Opened:
        """Open a node. The past opens for reading only."""
        node = self._inodes.node(number)
        writes = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if type(node) is Live:
            if writes and self._options.read_only:
                raise Refused(Reason.READ_ONLY)
            if flags & os.O_TRUNC:
                self._privileges.end_by_write(node, caller)
                self._inodes.draft(node).truncate(0, self._clock.now_ns())
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
        self._inodes.check_now(node, caller, READ)
        return Opened(self._handle(OpenFile(node, writable=False, synchronous=False)))

    def _open_live(self, live: Live, flags: int) -> Opened:
        synchronous = bool(flags & os.O_DSYNC)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        handle = self._handle(OpenFile(live, writable=writable, synchronous=synchronous))
        live.handles += 1
        return Opened(handle)

    def _handle(self, opened: OpenFile | OpenText) -> int:
        handle = next(self._handles)
        self.opened[handle] = opened
        return handle

    def read(self, handle: int, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Bytes as any process on the mount last wrote them; short only at the end of the file.

        Raises:
            Corruption: what is stored is not what was written.
        """
        file = self.opened[handle]
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
        file = self.opened[handle]
        if isinstance(file, OpenText) or type(file.node) is not Live:
            raise Refused(Reason.PAST_IS_READ_ONLY)
        if offset + len(data) > FILE_BYTES_MAX:
            raise Refused(Reason.TOO_LARGE)
        live = file.node
        draft = live.draft or self._inodes.draft(live)
        draft.write(self._store, live.number, offset, data, self._clock.now_ns())
        file.dirty = True
        return len(data)

    def immutable(self, handle: int) -> tuple[Hashable, int] | None:
        """What names the bytes of an open file for ever, and how many they are; None for what may change."""
        file = self.opened[handle]
        if isinstance(file, OpenText) or not isinstance(file.node, Past):
            return None
        node = file.node
        return (node.inode, node.timestamp), node.attributes.size

    def is_synchronous(self, handle: int) -> bool:
        """Whether each write must be on the disk before it returns (O_SYNC, O_DSYNC)."""
        file = self.opened[handle]
        return isinstance(file, OpenFile) and file.synchronous

    def flush(self, handle: int) -> None:
        """A descriptor was closed: a dirty handle commits its version.

        Raises:
            OSError: the log could not take it; the draft stays and close(2) says so.
        """
        file = self.opened[handle]
        if isinstance(file, OpenFile) and file.dirty:
            live = file.node
            assert type(live) is Live
            if live.draft is not None:
                self._inodes.commit(live)
            file.dirty = file.pending = False

    def release(self, handle: int) -> None:
        """The last descriptor of a handle is gone."""
        file = self.opened.pop(handle)
        if isinstance(file, OpenText) or type(file.node) is not Live:
            return
        live = file.node
        live.handles -= 1
        if live.draft is not None:
            self._inodes.discard_if_dead(live)
            if live.draft is not None and (file.dirty or file.pending or live.handles == 0):
                self._inodes.commit(live)
        if live.handles == 0:
            self._inodes.drop_if_unused(live)

    async def fsync(self, handle: int, data_only: bool) -> None:
        """Commit what is dirty and wait for the disk."""
        del data_only
        inode = self.save(handle)
        if inode:
            await self._store.wait_durable(inode)

    def save(self, handle: int) -> int:
        """The part of fsync that does not wait: commit what is dirty. Whose durability to wait for; 0: nobody's."""
        file = self.opened.get(handle)
        if not isinstance(file, OpenFile) or type(file.node) is not Live:
            return 0
        if file.node.draft is not None:
            self._inodes.commit(file.node)
        file.dirty = file.pending = False
        return file.node.number

    async def fsync_directory(self, handle: int) -> None:
        """Every name made or removed before is on the disk."""
        del handle
        await self._store.wait_durable()

    async def sync(self) -> None:
        """Everything committed is on the disk."""
        await self._store.wait_durable()

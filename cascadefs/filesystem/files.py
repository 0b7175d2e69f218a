"""Open files: bytes in and out, and when they become a version."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from cascadefs.filesystem.conditional import Conditional, OpenConditional
from cascadefs.filesystem.draft import DRAFT_SPANS_MAX
from cascadefs.filesystem.interface import READ, Caller, FilesystemOptions, Opened, Stat
from cascadefs.filesystem.node import Live, Node, Past, Served, Text
from storage.attributes import REGULAR
from storage.errors import Reason, Refused
from storage.limits import FILE_BYTES_MAX, RECORD_INODE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from cascadefs.filesystem.conditional import Conditionals
    from cascadefs.filesystem.inodes import Inodes
    from cascadefs.filesystem.names import Names
    from cascadefs.filesystem.others import Others
    from cascadefs.filesystem.privileges import Privileges
    from storage.clock import Clock
    from storage.store import Store

__all__ = ["Files", "OpenFile", "OpenText"]

TEXT_BLOCK_BYTES = 64 * 1024


class OpenFile:
    """An open file handle.

    `dirty`: it wrote, so the next close of one of its descriptors makes a version. `pending`: it only created or
    truncated by open(2), which becomes a version when the last descriptor is gone, or with the first write: a shell's
    ``> file`` closes a duplicate before it writes, and one redirection shall be one version. `lost`: it wrote on a
    condition that is not met any more, so nothing it writes is kept. `pid` is the thread that opened it. `appends`: with
    O_APPEND.
    """

    __slots__ = ("appends", "dirty", "lost", "node", "pending", "pid", "synchronous", "writable")

    def __init__(
        self,
        node: Live | Past,
        *,
        writable: bool,
        synchronous: bool,
        pid: int = 0,
        appends: bool = False,
    ) -> None:
        self.node = node
        self.appends = appends
        self.pid = pid
        self.lost = False
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

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Never."""
        raise Refused(Reason.PAST_IS_READ_ONLY)

    def save(self) -> int:
        """There is nothing to save."""
        return 0

    def flush(self) -> None:
        """There is nothing to save."""

    def poll(self, wake: Callable[[], None] | None) -> bool:
        """See `Files.poll`."""
        return True

    def release(self) -> None:
        """There is nothing to let go of."""


class Files:
    """See the module. `opened` are the open ones by handle; `handles` gives the numbers."""

    def __init__(
        self,
        inodes: Inodes,
        names: Names,
        privileges: Privileges,
        conditionals: Conditionals,
        store: Store,
        clock: Clock,
        options: FilesystemOptions,
        handles: Iterator[int],
        others: Others,
    ) -> None:
        self._others = others
        self._inodes = inodes
        self._names = names
        self._privileges = privileges
        self._conditionals = conditionals
        self._store = store
        self._has_others = store.has_others
        self._clock = clock
        self._options = options
        self._handles = handles
        self.opened: dict[int, OpenFile | OpenText | OpenConditional] = {}

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Opened, Stat]:
        """Make a regular file and open it; its first close makes version 1, written to or not."""
        binding = self._store.binding(parent, name) if parent < RECORD_INODE_MAX else None
        if binding is not None:
            # It came to be without the kernel, which has checked nothing but the directory: let it look and check again.
            raise Refused(Reason.EXISTS if flags & os.O_EXCL else Reason.CONDITION_FAILED)
        mode = REGULAR | mode & 0o7777 & ~caller.umask
        if b"@" in name:
            node = self._conditionals.create(parent, name, mode, caller)
            if node is not None:
                opened = Opened(self._handle(self._conditionals.open(node, flags, caller)))
                node.lookups += 1
                return opened, node.stat()
        try:
            live = self._names.make(parent, name, mode, caller)
        except Refused as refusal:
            if refusal.reason is not Reason.EXISTS or flags & os.O_EXCL:
                raise
            # Another mount was quicker, while this was on its way.
            raise Refused(Reason.CONDITION_FAILED) from refusal
        self._inodes.draft(live, new=True)
        opened = self._open_live(live, flags, caller)
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
        return self._open_live(live, flags, caller), self._inodes.referenced(live)

    def _begin(self, opened: Opened) -> None:
        """Note that opening this handle made or emptied the file."""
        file = self.opened[opened.handle]
        assert isinstance(file, OpenFile)
        file.pending = True

    def open(self, number: int, flags: int, caller: Caller) -> Opened:
        """Open a node. The past opens for reading only."""
        node = self._inodes.node(number)
        if type(node) is Live:
            self._others.meet(number)
            self._inodes.check_has_name(node)
        writes = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if type(node) is Live:
            if writes and self._options.read_only:
                raise Refused(Reason.READ_ONLY)
            if flags & os.O_TRUNC:
                self._privileges.end_by_write(node, caller)
                self._inodes.wait_saved(node)  # Somebody may claim it after that.
                if node.claim is not None:
                    self._inodes.end_claim(node)
                self._inodes.draft(node).truncate(0, self._clock.now_ns())
            opened = self._open_live(node, flags, caller)
            if flags & os.O_TRUNC:
                self._begin(opened)
            return opened
        if isinstance(node, Conditional):
            return Opened(self._handle(self._conditionals.open(node, flags, caller)))
        if isinstance(node, Served):
            return Opened(self._handle(node.open()), keep_cache=False, direct_io=True)
        if writes:
            raise Refused(Reason.PAST_IS_READ_ONLY)
        if isinstance(node, Text):
            return Opened(self._handle(OpenText(node)), keep_cache=False, direct_io=True)
        if not isinstance(node, Past) or node.is_directory:
            raise Refused(Reason.IS_A_DIRECTORY)
        self._inodes.check_now(node, caller, READ)
        if self._store.content_state(node.inode, node.attributes.content):
            raise Refused(Reason.PRUNED)  # since the kernel looked it up
        return Opened(self._handle(OpenFile(node, writable=False, synchronous=False)))

    def _open_live(self, live: Live, flags: int, caller: Caller) -> Opened:
        synchronous = bool(flags & os.O_DSYNC)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        appends = bool(flags & os.O_APPEND)
        handle = self._handle(
            OpenFile(
                live, writable=writable, synchronous=synchronous, pid=caller.pid, appends=appends
            )
        )
        live.handles += 1
        return Opened(handle)

    def is_written(self, inode: int) -> bool:
        """Whether somebody has an inode open for writing."""
        node = self._inodes.nodes.get(inode)
        if node is None or not node.handles:
            return False
        return any(
            isinstance(file, OpenFile) and file.node is node and file.writable
            for file in self.opened.values()
        )

    def writer(self, node: Node, caller: Caller) -> OpenFile | OpenConditional:
        """The handle of a file that a call without a handle is about: the last one this thread opened for writing.

        Or the only one there is; among several of others none can be told (BAD_HANDLE).
        """
        writers = [
            file
            for file in self.opened.values()
            if not isinstance(file, OpenText) and file.node is node and file.writable
        ]
        own = [file for file in writers if file.pid == caller.pid]
        if not own and len(writers) != 1:
            raise Refused(Reason.BAD_HANDLE)
        return (own or writers)[-1]

    def _handle(self, opened: OpenFile | OpenText | OpenConditional) -> int:
        handle = next(self._handles)
        self.opened[handle] = opened
        return handle

    def read(self, handle: int, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Bytes as any process on the mount last wrote them; short only at the end of the file.

        Raises:
            Corruption: what is stored is not what was written.
        """
        file = self.opened[handle]
        if not isinstance(file, OpenFile):
            return file.read(offset, length)
        node = file.node
        if type(node) is Live:
            attributes = self._store.attributes(node.number)
            assert attributes is not None, "an open inode exists"
            if node.draft is not None:
                return node.draft.read(self._store, node.number, attributes, offset, length)
            return self._store.read(node.number, attributes, None, offset, length)
        assert isinstance(node, Past)
        if self._store.content_state(node.inode, node.attributes.content):
            raise Refused(Reason.PRUNED)  # since it was opened: purged, or by a policy of a cluster
        return self._store.read(node.inode, node.attributes, node.timestamp, offset, length)

    def write(
        self,
        handle: int,
        offset: int,
        data: bytes | memoryview,
        *,
        appends: bool | None = None,
    ) -> int:
        """Write into the draft; visible at once to every process on the mount. `data` is not kept.

        Args:
            handle: an open file.
            offset: where.
            data: what.
            appends: whether the kernel took `offset` for the end (O_APPEND), which on a cluster is where others have left
                it. None if it does not say: as the handle was opened.

        Raises:
            OSError: the log could not take staged bytes (ENOSPC).
        """
        file = self.opened[handle]
        if not isinstance(file, OpenFile):
            return file.write(offset, data)
        if type(file.node) is not Live:
            raise Refused(Reason.PAST_IS_READ_ONLY)
        if offset + len(data) > FILE_BYTES_MAX:
            raise Refused(Reason.TOO_LARGE)
        live = file.node
        if live.is_busy:
            # First: who claims the file, and where its end is, is said when that has come.
            self._inodes.wait_saved(live)
        if live.claim is not None or file.lost:
            self._inodes.check_claim(live, file)
        end = None
        if self._has_others and (file.appends if appends is None else appends):
            end = self._others.end(live, offset, appends=appends)
            offset = offset if end is None else end
        draft = live.draft
        if draft is None or live.is_busy:
            draft = self._inodes.draft(live)
        if offset + len(data) > draft.size:
            self._inodes.check_room(live, offset + len(data))
        now_ns = self._clock.now_ns()
        if self._has_others and draft.will_stage(len(data)):
            with self._inodes.alone(live):
                draft.write(self._store, live.number, offset, data, now_ns, appends=end is not None)
        else:
            draft.write(self._store, live.number, offset, data, now_ns, appends=end is not None)
        file.dirty = True
        if len(draft.dirty) >= DRAFT_SPANS_MAX and live.claim is None:
            self._inodes.commit(live)
        return len(data)

    def immutable(self, handle: int) -> tuple[Hashable, int] | None:
        """What names the bytes of an open file for ever, and how many they are; None for what may change."""
        file = self.opened[handle]
        if not isinstance(file, OpenFile) or not isinstance(file.node, Past):
            return None
        node = file.node
        return (node.inode, node.timestamp), node.attributes.size

    def poll(self, handle: int, wake: Callable[[], None] | None = None) -> bool:
        """Whether a read or write has something to do now (poll(2)): always, as of any regular file, but at a stream's end.

        Args:
            handle: an open file.
            wake: called once, from whoever holds the file system, when that may have changed; None: nobody waits. A
                later call for the same handle takes its place, and releasing the handle takes it back.
        """
        file = self.opened[handle]
        return file.poll(wake) if isinstance(file, OpenText) else True

    def is_synchronous(self, handle: int) -> bool:
        """Whether each write must be on the disk before it returns (O_SYNC, O_DSYNC)."""
        file = self.opened[handle]
        return not isinstance(file, OpenText) and file.synchronous

    def flush(self, handle: int) -> None:
        """A descriptor was closed: a dirty handle commits its version.

        Raises:
            OSError: the log could not take it; the draft stays and close(2) says so.
        """
        file = self.opened[handle]
        if not isinstance(file, OpenFile):
            file.flush()
        elif file.lost:
            raise Refused(Reason.CONDITION_FAILED)
        elif file.dirty:
            live = file.node
            assert type(live) is Live
            self._inodes.commit(live)
            file.dirty = file.pending = False

    def release(self, handle: int) -> None:
        """The last descriptor of a handle is gone."""
        file = self.opened.pop(handle)
        if not isinstance(file, OpenFile):
            file.release()
            return
        if type(file.node) is not Live:
            return
        live = file.node
        live.handles -= 1
        if live.claim is not None:
            self._release_claim(live, file)
        if live.draft is not None:
            self._inodes.discard_if_dead(live)
            if live.draft is not None and (file.dirty or file.pending or live.handles == 0):
                self._inodes.commit(live)
        if live.handles == 0:
            live.event_us = None
            self._inodes.drop_if_unused(live)

    def _release_claim(self, live: Live, file: OpenFile) -> None:
        """The claim of a handle ends with it; what came through a mapping after its close may still be committed."""
        assert live.claim is not None
        if live.claim.file is not file:
            return
        if live.draft is not None and file.dirty:
            with contextlib.suppress(Refused):
                self._inodes.commit(live)
        live.claim = None

    async def fsync(self, handle: int, data_only: bool) -> None:
        """Commit what is dirty and wait for the disk."""
        del data_only
        inode = self.save(handle)
        if inode:
            await self._store.wait_durable(inode)

    def save(self, handle: int) -> int:
        """The part of fsync that does not wait: commit what is dirty. Whose durability to wait for; 0: nobody's."""
        file = self.opened.get(handle)
        if file is None:
            return 0
        if not isinstance(file, OpenFile):
            return file.save()
        live = file.node
        if type(live) is not Live:
            return 0
        if file.lost:
            raise Refused(Reason.CONDITION_FAILED)
        if live.draft is not None and (live.claim is None or live.claim.file is file):
            self._inodes.commit(live)
        file.dirty = file.pending = False
        return live.number

    async def fsync_directory(self, handle: int) -> None:
        """Every name made or removed before is on the disk."""
        del handle
        await self._store.wait_durable()

    async def sync(self) -> None:
        """Everything committed is on the disk."""
        await self._store.wait_durable()

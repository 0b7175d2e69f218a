"""Requests about open files: their bytes, and when what was written becomes a version.

A descriptor that a forked child inherited is closed in the child as well, and the kernel sends a FLUSH for that like
for any other close. Such a close ends no write session: the child wrote nothing. So a FLUSH commits only if it comes from
a process that wrote through the handle since its last commit. The kernel names the thread that asks; where that is none
of the writers, proc(5) says whether it is another thread of one of them. Closing the last descriptor commits anyway.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
from typing import TYPE_CHECKING

from cascadefs.kernel.handler import Handlers, Kind, Later, caller_of
from cascadefs.kernel.protocol import (
    COPY_FILE_RANGE,
    FALLOCATE,
    FLUSH,
    FOUR_WORDS,
    FSYNC,
    LSEEK,
    NO_REPLY,
    NUMBER,
    PID,
    POLL,
    POLL_SCHEDULE_NOTIFY,
    READ,
    RELEASE,
    RELEASE_UNLOCK,
    TWO_WORDS,
    UNIQUE,
    WRITE,
    Header,
    Opcode,
    OpenFlag,
    Reply,
    pack_entry,
    pack_open,
    pack_written,
)
from cascadefs.processes import may_keep_set_id, process_of
from storage.limits import RECORD_INODE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.filesystem import Filesystem, Opened
    from cascadefs.filesystem.ranges import Ranges
    from cascadefs.kernel.backing import Backing
    from cascadefs.kernel.locks import Locks

__all__ = ["Files"]

_KEEP_CACHE, _DIRECT_IO, _NOFLUSH, _PASSTHROUGH = (
    int(OpenFlag.KEEP_CACHE),
    int(OpenFlag.DIRECT_IO),
    int(OpenFlag.NOFLUSH),
    int(OpenFlag.PASSTHROUGH),
)

_WRITTEN_BY_THE_KERNEL = 1
"""FUSE_WRITE_CACHE: pages that were written through a mapping, by whomever, are now brought to us."""

_ENDS_SET_ID = 1 << 2
"""FUSE_WRITE_KILL_SUIDGID: the writer has no right to leave these bits."""

_OPEN_ENDS_SET_ID = 1 << 0
"""FUSE_OPEN_KILL_SUIDGID, of an open that truncates."""

_ANYBODY = 0

_READY = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
"""What poll(2) says of a file that has no poll of its own."""

_COPY_BYTES_MAX = 0x7FFFF000
"""What one call moves at most (MAX_RW_COUNT): its answer is 32 bits."""


class Files:
    """See the module."""

    def __init__(
        self,
        filesystem: Filesystem,
        ranges: Ranges,
        backing: Backing,
        reply: Callable[[int, Reply], None],
        later: Later,
        wake: Callable[[int], None],
        forget_node: Callable[[int, int, Reply], None],
    ) -> None:
        """`forget_node` gives the answer to a unique number when the kernel has forgotten a node. `wake` tells the kernel that who polls, known by a number of its own, should look again."""
        self._filesystem = filesystem
        self._ranges = ranges
        self._backing = backing
        self._reply = reply
        self._later = later
        self._wake = wake
        self._forget_node = forget_node
        self.locks: Locks | None = None
        """Set before the first request, where locks are asked of us."""
        self._synchronous: set[int] = set()
        self._writers: dict[int, set[int]] = {}

    def handlers(self) -> Handlers:
        """By opcode. A WRITE goes to the draft or the log, so it leaves the index alone."""
        return {
            Opcode.OPEN: (self.open, Kind.CHANGES),
            Opcode.CREATE: (self.create, Kind.CHANGES),
            Opcode.TMPFILE: (self.tmpfile, Kind.CHANGES),
            Opcode.READ: (self.read, Kind.ASKS),
            Opcode.WRITE: (self.write, Kind.ASKS),
            Opcode.FLUSH: (self.flush, Kind.REVEALS),
            Opcode.RELEASE: (self.release, Kind.CHANGES),
            Opcode.FSYNC: (self.fsync, Kind.CHANGES),
            Opcode.SYNCFS: (self.syncfs, Kind.CHANGES),
            Opcode.LSEEK: (self.lseek, Kind.ASKS),
            Opcode.FALLOCATE: (self.fallocate, Kind.CHANGES),
            Opcode.COPY_FILE_RANGE: (self.copy_file_range, Kind.CHANGES),
            Opcode.COPY_FILE_RANGE_64: (self.copy_file_range_64, Kind.CHANGES),
            Opcode.IOCTL: (self.ioctl, Kind.ASKS),
            Opcode.POLL: (self.poll, Kind.ASKS),
        }

    # --- opening and closing -----------------------------------------------------------------------------------

    def open(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.open`."""
        flags, how = TWO_WORDS.unpack_from(body)
        caller = caller_of(header)
        if how & _OPEN_ENDS_SET_ID:
            # First: if it failed after the open, there would be a handle that nobody releases.
            self._filesystem.end_set_id(node, caller)
        opened = self._filesystem.open(node, flags, caller)
        answer = self._opened(opened, flags)
        if self._filesystem.others.is_unseen(node):
            # Somebody else closed it, and the kernel may believe in its size of before; open(2) holds no lock of it.
            self._forget_node(node, header[UNIQUE], answer)
            return NO_REPLY
        if node < RECORD_INODE_MAX or not self._backing.enabled:
            return answer
        unique = header[UNIQUE]

        def decided(backing: int) -> None:
            passed = pack_open(opened.handle, _PASSTHROUGH | _NOFLUSH, backing)
            self._reply(unique, passed if backing else answer)

        direct = bool(flags & os.O_DIRECT)
        waits = self._backing.open(node, opened.handle, decided, direct=direct)
        return NO_REPLY if waits else answer

    def create(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.create`."""
        flags, mode, umask, _ = FOUR_WORDS.unpack_from(body)
        name = bytes(body[FOUR_WORDS.size : -1])
        caller = caller_of(header, umask)
        opened, stat = self._filesystem.create(node, name, mode, flags, caller)
        return pack_entry(stat) + self._opened(opened, flags)

    def tmpfile(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.create_unnamed` (O_TMPFILE)."""
        flags, mode, umask, _ = FOUR_WORDS.unpack_from(body)
        opened, stat = self._filesystem.create_unnamed(node, mode, flags, caller_of(header, umask))
        return pack_entry(stat) + self._opened(opened, flags)

    def _opened(self, opened: Opened, flags: int) -> bytes:
        how = _KEEP_CACHE if opened.keep_cache else 0
        if opened.direct_io:
            how |= _DIRECT_IO
        if flags & os.O_ACCMODE == os.O_RDONLY:
            if self.locks is None:
                how |= _NOFLUSH  # nothing can be written through it, so its close says nothing
        elif flags & os.O_DSYNC and self._filesystem.is_synchronous(opened.handle):
            self._synchronous.add(opened.handle)
        return pack_open(opened.handle, how)

    def flush(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.flush`: what it raises is what close(2) returns.

        A write on a condition came into a file, perhaps under a new name, that the kernel knows otherwise: who closes sees it
        afterwards.
        """
        locks = self.locks
        if locks is None:
            self._flush(body, header)
            return None
        handle, _, _, owner = FLUSH.unpack_from(body)
        try:
            self._flush(body, header)
        except BaseException:
            locks.drop_flushed(node, owner)
            raise
        return locks.flushed(node, handle, owner, header[UNIQUE])

    def _flush(self, body: memoryview, header: Header) -> None:
        handle, *_ = FLUSH.unpack_from(body)
        writers = self._writers.get(handle)
        if writers is not None:
            if not _is_among(header[PID], writers):
                return
            del self._writers[handle]
        self._filesystem.flush(handle)

    def release(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.release`."""
        handle, _, how, owner = RELEASE.unpack_from(body)
        self._writers.pop(handle, None)
        self._synchronous.discard(handle)
        self._backing.release(handle)
        if self.locks is None:
            self._filesystem.release(handle)
            return None
        has_lock = bool(how & RELEASE_UNLOCK)
        with contextlib.ExitStack() as ending:  # The last of these first, whatever fails.
            ending.callback(self.locks.released, node, handle, owner if has_lock else None)
            ending.callback(self._filesystem.release, handle)
            if has_lock:
                self._filesystem.save(handle)  # Through whichever handle it was written.
        return None

    # --- bytes -------------------------------------------------------------------------------------------------

    def read(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.read`."""
        handle, offset, length, *_ = READ.unpack_from(body)
        if node >= RECORD_INODE_MAX:
            self._backing.asked(node, length)
        return self._filesystem.read(handle, offset, length)

    def write(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.write`; on the disk before the answer where O_SYNC or O_DSYNC asked for that."""
        handle, offset, length, how, _, flags, _ = WRITE.unpack_from(body)
        data = body[WRITE.size : WRITE.size + length]
        appends = bool(flags & os.O_APPEND) and not how & _WRITTEN_BY_THE_KERNEL
        written = pack_written(self._filesystem.write(handle, offset, data, appends=appends))
        if how & _ENDS_SET_ID:
            self._filesystem.end_set_id(node, caller_of(header))
        writers = self._writers.get(handle)
        pid = _ANYBODY if how & _WRITTEN_BY_THE_KERNEL else header[PID]
        if writers is None:
            self._writers[handle] = {pid}
        elif pid not in writers:
            writers.add(pid)
        if handle not in self._synchronous:
            return written
        self._filesystem.save(handle)
        self._later(header[UNIQUE], written)
        return NO_REPLY

    def wrote(self, handle: int, header: Header) -> None:
        """A process changed the file through a handle, otherwise than by WRITE."""
        self._writers.setdefault(handle, set()).add(header[PID])

    def lseek(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Ranges.seek`: SEEK_DATA and SEEK_HOLE; the others the kernel knows itself."""
        handle, offset, whence, _ = LSEEK.unpack_from(body)
        found = self._ranges.seek(handle, offset, data=whence == os.SEEK_DATA)
        return NUMBER.pack(found) if found is not None else -errno.ENXIO

    def fallocate(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Ranges.allocate`."""
        handle, offset, length, mode, _ = FALLOCATE.unpack_from(body)
        self._ranges.allocate(handle, offset, length, mode)
        self._end_set_id(node, header)
        self.wrote(handle, header)
        return None

    def copy_file_range(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Ranges.copy`."""
        return pack_written(self._copy(body, header))

    def copy_file_range_64(self, node: int, body: memoryview, header: Header) -> Reply:
        """The same with an answer of 64 bits (7.45)."""
        return NUMBER.pack(self._copy(body, header))

    def _copy(self, body: memoryview, header: Header) -> int:
        source, source_offset, node, target, offset, length, _ = COPY_FILE_RANGE.unpack_from(body)
        length = min(length, _COPY_BYTES_MAX)
        copied = self._ranges.copy(source, source_offset, target, offset, length)
        self._end_set_id(node, header)
        self.wrote(target, header)
        return copied

    def _end_set_id(self, node: int, header: Header) -> None:
        """For changes of content where the kernel does not say whether the caller may leave the bits."""
        may_keep = functools.partial(may_keep_set_id, header[PID])
        self._filesystem.end_set_id(node, caller_of(header), may_keep)

    def ioctl(self, node: int, body: memoryview, header: Header) -> Reply:
        """There are none."""
        return -errno.ENOTTY

    def poll(self, node: int, body: memoryview, header: Header) -> Reply:
        """See `Filesystem.poll`."""
        handle, waiting, how, _ = POLL.unpack_from(body)
        wake = functools.partial(self._wake, waiting) if how & POLL_SCHEDULE_NOTIFY else None
        return TWO_WORDS.pack(_READY if self._filesystem.poll(handle, wake) else 0, 0)

    # --- durability --------------------------------------------------------------------------------------------

    def fsync(self, node: int, body: memoryview, header: Header) -> Reply:
        """Commit what is dirty, and answer when it is on the disk. An INTERRUPT does not shorten that, as on any disk."""
        handle, *_ = FSYNC.unpack_from(body)
        self._filesystem.save(handle)
        self._later(header[UNIQUE], None)
        return NO_REPLY

    def syncfs(self, node: int, body: memoryview, header: Header) -> Reply:
        """syncfs(2), which today's kernel keeps to itself except on virtiofs."""
        self._filesystem.commit_all()
        self._later(header[UNIQUE], None)
        return NO_REPLY


def _is_among(pid: int, writers: set[int]) -> bool:
    """Whether a thread belongs to one of the writing processes; also if that cannot be told."""
    if pid in writers or pid == _ANYBODY or _ANYBODY in writers:
        return True
    process = process_of(pid)
    if process is None or process in writers:
        return True
    return any(process_of(writer) in (process, None) for writer in writers)

"""Byte ranges of open files: where there is data, making room, making holes, and copying without copying bytes.

fallocate(2), lseek(2) with SEEK_DATA and SEEK_HOLE, copy_file_range(2). It works on the same open files
and drafts as `Files`. One thread at a time, like that; nothing waits.

What cannot be said exactly. The log has no piece that means "nothing lies here": a hole punched into the middle of a
version is laid over with zeros, of which one block is stored however long the hole is; at the end of the file it is a
real one. And making room reserves nothing, because every write goes to a new place: it is refused where the disk does
not have that much, and may still run out later.
"""

from __future__ import annotations

import errno
import heapq
import os
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

from cascadefs.filesystem.conditional import OpenConditional
from cascadefs.filesystem.files import OpenFile
from cascadefs.filesystem.node import Live, Past
from storage.errors import Reason, Refused
from storage.limits import CHUNK_BYTES, FILE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascadefs.filesystem.draft import Draft
    from cascadefs.filesystem.files import Files
    from cascadefs.filesystem.inodes import Inodes
    from storage.attributes import Attributes
    from storage.clock import Clock
    from storage.store import Store

__all__ = ["Ranges"]

KEEP_SIZE: Final = 1
PUNCH_HOLE: Final = 2
ZERO_RANGE: Final = 16

SHARED_BYTES_MAX: Final = 1024 * CHUNK_BYTES
"""What one call shares at most: about 10 ms during which nobody else is served. Callers go on where it stopped."""

COPIED_BYTES_MAX: Final = 64 * CHUNK_BYTES
"""What one call copies at most where bytes cannot be shared."""

_ZEROS: Final = bytes(CHUNK_BYTES)


class Part(NamedTuple):
    """A stretch of a file with data: in memory, or in the log at an address from an offset on."""

    start: int
    end: int
    dirty: bool
    data: memoryview | None
    address: int
    offset: int


class Ranges:
    """See the module."""

    def __init__(self, inodes: Inodes, files: Files, store: Store, clock: Clock) -> None:
        self._inodes = inodes
        self._files = files
        self._store = store
        self._clock = clock

    # --- where there is data -----------------------------------------------------------------------------------

    def seek(self, handle: int, offset: int, *, data: bool) -> int | None:
        """The first offset at or behind one where there is data, or a hole; the end of the file is a hole.

        None if there is none: `offset` is not inside the file, or only a hole follows.
        """
        opened = self._files.opened.get(handle)
        if isinstance(opened, OpenConditional):
            size = opened.node.stat().size
            return None if not 0 <= offset < size else offset if data else size
        file = self._file(handle)
        size = self._size(file.node)
        if not 0 <= offset < size:
            return None
        at = offset
        for part in self._parts(file.node, offset):
            if part.end <= at:
                continue
            if data:
                return max(at, part.start) if part.start < size else None
            if part.start > at:
                break
            at = part.end
        return None if data else min(at, size)

    def _parts(self, node: Live | Past, offset: int) -> Iterator[Part]:
        """The data of a file as seen now, from the part that reaches over `offset` on, ascending.

        What a draft hides may be among it, before the part that hides it.
        """
        attributes = self._attributes(node)
        draft = node.draft if isinstance(node, Live) else None
        visible = attributes.size
        if draft is not None and draft.keep is not None:
            visible = min(visible, draft.keep)
        stored = self._stored_parts(node, attributes, offset, visible)
        if draft is None:
            return stored
        return heapq.merge(self._dirty_parts(draft, offset), stored, key=lambda part: part.start)

    def _stored_parts(
        self, node: Live | Past, attributes: Attributes, offset: int, visible: int
    ) -> Iterator[Part]:
        inode, timestamp = node.number, None
        if isinstance(node, Past):
            inode, timestamp = node.inode, node.timestamp
        first = offset // CHUNK_BYTES
        for chunk, pieces in self._store.chunks(inode, attributes.generation, timestamp, first - 1):
            for begin, length, address, payload_offset in pieces:
                start = chunk * CHUNK_BYTES + begin
                end = min(start + length, visible)
                if end > start and end > offset:
                    yield Part(start, end, False, None, address, payload_offset)

    @staticmethod
    def _dirty_parts(draft: Draft, offset: int) -> Iterator[Part]:
        for span in draft.dirty.overlapping(offset, FILE_BYTES_MAX):
            if span.data is not None:
                yield Part(span.start, span.end, True, span.view(), 0, 0)
            else:
                yield Part(span.start, span.end, True, None, span.address, span.offset)

    # --- room and holes ----------------------------------------------------------------------------------------

    def allocate(self, handle: int, offset: int, length: int, mode: int) -> None:
        """Make room, a hole, or zeros (fallocate(2)); part of the write session.

        Raises:
            Refused: UNSUPPORTED for modes that move bytes, TOO_LARGE, PAST_IS_READ_ONLY.
            OSError: ENOSPC if the disk certainly has not that much.
        """
        live = self._writable(handle)
        end = offset + length
        if end > FILE_BYTES_MAX:
            raise Refused(Reason.TOO_LARGE)
        if mode not in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE):
            raise Refused(Reason.UNSUPPORTED)
        size = self._size(live)
        if not mode & PUNCH_HOLE and end > size and end - size > self._store.space()[2]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if mode & (PUNCH_HOLE | ZERO_RANGE) and offset < size:
            self._clear(live, [(offset, min(end, size))])
        if not mode & KEEP_SIZE and end > size:
            draft = self._inodes.draft(live)
            self._inodes.check_room(live, end)
            if end > draft.size:
                draft.truncate(end, self._now_ns())
        self._touch(handle, live)

    def _clear(self, live: Live, ranges: list[tuple[int, int]]) -> None:
        """Let ranges inside the file, ascending, read as zeros."""
        draft = self._inodes.draft(live)
        with self._inodes.alone(live):
            self._punch(live, draft, ranges)

    def _punch(self, live: Live, draft: Draft, ranges: list[tuple[int, int]]) -> None:
        covered: list[tuple[int, int]] = []
        for start, end in ranges:
            if end >= draft.size:
                size = draft.size
                draft.truncate(start, self._now_ns())
                draft.truncate(size, self._now_ns())
                continue
            at = start
            for part in self._parts(live, start):
                if part.start >= end:
                    break
                begin, stop = max(part.start, at), min(part.end, end)
                if stop > begin:
                    covered.append((begin, stop))
                    at = stop
        if not covered:
            return
        longest = min(max(stop - begin for begin, stop in covered), CHUNK_BYTES)
        ((_, _, address, _),) = self._store.stage(live.number, 0, _ZEROS[:longest])
        draft.behind = None
        for begin, stop in covered:
            for at in range(begin, stop, longest):
                draft.dirty.place(at, min(longest, stop - at), address, 0)

    # --- copying -----------------------------------------------------------------------------------------------

    def copy(self, source: int, source_offset: int, target: int, offset: int, length: int) -> int:
        """Copy bytes between open files (copy_file_range(2)); how many, 0 at the end of the source.

        Bytes are shared with whatever version they come from; a volatile store, which drops what nobody refers to,
        copies them.
        """
        file = self._file(source)
        live = self._writable(target)
        length = min(length, self._size(file.node) - source_offset)
        if length <= 0:
            return 0
        if offset + length > FILE_BYTES_MAX:
            raise Refused(Reason.TOO_LARGE)
        if not self._shares(file.node, live):
            length = min(length, COPIED_BYTES_MAX)
            data = self._files.read(source, source_offset, length)
            return self._files.write(target, offset, bytes(data))
        length = min(length, SHARED_BYTES_MAX)
        self._inodes.check_room(live, offset + length)
        self._share(file.node, source_offset, live, offset, length)
        self._touch(target, live)
        return length

    def _shares(self, source: Live | Past, target: Live) -> bool:
        """Whether one file may refer to the other's bytes: not where a frame has one owner, nor across shards."""
        store = self._store
        inode = source.inode if isinstance(source, Past) else source.number
        is_one = store.shard_of(inode) == store.shard_of(target.number)
        return is_one and store.keeps_past_of(inode)

    def _share(self, node: Live | Past, start: int, live: Live, offset: int, length: int) -> None:
        draft = self._inodes.draft(live)
        with self._inodes.alone(live):
            self._lay(node, start, live, draft, offset, length)

    def _lay(
        self, node: Live | Past, start: int, live: Live, draft: Draft, offset: int, length: int
    ) -> None:
        shift, end = offset - start, start + length
        # What is in memory may change while something is staged.
        parts = [
            part if part.data is None else part._replace(data=memoryview(bytes(part.data)))
            for part in takewhile(lambda part: part.start < end, self._parts(node, start))
        ]
        holes = [
            (begin + shift, min(stop + shift, draft.size))
            for begin, stop in _gaps(parts, start, end)
            if begin + shift < draft.size
        ]
        draft.behind = None
        self._punch(live, draft, holes)
        now_ns = self._now_ns()
        for part in sorted(
            parts, key=lambda part: part.dirty
        ):  # a draft's bytes over what they hide
            begin, stop = max(part.start, start), min(part.end, end)
            skipped = begin - part.start
            if part.data is not None:
                data = part.data[skipped : skipped + stop - begin]
                draft.write(self._store, live.number, begin + shift, data, now_ns)
            else:
                draft.dirty.place(begin + shift, stop - begin, part.address, part.offset + skipped)
        draft.size = max(draft.size, offset + length)

    # --- open files --------------------------------------------------------------------------------------------

    def _file(self, handle: int) -> OpenFile:
        file = self._files.opened.get(handle)
        if isinstance(file, OpenConditional):
            raise Refused(Reason.UNSUPPORTED)
        if not isinstance(file, OpenFile):
            raise Refused(Reason.MALFORMED)
        node = file.node
        if isinstance(node, Past) and self._store.content_state(
            node.inode, node.attributes.content
        ):
            raise Refused(Reason.PRUNED)
        return file

    def _writable(self, handle: int) -> Live:
        file = self._file(handle)
        if type(file.node) is not Live:
            raise Refused(Reason.PAST_IS_READ_ONLY)
        if not file.writable:
            raise Refused(Reason.BAD_HANDLE)
        self._inodes.wait_saved(file.node)  # Somebody may claim it after that.
        if file.node.claim is not None or file.lost:
            self._inodes.check_claim(file.node, file)
        return file.node

    def _attributes(self, node: Live | Past) -> Attributes:
        if isinstance(node, Past):
            return node.attributes
        attributes = self._store.attributes(node.number)
        assert attributes is not None, "an open inode exists"
        return attributes

    def _size(self, node: Live | Past) -> int:
        if isinstance(node, Live) and node.draft is not None:
            return node.draft.size
        return self._attributes(node).size

    def _touch(self, handle: int, live: Live) -> None:
        """The handle wrote."""
        draft = self._inodes.draft(live)
        draft.mtime_ns = draft.changed_ns = self._now_ns()
        self._file(handle).dirty = True

    def _now_ns(self) -> int:
        return self._clock.now_ns()


def _gaps(parts: list[Part], start: int, end: int) -> list[tuple[int, int]]:
    """The stretches of [start, end) that no part, in order of their starts, covers."""
    found = []
    at = start
    for part in parts:
        if part.start > at:
            found.append((at, part.start))
        at = max(at, part.end)
    if at < end:
        found.append((at, end))
    return found

"""A draft: what was written to a file since its last version, shared by every handle of it on this mount.

POSIX wants a write seen at once by every process; history wants a version per write session. The draft is the
difference: reads go through it, `Filesystem` makes it a version at close, fsync or autocommit.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from storage.extents import DirtyMap
from storage.limits import CHUNK_BYTES

if TYPE_CHECKING:
    from cascadefs.filesystem.interface import Stat
    from storage.attributes import Attributes
    from storage.store import Store

__all__ = ["DRAFT_MEMORY_BYTES_MAX", "DRAFT_SPANS_MAX", "STAGE_BYTES_MIN", "Draft"]

STAGE_BYTES_MIN = 64 * 1024
"""A write this large goes to the log at once: nothing would be gained by gathering it with others."""

DRAFT_MEMORY_BYTES_MAX = 1024 * 1024
"""A draft holding more than this in memory stages it, so open files do not add up to the size of what is written."""

DRAFT_SPANS_MAX = 100_000
"""A draft of more pieces becomes a version early: all of them have to fit one record, in `METADATA_BYTES_MAX`."""


class Draft:
    """The uncommitted state of one inode.

    `size` is the file's size as seen now. Below `keep` (None: everywhere) the committed content shows where nothing
    dirty lies over it; from `keep` on it was truncated away. `since_ns` is when the first change came. `touched_ns`: the
    mtime that somebody set; a write after that moves `mtime_ns` on. `refused_until_ns`: before, it is not tried unasked. `behind`: the content commit, and its size, behind which
    all that is dirty was appended (O_APPEND); None once anything was changed otherwise, or where nobody else makes contents.
    """

    __slots__ = (
        "behind",
        "changed_ns",
        "dirty",
        "keep",
        "mtime_ns",
        "refused_until_ns",
        "since_ns",
        "size",
        "touched_ns",
    )

    def __init__(self, size: int, now_ns: int, behind: tuple[int, int] | None = None) -> None:
        self.behind = behind
        self.size = size
        self.keep: int | None = None
        self.dirty = DirtyMap()
        self.mtime_ns = self.changed_ns = self.since_ns = now_ns
        self.touched_ns: int | None = None
        self.refused_until_ns = 0

    def touch(self, mtime_ns: int) -> None:
        """Somebody said what the mtime shall be (utimensat(2))."""
        self.mtime_ns = self.touched_ns = mtime_ns

    def show(self, stat: Stat, attributes: Attributes) -> None:
        """Lay the draft over the stat of what is committed."""
        stat.size = self.size
        stat.mtime_ns = self.mtime_ns
        stat.ctime_ns = max(stat.ctime_ns, self.changed_ns)
        kept = attributes.stored if self.keep is None else min(attributes.stored, self.keep)
        stat.blocks = max(kept, self.stored_bytes) + 511 >> 9

    def follow(self, attributes: Attributes) -> bool:
        """What was appended goes behind the content there is now, whatever its size: the end is where O_APPEND writes.

        Whether it lay elsewhere.
        """
        assert self.behind is not None
        by = attributes.size - self.behind[1]
        if by:
            self.dirty.shift(by)
            self.size += by
        self.behind = attributes.content, attributes.size
        return bool(by)

    def rebase(self, before: int, after: int) -> None:
        """The committed content below was replaced: its size was `before` and is `after`."""
        if self.keep is None and self.behind is None:
            self.size = after if self.size == before else max(self.size, after)

    def truncate(self, size: int, now_ns: int) -> None:
        """Cut or extend (with a hole)."""
        self.behind = None
        if size < self.size:
            self.dirty.cut(size)
            self.keep = size if self.keep is None else min(self.keep, size)
        self.size = size
        self.mtime_ns = self.changed_ns = now_ns

    def write(
        self,
        store: Store,
        inode: int,
        offset: int,
        data: bytes | memoryview,
        now_ns: int,
        *,
        appends: bool = False,
    ) -> None:
        """Lay bytes over the file, kept as a copy; large ones and too many are staged in the log.

        `appends`: they are meant for wherever the end is, which is at `offset` now.

        Raises:
            OSError: the log could not take it; the draft is as before, or holds the bytes in memory.
        """
        length = len(data)
        if not appends:
            self.behind = None
        if length >= STAGE_BYTES_MIN:
            for extent in store.stage(inode, offset, data):
                self.dirty.place(*extent)
        elif length:
            self.dirty.write(offset, data)
            if self.dirty.memory_bytes > DRAFT_MEMORY_BYTES_MAX:
                self._stage(store, inode)
        self.size = max(self.size, offset + length)
        self.mtime_ns = self.changed_ns = now_ns

    def will_stage(self, length: int) -> bool:
        """Whether writing so much makes something go to the log ahead of the commit."""
        return (
            length >= STAGE_BYTES_MIN or self.dirty.memory_bytes + length > DRAFT_MEMORY_BYTES_MAX
        )

    def _stage(self, store: Store, inode: int) -> None:
        for span in [span for span in self.dirty if span.data is not None]:
            for extent in store.stage(inode, span.start, span.view()):
                self.dirty.place(*extent)

    def share(self, chunk: int, pieces: list[tuple[int, int, int, int]], size: int) -> None:
        """Lay the pieces of another version's chunk over the file, without copying a byte; cut at its `size`."""
        self.behind = None
        for start, length, address, offset in pieces:
            at = chunk * CHUNK_BYTES + start
            if at < size:
                self.dirty.place(at, min(length, size - at), address, offset)

    @property
    def stored_bytes(self) -> int:
        """A guess at what the version will hold without holes, for st_blocks: what is dirty now."""
        return min(self.dirty.span_bytes, self.size)

    def read(
        self,
        store: Store,
        inode: int,
        attributes: Attributes,
        offset: int,
        length: int,
        timestamp: int | None = None,
    ) -> bytes | bytearray | memoryview:
        """Bytes as seen now: dirty ones over the committed content, of now or as of a timestamp.

        Reading the log may let others have the store, so what is to be read is settled before.
        """
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        visible = attributes.size if self.keep is None else min(attributes.size, self.keep)
        spans, gaps = self.dirty.overlapping(offset, end), self.dirty.gaps(offset, end)
        if not spans and end <= visible:
            return store.read(inode, attributes, timestamp, offset, end - offset)
        written = [bytes(span.view()) if span.data is not None else None for span in spans]
        shown = [(start, min(stop, visible)) for start, stop in gaps if start < visible]
        below = memoryview(store.read_ranges(inode, attributes, timestamp, shown) if shown else b"")
        parts: list[tuple[int, bytes | memoryview]] = []
        for start, stop in gaps:
            size = max(min(stop, visible) - start, 0)
            parts += [(start, below[:size]), (start + size, bytes(stop - start - size))]
            below = below[size:]
        for span, data in zip(spans, written, strict=True):
            if data is not None:
                parts.append((span.start, data))
                continue
            staged = store.read_staged(inode, span.address, span.offset, span.length)
            parts.append((span.start, staged))
        return b"".join(data for _, data in sorted(parts, key=itemgetter(0)))

"""The files of a log: their names, their headers, and a bounded number of them open or mapped.

Knows what a segment's header says and nothing of frames (FORMAT, "Segments").
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from storage.codec import (
    BLOCK_BYTES,
    SLOT_OFFSETS,
    Slot,
    UnknownVersion,
    decode_slot,
)
from storage.errors import Unusable
from storage.log.condensed import Condensed

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.disk import Disk, File

__all__ = ["DIRECTORY", "Header", "Recent", "Segments", "segment_name"]

DIRECTORY: Final = "log"

OPEN_FILES_MAX: Final = 64
"""Segments open for reading; a terabyte of log has 16,384 and the descriptor limit here is 20,000."""

MAPPED_BYTES_MAX: Final = 256 * 1024 * 1024
MAPPED_SEGMENTS_MAX: Final = 64
"""Mapped segments: a page read through a mapping counts as resident memory until it is unmapped."""

_SUFFIX: Final = ".seg"

Key = TypeVar("Key")
Value = TypeVar("Value")


def segment_name(number: int) -> str:
    """Name of a segment's file, relative to the data directory."""
    return f"{DIRECTORY}/{number:016x}{_SUFFIX}"


class Recent(Generic[Key, Value]):
    """The most recently used values, made on demand. Safe among threads; what is dropped is only let go.

    So a thread that is using a value keeps it alive, and a file or mapping ends with its last user.
    """

    def __init__(self, limit: int, make: Callable[[Key], Value]) -> None:
        self._limit = limit
        self._make = make
        self._values: dict[Key, Value] = {}  # Invariant: oldest use first.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value:
        """The value of a key. What making it raises goes to the caller and nothing is kept."""
        with self._lock:
            value = self._values.pop(key) if key in self._values else self._make(key)
            self._values[key] = value
            if len(self._values) > self._limit:
                del self._values[next(iter(self._values))]
            return value

    def forget(self, key: Key) -> None:
        """Let one value go."""
        with self._lock:
            self._values.pop(key, None)

    def clear(self) -> None:
        """Let all values go."""
        with self._lock:
            self._values.clear()


class Header(NamedTuple):
    """What the header block of a segment says."""

    slot: Slot | None
    """The most recent whole copy; None if neither is whole."""
    damaged_offset: int | None
    """Where a copy is that is not whole or does not fit its file, if any."""


class Segments:
    """The segment files below ``log/`` of a disk."""

    def __init__(self, disk: Disk, segment_bytes: int = 0) -> None:
        self.disk = disk
        self.segment_bytes = segment_bytes
        self._files: Recent[int, File] = Recent(OPEN_FILES_MAX, self._open)
        mapped_max = MAPPED_SEGMENTS_MAX
        if segment_bytes:
            mapped_max = max(1, min(mapped_max, MAPPED_BYTES_MAX // segment_bytes))
        self._maps: Recent[int, tuple[File, memoryview]] = Recent(mapped_max, self._map)

    def _open(self, number: int) -> File:
        name = segment_name(number)
        file = self.disk.open(name, write=False)
        size = file.size()
        if self.segment_bytes and Condensed.is_at_end_of(file, size):
            return Condensed(file, name, self.segment_bytes, size)
        return file

    def _map(self, number: int) -> tuple[File, memoryview]:
        file = self.file(number)
        return file, file.map()  # Of this very file: another may take its name at any moment.

    def numbers(self) -> list[int]:
        """Numbers of the segments that exist, ascending. Files with other names are none of ours."""
        stems = (n[: -len(_SUFFIX)] for n in self.disk.list(DIRECTORY) if n.endswith(_SUFFIX))
        return sorted(int(stem, 16) for stem in stems if _is_number(stem))

    def file(self, number: int) -> File:
        """A segment, open for reading; `FileNotFoundError` if there is none."""
        return self._files.get(number)

    def slice(self, number: int, start: int, length: int) -> memoryview:
        """A range of a segment without a copy; shorter where the file ends early, or a gap is in the way."""
        file, view = self._maps.get(number)
        if isinstance(file, Condensed):
            place = file.place(start, length)
            if place is None:
                return memoryview(b"")
            start = place
        return view[start : start + length]

    def condensed(self, number: int) -> Condensed | None:
        """A segment, if it is condensed."""
        file = self.file(number)
        return file if isinstance(file, Condensed) else None

    def forget(self, number: int) -> None:
        """Drop what is open of a segment, because its file was exchanged or grew."""
        # In this order: a thread that maps it between the two would keep the old file's bytes for as long as it likes.
        self._files.forget(number)
        self._maps.forget(number)

    def clear(self) -> None:
        """Drop everything open. Views already handed out stay valid."""
        self._maps.clear()
        self._files.clear()

    def header(self, number: int) -> Header:
        """The header of a segment.

        Raises:
            Unusable: It is intact and of a format version this program does not know.
        """
        block = self.file(number).pread(BLOCK_BYTES, 0)
        found: Slot | None = None
        damaged_offset: int | None = None
        for offset in SLOT_OFFSETS:
            try:
                slot = decode_slot(block, offset)
            except UnknownVersion as error:
                raise Unusable(
                    f"{segment_name(number)} has format version {error.args[0]}, which this program does not know; "
                    "use the program that wrote it or a newer one"
                ) from error
            if slot is None:
                damaged_offset = offset
            elif found is None or slot.durable_index > found.durable_index:
                found = slot
        return Header(found, damaged_offset)


def _is_number(stem: str) -> bool:
    return len(stem) == 16 and all(digit in "0123456789abcdef" for digit in stem)

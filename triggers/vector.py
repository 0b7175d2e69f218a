"""Vectors: files of plain numbers, of which a few are looked at or added to at a time.

Theory of operation. A run's additions to one file become one `Sum`; what it touches is known before anything is read. It is
read, and written again, in pages of `PAGE_BYTES`, neighbouring ones together. Less than a page would be less to write, but the
index holds a piece for every range that was written by itself: numbers scattered one by one would in the end be a piece each.

Numbers are little endian; what lies behind the end of a file counts as zeros. Indices count numbers, not bytes. NumPy is
needed, and imported at first use.

Pure: bytes come from whoever calls. Source: docs/ML.md, "The parameter server".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.limits import FILE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from triggers.run import Add, Buffer

__all__ = ["DTYPES", "PAGE_BYTES", "Sum", "gathered", "indices_of", "pages", "windows"]

PAGE_BYTES = 1024
"""An addition to 100 numbers anywhere in 1 MiB writes so much to log and index: with 512 bytes a page 106 KB (and takes half as long
again), with 1 KiB 136 KB, with 4 KiB 352 KB."""

GATHERED = 16_384
"""Numbers looked for at a time: 16 MiB, should each be in a page of its own."""

DTYPES = ("float32", "float64", "int32", "int64")

Range = tuple[int, int]


def indices_of(index: Any) -> np.ndarray[Any, Any]:
    """What a caller calls an index (a number, an array, a range) as an array of int64.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: one is negative.
    """
    import numpy as np

    found = np.asarray(index)
    if found.dtype == bool or (found.size and not np.issubdtype(found.dtype, np.integer)):
        raise TypeError(f"an index is a whole number, or an array of them, not {found.dtype}")
    if found.size and int(found.min()) < 0:
        raise ValueError(f"index {int(found.min())} is negative")
    return found.astype("<i8", copy=False)


def pages(starts: np.ndarray[Any, Any], item_bytes: int, size: int) -> list[Range]:
    """The pages, as (offset, end) in bytes, that hold numbers of `item_bytes`; neighbours joined, cut off at `size`."""
    import numpy as np

    touched = np.unique(starts * item_bytes // PAGE_BYTES)
    breaks = np.flatnonzero(np.diff(touched) > 1)
    firsts = touched[np.concatenate(([0], breaks + 1))] if len(touched) else touched
    lasts = touched[np.concatenate((breaks, [len(touched) - 1]))] if len(touched) else touched
    found = zip((firsts * PAGE_BYTES).tolist(), ((lasts + 1) * PAGE_BYTES).tolist(), strict=True)
    return [(start, min(end, size)) for start, end in found if start < size]


def gathered(
    indices: Buffer, item_bytes: int, size: int, read: Callable[[Sequence[Range]], bytes]
) -> bytes:
    """The numbers at indices (int64) of a file of `size` bytes; zeros behind its end.

    `read` is asked for the bytes of ascending ranges inside the file, joined: the pages touched, `GATHERED` numbers at a time.

    Raises:
        ValueError: numbers of that many bytes are none, or an index is no place in a file.
    """
    import numpy as np

    if item_bytes not in (1, 2, 4, 8, 16) or memoryview(indices).nbytes % 8:
        raise ValueError("numbers have 1, 2, 4, 8 or 16 bytes, and indices 8")
    places = np.frombuffer(indices, "<i8")
    if places.size and not 0 <= places.min() <= places.max() < FILE_BYTES_MAX // item_bytes:
        raise ValueError("an index is negative, or beyond what a file can hold")
    found = np.zeros((len(places), item_bytes), np.uint8)
    ascending = np.argsort(places)
    inside = ascending[(places[ascending] + 1) * item_bytes <= size]
    for start in range(0, len(inside), GATHERED):
        some = inside[start : start + GATHERED]
        ranges = pages(places[some], item_bytes, size)
        held = np.frombuffer(read(ranges), np.uint8)
        spots = _spots(places[some], item_bytes, ranges)
        found[some] = held[spots[:, None] + np.arange(item_bytes)]
    return found.tobytes()


def windows(
    ranges: Sequence[Range], size_max: int
) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
    """The ranges' joined bytes in windows of `size_max`: from, to, and (offset in the file, length, offset in the window) of each part."""
    start, used = 0, 0
    parts: list[tuple[int, int, int]] = []
    for offset, end in ranges:
        at = offset
        while at < end:
            if used == size_max:
                yield start, start + used, parts
                start, used, parts = start + used, 0, []
            length = min(end - at, size_max - used)
            parts.append((at, length, used))
            at += length
            used += length
    if parts:
        yield start, start + used, parts


class Sum:
    """All that a run adds to one file. `size_bytes` is what the file has at least when it is done, `added_bytes` what is added."""

    def __init__(self, adds: Sequence[Add]) -> None:
        """Look at what is added; nothing is read.

        Raises:
            ValueError: a delta is no whole number of its type, types differ, an index is no place in a file; the message
                is for people.
        """
        import numpy as np

        (name,) = names if len(names := {add.dtype for add in adds}) == 1 else ("",)
        if name not in DTYPES:
            raise ValueError(
                f"add takes one of {', '.join(DTYPES)}, and of one file one type a run"
            )
        self._dtype = np.dtype(name).newbyteorder("<")
        self._adds = [self._places(add) for add in adds]
        self.added_bytes = sum(delta.nbytes for _, delta in self._adds)
        self._touched = np.concatenate([np.ravel(places) for places, _ in self._adds])
        last = int(self._touched.max()) if self._touched.size else -1
        self.size_bytes = (last + 1) * self._dtype.itemsize
        if self.size_bytes > FILE_BYTES_MAX or (self._touched.size and self._touched.min() < 0):
            raise ValueError("add takes indices from 0, of a file that can be")

    def _places(self, add: Add) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        import numpy as np

        size, item = memoryview(add.delta).nbytes, self._dtype.itemsize
        if size % item:
            raise ValueError(f"add: the delta is no whole number of {add.dtype}")
        delta = np.frombuffer(add.delta, self._dtype)
        if not memoryview(add.indices).nbytes:
            if not 0 <= add.index <= FILE_BYTES_MAX // item - len(delta):
                raise ValueError("add takes an index from 0, of a file that can be")
            return np.arange(add.index, add.index + len(delta)), delta
        if memoryview(add.indices).nbytes != 8 * len(delta):
            raise ValueError(f"add: {len(delta)} numbers, and another number of indices")
        return np.frombuffer(add.indices, "<i8"), delta

    def ranges(self, size: int) -> list[Range]:
        """The bytes that will be written, as (offset, end), ascending, of a file that then has `size` bytes."""
        return pages(self._touched, self._dtype.itemsize, size)

    def applied(self, ranges: Sequence[Range], held: bytes) -> bytes:
        """What is to be written: the ranges' bytes as they are, joined, and all additions made, in their order.

        Raises:
            OverflowError: a whole number became too large for its type.
        """
        import numpy as np

        odd = -len(held) % self._dtype.itemsize  # a file need not end with a whole number
        values = np.frombuffer(bytearray(held) + bytes(odd), self._dtype)
        wide = values.astype(np.float64) if self._dtype.kind == "i" else values
        bound = 2.0 ** (
            8 * self._dtype.itemsize - 1
        )  # of whole numbers; of long ones not to the last thousand
        for places, delta in self._adds:
            spots = _spots(places, self._dtype.itemsize, ranges) // self._dtype.itemsize
            np.add.at(values, spots, delta)
            if self._dtype.kind == "i":
                np.add.at(wide, spots, delta)
                if ((wide[spots] >= bound) | (wide[spots] < -bound)).any():
                    raise OverflowError(f"add: out of the range of {self._dtype.name}")
        return values.tobytes()[: len(held)]


def _spots(
    places: np.ndarray[Any, Any], item_bytes: int, ranges: Sequence[Range]
) -> np.ndarray[Any, Any]:
    """Where numbers lie in the joined bytes of the ranges that hold them."""
    import numpy as np

    if not len(places):
        return np.zeros(0, np.int64)
    starts = np.array([start for start, _ in ranges])
    before = np.concatenate(([0], np.cumsum([end - start for start, end in ranges])[:-1]))
    which = np.searchsorted(starts, places * item_bytes, side="right") - 1
    spots: np.ndarray[Any, Any] = before[which] + places * item_bytes - starts[which]
    return spots

"""The way through a log: which record follows which, and where one begins.

A frame says how long it is, and so where the next one is; a segment's header which record is its first. Readers go on while the
owner, on its thread, appends: what is the end for them moves away under their feet, now and then into another segment.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from storage.codec import BLOCK_BYTES
from storage.log.reader import Frame, Reader, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Walk"]


class Walk:
    """See the module.

    Attributes:
        first_number: of the first segment there is.
    """

    def __init__(
        self, reader: Reader, last_index: Callable[[], int], end_address: Callable[[], int]
    ) -> None:
        """`last_index` and `end_address` are asked anew at every step."""
        self.first_number = reader.segments.numbers()[0]
        self._reader = reader
        self._segment_bytes = reader.segment_bytes
        self._last_index = last_index
        self._end_address = end_address

    def frames(self, address: int | None = None, index: int = 1) -> Iterator[Frame]:
        """As `Log.frames`."""
        at = self.locate(index) if address is None else self._resolve(address)
        window = Window(self._reader)
        previous: Frame | None = None
        while at < self.end_address:
            frame = window.frame(at)
            if frame is None:
                # The owner, on its thread, may have rolled over since `at` was taken for the end.
                again = self.next_address(previous) if previous else self._resolve(at)
                if again == at:
                    what = "there is no intact record head of this log here"
                    raise self._reader.corruption(at, what)
                at = again
                continue
            yield frame
            previous, at = frame, self.next_address(frame)

    def next_address(self, frame: Frame) -> int:
        """As `Log.next_address`."""
        if frame.index >= self._last_index():
            return self.end_address
        following = frame.address + frame.size_bytes
        number = frame.address // self._segment_bytes + 1
        if number <= self.tail_number and self._reader.first_index(number) == frame.index + 1:
            return number * self._segment_bytes + BLOCK_BYTES
        return following

    def segment_behind(self, index: int) -> tuple[int, int] | None:
        """As `Log.segment_behind`."""
        for number in range(self.first_number, self.tail_number + 1):
            first_index = self._reader.first_index(number)
            if first_index is not None and index < first_index <= self._last_index():
                return first_index, number * self._segment_bytes + BLOCK_BYTES
        return None

    @property
    def end_address(self) -> int:
        """Where the next frame goes, or would if it fits its segment."""
        return self._end_address()

    @property
    def tail_number(self) -> int:
        """Of the segment that is appended to."""
        return self.end_address // self._segment_bytes

    def _resolve(self, address: int) -> int:
        """An address to start from: a frame's own, or one behind a last frame of a segment, or the end."""
        if address > self.end_address:
            raise self._reader.corruption(address, "this is behind the end of the log")
        number = address // self._segment_bytes
        if number == self.tail_number or self._reader.peek(address) is not None:
            return address
        # Behind the last frame of its segment, when that was the end? Rare, so walk: exact beats quick.
        window = Window(self._reader)
        at = number * self._segment_bytes + BLOCK_BYTES
        last: Frame | None = None
        while at < address and (frame := window.frame(at)) is not None:
            last, at = frame, at + frame.size_bytes
        if at == address and last and self._reader.first_index(number + 1) == last.index + 1:
            return (number + 1) * self._segment_bytes + BLOCK_BYTES
        raise self._reader.corruption(address, "no record of this log starts or ends here")

    def locate(self, index: int) -> int:
        """The address of an index, by segment headers and then heads."""
        if index > self._last_index():
            return self.end_address
        numbers = range(self.first_number, self.tail_number + 1)
        position = bisect_right(numbers, index, key=self.first_index) - 1
        if position < 0:
            what = (
                f"the log begins with record {self.first_index(numbers[0])}, record {index} is gone"
            )
            raise self._reader.corruption(numbers[0] * self._segment_bytes, what)
        for frame in self.frames(numbers[position] * self._segment_bytes + BLOCK_BYTES):
            if frame.index == index:
                return frame.address
        raise AssertionError("an index up to last_index is in the log")

    def first_index(self, number: int) -> int:
        """Of a segment's first record, or of the one that will be.

        Raises:
            Corruption: its header is damaged.
        """
        index = self._reader.first_index(number)
        if index is None:
            address = number * self._segment_bytes
            raise self._reader.corruption(address, "the segment header is damaged")
        return index

"""What happened lately, as lines with a place in a stream: the events of all bindings, and the output of each.

A stream's offset counts every byte ever written, so a reader goes on where it stopped; what is no longer kept is
skipped to the next whole line. In memory: what must survive is in the log.

Source: docs/TRIGGERS.md 11.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Chronicle"]


class Chronicle:
    """A stream of lines of which the last `kept_bytes` are kept."""

    def __init__(self, kept_bytes: int) -> None:
        self._kept_bytes = kept_bytes
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._waiting: dict[object, Callable[[], None]] = {}
        self.end = 0
        """The offset behind the last line."""

    @property
    def start(self) -> int:
        """The offset of the oldest line kept."""
        return self.end - self._bytes

    def append(self, line: bytes) -> None:
        """One more line, its line feed included."""
        assert line.endswith(b"\n")
        self._lines.append(line)
        self._bytes += len(line)
        self.end += len(line)
        while self._bytes > self._kept_bytes and len(self._lines) > 1:
            self._bytes -= len(self._lines.popleft())
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            for wake in waiting.values():
                wake()

    def wait(self, who: object, wake: Callable[[], None]) -> None:
        """Call `wake` at the next line, once, from whoever appends it; a reader has one such call at a time."""
        self._waiting[who] = wake

    def wait_no_more(self, who: object) -> None:
        """Take back what `wait` asked for; harmless if it was not asked."""
        self._waiting.pop(who, None)

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from an offset on; empty at the end. What is gone is not made up: see `start`."""
        if offset >= self.end or size <= 0:
            return b""
        found = bytearray()
        at = self.start
        for line in self._lines:
            if at + len(line) > offset:
                found += line[max(0, offset - at) :]
                if len(found) >= size:
                    break
            at += len(line)
        return bytes(found[:size])

    def whole(self) -> bytes:
        """All that is kept."""
        return b"".join(self._lines)

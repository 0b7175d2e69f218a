"""Files that are made up and more than a text: streams that grow, and files that take commands.

Opened, each is an object with the calls of an open file; the kernel caches nothing of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cascadefs.filesystem.files import OpenText
from cascadefs.filesystem.node import Node, Served
from storage.errors import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


__all__ = ["Stream", "commands", "stream"]

COMMAND_BYTES_MAX = 64 * 1024


class Stream(Protocol):
    """What is shown as one: `triggers.chronicle.Chronicle`, or what stands for one elsewhere."""

    @property
    def start(self) -> int:
        """The offset of the oldest line kept."""
        ...

    @property
    def end(self) -> int:
        """The offset behind the last line."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from an offset on; empty at the end."""
        ...

    def wait(self, who: object, wake: Callable[[], None]) -> None:
        """Call `wake` at the next line, once."""
        ...

    def wait_no_more(self, who: object) -> None:
        """Take back what `wait` asked for."""
        ...


class OpenStream(OpenText):
    """An open stream. The file's offset is the place in it, so a reader may stop, and go on by seeking.

    Who begins in front of what is kept begins with what is kept. Who has read up to the end may wait for more with poll(2).
    """

    __slots__ = ("_chronicle", "_read_to", "_shift")

    def __init__(self, chronicle: Stream) -> None:
        self._chronicle = chronicle
        self._shift: int | None = None
        self._read_to = 0

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on; none at the end, which may come to be more."""
        if self._shift is None:
            self._shift = max(0, self._chronicle.start - offset)
        data = self._chronicle.read(offset + self._shift, length)
        self._read_to = offset + self._shift + len(data)
        return data

    def poll(self, wake: Callable[[], None] | None) -> bool:
        """Whether there is more than was read."""
        if (
            wake is not None
        ):  # ready or not: who waits for changes only (EPOLLET) is told of the next one
            self._chronicle.wait(self, wake)
        return self._chronicle.end > self._read_to

    def release(self) -> None:
        """Nobody waits any more."""
        self._chronicle.wait_no_more(self)


class OpenCommands(OpenText):
    """An open file that takes commands, one a line; a line without its end waits for the close."""

    __slots__ = ("_do", "_rest")

    def __init__(self, do: Callable[[str], None]) -> None:
        self._do = do
        self._rest = b""

    def read(self, offset: int, length: int) -> bytes:
        """Nothing to read."""
        return b""

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Do what each whole line says.

        Raises:
            Refused: MALFORMED for the first line that says nothing that can be done; those before it are done.
        """
        text = self._rest + bytes(data)
        if len(text) > COMMAND_BYTES_MAX:
            raise Refused(Reason.ARGUMENT_TOO_LARGE)
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            self._obey(line)
        return len(data)

    def flush(self) -> None:
        """Do what the last line says."""
        rest, self._rest = self._rest, b""
        self._obey(rest)

    def _obey(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            self._do(line.decode(errors="surrogateescape"))
        except ValueError as error:
            raise Refused(Reason.MALFORMED) from error


def stream(key: tuple[object, ...], chronicle: Stream, *, uid: int, gid: int, time_ns: int) -> Node:
    """A file that shows a stream. Its size is where the stream ends, so `tail -f` sees it grow."""
    return Served(
        key, lambda: OpenStream(chronicle), _nothing, uid=uid, gid=gid, time_ns=time_ns, mode=0o440,
        size=lambda: chronicle.end,
    )  # fmt: skip


def commands(
    key: tuple[object, ...], do: Callable[[str], None], *, uid: int, gid: int, time_ns: int
) -> Node:
    """A file that takes commands; `do` raises ValueError for one that cannot be done."""
    return Served(
        key, lambda: OpenCommands(do), _nothing, uid=uid, gid=gid, time_ns=time_ns, mode=0o200
    )


def _nothing() -> Iterator[bytes]:
    return iter(())

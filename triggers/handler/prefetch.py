"""Files read before they are wanted: while a handler computes on one, the next are on their way.

    for file in ctx.prefetch(ctx.list("parts/*.npz")): ...
    for batch in ctx.prefetch(paths, batch=32, ahead=2): ...

What is asked for ahead is answered by the daemon, in order, while the handler's process computes; nothing here has a thread of
its own. Where handler and store share a thread nobody could work meanwhile, and a file is read when it is wanted.

Source: ML face, "Prefetch".
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeAlias

from triggers.handler.blob import File

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from triggers.handler.copies import Copies
    from triggers.run import Content

__all__ = ["ASKED_MAX", "Asked", "AsyncPrefetch", "Pending", "Prefetch", "Reply", "Whenever"]

ASKED_MAX = 64
"""Files asked for and not taken yet, whatever `ahead` says: their descriptors wait in a socket."""

Some: TypeAlias = "File | list[File | None] | None"


class Pending(Protocol):
    """A content that was asked for: what `begin_get` of a cut in another process, or thread, gives."""

    def take(self) -> Content | None:
        """The content, waited for; once. Raises as `triggers.run.Cut.get`."""
        ...

    def abandon(self) -> None:
        """Nobody will want it."""
        ...


class Reply(Protocol):
    """A file that was asked for."""

    def __call__(self) -> File | None:
        """The file, waited for; once.

        Raises:
            OSError, ValueError: as `get`.
        """
        ...

    def abandon(self) -> None:
        """Nobody will want it."""
        ...


class Whenever:
    """A file that is read when it is wanted."""

    def __init__(self, read: Callable[[], File | None]) -> None:
        self._read = read

    def __call__(self) -> File | None:
        """See `Reply`."""
        return self._read()

    def abandon(self) -> None:
        """Nothing was asked."""


class Asked:
    """A file whose content was asked for."""

    def __init__(self, content: Pending, copies: Copies) -> None:
        self._content = content
        self._copies = copies
        self.abandon = content.abandon

    def __call__(self) -> File | None:
        """See `Reply`."""
        found = self._content.take()
        return None if found is None else File.of(found, self._copies)


class Prefetch:
    """An iterator; see `Context.prefetch`. `close` abandons what was asked for and not taken."""

    def __init__(
        self,
        begin: Callable[[str], Reply],
        paths: Iterable[str],
        batch: int | None,
        ahead: int,
    ) -> None:
        """Ask for the first `ahead` batches at once.

        Args:
            begin: asks for a file.
            paths: in this order; taken from it as they are asked for.
            batch: files at a time; None: one, and not in a list.
            ahead: batches asked for that are not wanted yet.

        Raises:
            ValueError: a number is none.
        """
        if (batch is not None and batch < 1) or ahead < 0:
            raise ValueError(f"prefetch: batch={batch}, ahead={ahead}: from 1, and from 0")
        self._begin = begin
        self._paths: Iterator[str] = iter(paths)
        self._batch = batch
        self._ahead = min(ahead * (batch or 1), ASKED_MAX)
        self._asked: deque[Reply] = deque()
        self._ask(self._ahead)

    def _ask(self, count: int) -> None:
        while len(self._asked) < count:
            path = next(self._paths, None)
            if path is None:
                return
            self._asked.append(self._begin(path))

    def __iter__(self) -> Prefetch:
        return self

    def __next__(self) -> Some:
        if self._batch is None:
            return self._take()
        found: list[File | None] = []
        while len(found) < self._batch:
            try:
                found.append(self._take())
            except StopIteration:
                break
        if not found:
            raise StopIteration
        return found

    def _take(self) -> File | None:
        self._ask(max(self._ahead, 1))
        if not self._asked:
            raise StopIteration
        reply = self._asked.popleft()
        self._ask(self._ahead)  # before waiting: there is somebody to do it
        return reply()

    def close(self) -> None:
        """Abandon what was asked for; the iterator is at its end."""
        self._paths = iter(())
        while self._asked:
            self._asked.pop().abandon()


class AsyncPrefetch:
    """`Prefetch` for `async for`. As all reads of `async` handlers it blocks where there is something to wait for."""

    def __init__(self, prefetch: Prefetch) -> None:
        self._prefetch = prefetch
        self.close = prefetch.close

    def __aiter__(self) -> AsyncPrefetch:
        return self

    async def __anext__(self) -> Some:
        try:
            return next(self._prefetch)
        except StopIteration:
            raise StopAsyncIteration from None

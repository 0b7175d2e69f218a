"""A cut in the daemon, read from a worker: each call is a question over the channel, answered in order.

The calls block, in coroutine handlers too: an answer takes a tenth of a millisecond and no disk is waited for. What
else arrives meanwhile (another run, a cancellation) is handed on at once.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from triggers.run import Content
from triggers.worker.message import Answer, Ask, Place
from triggers.worker.sealed import map_sealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.run import Buffer, Event, Stat
    from triggers.worker.channel import Channel
    from triggers.worker.message import ToWorker, WireContent

__all__ = ["Desk", "RemoteCut", "content_of"]

ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (PermissionError, IsADirectoryError, NotADirectoryError, ValueError, OSError)
}


class Desk:
    """Where a worker's questions are asked. `pass_on` takes what arrives and is no answer."""

    def __init__(self, channel: Channel[ToWorker]) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self.thread: int | None = None
        """The only thread that may ask, where an event loop reads the channel; None: any."""
        self.pass_on: Callable[[Any, list[int]], None] = _nobody

    def ask(self, question: Ask) -> tuple[Answer, list[int]]:
        """The answer, with descriptors that are the caller's.

        Raises:
            RuntimeError: a thread that may not.
            PermissionError, IsADirectoryError, ValueError, OSError: as the daemon's cut raised.
        """
        if self.thread is not None and self.thread != threading.get_ident():
            raise RuntimeError("ctx reads in the thread of the event loop only")
        with self._lock:
            self._channel.send(question)
            while True:
                message, fds = self._channel.receive()
                if isinstance(message, Answer):
                    break
                self.pass_on(message, fds)
        if message.error is not None:
            name, text = message.error
            raise ERRORS.get(name, OSError)(text)
        return message, fds


class RemoteCut:
    """A `triggers.run.Cut` by questions."""

    def __init__(self, desk: Desk, run_id: str, first: Content | None) -> None:
        self._desk = desk
        self._run_id = run_id
        self._first = first
        self.events: list[Event] = []

    def event_content(self, event: Event) -> Content | None:
        """See `Cut.event_content`."""
        index = self.events.index(event)
        if index == 0 and self._first is not None:
            return self._first
        return self._content(Ask(self._run_id, "event_content", number=index))

    def get(self, path: str, *, latest: bool = False) -> Content | None:
        """See `Cut.get`."""
        return self._content(Ask(self._run_id, "get", path, latest))

    def get_unless(self, path: str, held: tuple[int, int]) -> Content | None:
        """As `get`, but without bytes if the content is the one held."""
        return self._content(Ask(self._run_id, "get", path, held=held))

    def version(self, path: str, number: int) -> Content | None:
        """See `Cut.version`."""
        return self._content(Ask(self._run_id, "version", path, number=number))

    def pull(
        self, path: str, indices: Buffer, item_bytes: int, *, latest: bool = False
    ) -> Content | None:
        """See `Cut.pull`."""
        places = bytes(indices)
        return self._content(
            Ask(self._run_id, "pull", path, latest, number=item_bytes, indices=places)
        )

    def stat(self, path: str, *, latest: bool = False) -> Stat | None:
        """See `Cut.stat`."""
        return self._desk.ask(Ask(self._run_id, "stat", path, latest))[0].stat

    def files(self, glob: str) -> list[str]:
        """See `Cut.files`."""
        return self._desk.ask(Ask(self._run_id, "files", glob))[0].paths

    def history(
        self,
        path: str,
        *,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> list[Stat]:
        """See `Cut.history`."""
        question = Ask(self._run_id, "history", path, since=since, until=until, limit=limit)
        return self._desk.ask(question)[0].history

    def _content(self, question: Ask) -> Content | None:
        answer, fds = self._desk.ask(question)
        return None if answer.content is None else content_of(answer.content, fds)


def content_of(wire: WireContent, fds: list[int]) -> Content:
    """Content from the wire; the descriptors are used up."""
    try:
        data = wire.data
        if isinstance(data, Place):
            parts = [map_sealed(fds[0])[data.offset : data.offset + data.size]]
        else:
            parts = [memoryview(data)] if data else []
    finally:
        for fd in fds:
            os.close(fd)
    return Content(wire.path, wire.version, wire.timestamp, wire.size, parts, wire.identity)


def _nobody(message: object, fds: list[int]) -> NoReturn:
    raise AssertionError(f"nobody expects a {type(message).__name__}")

"""A cut in the daemon, read from a worker: each call is a question over the channel, answered in order.

The calls block, in coroutine handlers too: an answer takes a tenth of a millisecond and no disk is waited for. What
else arrives meanwhile (another run, a cancellation) is handed on at once.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

from triggers.run import Content
from triggers.worker.message import Answer, Ask, Place
from triggers.worker.sealed import map_sealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.run import Buffer, Event, Frame, Span, Stat
    from triggers.worker.channel import Channel
    from triggers.worker.message import ToWorker, WireContent

__all__ = ["Desk", "RemoteCut", "content_of"]

ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (PermissionError, IsADirectoryError, NotADirectoryError, ValueError, OSError)
}


class Desk:
    """Where a worker's questions are asked; they are answered in order. `pass_on` takes what arrives and is no answer."""

    def __init__(self, channel: Channel[ToWorker]) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._asked: deque[Asked] = deque()
        self.thread: int | None = None
        """The only thread that may ask, where an event loop reads the channel; None: any."""
        self.pass_on: Callable[[Any, list[int]], None] = _nobody

    def ask(self, question: Ask) -> tuple[Answer, list[int]]:
        """The answer, with descriptors that are the caller's.

        Raises:
            RuntimeError: a thread that may not.
            PermissionError, IsADirectoryError, ValueError, OSError: as the daemon's cut raised.
        """
        self._check_thread()
        with self._lock:
            return self._wait_for(self._post(question))

    def begin(self, question: Ask) -> Asked:
        """Ask, and go on; `wait_for` what it gives, or `abandon` it."""
        self._check_thread()
        with self._lock:
            return self._post(question)

    def wait_for(self, asked: Asked) -> tuple[Answer, list[int]]:
        """As `ask`, of what was asked before."""
        self._check_thread()
        with self._lock:
            return self._wait_for(asked)

    def abandon(self, asked: Asked) -> None:
        """Nobody will wait for it."""
        asked.is_wanted = False
        for fd in asked.fds:
            os.close(fd)
        asked.fds = []

    def answered(self, answer: Answer, fds: list[int]) -> None:
        """An answer came; to the oldest question that has none."""
        asked = self._asked.popleft()
        asked.answer, asked.fds = answer, fds
        if not asked.is_wanted:
            self.abandon(asked)

    def next(self) -> tuple[Any, list[int]]:
        """The next message that is no answer, waited for."""
        while True:
            message, fds = self._channel.receive()
            if not isinstance(message, Answer):
                return message, fds
            self.answered(message, fds)

    def _check_thread(self) -> None:
        if self.thread is not None and self.thread != threading.get_ident():
            raise RuntimeError("ctx reads in the thread of the event loop only")

    def _post(self, question: Ask) -> Asked:
        while True:
            try:
                # With answers under way, waiting here and the daemon waiting there for room would be for ever.
                self._channel.send(question, wait=not self._asked)
                break
            except BlockingIOError:
                self._hear()
        self._asked.append(asked := Asked())
        return asked

    def _hear(self) -> None:
        message, fds = self._channel.receive()
        if isinstance(message, Answer):
            self.answered(message, fds)
        else:
            self.pass_on(message, fds)

    def _wait_for(self, asked: Asked) -> tuple[Answer, list[int]]:
        while asked.answer is None:
            self._hear()
        if asked.answer.error is not None:
            name, text = asked.answer.error
            raise ERRORS.get(name, OSError)(text)
        fds, asked.fds = asked.fds, []
        return asked.answer, fds


class Asked:
    """A question on its way, or answered; the descriptors of the answer are its own until somebody takes them."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.fds: list[int] = []
        self.is_wanted = True


class Begun:
    """See `triggers.handler.prefetch.Pending`."""

    def __init__(self, desk: Desk, asked: Asked) -> None:
        self._desk = desk
        self._asked = asked

    def take(self) -> Content | None:
        """See `Pending`."""
        answer, fds = self._desk.wait_for(self._asked)
        return None if answer.content is None else content_of(answer.content, fds)

    def abandon(self) -> None:
        """See `Pending`."""
        self._desk.abandon(self._asked)


class RemoteCut:
    """A `triggers.run.Cut` by questions."""

    def __init__(self, desk: Desk, run_id: str, first: Content | None) -> None:
        self._desk = desk
        self._run_id = run_id
        self._first = first
        self.events: list[Event] = []

    def event_content(self, event: Event, *, span: Span | None = None) -> Content | None:
        """See `Cut.event_content`; nobody here asks for a span."""
        assert span is None
        index = self.events.index(event)
        if index == 0 and self._first is not None:
            return self._first
        return self._content(Ask(self._run_id, "event_content", number=index))

    def get(self, path: str, *, latest: bool = False, span: Span | None = None) -> Content | None:
        """See `Cut.get`."""
        return self._content(Ask(self._run_id, "get", path, latest, span=span))

    def begin_get(self, path: str) -> Begun:
        """Ask for what `get` answers, and go on."""
        return Begun(self._desk, self._desk.begin(Ask(self._run_id, "get", path)))

    def get_unless(self, path: str, held: tuple[int, int]) -> Content | None:
        """As `get`, but without bytes if the content is the one held."""
        return self._content(Ask(self._run_id, "get", path, held=held))

    def version(self, path: str, number: int, *, span: Span | None = None) -> Content | None:
        """See `Cut.version`."""
        return self._content(Ask(self._run_id, "version", path, number=number, span=span))

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

    def scan(
        self, glob: str, since: int | None, until: int | None, after: tuple[str, int], limit: int
    ) -> list[Frame]:
        """See `Cut.scan`."""
        question = Ask(
            self._run_id, "scan", glob, since=since, until=until, limit=limit, after=after
        )
        return self._desk.ask(question)[0].frames

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

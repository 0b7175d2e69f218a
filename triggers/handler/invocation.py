"""One call of a handler: its arguments before, and its result or failure after.

The call itself is the caller's, because a plain function, trio and asyncio are called differently and only the caller
knows where it may wait.
"""

from __future__ import annotations

import inspect
import traceback
from typing import TYPE_CHECKING, Any

from triggers.handler.context import AsyncContext, Base, Context, Rejected, RetryLater
from triggers.handler.event import Event
from triggers.handler.importer import PREFIX
from triggers.run import Done, Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.handler.context import Services
    from triggers.run import Cut, FailureKind, Run

__all__ = ["OUTPUT_BYTES_MAX", "Invocation", "failure", "is_coroutine", "one_line", "shown"]

OUTPUT_BYTES_MAX = 64 * 1024
"""Of what a run prints; the end of it is kept."""


def is_coroutine(handler: Callable[..., Any]) -> bool:
    """Whether calling a handler gives something to await."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004  an object with `async def __call__`
    )


class Invocation:
    """A run on its way through a handler."""

    def __init__(self, run: Run, cut: Cut, services: Services, *, is_async: bool) -> None:
        """Make what the handler gets; nothing is read yet."""
        self._run = run
        self._services = services
        self.context: Base = (AsyncContext if is_async else Context)(run, cut, services)
        self.output = bytearray()
        self._started_ns = services.wall_ns()
        self._started_steady_ns = services.steady_ns()
        context = self.context
        self._events = [
            Event(
                event,
                read=lambda event=event: cut.event_content(event),  # type: ignore[misc]
                state=context.state_of,
                failed=context.failed,
                copies=services.copies,
            )
            for event in run.events
        ]

    @property
    def arguments(self) -> tuple[Any, Base]:
        """`(event, ctx)`, or `(events, ctx)` for a batch."""
        return (self._events if self._run.is_batch else self._events[0]), self.context

    def print(self, text: str) -> None:
        """Take what the run printed; the end of it is kept."""
        self.write(text.encode("utf-8", "surrogateescape"))

    def write(self, data: bytes) -> None:
        """Take what the run wrote to its standard output or error; the end of it is kept."""
        self.output += data
        if len(self.output) > 2 * OUTPUT_BYTES_MAX:
            del self.output[:-OUTPUT_BYTES_MAX]

    def done(self, returned: object) -> Done | Failed:
        """The result. Returning bytes or text makes it the run's `result`; anything else is ignored."""
        self.context.close()
        try:
            states = self.context.changed_states()
        except TypeError as error:
            return self.failed(TypeError(f"state: {error}"))
        result = returned.encode() if isinstance(returned, str) else returned
        failed = self.context.failed
        if failed and not self._run.is_batch:
            (reason,) = failed.values()
            return self._failure("exception", f"event.fail: {reason}")
        return Done(
            effects=self.context.effects,
            states=states,
            failed=failed,
            output=self._kept_output(),
            log=self.context.lines,
            result=result if isinstance(result, bytes) else b"",
            started_ns=self._started_ns,
            duration_ns=self._duration_ns(),
            models=list(self.context.models.items()),
        )

    def failed(self, error: BaseException) -> Failed:
        """The failure that an exception means."""
        kind, message, after_ms = failure(error)
        text = "" if kind in ("retry", "reject") else shown(error)
        return self._failure(kind, message, text, after_ms)

    def timed_out(self) -> Failed:
        """The failure of a run whose time is over."""
        return self._failure("timeout", f"no end after {self._run.timeout_ms} ms")

    def killed(self) -> Failed:
        """The failure of a run that somebody ended."""
        return self._failure("killed", "ended by request")

    def _failure(
        self, kind: FailureKind, message: str, text: str = "", after_ms: int | None = None
    ) -> Failed:
        self.context.close()
        return Failed(
            kind=kind,
            message=message,
            traceback=text,
            after_ms=after_ms,
            output=self._kept_output(),
            log=self.context.lines,
            started_ns=self._started_ns,
            duration_ns=self._duration_ns(),
        )

    def _kept_output(self) -> bytes:
        return bytes(self.output[-OUTPUT_BYTES_MAX:])

    def _duration_ns(self) -> int:
        return self._services.steady_ns() - self._started_steady_ns


def failure(error: BaseException) -> tuple[FailureKind, str, int | None]:
    """What an exception of a handler means: kind, one line, and when to try again (milliseconds)."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # a nursery's wrapping
    match error:
        case RetryLater():
            return "retry", "the handler asks for another try", error.after_ms
        case Rejected():
            return "reject", str(error) or "rejected by the handler", None
        case MemoryError():
            return "memory", one_line(error), None
        case SystemExit():
            return "exit", f"exit status {error.code}", None
    return "exception", one_line(error), None


def shown(error: BaseException) -> str:
    """A traceback from where the script begins: how it came to be called is no news to its author."""
    trace = error.__traceback__
    while trace and not str(trace.tb_frame.f_globals.get("__name__", "")).startswith(PREFIX):
        trace = trace.tb_next
    return "".join(traceback.format_exception(error.with_traceback(trace or error.__traceback__)))


def one_line(error: BaseException) -> str:
    """An exception as the last line of its traceback, in one line."""
    return " ".join("".join(traceback.format_exception_only(error)).split())

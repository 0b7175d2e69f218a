"""Runs in the process of the caller: the same API, no copy, no protection.

For tests, and for scripts below directories that an administrator listed (docs/TRIGGERS.md 12). A handler sees the
stored bytes themselves, as read-only memory.

An `async` handler runs on the caller's trio loop. A plain one runs there too if `in_threads` is false: deterministic,
so for tests; everything else waits, and its timeout cannot be enforced. With `in_threads` it has a thread of its own,
may use the mounted file system, and is abandoned, not stopped, when its time is over or it is killed: Python cannot end
a thread. Nothing of an abandoned run takes effect.
"""

from __future__ import annotations

import asyncio
import functools
import queue
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import trio

from triggers.handler.context import Services
from triggers.handler.copies import Copies
from triggers.handler.device import find_device
from triggers.handler.importer import ScriptImporter
from triggers.handler.invocation import Invocation, is_coroutine, one_line, shown
from triggers.run import Failed, LoadFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.handler.collector import Collector
    from triggers.run import Content, Cut, Done, Run, Script

__all__ = ["InprocRunner"]

_printing: ContextVar[Invocation | None] = ContextVar("printing", default=None)


class InprocRunner:
    """A `Runner` without workers. `copies` counts every copy of content that it made."""

    def __init__(
        self,
        wall_ns: Callable[[], int],
        steady_ns: Callable[[], int],
        *,
        in_threads: bool = False,
    ) -> None:
        """Run by these clocks (nanoseconds)."""
        self.copies = Copies()
        device = functools.cache(find_device)
        self._services = Services(wall_ns, steady_ns, device, self.copies)
        self._in_threads = in_threads
        self._loaded: dict[str, tuple[ScriptImporter, Collector]] = {}
        self._running: dict[str, trio.CancelScope] = {}
        self._killed: set[str] = set()

    async def load(self, script: Script) -> list[dict[str, object]]:
        """See `Runner.load`."""
        return list(self._load(script).tables)

    async def run(self, run: Run, cut: Cut) -> Done | Failed:
        """See `Runner.run`."""
        if run.handler is None:
            return Failed("load", "an executable needs a process of its own: `runner.pool`")
        try:
            collector = self._load(run.script)
            handler = collector.handlers[run.handler]
        except LoadFailed as error:
            return Failed("load", str(error), error.traceback)
        except KeyError:
            return Failed("load", f"{run.script.name} registers no handler {run.handler}")
        is_async = is_coroutine(handler)
        in_thread = self._in_threads and not (is_async and run.runtime == "trio")
        reads = FromThread(cut) if in_thread else cut
        invocation = Invocation(run, reads, self._services, is_async=is_async)
        token = _printing.set(invocation)
        try:
            with trio.move_on_after(run.timeout_ms / 1000) as scope:
                self._running[run.id] = scope
                return invocation.done(await self._call(handler, run, invocation, in_thread))
        except trio.Cancelled:
            raise  # of the caller's, not ours
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | GeneratorExit):
                raise
            return invocation.failed(error)
        finally:
            _printing.reset(token)
            self._running.pop(run.id, None)
            killed = run.id in self._killed
            self._killed.discard(run.id)
        return invocation.killed() if killed else invocation.timed_out()

    async def _call(
        self, handler: Callable[..., Any], run: Run, invocation: Invocation, in_thread: bool
    ) -> object:
        arguments = invocation.arguments
        if is_coroutine(handler):
            if run.runtime == "trio":
                return await handler(*arguments)
            call = functools.partial(asyncio.run, handler(*arguments))
        else:
            call = functools.partial(handler, *arguments)
        if in_thread:
            return await trio.to_thread.run_sync(call, abandon_on_cancel=True)
        return call()

    def kill(self, run_id: str) -> bool:
        """See `Runner.kill`."""
        scope = self._running.get(run_id)
        if scope is None:
            return False
        self._killed.add(run_id)
        scope.cancel()
        return True

    async def retire(self, script_id: str) -> None:
        """See `Runner.retire`."""
        loaded = self._loaded.pop(script_id, None)
        if loaded is not None:
            loaded[0].forget()

    async def close(self) -> None:
        """See `Runner.close`."""
        for scope in self._running.values():
            scope.cancel()
        for script_id in list(self._loaded):
            await self.retire(script_id)

    def _load(self, script: Script) -> Collector:
        loaded = self._loaded.get(script.id)
        if loaded is None:
            importer = ScriptImporter(script, {"print": captured_print})
            try:
                loaded = (importer, importer.collect())
            except (Exception, SystemExit) as error:
                raise LoadFailed(one_line(error), shown(error)) from error
            self._loaded[script.id] = loaded
        return loaded[1]


class FromThread:
    """A cut as a thread sees it: each read is made on the trio thread, to which the store belongs."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._token = trio.lowlevel.current_trio_token()

    def begin_get(self, path: str) -> Begun:
        """Ask for what `get` answers, and go on."""
        begun = Begun()
        self._token.run_sync_soon(begun.read, self._cut, path)
        return begun

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._cut, name)

        def in_trio_thread(*arguments: Any, **options: Any) -> Any:
            return trio.from_thread.run_sync(functools.partial(call, *arguments, **options))

        return in_trio_thread


class Begun:
    """See `triggers.handler.prefetch.Pending`."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[Content | Exception | None] = queue.SimpleQueue()
        self._is_wanted = True

    def read(self, cut: Cut, path: str) -> None:
        """Read it, in the store's thread."""
        try:
            self._answers.put(cut.get(path) if self._is_wanted else None)
        except Exception as error:
            self._answers.put(error)

    def take(self) -> Content | None:
        """See `Pending`."""
        answer = self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def abandon(self) -> None:
        """See `Pending`."""
        self._is_wanted = False


def captured_print(*values: object, **options: Any) -> None:
    """`print` as scripts in this process have it: into the run's own output."""
    import io

    invocation = _printing.get()
    if invocation is None or options.get("file") is not None:
        print(*values, **options)
        return
    text = io.StringIO()
    print(*values, **{**options, "file": text})
    invocation.print(text.getvalue())

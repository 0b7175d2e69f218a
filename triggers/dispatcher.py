"""The dispatcher: drives an engine with tasks and a runner, for as long as the store is open.

One loop looks at what was committed, starts what may run and sleeps until there is a commit, a result or a moment to
wait for. Each run is a task of its own. The store is held only while the engine works, never while a script does.

Source: docs/TRIGGERS.md.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import trio

from triggers.loading import Loading
from triggers.operator import Operator
from triggers.run import Failed, LoadFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from triggers.cut import StoreCut
    from triggers.engine import Engine, Started
    from triggers.loading import Job
    from triggers.run import Runner

__all__ = ["Dispatcher"]

IDLE_TURNS = 8
"""So many turns in a row about commits that concern no binding, and the next commits are gathered before they are looked at."""

GATHER_MS = 2
"""How long commits are gathered then: the most that an event among many commits that are none is later for it."""

SLEEP_MS_MAX = 60_000
"""Without any reason to wake up: the wall clock may have been set meanwhile."""

_log = logging.getLogger("cascadefs.triggers")


class Held:
    """A cut whose every call holds the store: runners read while others are served."""

    def __init__(self, cut: StoreCut, held: Callable[[], AbstractContextManager[object]]) -> None:
        self._cut = cut
        self._held = held

    def __getattr__(self, name: str) -> Callable[..., object]:
        """A call of the cut's."""
        call = getattr(self._cut, name)

        def holding(*arguments: object, **options: object) -> object:
            with self._held():
                return call(*arguments, **options)

        return holding


class Dispatcher:
    """See the module."""

    def __init__(
        self,
        engine: Engine,
        runner: Runner,
        held: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        hurry: Callable[[bool], None] = lambda _busy: None,
    ) -> None:
        """`held` keeps everybody else from the store while it is entered; `hurry` is told whether there is work."""
        self.engine = engine
        self.loading = Loading(engine)
        self.operator = Operator(engine, self._kill)
        self.runner = runner
        self._held = held
        self._hurry = hurry
        self._awake = trio.Event()
        self._woken = False
        self._idle_turns = 0
        self._gathers = False
        self.is_open = False
        """Whether the engine has taken up what the store says; with the store held."""
        self._is_late = False
        """Whether something happened, while commits are gathered, that a turn is needed for."""
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self) -> None:
        """Until cancelled: runs under way are killed then, have no effect, and run again after the next start."""
        self._token = trio.lowlevel.current_trio_token()
        self.engine.wake = self.wake
        self.engine.told = self._told
        with self._held():
            self.engine.open()
            self.is_open = True
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._turn(nursery)
        finally:
            with self._held():
                self.is_open = False
                self.engine.close()
            with trio.CancelScope(shield=True):
                await self.runner.close()

    def wake(self) -> None:
        """There is something to look at. From any thread, and cheap while the loop is awake anyway."""
        if self._woken or self._token is None:
            return
        self._woken = True
        self._hurry(True)
        if self._is_here():
            self._awake.set()
        else:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._awake.set, idempotent=True)

    def _told(self) -> None:
        """There was a commit. A writer should not pay for a turn about what concerns nobody, turn after turn."""
        if self._gathers:
            self._is_late = True
        else:
            self.wake()

    def _is_here(self) -> bool:
        """Whether this is the loop's own thread."""
        try:
            return trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            return False

    def _kill(self, run_id: str) -> bool:
        """Make a run under way end. From any thread: another one cannot wait for the answer, as it holds the store."""
        if self._token is None or self._is_here():
            return self.runner.kill(run_id)
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.runner.kill, run_id)
        return True

    async def _turn(self, nursery: trio.Nursery) -> None:
        self._awake = trio.Event()
        self._woken = self._is_late = False
        engine = self.engine
        with self._held():
            queued, had_news = engine.intake.queued, engine.intake.has_news
            more = engine.pump()
            jobs = self.loading.jobs()
            started = self.engine.start()
            self.operator.replays.finish()
            unused = self.engine.repertoire.take_unused()
            due_ms = self.engine.next_ms()
            now_ms = self.engine.now_ms()
        for job in jobs:
            nursery.start_soon(self._load, job)
        for one in started:
            nursery.start_soon(self._execute, nursery, one)
        for script_id in unused:
            nursery.start_soon(self.runner.retire, script_id)
        is_idle = not (more or started or jobs or engine.intake.queued > queued)
        self._idle_turns = self._idle_turns + had_news if is_idle else 0
        self._gathers = self._idle_turns >= IDLE_TURNS
        if more or started:
            await trio.lowlevel.checkpoint()
            return
        self._hurry(bool(engine.running) or not self.loading.is_idle)
        if self._gathers:
            await self._gather()
        if engine.intake.has_news or self._woken or self._is_late:  # told while nobody was woken
            await trio.lowlevel.checkpoint()
            return
        delay_ms = SLEEP_MS_MAX if due_ms is None else min(max(due_ms - now_ms, 1), SLEEP_MS_MAX)
        with trio.move_on_after(delay_ms / 1000):
            await self._awake.wait()

    async def _gather(self) -> None:
        """Let commits gather for a moment. If there are none, whoever commits next wakes us."""
        with trio.move_on_after(GATHER_MS / 1000):
            await self._awake.wait()
        self._gathers = self.engine.intake.has_news or self._is_late

    async def _load(self, job: Job) -> None:
        tables: list[dict[str, object]] | LoadFailed
        try:
            tables = await self.runner.load(job.found.script)
        except LoadFailed as error:
            tables = error
        with self._held():
            self.loading.loaded(job, tables)
        self.wake()

    async def _execute(self, nursery: trio.Nursery, started: Started) -> None:
        try:
            result = await self.runner.run(started.run, Held(started.cut, self._held))  # type: ignore[arg-type]
        except Exception as error:
            # A runner raises nothing that a script can cause: this is ours, and one event must not stop the others.
            _log.exception("%s: the runner failed", started.run.id)
            result = Failed("death", f"the runner failed: {error}")
        with self._held():
            self.engine.finish(started, result)
            following = (
                self.engine.start()
            )  # without waiting for a turn: there is room for one more
        for one in following:
            nursery.start_soon(self._execute, nursery, one)
        self._told()

"""Runs in sandboxed worker processes: a pool per version of a script.

Theory of operation. A worker belongs to one script version, level of trust and bound of memory; loading is what its
life begins with, so that the one that checked a script at activation is warm when the first event comes. A run takes the
free worker that ran last (its caches are warm), or a new one while the node has room, or waits for a busy one that
fits; if there is none, the idle worker that ran longest ago ends and makes room. What is idle ends by itself, first all
but one of a pool, later that one too.

A gang's run takes a whole crew of workers (`gang`), which are among the others here under a key of their own.

Whatever a script does ends in its worker. The daemon believes a worker nothing: messages are decoded by type, memory is
mapped only if sealed, questions are answered for runs that it has.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Literal

import trio

from triggers.allocation import Habits, Model, bits_of, kind_of
from triggers.handler.copies import Copies
from triggers.run import Done, Failed, LoadFailed
from triggers.runner.executable import Executables
from triggers.runner.gang import Gangs
from triggers.runner.inproc import InprocRunner
from triggers.runner.inputs import Inputs
from triggers.runner.launcher import Launcher
from triggers.runner.settings import Settings, State
from triggers.runner.spawner import NotStarted, Spawner
from triggers.worker import bubblewrap
from triggers.worker.message import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import TypeAlias

    from triggers.run import Cut, Run, Script
    from triggers.runner.gang import Crew
    from triggers.runner.worker import Worker

__all__ = ["PoolRunner", "Settings", "State", "models_of", "open_pool"]

SURPLUS_SECONDS = 10
IDLE_SECONDS = 600
"""After which all but one of a pool's idle workers end, and after which all do."""

LOAD_SECONDS = 60
Sandbox: TypeAlias = Literal["strict", "normal"]
Key: TypeAlias = tuple[str, str, int, int]
"""Script version, level of trust, bytes of memory, number of the crew that a worker belongs to (0: none)."""


class PoolRunner:
    """A `triggers.run.Runner` over worker processes. Made by `open_pool`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        settings: Settings,
        wall_ns: Callable[[], int],
        steady_ns: Callable[[], int],
    ) -> None:
        self.copies = Copies()
        self.settings = settings
        self.workers: dict[Key, list[Worker]] = {}
        self._nursery = nursery
        self._wall_ns, self._steady_ns = wall_ns, steady_ns
        self._inputs = Inputs(self.copies)
        self._directory = tempfile.mkdtemp(prefix="cascadefs-")
        os.chmod(self._directory, 0o711)
        self.spawner = Spawner(nursery, self._directory, settings.cgroup, settings.mountpoint)
        self._coroutines: dict[str, frozenset[str]] = {}
        self._habits = Habits()
        self._count = 0
        self._freed = trio.Event()
        self._launcher = Launcher(self.spawner, self._inputs, self._directory, wall_ns)
        self._gangs = Gangs(self, self._directory, settings.workers_max)
        self._inproc = InprocRunner(wall_ns, steady_ns, in_threads=True)
        self._executables = Executables(
            self.spawner, self._inputs, self._directory, wall_ns, steady_ns
        )

    # --- Runner -------------------------------------------------------------------------------------------------------

    async def load(self, script: Script) -> list[dict[str, object]]:
        """See `Runner.load`. The worker stays, warm."""
        self._check(script)
        key = (script.id, "strict", self.settings.memory_bytes, 0)
        await self.room()
        try:
            worker = await self._start(script, key)
        except NotStarted as error:
            raise LoadFailed(str(error)) from error
        worker.promised -= 1
        self._is_idle(worker)
        return list(worker.loaded.tables)

    async def run(self, run: Run, cut: Cut) -> Done | Failed:
        """See `Runner.run`."""
        try:
            self._check(run.script)
            if run.sandbox == "inproc":
                if not self.settings.allow_inproc:
                    return Failed("load", 'sandbox = "inproc" is not allowed here')
                return await self._inproc.run(run, cut)
            if run.handler is None:
                return await self._run_executable(run, cut)
            memory_bytes = run.memory_bytes or self.settings.memory_bytes
            if run.gang > 1:
                return await self._gangs.run(run, cut, memory_bytes)
            key = (run.script.id, run.sandbox, memory_bytes, 0)
            worker, mode = await self._acquire(run, key)
        except LoadFailed as error:
            return Failed("load", str(error), error.traceback)
        except NotStarted as error:  # not the script's doing
            return Failed("death", str(error))
        try:
            if run.handler not in self._known(worker):
                return Failed("load", f"{run.script.name} registers no handler {run.handler}")
            outcome = await worker.run(run, cut, mode)
            if isinstance(outcome, Done):
                self._habits.used(kind_of(run), models_of(outcome))
            return outcome
        finally:
            worker.promised -= 1
            self._is_idle(worker)

    def kill(self, run_id: str) -> bool:
        """See `Runner.kill`."""
        everybody = [worker for workers in self.workers.values() for worker in workers]
        return (
            self._gangs.kill(run_id)
            or any(worker.kill(run_id) for worker in everybody)
            or self._executables.kill(run_id)
            or self._inproc.kill(run_id)
        )

    async def retire(self, script_id: str) -> None:
        """See `Runner.retire`. Runs that go on are not disturbed."""
        self._coroutines.pop(script_id, None)
        self._gangs.retire(script_id)
        for key, workers in self.workers.items():
            if key[0] == script_id:
                for worker in workers:
                    worker.is_doomed = True
                    if not worker.promised:
                        worker.retire()
        self._executables.retire(script_id)
        await self._inproc.retire(script_id)

    async def close(self) -> None:
        """See `Runner.close`."""
        await self.spawner.close()
        await self._inproc.close()
        self._inputs.close()
        await trio.to_thread.run_sync(shutil.rmtree, self._directory, True)

    # --- for the daemon -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring the zygote up ahead of the first script.

        Raises:
            NotStarted: it does not come up.
        """
        await self.spawner.start()

    def state(self) -> State:
        """What `.cascade/status` says about the machine."""
        ready = self.spawner.ready
        problems = [] if ready is None else list(ready.problems)
        if bubblewrap.find() is None:
            problems.append("bubblewrap is not installed: executables are refused")
        if self.settings.allow_root and not self.settings.cgroup:
            problems.append(
                "scripts of root's may start any number of processes: no control group (--cgroup)"
            )
        return State(
            0 if ready is None else ready.landlock,
            ready is not None and ready.seccomp,
            bubblewrap.find() is not None,
            problems,
            self._count,
            self.spawner.forks,
            self.copies.count,
            self.copies.size_bytes,
            "each worker with all it starts, by control groups"
            if self.settings.cgroup and not any("none is used" in said for said in problems)
            else "each process, by rlimits; with mount --cgroup DIR each worker with all it starts",
            self._memory(),
        )

    def _memory(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for (script_id, *_), workers in list(self.workers.items()):  # asked from any thread
            resident = sum(_resident_bytes(worker.process.pid) for worker in list(workers))
            found[script_id] = found.get(script_id, 0) + resident
        return found

    def resident(self) -> int:
        """Bitmap of what workers hold: models, and the versions of scripts. From any thread."""
        bitmap = bits_of((script_id,) for script_id, *_ in list(self.workers))
        for workers in list(self.workers.values()):
            for worker in list(workers):
                bitmap |= worker.resident
        return bitmap

    def shrink(self, now_ns: int) -> int:
        """End workers idle for too long at a time of the steady clock; how many."""
        ended = self._gangs.end_idle(
            lambda crew: all(
                now_ns - worker.idle_since_ns >= SURPLUS_SECONDS * 1_000_000_000
                for worker in crew.workers
            )
        )
        for key, workers in list(self.workers.items()):
            if key[3]:
                continue
            idle = sorted(
                (w for w in workers if not w.promised and not w.is_doomed),
                key=lambda w: w.idle_since_ns,
                reverse=True,
            )
            for number, worker in enumerate(idle):
                seconds = IDLE_SECONDS if number == 0 else SURPLUS_SECONDS
                if now_ns - worker.idle_since_ns >= seconds * 1_000_000_000:
                    worker.retire()
                    ended += 1
        return ended

    async def warm(self) -> None:
        """Bring the zygote up ahead of the first event; should it not start, the first event says why."""
        with suppress(NotStarted):
            await self.start()

    async def sweep(self) -> None:
        """Shrink now and then, until cancelled."""
        while True:
            with trio.move_on_after(SURPLUS_SECONDS):
                await trio.sleep_forever()
            self.shrink(self._steady_ns())

    # --- workers ------------------------------------------------------------------------------------------------------

    def _check(self, script: Script) -> None:
        if script.uid == 0 and not self.settings.allow_root:
            raise LoadFailed(
                f"{script.name} belongs to root; give it to another user, or allow root"
            )

    async def _acquire(self, run: Run, key: Key) -> tuple[Worker, str]:
        """A worker with this run promised to it, and who is to call the handler.

        Raises:
            LoadFailed: the script does not load.
            NotStarted: no process can be had.
        """
        while True:
            free = self._free(key, run)
            if free is not None:
                free.promised += 1
            elif self._has_room(evicting=not self._will_be_free(key, run)):
                free = await self._start(run.script, key)
            else:
                await self._freed.wait()  # one that fits has become free, or there is room
                continue
            return free, self.mode(run)

    def mode(self, run: Run) -> str:
        """See `triggers.runner.gang.Yard`."""
        return self._mode(run) or "plain"

    def _mode(self, run: Run) -> str | None:
        coroutines = self._coroutines.get(run.script.id)
        if coroutines is None:
            return None
        return run.runtime if run.handler in coroutines else "plain"

    def _free(self, key: Key, run: Run) -> Worker | None:
        mode = self._mode(run)
        most = 1 if mode == "plain" else run.inflight
        fitting = [
            worker
            for worker in self.workers.get(key, ())
            if not worker.is_doomed and worker.mode in (None, mode) and worker.promised < most
        ]
        # Idle before busy, then who holds what it will use, then the one that ran last: its caches are warm.
        models = self._habits.of(kind_of(run))

        def lacks(worker: Worker) -> int:
            return sum(
                model.size_bytes
                for model in models
                if not worker.resident & bits_of([model.identity])
            )

        return min(
            fitting,
            key=lambda worker: (worker.promised, lacks(worker), -worker.idle_since_ns),
            default=None,
        )

    def _will_be_free(self, key: Key, run: Run) -> bool:
        """Whether a worker that fits is only busy: better to wait for it than to end somebody else's warm one."""
        mode = self._mode(run)
        return any(w.mode == mode and not w.is_doomed for w in self.workers.get(key, ()))

    async def start_worker(self, run: Run, crew: Crew) -> Worker:
        """See `triggers.runner.gang.Yard`."""
        script_id, sandbox, memory_bytes, _ = crew.kind
        key = (script_id, sandbox, memory_bytes, crew.number)
        worker = await self._start(run.script, key, crew)
        if run.handler not in self._known(worker):
            worker.promised -= 1
            worker.retire()
            raise LoadFailed(f"{run.script.name} registers no handler {run.handler}")
        return worker

    async def _start(self, script: Script, key: Key, crew: Crew | None = None) -> Worker:
        """A new worker, loaded, with one run promised to it; the room for it is taken before.

        Raises:
            LoadFailed: the script does not load; the room is free again.
            NotStarted: there is no process; the room is free again.
        """
        try:
            worker = await self._launcher.launch(script, key[1], self._limits(key[2]), crew)
        except BaseException:
            self.leave()
            raise
        # From here on the room is the task's to free.
        self._nursery.start_soon(self._attend, key, worker)
        try:
            with trio.fail_after(LOAD_SECONDS):
                await worker.load(script)
        except trio.TooSlowError:
            worker.is_doomed = True
            await worker.process.signal(signal.SIGKILL)
            raise LoadFailed(f"loading: no end after {LOAD_SECONDS} s") from None
        except BaseException:
            worker.retire()
            raise
        worker.promised = 1
        self._coroutines[script.id] = frozenset(worker.loaded.coroutines)
        if not worker.has_ended:  # it may have died behind its last word
            self.workers.setdefault(key, []).append(worker)
        return worker

    async def _attend(self, key: Key, worker: Worker) -> None:
        """Be with a worker until its end, and clean up behind it."""
        try:
            await worker.listen()
        finally:
            workers = self.workers.get(key, [])
            if worker in workers:
                workers.remove(worker)
                if not workers:
                    del self.workers[key]
            self.leave()
            with trio.CancelScope(shield=True):  # it may be large
                await trio.to_thread.run_sync(shutil.rmtree, worker.scratch, True)

    def _limits(self, memory_bytes: int) -> Limits:
        settings = self.settings
        return Limits(memory_bytes, memory_bytes, settings.open_files, settings.processes)

    def _known(self, worker: Worker) -> set[object]:
        return {table["handler"] for table in worker.loaded.tables}

    # --- room ---------------------------------------------------------------------------------------------------------

    def _has_room(self, *, evicting: bool = True) -> bool:
        """Take the place of one more process, if there is one; else make some if anybody is idle."""
        if self._count < self.settings.workers_max:
            self._count += 1
            return True
        if not evicting:
            return False
        idle = min(self._idle(), key=lambda worker: worker.idle_since_ns, default=None)
        crew = None if idle is None else self._gangs.crew_of(idle)
        if crew is not None:
            self._gangs.disband(crew)
        elif idle is not None:
            idle.retire()
        return False

    async def room(self) -> None:
        """Wait until one more process may be started, and take its place."""
        while not self._has_room():
            await self._freed.wait()

    def leave(self) -> None:
        """Give a place back that no process is in any more."""
        self._count -= 1
        self._wake()

    def _wake(self) -> None:
        self._freed.set()
        self._freed = trio.Event()

    def _idle(self) -> list[Worker]:
        everybody = (worker for workers in self.workers.values() for worker in workers)
        return [worker for worker in everybody if not worker.promised and not worker.is_doomed]

    def is_idle(self, crew: Crew) -> None:
        """See `triggers.runner.gang.Yard`."""
        for worker in crew.workers:
            self._is_idle(worker)

    def _is_idle(self, worker: Worker) -> None:
        """A worker may have nothing to do now."""
        if worker.promised == 0:
            worker.idle_since_ns = self._steady_ns()
            if worker.is_doomed:
                worker.retire()
        self._wake()

    async def _run_executable(self, run: Run, cut: Cut) -> Done | Failed:
        await self.room()
        try:
            return await self._executables.run(run, cut, self._limits_of(run))
        finally:
            self.leave()

    def _limits_of(self, run: Run) -> Limits:
        return self._limits(run.memory_bytes or self.settings.memory_bytes)


def models_of(done: Done) -> tuple[Model, ...]:
    """What a run used."""
    return tuple(Model(identity, size_bytes) for identity, size_bytes in done.models)


def _resident_bytes(pid: int) -> int:
    """Of a process (proc(5), statm); 0 if it has just ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


@asynccontextmanager
async def open_pool(
    settings: Settings, wall_ns: Callable[[], int], steady_ns: Callable[[], int]
) -> AsyncIterator[PoolRunner]:
    """A pool for the length of a block; every process has ended after it."""
    async with trio.open_nursery() as nursery:
        pool = PoolRunner(nursery, settings, wall_ns, steady_ns)
        try:
            nursery.start_soon(pool.warm)
            nursery.start_soon(pool.sweep)
            yield pool
        finally:
            with trio.CancelScope(shield=True):
                await pool.close()
            nursery.cancel_scope.cancel()

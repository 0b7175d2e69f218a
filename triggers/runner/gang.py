"""Gangs: several workers that run one event together, with ranks and a rendezvous.

Theory of operation. The workers of a gang are forked together, into a network of their own, and stay together: as a
*crew* they take one run after the other. Crews are put together one at a time, so no two wait for each other's half; whoever
is not in a crew holds nothing while it waits, and a crew that runs will end. A rank that fails, for whatever reason, ends the
whole crew at once, because the others may be waiting for it in a library that asks nobody; the next attempt gets another.

What they do becomes one result (`union`), so it is committed whole or not at all.

Source: docs/TRIGGERS.md 5, "Gangs"; torch.distributed's environment variables.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from triggers.run import Done, Failed, Rank
from triggers.runner.spawner import NotStarted
from triggers.runner.union import union

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.run import Cut, Run
    from triggers.runner.worker import Worker

__all__ = ["Crew", "Gangs", "Yard"]

PORT_FIRST, PORTS = 20_000, 10_000
"""In a network of the crew's own: another one for each run, as the last one's may still be closing."""

LAST_WORDS_SECONDS = 0.1
"""Between the first failure of a rank and the end of the others: what they say meanwhile may name the cause better."""

DEATHS = ("death", "memory", "signal", "exit")
KILLED = "ended by request"


class Yard(Protocol):
    """Where workers come from: what a pool lends to its gangs."""

    async def room(self) -> None:
        """Wait until one more process may be started, and take its place."""
        ...

    def leave(self) -> None:
        """Give a place back that no process was started in."""
        ...

    async def start_worker(self, run: Run, crew: Crew) -> Worker:
        """A worker with one run promised to it; the place is taken before, and given back if there is none.

        Raises:
            LoadFailed, NotStarted: there is none.
        """
        ...

    def mode(self, run: Run) -> str:
        """Who is to call the run's handler, once its script is loaded."""
        ...

    def is_idle(self, crew: Crew) -> None:
        """The crew has nothing to do now."""
        ...


class Crew:
    """So many workers of one script version, level of trust and bound of memory."""

    def __init__(self, number: int, run: Run, directory: str, memory_bytes: int) -> None:
        self.number = number
        self.kind = (run.script.id, run.sandbox, memory_bytes, run.gang)
        self.network = number if run.sandbox == "strict" else 0
        self.directory = directory
        """All of its workers may write to it."""
        self.workers: list[Worker] = []
        self.mode = ""
        self.runs = 0
        self._killed: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there, and may run."""
        return not any(worker.is_doomed or worker.has_ended for worker in self.workers)

    @property
    def is_free(self) -> bool:
        """Whether it is complete, and has nothing to do."""
        is_complete = len(self.workers) == self.kind[3]
        return is_complete and not any(worker.promised for worker in self.workers)

    async def run(self, run: Run, cut: Cut) -> Done | Failed:
        """One run, all ranks at once. Cancelled, all are killed; after a failure, too, and have ended."""
        self.runs += 1
        store = f"{self.directory}/rendezvous-{self.runs}"
        port = PORT_FIRST + self.runs % PORTS if self.network else _free_port()
        results: list[Done | None] = [None] * run.gang
        failures: list[Failed] = []

        async def one(number: int, worker: Worker) -> None:
            rank = Rank(number, run.gang, f"file://{store}", port)
            outcome = await worker.run(msgspec.structs.replace(run, rank=rank), cut, self.mode)
            if isinstance(outcome, Done):
                results[number] = outcome
                return
            message = f"rank {number} of {run.gang}: {outcome.message}"
            failures.append(msgspec.structs.replace(outcome, message=message))
            deadline = nursery.cancel_scope.deadline
            soon = trio.current_time() + LAST_WORDS_SECONDS
            nursery.cancel_scope.deadline = min(deadline, soon)

        async with trio.open_nursery() as nursery:
            for number, worker in enumerate(self.workers):
                nursery.start_soon(one, number, worker)
        with suppress(OSError):
            os.unlink(store)
        if failures:
            await self.end()
            if self._killed == run.id:
                return msgspec.structs.replace(failures[0], kind="killed", message=KILLED)
            # Who died is the cause; that a connection to it was lost may be known before.
            return min(failures, key=lambda failure: failure.kind not in DEATHS)
        done = [result for result in results if result is not None]
        assert len(done) == run.gang, "without a failure all ranks came back"
        return union(done)

    def kill(self, run_id: str) -> bool:
        """Make a run end as "killed"; whether it runs here."""
        killed = [worker.kill(run_id) for worker in self.workers]
        if any(killed):
            self._killed = run_id
        return any(killed)

    async def end(self) -> None:
        """Kill all of it, and wait until that is so."""
        for worker in self.workers:
            worker.is_doomed = True
        with trio.CancelScope(shield=True):
            for worker in self.workers:
                await worker.process.signal(signal.SIGKILL)
            for worker in self.workers:
                await worker.process.exited.wait()


class Gangs:
    """The crews of a pool."""

    def __init__(self, yard: Yard, directory: str, workers_max: int) -> None:
        """Crews have directories below `directory`, and together with all others `workers_max` workers."""
        self._yard = yard
        self._directory = directory
        self._workers_max = workers_max
        self._assembling = trio.Lock()
        self._crews: list[Crew] = []
        self._count = 0

    async def run(self, run: Run, cut: Cut, memory_bytes: int) -> Done | Failed:
        """One run by a crew.

        Raises:
            LoadFailed, NotStarted: there is no such crew.
        """
        if run.gang > self._workers_max:
            message = f"gang = {run.gang}, and there are {self._workers_max} workers at most here"
            return Failed("reject", message)
        crew = await self._acquire(run, memory_bytes)
        try:
            return await crew.run(run, cut)
        finally:
            self._release(crew)

    def kill(self, run_id: str) -> bool:
        """Make a run end as "killed"; whether there was one."""
        return any(crew.kill(run_id) for crew in self._crews)

    def retire(self, script_id: str) -> None:
        """End the idle crews of a script's version."""
        self.end_idle(lambda crew: crew.kind[0] == script_id)

    def crew_of(self, worker: Worker) -> Crew | None:
        """The crew that a worker belongs to."""
        return next((crew for crew in self._crews if worker in crew.workers), None)

    def disband(self, crew: Crew) -> None:
        """End an idle crew: without one of them the others are of no use."""
        for worker in crew.workers:
            if not worker.is_doomed:
                worker.retire()
        self._forget(crew)

    def end_idle(self, which: Callable[[Crew], bool]) -> int:
        """End crews that have nothing to do; how many workers."""
        ended = 0
        for crew in [crew for crew in self._crews if crew.is_free and which(crew)]:
            self.disband(crew)
            ended += len(crew.workers)
        return ended

    # --- crews --------------------------------------------------------------------------------------------------------

    async def _acquire(self, run: Run, memory_bytes: int) -> Crew:
        """A crew with this run promised to all of it."""
        async with self._assembling:
            kind = (run.script.id, run.sandbox, memory_bytes, run.gang)
            for crew in [crew for crew in self._crews if crew.is_free]:
                if not crew.is_whole:
                    self.disband(crew)
                elif crew.kind == kind and crew.mode == self._yard.mode(run):
                    for worker in crew.workers:
                        worker.promised += 1
                    return crew
            return await self._assemble(run, memory_bytes)

    async def _assemble(self, run: Run, memory_bytes: int) -> Crew:
        taken = 0
        try:
            for _ in range(run.gang):
                await self._yard.room()
                taken += 1
            crew = self._new(run, memory_bytes)
        except BaseException:
            for _ in range(taken):
                self._yard.leave()
            raise
        problems: list[Exception] = []

        async def start() -> None:
            try:
                crew.workers.append(await self._yard.start_worker(run, crew))
            except Exception as problem:
                problems.append(problem)

        try:
            async with trio.open_nursery() as nursery:
                for _ in range(run.gang):
                    nursery.start_soon(start)
            if problems:
                raise problems[0]
        except BaseException:
            await crew.end()
            self._forget(crew)
            self._release(crew)
            raise
        crew.mode = self._yard.mode(run)
        return crew

    def _new(self, run: Run, memory_bytes: int) -> Crew:
        """A crew of nobody yet, with its directory."""
        self._count += 1
        directory = f"{self._directory}/gang-{self._count}"
        try:
            os.mkdir(directory, 0o700)
            if os.getuid() == 0:
                os.chown(directory, run.script.uid, run.script.gid)
        except OSError as error:
            raise NotStarted(f"no directory for a gang: {error}") from error
        crew = Crew(self._count, run, directory, memory_bytes)
        self._crews.append(crew)
        return crew

    def _release(self, crew: Crew) -> None:
        for worker in crew.workers:
            worker.promised -= 1
        self._yard.is_idle(crew)
        if not crew.is_whole:
            self.disband(crew)

    def _forget(self, crew: Crew) -> None:
        if crew in self._crews:
            self._crews.remove(crew)
        shutil.rmtree(crew.directory, ignore_errors=True)


def _free_port() -> int:
    """A port of the machine's loopback that nobody listens at, now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

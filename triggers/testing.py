"""Triggers in memory: a store, a clock that stands still until it is waited for, and no mount, worker or disk.

For the tests of scripts, and of this package. `Cascade` runs scripts in this process; whatever they read, stage and
fail at is as under a mount. `crash_at` stops everything at the n-th point where a crash must do no harm, as a kill
would; `restart` then starts from the log, and nothing else.

    cascade = Cascade()
    cascade.script("copy.py", SOURCE)
    cascade.put("in/a", b"x")
    trio.run(cascade.run_until_idle)
    assert cascade.get("out/a") == b"x"

Source: docs/TRIGGERS.md 14.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from storage import record
from storage.attributes import DIRECTORY, REGULAR, is_directory
from storage.disk import MemoryDisk
from storage.namespace import ROOT
from storage.store import LocalStore
from storage.table import MemoryTable
from triggers.engine import Engine, Options
from triggers.loading import Loading
from triggers.operator import Operator
from triggers.provenance import Letter, Provenance, decode, decode_letter
from triggers.run import LoadFailed
from triggers.runner.inproc import InprocRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.run import Runner

__all__ = ["Cascade", "Crash", "ManualClock"]

START_NS = 1_763_719_200_000_000_000
"""2025-11-21T10:00:00Z."""

IDLE_ROUNDS_MAX = 100_000

SEGMENT_BYTES = 1024 * 1024
"""Small, because memory is zeroed for each."""


class Crash(BaseException):
    """The process ends here. Nobody catches it but the test."""


class ManualClock:
    """Goes on by a microsecond when asked, and by as much as it is told."""

    def __init__(self, now_ns: int = START_NS) -> None:
        self.value_ns = now_ns

    def now_ns(self) -> int:
        """See `storage.clock.Clock`."""
        self.value_ns += 1000
        return self.value_ns


class _MemoryIndex:
    """An index that every start builds again from the log."""

    def open(self) -> MemoryTable:
        return MemoryTable()

    def renew(self) -> MemoryTable:
        return MemoryTable()

    def view(self) -> MemoryTable:
        return MemoryTable()


class Cascade:
    """A store in memory with its triggers. Paths are text from the root; files belong to `uid`."""

    def __init__(
        self,
        *,
        crash_at: int | None = None,
        uid: int = 1000,
        options: Options | None = None,
        seed: int = 0,
        runner: Callable[[ManualClock], Runner] | None = None,
    ) -> None:
        """A new, empty store.

        Args:
            crash_at: the number of the point, from 1, at which `Crash` is raised; None: never.
            uid: owner of all that `put` and `script` make.
            options: of the engine; by default one run at a time, and inproc scripts anywhere.
            seed: of everything random.
            runner: makes what executes; by default scripts run in this process.
        """
        self.clock = ManualClock()
        self.uid = uid
        self.crash_at = crash_at
        self.points: list[str] = []
        """The names of the points passed, in order."""
        self._options = options or Options(workers=1, may_inproc=lambda _: True, node="test")
        self._seed = seed
        self._disk = MemoryDisk()
        self._make_runner = runner or _inproc
        self._open()

    def _open(self) -> None:
        self.store = LocalStore.open_on(
            self._disk,
            _MemoryIndex(),
            self.clock,
            random.Random(self._seed),
            boot_id="test",
            owner=(self.uid, self.uid),
            segment_bytes=SEGMENT_BYTES,
        )
        self.runner = self._make_runner(self.clock)
        self.engine = Engine(
            self.store, self.clock, random.Random(self._seed), self._options, point=self._passed
        )
        self.loading = Loading(self.engine)
        self.operator = Operator(self.engine, self.runner.kill)
        self.engine.open()

    def _passed(self, name: str) -> None:
        self.points.append(name)
        if len(self.points) == self.crash_at:
            raise Crash(f"{self.crash_at}: {name}")

    def restart(self) -> None:
        """Start again from the log, as after a kill: whatever was in memory is forgotten."""
        self.crash_at = None
        self.store.listen(None)
        self._open()

    # --- files -------------------------------------------------------------------------------------------------

    def put(self, path: str, data: bytes | str, *, mode: int = 0o644) -> int:
        """One write session; the version it made. Directories are made as needed."""
        content = data.encode() if isinstance(data, str) else data
        directory, name = self._parent(path)
        binding = self.store.binding(directory, name)
        if binding is None:
            inode = self.store.allocate_inode(directory)
            create = record.Create(directory, name, inode, REGULAR | mode, self.uid, self.uid)
            self._propose(create)
        else:
            inode = binding.inode
        now_ns = self.clock.now_ns()
        staged = self.store.stage(inode, 0, content) if content else []
        self._propose(record.Commit(inode, len(content), 0, staged, now_ns, now_ns))
        return self.store.head(directory, name)

    def script(self, name: str, source: str, *, base: str = "", mode: int = 0o755) -> None:
        """Put a script in `watch/` of a base."""
        self.put(f"{base}/.cascade/watch/{name}".lstrip("/"), source, mode=mode)

    def delete(self, path: str) -> None:
        """Remove a file."""
        self._propose(record.Unlink(*self._parent(path)))

    def rename(self, source: str, target: str) -> None:
        """Move a file or directory."""
        self._propose(record.Rename(*self._parent(source), *self._parent(target)))

    def link(self, source: str, target: str) -> None:
        """One more name for a file."""
        binding = self.store.binding(*self._parent(source))
        assert binding is not None, f"{source} is not there"
        self._propose(record.Link(*self._parent(target), binding.inode))

    def get(self, path: str, version: int | None = None) -> bytes | None:
        """The content of a file, now or of a version; None if there is none."""
        directory, name = self._parent(path)
        number = version or self.store.head(directory, name)
        found = self.store.version(directory, name, number)
        if found is None or found.binding is None:
            return None
        row = self.store.attributes_at(found.binding.inode, found.timestamp)
        assert row is not None
        inode, attributes = found.binding.inode, row[1]
        return bytes(self.store.read(inode, attributes, found.timestamp, 0, attributes.size))

    def version(self, path: str) -> int:
        """The newest version number of a name, deletions counted; 0 if there is none."""
        return self.store.head(*self._parent(path))

    def versions(self, path: str) -> list[bytes | None]:
        """The contents of all versions, oldest first."""
        return [self.get(path, number) for number in range(1, self.version(path) + 1)]

    def files(self, path: str = "") -> list[str]:
        """All files below a directory, `.cascade` left out, sorted."""
        found = []
        stack = [(self._directory(path.split("/") if path else []), "")]
        while stack:
            inode, above = stack.pop()
            for name, binding in self.store.children(inode):
                text = above + name.decode(errors="surrogateescape")
                if not is_directory(binding.mode):
                    found.append(text)
                elif name != b".cascade":
                    stack.append((binding.inode, text + "/"))
        return sorted(found)

    def _parent(self, path: str) -> tuple[int, bytes]:
        *above, name = path.split("/")
        return self._directory(above), name.encode(errors="surrogateescape")

    def _directory(self, names: list[str]) -> int:
        inode = ROOT
        for text in names:
            name = text.encode(errors="surrogateescape")
            binding = self.store.binding(inode, name)
            if binding is not None:
                inode = binding.inode
                continue
            made = self.store.allocate_inode(inode)
            self._propose(record.Create(inode, name, made, DIRECTORY | 0o755, self.uid, self.uid))
            inode = made
        return inode

    def _propose(self, proposal: record.Record) -> None:
        outcome = self.store.propose(proposal)
        assert outcome.reason is None, f"{proposal}: {outcome.reason}"

    # --- runs --------------------------------------------------------------------------------------------------

    async def run_until_idle(self) -> None:
        """Everything that is due runs, one after the other; what has to wait is waited for, in no time.

        Raises:
            Crash: a point was reached.
        """
        for _ in range(IDLE_ROUNDS_MAX):
            more = self.engine.pump()
            for job in self.loading.jobs():
                try:
                    tables: object = await self.runner.load(job.found.script)
                except LoadFailed as error:
                    tables = error
                self.loading.loaded(job, tables)  # type: ignore[arg-type]
                more = True
            for started in self.engine.start():
                self.engine.finish(started, await self.runner.run(started.run, started.cut))
                more = True
            for script_id in self.engine.repertoire.take_unused():
                await self.runner.retire(script_id)
            if more:
                continue
            self.operator.replays.finish()
            due_ms = self.engine.next_ms()
            if due_ms is None:
                return
            self.clock.value_ns = max(self.clock.value_ns, due_ms * 1_000_000)
        raise AssertionError("it never comes to an end")

    @property
    def failed(self) -> list[Letter]:
        """The dead letters, oldest first."""
        deliveries = self.store.deliveries
        letters = [
            decode_letter(deliveries.letter(base, name, event) or b"")
            for base, name, _ in deliveries.consumers()
            for event in deliveries.letters(base, name)
        ]
        return sorted(letters, key=lambda letter: letter.event.position)

    @property
    def problems(self) -> dict[str, str]:
        """Why scripts are not active, by the script's name."""
        return {
            name.decode(errors="surrogateescape"): problem.message
            for base in self.engine.registry.bases.values()
            for name, problem in base.problems.items()
        }

    def why(self, path: str) -> Provenance | None:
        """Which run made the newest version of a file; None if a program did."""
        directory, name = self._parent(path)
        found = self.store.version(directory, name, self.store.head(directory, name))
        address = self.store.deliveries.finish_address(found.timestamp) if found else None
        if address is None:
            return None
        committed = self.store.committed_at(address).record
        assert isinstance(committed, record.Finish)
        return decode(committed.provenance)


def _inproc(clock: ManualClock) -> InprocRunner:
    return InprocRunner(clock.now_ns, clock.now_ns)

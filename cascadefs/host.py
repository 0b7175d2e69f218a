"""The host of scripts: what a process that runs them has beside the store.

Joins engines and workers: who may have scripts run, and as whom; and for a mount what the kernel must forget when
a run has changed files. Source: docs/TRIGGERS.md 12.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from cascadefs.filesystem.scripts import Scripts
from cascadefs.fuse import mountpoint
from storage import record
from storage.attributes import DIRECTORY
from storage.namespace import ROOT
from triggers.dispatcher import Dispatcher
from triggers.engine import Engine, Options
from triggers.library import CONTROL
from triggers.runner.pool import Settings as PoolSettings
from triggers.runner.pool import open_pool
from triggers.tracing import open_tracing
from triggers.worker.limits import count_gpus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from random import Random

    from cascadefs.filesystem import Filesystem
    from storage.clock import Clock
    from storage.record import Part
    from storage.store import LocalStore, Store
    from triggers.options import Watcher
    from triggers.run import Cut, Done, Failed, Run, Runner
    from triggers.runner.pool import PoolRunner

__all__ = ["Host", "MountHost", "groups_of", "make_control", "why_not"]

MOUNT_SECONDS = 0.5
"""Between two looks whether the mount is still there: how long an umount(8) may take longer."""

TRACING_CLOSE_S = 5.0
"""For the spans that are still kept to reach their collector."""


class Host:
    """What runs scripts in a process: whose, and by which workers. Several engines share it."""

    def __init__(
        self,
        clock: Clock,
        random: Random,
        *,
        mode: str,
        steady_ns: Callable[[], int],
        inproc: tuple[str, ...] = (),
        cgroup: Path | None = None,
        node: str = "",
        path: Path | None = None,
    ) -> None:
        """Nothing runs before `open`.

        Args:
            clock: the wall clock.
            random: for jitter.
            mode: "owner": scripts of any user that this process may run as; "root": of root only.
            steady_ns: a clock that goes forward only.
            inproc: directories whose scripts may run in this process, if they ask for it.
            cgroup: a control group below which workers get theirs; None: they have none of their own.
            node: what runs are said to have run on; the machine's name if empty.
            path: where the store is mounted; None: it is not, by this process.
        """
        self.mode = mode
        self._clock = clock
        self._random = random
        self._steady_ns = steady_ns
        self._settings = PoolSettings(
            allow_root=mode == "root",
            allow_inproc=bool(inproc),
            cgroup=str(cgroup or ""),
            mountpoint=str(path or ""),
        )
        self._workers = max(2, os.cpu_count() or 1)
        self._tracing = tracing = open_tracing(os.environ)
        self._shared: Shared | None = None
        self._pool: PoolRunner | None = None
        self.options = Options(
            workers=self._workers,
            may_run_as=lambda uid: why_not(mode, os.geteuid(), uid),
            groups_of=groups_of,
            may_inproc=lambda base: any(
                f"{base}/".startswith(f"{one}/" if one else "") for one in inproc
            ),
            traced=tracing.ended if tracing is not None else lambda _run, _result: None,
            cuda_devices=count_gpus,
            gang_max=self._settings.workers_max,
            node=node or os.uname().nodename,
        )

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Have workers for the length of a block."""
        try:
            async with open_pool(self._settings, self._clock.now_ns, self._steady_ns) as pool:
                self._pool, self._shared = pool, Shared(pool, self._workers)
                yield
        finally:
            if self._tracing is not None:
                # A collector that does not answer holds up nobody's unmounting.
                with trio.move_on_after(TRACING_CLOSE_S, shield=True):
                    await trio.to_thread.run_sync(self._tracing.close, abandon_on_cancel=True)

    def drive(
        self,
        store: Store,
        held: Callable[[], AbstractContextManager[object]],
        options: Options,
        hurry: Callable[[bool], None] = lambda _busy: None,
        watcher: Watcher | None = None,
        runner: Runner | None = None,
    ) -> Dispatcher:
        """An engine over a store, and what drives it, to be run. `open` must be entered.

        `runner`: what does its runs, if it is not this host's own.
        """
        engine = Engine(store, self._clock, self._random, options, watcher=watcher)
        return Dispatcher(engine, runner or self.shared, held, hurry)

    @property
    def shared(self) -> Shared:
        """The runner that all engines of this process share. `open` must be entered."""
        assert self._shared is not None
        return self._shared

    def resident(self) -> int:
        """Bitmap of what the workers hold (`triggers.allocation`). From any thread."""
        return self._pool.resident() if self._pool is not None else 0

    def workers(self) -> dict[str, Any] | None:
        """How the workers are, JSON-able; None before there are any."""
        return msgspec.structs.asdict(self._pool.state()) if self._pool is not None else None


class Shared:
    """A `Runner` for several dispatchers: so many runs at a time of all together. Who opened the other one closes it."""

    def __init__(self, runner: Runner, workers: int) -> None:
        self.inner = runner
        self.workers = workers
        self.room = trio.Semaphore(workers)
        """For who waits before it decides that it is to run here."""
        self.load = runner.load
        self.kill = runner.kill
        self.retire = runner.retire

    async def run(self, run: Run, cut: Cut) -> Done | Failed:
        """See `Runner`."""
        async with self.room:
            return await self.inner.run(run, cut)

    async def close(self) -> None:
        """See `Runner`: others go on."""


class MountHost:
    """Runs the scripts of one mount."""

    def __init__(
        self,
        host: Host,
        store: LocalStore,
        filesystem: Filesystem,
        *,
        path: Path,
        is_shared: bool,
        exclusive: Callable[[], AbstractContextManager[None]],
        notify: Callable[[], None],
        hurry: Callable[[bool], None],
    ) -> None:
        """Nothing runs before `run`.

        Args:
            host: of this mount alone.
            store: with a past, open for writing.
            filesystem: of the mount.
            path: where the store is mounted.
            is_shared: whether users other than this process's may enter the mount.
            exclusive: keeps requests out while it is entered.
            notify: tells the kernel what it must forget.
            hurry: told whether there is something to do, from now on.
        """
        self._host = host
        self._store = store
        self._filesystem = filesystem
        self._exclusive = exclusive
        self._notify = notify
        self._hurry = hurry
        self._path = path
        self._is_shared = is_shared
        self._dispatcher: Dispatcher | None = None
        self._options = host.options._replace(
            mountpoint=str(path),
            may_enter=lambda uid: is_shared or uid == os.geteuid(),
            reserved=filesystem.is_reserved,
            is_open=filesystem.files.is_written,
        )

    async def run(self) -> None:
        """Until cancelled."""
        async with self._host.open():
            dispatcher = self._dispatcher = self._host.drive(
                self._store, self._held, self._options, self._hurry, self
            )
            self._store.retention.wanted_since = dispatcher.engine.lag.wanted_since
            with self._held():
                make_control(self._store)
                self._filesystem.control.scripts = Scripts(self._store, dispatcher.operator)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end_with_the_mount, nursery.cancel_scope)
                    await dispatcher.run()
            finally:
                self._filesystem.control.scripts = None

    async def _end_with_the_mount(self, running: trio.CancelScope) -> None:
        """Workers may have a mount namespace of their own, which keeps a mount alive that is gone for everybody else.

        The kernel tells nobody, so look: when it is gone here, end the workers, and it is gone altogether.
        """
        seen = False
        while True:
            there = mountpoint.mounted_at(self._path) is not None
            if seen and not there:
                running.cancel()
                return
            seen = there
            # Who unmounts at once must not be too fast to have been seen mounted.
            await trio.sleep(MOUNT_SECONDS if seen else MOUNT_SECONDS / 50)

    def status(self) -> dict[str, object]:
        """How all scripts are, and what runs them, JSON-able."""
        mode = self._host.mode
        workers = self._host.workers()
        if self._dispatcher is None or workers is None:
            return {"mode": mode, "state": "starting"}
        if mode == "owner" and os.geteuid() == 0 and not self._is_shared:
            workers["problems"].append(
                "without -o allow_other nobody but root may enter the mount: executables have no CASCADE_IN"
            )
        return {"mode": mode, **self._dispatcher.operator.status(), "workers": workers}

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        try:
            with self._exclusive():
                yield
        finally:
            if self._filesystem.invalidations:
                self._notify()

    def applied(self, records: list[Part]) -> None:
        """See `triggers.options.Watcher`: what the kernel knows of these is old."""
        self._filesystem.changed_beside(records)


def make_control(store: Store) -> None:
    """The root's `.cascade` comes to be stored, so that scripts can be put there."""
    root = store.attributes(ROOT)
    assert root is not None
    if store.binding(ROOT, CONTROL) is None:
        inode = store.allocate_inode()
        store.propose(record.Create(ROOT, CONTROL, inode, DIRECTORY | 0o755, root.uid, root.gid))


def why_not(mode: str, own_uid: int, uid: int) -> str | None:
    """Why a script of a user is not run; None if it is."""
    if mode == "root":
        return None if uid == 0 else "only root's scripts run here (--triggers=root)"
    if uid == 0:
        return "root's scripts run only with --triggers=root"
    if own_uid not in (0, uid):
        return f"the mount belongs to user {own_uid}, who cannot run scripts of user {uid}"
    return None


def groups_of(uid: int, gid: int) -> tuple[int, ...]:
    """The supplementary groups of a user, as the system's database has them."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return ()
    own = {entry.gr_gid for entry in grp.getgrall() if name in entry.gr_mem}
    return tuple(sorted(own | {gid}))

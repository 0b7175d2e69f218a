"""The host of scripts: what a mount with `--triggers` has beside the file system.

Joins the engine, the workers and the mount: who may have scripts run, as whom, and what the kernel must forget when
a run has changed files. Source: docs/TRIGGERS.md 12.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from typing import TYPE_CHECKING

import msgspec
import trio

from cascadefs.filesystem.foreign import stale_by
from cascadefs.filesystem.scripts import Scripts
from cascadefs.fuse import mountpoint
from storage import record
from storage.attributes import DIRECTORY
from storage.namespace import ROOT
from triggers.dispatcher import Dispatcher
from triggers.engine import Engine, Options
from triggers.runner.pool import Settings as PoolSettings
from triggers.runner.pool import open_pool
from triggers.tracing import open_tracing
from triggers.worker.limits import count_gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from random import Random

    from cascadefs.filesystem import Filesystem
    from storage.clock import Clock
    from storage.record import Part
    from storage.store import LocalStore
    from triggers.runner.pool import PoolRunner

__all__ = ["Host", "groups_of", "why_not"]

MOUNT_SECONDS = 0.5
"""Between two looks whether the mount is still there: how long an umount(8) may take longer."""


class Host:
    """Runs the scripts of one mount."""

    def __init__(
        self,
        store: LocalStore,
        filesystem: Filesystem,
        clock: Clock,
        random: Random,
        *,
        mode: str,
        inproc: tuple[str, ...],
        cgroup: Path | None,
        path: Path,
        is_shared: bool,
        exclusive: Callable[[], AbstractContextManager[None]],
        notify: Callable[[], None],
        hurry: Callable[[bool], None],
        steady_ns: Callable[[], int],
    ) -> None:
        """Nothing runs before `run`.

        Args:
            store: with a past, open for writing.
            filesystem: of the mount.
            clock: the wall clock.
            random: for jitter.
            mode: "owner": scripts of any user that this process may run as; "root": of root only.
            inproc: directories whose scripts may run in this process, if they ask for it.
            cgroup: a control group below which workers get theirs; None: they have none of their own.
            path: where the store is mounted.
            is_shared: whether users other than this process's may enter the mount.
            exclusive: keeps requests out while it is entered.
            notify: tells the kernel what it must forget.
            hurry: told whether there is something to do, from now on.
            steady_ns: a clock that goes forward only.
        """
        self._store = store
        self._filesystem = filesystem
        self._clock = clock
        self._exclusive = exclusive
        self._notify = notify
        self._hurry = hurry
        self._steady_ns = steady_ns
        self._mode = mode
        self._inproc = inproc
        self._cgroup = cgroup
        self._path = path
        self._is_shared = is_shared
        self._random = random
        self._workers = max(2, os.cpu_count() or 1)
        self._runner: PoolRunner | None = None
        self._dispatcher: Dispatcher | None = None
        self._tracing = tracing = open_tracing(os.environ)
        self._options = Options(
            workers=self._workers,
            may_run_as=lambda uid: why_not(mode, os.geteuid(), uid),
            groups_of=groups_of,
            may_inproc=lambda base: any(
                f"{base}/".startswith(f"{one}/" if one else "") for one in inproc
            ),
            traced=tracing.ended if tracing is not None else lambda _run, _result: None,
            cuda_devices=count_gpus,
            node=os.uname().nodename,
            mountpoint=str(path),
            may_enter=lambda uid: is_shared or uid == os.geteuid(),
            reserved=filesystem.is_reserved,
            is_open=filesystem.files.is_written,
        )

    async def run(self) -> None:
        """Until cancelled."""
        engine = Engine(self._store, self._clock, self._random, self._options, watcher=self)
        self._store.retention.wanted_since = engine.lag.wanted_since
        settings = PoolSettings(
            allow_root=self._mode == "root",
            allow_inproc=bool(self._inproc),
            cgroup=str(self._cgroup or ""),
        )
        async with open_pool(settings, self._clock.now_ns, self._steady_ns) as runner:
            self._runner = runner
            dispatcher = self._dispatcher = Dispatcher(engine, runner, self._held, self._hurry)
            with self._held():
                self._make_control()
                self._filesystem.control.scripts = Scripts(self._store, dispatcher.operator)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end_with_the_mount, nursery.cancel_scope)
                    await dispatcher.run()
            finally:
                self._filesystem.control.scripts = None
                if self._tracing is not None:
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(self._tracing.close)

    async def _end_with_the_mount(self, running: trio.CancelScope) -> None:
        """Workers may have a mount namespace of their own, which keeps a mount alive that is gone for everybody else.

        The kernel tells nobody, so look: when it is gone here, end the workers, and it is gone altogether.
        """
        seen = False
        while True:
            await trio.sleep(MOUNT_SECONDS)
            there = mountpoint.mounted_at(self._path) is not None
            if seen and not there:
                running.cancel()
                return
            seen = there

    def status(self) -> dict[str, object]:
        """How all scripts are, and what runs them, JSON-able."""
        if self._dispatcher is None or self._runner is None:
            return {"mode": self._mode, "state": "starting"}
        workers = msgspec.structs.asdict(self._runner.state())
        if self._mode == "owner" and os.geteuid() == 0 and not self._is_shared:
            workers["problems"].append(
                "without -o allow_other nobody but root may enter the mount: executables have no CASCADE_IN"
            )
        return {"mode": self._mode, **self._dispatcher.operator.status(), "workers": workers}

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        try:
            with self._exclusive():
                yield
        finally:
            if self._filesystem.invalidations:
                self._notify()

    def _make_control(self) -> None:
        """The root's `.cascade` comes to be stored, so that scripts can be put there."""
        name = self._filesystem.control.name
        root = self._store.attributes(ROOT)
        assert root is not None
        if self._store.binding(ROOT, name) is None:
            inode = self._store.allocate_inode()
            self._store.propose(
                record.Create(ROOT, name, inode, DIRECTORY | 0o755, root.uid, root.gid)
            )

    def applied(self, records: list[Part]) -> None:
        """See `triggers.options.Watcher`: what the kernel knows of these is old."""
        self._filesystem.invalidations.extend(stale_by(records))


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

"""The process behind a mount: the one place that makes a real clock and real randomness, and joins store and door.

A daemon's life: leave the terminal (`start_detached`), then `run`: open the store, mount, serve, and, whoever asked
for the end, make every draft a version, sync, close, unmount. It leaves the terminal before it opens anything, because
trio, LMDB and locks do not survive a fork. Until the mount answers, the starter waits at a pipe, and is told progress,
"ready", or why not: one JSON object a line.

The end comes from outside (umount: the kernel closes the connection) or by SIGTERM or SIGINT. A signal first makes
everything durable, then unmounts as umount(8) would, so that what programs still ask is answered; a mount in use is
taken out of the tree, and whoever still has files open there gets ENOTCONN. A kill -9 at any point is safe: the log
is the truth, and the next start recovers from it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from cascadefs.machine import (
    SystemClock,
    boot_id,
    log_handler,
    raise_descriptor_limit,
    set_up_logging,
)
from storage.errors import Corruption, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from cascadefs.filesystem import Filesystem
    from cascadefs.fuse.door import Door
    from cascadefs.host import MountHost
    from cascadefs.housekeeping import Housekeeping
    from cascadefs.kernel.door import Door as KernelDoor
    from cascadefs.observer import ClusterSettings, Observer
    from cascadefs.page.process import PageProcess
    from cascadefs.programs import Programs
    from cascadefs.proxy import Proxy
    from storage.cluster.store import ClusterStore
    from storage.store import LocalStore

__all__ = ["NotStarted", "Report", "Settings", "SystemClock", "run", "start_detached"]

SAVE_SECONDS: Final = 10.0
"""How long a mount that ends waits for a cluster that is away, with what is not saved."""

SIGN_SECONDS: Final = 24 * 3600.0
"""Between two signs of life to a cluster (`storage.namespace.sessions`)."""

SCRUB_RECORDS_MAX: Final = 2000
"""Read again in a second, whatever their size: some 20 ms of it."""

SCRUB_ROWS_MAX: Final = 5000
"""Rows of the index walked over in a second, while no request is served: some 2 ms."""

RETENTION_REST_SECONDS: Final = 0.5
"""Between two looks whether any history is to be let go."""

RETENTION_STEP_SECONDS: Final = 0.01
"""Between two steps of 2 ms each: a fifth of the time is nobody's to complain about."""

SCRUB_PAUSE_SECONDS: Final = 24 * 3600.0
"""From the end of one reading of everything to the next."""

PROGRESS_AFTER_SECONDS: Final = 1.0
PROGRESS_SECONDS: Final = 0.1
"""Before the first report of progress to the starter, and between two."""

_log = logging.getLogger("cascadefs")


class NotStarted(Exception):
    """There is no mount; the message is "thing: why; remedy"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to mount. Paths are absolute; `data` is None for a volatile store."""

    mountpoint: Path
    data: Path | None
    read_only: bool = False
    recover: bool = False
    fuse_options: tuple[str, ...] = ()
    door: str = "auto"
    sync_interval_s: float = 1.0
    autocommit_s: float = 5.0
    scrub_bytes_per_s: int = 4 * 1024 * 1024
    """How fast the log is read again in the background; 0: not at all."""
    log: Path | None = None
    cluster: ClusterSettings | None = None
    """A cluster to mount instead of `data`."""
    triggers: str = "off"
    """Whose scripts run: "off" nobody's, "owner" those of users this process may run as, "root" root's only."""
    inproc: tuple[str, ...] = ()
    """Directories, as paths from the root of the store, whose scripts may run in this process (`sandbox = "inproc"`)."""
    cgroup: Path | None = None
    """A delegated control group (version 2), below which scripts' processes get groups of their own."""
    http: str = ""
    """Where a page is served beside the mount; nowhere if empty. Needs `data`."""
    prices: Path | None = None
    """What the page says that things cost."""

    @property
    def log_file(self) -> Path | None:
        """Where a detached daemon writes; None where there is no place."""
        if self.log is not None:
            return self.log
        if self.cluster is not None:
            return self.cluster.cache / "daemon.log" if self.cluster.cache is not None else None
        if self.data is None or (self.read_only and not os.access(self.data, os.W_OK)):
            return None
        return self.data / "daemon.log"


class Report(Protocol):
    """What a starting daemon tells whoever waits for it."""

    def progress(self, records: int, total: int) -> None:
        """So many records of the log were applied so far, of so many."""

    def waiting(self, why: str) -> None:
        """It takes long, for this reason."""

    def ready(self) -> None:
        """The mount answers."""


# --- Leaving the terminal ---------------------------------------------------------------------------------------------


class _PipeReport:
    """`Report` through a pipe. A starter that is gone is no reason to stop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._next_progress_at = time.monotonic() + PROGRESS_AFTER_SECONDS

    def progress(self, records: int, total: int) -> None:
        if time.monotonic() >= self._next_progress_at:
            self._next_progress_at = time.monotonic() + PROGRESS_SECONDS
            self.say(progress=records, total=total)

    def waiting(self, why: str) -> None:
        self.say(waiting=why)

    def ready(self) -> None:
        self.say(ready=True)
        os.close(self._descriptor)

    def say(self, **message: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")


def start_detached(
    settings: Settings,
    on_progress: Callable[[int, int], None],
    on_waiting: Callable[[str], None] = lambda why: None,
) -> int:
    """Start a daemon of its own session; return its process id when the mount answers.

    Interrupted (KeyboardInterrupt), it ends the daemon, which a daemon survives like any other kill.

    Raises:
        NotStarted: with what the daemon said.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    middle = os.fork()
    if middle == 0:
        _detach_and_run(settings, writing)
    os.close(writing)
    os.waitpid(middle, 0)
    daemon = 0
    try:
        with open(reading, encoding="utf-8") as messages:
            for line in messages:
                match json.loads(line):
                    case {"pid": int(pid)}:
                        daemon = pid
                    case {"progress": int(records), "total": int(total)}:
                        on_progress(records, total)
                    case {"waiting": str(why)}:
                        on_waiting(why)
                    case {"error": str(message)}:
                        raise NotStarted(message)
                    case {"ready": True}:
                        return daemon
    except KeyboardInterrupt:
        if daemon:
            os.kill(daemon, signal.SIGTERM)
        raise
    where = f"see {settings.log_file}" if settings.log_file else "try again with --foreground"
    raise NotStarted(f"{settings.mountpoint}: the daemon ended before it was ready; {where}")


def _detach_and_run(settings: Settings, writing: int) -> NoReturn:
    """In the child: become a daemon and never return (daemon(7), without its systemd part)."""
    code = 1
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)  # so that the daemon leads no session and can never get a terminal
        report = _PipeReport(writing)
        report.say(pid=os.getpid())
        os.chdir("/")
        os.umask(0o022)
        try:
            _redirect(settings.log_file, keep=writing)
            code = run(settings, report, log_handler(settings.log_file))
        except NotStarted as error:
            report.say(error=str(error))
        except OSError as error:
            report.say(error=f"{error.filename or settings.mountpoint}: {error.strerror}")
    except BaseException:
        _log.critical("the daemon ended", exc_info=True)
    finally:
        logging.shutdown()
        os._exit(code)


def _redirect(log_file: Path | None, *, keep: int) -> None:
    """Standard streams to nothing and to the log; every other descriptor of the starter but `keep` is closed."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep:
            with contextlib.suppress(OSError):
                os.close(int(name))
    if log_file is not None and log_file.parent != log_file.parent.parent:
        log_file.parent.mkdir(mode=0o700, exist_ok=True)
    null = os.open(os.devnull, os.O_RDWR)
    output = os.open(log_file or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for descriptor, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    os.close(null)
    os.close(output)


# --- Running ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Mount:
    """One mount while it is served."""

    settings: Settings
    store: LocalStore | ClusterStore
    filesystem: Filesystem
    clock: SystemClock
    local: LocalStore | None
    """The store, if it is one of its own ..."""
    observer: Observer | None
    """... or what it has of a cluster."""
    door: Door | KernelDoor = field(init=False)
    housekeeping: Housekeeping = field(init=False)
    started_ns: int = 0
    trouble: str | None = None
    host: MountHost | None = None
    programs: Programs | None = None
    page: PageProcess | None = None
    proxy: Proxy | None = None
    """What the scripts of a cluster are to this mount."""

    def status(self) -> dict[str, object]:
        """The daemon's part of the status."""
        settings = self.settings
        return {
            "pid": os.getpid(),
            "mountpoint": str(settings.mountpoint),
            "data": str(settings.data) if settings.data is not None else None,
            "log": str(settings.log_file) if settings.log_file is not None else None,
            "read_only": settings.read_only,
            "volatile": settings.data is None and settings.cluster is None,
            "cluster": self.observer.status() if self.observer is not None else None,
            "sync_interval_s": settings.sync_interval_s,
            "autocommit_s": settings.autocommit_s,
            "started_ns": self.started_ns,
            "uptime_s": round((self.clock.now_ns() - self.started_ns) / 1e9, 3),
            "trouble": self.trouble or self.housekeeping.trouble,
            "programs": self.programs.status() if self.programs is not None else None,
            "page": self.page.status() if self.page is not None else None,
            "triggers": self._triggers(),
            **self.door.status(),
        }

    def _triggers(self) -> dict[str, object]:
        if self.host is not None:
            return self.host.status()
        if self.observer is None:
            return {"mode": "off"}
        assert self.proxy is not None, "made with the mount"
        return {"mode": "elsewhere", **self.proxy.status()}

    async def serve(self) -> int:
        """Until the mount is gone; then everything becomes versions, on the disk. The exit status."""
        import trio

        code = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_house)
            nursery.start_soon(self._obey_signals)
            local = self.local
            if local is not None:
                nursery.start_soon(self._scrub, local)
                nursery.start_soon(self._retain, local)
                if self.settings.triggers != "off":
                    nursery.start_soon(self._run_scripts, local)
                if self.settings.data is not None and not self.settings.read_only:
                    nursery.start_soon(self._serve_programs, local, self.settings.data)
            if self.observer is not None:
                nursery.start_soon(
                    self.observer.follow, self.filesystem, self.housekeeping.apart, self.door.tell
                )
            if self.proxy is not None:
                nursery.start_soon(self.proxy.run, self.housekeeping.apart)
            try:
                await self.door.serve()
            except Exception:
                _log.critical("stopping: the door broke", exc_info=True)
                code = 1
            nursery.cancel_scope.cancel()
        try:
            await self._save()
        except Exception:
            _log.critical("not everything is saved", exc_info=True)
            code = 1
        return code

    async def _run_scripts(self, store: LocalStore) -> None:
        """As long as the mount is served. That they cannot is trouble, and no reason to end the mount."""
        from cascadefs.host import Host, MountHost

        host = Host(
            self.clock,
            random.Random(),
            mode=self.settings.triggers,
            steady_ns=time.monotonic_ns,
            inproc=self.settings.inproc,
            cgroup=self.settings.cgroup,
            path=self.settings.mountpoint,
        )
        self.host = MountHost(
            host,
            store,
            self.filesystem,
            path=self.settings.mountpoint,
            is_shared="allow_other" in self.settings.fuse_options,
            exclusive=self.door.exclusive,
            notify=self.door.notify,
            hurry=self.door.hurry,
        )
        try:
            await self.host.run()
        except Exception as error:
            _log.critical("no scripts run any more", exc_info=True)
            self.trouble = f"triggers: {type(error).__name__}: {error}"
            self.host = None

    async def _serve_programs(self, store: LocalStore, data: Path) -> None:
        """As long as the mount is served. That they cannot connect is trouble, and no reason to end the mount."""
        import trio

        try:
            from cascadefs.programs import Programs

            self.programs = Programs(
                store,
                self.filesystem,
                self.clock,
                data,
                exclusive=self.door.exclusive,
                notify=self.door.notify,
                threaded=self.door.threaded,
            )
            async with trio.open_nursery() as nursery:
                if self.settings.http:
                    nursery.start_soon(self._serve_page, data)
                await self.programs.run()
        except* Exception as errors:  # Also that a part of Python is not there for this user.
            _log.error("programs cannot connect: %s", errors.exceptions[0])
            self.programs = None

    async def _serve_page(self, data: Path) -> None:
        """As long as programs can connect, of which it is one. That there is none is trouble, and no reason to end the mount."""
        from cascadefs.page.process import TOKEN_FILE, PageProcess

        settings = self.settings
        self.page = PageProcess(
            settings.mountpoint, settings.http, data / TOKEN_FILE, settings.prices
        )
        try:
            await self.page.run()
        except Exception as error:
            _log.error("there is no page: %s", error)

    async def _save(self) -> None:
        if self.observer is not None:
            self.observer.give_up_after(SAVE_SECONDS)
        await self.housekeeping.save_all()
        await self.filesystem.sync()

    async def _keep_house(self) -> None:
        """Every `sync_interval_s`: old drafts become versions, what is committed goes to the disk."""
        import trio

        next_sign_at = time.monotonic() + SIGN_SECONDS
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self.settings.sync_interval_s)
                await self.housekeeping.look(nursery)
                self.door.notify()
                if self.observer is not None and time.monotonic() >= next_sign_at:
                    next_sign_at = time.monotonic() + SIGN_SECONDS
                    await self.housekeeping.apart(self._sign)

    def _sign(self) -> None:
        assert self.observer is not None
        try:
            self.observer.store.keep_sessions()
        except OSError as error:
            _log.warning("the cluster is told tomorrow that this mount lives: %s", error)

    async def _retain(self, store: LocalStore) -> None:
        """Let go of history as the policies say, a little at a time, and give its space back (SEMANTICS 7)."""
        import trio

        if self.settings.read_only or self.settings.data is None:
            return
        retention, said = store.retention, ""
        while True:
            await trio.sleep(RETENTION_REST_SECONDS)
            try:
                busy = True
                while busy:
                    with self.door.exclusive():
                        busy = retention.step()
                        job = None if busy else retention.choose()
                    if job is not None:
                        done = await trio.to_thread.run_sync(retention.cleaning.run, job)
                        with self.door.exclusive():
                            retention.cleaning.finish(job, done)
                        busy = True
                    await trio.sleep(RETENTION_STEP_SECONDS)
                said = retention.trouble = ""
            except Exception as error:
                retention.trouble = f"{type(error).__name__}: {error}"
                retention.failures += 1
                if retention.trouble != said:
                    _log.error("history could not be let go: %s", retention.trouble, exc_info=error)
                said = retention.trouble

    async def _scrub(self, store: LocalStore) -> None:
        """Read log and index again, a bounded piece each second; what is damaged is said once, and in the status."""
        import trio

        scrub, bytes_per_s = store.scrub, self.settings.scrub_bytes_per_s
        if scrub is None or not bytes_per_s:
            return
        said: set[str] = set()
        in_log = in_index = True
        while True:
            await trio.sleep(1.0)
            try:
                if in_log:
                    in_log = await trio.to_thread.run_sync(
                        scrub.step, bytes_per_s, SCRUB_RECORDS_MAX
                    )
                if in_index:
                    with self.door.exclusive():
                        in_index = store.index_scrub.step(SCRUB_ROWS_MAX)
            except (
                Exception
            ) as error:  # No thread, no memory: it can wait, and the mount must not end with it.
                trouble = f"{type(error).__name__}: {error}"
                if trouble not in said:
                    said.add(trouble)
                    _log.warning("scrub: goes on later: %s", trouble)
            for place in [*scrub.damage, *filter(None, [store.index_scrub.damage])]:
                if place not in said:
                    said.add(place)
                    _log.error("scrub: damaged: %s", place)
            if not in_log and not in_index:
                await trio.sleep(SCRUB_PAUSE_SECONDS)
                in_log = in_index = True

    async def _obey_signals(self) -> None:
        """SIGTERM, SIGINT and SIGHUP: save, unmount, and let `serve` come to its end. Later ones change nothing."""
        import trio

        ends = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        with trio.open_signal_receiver(*ends) as signals:
            if self.observer is not None:
                _limit_patience(self.observer, ends)
            async for number in signals:
                _log.info("stopping: %s", signal.Signals(number).name)
                await self._stop()
                await trio.sleep_forever()

    async def _stop(self) -> None:
        import trio

        from cascadefs.fuse import mountpoint

        try:
            await self._save()
        except Exception as error:
            # Tried again at the very end, where it decides the exit status.
            _log.error("not everything is saved yet: %s", error)
        path = self.settings.mountpoint
        try:
            try:
                await trio.to_thread.run_sync(mountpoint.unmount, path)
            except mountpoint.Busy:
                users = await trio.to_thread.run_sync(mountpoint.users_of, path)
                _log.warning("still in use by %s; cut off", ", ".join(users) or "somebody")
                await trio.to_thread.run_sync(lambda: mountpoint.unmount(path, lazy=True))
                self.door.stop()
        except mountpoint.UnmountFailed as error:
            _log.error("cannot unmount %s: %s", path, error)
            self.door.stop()


def _limit_patience(observer: Observer, numbers: tuple[signal.Signals, ...]) -> None:
    """Have a signal limit how long a cluster is waited for, also where this very thread is what waits.

    Python runs a handler in the main thread even while that waits for a lock; trio's own only notes the signal for a loop that
    does not turn then.
    """
    for number in numbers:
        noting = signal.getsignal(number)

        def handle(number: int, frame: FrameType | None, noting: Any = noting) -> None:
            observer.give_up_after(SAVE_SECONDS)
            noting(number, frame)

        signal.signal(number, handle)


def run(settings: Settings, report: Report, log: logging.Handler) -> int:
    """Mount and serve in this process until the mount is gone.

    Returns:
        The exit status: 0, or 1 if something could not be saved (the log says what).

    Raises:
        NotStarted: nothing is mounted, and the data directory is free again.
    """
    set_up_logging(log)
    raise_descriptor_limit()
    clock = SystemClock()
    if settings.cluster is not None:
        with _observed_cluster(settings.cluster, clock, report) as observer:
            return _mount_and_serve(settings, observer.store, clock, report, observer=observer)
    with _opened_store(settings, clock, report) as store:
        return _mount_and_serve(settings, store, clock, report, local=store)


@contextlib.contextmanager
def _observed_cluster(
    settings: ClusterSettings, clock: SystemClock, report: Report
) -> Iterator[Observer]:
    from cascadefs.observer import Observer

    try:
        observer = Observer(
            settings,
            clock,
            random.SystemRandom(),
            steady_ns=time.monotonic_ns,
            boot_id=boot_id(),
        )
    except Unusable as error:
        raise NotStarted(str(error)) from error
    try:
        try:
            observer.open(report.progress, report.waiting)
        except (Unusable, Corruption) as error:
            raise NotStarted(str(error)) from error
        except OSError as error:
            where = error.filename or settings.cache or "the cluster"
            raise NotStarted(f"{where}: {error.strerror or error}") from error
        yield observer
    finally:
        observer.close()


@contextlib.contextmanager
def _opened_store(settings: Settings, clock: SystemClock, report: Report) -> Iterator[LocalStore]:
    from storage.store import LocalStore

    owner = (os.getuid(), os.getgid())
    data = settings.data
    try:
        if data is None:
            store = LocalStore.open_volatile(clock, owner=owner)
        else:
            store = LocalStore.open(
                data,
                clock,
                random.SystemRandom(),
                boot_id=boot_id(),
                owner=owner,
                read_only=settings.read_only,
                recover=settings.recover,
                progress=report.progress,
            )
    except Unusable as error:
        said = str(error)
        raise NotStarted(said if said.startswith(f"{data}") else f"{data}: {said}") from error
    except Corruption as error:
        raise NotStarted(f"{data}: {error}; --recover keeps what lies before the damage") from error
    except OSError as error:
        raise NotStarted(f"{error.filename or data}: {error.strerror or error}") from error
    for sentence in store.recovery:
        _log.warning("recovery: %s", sentence)
    try:
        yield store
    finally:
        store.close()


def _mount_and_serve(
    settings: Settings,
    store: LocalStore | ClusterStore,
    clock: SystemClock,
    report: Report,
    *,
    local: LocalStore | None = None,
    observer: Observer | None = None,
) -> int:
    import trio

    from cascadefs import __version__
    from cascadefs.filesystem import Filesystem, FilesystemOptions
    from cascadefs.housekeeping import Housekeeping

    options = FilesystemOptions(read_only=settings.read_only, autocommit_s=settings.autocommit_s)
    filesystem = Filesystem(store, clock, options)
    proxy: Proxy | None = None
    if observer is not None:
        from cascadefs.filesystem.scripts import Scripts
        from cascadefs.proxy import Proxy

        proxy = Proxy(store, observer.order, functools.partial(observer.order, beside=True))
        filesystem.control.scripts = Scripts(store, proxy)
    mount = _Mount(settings, store, filesystem, clock, local, observer, started_ns=clock.now_ns())
    mount.proxy = proxy
    mount.door = _door(settings.door, filesystem, report.ready)
    if mount.observer is not None:
        mount.door.share(mount.observer.store, mount.observer.locks)
    mount.housekeeping = Housekeeping(
        filesystem,
        store,
        clock,
        mount.door.exclusive,
        may_wait=observer is not None and mount.door.threaded,
    )
    filesystem.status_extra = mount.status
    fuse_options = [*settings.fuse_options, *(["ro"] if settings.read_only else [])]
    try:
        mount.door.mount(settings.mountpoint, fuse_options, time.monotonic)
    except mount.door.refusal as error:
        raise NotStarted(
            f"{settings.mountpoint}: not mounted: {error}; check -o and whose directory it is"
        ) from error
    source = settings.data if settings.cluster is None else ",".join(settings.cluster.nodes)
    _log.info("cascadefs %s mounts %s on %s", __version__, source, settings.mountpoint)
    try:
        return trio.run(mount.serve)
    finally:
        mount.door.unmount(mounted=_is_mounted(settings.mountpoint))
        _remove_dead_mount(settings.mountpoint)
        _log.info("unmounted %s", settings.mountpoint)


def _door(name: str, filesystem: Filesystem, on_ready: Callable[[], None]) -> Door | KernelDoor:
    """The door of that name; which one "auto" is, and why: docs/KERNEL_DOOR.md."""
    if name in ("auto", "kernel"):
        from cascadefs.kernel.door import Door as KernelDoor

        return KernelDoor(filesystem, on_ready)
    from cascadefs.fuse.door import Door

    return Door(filesystem, on_ready)


def _is_mounted(path: Path) -> bool:
    from cascadefs.fuse import mountpoint

    mount = mountpoint.mounted_at(path)
    return mount is not None and mount.is_ours


def _remove_dead_mount(path: Path) -> None:
    """An aborted connection leaves its mount in the tree; libfuse takes that for unmounted."""
    from cascadefs.fuse import mountpoint

    if _is_mounted(path) and mountpoint.is_dead(path):
        try:
            mountpoint.unmount(path, lazy=True)
        except mountpoint.UnmountFailed as error:
            _log.error("a dead mount stays at %s: %s", path, error)

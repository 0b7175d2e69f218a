"""The requests of the kernel, one method each: convert, call the file system, map the error. Nothing is decided here.

pyfuse3 takes the whole mount down when a handler raises anything but `FUSEError`, so none does: `_answering` wraps
them all. A refusal is its errno, a failure of the disk its own (`cascadefs.errnos`), damage and bugs are EIO and one
line in the log, and the mount lives on.

The file system is called in trio's thread and does not wait, so between two awaits of this module nothing else
happens to it. Handlers that wait (fsync, writes to O_SYNC handles) tell `wakeup` first.

What this binding cannot give: fallocate and O_TMPFILE are EOPNOTSUPP, ioctl ENOTTY, SEEK_HOLE finds none,
locks are the kernel's, for this mount alone. xattr flags reach us as a getxattr before the setxattr; none of both
waits, so nothing comes between.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import select
import tempfile
import traceback
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError

from cascadefs.errnos import errno_of
from cascadefs.filesystem import Caller, Changes
from cascadefs.fuse import wakeup
from cascadefs.fuse.notifier import Notifier
from cascadefs.processes import groups_of
from storage.errors import Corruption, Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from pathlib import Path
    from typing import IO, Any

    from pyfuse3 import PollHandle, ReaddirToken, RequestContext, SetattrFields, StatvfsData

    from cascadefs.filesystem import Filesystem, Opened, Stat
    from storage.cluster.store import ClusterStore

__all__ = ["Door", "MountRefused"]

_OPTIONS: Final = frozenset({"default_permissions", "fsname=cascadefs", "subtype=cascadefs"})
"""Always given: the kernel checks permissions, and mount tables say whose this is."""

_READY: Final = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
"""What poll(2) says of a file that has no poll of its own."""

_MESSAGES_MAX: Final = 1000
"""Distinct bugs and damages whose message was logged; later ones are only counted."""

_WORKERS: Final = 99
"""pyfuse3's own bound on workers. As many are kept: one that ended would be missed by `wakeup`."""

_Ts = TypeVarTuple("_Ts")
_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class MountRefused(Exception):
    """The kernel or fusermount3 would not mount; the message is what libfuse said."""


def _caller(context: RequestContext) -> Caller:
    pid = context.pid
    return Caller(context.uid, context.gid, pid, context.umask, functools.partial(groups_of, pid))


def _entry(stat: Stat) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = stat.number
    entry.st_mode = stat.mode
    entry.st_nlink = stat.nlink
    entry.st_uid = stat.uid
    entry.st_gid = stat.gid
    entry.st_rdev = stat.rdev
    entry.st_size = stat.size
    entry.st_blocks = stat.blocks
    entry.st_atime_ns = stat.atime_ns
    entry.st_mtime_ns = stat.mtime_ns
    entry.st_ctime_ns = stat.ctime_ns
    entry.entry_timeout = stat.entry_timeout_s
    entry.attr_timeout = stat.attribute_timeout_s
    return entry


def _changes(attributes: EntryAttributes, fields: SetattrFields) -> Changes:
    return Changes(
        mode=attributes.st_mode & 0o7777 if fields.update_mode else None,
        uid=attributes.st_uid if fields.update_uid else None,
        gid=attributes.st_gid if fields.update_gid else None,
        size=attributes.st_size if fields.update_size else None,
        atime_ns=attributes.st_atime_ns if fields.update_atime else None,
        mtime_ns=attributes.st_mtime_ns if fields.update_mtime else None,
    )


@contextlib.contextmanager
def _captured_stderr() -> Iterator[IO[bytes]]:
    """Standard error goes to a file meanwhile: libfuse and fusermount3 say there why they would not mount."""
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            try:
                yield said
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _answering(
    *, changes: bool = False
) -> Callable[[Callable[[Door, *_Ts], _T]], Callable[[Door, *_Ts], Coroutine[Any, Any, _T]]]:
    """Make a handler of a plain method: count it, and let nothing out but `FUSEError`.

    Args:
        changes: whether the kernel may have something to forget afterwards.
    """

    def decorate(
        method: Callable[[Door, *_Ts], _T],
    ) -> Callable[[Door, *_Ts], Coroutine[Any, Any, _T]]:
        opcode = method.__name__.strip("_")

        @functools.wraps(method)
        async def handle(self: Door, /, *arguments: *_Ts) -> _T:
            self.requests[opcode] += 1
            try:
                result = method(self, *arguments)
            except Refused as refusal:
                raise FUSEError(errno_of(refusal)) from None
            except Exception as error:
                raise self.failed(opcode, error) from error
            if changes:
                self.notify()
            return result

        return handle

    return decorate


def _waiting(
    method: Callable[[Door, *_Ts], Coroutine[Any, Any, _T]],
) -> Callable[[Door, *_Ts], Coroutine[Any, Any, _T]]:
    """The same for a method that is a coroutine. Cancelled only when the mount ends; then nothing is answered."""
    opcode = method.__name__

    @functools.wraps(method)
    async def handle(self: Door, /, *arguments: *_Ts) -> _T:
        self.requests[opcode] += 1
        try:
            result = await method(self, *arguments)
        except Refused as refusal:
            raise FUSEError(errno_of(refusal)) from None
        except Exception as error:
            raise self.failed(opcode, error) from error
        self.notify()
        return result

    return handle


class Door(pyfuse3.Operations):
    """One mount. `mount`, then `serve` inside trio, then `unmount`."""

    threaded = False
    """See the other door: here everything runs in trio's thread."""

    # NFS export would need node ids that outlive the kernel's interest in them.
    supports_dot_lookup = False
    # With it mtime and O_APPEND would be the kernel's, and a version would not know of its last writes.
    enable_writeback_cache = False
    # Bits that are stored but not enforced would be the worst answer.
    enable_acl = False
    refusal = MountRefused

    def __init__(self, filesystem: Filesystem, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called when the kernel has greeted us and the mount answers."""
        super().__init__()
        self._filesystem = filesystem
        self._on_ready = on_ready
        self._waiting: wakeup.Waiting = wakeup.StockWakeup("not mounted")
        self._notifier = Notifier(pyfuse3.invalidate_inode, pyfuse3.invalidate_entry)
        self._synchronous: set[int] = set()
        self._seen: set[str] = set()
        self.requests = dict.fromkeys(_OPCODES, 0)
        self.errors: dict[str, int] = {}

    # --- life --------------------------------------------------------------------------------------------------

    def mount(
        self, mountpoint: Path, options: Sequence[str], monotonic: Callable[[], float]
    ) -> None:
        """Mount; requests gather until `serve`.

        Raises:
            MountRefused: nothing is mounted then.
        """
        with _captured_stderr() as said:
            try:
                pyfuse3.init(self, str(mountpoint), {*_OPTIONS, *options})
            except RuntimeError as error:
                raise MountRefused(_last_line(said) or str(error)) from error
        self._waiting = wakeup.install(monotonic)

    def share(self, store: ClusterStore, locks: object) -> None:
        """See the other door: here whoever waits for the cluster keeps everybody waiting, and locks are the kernel's own."""

    async def serve(self) -> None:
        """Answer requests until the mount is gone or `stop` is called.

        An aborted connection (/sys/fs/fuse/connections) looks like an unmount, but leaves a dead mount behind.
        """
        self._notifier.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._waiting.watch)
            await pyfuse3.main(min_tasks=_WORKERS, max_tasks=_WORKERS)
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Let `serve` return after the requests that are being handled."""
        pyfuse3.terminate()
        self._waiting.close()

    def unmount(self, *, mounted: bool) -> None:
        """End the session; take the mount down, even where it is in use, if it is still `mounted`."""
        if self._notifier.stop():
            pyfuse3.close(unmount=mounted)
        # Otherwise its thread is inside libfuse, and the end of the process cuts the connection.

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Use the file system from outside a request. Everything runs in trio's thread, so there is nobody to keep out."""
        yield

    def hurry(self, busy: bool) -> None:
        """Say whether others than requests have something to do in trio (`Waiting.hurried`)."""
        self._waiting.hurried = busy

    def tell(self, stale: list[tuple[int, bytes | None]]) -> None:
        """Have the kernel forget these, soon."""
        self._notifier.put(stale)

    def notify(self) -> None:
        """Tell the kernel what the file system says it should forget."""
        if invalidations := self._filesystem.take_invalidations():
            self._notifier.put(invalidations)

    def status(self) -> dict[str, object]:
        """The door's part of the status, JSON-able."""
        return {
            "door": "pyfuse3",
            "pyfuse3": pyfuse3.__version__,
            "wakeup": self._waiting.description,
            "requests": {name: count for name, count in self.requests.items() if count},
            "errors": dict(self.errors),
            "invalidations": {"sent": self._notifier.sent, "failed": self._notifier.failed},
        }

    def failed(self, opcode: str, error: Exception) -> FUSEError:
        """What to answer where the world failed or we did; logged here, once for each message."""
        number = errno_of(error)
        name = errno.errorcode[number]
        self.errors[name] = self.errors.get(name, 0) + 1
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{opcode}: {type(error).__name__}: {error}"
        key = f"{message} {where.filename}:{where.lineno}"
        if key not in self._seen and len(self._seen) < _MESSAGES_MAX:
            self._seen.add(key)
            expected = isinstance(error, Corruption | OSError)
            _log.error("%s: answered %s", message, name, exc_info=None if expected else error)
        return FUSEError(number)

    def init(self) -> None:
        """The kernel's greeting was answered."""
        self._on_ready()

    # --- names -------------------------------------------------------------------------------------------------

    @_answering()
    def lookup(self, parent: int, name: bytes, context: RequestContext) -> EntryAttributes:
        """See `Filesystem.lookup`; absence is told to the kernel as something to remember, where it may be."""
        try:
            return _entry(self._filesystem.lookup(parent, name, _caller(context)))
        except Refused as refusal:
            if refusal.reason is not Reason.ABSENT:
                raise
        absent = EntryAttributes()
        absent.st_ino = 0
        absent.entry_timeout = self._filesystem.negative_timeout_s(name)
        return absent

    async def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        """Not a request: nobody waits for an answer, so not even `FUSEError` may get out."""
        self.requests["forget"] += 1
        for number, count in forgotten:
            try:
                self._filesystem.forget(number, count)
            except Exception as error:
                self.failed("forget", error)

    @_answering()
    def readlink(self, number: int, context: RequestContext) -> bytes:
        """See `Filesystem.readlink`."""
        return self._filesystem.readlink(number)

    @_answering(changes=True)
    def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, context: RequestContext
    ) -> EntryAttributes:
        """See `Filesystem.mknod`."""
        return _entry(self._filesystem.mknod(parent, name, mode, rdev, _caller(context)))

    @_answering(changes=True)
    def mkdir(
        self, parent: int, name: bytes, mode: int, context: RequestContext
    ) -> EntryAttributes:
        """See `Filesystem.mkdir`."""
        return _entry(self._filesystem.mkdir(parent, name, mode, _caller(context)))

    @_answering(changes=True)
    def symlink(
        self, parent: int, name: bytes, target: bytes, context: RequestContext
    ) -> EntryAttributes:
        """See `Filesystem.symlink`."""
        return _entry(self._filesystem.symlink(parent, name, target, _caller(context)))

    @_answering(changes=True)
    def link(
        self, number: int, parent: int, name: bytes, context: RequestContext
    ) -> EntryAttributes:
        """See `Filesystem.link`."""
        return _entry(self._filesystem.link(number, parent, name, _caller(context)))

    @_answering(changes=True)
    def unlink(self, parent: int, name: bytes, context: RequestContext) -> None:
        """See `Filesystem.unlink`."""
        self._filesystem.unlink(parent, name, _caller(context))

    @_answering(changes=True)
    def rmdir(self, parent: int, name: bytes, context: RequestContext) -> None:
        """See `Filesystem.rmdir`."""
        self._filesystem.rmdir(parent, name, _caller(context))

    @_answering(changes=True)
    def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        context: RequestContext,
    ) -> None:
        """See `Filesystem.rename`."""
        self._filesystem.rename(parent, name, new_parent, new_name, flags, _caller(context))

    # --- attributes --------------------------------------------------------------------------------------------

    @_answering()
    def getattr(self, number: int, context: RequestContext) -> EntryAttributes:
        """See `Filesystem.getattr`."""
        return _entry(self._filesystem.getattr(number))

    @_answering(changes=True)
    def setattr(
        self,
        number: int,
        attributes: EntryAttributes,
        fields: SetattrFields,
        handle: int | None,
        context: RequestContext,
    ) -> EntryAttributes:
        """See `Filesystem.setattr`."""
        changes = _changes(attributes, fields)
        return _entry(self._filesystem.setattr(number, changes, handle, _caller(context)))

    @_answering()
    def getxattr(self, number: int, name: bytes, context: RequestContext) -> bytes:
        """See `Filesystem.getxattr`."""
        return self._filesystem.getxattr(number, name, _caller(context))

    @_waiting
    async def setxattr(
        self, number: int, name: bytes, value: bytes, context: RequestContext
    ) -> None:
        """See `Filesystem.setxattr`; pyfuse3 has seen to the flags. Whoever restores a version sees it once answered."""
        self._filesystem.setxattr(number, name, value, 0, _caller(context))
        invalidations = self._filesystem.take_invalidations()
        # Forgetting a name takes the lock of its directory, and this caller holds the node's: not to be waited for.
        held = [gone for gone in invalidations if gone[0] == number and gone[1] is not None]
        free = [gone for gone in invalidations if gone[0] != number or gone[1] is None]
        if free:
            await self._told(free)
        if held:
            self._notifier.put(held)

    @_answering()
    def listxattr(self, number: int, context: RequestContext) -> list[bytes]:
        """See `Filesystem.listxattr`."""
        return self._filesystem.listxattr(number, _caller(context))

    @_answering(changes=True)
    def removexattr(self, number: int, name: bytes, context: RequestContext) -> None:
        """See `Filesystem.removexattr`."""
        self._filesystem.removexattr(number, name, _caller(context))

    @_answering()
    def statfs(self, context: RequestContext) -> StatvfsData:
        """See `Filesystem.statfs`."""
        usage = self._filesystem.statfs()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = usage.block_bytes
        data.f_blocks = usage.blocks
        data.f_bfree = usage.blocks_free
        data.f_bavail = usage.blocks_available
        data.f_files = usage.files
        data.f_ffree = data.f_favail = usage.files_free
        data.f_namemax = usage.name_bytes_max
        return data

    # --- files -------------------------------------------------------------------------------------------------

    def _opened(self, opened: Opened, flags: int) -> FileInfo:
        if flags & os.O_DSYNC and self._filesystem.is_synchronous(opened.handle):
            self._synchronous.add(opened.handle)
        return FileInfo(fh=opened.handle, direct_io=opened.direct_io, keep_cache=opened.keep_cache)

    @_answering(changes=True)
    def _open(self, number: int, flags: int, context: RequestContext) -> FileInfo:
        return self._opened(self._filesystem.open(number, flags, _caller(context)), flags)

    async def open(self, number: int, flags: int, context: RequestContext) -> FileInfo:
        """See `Filesystem.open`; where others have changed the file, the kernel forgets it before the answer."""
        opened = await self._open(number, flags, context)
        if self._filesystem.others.is_unseen(number):
            await self._told([(number, None)])
        return opened

    @_answering(changes=True)
    def create(
        self, parent: int, name: bytes, mode: int, flags: int, context: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """See `Filesystem.create`."""
        opened, stat = self._filesystem.create(parent, name, mode, flags, _caller(context))
        return self._opened(opened, flags), _entry(stat)

    @_answering()
    def read(self, handle: int, offset: int, length: int) -> bytes:
        """See `Filesystem.read`. Any buffer will do for pyfuse3, whatever its annotation says."""
        return self._filesystem.read(handle, offset, length)  # type: ignore[return-value]

    @_answering(changes=True)
    def _write(self, handle: int, offset: int, data: bytes) -> int:
        return self._filesystem.write(handle, offset, data)

    async def write(self, handle: int, offset: int, data: bytes) -> int:
        """See `Filesystem.write`; on the disk before the answer where O_SYNC or O_DSYNC asked for that."""
        written = await self._write(handle, offset, data)
        if handle in self._synchronous:
            await self.fsync(handle, True)
        return written

    @_waiting
    async def flush(self, handle: int) -> None:
        """See `Filesystem.flush`: what it raises is what close(2) returns.

        A write on a condition may have come into a file that the kernel knows otherwise: who closes sees it afterwards.
        close(2) holds no directory, so what the kernel does to forget waits for nobody here.
        """
        self._filesystem.flush(handle)
        if invalidations := self._filesystem.take_invalidations():
            await self._told(invalidations)

    async def _told(self, invalidations: list[tuple[int, bytes | None]]) -> None:
        """Wait until the kernel has forgotten these; it may have to ask us something for that."""
        told, token = trio.Event(), trio.lowlevel.current_trio_token()
        self._notifier.put(invalidations, lambda: token.run_sync_soon(told.set))
        self._waiting.leave()
        try:
            await told.wait()
        finally:
            self._waiting.back()

    @_answering(changes=True)
    def release(self, handle: int) -> None:
        """See `Filesystem.release`."""
        self._synchronous.discard(handle)
        self._filesystem.release(handle)

    @_waiting
    async def fsync(self, handle: int, data_only: bool) -> None:
        """See `Filesystem.fsync`."""
        self._waiting.leave()
        try:
            await self._filesystem.fsync(handle, data_only)
        finally:
            self._waiting.back()

    @_answering()
    def poll(
        self, number: int, handle: int, poll_handle: PollHandle | None, context: RequestContext
    ) -> int:
        """See `Filesystem.poll`."""
        wake = None if poll_handle is None else functools.partial(self._wake, poll_handle)
        return _READY if self._filesystem.poll(handle, wake) else 0

    def _wake(self, waiting: PollHandle) -> None:
        """Whoever polls looks again, and finds nothing that the kernel should have forgotten by then."""
        self._notifier.put(self._filesystem.take_invalidations())
        self._notifier.wake(waiting.notify)

    # --- directories -------------------------------------------------------------------------------------------

    @_answering()
    def opendir(self, number: int, context: RequestContext) -> int:
        """See `Filesystem.opendir`."""
        return self._filesystem.opendir(number, _caller(context))

    @_answering()
    def readdir(self, handle: int, offset: int, token: ReaddirToken) -> None:
        """See `Filesystem.readdir`; an entry the kernel took is one look-up of its node."""
        remembered = []
        try:
            for name, stat, next_offset in self._filesystem.readdir(handle, offset):
                if not pyfuse3.readdir_reply(token, name, _entry(stat), next_offset):
                    break
                if name not in (b".", b".."):
                    self._filesystem.remember(stat.number)
                    remembered.append(stat.number)
        except BaseException:
            # Nothing of this reply is sent, so the kernel will not forget these.
            for number in remembered:
                self._filesystem.forget(number, 1)
            raise

    @_answering()
    def releasedir(self, handle: int) -> None:
        """See `Filesystem.releasedir`."""
        self._filesystem.releasedir(handle)

    @_waiting
    async def fsyncdir(self, handle: int, data_only: bool) -> None:
        """See `Filesystem.fsync_directory`."""
        self._waiting.leave()
        try:
            await self._filesystem.fsync_directory(handle)
        finally:
            self._waiting.back()


_OPCODES: Final = tuple(
    name for name in vars(pyfuse3.Operations) if name in vars(Door) and not name.startswith("_")
)

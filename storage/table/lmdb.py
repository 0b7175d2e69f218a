"""A table in a file: LMDB, a memory-mapped copy-on-write B+tree with one writer, lock-free readers.

Theory. A commit writes its new pages, then one of two meta pages; readers follow the newest meta
page they saw when they began, so a reader in any process sees whole commits only and never waits.
Neither a kill nor a full disk can leave half a commit. A power cut can, since nothing is synced
except by `sync`: its owner, who knows from the boot that there was one, rebuilds the file from the
log.

The write transaction opens with the first write and stays open until `commit`; while it is open all
reads of the object go through it. Otherwise they go through one read transaction, taken anew after
each commit.

Not writemap: with it a full disk arrives as SIGBUS in whoever touches the page; without it, as an
error from `commit`.

The file is kept longer than LMDB needs it, its end a hole, before a transaction can need it. LMDB
by itself leaves a file shorter than its meta page says when the last pages a transaction took were
free again before its commit (measured: after 300 of 2,400 random commits), and then nothing would
tell such a file from a truncated one, whose missing pages are a SIGBUS to touch. LMDB does not say
how many pages an open transaction has taken, so `put` and `delete` count a bound. It is generous
rather than proven; were it exceeded, a kill in that moment could cost a needless rebuild.

LMDB says that a write transaction belongs to one thread. What is bound to the thread is the lock
between writers, a robust mutex that only who took it may give back: `mdb_txn_begin` takes it,
commit and abort give it back, nothing in between looks at the thread. So a thread of the table's
own begins and ends transactions, 40 us a time and seldom, and rows are read and written by whichever
thread holds the shard. A process may open a file only once.

LMDB keeps no checksums. Each row bears its own, of key and value, checked whenever it is read: a
flipped bit in either is damage and not an answer. A row that cannot be found because a branch page
is damaged looks absent to `get`; walking the table and counting (`row_count`) tells.

What changes between `note` and `keep` waits in a dictionary that `get` looks at first, and is put with one
call: nothing is read only to be undone, and a row costs half of a `put`. A question about a range in
between makes the changes first, and then notes what the rows were.

Measured (2 shared cores, Python 3.11, 100,000 rows of 17 + 40 bytes, random order, in us): get 0.9,
put 1.0, delete 0.9, first 1.1, last 1.1, a row of a scan 0.35, a commit of one put 50, and of that the
checksum 0.12 a row read and 0.07 a row written.

Sources: lmdb.h and mdb.c of LMDB 0.9; py-lmdb's documentation.
"""

from __future__ import annotations

import contextlib
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
from xxhash import xxh32_digest

from storage.errors import Corruption
from storage.limits import KEY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LmdbTable"]

MAP_BYTES_MIN = 64 * 1024**3
"""Address space to begin with; doubled when half of it is in use."""

READERS_MAX = 4096
"""Reader slots, one for each process that has the table open; 64 bytes each in the lock file."""

UPKEEP_TRANSACTIONS = 1024
"""Every so many write transactions the map grows if need be and slots of dead readers are freed.

A transaction would have to write 32 MiB on average to fill the other half of the map in between.
"""

WRITE_ROOM_BYTES = 16 * 1024
"""What a put or delete takes, its value aside: leaf and branch copied, a split, lists of pages."""

COMMIT_ROOM_BYTES = 4 * 1024 * 1024
"""What a commit takes at most to save the lists of free pages anew."""

GROWTH_BYTES = 16 * 1024 * 1024
"""By how much the file is lengthened: a hole takes no space, but a careless copy fills it."""

FREE_BYTES_MIN = 1024 * 1024
"""A disk with less is full: LMDB reports the short write that filled it as EIO, not as ENOSPC."""

_SUM_BYTES = 4

_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)


class LmdbTable:
    """A `Table` in the file ``path``, with its lock beside it in ``path`` + "-lock".

    With ``read_only`` the file must exist and nothing may be written; reads then see one published
    state until `commit` or `abandon`, which move on to the newest one. A reader that will be idle
    for long should call one of them: the state it holds keeps the writer from reusing pages.

    An empty file is an empty table: it is what a kill right after creation leaves.
    """

    __slots__ = (
        "_begun",
        "_cursor",
        "_environment",
        "_get",
        "_length",
        "_noted",
        "_path",
        "_pending",
        "_read",
        "_read_only",
        "_room",
        "_transactor",
        "_write",
    )

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        """Open the file, and make it unless ``read_only``.

        Raises: `Corruption`, if it is not an LMDB environment, is shorter than it says, or has been
        found damaged in use before; OSError.
        """
        self._path = Path(path)
        self._read_only = read_only
        self._environment = _open(self._path, read_only)
        self._read: lmdb.Transaction[bytes] | None = None
        self._write: lmdb.Transaction[bytes] | None = None
        self._transactor = ThreadPoolExecutor(1, "table")  # The thread of the writers' lock.
        self._begun = 0  # Write transactions so far.
        self._length = self._path.stat().st_size  # Invariant: beyond all that LMDB has taken.
        self._room = 0  # What may still be taken before the file must be longer.
        # Both belong to the open transaction: the cursor that `first` and `last` move, and its get.
        self._cursor: lmdb.Cursor[bytes] | None = None
        self._get: Callable[[bytes], bytes | None] = self._get_afresh
        # What rows are to be since `note`, None where there is to be none; None itself while nothing is noted.
        self._pending: dict[bytes, bytes | None] | None = None
        # What rows were that were changed since `note` all the same, because a range was asked for; else as `_pending`.
        self._noted: dict[bytes, bytes | None] | None = None

    def get(self, key: bytes) -> bytes | None:
        """See `Table.get`."""
        if self._pending is not None and key in self._pending:
            return self._pending[key]
        try:
            row = self._get(key)
        except lmdb.Error as error:
            raise _translated(error, self._path) from error
        if row is None:
            return None
        value = row[:-_SUM_BYTES]
        if xxh32_digest(key + value) != row[-_SUM_BYTES:]:
            raise self._damaged(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """See `Table.put`."""
        assert 0 < len(key) <= KEY_BYTES_MAX
        if self._pending is not None:
            self._pending[key] = value
            return
        if self._noted is not None and key not in self._noted:
            self._noted[key] = self.get(key)
        try:
            write = self._write or self._begin()
            self._room -= WRITE_ROOM_BYTES + len(value)
            if self._room < 0:
                self._lengthen()
            write.put(key, value + xxh32_digest(key + value))
        except lmdb.Error as error:
            raise _translated(error, self._path) from error

    def delete(self, key: bytes) -> None:
        """See `Table.delete`."""
        assert 0 < len(key) <= KEY_BYTES_MAX
        if self._pending is not None:
            self._pending[key] = None
            return
        if self._noted is not None and key not in self._noted:
            self._noted[key] = self.get(key)
        try:
            write = self._write or self._begin()
            self._room -= WRITE_ROOM_BYTES
            if self._room < 0:
                self._lengthen()
            write.delete(key)
        except lmdb.Error as error:
            raise _translated(error, self._path) from error

    def first(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        """See `Table.first`."""
        self._settle()
        try:
            cursor = self._cursor or self._open_cursor()
            if not cursor.set_range(start):
                return None
            row = cursor.item()
        except lmdb.Error as error:
            raise _translated(error, self._path) from error
        return self._sound(row) if row[0] < stop else None

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        """See `Table.last`."""
        self._settle()
        try:
            cursor = self._cursor or self._open_cursor()
            if not (cursor.prev() if cursor.set_range(stop) else cursor.last()):
                return None
            row = cursor.item()
        except lmdb.Error as error:
            raise _translated(error, self._path) from error
        return self._sound(row) if start <= row[0] < stop else None

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See `Table.scan`."""
        self._settle()
        try:
            # A cursor of its own: `first` and `last` in between move the common one.
            with (self._write or self._reading()).cursor() as cursor:
                if not cursor.set_range(start):
                    return
                for row in cursor.iternext():
                    key, row_value = row
                    if key >= stop:
                        return
                    value = row_value[:-_SUM_BYTES]
                    if xxh32_digest(key + value) != row_value[-_SUM_BYTES:]:
                        raise self._damaged(key)
                    yield key, value
        except lmdb.Error as error:
            raise _translated(error, self._path) from error

    def row_count(self) -> int:
        """See `Table.row_count`: what the meta page says, unpublished changes included."""
        self._settle()
        try:
            transaction = self._write or self._reading()
            rows = self._environment.open_db(None, transaction, create=False)
            count: int = transaction.stat(rows)["entries"]
        except lmdb.Error as error:
            raise _translated(error, self._path) from error
        return count

    def note(self) -> None:
        """See `Table.note`. Until a range is asked for, what changes is only remembered: that is all there is to undo."""
        self._pending = {}

    def keep(self) -> None:
        """See `Table.keep`."""
        pending, self._pending, self._noted = self._pending, None, None
        if pending:
            self._put_all(pending)

    def undo(self) -> None:
        """See `Table.undo`."""
        assert self._pending is not None or self._noted is not None
        noted, self._pending, self._noted = self._noted, None, None
        if noted:
            self._put_all(noted)

    def _settle(self) -> None:
        """Make the changes since `note`: a range is asked for, and only the file is in order."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        self._noted = {key: self.get(key) for key in pending}
        if pending:
            self._put_all(pending)

    def _put_all(self, rows: dict[bytes, bytes | None]) -> None:
        """Make rows what they are to be; None: let there be none."""
        try:
            write = self._write or self._begin()
            self._room -= len(rows) * WRITE_ROOM_BYTES + sum(map(len, filter(None, rows.values())))
            if self._room < 0:
                self._lengthen()
            with write.cursor() as cursor:
                cursor.putmulti(
                    [
                        (key, value + xxh32_digest(key + value))
                        for key, value in rows.items()
                        if value is not None
                    ]
                )
            for key, value in rows.items():
                if value is None:
                    write.delete(key)
        except lmdb.Error as error:
            raise _translated(error, self._path) from error

    def commit(self) -> None:
        """See `Table.commit`. One that raises has already forgotten its changes."""
        write = self._write
        self._forget()
        if write is None:
            return
        try:
            self._transactor.submit(write.commit).result()
        except lmdb.Error as error:
            raise _translated(error, self._path) from error

    def sync(self) -> None:
        """See `Table.sync`."""
        self.commit()
        try:
            self._environment.sync(True)
        except lmdb.Error as error:
            raise _translated(error, self._path) from error

    def abandon(self) -> None:
        """See `Table.abandon`."""
        write = self._write
        self._forget()
        self._pending = self._noted = None
        if write is not None:
            self._transactor.submit(write.abort).result()

    def close(self) -> None:
        """See `Table.close`."""
        self.abandon()
        self._transactor.shutdown()
        self._environment.close()

    def _begin(self) -> lmdb.Transaction[bytes]:
        """Begin the write transaction."""
        assert not self._read_only
        assert self._write is None
        self._forget()
        self._begun += 1
        if self._begun % UPKEEP_TRANSACTIONS == 0:
            _keep_up(self._environment)
        if self._room < GROWTH_BYTES // 2:
            # Between transactions the truth is known; the bound is far above it.
            self._room = self._length - _used_bytes(self._environment) - COMMIT_ROOM_BYTES
            if self._room < GROWTH_BYTES // 2:
                self._lengthen()
        begin = self._transactor.submit(self._environment.begin, write=True, buffers=False)
        write = begin.result()
        self._write = write
        self._get = write.get
        return write

    def _sound(self, row: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        """Key and value of a row as it is stored."""
        key, stored = row
        value = stored[:-_SUM_BYTES]
        if xxh32_digest(key + value) != stored[-_SUM_BYTES:]:
            raise self._damaged(key)
        return key, value

    def _damaged(self, key: bytes) -> Corruption:
        _mark_damaged(self._path)
        return Corruption(f"{self._path}: the row {key!r} is not what was written")

    def _lengthen(self) -> None:
        growth = GROWTH_BYTES + max(0, -self._room)
        os.truncate(self._path, self._length + growth)
        self._length += growth
        self._room += growth

    def _reading(self) -> lmdb.Transaction[bytes]:
        """The read transaction, begun at the newest published state if there was none."""
        assert self._write is None
        if self._read is None:
            self._read = self._begin_read()
            self._get = self._read.get
        return self._read

    def _begin_read(self) -> lmdb.Transaction[bytes]:
        try:
            return self._environment.begin(write=False, buffers=False)
        except lmdb.MapResizedError:
            self._environment.set_mapsize(0)  # The writing process has grown it: 0 adopts its size.
            return self._environment.begin(write=False, buffers=False)

    def _get_afresh(self, key: bytes) -> bytes | None:
        return self._reading().get(key)

    def _open_cursor(self) -> lmdb.Cursor[bytes]:
        self._cursor = (self._write or self._reading()).cursor()
        return self._cursor

    def _forget(self) -> None:
        """Let go of the transactions; a caller who still holds the write transaction ends it."""
        self._cursor = None
        self._write = None
        self._get = self._get_afresh
        if self._read is not None:
            self._read.abort()
            self._read = None


def _open(path: Path, read_only: bool) -> lmdb.Environment:
    """The environment, known to be as long as its meta page says."""
    if _damage_mark(path).exists():
        raise Corruption(f"{path}: found damaged while it was in use")
    if read_only and path.stat().st_size == 0:
        raise FileNotFoundError(errno.ENOENT, "the table is not made yet", str(path))
    try:
        environment = lmdb.open(
            str(path),
            map_size=MAP_BYTES_MIN,
            subdir=False,
            readonly=read_only,
            create=not read_only,
            mode=0o600,
            sync=False,
            metasync=False,
            writemap=False,
            readahead=False,  # Look-ups are random; more would evict the log's pages.
            max_readers=READERS_MAX,
            max_spare_txns=1,
            lock=True,
        )
    except lmdb.Error as error:
        raise _unsound(_translated(error, path, in_use=False), path) from error
    try:
        _check_length(environment, path)
        if not read_only:
            _keep_up(environment)
    except lmdb.Error as error:
        environment.close()
        raise _unsound(_translated(error, path, in_use=False), path) from error
    except BaseException:
        environment.close()
        raise
    return environment


def _unsound(error: Exception, path: Path) -> Exception:
    """While opening, what LMDB says and no call of ours can cause, it says of the file."""
    if isinstance(error, lmdb.Error):
        return Corruption(f"{path}: not a sound LMDB file: {error}")
    return error


def _check_length(environment: lmdb.Environment, path: Path) -> None:
    """Refuse a truncated file now: touching a page beyond its end would be a SIGBUS."""
    needed, actual = _used_bytes(environment), path.stat().st_size
    if actual < needed:
        raise Corruption(f"{path}: truncated to {actual} bytes; its meta page says {needed}")


def _keep_up(environment: lmdb.Environment) -> None:
    """Free the slots of dead readers, keep half of the map unused; no transaction may be open."""
    environment.reader_check()
    size = map_size = environment.info()["map_size"]
    while size < 2 * _used_bytes(environment):
        size *= 2
    if size > map_size:
        environment.set_mapsize(size)


def _used_bytes(environment: lmdb.Environment) -> int:
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def _translated(error: lmdb.Error, path: Path, *, in_use: bool = True) -> Exception:
    """The error in the words of `Table`; what only a bug can cause stays as it is."""
    if isinstance(error, _DAMAGE):
        if in_use:  # Opening finds the same again.
            _mark_damaged(path)
        return Corruption(f"{path}: not a sound LMDB file: {error}")
    if isinstance(error, lmdb.MapFullError):
        return OSError(errno.ENOSPC, "the memory map is full", str(path))
    if isinstance(error, lmdb.PanicError):
        return OSError(errno.EIO, "LMDB could not write its meta page", str(path))
    if error.code == errno.EIO and _disk_is_full(path):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    if error.code > 0:
        return OSError(error.code, os.strerror(error.code), str(path))
    return error


def _damage_mark(path: Path) -> Path:
    """Exists once a damaged page was met: most damage is seen only when its page is used, long after opening."""
    return path.with_name(f"{path.name}-damaged")


def _mark_damaged(path: Path) -> None:
    with contextlib.suppress(OSError):  # A reader may not be allowed to.
        _damage_mark(path).touch()


def _disk_is_full(path: Path) -> bool:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize < FREE_BYTES_MIN

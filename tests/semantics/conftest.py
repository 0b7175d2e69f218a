"""A tree to try the contract on: the file system in this process, over a store of its own, with a clock that is set.

`Tree` does to it what the kernel does for a program: it walks paths component by component, looks names up before it
makes or removes them, checks permission bits on what it is shown (default_permissions), follows symbolic links, closes
descriptors with flush and release, and gives every look-up back. It caches nothing. So what a test sees is what a
program would see, less the kernel's memory. A refusal arrives as the OSError that a program gets.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import stat as modes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio

from cascadefs.errnos import errno_of
from cascadefs.filesystem import Caller, Changes, Filesystem, FilesystemOptions
from cascadefs.filesystem.interface import READ, SEARCH, WRITE, may
from cascadefs.vpath import format_time
from storage.errors import Refused
from storage.namespace import ROOT
from storage.store import LocalStore
from tests.storage.cluster.orders import make_orders, make_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from storage.cluster.loopback import Order

START_S = 1_795_255_200
"""2026-11-21T10:00:00Z."""

READDIR_ENTRIES = 7
"""Taken from one readdir request: few, so that every listing is read in several."""

LINKS_FOLLOWED_MAX = 40


def by_last_digit(path: bytes) -> int | None:
    """In a cluster of several shards: where a directory lives whose name ends so."""
    return int(path[-1:]) if path[-1:].isdigit() else None


class FakeClock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.time_ns = START_S * 10**9

    def now_ns(self) -> int:
        return self.time_ns


@dataclass
class Descriptor:
    """What open(2) gave."""

    number: int
    handle: int
    flags: int
    place: int = 0


def as_bytes(path: str | bytes) -> bytes:
    return path.encode() if isinstance(path, str) else path


class Tree:
    """A mount without a kernel. Paths are relative to its root; whoever calls is `caller`, root at first."""

    kind = "local"
    orders: Sequence[Order] = ()

    def __init__(
        self, directory: Path, *, kind: str = "local", read_only: bool = False, **options
    ) -> None:
        self.directory = directory
        self.kind = kind
        self.clock = FakeClock()
        self.caller = Caller(0, 0)
        self.open_store(boot_id="boot", read_only=read_only, **options)

    def open_store(self, boot_id: str, *, read_only: bool = False, **options) -> None:
        if self.kind == "cluster":
            self.open_cluster()
        else:
            self.store = LocalStore.open(
                self.directory,
                self.clock,
                random.Random(1),
                boot_id=boot_id,
                read_only=read_only,
                segment_bytes=4 * 1024 * 1024,
            )
        self.fs = Filesystem(
            self.store, self.clock, FilesystemOptions(read_only=read_only, **options)
        )

    def open_cluster(self) -> None:
        """Faces of shards in memory, as a mount has them; others if there were some."""
        if not self.orders:
            self.orders = make_orders(1, self.clock)
        options = {"choose": by_last_digit} if len(self.orders) > 1 else {}
        self.store = make_store(self.orders, self.clock, **options)

    @classmethod
    def on(cls, orders: Sequence[Order], clock: FakeClock, **options) -> Tree:
        """One more mount of a cluster."""
        made = cls.__new__(cls)
        made.kind, made.orders, made.clock, made.caller = "cluster", orders, clock, Caller(0, 0)
        made.open_store("boot", **options)
        made.store.listen_to_others(made.fs.others.changed)
        return made

    def follow(self) -> list[tuple[int, bytes | None]]:
        """Apply what others have committed; what the kernel would be told to forget."""
        self.store.catch_up()
        return self.fs.others.take()

    # --- time, and who asks ------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Time passes; nobody keeps house meanwhile."""
        self.clock.time_ns += int(seconds * 1e9)

    def keep_house(self) -> None:
        self.fs.housekeep(self.clock.now_ns())

    def now(self) -> str:
        """This moment, final, in its canonical spelling; what comes next is later."""
        return format_time(self.store.now()).decode()

    @contextlib.contextmanager
    def user(self, uid: int, gid: int = 100, groups: tuple[int, ...] = ()):
        before, self.caller = self.caller, Caller(uid, gid, groups=lambda: frozenset(groups))
        try:
            yield
        finally:
            self.caller = before

    def errno(self, call: str, *arguments, **keywords) -> str | None:
        """The name of the errno a call fails with; None if it does not."""
        try:
            getattr(self, call)(*arguments, **keywords)
        except OSError as error:
            # One number, two names; the other is the one in the manual pages.
            return errno.errorcode[error.errno or 0].replace("ENOTSUP", "EOPNOTSUPP")
        return None

    # --- paths -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _refusals(self):
        try:
            yield
        except Refused as refusal:
            raise OSError(errno_of(refusal), str(refusal)) from refusal

    def _check(self, stat, want: int) -> None:
        if not may(stat, self.caller, want):
            raise OSError(errno.EACCES, "the kernel")

    @contextlib.contextmanager
    def _walk(self, path: bytes, *, follow: bool):
        """The stat of what a path leads to; the kernel's references are held meanwhile."""
        fs, taken = self.fs, []
        with self._refusals():
            try:
                stack = [fs.getattr(ROOT)]
                todo = [part for part in path.split(b"/") if part and part != b"."][::-1]
                links = 0
                while todo:
                    name = todo.pop()
                    here = stack[-1]
                    if not modes.S_ISDIR(here.mode):
                        raise OSError(errno.ENOTDIR, "the kernel")
                    self._check(here, SEARCH)
                    if name == b"..":
                        del stack[max(1, len(stack) - 1) :]
                        continue
                    found = fs.lookup(here.number, name, self.caller)
                    taken.append(found.number)
                    if modes.S_ISLNK(found.mode) and (todo or follow):
                        links += 1
                        if links > LINKS_FOLLOWED_MAX:
                            raise OSError(errno.ELOOP, "the kernel")
                        target = fs.readlink(found.number)
                        if target.startswith(b"/"):
                            del stack[1:]
                        todo += [p for p in target.split(b"/") if p and p != b"."][::-1]
                        continue
                    stack.append(found)
                yield stack[-1]
            finally:
                for number in taken:
                    fs.forget(number, 1)

    @contextlib.contextmanager
    def _parent(self, path: str | bytes):
        """(directory, name) of a path whose last component is to be made or removed."""
        directory, _, name = as_bytes(path).rpartition(b"/")
        with self._walk(directory, follow=True) as stat:
            yield stat, name

    def _found(self, parent: int, name: bytes) -> bool:
        """Whether the kernel's look-up before a change finds the name."""
        try:
            stat = self.fs.lookup(parent, name, self.caller)
        except Refused as refusal:
            if errno_of(refusal) != errno.ENOENT:
                raise
            return False
        self.fs.forget(stat.number, 1)
        return True

    def _making(self, parent, name: bytes) -> None:
        self._check(parent, SEARCH)
        if self._found(parent.number, name):
            raise OSError(errno.EEXIST, "the kernel")
        self._check(parent, WRITE | SEARCH)

    def _removing(self, parent, name: bytes) -> None:
        self._check(parent, SEARCH)
        if not self._found(parent.number, name):
            raise OSError(errno.ENOENT, "the kernel")
        self._check(parent, WRITE | SEARCH)

    # --- names -------------------------------------------------------------------------------------------------

    def stat(self, path, *, follow: bool = False):
        with self._walk(as_bytes(path), follow=follow) as stat:
            return stat

    def exists(self, path) -> bool:
        name = self.errno("stat", path)
        assert name in (None, "ENOENT"), name
        return name is None

    def timeout(self, path) -> float:
        """How long the kernel may believe the last component of a path."""
        with self._parent(path) as (parent, name):
            stat = self.fs.lookup(parent.number, name, self.caller)
            self.fs.forget(stat.number, 1)
            return stat.entry_timeout_s

    def mkdir(self, path, mode: int = 0o755) -> None:
        with self._parent(path) as (parent, name):
            self._making(parent, name)
            made = self.fs.mkdir(parent.number, name, mode, self.caller)
            self.fs.forget(made.number, 1)

    def mknod(self, path, mode: int, rdev: int = 0) -> None:
        with self._parent(path) as (parent, name):
            self._making(parent, name)
            self.fs.forget(self.fs.mknod(parent.number, name, mode, rdev, self.caller).number, 1)

    def symlink(self, target, path) -> None:
        with self._parent(path) as (parent, name):
            self._making(parent, name)
            made = self.fs.symlink(parent.number, name, as_bytes(target), self.caller)
            self.fs.forget(made.number, 1)

    def link(self, old, new) -> None:
        with self._walk(as_bytes(old), follow=False) as stat, self._parent(new) as (parent, name):
            self._making(parent, name)
            self.fs.forget(self.fs.link(stat.number, parent.number, name, self.caller).number, 1)

    def unlink(self, path) -> None:
        with self._parent(path) as (parent, name):
            self._removing(parent, name)
            self.fs.unlink(parent.number, name, self.caller)

    def rmdir(self, path) -> None:
        with self._parent(path) as (parent, name):
            self._removing(parent, name)
            self.fs.rmdir(parent.number, name, self.caller)

    def rename(self, old, new, flags: int = 0) -> None:
        with self._parent(old) as (parent, name), self._parent(new) as (new_parent, new_name):
            self._removing(parent, name)
            self._check(new_parent, WRITE | SEARCH)
            self.fs.rename(parent.number, name, new_parent.number, new_name, flags, self.caller)

    def readlink(self, path) -> bytes:
        with self._walk(as_bytes(path), follow=False) as stat:
            return self.fs.readlink(stat.number)

    def ls(self, path="", *, between=None, in_order: bool = False) -> list[str]:
        """Names of a directory, read a few at a time; `between` is called between two requests."""
        with self._walk(as_bytes(path), follow=True) as stat:
            self._check(stat, READ)
            handle = self.fs.opendir(stat.number, self.caller)
            names, offset = [], 0
            while batch := self._readdir(handle, offset):
                names += [name for name, _ in batch]
                offset = batch[-1][1]
                if between is not None:
                    between()
            self.fs.releasedir(handle)
            assert names[:2] == [b".", b".."]
            decoded = [name.decode(errors="surrogateescape") for name in names[2:]]
            return decoded if in_order else sorted(decoded)

    def _readdir(self, handle: int, offset: int) -> list[tuple[bytes, int]]:
        batch, taken = [], []
        for name, stat, behind in self.fs.readdir(handle, offset):
            if len(batch) == READDIR_ENTRIES:
                break
            batch.append((name, behind))
            if name not in (b".", b".."):
                self.fs.remember(stat.number)
                taken.append(stat.number)
        for number in taken:
            self.fs.forget(number, 1)
        return batch

    # --- files -------------------------------------------------------------------------------------------------

    def open(self, path, flags: int = os.O_RDONLY, mode: int = 0o644) -> Descriptor:
        with self._parent(path) as (parent, name):
            if flags & os.O_CREAT:
                self._check(parent, SEARCH)
                if not self._found(parent.number, name):
                    self._check(parent, WRITE | SEARCH)
                    opened, stat = self.fs.create(parent.number, name, mode, flags, self.caller)
                    return Descriptor(stat.number, opened.handle, flags)
                if flags & os.O_EXCL:
                    raise OSError(errno.EEXIST, "the kernel")
        with self._walk(as_bytes(path), follow=True) as stat:
            access = flags & os.O_ACCMODE
            want = (READ if access != os.O_WRONLY else 0) | (WRITE if access else 0)
            self._check(stat, want | (WRITE if flags & os.O_TRUNC else 0))
            opened = self.fs.open(stat.number, flags, self.caller)
            self.fs.remember(stat.number)
            return Descriptor(stat.number, opened.handle, flags)

    def open_unnamed(self, directory, mode: int = 0o600) -> Descriptor:
        """O_TMPFILE."""
        with self._walk(as_bytes(directory), follow=True) as stat:
            self._check(stat, WRITE | SEARCH)
            flags = os.O_RDWR | os.O_TMPFILE
            opened, made = self.fs.create_unnamed(stat.number, mode, flags, self.caller)
            return Descriptor(made.number, opened.handle, flags)

    def link_open(self, file: Descriptor, new) -> None:
        """linkat(2) of an open file."""
        with self._parent(new) as (parent, name):
            self._making(parent, name)
            self.fs.forget(self.fs.link(file.number, parent.number, name, self.caller).number, 1)

    def write(self, file: Descriptor, data: bytes, offset: int | None = None) -> None:
        if offset is None:
            offset = self.fs.getattr(file.number).size if file.flags & os.O_APPEND else file.place
        with self._refusals():
            assert self.fs.write(file.handle, offset, data) == len(data)
        file.place = offset + len(data)

    def read(self, file: Descriptor, offset: int = 0, length: int = 2**30) -> bytes:
        with self._refusals():
            return bytes(self.fs.read(file.handle, offset, length))

    def close_duplicate(self, file: Descriptor) -> None:
        """close(2) of one of two descriptors of a handle."""
        self.fs.flush(file.handle)

    def close(self, file: Descriptor) -> None:
        self.fs.flush(file.handle)
        self.fs.release(file.handle)
        self.fs.forget(file.number, 1)

    def fsync(self, file: Descriptor) -> None:
        trio.run(self.fs.fsync, file.handle, False)

    def ftruncate(self, file: Descriptor, size: int) -> None:
        self.fs.setattr(file.number, Changes(size=size), file.handle, self.caller)

    def put(self, path, data: str | bytes, *, mode: int = 0o644) -> None:
        """One write session: the file has this content afterwards."""
        file = self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        if data:
            self.write(file, as_bytes(data))
        self.close(file)

    def save(self, path, data: str | bytes) -> None:
        """As editors do: write beside, rename over."""
        self.put(as_bytes(path) + b".tmp", data)
        self.rename(as_bytes(path) + b".tmp", path)

    def append(self, path, data: str | bytes) -> None:
        file = self.open(path, os.O_WRONLY | os.O_APPEND)
        self.write(file, as_bytes(data))
        self.close(file)

    def cat(self, path) -> bytes:
        file = self.open(path)
        try:
            return self.read(file)
        finally:
            self.close(file)

    def _setattr(self, path, changes: Changes) -> None:
        with self._walk(as_bytes(path), follow=True) as stat:
            self.fs.setattr(stat.number, changes, None, self.caller)

    def truncate(self, path, size: int) -> None:
        self._setattr(path, Changes(size=size))

    def chmod(self, path, mode: int) -> None:
        self._setattr(path, Changes(mode=mode))

    def chown(self, path, uid: int, gid: int) -> None:
        self._setattr(path, Changes(uid=uid, gid=gid))

    def utime(self, path, mtime_ns: int, atime_ns: int | None = None) -> None:
        self._setattr(path, Changes(atime_ns=atime_ns, mtime_ns=mtime_ns))

    # --- extended attributes -----------------------------------------------------------------------------------

    def getxattr(self, path, name: str) -> bytes:
        with self._walk(as_bytes(path), follow=False) as stat:
            self._check(stat, READ)
            return self.fs.getxattr(stat.number, name.encode(), self.caller)

    def cascade(self, path, name: str) -> str | None:
        """`user.cascade.NAME`; None where it says nothing."""
        try:
            return self.getxattr(path, f"user.cascade.{name}").decode()
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise

    def setxattr(self, path, name: str, value: str | bytes, flags: int = 0) -> None:
        with self._walk(as_bytes(path), follow=False) as stat:
            self._check(stat, WRITE)
            self.fs.setxattr(stat.number, name.encode(), as_bytes(value), flags, self.caller)

    def removexattr(self, path, name: str) -> None:
        with self._walk(as_bytes(path), follow=False) as stat:
            self.fs.removexattr(stat.number, name.encode(), self.caller)

    def listxattr(self, path) -> list[bytes]:
        with self._walk(as_bytes(path), follow=False) as stat:
            return self.fs.listxattr(stat.number, self.caller)

    # --- the whole ---------------------------------------------------------------------------------------------

    def versions(self, path) -> list[str]:
        """What `path@@/` lists."""
        return sorted(self.ls(as_bytes(path) + b"@@"), key=lambda name: (len(name), name))

    def log_bytes(self) -> int:
        """How long the log is: what a call really stored."""
        return self.store.status()["log_bytes"]

    def records(self) -> int:
        return self.store.status()["records"]

    def after_power_cut(self, directory: Path) -> Tree:
        """Another machine's view of the disk as it is at this moment, daemon and all killed."""
        shutil.copytree(self.directory, directory)
        other = Tree.__new__(Tree)
        other.directory, other.clock, other.caller = directory, self.clock, self.caller
        other.open_store(boot_id="another boot")
        return other

    def close_all(self) -> None:
        self.fs.commit_all()
        self.store.close()


KINDS = ("local", "cluster")
"""The embedded store, and one whose records are ordered elsewhere: nobody can tell from a tree which it is over."""


def pytest_generate_tests(metafunc) -> None:
    if "make_tree" in metafunc.fixturenames:
        kinds = (
            KINDS if metafunc.definition.get_closest_marker("local_store") is None else ("local",)
        )
        metafunc.parametrize("make_tree", kinds, indirect=True)


@pytest.fixture
def make_tree(request, tmp_path, monkeypatch):
    """Make trees over stores of their own; they are closed when the test ends. Each test meets them over each `KINDS`.

    Nobody pulls a plug here, so the disk need not be waited for: that takes most of the time of a new store.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    made = []

    def make(name: str = "data", **options) -> Tree:
        made.append(Tree(tmp_path / name, **{"kind": getattr(request, "param", "local")} | options))
        return made[-1]

    yield make
    for tree in made:
        tree.close_all()


@pytest.fixture
def tree(make_tree):
    """An empty tree at 2026-11-21T10:00:00Z. Afterwards no node may be held but what the test left open."""
    tree = make_tree()
    yield tree
    status = tree.fs.status()
    assert status["nodes"] <= status["open_files"] + status["drafts"] + 1, (
        "every look-up was given back"
    )

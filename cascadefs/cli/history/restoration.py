"""Doing the steps of a plan, through the mount and as whoever runs it.

Content comes back without copying its bytes where the file's own name has it in its history (`user.cascade.restore`);
everywhere else it is copied beside the file and renamed over it, so nobody reads half of it. A file that was not there
is made unreadable for others and gets its mode last. Every step leaves alone what is right already.

What the caller may not do to be exact is noted and not done: only root gives files away, and a set-uid bit is not put
on a file of another owner. Races with others who change the same tree at the same time end as in cp(1): root should
not restore what somebody hostile is writing to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cascadefs.cli.history.change import Facet
from cascadefs.cli.history.content import BLOCK_BYTES, xattrs
from cascadefs.cli.history.plan import Action, Step
from cascadefs.cli.history.tree import Node, join, node_at

if TYPE_CHECKING:
    import io

    from cascadefs.cli.history.source import Source

__all__ = ["Restoration"]

_SET_IDS = stat.S_ISUID | stat.S_ISGID

# What setxattr answers where it cannot help, though the bytes can still be copied.
_NO_SHARE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENODATA, errno.ENOENT, errno.EXDEV})

Share = Callable[[bytes, bytes], None]
"""(live file, specification): make that version's content of the file's own name the next one."""


def _share(path: bytes, spec: bytes) -> None:
    os.setxattr(path, "user.cascade.restore", spec, follow_symlinks=False)


class Restoration:
    """Brings what lies below `target` to what `source` was."""

    def __init__(self, source: Source, target: bytes, share: Share = _share) -> None:
        self._source = source
        self._target = target
        self._share = share
        # How many things kept another owner than they had, or a mode that only their owner can set.
        self.unsettled = 0

    def do(self, step: Step) -> None:
        """Do one step.

        Raises:
            OSError: it could not be done; what it was about is as before, or partly restored and put right by
                doing the whole again.
        """
        path = self.absolute(step.path)
        if not step.path:  # The directory that holds the top is not ours to open up.
            self._act(step, path)
            return
        with _writable(os.path.dirname(path)):
            self._act(step, path)

    def _act(self, step: Step, path: bytes) -> None:
        match step.action:
            case Action.MAKE:
                self._make(step, path)
            case Action.LINK:
                assert step.origin is not None
                os.link(self.absolute(step.origin), path, follow_symlinks=False)
            case Action.MOVE:
                assert step.origin is not None
                origin = self.absolute(step.origin)
                with _writable(os.path.dirname(origin)):
                    os.rename(origin, path)
            case Action.CHANGE:
                self._change(step, path)
            case Action.REPLACE:
                assert step.node is not None
                self._copy(step, path)
                self._settle(path, step.path, step.node)
            case Action.REMOVE:
                _remove(path)
            case Action.SETTLE:
                node = step.node or node_at(self._source.absolute(step.path))
                if node is not None and node.is_directory:
                    self._settle(path, step.path, node)

    def absolute(self, path: bytes) -> bytes:
        """The path, for system calls, of a path in the tree that is being restored."""
        return join(self._target, path) if path else self._target

    def _make(self, step: Step, path: bytes) -> None:
        node = step.node
        assert node is not None
        if node.is_directory:
            os.mkdir(path, 0o700)  # Settled when everything is in it.
            return
        if node.is_file:
            spec = self._source.spec_for(path, step.path)
            if spec is None:
                self._copy(step, path)
            else:
                # Open until it has its content: closed before, an empty version would come first.
                with open(path, "xb", opener=_private):
                    self._restore(step, path, spec)
        elif node.is_symlink:
            os.symlink(node.target, path)
        else:
            os.mknod(path, node.type | 0o600, node.rdev)
        self._settle(path, step.path, node)

    def _change(self, step: Step, path: bytes) -> None:
        node = step.node
        assert node is not None
        if Facet.CONTENT in step.facets:
            if not node.is_file:
                os.unlink(path)
                self._make(step, path)
                return
            spec = self._source.spec_for(path, step.path)
            if spec is None:
                self._copy(step, path)
            else:
                with _writable(path):
                    self._restore(step, path, spec)
        self._settle(path, step.path, node)

    def _restore(self, step: Step, path: bytes, spec: bytes) -> None:
        """Give the file at `path` the content that its history calls `spec`."""
        try:
            self._share(path, spec)
        except OSError as error:
            if error.errno not in _NO_SHARE:
                raise
            self._copy(step, path)

    def _copy(self, step: Step, path: bytes) -> None:
        """Put a copy of the source's file at `path`, at once; into it, if it has other names that shall follow."""
        now = node_at(path)
        in_place = step.action is Action.CHANGE and now is not None and now.nlink > 1
        with open(self._source.absolute(step.path), "rb", buffering=0) as source:
            if in_place:
                with _writable(path), open(path, "r+b", buffering=0) as target:
                    target.truncate(0)
                    _copy_bytes(source, target)
                return
            number = os.fstat(source.fileno()).st_ino
            beside = join(os.path.dirname(path), b".cascadefs-restore-%x" % number)
            with contextlib.suppress(FileNotFoundError):  # Of an earlier run that was cut off.
                os.unlink(beside)
            try:
                with open(beside, "xb", buffering=0, opener=_private) as target:
                    _copy_bytes(source, target)
                os.rename(beside, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(beside)
                raise

    def _settle(self, path: bytes, relative: bytes, node: Node) -> None:
        """Owner, extended attributes, mode and times of `path`, as far as they are not `node`'s."""
        with _held(path, node) as (held, now):
            if os.geteuid() not in (0, now.st_uid):  # May be allowed to write, but not this.
                owned = (now.st_uid, now.st_gid) == (node.uid, node.gid)
                self.unsettled += not owned or now.st_mode != node.mode
                return
            owned = (now.st_uid, now.st_gid) == (node.uid, node.gid) or self._chown(held, node)
            if node.is_file or node.is_directory:
                _settle_xattrs(held, xattrs(self._source.absolute(relative), follow=False))
            if not node.is_symlink:
                os.chmod(held, node.permissions if owned else node.permissions & ~_SET_IDS)
            # Always: what the kernel remembers of the mtime may be from before a restored content.
            times = (node.mtime_ns, node.mtime_ns)
            os.utime(held, ns=times, follow_symlinks=not node.is_symlink)

    def _chown(self, held: bytes, node: Node) -> bool:
        follow = not node.is_symlink
        try:
            os.chown(held, node.uid, node.gid, follow_symlinks=follow)
        except PermissionError:
            with contextlib.suppress(PermissionError):
                os.chown(held, -1, node.gid, follow_symlinks=follow)
            self.unsettled += 1
            return False
        return True


@contextlib.contextmanager
def _held(path: bytes, node: Node) -> Iterator[tuple[bytes, os.stat_result]]:
    """A path of what is at `path` that stays its own, whatever others put there meanwhile.

    Without it, root would give a mode of then, perhaps with a set-uid bit, to what somebody's link leads to. Of a
    symbolic link it is the path itself, for calls that do not follow it.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        now = os.fstat(descriptor)
        if stat.S_IFMT(now.st_mode) != node.type:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        yield path if node.is_symlink else b"/proc/self/fd/%d" % descriptor, now
    finally:
        os.close(descriptor)


def _private(path: bytes | str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _remove(path: bytes) -> None:
    node = node_at(path)
    if node is None:
        return
    if node.is_directory:
        os.rmdir(path)
    else:
        os.unlink(path)


def _settle_xattrs(held: bytes, then: dict[str, bytes]) -> None:
    now = xattrs(held, follow=True)
    for name in now.keys() - then.keys():
        os.removexattr(held, name)
    for name, value in then.items():
        if now.get(name) != value:
            os.setxattr(held, name, value)


def _copy_bytes(source: io.FileIO, target: io.FileIO) -> None:
    """Copy a file; a block of zeros becomes a hole again."""
    size = 0
    while block := source.read(BLOCK_BYTES):
        size += len(block)
        if any(block):
            view = memoryview(block)
            while view:
                view = view[target.write(view) :]
        else:
            target.seek(size)
    target.truncate(size)


@contextlib.contextmanager
def _writable(path: bytes) -> Iterator[None]:
    """Let the owner write to `path` meanwhile, where its mode forbids that."""
    path = path or b"."
    status = os.stat(path)
    want = 0o700 if stat.S_ISDIR(status.st_mode) else 0o200
    mode = stat.S_IMODE(status.st_mode)
    if mode & want == want or os.geteuid() != status.st_uid or os.geteuid() == 0:
        yield
        return
    os.chmod(path, mode | want)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.chmod(path, mode)

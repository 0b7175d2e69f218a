"""Locks of files on a mount of a cluster: flock(2), and those of fcntl(2), which the kernel asks us for instead of keeping them itself.

Nothing here waits for an answer: whoever asked is answered by the link's thread when the leader has (`storage.link.locks`), so a
thousand who wait keep no thread and no lock. Interrupted, or killed, a waiter is answered when the leader says that it waits no longer.

*What was written before.* Who gives a lock back has what was written to the file committed first, as fsync(2) does without waiting for the
disk. Who is granted one is answered when everything is applied that was committed in the file's shard before, and the kernel has forgotten
what it knew of the file, if others changed it since the last time: so each holder sees what those before it have written.

*Closing.* A process that closes any descriptor of a file gives back all its fcntl(2) locks of that file: the kernel says whose
descriptor it was in FLUSH, and leaves the rest to us. Locks of an open file (flock(2), and F_OFD_SETLK) end with its last
descriptor, which it says in RELEASE: of those of flock(2) by a flag, of the others not at all, so it is remembered which handle each lock was
asked for by.
"""

from __future__ import annotations

import fcntl
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from cascadefs.kernel.handler import Handlers, Kind
from cascadefs.kernel.protocol import (
    LOCK,
    LOCK_REPLY,
    NO_REPLY,
    NUMBER,
    UNIQUE,
    Header,
    Opcode,
    Reply,
)
from storage.locks import ASK, EXCLUSIVE, LAST, NONE, SHARED, TRY, WAIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.filesystem import Filesystem
    from storage import wire

__all__ = ["ClusterLocks", "Locks"]

_WHOLE: Final = 1 << 0
"""FUSE_LK_FLOCK: flock(2)."""

_INTERRUPTED_MAX: Final = 256
"""Requests whose interruption came before they were seen, and which may still come."""

_MODES: Final = {fcntl.F_RDLCK: SHARED, fcntl.F_WRLCK: EXCLUSIVE, fcntl.F_UNLCK: NONE}
_TYPES: Final = {mode: kind for kind, mode in _MODES.items()}

_SOMEBODY_ELSEWHERE: Final = 0
"""The process that holds a lock on another mount, as F_GETLK tells it (NFS does likewise)."""


class ClusterLocks(Protocol):
    """Who decides: `storage.link.locks.Locks`."""

    def ask(
        self,
        inode: int,
        owner: int,
        done: Callable[[wire.LockAnswer], None],
        *,
        whole: bool,
        mode: int,
        manner: int,
        start: int = 0,
        end: int = LAST,
    ) -> tuple[int, int]:
        """Ask for a lock or give one back; `done` is told once, by any thread, and does not wait."""
        ...

    def cancel(self, ticket: tuple[int, int]) -> None:
        """Nobody waits for that any more; it is answered all the same."""
        ...

    def has(self, inode: int, owner: int, *, whole: bool) -> bool:
        """Whether an owner has, or may be about to have, something of a file."""
        ...

    def forget(self, inode: int, owner: int) -> None:
        """An owner has closed the file."""
        ...


class Locks:
    """See the module. Handlers hold the file system, as all do; `interrupt` and what is told by the cluster do not."""

    def __init__(
        self,
        filesystem: Filesystem,
        cluster: ClusterLocks,
        reply: Callable[[int, Reply], None],
        granted: Callable[[int, int, Callable[[int], None]], None],
    ) -> None:
        """None is asked for yet.

        Args:
            filesystem: which has what is to be committed.
            cluster: who decides.
            reply: answers the request of a unique number, from any thread.
            granted: (node, index, done) has `done` told an errno, 0 if all that was committed up to an index is seen. Does not wait.
        """
        self._filesystem = filesystem
        self._cluster = cluster
        self._reply = reply
        self._granted = granted
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[int, int]] = {}
        self._interrupted: deque[int] = deque(maxlen=_INTERRUPTED_MAX)
        self._owners: dict[int, set[tuple[int, int]]] = {}
        """(node, owner) of locks of fcntl(2) that were asked for through a handle."""
        self._processes: dict[tuple[int, int], int] = {}

    def handlers(self) -> Handlers:
        """By opcode. Giving back commits, so it may change the index."""
        return {
            Opcode.GETLK: (self.getlk, Kind.ASKS),
            Opcode.SETLK: (self.setlk, Kind.CHANGES),
            Opcode.SETLKW: (self.setlkw, Kind.CHANGES),
        }

    # --- asking --------------------------------------------------------------------------------------------------

    def getlk(self, node: int, body: memoryview, header: Header) -> Reply:
        """Who is in the way (F_GETLK)."""
        _, owner, start, end, kind, _, how, _ = LOCK.unpack_from(body)
        unique = header[UNIQUE]

        def done(answer: wire.LockAnswer) -> None:
            if answer.errno:
                self._reply(unique, -answer.errno)
            elif answer.conflict is None:
                self._reply(unique, LOCK_REPLY.pack(start, end, fcntl.F_UNLCK, 0))
            else:
                session, other, mode, first, last = answer.conflict
                is_here = session == answer.session
                process = self._processes.get((node, other), 0) if is_here else _SOMEBODY_ELSEWHERE
                self._reply(unique, LOCK_REPLY.pack(first, last, _TYPES[mode], process))

        self._cluster.ask(
            node,
            owner,
            done,
            whole=bool(how & _WHOLE),
            mode=_MODES[kind],
            manner=ASK,
            start=start,
            end=end,
        )
        return NO_REPLY

    def setlk(self, node: int, body: memoryview, header: Header) -> Reply:
        """Lock or fail at once, or give back."""
        return self._set(node, body, header, TRY)

    def setlkw(self, node: int, body: memoryview, header: Header) -> Reply:
        """Lock, however long that takes; or give back."""
        return self._set(node, body, header, WAIT)

    def _set(self, node: int, body: memoryview, header: Header, manner: int) -> Reply:
        handle, owner, start, end, kind, process, how, _ = LOCK.unpack_from(body)
        whole, unique = bool(how & _WHOLE), header[UNIQUE]
        if kind == fcntl.F_UNLCK:
            return self._give_back(node, handle, owner, unique, whole=whole, start=start, end=end)
        if not whole:
            self._owners.setdefault(handle, set()).add((node, owner))
            self._processes[node, owner] = process

        is_answered = False

        def done(answer: wire.LockAnswer) -> None:
            nonlocal is_answered
            with self._lock:
                is_answered = True
                self._waiting.pop(unique, None)
            if answer.errno:
                self._reply(unique, -answer.errno)
            else:
                self._granted(node, answer.index, seen)

        def seen(error_number: int) -> None:
            if error_number:
                self._drop(node, owner, whole=whole)
            self._reply(unique, -error_number if error_number else None)

        # Not under the lock: where nobody can be asked any more it is answered at once, in this thread.
        ticket = self._cluster.ask(
            node,
            owner,
            done,
            whole=whole,
            mode=_MODES[kind],
            manner=manner,
            start=start,
            end=end,
        )
        with self._lock:
            if not is_answered:
                self._waiting[unique] = ticket
            is_interrupted = unique in self._interrupted
        if is_interrupted:
            self._cluster.cancel(ticket)
        return NO_REPLY

    def interrupt(self, node: int, body: memoryview, header: Header) -> Reply:
        """A signal has come to who waits: if that is for a lock, it waits no longer."""
        (unique,) = NUMBER.unpack_from(body)
        with self._lock:
            ticket = self._waiting.get(unique)
            if ticket is None:  # Of another kind; or another reader has it in its hands.
                self._interrupted.append(unique)
        if ticket is not None:
            self._cluster.cancel(ticket)
        return NO_REPLY

    # --- giving back ---------------------------------------------------------------------------------------------

    def _give_back(
        self,
        node: int,
        handle: int,
        owner: int,
        unique: int,
        *,
        whole: bool,
        start: int = 0,
        end: int = LAST,
    ) -> Reply:
        """Commit what was written, and answer when the lock is given back; if it cannot be committed, it is given back all the same."""

        def done(answer: wire.LockAnswer) -> None:
            self._reply(unique, -answer.errno if answer.errno else None)

        def ask(done: Callable[[wire.LockAnswer], None]) -> None:
            self._cluster.ask(
                node, owner, done, whole=whole, mode=NONE, manner=TRY, start=start, end=end
            )

        try:
            if self._cluster.has(node, owner, whole=whole):
                self._filesystem.save(handle)
        except BaseException:
            ask(_nobody)
            raise
        ask(done)
        return NO_REPLY

    def flushed(self, node: int, handle: int, owner: int, unique: int) -> Reply:
        """A process closed a descriptor, and what it wrote through that is committed: so go its locks of fcntl(2)."""
        if self._processes.pop((node, owner), None) is not None:
            for owners in self._owners.values():
                owners.discard((node, owner))
        if not self._cluster.has(node, owner, whole=False):
            self._cluster.forget(node, owner)
            return None
        return self._give_back(node, handle, owner, unique, whole=False)

    def drop_flushed(self, node: int, owner: int) -> None:
        """The same where nobody waits for it."""
        if self._cluster.has(node, owner, whole=False):
            self._drop(node, owner, whole=False)

    def released(self, node: int, handle: int, owner: int | None) -> None:
        """The last descriptor of a handle is gone, and what is dirty is committed: so go its locks.

        Args:
            node: the file.
            handle: which nobody has any more.
            owner: of its lock of flock(2); None if it may have none.
        """
        if owner is not None:
            self._drop(node, owner, whole=True)
        for number, other in self._owners.pop(handle, ()):
            self._processes.pop((number, other), None)
            if self._cluster.has(number, other, whole=False):
                self._drop(number, other, whole=False)
            self._cluster.forget(number, other)
        if owner is not None:
            self._cluster.forget(node, owner)

    def _drop(self, node: int, owner: int, *, whole: bool) -> None:
        self._cluster.ask(node, owner, _nobody, whole=whole, mode=NONE, manner=TRY)


def _nobody(answer: wire.LockAnswer) -> None:
    """Nobody waits for this answer."""

"""What the kernel is told to forget, from threads that do nothing else.

The kernel may make a notification wait: for a directory that a request to us holds locked, for a page that a READ to us
will fill. Sent by a thread that answers requests, it could wait for ever. So there are threads of their own with a queue to each, whose
order is kept. What the kernel did not know in the first place is fine.

A request to us may wait for a shard of a cluster, and what it holds with it. So each shard has its own thread and queue: what is
to be forgotten of one that does not answer keeps nothing else from being forgotten. Where a program holds locks of two shards' directories
(it looks a name up in one that is another shard's root, and a rename takes two) the other one's queue waits as well: the locks are the
kernel's, and nobody can take them in its place.

Who must see the change at once is answered when the kernel has forgotten, by a thread for him alone. In the queue his
answer could be behind a notification that waits for the directory he himself holds locked: two restores, of a directory and of one
in it, would wait for each other for ever.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
from typing import TYPE_CHECKING, Final

from cascadefs.kernel import notification
from storage.limits import INODES_PER_SHARD, RECORD_INODE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Invalidation", "Notifier"]

Invalidation = tuple[int, bytes | None]
"""(node, None): pages and attributes of a node. (parent, name): an entry, whether there or known to be absent."""

LANES_MAX: Final = 16
"""Queues and threads of shards; of more, some share theirs."""

STOP_SECONDS: Final = 2.0
"""How long `Notifier.stop` waits for what is queued: a notification that waits for a request ends with the mount."""

_NOTHING_LOST: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENOTCONN, errno.ENODEV, errno.EBADF, errno.ECONNABORTED}
)
"""The kernel did not know it, or there is no mount any more."""

_log = logging.getLogger(__name__)


def _nothing() -> None:
    return None


def _message(number: int, name: bytes | None) -> bytes:
    if name is None:
        return notification.invalidate_node(number)
    return notification.invalidate_entry(number, name)


def _by_lane(invalidations: Iterable[Invalidation]) -> dict[int, list[bytes]]:
    """The messages of each lane, in order."""
    found: dict[int, list[bytes]] = {}
    for number, name in invalidations:
        found.setdefault(_lane_of(number), []).append(_message(number, name))
    return found


def _lane_of(number: int) -> int:
    return number // INODES_PER_SHARD % LANES_MAX if number < RECORD_INODE_MAX else 0


class _Lane:
    """A queue, and a thread that sends what is in it, in order."""

    def __init__(self, deliver: Callable[[Iterable[bytes], Callable[[], None]], None]) -> None:
        self._deliver = deliver
        self._queue: queue.SimpleQueue[tuple[Iterable[bytes], Callable[[], None]] | None]
        self._queue = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="cascadefs-notify", daemon=True)
        self.put = self._queue.put

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._deliver(*item)


class Notifier:
    """The threads and their queues, which have no bound: refusing would leave the kernel with a lie.

    They hold at most what requests changed while the kernel held one directory.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send_message = send
        self._lock = threading.Lock()
        self._is_started = False
        self._lanes = {0: _Lane(self._deliver)}
        self._awaited: set[threading.Thread] = set()
        self.sent = 0
        self.failed = 0

    def start(self) -> None:
        """Begin; what was put before is sent first."""
        with self._lock:
            self._is_started = True
            for lane in self._lanes.values():
                lane.thread.start()

    def put(
        self, invalidations: Iterable[Invalidation], after: Callable[[], None] | None = None
    ) -> None:
        """Let the kernel forget these, soon and each shard's in this order; `after` is called when it has, from another thread."""
        if after is None:
            for number, messages in _by_lane(invalidations).items():
                self._lane(number).put((messages, _nothing))
            return
        messages = [_message(*invalidation) for invalidation in invalidations]
        thread = threading.Thread(
            target=self._deliver_awaited,
            args=(messages, after),
            name="cascadefs-notify-awaited",
            daemon=True,
        )
        self._awaited.add(thread)
        try:
            thread.start()
        except RuntimeError:  # There can be no more threads: later is better than never.
            self._awaited.discard(thread)
            self._lanes[0].put((messages, after))

    def put_behind(
        self, invalidations: Iterable[Invalidation], node: int, after: Callable[[], None]
    ) -> None:
        """The same, with `after` called in its turn: when all of the node's shard that was put before is forgotten, too.

        For who holds no directory. A node that is forgotten once more while the kernel asks for its attributes lets it throw the
        answer away, and go on with the size it had: so nothing may be on its way when `after` is called.
        """
        self.put(invalidations)
        self._lane(_lane_of(node)).put(((), after))

    def _lane(self, number: int) -> _Lane:
        with self._lock:
            lane = self._lanes.get(number)
            if lane is None:
                lane = _Lane(self._deliver)
                if self._is_started:
                    try:
                        lane.thread.start()
                    except RuntimeError:  # As above.
                        return self._lanes[0]
                self._lanes[number] = lane
            return lane

    def wake(self, waiting: int) -> None:
        """Have who polls look again, after what was put before."""
        with self._lock:
            lanes = list(self._lanes.values())
        left = len(lanes)

        def passed() -> None:
            nonlocal left
            with self._lock:
                left -= 1
                is_last = not left
            if is_last:
                self._send(notification.poll(waiting))

        for lane in lanes:
            lane.put(((), passed))

    def stop(self) -> bool:
        """Send what is queued and end; False if a notification still waits for the kernel."""
        with self._lock:
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.put(None)
        threads = [*(lane.thread for lane in lanes), *self._awaited]
        patience_s = STOP_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(patience_s)
                patience_s = 0.0 if thread.is_alive() else patience_s
        return not any(thread.is_alive() for thread in threads)

    def _deliver_awaited(self, messages: Iterable[bytes], after: Callable[[], None]) -> None:
        try:
            self._deliver(messages, after)
        finally:
            self._awaited.discard(threading.current_thread())

    def _deliver(self, messages: Iterable[bytes], after: Callable[[], None]) -> None:
        for message in messages:
            self._send(message)
        after()

    def _send(self, message: bytes) -> None:
        try:
            self._send_message(message)
            self.sent += 1
        except OSError as error:
            if error.errno in _NOTHING_LOST:
                return
            self.failed += 1
            if self.failed == 1:
                _log.error("the kernel keeps what it should forget: %s", error)

"""How pyfuse3's workers wait for the next request: asleep in poll(2), outside trio, while there is nothing else to do.

pyfuse3 runs up to 99 worker tasks. Each waits for the descriptor, reads one request, runs its handler and waits again.
Its own `_wait_fuse_readable` takes a trio lock, registers with epoll, and is rescheduled twice for every request, even
where the next one is already there: three quarters of what a request costs. pyfuse3 finds that coroutine
through its module's dictionary, so it can be replaced; that is what `install` does.

Theory of operation. One worker at a time is the **reader**; all others are parked. The reader stays the reader while
its handlers do not wait, and those do not: so a request costs a poll(2), which mostly finds the next one there, and
no task switch. A handler that is going to wait (fsync) calls `Wakeup.leave` first: another worker becomes the reader,
so the requests of other processes overlap with the waiting; afterwards it calls `Wakeup.back`, and its worker parks.

Trio still has to run: timers, signals, the sync loop, threads that finished. The reader lets it (one checkpoint) after
REQUESTS_MAX requests or SLICE_MS milliseconds, asleep or busy; sooner while handlers are waiting for a thread. After
IDLE_MS without a request it waits through trio's epoll, as pyfuse3 does, so that an idle daemon uses no processor.

Measured on 2 shared, busy virtual CPUs, client and server pinned to one, medians of 5 alternating runs,
us per operation, in brackets the server's CPU time, with a tree of dictionaries behind the door:

| operation            | pyfuse3's wait | this one    |
|----------------------|----------------|-------------|
| getattr              | 24.4 (19.9)    | 11.4 (8.0)  |
| lookup, absent       | 29.6 (23.1)    | 15.2 (9.2)  |
| open and close       | 82.8 (60.3)    | 34.6 (19.9) |
| create, 4 KiB, close | 195 (156)      | 86.8 (60.1) |
| getattr, 16 clients  | 22.6 (19.0)    | 10.1 (6.7)  |

An idle daemon uses less than 1 ms of CPU time a second.

Known limits. A request that is taken back by a fatal signal between poll(2) and read(2) leaves the reader in read(2)
until the next request of anybody comes; pyfuse3 itself has the same gap, and no non-blocking read.

`_wait_fuse_readable` is a private name: with a pyfuse3 that was not tested, or without that name, `install` changes
nothing and says why.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Final, Protocol

import pyfuse3
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PRIVATE_NAME", "TESTED_VERSIONS", "StockWakeup", "Waiting", "Wakeup", "install"]

TESTED_VERSIONS: Final = frozenset({"3.5.0"})
PRIVATE_NAME: Final = "_wait_fuse_readable"

SLICE_MS: Final = 5
"""Longest stretch without a turn for trio: how late a timer or a signal may be seen. Each costs a checkpoint, 15 us."""

IDLE_MS: Final = 20
"""Without a request for this long, trio's own wait: longer than the pauses between a shell's commands."""

REQUESTS_MAX: Final = 256
"""Requests in a row without a turn for trio: at 5 us a request about a quarter of a slice, 0.3 % spent on the turn."""

REQUESTS_MAX_WAITING: Final = 16
"""The same while a handler waits for a thread, or others are `hurried`: not delayed by more than about 0.1 ms."""


WATCH_SECONDS: Final = 0.5
"""Between two looks whether the mount is still there; an unmount may take so much longer."""


class Waiting(Protocol):
    """What a handler that is going to wait says to whoever waits for requests."""

    description: str
    """For status: which one this is, and why."""

    hurried: bool
    """Whether tasks other than requests have something to do: then nobody sleeps outside trio."""

    def leave(self) -> None:
        """The calling worker is going to wait: let another one read requests. Followed by `back`, always."""

    def back(self) -> None:
        """The calling worker has stopped waiting."""

    def close(self) -> None:
        """No more requests: every worker is let go."""

    async def watch(self) -> None:
        """Let every worker go when the mount has gone without the reader's seeing it. Ends with the mount, or cancelled.

        A poll may find a request, and the read of it that there is no mount any more: the reader is then gone, in
        pyfuse3, and nobody polls. Measured: one unmount in ten, right after requests.
        """


class StockWakeup:
    """pyfuse3's own way: nothing to arrange."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.hurried = False

    def leave(self) -> None:
        """See `Waiting`."""

    def back(self) -> None:
        """See `Waiting`."""

    def close(self) -> None:
        """See `Waiting`."""

    async def watch(self) -> None:
        """See `Waiting`; every worker polls by itself."""


class Wakeup:
    """The reader's seat, and how its holder waits.

    Invariant: at most one worker is the reader; no worker is parked while the seat is empty and the mount is up.
    """

    description = "own"

    def __init__(self, descriptor: int, monotonic: Callable[[], float]) -> None:
        """`descriptor` is the session's; `monotonic` gives seconds that never go back."""
        self._descriptor = descriptor
        self._monotonic = monotonic
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        self._poll = poll.poll
        self._reader: trio.lowlevel.Task | None = None
        self._parked = trio.lowlevel.ParkingLot()
        self._away = 0
        self.hurried = False
        self._closed = False
        self._requests_left = REQUESTS_MAX
        self._yield_at = 0.0

    async def wait(self) -> bool:
        """Wait until a request can be read; False when there will be none. The replacement for pyfuse3's."""
        task = trio.lowlevel.current_task()
        if self._reader is not task and not await self._sit_down(task):
            return False
        self._requests_left -= 1
        if self._requests_left <= 0 or self._monotonic() >= self._yield_at:
            await self._let_trio_run()
        # No await between a poll that found a request and the return: pyfuse3 reads without waiting.
        slices = 0
        while not self._closed:
            if self._away or self.hurried:
                events = self._poll(0) or await self._wait_in_trio()
            elif slices * SLICE_MS < IDLE_MS:
                events = self._poll(SLICE_MS)
                slices += 1
            else:
                events = await self._wait_in_trio()
            if events:
                if not events[0][1] & select.POLLIN:
                    # Unmounted or aborted. The reader learns which from read(2); the others need not ask.
                    self.close()
                return True
            await self._let_trio_run()
        return False

    async def _sit_down(self, task: trio.lowlevel.Task) -> bool:
        """Wait for the reader's seat; False when there is nothing to read any more."""
        if self._reader is None:
            self._reader = task
        while self._reader is not task and not self._closed:
            await self._parked.park()
        return not self._closed

    async def _let_trio_run(self) -> None:
        await trio.lowlevel.checkpoint()
        self._requests_left = self._requests_max()
        self._yield_at = self._monotonic() + SLICE_MS / 1000

    def _requests_max(self) -> int:
        return REQUESTS_MAX_WAITING if self._away or self.hurried else REQUESTS_MAX

    async def _wait_in_trio(self) -> list[tuple[int, int]]:
        """As pyfuse3 waits; empty if the request was gone again or the mount is closing."""
        try:
            await trio.lowlevel.wait_readable(self._descriptor)
        except trio.ClosedResourceError:
            self.close()
            return []
        self._requests_left = self._requests_max()
        self._yield_at = self._monotonic() + SLICE_MS / 1000
        return self._poll(0)

    def leave(self) -> None:
        """See `Waiting`."""
        self._away += 1
        # The turn for trio that the requests now to come must not put off.
        self._requests_left = min(self._requests_left, REQUESTS_MAX_WAITING)
        if self._reader is trio.lowlevel.current_task():
            following = self._parked.unpark()
            self._reader = following[0] if following else None

    def back(self) -> None:
        """See `Waiting`."""
        self._away -= 1
        assert self._away >= 0

    def close(self) -> None:
        """See `Waiting`."""
        self._closed = True
        self._parked.unpark_all()

    async def watch(self) -> None:
        """See `Waiting`."""
        while not self._closed:
            await trio.sleep(WATCH_SECONDS)  # noqa: TID251  there is no event: only one task may wait for a descriptor
            events = self._poll(0)
            if events and not events[0][1] & select.POLLIN:
                self.close()


def session_descriptor() -> int | None:
    """The descriptor of this process's one FUSE session; None if there is none, or more than one."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                found.append(int(name))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found[0] if len(found) == 1 else None


def install(monotonic: Callable[[], float]) -> Waiting:
    """Replace pyfuse3's wait, after `pyfuse3.init` and before `pyfuse3.main`; or leave it, saying why."""
    version = pyfuse3.__version__
    if version not in TESTED_VERSIONS:
        return StockWakeup(f"stock: pyfuse3 {version} was not tested")
    names = vars(pyfuse3)
    if PRIVATE_NAME not in names:
        return StockWakeup(f"stock: this pyfuse3 has no {PRIVATE_NAME}")
    descriptor = session_descriptor()
    if descriptor is None:
        return StockWakeup("stock: the session's descriptor was not found")
    wakeup = Wakeup(descriptor, monotonic)
    names[PRIVATE_NAME] = wakeup.wait
    return wakeup

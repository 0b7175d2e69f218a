"""The pyfuse3 door: it converts, counts, lets nothing out but an errno, and waits for requests without trio's price.

Method: handlers are called as pyfuse3 calls them, over a file system that does as it is told; the wait for requests is
tried on a pipe; and a few tests mount that file system, in a process of its own (this file, run as a program), because
"the mount lives on" and "requests overlap" can only be seen from outside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pyfuse3
import pytest
import trio

from cascadefs.filesystem import Changes, Opened, Stat, Usage
from cascadefs.fuse import mountpoint, wakeup
from cascadefs.fuse.door import Door
from cascadefs.fuse.notifier import Notifier
from storage.errors import Corruption, Reason, Refused

ROOT = 1
CONTEXT = SimpleNamespace(uid=1000, gid=100, pid=os.getpid(), umask=0o22)
SLOW_SECONDS = 0.1


def stat_of(number, mode=stat.S_IFREG | 0o640, size=3):
    times = (1_600_000_000_000_000_001, 1_600_000_000_000_000_002, 1_600_000_000_000_000_003)
    return Stat(number, mode, 2, 11, 12, 0, size, 8, *times, 7.5, 2.5)


class Told:
    """A file system of some names under the root whose every answer is a table's.

    Reading `bug` is a bug, `damage` damage, `full` the disk's; fsync takes a while, in a thread.
    """

    FILES = tuple(b"file%d" % n for n in range(16))
    NAMES = (b"bug", b"damage", b"full", b"fine", *FILES)

    def __init__(self):
        self.calls = []
        self.lookups = {}
        self.negative_s = 0.0
        self.invalidations = []
        self.synchronous = set()
        self.others = SimpleNamespace(is_unseen=lambda number: False)

    def take_invalidations(self):
        taken, self.invalidations = self.invalidations, []
        return taken

    def lookup(self, parent, name, caller):
        self.calls.append(("lookup", parent, name, caller))
        if name not in self.NAMES:
            raise Refused(Reason.ABSENT)
        number = 2 + self.NAMES.index(name)
        self.remember(number)
        return stat_of(number)

    def negative_timeout_s(self, name):
        return self.negative_s

    def remember(self, number):
        self.lookups[number] = self.lookups.get(number, 0) + 1

    def forget(self, number, count):
        if number == 13:
            raise ZeroDivisionError
        self.lookups[number] -= count

    def getattr(self, number):
        if number == ROOT:
            return stat_of(ROOT, stat.S_IFDIR | 0o755)
        return stat_of(number)

    def setattr(self, number, changes, handle, caller):
        self.calls.append(("setattr", number, changes, handle))
        return stat_of(number, size=9)

    def open(self, number, flags, caller):
        if flags & os.O_DSYNC:
            self.synchronous.add(number)
        return Opened(number, keep_cache=False, direct_io=True)

    def create(self, parent, name, mode, flags, caller):
        raise Refused(Reason.READ_ONLY)

    def is_synchronous(self, handle):
        return handle in self.synchronous

    def read(self, handle, offset, length):
        match self.NAMES[handle - 2]:
            case b"bug":
                raise KeyError("a bug,\nin two lines")
            case b"damage":
                raise Corruption("shard 0, segment 3, offset 17: wrong checksum")
            case b"full":
                raise OSError(errno.ENOSPC, "No space left on device")
        return memoryview(b"abc")[offset : offset + length]

    def write(self, handle, offset, data):
        return len(data)

    def flush(self, handle):
        pass

    def release(self, handle):
        self.synchronous.discard(handle)

    async def fsync(self, handle, data_only):
        self.calls.append(("fsync", handle, data_only))
        await trio.to_thread.run_sync(time.sleep, SLOW_SECONDS)

    async def fsync_directory(self, handle):
        raise Refused(Reason.BAD_HANDLE)

    def opendir(self, number, caller):
        return number

    def readdir(self, handle, offset):
        if handle == 66:
            yield b"fine", stat_of(5), 1
            raise Corruption("the listing ends in damage")
        listing = [(b".", ROOT), (b"..", ROOT), *((n, i + 2) for i, n in enumerate(self.NAMES))]
        for at, (name, number) in list(enumerate(listing))[offset:]:
            yield name, self.getattr(number), at + 1

    def releasedir(self, handle):
        pass

    def getxattr(self, number, name, caller):
        raise Refused(Reason.NO_SUCH_ATTRIBUTE)

    def statfs(self):
        return Usage(4096, 100, 50, 40, 30, 20, 255)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def door(told):
    return Door(told, lambda: None)


async def errno_from(awaitable):
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await awaitable
    return raised.value.errno


# --- Converting -------------------------------------------------------------------------------------------------------


async def test_every_handler_of_pyfuse3_is_answered_or_left_out_on_purpose():
    handlers = {name for name in vars(pyfuse3.Operations) if not name.startswith("_")}
    settings = {"supports_dot_lookup", "enable_writeback_cache", "enable_acl"}
    # The kernel checks permissions itself; stacktrace is pyfuse3's own.
    left_out = {"access", "stacktrace"}
    assert handlers - set(vars(Door)) == left_out
    assert settings <= set(vars(Door))


async def test_whoever_polls_is_answered_and_told_to_look_again(door, told):
    wakes = []
    told.poll = lambda handle, wake: wakes.append(wake) or handle == 2
    ready = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
    assert await door.poll(2, 2, None, CONTEXT) == ready
    assert wakes == [None]
    waiting = SimpleNamespace(notify=lambda: None)
    assert await door.poll(3, 3, waiting, CONTEXT) == 0
    sent = []
    door._notifier.put = lambda gone: sent.append(("forget", gone))
    door._notifier.wake = lambda notify: sent.append(("wake", notify))
    told.invalidations.append((7, None))
    wakes[1]()
    assert sent == [("forget", [(7, None)]), ("wake", waiting.notify)], "in this order"


async def test_a_stat_arrives_whole(door):
    entry = await door.getattr(5, CONTEXT)
    assert (entry.st_ino, entry.st_mode, entry.st_nlink) == (5, stat.S_IFREG | 0o640, 2)
    assert (entry.st_uid, entry.st_gid, entry.st_size, entry.st_blocks) == (11, 12, 3, 8)
    assert entry.st_atime_ns == 1_600_000_000_000_000_001
    assert entry.st_mtime_ns == 1_600_000_000_000_000_002
    assert entry.st_ctime_ns == 1_600_000_000_000_000_003
    assert (entry.entry_timeout, entry.attr_timeout) == (7.5, 2.5)


async def test_the_caller_is_who_asked_and_groups_are_read_when_asked_for(door, told):
    await door.lookup(ROOT, b"fine", CONTEXT)
    (_, _, _, caller) = told.calls[-1]
    assert (caller.uid, caller.gid, caller.pid, caller.umask) == (1000, 100, os.getpid(), 0o22)
    assert caller.groups() == frozenset(os.getgroups())


@pytest.fixture
def pid_of_nobody():
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


async def test_the_groups_of_a_process_that_is_gone_are_none(door, told, pid_of_nobody):
    gone = SimpleNamespace(uid=0, gid=0, pid=pid_of_nobody, umask=0)
    await door.lookup(ROOT, b"fine", gone)
    assert told.calls[-1][3].groups() == frozenset()


@pytest.mark.parametrize("seconds", [0.0, 300.0])
async def test_absence_is_an_entry_without_a_node(door, told, seconds):
    told.negative_s = seconds
    entry = await door.lookup(ROOT, b"nothing", CONTEXT)
    assert (entry.st_ino, entry.entry_timeout) == (0, seconds)


@pytest.mark.parametrize(
    ("updated", "changes"),
    [
        (set(), Changes()),
        ({"mode"}, Changes(mode=0o4751)),
        ({"uid", "gid"}, Changes(uid=7, gid=8)),
        ({"size"}, Changes(size=99)),
        ({"atime", "mtime"}, Changes(atime_ns=-5, mtime_ns=10**18 + 1)),
        ({"ctime"}, Changes()),
    ],
)
async def test_setattr_says_what_changes_and_only_that(door, told, updated, changes):
    asked = pyfuse3.EntryAttributes()
    asked.st_mode, asked.st_uid, asked.st_gid, asked.st_size = stat.S_IFREG | 0o4751, 7, 8, 99
    asked.st_atime_ns, asked.st_mtime_ns = -5, 10**18 + 1
    names = ("atime", "mtime", "ctime", "mode", "uid", "gid", "size")
    fields = SimpleNamespace(**{f"update_{name}": name in updated for name in names})
    entry = await door.setattr(5, asked, fields, 4, CONTEXT)
    assert told.calls[-1] == ("setattr", 5, changes, 4)
    assert entry.st_size == 9


async def test_open_says_how_to_cache(door):
    opened = await door.open(5, os.O_RDONLY, CONTEXT)
    assert (opened.fh, opened.keep_cache, opened.direct_io) == (5, False, True)


async def test_a_write_to_a_synchronous_handle_is_synced_before_its_answer(door, told, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    await door.open(5, os.O_WRONLY | os.O_DSYNC, CONTEXT)
    await door.open(4, os.O_WRONLY, CONTEXT)
    assert await door.write(4, 0, b"xy") == 2
    assert told.calls == []
    assert await door.write(5, 0, b"xyz") == 3
    assert told.calls == [("fsync", 5, True)]
    await door.release(5)
    assert await door.write(5, 0, b"xyz") == 3
    assert len(told.calls) == 1


async def test_statfs_is_in_blocks(door):
    data = await door.statfs(CONTEXT)
    assert (data.f_bsize, data.f_frsize, data.f_blocks, data.f_bfree, data.f_bavail) == (
        4096,
        4096,
        100,
        50,
        40,
    )
    assert (data.f_files, data.f_ffree, data.f_favail, data.f_namemax) == (30, 20, 20, 255)


# --- Listings count look-ups ------------------------------------------------------------------------------------------


async def test_what_the_kernel_took_is_remembered_and_nothing_else(door, told, monkeypatch):
    taken = []

    def reply(token, name, entry, next_offset):
        taken.append((name, next_offset))
        return len(taken) <= 4

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    await door.readdir(1, 0, None)
    assert taken == [(b".", 1), (b"..", 2), (b"bug", 3), (b"damage", 4), (b"full", 5)]
    assert told.lookups == {2: 1, 3: 1}


async def test_a_listing_that_breaks_off_leaves_no_look_ups_behind(door, told, monkeypatch):
    monkeypatch.setattr(pyfuse3, "readdir_reply", lambda *arguments: True)
    assert await errno_from(door.readdir(66, 0, None)) == errno.EIO
    assert told.lookups == {5: 0}


# --- Errors -----------------------------------------------------------------------------------------------------------


async def test_a_refusal_is_its_errno_and_no_news(door, caplog):
    assert await errno_from(door.create(ROOT, b"x", 0o600, 0, CONTEXT)) == errno.EROFS
    assert await errno_from(door.fsyncdir(5, False)) == errno.EBADF
    assert door.status()["errors"] == {}
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "number", "said"),
    [
        (b"bug", errno.EIO, "KeyError"),
        (b"damage", errno.EIO, "segment 3, offset 17"),
        (b"full", errno.ENOSPC, "No space left"),
    ],
)
async def test_failures_and_bugs_are_an_errno_and_one_event(door, caplog, name, number, said):
    handle = 2 + Told.NAMES.index(name)
    for _ in range(3):
        assert await errno_from(door.read(handle, 0, 3)) == number
    (event,) = caplog.records
    assert said in event.getMessage()
    assert bool(event.exc_info) == (name == b"bug")
    assert door.status()["errors"] == {errno.errorcode[number]: 3}


async def test_forget_lets_nothing_out(door, told):
    told.lookups = {5: 3}
    await door.forget([(13, 1), (5, 2)])
    assert told.lookups == {5: 1}
    assert door.status()["errors"] == {"EIO": 1}


async def test_requests_are_counted(door):
    await door.getattr(5, CONTEXT)
    await door.getattr(5, CONTEXT)
    await door.read(5, 0, 3)
    assert door.status()["requests"] == {"getattr": 2, "read": 1}


# --- Notifications ----------------------------------------------------------------------------------------------------


def test_notifications_keep_their_order_and_survive_what_the_kernel_did_not_know(caplog):
    sent = []

    def node(number):
        sent.append(number)
        if number == 2:
            raise OSError(errno.ENOENT, "never heard of it")
        if number == 3:
            raise OSError(errno.EINVAL, "what?")

    notifier = Notifier(node, lambda parent, name: sent.append((parent, name)))
    notifier.start()
    notifier.put([(1, None), (1, b"x")])
    notifier.put([(2, None), (3, None), (3, None), (4, None)])
    assert notifier.stop()
    assert sent == [1, (1, b"x"), 2, 3, 3, 4]
    assert (notifier.sent, notifier.failed) == (3, 2)
    assert len(caplog.records) == 1


def test_a_notification_that_waits_for_the_kernel_is_said_to(monkeypatch):
    monkeypatch.setattr("cascadefs.fuse.notifier.STOP_SECONDS", 0.01)
    asked = threading.Event()
    notifier = Notifier(lambda number: asked.wait(10), lambda parent, name: None)
    notifier.start()
    notifier.put([(1, None)])
    assert not notifier.stop()
    asked.set()


async def test_changes_are_told_after_the_answer_is_made(door, told):
    told.invalidations = [(5, None)]
    await door.getattr(5, CONTEXT)
    assert told.invalidations, "a question changes nothing"
    await door.release(5)
    assert not told.invalidations


async def test_who_closes_is_answered_when_the_kernel_has_forgotten(door, told):
    sent = []
    door._notifier = Notifier(sent.append, lambda parent, name: sent.append((parent, name)))
    door._notifier.start()
    told.invalidations = [(5, None), (1, b"x")]
    await door.flush(5)
    assert sent == [5, (1, b"x")]
    assert door._notifier.stop()


# --- Waiting for requests ---------------------------------------------------------------------------------------------


def test_this_pyfuse3_is_the_tested_one_and_has_the_private_name():
    assert pyfuse3.__version__ in wakeup.TESTED_VERSIONS
    assert wakeup.PRIVATE_NAME in vars(pyfuse3)


def test_an_untested_pyfuse3_is_left_alone_and_says_so(monkeypatch):
    monkeypatch.setattr(pyfuse3, "__version__", "3.99")
    before = vars(pyfuse3)[wakeup.PRIVATE_NAME]
    waiting = wakeup.install(time.perf_counter)
    assert waiting.description == "stock: pyfuse3 3.99 was not tested"
    assert vars(pyfuse3)[wakeup.PRIVATE_NAME] is before


def test_without_the_private_name_nothing_is_replaced(monkeypatch):
    monkeypatch.delitem(vars(pyfuse3), wakeup.PRIVATE_NAME)
    assert "has no" in wakeup.install(time.perf_counter).description
    assert wakeup.PRIVATE_NAME not in vars(pyfuse3)


class Requests:
    """A pipe in the place of the session: one byte is one request."""

    def __init__(self):
        self.reading, self.writing = os.pipe()
        self.waiting = wakeup.Wakeup(self.reading, time.perf_counter)
        self.handled = []

    def arrive(self, text):
        os.write(self.writing, text.encode())

    async def work(self, name, handle=None):
        """A worker as pyfuse3's: wait, read, handle."""
        while await self.waiting.wait():
            request = os.read(self.reading, 1).decode()
            if not request:
                break
            self.handled.append((name, request))
            if handle is not None:
                await handle(request)

    def end(self):
        os.close(self.writing)


@pytest.fixture
def requests():
    pipe = Requests()
    yield pipe
    os.close(pipe.reading)
    with contextlib.suppress(OSError):
        os.close(pipe.writing)


async def test_one_worker_reads_everything_while_nothing_waits(requests):
    requests.arrive("abcdefgh")
    requests.end()
    async with trio.open_nursery() as nursery:
        for name in range(3):
            nursery.start_soon(requests.work, name)
    assert "".join(request for _, request in requests.handled) == "abcdefgh"
    assert len({name for name, _ in requests.handled}) == 1


async def test_while_a_handler_waits_another_worker_reads(requests):
    answer = trio.Event()

    async def handle(request):
        if request == "w":
            requests.waiting.leave()
            try:
                await answer.wait()
            finally:
                requests.waiting.back()
        if request == "e":
            answer.set()
            requests.end()

    requests.arrive("wabe")
    async with trio.open_nursery() as nursery:
        for name in range(3):
            nursery.start_soon(requests.work, name, handle)
    assert [request for _, request in requests.handled] == ["w", "a", "b", "e"]
    waiter = requests.handled[0][0]
    assert all(name != waiter for name, _ in requests.handled[1:])


async def test_with_every_worker_waiting_the_first_to_come_back_reads_on(requests):
    async def handle(request):
        requests.waiting.leave()
        try:
            await trio.lowlevel.checkpoint()
        finally:
            requests.waiting.back()

    requests.arrive("abcdefgh" * 8)
    requests.end()
    async with trio.open_nursery() as nursery:
        for name in range(2):
            nursery.start_soon(requests.work, name, handle)
    assert "".join(request for _, request in requests.handled) == "abcdefgh" * 8


async def test_trio_gets_its_turn_under_load(requests):
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        requests.arrive("x" * (4 * wakeup.REQUESTS_MAX))
        requests.end()
        await requests.work("only")
        nursery.cancel_scope.cancel()
    assert turns >= 4
    assert len(requests.handled) == 4 * wakeup.REQUESTS_MAX


async def test_after_idleness_the_processor_is_left_alone(requests, monkeypatch):
    polls = 0
    poll = requests.waiting._poll

    def counted(timeout):
        nonlocal polls
        polls += 1
        return poll(timeout)

    monkeypatch.setattr(requests.waiting, "_poll", counted)
    with trio.move_on_after(4 * wakeup.IDLE_MS / 1000):
        await requests.work("only")
    assert polls <= wakeup.IDLE_MS / wakeup.SLICE_MS


async def test_closing_lets_every_worker_go(requests):
    async with trio.open_nursery() as nursery:
        for name in range(3):
            nursery.start_soon(requests.work, name)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.notify_closing(requests.reading)
    assert requests.handled == []


# --- Mounted ----------------------------------------------------------------------------------------------------------


def serve(path):
    """What the process of a mounted test runs: counts its own timer while it serves."""
    ticks = 0

    class Mounted(Told):
        def getxattr(self, number, name, caller):
            if name == b"user.ticks":
                return str(ticks).encode()
            if name == b"user.wakeup":
                return door.status()["wakeup"].encode()
            return super().getxattr(number, name, caller)

    async def tick():
        nonlocal ticks
        while True:
            with trio.move_on_after(0.02):
                await trio.sleep_forever()
            ticks += 1

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await door.serve()
            nursery.cancel_scope.cancel()

    door = Door(Mounted(), lambda: print("ready", flush=True))
    door.mount(Path(path), [], time.perf_counter)
    try:
        trio.run(main)
    finally:
        door.unmount(mounted=True)


@pytest.fixture
def mounted(tmp_path):
    """A mount of `Told` by a process of its own: (path, process)."""
    process = subprocess.Popen(
        [sys.executable, __file__, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield tmp_path, process
    finally:
        with contextlib.suppress(mountpoint.UnmountFailed):
            mountpoint.unmount(tmp_path, lazy=True)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def errno_of_reading(path):
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno
    return 0


@pytest.mark.mounted
def test_a_bug_costs_one_eio_and_the_mount_lives_on(mounted):
    path, process = mounted
    assert errno_of_reading(path / "bug") == errno.EIO
    assert errno_of_reading(path / "damage") == errno.EIO
    assert errno_of_reading(path / "full") == errno.ENOSPC
    assert (path / "fine").read_bytes() == b"abc"
    assert sorted(os.listdir(path)) == sorted(name.decode() for name in Told.NAMES)
    assert process.poll() is None


@pytest.mark.mounted
def test_slow_syncs_overlap_and_nobody_waits_for_them(mounted):
    path, _ = mounted
    clients = len(Told.FILES)
    started = threading.Barrier(clients + 1)

    def sync(name):  # of one file each: the kernel lets one fsync of a file through at a time
        with (path / name).open("rb") as file:
            started.wait()
            os.fsync(file.fileno())

    threads = [threading.Thread(target=sync, args=[name.decode()]) for name in Told.FILES]
    for thread in threads:
        thread.start()
    before = time.perf_counter()
    started.wait()
    asked = 0
    while any(thread.is_alive() for thread in threads):
        os.statvfs(path)
        asked += 1
    took = time.perf_counter() - before
    assert took < clients * SLOW_SECONDS / 2, "one after the other"
    assert asked > 20, "others had to wait"


@pytest.mark.mounted
def test_timers_run_whether_requests_come_or_not(mounted):
    path, _ = mounted
    if os.getxattr(path, "user.wakeup") != b"own":
        pytest.fail("the stock wait is in place")

    def ticks_while(busy):
        before = int(os.getxattr(path, "user.ticks"))
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            if busy:
                os.statvfs(path)
            else:
                select.select([], [], [], 0.3)
        return int(os.getxattr(path, "user.ticks")) - before

    assert ticks_while(busy=True) >= 7
    assert ticks_while(busy=False) >= 7


@pytest.mark.mounted
def test_an_aborted_connection_ends_the_service_and_leaves_a_dead_mount(mounted):
    path, process = mounted
    minor = os.minor(path.stat().st_dev)
    abort = Path(f"/sys/fs/fuse/connections/{minor}/abort")
    if not abort.exists():
        subprocess.run(["mount", "-t", "fusectl", "none", "/sys/fs/fuse/connections"], check=True)
    assert not mountpoint.is_dead(path)
    abort.write_text("1")
    assert process.wait(10) == 0
    assert mountpoint.is_dead(path)


@pytest.mark.mounted
def test_a_client_killed_while_it_waits_costs_nothing(mounted):
    path, process = mounted
    code = f"import os; fd = os.open({str(path / 'fine')!r}, 0); print(flush=True); os.fsync(fd)"
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    client.stdout.readline()
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    assert (path / "fine").read_bytes() == b"abc"
    assert process.poll() is None


if __name__ == "__main__":
    serve(sys.argv[1])

"""Goal: locks of files hold between programs on different mounts of a cluster, and who has one sees what those before have written.

Method: two mounts of the fleet; programs of their own (`locker.py`) hold locks, or add one to a number in a file under a lock so often that the
sum is right only if nobody ever worked beside another. SQLite and filelock do the same in their own ways.
"""

import contextlib
import errno
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cascadefs import configuration
from tests.cluster.processes import CLUSTER
from tests.cluster.test_mounts import Mount, eventually

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(120)]

LOCKER = Path(__file__).parent / "locker.py"
KINDS = ("flock", "lockf", "ofd")


@pytest.fixture(scope="module")
def mounts(fleet, tmp_path_factory):
    directory = tmp_path_factory.mktemp("locks")
    told = configuration.Mount(CLUSTER, tuple(fleet.address(name) for name in fleet.names))
    (fleet.directory / "m1" / "mount.toml").write_text(configuration.spell(told))
    made = [Mount(fleet, directory / f"mount{number}", "kernel") for number in range(2)]
    (made[0].path / "locks").mkdir()
    yield made
    for mount in made:
        if mount.process.poll() is None:
            assert mount.end() == 0, mount.log.read_text()
        assert "Traceback" not in mount.log.read_text()


@pytest.fixture
def two(mounts, request):
    """A directory of this test's own, as each mount has it."""
    made = [mount.path / "locks" / request.node.name for mount in mounts]
    made[0].mkdir()
    return made


class Program:
    """A process of its own; `do` runs a line in it, and raises what it raised."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, LOCKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self):
        """What the line begun last said."""
        said = self.process.stdout.readline().strip()
        if said.startswith("errno "):
            raise OSError(int(said[6:]), said)
        return said

    def do(self, line):
        self.begin(line)
        return self.end()

    def is_waiting(self):
        """Whether it sleeps in a call, for a little while."""
        os.set_blocking(self.process.stdout.fileno(), False)
        try:
            time.sleep(0.1)
            return os.read(self.process.stdout.fileno(), 1) == b""
        except BlockingIOError:
            return True
        finally:
            os.set_blocking(self.process.stdout.fileno(), True)


@pytest.fixture
def programs():
    made = [Program() for _ in range(2)]
    yield made
    for program in made:
        program.process.kill()
        program.process.communicate()


def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return None


def test_of_two_who_want_a_lock_one_has_it(two, programs):
    one, other = programs
    for kind in KINDS:
        for program, path in zip(programs, two, strict=True):
            program.do(f"open {path}/{kind}")
        one.do(f"{kind} exclusive")
        assert refused(other.do, f"{kind} exclusive now") == errno.EAGAIN
        assert refused(other.do, f"{kind} shared now") == errno.EAGAIN
        one.do(f"{kind} shared")  # Turned into the other mode.
        other.do(f"{kind} shared now")
        assert refused(one.do, f"{kind} exclusive now") == errno.EAGAIN
        other.do(f"{kind} free")
        one.do(f"{kind} exclusive now")
        other.begin(f"{kind} exclusive")
        assert other.is_waiting()
        one.do(f"{kind} free")
        assert other.end() == "done"
        other.do("close")
        one.begin(f"{kind} exclusive")
        assert one.end() == "done"
        one.do("close")


def test_ranges_and_who_is_in_the_way(two, programs):
    one, other = programs
    for program, path in zip(programs, two, strict=True):
        program.do(f"open {path}/f")
    one.do("lockf exclusive 10 20")
    other.do("lockf exclusive now 0 10")
    other.do("lockf exclusive now 30 0")
    assert refused(other.do, "lockf shared now 29 1") == errno.EAGAIN
    kind, start, length, process = other.do("who 0 100").split()
    assert (kind, start, length, process) == (str(fcntl.F_WRLCK), "10", "20", "0")
    # Any descriptor of the file that the process closes takes its locks along.
    one.do("touch")
    other.do("lockf exclusive now 10 20")


def test_locks_end_with_who_has_them(two, programs):
    one, other = programs
    for kind in KINDS:
        holder = Program()
        holder.do(f"open {two[0]}/{kind}")
        holder.do(f"{kind} exclusive")
        other.do(f"open {two[1]}/{kind}")
        other.begin(f"{kind} exclusive")
        assert other.is_waiting()
        holder.process.kill()
        assert other.end() == "done"
        holder.process.communicate()
        # Who waits can be interrupted, and killed.
        one.do(f"open {two[0]}/{kind}")
        one.begin(f"alarm {kind}")
        assert one.end() == "interrupted"
        waiter = Program()
        waiter.do(f"open {two[0]}/{kind}")
        waiter.begin(f"{kind} exclusive")
        assert waiter.is_waiting()
        waiter.process.kill()
        waiter.process.communicate(timeout=20)
        other.do("close")
        one.begin(f"{kind} exclusive")  # Nobody else had it meanwhile.
        assert one.end() == "done"
        one.do("close")


def test_a_ring_is_refused(two, programs):
    one, other = programs
    for program, path, start in zip(programs, two, (0, 1), strict=True):
        program.do(f"open {path}/f")
        program.do(f"lockf exclusive {start} 1")
    other.begin("lockf exclusive 0 1")
    assert other.is_waiting()
    assert refused(one.do, "lockf exclusive 1 1") == errno.EDEADLK
    one.do("lockf free 0 0")
    assert other.end() == "done"


def test_who_has_the_lock_sees_what_was_written_before(two, programs):
    """Through descriptors that stay open, and whose bytes both kernels have in their caches."""
    for program, path in zip(programs, two, strict=True):
        program.do(f"open {path}/f")
    for kind in KINDS:
        for number in range(10):
            program = programs[number % 2]
            program.do(f"{kind} exclusive")
            said = program.do("read")
            assert said == "".join(map(str, range(number))), kind
            program.do(f"write {said}{number}")
            program.do(f"{kind} free")
        programs[0].do("lockf exclusive")
        programs[0].do("write")
        programs[0].do("lockf free")


def count(two, kind, processes=4, times=30, meanwhile=lambda: None):
    """So many programs, on both mounts in turn, add one to a number so often under a lock."""
    (two[0] / "count").write_text("0")
    command = [sys.executable, LOCKER, kind, str(times)]
    adding = [subprocess.Popen([*command, two[n % 2] / "count"]) for n in range(processes)]
    meanwhile()
    assert [program.wait(90) for program in adding] == [0] * processes
    assert int((two[1] / "count").read_text()) == processes * times


@pytest.mark.parametrize("kind", [*KINDS, "filelock"])
def test_what_is_counted_under_a_lock_is_right(two, kind):
    count(two, kind)


def test_sqlite_is_written_from_two_mounts(two):
    """In its rollback-journal mode, which is that of the network file systems."""
    with contextlib.closing(sqlite3.connect(two[0] / "count")) as made:
        made.execute("create table numbers (number integer, who integer)")
        made.execute("insert into numbers values (0, 0)")
        made.commit()
    command = [sys.executable, LOCKER, "sqlite", "15"]
    adding = [subprocess.Popen([*command, two[n % 2] / "count"]) for n in range(3)]
    assert [program.wait(90) for program in adding] == [0] * 3
    for path in two:
        with contextlib.closing(sqlite3.connect(path / "count")) as read:
            assert read.execute("select number from numbers").fetchone() == (45,)
            assert read.execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_leader_killed_under_contention(fleet, two):
    shard = int(os.getxattr(two[0], "user.cascade.shard"))
    victim = fleet.leader(shard)

    def kill():
        eventually(lambda: int((two[1] / "count").read_text() or 0) > 40)
        fleet.kill(victim)

    count(two, "flock", times=60, meanwhile=kill)
    fleet.start(victim)
    fleet.wait_well()


def test_a_mount_that_is_not_heard_for_long_has_lost_its_locks(fleet, mounts, two, programs):
    """One is killed, another stands still and hears of it."""
    one, other = programs
    third = Mount(fleet, mounts[0].path.parent / "third", "kernel")
    killed = Program()
    try:
        killed.do(f"open {third.path}/{two[0].relative_to(mounts[0].path)}/killed")
        killed.do("flock exclusive")
    finally:
        third.end(signal.SIGKILL)
        killed.process.kill()
        killed.process.communicate()
    for program, path in zip(programs, two, strict=True):
        program.do(f"open {path}/stopped")
    one.do("flock exclusive")
    waiter = Program()
    waiter.do(f"open {two[1]}/killed")
    os.kill(mounts[0].process.pid, signal.SIGSTOP)
    try:
        for program in (other, waiter):
            program.begin("flock exclusive")
        assert other.is_waiting()
        assert waiter.is_waiting()
        for program in (other, waiter):
            assert program.end() == "done"  # After the lease.
    finally:
        os.kill(mounts[0].process.pid, signal.SIGCONT)
        waiter.process.kill()
        waiter.process.communicate()
    eventually(lambda: "locks of files are lost" in mounts[0].log.read_text())
    assert refused(one.do, "flock shared now") == errno.EIO
    assert refused(one.do, "flock free") == errno.EIO
    assert refused(one.do, "flock exclusive now") == errno.EAGAIN
    other.do("flock free")
    one.do("flock exclusive now")

"""Users that do their worst, through both doors: strangers, other namespaces, kills and stops in the middle of a call.

Method: what they leave behind is counted (open files, drafts, versions, errors in the status; lines in the log), never
timed. To catch a call in the middle, the daemon is stopped (SIGSTOP), so that every call made then waits; the kernel
says how many do (/sys/fs/fuse/connections). Who waits is a child of this process, forked, so that it waits in nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.conftest import Mount, command_line, environment, is_over
from tests.mounted.program import run

pytestmark = pytest.mark.mounted

BLOCK = b"x" * 4096
LIMIT_SECONDS = 30.0
CONNECTIONS = Path("/sys/fs/fuse/connections")


@pytest.fixture(params=["kernel", "pyfuse3"])
def mount(make_public_mount, request) -> Mount:
    made = make_public_mount("--door", request.param, "-o", "allow_other")
    made.path.chmod(0o777)
    return made


def look(mount: Mount) -> dict:
    return json.loads((mount.path / ".cascade/status").read_bytes())


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def expect_nothing_left(mount: Mount, before: dict) -> None:
    """The handles and drafts are those of before, and nobody was told of an error."""
    # A RELEASE comes after its close(2) has returned, or its process is gone.
    wait_until(lambda: look(mount)["open_files"] == before["open_files"])
    after = look(mount)
    assert after["drafts"] == before["drafts"]
    assert after["draft_memory_bytes"] == before["draft_memory_bytes"]
    assert after["open_directories"] == before["open_directories"]
    assert after["errors"] == {}
    assert after["trouble"] is None
    assert after["pid"] == before["pid"]
    assert not [
        line for line in mount.log().splitlines() if " ERROR " in line or "Traceback" in line
    ]


def fork(call: Callable[[], object]) -> int:
    """A child that makes a call and ends with its errno, or 0."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            call()
            code = 0
        except OSError as error:
            code = error.errno or 98
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """How a child ended: its exit status, or minus its signal."""
    assert is_over(child, LIMIT_SECONDS), "it hangs"
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def as_user(uid: int, call: Callable[[], object], groups: tuple[int, ...] = ()) -> int:
    def become_and_call() -> None:
        os.setgroups(groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        call()

    return ended(fork(become_and_call))


class Stopped:
    """The daemon does nothing meanwhile. `waits(n)`: until n calls wait for it."""

    def __init__(self, mount: Mount) -> None:
        self._pid = mount.pid
        self._connection = CONNECTIONS / str(os.minor(mount.path.stat().st_dev))

    def __enter__(self) -> Stopped:
        os.kill(self._pid, signal.SIGSTOP)
        wait_until(self._is_stopped)  # each thread stops when it next runs
        return self

    def _is_stopped(self) -> bool:
        threads = Path(f"/proc/{self._pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)

    def __exit__(self, *exception: object) -> None:
        if not is_over(self._pid, 0):
            os.kill(self._pid, signal.SIGCONT)

    def waits(self, count: int) -> None:
        waiting = self._connection / "waiting"
        wait_until(lambda: int(waiting.read_text()) >= count)


def calls_that_wait(path: Path) -> list[Callable[[], object]]:
    """One call of each kind, on files that are open already where the call needs one."""
    (path / "read").write_bytes(BLOCK)
    for name in ("write", "sync", "gone", "moved", "cut"):
        (path / name).write_bytes(b"")
    reader = os.open(path / "read", os.O_RDONLY | os.O_DIRECT)
    writer = os.open(path / "write", os.O_WRONLY)
    syncer = os.open(path / "sync", os.O_WRONLY)
    room = bytearray(4096)
    return [
        lambda: os.preadv(reader, [room], 0),
        lambda: os.write(writer, BLOCK),
        lambda: os.fsync(syncer),
        lambda: os.stat(path / "never looked at"),
        lambda: os.close(os.open(path / "made", os.O_WRONLY | os.O_CREAT)),
        lambda: os.close(os.open(path / "read", os.O_RDONLY)),
        lambda: (path / "gone").unlink(),
        lambda: (path / "moved").rename(path / "away"),
        lambda: os.truncate(path / "cut", 100),
        lambda: os.listdir(path),
        lambda: os.getxattr(path / "read", "user.cascade.head"),
        lambda: os.close(os.dup(writer)),
    ]


# --- Who asks ---------------------------------------------------------------------------------------------------------


def test_strangers_have_the_rights_the_modes_say(mount: Mount) -> None:
    (mount.path / "open").write_bytes(b"all")
    (mount.path / "open").chmod(0o644)
    (mount.path / "closed").write_bytes(b"mine")
    (mount.path / "closed").chmod(0o600)
    os.chown(mount.path / "closed", 0, 4000)
    before = look(mount)
    assert as_user(1001, lambda: (mount.path / "open").read_bytes()) == 0
    assert as_user(1001, lambda: (mount.path / "open@v1").read_bytes()) == 0
    for name in ("closed", "closed@v1"):
        assert as_user(1001, lambda name=name: (mount.path / name).read_bytes()) == errno.EACCES
    assert as_user(1001, lambda: (mount.path / "open").write_bytes(b"")) == errno.EACCES
    assert as_user(1001, lambda: (mount.path / "theirs").write_bytes(b"x")) == 0
    assert (mount.path / "theirs").stat().st_uid == 1001
    (mount.path / "closed").chmod(0o640)
    for name in (
        "closed",
        "closed@v1",
    ):  # the group alone opens it; what it was then, it must be allowed now
        assert as_user(1001, lambda name=name: (mount.path / name).read_bytes(), (4000,)) == 0
        assert as_user(1002, lambda name=name: (mount.path / name).read_bytes()) == errno.EACCES
    expect_nothing_left(mount, before)


@pytest.mark.parametrize("door", ["kernel", "pyfuse3"])
def test_without_allow_other_strangers_see_nothing(make_public_mount, door: str) -> None:
    mount = make_public_mount("--door", door)
    (mount.path / "f").write_bytes(b"x")
    (mount.path / "f").chmod(0o666)
    before = look(mount)
    calls = [
        lambda: os.stat(mount.path),
        lambda: os.listdir(mount.path),
        lambda: (mount.path / "f").read_bytes(),
        lambda: (mount.path / "f").write_bytes(b""),
        lambda: (mount.path / ".cascade/status").read_bytes(),
    ]
    assert [as_user(1001, call) for call in calls] == [errno.EACCES] * len(calls)
    expect_nothing_left(mount, before)


_IN_ANOTHER_NAMESPACE = """
    import os, sys
    assert os.getpid() == 1
    path = sys.argv[1]
    for turn in range(20):
        with open(f"{path}/{turn}", "wb") as file:
            file.write(b"x" * 100)
        if os.fork() == 0:  # a child closes what it inherited: no version of its own
            os._exit(0)
        os.wait()
        assert open(f"{path}/{turn}@v1", "rb").read() == b"x" * 100
"""


def test_programs_of_another_pid_namespace_work_as_ever(mount: Mount) -> None:
    before = look(mount)
    script = textwrap.dedent(_IN_ANOTHER_NAMESPACE)
    run("unshare", "--pid", "--fork", sys.executable, "-c", script, mount.path)
    assert sorted(os.listdir(f"{mount.path}/7@@")) == ["v1"]
    expect_nothing_left(mount, before)


@pytest.mark.parametrize("door", ["kernel", "pyfuse3"])
def test_a_daemon_that_sees_none_of_its_users(make_public_mount, door: str) -> None:
    """It lives in a pid namespace of its own: everybody outside is process 0, and /proc speaks of others."""
    mount = make_public_mount("--door", door, "-o", "allow_other", mounted=False)
    where = ["--data", mount.data, "--door", door, "-o", "allow_other", "--foreground"]
    log = mount.path.parent / "foreground.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [
                "unshare",
                "--pid",
                "--fork",
                "--kill-child",
                *command_line("mount", mount.path, *where),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
        )
    try:
        wait_until(lambda: mount.is_mounted() or daemon.poll() is not None)
        assert daemon.poll() is None, log.read_text()
        for turn in range(20):
            descriptor = os.open(mount.path / f"{turn}", os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, b"one")
            assert ended(fork(lambda descriptor=descriptor: os.close(descriptor))) == 0
            os.write(descriptor, b"two")
            os.close(descriptor)
            assert (mount.path / f"{turn}").read_bytes() == b"onetwo"
            newest = sorted(os.listdir(f"{mount.path}/{turn}@@"))[-1]
            assert (mount.path / f"{turn}@{newest}").read_bytes() == b"onetwo"
        # Nobody knows the groups of process 0, so the past is closed to who needs one of them.
        (mount.path / "0").chmod(0o640)
        os.chown(mount.path / "0", 0, 4000)
        (mount.path / "0").write_bytes(b"for the group")
        newest = sorted(os.listdir(f"{mount.path}/0@@"))[-1]
        past = mount.path / f"0@{newest}"
        mount.path.chmod(0o755)
        assert as_user(1001, lambda: (mount.path / "0").read_bytes(), (4000,)) == 0
        assert as_user(1001, past.read_bytes, (4000,)) == errno.EACCES
        assert look(mount)["errors"] == {}
    finally:
        run("umount", mount.path, expect=None)
        try:
            daemon.wait(LIMIT_SECONDS)
        finally:
            daemon.kill()


# --- In the middle of a call ------------------------------------------------------------------------------------------


def test_clients_killed_in_the_middle_of_a_call(mount: Mount) -> None:
    calls = calls_that_wait(mount.path)
    before = look(mount)
    with Stopped(mount) as stopped:
        children = [fork(call) for call in calls]
        stopped.waits(len(calls) // 2)  # some of them wait for another: names of one directory
        for child in children:
            os.kill(child, signal.SIGKILL)
    assert {ended(child) for child in children} == {-signal.SIGKILL}
    expect_nothing_left(mount, before)
    run("rm", "-r", *(mount.path / name for name in os.listdir(mount.path)))
    assert os.listdir(mount.path) == []


def test_clients_killed_at_any_moment(mount: Mount) -> None:
    """Forty programs, each killed while it works: what they had open is closed, what they wrote is a version."""
    before = look(mount)

    def work(number: int) -> None:
        place = mount.path / f"p{number}"
        place.mkdir()
        turn = 0
        while True:
            turn += 1
            descriptor = os.open(place / "f", os.O_RDWR | os.O_CREAT)
            os.write(descriptor, BLOCK)
            os.pread(descriptor, 100, 0)
            os.fsync(descriptor)
            os.listdir(place)
            os.rename(place / "f", place / "g")
            os.link(place / "g", place / f"h{turn % 3}")
            os.unlink(place / f"h{turn % 3}")

    for batch in range(4):
        children = [fork(lambda number=batch * 10 + n: work(number)) for n in range(10)]
        begun = look(mount)["versions_committed"]
        wait_until(lambda begun=begun: look(mount)["versions_committed"] > begun + 50)
        for child in children:
            os.kill(child, signal.SIGKILL)
        assert {ended(child) for child in children} == {-signal.SIGKILL}
    expect_nothing_left(mount, before)
    for place in mount.path.iterdir():
        for path in place.iterdir():
            assert len(path.read_bytes()) in (0, len(BLOCK))


def test_clients_stopped_in_the_middle_of_a_call(mount: Mount) -> None:
    """Their answers wait for them; everybody else goes on."""
    calls = calls_that_wait(mount.path)
    before = look(mount)
    with Stopped(mount) as stopped:
        children = [fork(call) for call in calls]
        stopped.waits(len(calls) // 2)
        for child in children:
            os.kill(child, signal.SIGSTOP)
    (mount.path / "another").write_bytes(b"x")
    assert (mount.path / "another@v1").read_bytes() == b"x"
    for child in children:
        os.kill(child, signal.SIGCONT)
    codes = [ended(child) for child in children]
    assert codes == [errno.ENOENT if index == 3 else 0 for index in range(len(calls))]
    expect_nothing_left(mount, before)
    assert sorted(os.listdir(mount.path)) == sorted(
        ["another", "away", "cut", "made", "read", "sync", "write"]
    )
    assert (mount.path / "write").read_bytes() == BLOCK


def test_interrupted_calls_are_done_once(mount: Mount) -> None:
    """A signal with a handler reaches the caller in its wait (INTERRUPT): the call is done, wholly and once."""
    descriptors = [os.open(mount.path / f"{n}", os.O_WRONLY | os.O_CREAT) for n in range(8)]
    before = look(mount)

    def write(descriptor: int) -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        signal.siginterrupt(signal.SIGUSR1, True)
        assert os.write(descriptor, BLOCK) == len(BLOCK)
        os.fsync(descriptor)

    ready = [os.pipe() for _ in descriptors]

    def announce_and_write(pipe: int, descriptor: int) -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        os.write(pipe, b".")
        write(descriptor)

    with Stopped(mount) as stopped:
        children = [
            fork(lambda p=pipe, d=descriptor: announce_and_write(p[1], d))
            for pipe, descriptor in zip(ready, descriptors, strict=True)
        ]
        for reading, _ in ready:
            assert os.read(reading, 1) == b"."
        stopped.waits(len(children))
        for _ in range(5):
            for child in children:
                os.kill(child, signal.SIGUSR1)
    assert [ended(child) for child in children] == [0] * len(children)
    for number, descriptor in enumerate(descriptors):
        os.close(descriptor)
        assert (mount.path / f"{number}").read_bytes() == BLOCK
        assert sorted(os.listdir(f"{mount.path}/{number}@@")) == ["v1"]
    after = look(mount)
    assert after["errors"] == {}
    assert after["open_files"] == before["open_files"] - len(descriptors)
    for pipe in ready:
        for end in pipe:
            os.close(end)


def test_two_hundred_at_once(mount: Mount) -> None:
    before = look(mount)

    def work(number: int) -> None:
        own = mount.path / f"{number}"
        own.write_bytes(number.to_bytes(4, "big") * 1000)
        with (mount.path / "shared").open("ab", buffering=0) as shared:
            shared.write(b"%03d\n" % number)
        assert own.read_bytes() == number.to_bytes(4, "big") * 1000
        assert Path(f"{own}@v1").read_bytes() == number.to_bytes(4, "big") * 1000
        own.rename(mount.path / f"{number}.done")
        (mount.path / f"{number}.done").unlink()

    children = [fork(lambda number=number: work(number)) for number in range(200)]
    assert [ended(child) for child in children] == [0] * 200
    lines = (mount.path / "shared").read_bytes().split()
    assert sorted(lines) == [b"%03d" % number for number in range(200)]
    assert os.listdir(mount.path) == ["shared"]
    expect_nothing_left(mount, before)


# --- Without a daemon -------------------------------------------------------------------------------------------------


def test_a_daemon_killed_under_its_users(mount: Mount) -> None:
    """Who waits is told at once, and so is who comes; nothing hangs; the next mount has all that was committed."""
    (mount.path / "kept").write_bytes(b"kept")
    calls = calls_that_wait(mount.path)
    held = os.open(mount.path / "kept", os.O_RDWR)
    with Stopped(mount) as stopped:
        children = [fork(call) for call in calls]
        stopped.waits(len(calls) // 2)
        mount.kill()
    gone = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}
    codes = {ended(child) for child in children}
    # close(2) of one of several descriptors may have nothing to say.
    assert codes <= gone | {0}
    assert codes & gone
    # What the kernel knows by heart (attributes, pages) it still says.
    for call in (
        lambda: os.write(held, b"x"),
        lambda: os.stat(mount.path / "unknown"),
        lambda: os.listdir(mount.path / "kept@@"),
        lambda: (mount.path / "kept").read_bytes(),
    ):
        with pytest.raises(OSError, match=r".") as refused:
            call()
        assert refused.value.errno in gone
    mount.mount()
    assert (mount.path / "kept@v1").read_bytes() == b"kept"
    with pytest.raises(OSError, match=r".") as refused:
        os.write(held, b"x")
    assert refused.value.errno in gone, "a descriptor of the dead mount stays dead"
    before = look(mount)
    (mount.path / "kept").write_bytes(b"new")
    expect_nothing_left(mount, before)
    shutil.rmtree(mount.path / "kept", ignore_errors=True)

"""Goal: whatever a script does stays in its worker, and is reported. Method: scripts that try, in real workers.

Landlock, libseccomp and bubblewrap must be there; a machine without them is told so by `test_nothing_is_missing_here`.
"""

from __future__ import annotations

import os

import msgspec
import pytest
import trio

from tests.triggers.cuts import DictCut
from tests.triggers.runner.conftest import members, run_of, script
from triggers.run import Done, Failed
from triggers.worker import sandbox
from triggers.worker.message import Limits, Spawn

HEAD = """
from cascadefs.triggers import watch
import ctypes, errno, os, signal, socket, subprocess, sys, tempfile, time

def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
"""


@pytest.fixture
def cut():
    return DictCut({"a": [b"a"]})


@pytest.fixture
def attempt(pool, cut):
    """Run the body of a handler in a worker: its outcome."""

    async def attempt(body: str, **fields):
        indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
        tried = script(f"{HEAD}\n@watch('a')\ndef f(event, ctx):\n{indented}\n", id=f"{hash(body)}")
        return await pool.run(run_of(tried, "f", cut.event("a"), **fields), cut)

    return attempt


async def test_nothing_is_missing_here(pool):
    await pool.start()
    state = pool.state()
    assert state.problems == []
    assert state.landlock > 0
    assert state.seccomp
    assert state.bubblewrap


async def test_a_fork_bomb_ends_with_its_run(pool, attempt):
    outcome = await attempt("ctx.put('x', b'')\nwhile True:\n    os.fork()")
    assert isinstance(outcome, Failed)
    assert outcome.kind == "exception", outcome
    assert "Resource temporarily unavailable" in outcome.message
    assert (await attempt("return str(os.getpid())")).result


async def test_what_a_run_starts_ends_with_the_run(pool, attempt):
    outcome = await attempt("""
for number in range(3):
    subprocess.Popen(["sleep", "1000"])
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
return f"{os.getpgrp()}"
""")
    assert isinstance(outcome, Done), outcome
    group = int(outcome.result)
    while members(group):  # they have been sent SIGKILL, and die when the kernel comes to it
        await trio.lowlevel.checkpoint()


async def test_a_loop_that_does_not_listen_is_killed_with_its_children(pool, attempt):
    body = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpgrp(), flush=True)
os.fork()
while True: pass
"""
    outcome = await attempt(body, timeout_ms=500)
    assert (outcome.kind, outcome.message) == ("timeout", "no end after 500 ms")
    while members(int(outcome.output)):
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "body",
    [
        "held = []\nwhile True: held.append(bytearray(10 << 20))",
        "import mmap\nheld = []\nwhile True: held.append(mmap.mmap(-1, 10 << 20))",
        "import numpy\nnumpy.ones(1 << 30)",
    ],
)
async def test_a_memory_hog_meets_its_bound(attempt, body):
    outcome = await attempt(body, memory_bytes=256 << 20)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "memory" or "Cannot allocate memory" in outcome.message, outcome


async def test_a_file_may_not_grow_without_bound(attempt):
    outcome = await attempt(
        "with open(tempfile.mktemp(), 'wb') as file:\n    while True: file.write(bytes(1 << 20))",
        memory_bytes=256 << 20,
    )
    assert "File too large" in outcome.message


async def test_a_strict_script_touches_no_file_but_its_scratch(attempt, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for path in (victim, *list(victim.parents)[:-1]):
        if path.stat().st_uid == os.getuid():
            path.chmod(0o777)
    outcome = await attempt(f"""
victim = {str(victim)!r}
with tempfile.TemporaryDirectory() as own:
    open(own + "/x", "w").write("fine")
    os.link(own + "/x", own + "/y")
return " ".join([
    refused(open, victim), refused(open, victim, "w"), refused(os.truncate, victim, 0),
    refused(os.unlink, victim), refused(os.rename, victim, victim + "2"), refused(os.listdir, "/"),
    refused(open, "/etc/passwd"), refused(open, "/proc/self/environ"), refused(open, "/tmp/new", "w"),
    refused(open, "/dev/shm/new", "w"), refused(open, "/dev/null", "w"),
])
""")
    assert isinstance(outcome, Done), outcome
    assert outcome.result == b" ".join([b"EACCES"] * 10 + [b"allowed"])
    assert victim.read_text() == "precious"


async def test_a_strict_script_is_told_its_own_bounds_and_nothing_of_others(attempt):
    outcome = await attempt("""
own = open("/proc/self/cgroup").read()
for path in ("/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/tasks", "/sys/fs/cgroup", "/proc/self/maps", "/proc/1/cgroup"):
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read()
        own = f"{path} is readable"
    except OSError:
        pass
return own
""")
    assert isinstance(outcome, Done), outcome
    assert b":" in outcome.result
    assert b"readable" not in outcome.result


async def test_programs_that_it_starts_are_confined_as_well(attempt):
    outcome = await attempt("""
done = subprocess.run(["cat", "/etc/passwd"], capture_output=True, text=True)
print(subprocess.run(["echo", "hello"], capture_output=True, text=True).stdout, end="")
print(done.stderr.strip())
""")
    assert outcome.output == b"hello\ncat: /etc/passwd: Permission denied\n", outcome


NETWORK = """
results = []
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    results.append(refused(socket.socket, family))
socket.socketpair()
return " ".join(results)
"""

WAYS_OUT = """
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    ctypes.set_errno(0)
    return "allowed" if getattr(libc, name)(*arguments) >= 0 else errno.errorcode[ctypes.get_errno()]
return " ".join([
    call("setsid"), call("setpgid", 0, 0), call("unshare", 0x10000000), call("mount", b"a", b"/", b"tmpfs", 0, 0),
    call("ptrace", 0, 0, 0, 0), call("syscall", 425, 1, 0), call("syscall", 321, 0, 0, 0), call("chroot", b"/"),
])
"""


async def test_a_strict_script_has_no_pair_that_can_send_to_others(attempt):
    outcome = await attempt("""
kinds = (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
return " ".join(refused(socket.socketpair, socket.AF_UNIX, kind) for kind in kinds)
""")
    assert outcome.result == b"EPERM EPERM EPERM allowed allowed", outcome


async def test_a_strict_script_has_no_network(attempt):
    outcome = await attempt(NETWORK)
    assert outcome.result == b"EPERM EPERM EPERM", outcome


@pytest.mark.parametrize("level", ["strict", "normal"])
async def test_no_way_out_of_the_process_group_or_into_the_kernel(attempt, level):
    outcome = await attempt(WAYS_OUT, sandbox=level)
    assert outcome.result == b"EPERM EPERM EPERM EPERM EPERM ENOSYS EPERM EPERM", outcome


async def test_other_processes_cannot_be_signalled(attempt):
    outcome = await attempt(
        f"return refused(os.kill, {os.getpid()}, 0) + refused(os.kill, os.getppid(), 0)"
    )
    assert outcome.result == b"EPERMEPERM"


async def test_a_normal_script_has_files_and_network_as_its_owner_and_the_same_bounds(attempt):
    outcome = await attempt(NETWORK, sandbox="normal")
    assert outcome.result == b"allowed allowed allowed", outcome
    outcome = await attempt(
        "open('/etc/passwd').read(); return refused(open, '/etc/shadow')", sandbox="normal"
    )
    assert outcome.result == (b"EACCES" if os.getuid() == 0 else outcome.result), outcome
    outcome = await attempt("while True: os.fork()", sandbox="normal")
    assert "Resource temporarily unavailable" in outcome.message


async def test_root_where_allowed_has_no_powers(pool, cut):
    if os.getuid() != 0:
        return  # only root can make somebody root
    pool.settings = msgspec.structs.replace(pool.settings, allow_root=True)
    body = "@watch('a')\ndef f(event, ctx): return [l for l in open('/proc/self/status') if l[:3] == 'Cap'].__repr__()"
    tried = msgspec.structs.replace(script(HEAD + body), uid=0, gid=0)
    outcome = await pool.run(run_of(tried, "f", cut.event("a"), sandbox="normal"), cut)
    assert outcome.result.count(b"0000000000000000") == 5, outcome


@pytest.mark.parametrize(
    ("landlock", "filters"), [(0, {"strict": b"", "normal": b""}), (7, {}), (0, {})]
)
def test_where_strict_cannot_be_had_it_is_refused_and_not_run_unconfined(landlock, filters):
    spawn = Spawn(1, 1, 1, (), "strict", Limits(1, 1, 1, 1))
    with pytest.raises(OSError, match="sandbox strict: the kernel has none"):
        sandbox.confine(spawn, sandbox.Confinement(landlock, filters, ["the kernel has none"]))

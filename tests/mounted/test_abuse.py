"""What a daemon has to live through: handlers that break, no descriptors, no memory, a slow disk, names and values made up.

Method: the limit or the fault is put on the running daemon from outside (prlimit(2), strace), calls are made, the limit
is taken away again, and everything that was ever accepted must be there. What is served meanwhile is counted, not timed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.mounted.conftest import Mount, cascadefs, environment
from tests.mounted.program import run, start_python

pytestmark = pytest.mark.mounted

NOBODY = 65534
TRACER_SECONDS = 10.0


@contextlib.contextmanager
def limited(mount: Mount, which: int, limit: int):
    """The daemon may have so much of something, and no more, inside."""
    before = resource.prlimit(mount.pid, which, (limit, resource.prlimit(mount.pid, which)[1]))
    try:
        yield
    finally:
        resource.prlimit(mount.pid, which, before)


@contextlib.contextmanager
def traced(mount: Mount, *options: str):
    """The daemon under strace, inside."""
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", *options, "-p", str(mount.pid)],
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + TRACER_SECONDS
        while "TracerPid:\t0" in Path(f"/proc/{mount.pid}/status").read_text():
            assert time.monotonic() < until
            time.sleep(0.02)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(TRACER_SECONDS)


def refused(call) -> str:
    """The name of the errno of a call; "" if it was done."""
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""


# --- handlers that break ------------------------------------------------------------------------------------------------


def test_a_handler_that_breaks_is_one_error_and_one_line(make_mount, door: str) -> None:
    """A bug of ours in one call: EIO for whoever made it, said once, and the mount lives on."""
    mount = make_mount(mounted=False)
    patch = (
        "import storage.namespace as n, cascadefs.cli as c\n"
        "def broken(self, inode): raise ZeroDivisionError('a bug of ours')\n"
        "n.Namespace.target = broken\n"
        "c.main()\n"
    )
    where = ["mount", mount.path, "--data", mount.data, "--door", door]
    subprocess.run([sys.executable, "-c", patch, *where], check=True, env=environment(), timeout=60)
    mount.find_daemon()
    os.symlink("target", mount.path / "link")
    for _ in range(20):
        assert refused(lambda: os.readlink(mount.path / "link")) == "EIO"
    (mount.path / "file").write_bytes(b"lives on")
    assert (mount.path / "file").read_bytes() == b"lives on"
    assert mount.status()["errors"]["EIO"] == 20
    assert len([line for line in mount.log().splitlines() if "a bug of ours" in line]) == 1
    mount.umount()
    mount.mount()
    assert os.readlink(mount.path / "link") == "target"


# --- not enough of something --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_descriptor_left(mount) -> None:
    """Old segments cannot be opened and new ones not made: errors for who needs them, and for nobody else."""
    old, new = Random(1).randbytes(100_000_000), b"new" * 1000
    (mount.path / "old").write_bytes(old)
    mount.remount()
    (mount.path / "new").write_bytes(new)
    used = max(int(name) for name in os.listdir(f"/proc/{mount.pid}/fd")) + 1
    with limited(mount, resource.RLIMIT_NOFILE, used):
        seen = {refused(lambda: (mount.path / "old").read_bytes()) for _ in range(3)}
        assert seen <= {"EMFILE", "EIO", ""}
        assert (mount.path / "new").read_bytes() == new
        (mount.path / "small").write_bytes(b"small")
        said = refused(lambda: (mount.path / "big").write_bytes(old))
        assert said in ("EMFILE", "EIO", "")
        assert mount.status()["pid"] == mount.pid
    assert (mount.path / "old").read_bytes() == old
    (mount.path / "big").write_bytes(old)
    assert (mount.path / "big").read_bytes() == old
    assert (mount.path / "small").read_bytes() == b"small"
    mount.umount()
    cascadefs("fsck", mount.data)
    mount.mount()


@pytest.mark.slow
def test_little_memory(mount) -> None:
    """Reads and writes of a daemon that gets no more address space may fail; none gives wrong bytes, and it lives."""
    data = Random(2).randbytes(30_000_000)
    (mount.path / "before").write_bytes(data)
    mount.remount()
    status = Path(f"/proc/{mount.pid}/status").read_text()
    size = int(status.split("VmSize:")[1].split()[0]) * 1024
    told: Counter[str] = Counter()
    kept = {}
    with limited(mount, resource.RLIMIT_AS, size):
        for number in range(6):
            name, content = f"during {number}", data[: 3_000_000 * number + 10]
            said = refused(lambda n=name, c=content: (mount.path / n).write_bytes(c))
            told[said] += 1
            if not said:
                kept[name] = content
            with contextlib.suppress(OSError):
                assert (mount.path / "before").read_bytes() == data
    print(f"figure: under a memory limit: {dict(told)}")
    assert set(told) <= {"", "EIO", "ENOMEM"}, mount.log()
    assert mount.status()["pid"] == mount.pid
    assert (mount.path / "before").read_bytes() == data
    for name, content in kept.items():
        assert (mount.path / name).read_bytes() == content
    (mount.path / "after").write_bytes(data)
    mount.umount()
    cascadefs("fsck", mount.data)
    mount.mount()
    assert (mount.path / "after").read_bytes() == data


@pytest.mark.slow
def test_a_slow_disk_holds_up_who_waits_for_it_and_nobody_else(make_mount, door: str) -> None:
    """Every fdatasync takes half a second: while one program waits for it, another is served on and on."""
    mount = make_mount("--door", door, "--sync-interval", "30")
    (mount.path / "read").write_bytes(b"r" * 4096)
    with traced(mount, "-e", "inject=fdatasync:delay_enter=500000", "-e", "trace=fdatasync"):
        done = threading.Event()

        def waits() -> None:
            with open(mount.path / "synced", "wb") as file:
                for number in range(4):
                    file.write(b"%d" % number)
                    file.flush()
                    os.fsync(file.fileno())
                    served.append(0)
            done.set()

        served = [0]
        thread = threading.Thread(target=waits)
        thread.start()
        number = 0
        while not done.is_set():
            with open(mount.path / "read", "rb") as file:
                file.read()
            (mount.path / f"w{number % 10}").write_bytes(b"w")
            served[-1] += 1
            number += 1
        thread.join()
    print(
        f"figure: rounds of open, read, create, write, close served during each fsync of 0.5 s: {served}"
    )
    # The first may be served on the spot, by a daemon that knows the disk as a fast one.
    assert sorted(served[:-1])[1] > 0


# --- made up ------------------------------------------------------------------------------------------------------------


def test_extended_attributes_made_up(shared_mount) -> None:
    """Any name, any value, any flag: done and read back as it was, or refused with an errno that says why."""
    path = shared_mount.path / "attributes made up"
    path.write_bytes(b"content")
    random = Random(5)
    told: Counter[str] = Counter()
    stored: dict[str, bytes] = {}
    words = (
        "version",
        "restore",
        "at_names",
        "retention",
        "if_version",
        "hold",
        "label",
        "hash",
        "x",
    )
    for _ in range(600):
        space = random.choice(
            ("user.", "user.", "trusted.", "security.", "system.", "user.cascade.", "")
        )
        tail = random.choice(
            (random.choice(words), "n" * random.randrange(1, 300), chr(random.randrange(1, 0xD800)))
        )
        name = space + tail
        value = random.randbytes(random.choice((0, 1, 10, 255, 4096, 65_535, 65_536, 65_537)))
        flags = random.choice((0, 0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))

        def set_it(name: str = name, value: bytes = value, flags: int = flags) -> None:
            os.setxattr(path, name, value, flags)
            if not name.startswith("user.cascade."):
                stored[name] = value

        told[refused(set_it)] += 1
    print(f"figure: extended attributes made up: {dict(told)}")
    assert told[""] > 20
    assert "EIO" not in told
    assert "EINTR" not in told
    for name, value in stored.items():
        assert os.getxattr(path, name) == value
    assert path.read_bytes() == b"content"


def test_names_with_an_at_made_up(shared_mount) -> None:
    """Names that look like history, looked up, made, listed: never EIO, and what was made is what is found."""
    place = shared_mount.path / "names made up"
    place.mkdir()
    (place / "f.txt").write_bytes(b"one")
    (place / "f.txt").write_bytes(b"two")
    random = Random(6)
    pieces = ("f.txt", "f", ".txt", "@", "@@", "v", "-", "1", "2", "0", "t=", "e=", "tag=", "tag-", "if=", "now", "T", "Z",
              "20260101T000000Z", "1h", ".", "deleted", "\x7f", "é", "99999999999999999999999", ",", ":", "+")  # fmt: skip
    told: Counter[str] = Counter()
    for _ in range(1500):
        name = "".join(random.choice(pieces) for _ in range(random.randrange(1, 7)))
        if name in (".", "..") or len(name) > 200:
            continue
        path = place / name
        told["stat " + refused(lambda p=path: os.stat(p))] += 1
        if random.random() < 0.3:
            told[
                "open "
                + refused(lambda p=path: os.close(os.open(p, os.O_RDWR | os.O_CREAT, 0o600)))
            ] += 1
        if random.random() < 0.1:
            told["list " + refused(lambda p=path: os.listdir(p))] += 1
    print(f"figure: names made up: {dict(told)}")
    assert not [what for what in told if what.endswith("EIO")]
    assert (place / "f.txt").read_bytes() == b"two"
    assert (place / "f.txt@v1").read_bytes() == b"one"
    for name in os.listdir(place):
        assert os.lstat(place / name)


# --- where another user may not go --------------------------------------------------------------------------------------

_INTRUDER = """
    import json, os, sys
    from itertools import islice
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    secret = sys.argv[1].encode()
    tried, free, seen, taken = 0, 0, set(), []

    def look(path):
        global tried, free
        tried += 1
        for what in (os.listdir, os.readlink, lambda p: open(p, "rb").read(), lambda p: os.getxattr(p, "user.note")):
            try:
                found = what(path)
            except OSError:
                continue
            words = found if isinstance(found, list) else [found]
            for word in words:
                word = os.fsencode(word) if isinstance(word, str) else word
                free += word == b"free"
                if secret in word:
                    taken.append([path, repr(word)[:80]])
            if what is os.listdir:
                yield from found

    queue = json.loads(sys.argv[2])
    for path in queue:
        if path in seen or len(queue) > 4000 or path.count("/") > 9:
            continue
        seen.add(path)
        queue += [os.path.join(path, name) for name in look(path)]
    print(json.dumps([tried, free, taken]))
"""


def test_history_opens_no_door_that_is_closed_now(make_mount, door: str) -> None:
    """A stranger tries every path of the past there is: what the live tree keeps from him, the past keeps as well."""
    import json

    mount = make_mount("--door", door, "-o", "allow_other")
    root, secret = mount.path, "TOPSECRET"
    os.chmod(root, 0o755)
    # A directory that was open, closed since; a file that was, closed since; one made closed; one removed; one moved.
    (root / "was open").mkdir(mode=0o755)
    (root / "was open/note").write_text(secret)
    (root / "was open" / secret).mkdir()
    (root / "file").write_text(secret)
    os.setxattr(root / "file", "user.note", secret.encode())
    (root / "closed").mkdir(mode=0o700)
    (root / "closed/inside").write_text(secret)
    (root / "closed/gone").write_text(secret)
    (root / "closed/gone").unlink()
    (root / "closed/moved").write_text(secret)
    (root / "public").mkdir(mode=0o755)
    (root / "public/free").write_text("free")
    os.symlink("../closed/inside", root / "public/link")
    os.symlink(f"../closed/{secret}", root / "closed/hidden link")
    os.mkdir(f"{root}/public@tag-then")
    numbers = [
        path.stat().st_ino
        for path in (root / "file", root / "was open/note", root / "closed/inside")
    ]
    inside = [str(path.relative_to(root)) for path in root.rglob("*")]
    now = run("date", "-u", "+%Y%m%dT%H%M%SZ").strip()
    time.sleep(1.1)
    os.chmod(root / "was open", 0o700)
    os.chmod(root / "file", 0o600)
    os.rename(root / "closed/moved", root / "closed/moved again")
    at = run("date", "-u", "+%Y%m%dT%H%M%SZ").strip()
    specs = [
        "@v1",
        "@v-0",
        "@v-1",
        "@@",
        "@@/v1",
        "@@/.log",
        "@-1s",
        "@t=now",
        f"@{now}",
        f"@{at}",
        "@deleted",
    ]
    starts = ["."] + [f"{name}{spec}" for name in inside for spec in ["", *specs]]
    starts += [f".@{t}/{name}" for t in (now, at, "-1s", "tag-then") for name in ["", *inside]]
    starts += [f"{name}/.@deleted" for name in ["", "closed", "was open"]]
    starts += [f".cascade/at/{t}/{name}" for t in (now, at) for name in ["", *inside]]
    starts += [f".cascade/by-id/{number}/v{v}" for number in numbers for v in (1, 2)]
    starts += ["public@tag-then/link", "public@tag-then/../closed/inside", f"public@{at}/link"]
    # From inside: the way to the mountpoint is closed to strangers.
    intruder = start_python(_INTRUDER, secret, json.dumps(starts), cwd=root)
    said, _ = intruder.communicate(timeout=100)
    assert intruder.returncode == 0
    tried, free, taken = json.loads(said)
    print(
        f"figure: paths tried by a stranger through the {door} door: {tried}, taken: {len(taken)}"
    )
    assert taken == []
    assert tried > 200
    assert free > 5, "what is open to all was read"
    # And the owner sees it all, so the paths were not just wrong.
    assert (root / "file@v1").read_text() == secret
    assert (root / f"was open@{at}/note").read_text() == secret

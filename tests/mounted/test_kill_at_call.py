"""The daemon dies at its n-th write, sync or rename of the data directory, for every n of a small workload.

Method: strace sends SIGKILL as the n-th call of one kind is about to be made, from the making of the store on. A program
saves files in four ways and says what it is about to do and what returned. After the next mount each name must hold
what returned last, or what was under way, whole; fsck must find nothing; and no earlier version may be anything else.

The short form tries a few n of each kind; all of them with ``CASCADEFS_KILL_POINTS=all`` (some minutes), and prints how
many that were. After a kill the kernel has all that was written; power cuts are the business of tests/simulation.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from cascadefs.fuse import mountpoint
from tests.mounted.conftest import Mount, cascadefs, command_line, environment, is_over
from tests.mounted.program import end, start_python

ALL = os.environ.get("CASCADEFS_KILL_POINTS") == "all"
CALLS = ("pwritev2", "pwrite64", "fdatasync", "fsync", "rename", "fallocate", "ftruncate")
SHORT = {
    "pwritev2": (2, 9, 40),
    "pwrite64": (3, 14),
    "fdatasync": (4, 8),
    "fsync": (1, 3),
    "rename": (2,),
}
READY_SECONDS = 60.0
EMPTY = hashlib.sha256(b"").hexdigest()

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.slow,
    pytest.mark.timeout(3600 if ALL else 120, method="thread"),
]

_WORKLOAD = """
    import hashlib, json, os
    from random import Random
    random = Random(12)

    def say(*words):
        os.write(1, json.dumps(words).encode() + b"\\n")

    def save(name, data):
        with open(name, "wb") as file:
            file.write(data)

    def replace(name, data):
        save("temporary", data)
        os.rename("temporary", name)

    def synced(name, data):
        f = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(f, data)
        os.fsync(f)
        os.close(f)

    try:
        for turn in range(30):
            way = (save, replace, synced)[turn % 3]
            name = f"{way.__name__}{turn % 2}"
            data = random.randbytes((0, 10, 5000, 70_000, 300_000)[turn % 5])
            if turn % 10 == 9 and os.path.exists(name):
                say("begin", name, None)
                os.unlink(name)
            else:
                say("begin", name, hashlib.sha256(data).hexdigest())
                way(name, data)
            say("done")
        say("end")
    except OSError as error:
        say("over", error.errno)
"""


def killed_at(mount: Mount, call: str, nth: int) -> tuple[bool, list[list]]:
    """Make a store and run the workload on it; whether the daemon was killed, and what the workload said."""
    inject = f"inject={call}:signal=KILL:when={nth}"
    tracing = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    mounting = [
        "mount",
        mount.path,
        "--data",
        mount.data,
        "--foreground",
        "--sync-interval",
        "0.05",
    ]
    daemon = subprocess.Popen(
        [*tracing, *command_line(*mounting)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert daemon.stdout is not None
    try:
        if not daemon.stdout.readline().startswith("ready"):
            return True, []
        program = start_python(_WORKLOAD, cwd=mount.path)
        said, _ = program.communicate(timeout=READY_SECONDS)
        end(program)
        lines = [json.loads(line) for line in said.splitlines()]
        if lines[-1] == ["end"]:
            with contextlib.suppress(OSError):  # It may die at this very moment, or at its end.
                pid = json.loads((mount.path / ".cascade/status").read_bytes())["pid"]
                subprocess.run(["umount", mount.path], check=True, timeout=READY_SECONDS)
                assert is_over(pid, READY_SECONDS)
        daemon.wait(READY_SECONDS)
        return daemon.returncode != 0, lines
    finally:
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(READY_SECONDS)
        while mount.is_mounted():
            mountpoint.unmount(mount.path, lazy=True)
        daemon.stdout.close()


def check(mount: Mount, said: list[list], where: str) -> None:
    """What is there is what was promised."""
    state: dict[str, str | None] = {}
    ever: dict[str, set[str | None]] = {}
    pending: tuple[str, str | None] | None = None
    for line in said:
        if line[0] == "begin":
            pending = line[1], line[2]
            ever.setdefault(line[1], {None, EMPTY}).add(line[2])
        elif line[0] == "done" and pending is not None:
            state[pending[0]] = pending[1]
            pending = None
    for name in ever:
        path = mount.path / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
        allowed = {state.get(name)}
        if pending is not None and pending[0] == name:
            # Under way: as before, as after, or made and not closed yet.
            allowed |= {pending[1]} | ({EMPTY} if not name.startswith("replace") else set())
        assert found in allowed, f"{where}: {name}"
        listing = mount.path / f"{name}@@"
        for version in os.listdir(listing) if listing.exists() else ():
            content = hashlib.sha256((listing / version).read_bytes()).hexdigest()
            assert content in ever[name], f"{where}: {name}@{version}"


def points() -> list[tuple[str, int]]:
    if ALL:
        return [(call, nth) for call in CALLS for nth in range(1, 10_000)]
    return [(call, nth) for call in SHORT for nth in SHORT[call]]


def test_killed_at_every_call(make_mount) -> None:
    tried: dict[str, int] = {}
    over: set[str] = set()
    for call, nth in points():
        if call in over:
            continue
        mount = make_mount(mounted=False)
        dead, said = killed_at(mount, call, nth)
        where = f"killed at {call} {nth}"
        if not dead:
            over.add(call)  # The workload makes no more calls of this kind.
        else:
            tried[call] = tried.get(call, 0) + 1
        if mount.data.exists():
            mount.mount()
            check(mount, said, where)
            mount.umount()
            cascadefs("fsck", mount.data)
        _remove(mount.data)
    print(f"figure: killed at a call: {sum(tried.values())} points {tried}, 0 violations")
    assert sum(tried.values()) >= (100 if ALL else 6)


def _remove(data: Path) -> None:
    for path in sorted(data.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()

"""Daemon and workers are killed at random over a thousand versions and a chain of three scripts: nothing lost, nothing twice.

Method: one thread writes versions, another kills (SIGKILL, seeded): the daemon, or every worker there is. A write that the
death of the daemon interrupts is looked for after the next mount, and done again if it is not there, so the test knows which
versions there are. Then everything is counted: each version ran through all three scripts or is among the dead letters; each
effect is there once, in the order of its key; states have counted every run; every output leads back, by what it says of
itself, to a version that a program wrote.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from cascadefs.cli.base import provenance
from tests.mounted.conftest import END_SECONDS, cascadefs, is_over
from tests.mounted.test_triggers import MODE, bindings, install, wait_for

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(300)]

VERSIONS = 1000
FILES = 40
DAEMON_KILLS = 6
WORKER_KILLS_BETWEEN = 3
REJECTED = 97
"""Every so manyth version is rejected by the first script, so that there are dead letters."""

CHAIN = f"""
from cascadefs.triggers import watch

OPTIONS = dict(attempts=100, backoff="5ms")

@watch("in/*", emit="mid/", **OPTIONS)
def first(event, ctx):
    number = int(event.data.tobytes())
    if number % {REJECTED} == 0:
        ctx.reject("every so manyth")
    ctx.emit(event.name, event.data.tobytes())

@watch("mid/*", emit="out/", **OPTIONS)
def second(event, ctx):
    ctx.state["runs"] = ctx.state.get("runs", 0) + 1
    ctx.emit(event.name, event.data.tobytes() + b" %d" % ctx.state["runs"])

@watch("out/*", batch=8, **OPTIONS)
def third(events, ctx):
    for event in events:
        ctx.append("ledger", event.name.encode() + b" " + event.data.tobytes() + b"\\n")
"""


class Killer(threading.Thread):
    """Kills workers, now and then the daemon, and waits until it is mounted again."""

    def __init__(self, mount, random: Random) -> None:
        super().__init__(daemon=True)
        self.mount = mount
        self.random = random
        self.mounted = threading.Event()
        self.mounted.set()
        self.killed: Counter[str] = Counter()

    def run(self) -> None:
        pause = threading.Event()
        for _ in range(DAEMON_KILLS):
            for _ in range(WORKER_KILLS_BETWEEN):
                pause.wait(self.random.uniform(0.05, 0.4))
                for pid in workers_of(self.mount.pid):
                    self.kill(pid, "worker")
            pause.wait(self.random.uniform(0.05, 0.4))
            self.mounted.clear()
            self.kill(self.mount.pid, "daemon")
            self.mounted.wait()

    def kill(self, pid: int, what: str) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.killed[what] += 1

    def mount_again(self) -> None:
        """If the daemon was killed: mount, from another thread than this one."""
        if not self.mounted.is_set():
            assert is_over(self.mount.pid, END_SECONDS)
            self.mount.mount()
            self.mounted.set()


def workers_of(daemon: int) -> list[int]:
    """The processes below a daemon's zygote."""
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_bytes()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(b")")[2].split()[1])
    zygotes = {pid for pid, parent in parents.items() if parent == daemon}
    return [pid for pid, parent in parents.items() if parent in zygotes]


def write_all(farm: Path, killer: Killer) -> dict[str, list[int]]:
    """Write the versions; which numbers each file got, in order."""
    wrote: dict[str, list[int]] = {f"f{number}": [] for number in range(FILES)}
    for number in range(1, VERSIONS + 1):
        name = f"f{number % FILES}"
        path = farm / "in" / name
        while True:
            try:
                path.write_text(str(number))
                break
            except OSError:
                assert not killer.mounted.is_set() or not is_alive(killer.mount.pid)
                killer.mounted.clear()
                killer.mount_again()
                if is_there(path, number, len(wrote[name])):
                    break
        wrote[name].append(number)
    return wrote


def is_alive(pid: int) -> bool:
    return not is_over(pid, 0)


def is_there(path: Path, number: int, before: int) -> bool:
    """Whether a write that was interrupted made a version; nothing else can have."""
    try:
        head = int(os.getxattr(path, "user.cascade.head"))
    except OSError:
        return False
    if head == before:
        return False
    assert head == before + 1
    return path.read_text() == str(number)


def versions(path: Path) -> list[str]:
    head = int(os.getxattr(path, "user.cascade.head"))
    return [path.with_name(f"{path.name}@v{n + 1}").read_text() for n in range(head)]


def test_a_thousand_versions_through_three_scripts_whatever_is_killed(make_mount):
    mount = make_mount(MODE)
    farm = mount.path / "farm"
    (farm / "in").mkdir(parents=True)
    mount.farm = farm
    install(mount, "chain.py", CHAIN)
    killer = Killer(mount, Random(8))
    killer.start()
    wrote = write_all(farm, killer)
    while killer.is_alive():
        killer.mount_again()
        killer.join(0.05)
    assert killer.killed["daemon"] == DAEMON_KILLS
    assert killer.killed["worker"] >= DAEMON_KILLS

    def is_idle() -> bool:
        known = bindings(mount)
        return len(known) == 3 and all(one["pending"] == 0 for one in known.values())

    rejected = {number for number in range(1, VERSIONS + 1) if number % REJECTED == 0}
    ran = VERSIONS - len(rejected)
    wait_for(lambda: is_idle() and bindings(mount)["chain.py:third"]["done"] == ran, "end", 120)
    check_that_all_ran_once(farm, wrote, rejected)
    check_where_everything_comes_from(mount.path, farm, wrote, rejected)
    mount.remount()
    wait_for(is_idle, "start")
    assert {name: one["done"] for name, one in bindings(mount).items()} == {
        "chain.py:first": ran, "chain.py:second": ran, "chain.py:third": ran,
    }  # fmt: skip


def check_that_all_ran_once(farm: Path, wrote: dict[str, list[int]], rejected: set[int]) -> None:
    failed = farm / ".cascade/failed/chain.py:first"
    dead = [(failed / name / "input").read_text() for name in os.listdir(failed)]
    assert sorted(map(int, dead)) == sorted(rejected)
    for name in ("second", "third"):
        assert os.listdir(farm / f".cascade/failed/chain.py:{name}") == []
    ledger = (farm / "ledger").read_text().splitlines()
    for name, numbers in wrote.items():
        good = [number for number in numbers if number not in rejected]
        assert versions(farm / "in" / name) == [str(number) for number in numbers]
        assert versions(farm / "mid" / name) == [str(number) for number in good]
        counted = [f"{number} {at + 1}" for at, number in enumerate(good)]
        assert versions(farm / "out" / name) == counted
        assert [line for line in ledger if line.startswith(f"{name} ")] == [
            f"{name} {line}" for line in counted
        ]
    assert len(ledger) == VERSIONS - len(rejected)


def check_where_everything_comes_from(
    root: Path, farm: Path, wrote: dict[str, list[int]], rejected: set[int]
) -> None:
    """Of every version of every output, down to the roots; as `cascadefs why` goes."""
    for name, numbers in wrote.items():
        good = [at + 1 for at, number in enumerate(numbers) if number not in rejected]
        for number, root_version in enumerate(good, 1):
            here = [f"out/{name}@v{number}"]
            for binding in ("second", "first"):
                known = provenance(farm / here[0])
                assert known is not None, here
                assert known["binding"] == f"chain.py:{binding}"
                assert known["outputs"] == here
                assert known["root"].startswith(f"{(farm).stat().st_ino:x}/chain.py:first/")
                here = known["triggers"]
            assert here == [f"in/{name}@v{root_version}"]
            assert provenance(farm / here[0]) is None, "a program wrote it"
    traced = 0
    for number in range(1, int(os.getxattr(farm / "ledger", "user.cascade.head")) + 1):
        known = provenance(farm / f"ledger@v{number}")
        assert known is not None
        assert known["binding"] == "chain.py:third"
        traced += len(known["triggers"])
    assert traced == VERSIONS - len(rejected)
    said = cascadefs("why", farm / "out/f1@v3").stdout
    for part in ("chain.py:second", "mid/f1@v3", "chain.py:first", f"in/f1@v{3}"):
        assert part in said
    status = json.loads((root / ".cascade/status").read_bytes())
    assert status["trouble"] is None

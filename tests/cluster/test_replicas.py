"""Goal: replicas end up the same whatever became of one: missed records, an empty disk, flipped bytes, a full disk; and etcd may be away
for as long as nobody else fails.

Method: three `cascadefs serve`, a real etcd, programs that write through `cascadefs.connect`. The logs are compared to the byte. The
disk that is full is a tmpfs with something else on it, that goes away later.
"""

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from storage.codec import HEAD_BYTES
from storage.disk import RealDisk
from storage.inspection import superblock_from_log
from storage.log import Log
from tests.cluster.fleet import Fleet
from tests.cluster.load import Load
from tests.etcd import Etcd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAMES = ("n1", "n2", "n3")
ETCD_AWAY_S = 5
DISK_BYTES = 600 * 2**20
LEFT_BYTES = 6 * 2**20


def follower(fleet, shard=0):
    leader = fleet.leader(shard)
    return next(name for name in NAMES if name != leader)


def test_a_node_that_was_away_and_one_with_an_empty_disk_come_back(fleet):
    with fleet.program() as store:
        for number in range(40):
            store.put(f"d{number % 4}/f{number}", os.urandom(20_000))
        victim = follower(fleet)
        fleet.kill(victim)
        for number in range(40):
            store.put(f"d{number % 4}/f{number}", os.urandom(20_000))
        fleet.start(victim)
        fleet.check_logs()
        fleet.kill(victim)
        fleet.wipe(victim)
        for number in range(40):
            store.put(f"d{number % 4}/f{number}", os.urandom(20_000))
        fleet.start(victim)
        fleet.check_logs()
        assert len(store.versions("d1/f1")) == 3


def test_flipped_bytes_are_found_by_scrub_and_put_back(fleet):
    with fleet.program() as store:
        for number in range(200):
            store.put(f"d{number % 4}/g{number}", os.urandom(5_000))
    fleet.wait_well()
    victim = follower(fleet)
    flipped = 0
    for shard in fleet.status(victim)["shards"]:
        disk = RealDisk(fleet.directory / victim / "data/shards" / f"{shard['shard']:03}")
        for place in places_in(disk):
            flip(place.path, place.at)
            flipped += 1
    assert flipped > 4

    fleet.wait(lambda: mended(fleet, victim) >= flipped, "scrub finds what was flipped")
    fleet.check_logs()
    assert all(shard["damaged"] == 0 for shard in fleet.status(victim)["shards"])
    print(f"figure: bytes flipped in a replica: {flipped}, all found by scrub and put back")


def test_fsck_judges_a_nodes_directory_and_leaves_the_mending_to_the_node(fleet):
    with fleet.program() as store:
        for number in range(40):
            store.put(f"d{number % 4}/h{number}", os.urandom(5_000))
    fleet.wait_well()
    victim = follower(fleet)
    shards = fleet.status(victim)["shards"]
    fullest = max(shards, key=lambda shard: shard["log_bytes"])["shard"]
    fleet.kill(victim)
    data = fleet.directory / victim / "data"
    assert fsck(data)[0] == 0
    flip(fleet.segments(victim)[f"{fullest:03}/log/{0:016x}.seg"], 20_000)  # What a program wrote.
    status, found = fsck(data)
    assert (status, found["verdict"]) == (2, "damaged")
    verdicts = [place["verdict"] for place in found["shards"]]
    assert verdicts.count("damaged") == 1
    assert verdicts[fullest] == "damaged"
    refusal = command("repair", data)
    assert refusal.returncode == 8
    assert "mends itself" in refusal.stderr
    fleet.start(victim)
    fleet.wait(lambda: mended(fleet, victim), "scrub finds what was flipped")
    fleet.check_logs()
    fleet.kill(victim)
    assert fsck(data)[0] == 0
    fleet.start(victim)


class Spot(NamedTuple):
    path: Path
    at: int


def places_in(disk, count=4):
    """Where some payloads of a log lie on the disk: in its first segment, if that was never condensed, and not in the last record."""
    log = Log.open(disk, superblock_from_log(disk).identity_number, read_only=True)
    try:
        if log.segment_size(0) < log.segment_bytes:
            return []
        frames = [
            frame
            for frame in log.frames()
            if frame.payload_length > 1000
            and frame.address < log.segment_bytes
            and frame.index < log.last_index
        ]
        path = Path(str(disk)) / f"log/{0:016x}.seg"
        step = max(len(frames) // count, 1)
        return [
            Spot(path, frame.address + HEAD_BYTES + len(frame.metadata) + frame.payload_length // 2)
            for frame in frames[::step][:count]
        ]
    finally:
        log.close()


def mended(fleet, name):
    return sum(shard["mended"] for shard in fleet.status(name)["shards"])


def fsck(data):
    done = command("fsck", "--json", data)
    return done.returncode, json.loads(done.stdout)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "cascadefs.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def test_etcd_that_stands_still_holds_up_nobody(fleet):
    load = Load(fleet, "etcd", programs=1, directories=4)
    load.start()
    try:
        for begin, end in (
            (fleet.etcd.freeze, fleet.etcd.thaw),
            (fleet.etcd.kill, fleet.etcd.start),
        ):
            load.disturbed()
            begin()
            time.sleep(ETCD_AWAY_S)  # Longer than every lease.
            load.go_on(100)
            end()
            load.go_on()
        load.stop()
    finally:
        load.end()
    with fleet.program() as store:
        count = load.check(store)
    fleet.check_logs()
    pauses = ", ".join(f"{pause:.2f} s" for pause in load.pauses())
    print(f"figure: etcd frozen and killed: {count} writes, 0 lost; the slowest meanwhile {pauses}")


def test_without_etcd_a_lost_node_is_a_pause_until_etcd_is_back(fleet):
    load = Load(fleet, "both", programs=1, directories=4)
    load.start()
    try:
        victim = follower(fleet)
        fleet.etcd.kill()
        load.go_on(30)
        load.disturbed()
        fleet.kill(victim)
        before = len(load.all())
        time.sleep(ETCD_AWAY_S)
        assert len(load.all()) <= before + 20, "without a member nothing commits"
        fleet.etcd.start()
        load.go_on()
        fleet.start(victim)
        load.stop()
    finally:
        load.end()
    with fleet.program() as store:
        load.check(store)
    fleet.check_logs()


# --- full disks -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disks(fleet, names):
    """Data directories on file systems of their own; answers where each is."""
    places = {name: fleet.directory / name / "data" for name in names}
    try:
        for place in places.values():
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "cascadefs-test", place]
            subprocess.run(mount, check=True, timeout=20)
        yield places
    finally:
        for place in places.values():
            subprocess.run(["umount", "-l", place], check=False, timeout=20)


def fill(place):
    """Have something else take all room but a little."""
    found = os.statvfs(place)
    with (place / "something").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - LEFT_BYTES)


def refusal(work):
    """The errno of the first of some calls that is refused."""
    for _ in range(100):
        try:
            work()
        except OSError as error:
            return error.errno
    raise AssertionError("nothing was refused")


@pytest.fixture
def cramped(tmp_path):
    with (
        Etcd(tmp_path) as etcd,
        Fleet(tmp_path, etcd.endpoints, NAMES, 1) as fleet,
        small_disks(fleet, NAMES) as places,
    ):
        fleet.start()
        fleet.wait_well()
        yield fleet, places


def test_full_disks(cramped):
    fleet, places = cramped
    block = os.urandom(2**20)
    with fleet.program() as store:
        store.put("before", "x")
        store.put("goes", "x")
        victim = fleet.leader(0)
        fill(places[victim])
        fleet.wait(lambda: fleet.leader(0) != victim, "a full leader hands over")
        for _ in range(70):  # More than a segment.
            store.put("big", block)
        fleet.wait(lambda: victim not in fleet.epochs()[0].members, "a full member is left out")
        assert len(store.versions("big")) == 70
        (places[victim] / "something").unlink()
        fleet.check_logs()

        for place in places.values():
            fill(place)
        assert refusal(lambda: store.put("more", block)) == errno.ENOSPC
        assert store.get("big", version=3) == block
        assert store.get("before") == b"x"
        assert store.delete("goes")
        assert [entry.name for entry in store.list()][:2] == ["before", "big"]
        for place in places.values():
            (place / "something").unlink()
        done = threading.Event()
        until = time.monotonic() + 90
        while not done.is_set():
            assert time.monotonic() < until
            with contextlib.suppress(OSError):
                store.put("after", block)
                done.set()
        assert store.get("after") == block
    fleet.check_logs()

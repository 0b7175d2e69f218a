"""Goal: the tree at a moment of the past is one cut through all shards, always, idle shards and failovers included.

Method: one program puts a hundred files, spread over the shards, one after the other, tick by tick; another changes five files at once, in
batches. Readers of other nodes list everything at random moments, many of them just gone by, while a leader is killed and comes
back. As a causes b where b was put after a returned, in the order of writing the files may show tick k up to somewhere and k-1 from
there on, and nothing else; a batch one tick only. What was read once is read again the same.
"""

import itertools
import os
import random
import threading
import time

import pytest

FILES = 100
DIRECTORIES = 10
SECONDS = float(os.environ.get("CASCADEFS_CUT_SECONDS", "15"))
READERS = 2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240 + 3 * SECONDS)]


class Writer(threading.Thread):
    """Puts the files in order, tick by tick."""

    def __init__(self, store, over):
        super().__init__(daemon=True)
        self.store, self.over, self.ticks, self.failure = store, over, 0, None

    def run(self):
        try:
            for tick in itertools.count(1):
                for number in range(FILES):
                    self.store.put(path_of(number), f"{tick}")
                with self.store.batch() as batch:
                    for number in range(5):
                        batch.put(f"together/f{number}", f"{tick}")
                self.ticks = tick
                if self.over.is_set():
                    return
        except Exception as error:
            self.failure = error


def path_of(number):
    return f"cut{number % DIRECTORIES}/f{number:03}"


class Reader(threading.Thread):
    """Lists everything at moments of the past."""

    def __init__(self, store, seed, began_us, over):
        super().__init__(daemon=True)
        self.store, self.random, self.began_us, self.over = (
            store,
            random.Random(seed),
            began_us,
            over,
        )
        self.seen, self.not_yet, self.failure = {}, 0, None

    def run(self):
        try:
            while not self.over.is_set():
                self.look()
        except Exception as error:
            self.failure = error

    def look(self):
        now_us = time.time_ns() // 1000
        recent = self.random.random() < 0.5
        first_us = max(self.began_us, now_us - 300_000) if recent else self.began_us
        at = self.random.randint(first_us, now_us - 1)
        try:
            found = self.at(at)
            if self.random.random() < 0.02:
                self.check_bytes(at, found)
        except BlockingIOError:
            self.not_yet += 1  # A shard without a leader: not final yet, and said to be.
            return
        check(at, found)
        self.seen[at] = found

    def at(self, at):
        versions = {}
        for directory in [f"cut{number}" for number in range(DIRECTORIES)] + ["together"]:
            try:
                entries = self.store.list(directory, at=at)
            except FileNotFoundError:
                continue
            versions |= {f"{directory}/{entry.name}": entry.version for entry in entries}
        ticks = tuple(versions.get(path_of(number), 0) for number in range(FILES))
        return ticks, tuple(versions.get(f"together/f{number}", 0) for number in range(5))

    def check_bytes(self, at, found):
        number = self.random.randrange(FILES)
        if found[0][number]:
            assert self.store.get(path_of(number), at=at) == b"%d" % found[0][number]


def check(at, found):
    ticks, batch = found
    newest = ticks[0]
    done = sum(tick == newest for tick in ticks)
    assert ticks == (newest,) * done + (newest - 1,) * (FILES - done), (at, ticks)
    assert len(set(batch)) == 1, (at, batch)
    assert batch[0] in (newest, newest - 1), (at, ticks, batch)
    assert done == FILES or batch[0] == newest - 1, (at, ticks, batch)


def test_every_moment_is_one_cut(fleet):
    over, writing = threading.Event(), threading.Event()
    stores = [fleet.program() for _ in range(READERS + 1)]
    began_us = time.time_ns() // 1000
    writer = Writer(stores[0], writing)
    readers = [Reader(store, seed, began_us, over) for seed, store in enumerate(stores[1:])]
    threads = [writer, *readers]
    lags_ms = []
    try:
        for thread in threads:
            thread.start()
        until = time.monotonic() + SECONDS
        victim = fleet.leader(1)
        killed = False
        while time.monotonic() < until and not any(thread.failure for thread in threads):
            time.sleep(0.5)
            if time.monotonic() > until - SECONDS / 2 and not killed:
                fleet.kill(victim)
                fleet.start(victim)
                killed = True
            for status in fleet.statuses().values():
                lags_ms += [shard["frontier_lag_ms"] for shard in (status or {}).get("shards", ())]
        lags_ms = [lag for lag in lags_ms if lag is not None]  # None: a node that has just begun.
    finally:
        writing.set()
        writer.join(120)
        over.set()
        for reader in readers:
            reader.join(120)
    for thread in threads:
        assert not thread.is_alive()
        assert thread.failure is None, repr(thread.failure)
    fleet.wait_well()
    for reader in readers:
        assert len(reader.seen) > 10
        for at in reader.random.sample(sorted(reader.seen), min(len(reader.seen), 100)):
            assert reader.at(at) == reader.seen[at]
    for store in stores:
        store.close()
    moments = sum(len(reader.seen) for reader in readers)
    again = sum(reader.not_yet for reader in readers)
    lags_ms.sort()
    print(
        f"figure: {FILES} files on several shards, {writer.ticks} ticks, a leader killed: {moments} moments read, 0 that are no cut; "
        f"{again} were not final yet; lag of the frontier {lags_ms[len(lags_ms) // 2]} ms, at most {lags_ms[-1]} ms"
    )


def test_what_is_not_final_yet_is_refused(fleet):
    with fleet.program() as store:
        store.put("future", "x")
        with pytest.raises(FileNotFoundError, match="in the future"):
            store.get("future", at=time.time_ns() // 1000 + 30_000_000)
        at = store.now()
        assert store.get("future", at=at) == b"x"
        store.put("future", "y")
        assert store.get("future", at=at) == b"x"

"""One store, one simulated machine, one seed: a life of writes, faults, ends and restarts, checked after each.

What must hold, and is looked at here and nowhere else:

1. *Acknowledged is there.* What `wait_durable` returned for is in the log after any power cut; what was recorded at all
   is there after any end of the process alone.
2. *A prefix, in order.* After every restart the store is what the first n records make of it, for one n: every name,
   every byte, every version ever. The twin that says so is a dict of dicts and knows no table, log or disk.
3. *Nothing half done.* A change that was refused has had no effect, now or later; no torn version is visible.
4. *The index is derived.* The index kept equals, row by row, the one that the log alone gives.
5. *Time only moves on*, whatever the wall clock does and however often the machine goes down.
6. *It opens again*, always, unless bits were turned; then it says so, and what it serves is right or an error.

The driver calls the store as the daemon does. Records are noted as they pass into the log, with their bytes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from random import Random
from typing import NamedTuple

from storage import record as records
from storage.attributes import DIRECTORY, REGULAR, SYMLINK, TYPE_MASK
from storage.disk import MemoryDisk
from storage.errors import Corruption, Unusable
from storage.extents import DirtyMap
from storage.namespace import Namespace
from storage.store import LocalStore
from storage.table import MemoryTable
from tests.simulation.faults import Faults, PowerCut
from tests.simulation.index import SimulatedIndex
from tests.storage.test_namespace_twin import Twin

__all__ = ["Violation", "World"]

NAMES = (b"a", b"b", b"c.txt")
SEGMENT_BYTES = (4096, 6144, 16_384)
FILE_BYTES_MAX = 2000
OPENINGS_MAX = 12
ABOUT_ITSELF = b"M\0"  # Rows that speak of the index, not of the tree.


class Violation(AssertionError):
    """Something that must hold did not; the message ends with how to see it again."""


class Noted(NamedTuple):
    """A record as it went into the log."""

    timestamp: int
    address: int
    record: records.Record
    payload: bytes


class WallClock:
    """Runs, and jumps when the machine goes down."""

    def __init__(self) -> None:
        self.at_ns = 10**18

    def now_ns(self) -> int:
        self.at_ns += 1500
        return self.at_ns


class Expected:
    """The tree and its whole past, as records make it."""

    def __init__(self) -> None:
        self.twin = Twin()
        self.payloads: dict[int, bytes] = {}
        self.contents: dict[tuple[int, int], bytes] = {}

    def apply(self, noted: Noted) -> None:
        self.payloads[noted.address] = noted.payload
        if isinstance(noted.record, records.Write):
            return
        self.twin.apply(noted.timestamp, noted.record, self.payloads, noted.address)
        for part in getattr(noted.record, "records", [noted.record]):
            if isinstance(part, records.Commit) and part.inode in self.twin.nodes:
                node = self.twin.nodes[part.inode]
                self.contents[part.inode, node.contents] = node.data


class World:
    """See the module. `run` to the end, or a `Violation`."""

    def __init__(self, seed: int, steps: int = 40) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.steps = steps
        self.figures: Counter[str] = Counter()
        self.clock = WallClock()
        self.faults = Faults.drawn(random)
        self.index = SimulatedIndex(Random(random.random()))
        self.index_trouble = random.random() * 0.02 if random.random() < 0.3 else 0.0
        self.index_damage = random.random() * 0.002 if random.random() < 0.2 else 0.0
        self.capacity_bytes = random.randrange(20_000, 60_000) if random.random() < 0.2 else None
        self.segment_bytes = random.choice(SEGMENT_BYTES)
        self.boot = 0
        self.noted: list[Noted] = []
        self.in_doubt: Noted | None = None  # It may or may not have come into the log.
        self.durable = 0  # Records acknowledged as durable.
        self.rotten = False
        self.healing = False  # No more faults from here on.
        self.store: LocalStore | None = None
        self.expected = Expected()
        self.disk = MemoryDisk()
        self._equip()

    # --- the machine -------------------------------------------------------------------------------------------

    def _equip(self) -> None:
        self.disk.before = self._before
        self.disk.random = Random(self.random.random())
        self.disk.capacity_bytes = self.capacity_bytes

    def _before(self, call: str, name: str) -> int | None:
        limit = self.faults(call, name)
        if (
            call == "fdatasync"
            and self.faults.on
            and self.store is not None
            and self.random.random() < 0.3
        ):
            self._write_beside_a_sync()
        return limit

    def _write_beside_a_sync(self) -> None:
        """The owner appends while the worker syncs: what a thread would do, at a place of our choosing."""
        with contextlib.suppress(OSError, MemoryError, Corruption):
            self._change()
            self.figures["records appended while a sync ran"] += 1

    def trouble(self, on: bool) -> None:
        """Faults happen, or none does."""
        self.faults.on = on
        self.index.trouble_probability = self.index_trouble if on else 0.0
        self.index.damage_probability = self.index_damage if on else 0.0

    @contextlib.contextmanager
    def _calm(self):
        was = self.faults.on
        self.trouble(False)
        try:
            yield
        finally:
            self.trouble(was)

    def kill(self) -> None:
        """The daemon dies; the kernel has all that it wrote."""
        self.figures["kills"] += 1
        self.store = None
        self.index.kill()

    def cut_power(self) -> None:
        """The machine goes down: what was not synced is there, gone or torn, each on its own."""
        self.figures["power cuts"] += 1
        self.store = None
        random = self.random
        if random.random() < 0.7:
            self.disk = self.disk.crash(random=Random(random.random()))
        else:
            self.disk = self.disk.crash(
                random.randrange(self.disk.pending + 1), random.randrange(700)
            )
        self.index.power_cut()
        self.boot += 1
        self.clock.at_ns += random.choice((-(10**10), 0, 10**9))
        self._equip()

    def rot(self) -> None:
        """Bits turn, on what is on the platter."""
        names = [f"log/{name}" for name in self.disk.list("log")]
        names += [name for name in ("cascadefs.json", "index/boot") if self.random.random() < 0.05]
        for _ in range(self.random.randrange(1, 4)):
            name = self.random.choice(names)
            size = self.disk.open(name).size()
            self.disk.rot(name, self.random.randrange(max(1, size)), 1 << self.random.randrange(8))
            self.figures["bits turned"] += 1
        self.rotten = True

    # --- the life ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The whole life of this seed."""
        try:
            self._live()
        except Violation:
            raise
        except (AssertionError, Exception) as error:
            raise self._violation(f"{type(error).__name__}: {error}") from error
        self.figures["seeds"] += 1
        self.figures["records"] += len(self.noted)
        self.figures.update(self.faults.injected)
        self.figures.update(self.index.injected)

    def _live(self) -> None:
        self.trouble(True)
        self._restart()
        for _ in range(self.steps):
            self._step()
        # Whatever happened: without faults it goes on, and says so truly.
        self.healing = True
        self.trouble(False)
        self._end(self.kill)
        self._restart()
        if self.store is None:
            return
        self.capacity_bytes = self.disk.capacity_bytes = None
        self._change()
        self._sync()
        self._must(self.durable == len(self.noted), "what was synced is not durable")
        self.cut_power()
        self._restart()

    def _step(self) -> None:
        if self.store is None:
            self._restart()
            if self.store is None:
                return
        draw = self.random.random()
        try:
            if draw < 0.70:
                self._change()
            elif draw < 0.82:
                self._sync()
            elif draw < 0.86:
                self.store.publish()
            elif draw < 0.90:
                self._check()
            elif draw < 0.94:
                self._end(self.kill)
            elif draw < 0.97:
                self._end(self.cut_power)
            elif draw < 0.99:
                self._stop()
            else:
                self._stop()
                self.cut_power()
                with self._calm():
                    self.rot()
        except PowerCut:
            self.random.choice((self.kill, self.cut_power))()
        except (OSError, MemoryError, Corruption):
            self.figures["calls refused"] += 1
            with self._calm():
                self._check()

    def _end(self, how) -> None:
        """The process ends some way; its objects are dropped."""
        if self.store is not None:
            with self._calm():
                how()
        self.store = None
        self.index.kill()

    def _stop(self) -> None:
        """A clean stop; one that cannot save everything is as good as a kill."""
        store, self.store = self.store, None
        assert store is not None
        last = len(self.noted)
        try:
            store.close()
        except (OSError, MemoryError, Corruption):
            self.index.kill()
            self.figures["stops that could not save"] += 1
        else:
            self.durable = last
            self.figures["clean stops"] += 1

    def _sync(self) -> None:
        assert self.store is not None
        last = len(self.noted)
        # On the spot, without a task: see `Shard.wait_durable`.
        self.store._shard._sync_ns, self.store._shard._synced_last = 0, 1
        with contextlib.suppress(StopIteration):
            self.store.wait_durable(who=1).send(None)
            raise AssertionError("the wait did not end")
        self.durable = max(self.durable, last)
        self.figures["syncs acknowledged"] += 1

    # --- changes -----------------------------------------------------------------------------------------------

    def _change(self) -> None:
        """One change of the tree, of any kind, that may be refused or not."""
        store, twin, random = self.store, self.expected.twin, self.random
        assert store is not None
        directories = [d for d in twin.trees if twin.lives(d)]
        bound = [(d, name) for d, tree in twin.trees.items() for name in tree]
        at, name = random.choice(directories), random.choice(NAMES)
        known = random.choice(bound) if bound else (at, name)
        files = [n for n, node in twin.nodes.items() if node.mode & TYPE_MASK == REGULAR]
        draw = random.random()
        if draw < 0.2 or not files:
            kind = random.choice((REGULAR, REGULAR, REGULAR, DIRECTORY, SYMLINK))
            target = b"target" if kind == SYMLINK else b""
            inode = store.allocate_inode()
            store.propose(records.Create(at, name, inode, kind | 0o644, 1, 2, 0, target))
        elif draw < 0.6:
            self._commit(random.choice(files))
        elif draw < 0.65:
            inode = random.choice(files)
            length = random.randrange(1, 900)
            store.stage(inode, random.randrange(FILE_BYTES_MAX), random.randbytes(length))
        elif draw < 0.75:
            target = (at, name) if random.random() < 0.5 else random.choice(bound or [(at, name)])
            store.propose(records.Rename(*known, *target, random.choice((0, 0, 0, 1, 2))))
        elif draw < 0.83:
            store.propose(records.Unlink(*known, random.random() < 0.3))
        elif draw < 0.88:
            store.propose(records.Link(at, name, random.choice(files)))
        elif draw < 0.93:
            value = random.choice((None, b"", b"value"))
            store.propose(records.SetXattr(random.choice(files), b"user.x", value))
        else:
            made = records.Create(at, name, store.allocate_inode(), REGULAR | 0o600, 0, 0)
            store.propose(records.Batch([made, records.SetAttributes(made.inode, mtime_ns=5)]))

    def _commit(self, inode: int) -> None:
        assert self.store is not None
        random = self.random
        old = len(self.expected.twin.nodes[inode].data)
        keep = random.randrange(FILE_BYTES_MAX) if random.random() < 0.3 else None
        dirty, size = DirtyMap(), old if keep is None else min(old, keep)
        for _ in range(random.randrange(4)):
            start, length = random.randrange(FILE_BYTES_MAX), random.randrange(1, 500)
            if random.random() < 0.3:
                for extent in self.store.stage(inode, start, random.randbytes(length)):
                    dirty.place(*extent)
            else:
                dirty.write(start, random.randbytes(length))
            size = max(size, start + length)
        self.store.commit(inode, dirty, size, keep, 7, 7)

    def _spy(self, store: LocalStore) -> None:
        """Note every record on its way into the log."""
        log = store._shard.log
        real = log.append

        def append(kind, timestamp, metadata, payload=()):
            noted = Noted(timestamp, log.end_address, records.decode(metadata), b"".join(payload))
            self._must(
                not self.noted or timestamp > self.noted[-1].timestamp, "a timestamp goes back"
            )
            if log._writer._refusal is None:
                self.in_doubt = noted
            try:
                address = real(kind, timestamp, metadata, payload)
            except OSError:
                if log._writer._refusal is None:
                    self.in_doubt = None  # Refused and erased: it must never be seen.
                raise
            self._note(noted._replace(address=address))
            return address

        log.append = append

    def _note(self, noted: Noted) -> None:
        self.in_doubt = None
        self.noted.append(noted)
        self.expected.apply(noted)

    # --- after an end ------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        """Open again, as often as it takes; then everything is checked."""
        for attempt in range(OPENINGS_MAX):
            if attempt == OPENINGS_MAX - 3:
                self.trouble(False)
                self.capacity_bytes = self.disk.capacity_bytes = None
            try:
                store = self._opened(recover=False)
            except PowerCut:
                self.figures["ends while opening"] += 1
                self.random.choice((self.index.kill, self.cut_power))()
                continue
            except (OSError, MemoryError, Corruption) as error:
                damaged = isinstance(error, Corruption)
                self._must(not damaged or self._may_be_damaged(), f"{error}")
                self.index.kill()
                continue
            except Unusable as error:
                self._must(self.rotten, f"it does not open: {error}")
                self.figures["openings refused after bits turned"] += 1
                self._must(";" in str(error), "a refusal without a remedy")
                self.trouble(False)
                self.capacity_bytes = self.disk.capacity_bytes = (
                    None  # What is moved aside takes room.
                )
                self.index.kill()
                try:
                    store = self._opened(recover=True)
                except (Unusable, Corruption):
                    self.figures["stores beyond repair after bits turned"] += 1
                    self.steps = 0
                    return
            self._found(store)
            self.figures["restarts"] += 1
            with self._calm():
                self._check()
            self.trouble(not self.healing)
            return
        raise self._violation("it does not open without faults")

    def _may_be_damaged(self) -> bool:
        return self.rotten or self.index.damage_probability > 0

    def _opened(self, *, recover: bool) -> LocalStore:
        return LocalStore.open_on(
            self.disk,
            self.index,
            self.clock,
            Random(self.seed),
            boot_id=f"{self.boot:x}" * 8,  # No bit turned makes one of another.
            recover=recover,
            segment_bytes=self.segment_bytes,
        )

    def _found(self, store: LocalStore) -> None:
        """What is there after an end is a prefix with all that was acknowledged; from here on it is what there is."""
        log = store._shard.log
        last = log.last_index
        if last == len(self.noted) + 1 and self.in_doubt is not None:
            self._note(self.in_doubt)
        if not self.noted:
            self._must(last == 1, "an empty store has a root and nothing else")
        self._must(last <= max(1, len(self.noted)), "records that nobody appended")
        if not self.rotten:
            self._must(
                last >= self.durable, f"{self.durable} records were durable, {last} are there"
            )
            self._must(
                not log.recovery.durable_lost, "recovery says that the disk lost what was synced"
            )
            self._must(not log.recovery.broken, "recovery says that the log is broken")
        elif last < self.durable:
            self._must(bool(store.recovery), "records are missing and nothing is said")
        self.in_doubt = None
        if last < len(self.noted):
            self.figures["unacknowledged records lost"] += len(self.noted) - last
            del self.noted[last:]
            self.expected = Expected()
            for noted in self.noted[1:]:
                self.expected.apply(noted)
        if last == 1:  # Just made, or made again after a power cut that left nothing.
            with self._calm():
                root = next(log.frames())
            self.noted = [Noted(root.timestamp, root.address, records.decode(root.metadata), b"")]
        self.durable = last  # Opening makes durable what it found.
        self._spy(store)
        self.store = store

    # --- what must hold ----------------------------------------------------------------------------------------

    def _violation(self, what: str) -> Violation:
        again = f"CASCADEFS_SEED={self.seed} python -m pytest tests/simulation -k one_seed"
        return Violation(f"seed {self.seed}: {what}\nagain: {again}")

    def _must(self, holds: bool, what: str) -> None:
        if not holds:
            raise self._violation(what)

    def _check(self) -> None:
        """The store is what the twin is, now and in every past; and its index is what the log gives."""
        store, twin = self.store, self.expected.twin
        if store is None or store._shard._failure is not None:
            return
        with self._calm():
            for directory, tree in twin.trees.items():
                found = {name: binding.inode for name, binding in store.children(directory)}
                self._must(found == tree, f"directory {directory} has {found}, not {tree}")
                for inode in tree.values():
                    self._check_inode(inode)
            for (directory, name), versions in twin.versions.items():
                self._must(store.head(directory, name) == len(versions), f"versions of {name!r}")
                for number, (timestamp, inode, content) in enumerate(versions, 1):
                    self._check_version(directory, name, number, timestamp, inode, content)
            self._check_index()
        self.figures["checks"] += 1

    def _check_inode(self, inode: int) -> None:
        node, attributes = self.expected.twin.nodes[inode], self.store.attributes(inode)
        self._must(attributes is not None, f"inode {inode} is not there")
        self._must(
            (attributes.mode, attributes.nlink) == (node.mode, node.nlink), f"attributes of {inode}"
        )
        self._must(
            {n: self.store.xattr(inode, n) for n in self.store.xattrs(inode)} == node.xattrs,
            f"extended attributes of {inode}",
        )
        if node.mode & TYPE_MASK == REGULAR:
            self._must(attributes.size == len(node.data), f"size of {inode}")
            self._check_bytes(inode, None, node.data)
        elif node.mode & TYPE_MASK == SYMLINK:
            self._must(self.store.target(inode) == node.target, f"target of {inode}")

    def _check_version(
        self, directory: int, name: bytes, number: int, timestamp: int, inode: int, content: int
    ) -> None:
        found = self.store.version(directory, name, number)
        self._must(found is not None, f"version {number} of {name!r} is not there")
        self._must(found.timestamp == timestamp, f"time of version {number} of {name!r}")
        self._must((found.binding.inode if found.binding else 0) == inode, f"{name!r}@v{number}")
        if (inode, content) in self.expected.contents:
            self._check_bytes(inode, timestamp, self.expected.contents[inode, content])
            self.figures["versions read"] += 1

    def _check_bytes(self, inode: int, timestamp: int | None, expected: bytes) -> None:
        store = self.store
        row = (
            store.attributes_row(inode)
            if timestamp is None
            else store.attributes_at(inode, timestamp)
        )
        try:
            found = bytes(store.read(inode, row[1], timestamp, 0, row[1].size + 1))
        except Corruption:
            self._must(self.rotten, f"bytes of inode {inode} are damaged, and no bit was turned")
            self.figures["reads refused after bits turned"] += 1
            return
        self._must(found == expected, f"wrong bytes in inode {inode} as of {timestamp}")

    def _check_index(self) -> None:
        """Row by row; what the index says about itself aside."""
        store = self.store
        store.publish()
        kept = dict(store._table.scan(b"\0", b"\xff" * 8))
        table = MemoryTable()
        built = Namespace(table)
        try:
            for frame in store._shard.log.frames():
                built.apply(frame.timestamp, frame.address, records.decode(frame.metadata))
        except Corruption as error:
            self._must(self.rotten, f"{error}, and no bit was turned")
            return
        rows = dict(table.scan(b"\0", b"\xff" * 8))
        for key in kept.keys() | rows.keys():
            if not key.startswith(ABOUT_ITSELF):
                self._must(kept.get(key) == rows.get(key), f"row {key!r} is not what the log gives")
        self._must(
            (store.counters.live_bytes, store.counters.live_inodes)
            == (built.counters.live_bytes, built.counters.live_inodes),
            "totals are not what the log gives",
        )
        self._must(
            store.counters.next_inode >= built.counters.next_inode, "a number is given twice"
        )

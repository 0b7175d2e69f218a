"""A cluster in one process, for tests: nodes over the memory transport, one static authority, disks in memory.

On trio's `MockClock` with autojump and with worker threads run in place (`inline_threads`), so nothing takes time and the same
happens every time. Faces are used from the test's own task: `Proposer` submits and takes without waiting.
"""

from __future__ import annotations

import random
from contextlib import contextmanager

import msgspec
import trio

from cascadefs.node.node import Node
from storage import wire
from storage.codec import BLOCK_BYTES
from storage.disk import MemoryDisk
from storage.member.syncing import Syncing
from storage.membership import values
from storage.membership.contract import Standing, Unavailable
from storage.membership.keys import key_of
from storage.membership.reconfigure import Patience
from storage.membership.static import StaticAuthority
from storage.sequencer import START, Rejected
from storage.transport import Identity, Role
from storage.transport.memory import MemoryNetwork

CLUSTER = "tree"
IDENTITY = 0xAA55
SEGMENT_BYTES = 17 * 2**20 + 2048
PATIENCE = Patience(
    stagger_ns=10**8,
    silent_leader_ns=10**9,
    detached_ns=5 * 10**9,
    settle_ns=3 * 10**8,
    home_ns=10**15,
    replace_ns=10**15,
)


@contextmanager
def inline_threads(monkeypatch):
    """Have `trio.to_thread.run_sync` run its function in place, and replicas their syncs."""

    async def run_sync(function, *arguments, **options):
        del options
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    def begin(self, sync, told):
        self.is_busy = True
        self._token.run_sync_soon(lambda: self._is_over or self._do(sync, told))

    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", run_sync)
        patch.setattr(Syncing, "begin", begin)
        yield


class TrioClock:
    """Wall clock and monotonic clock of the loop."""

    def now_ns(self):
        return 1_700_000_000 * 10**9 + int(trio.current_time() * 1e9)


def steady_ns():
    return int(trio.current_time() * 1e9)


class Proposer:
    """A face that applies nothing: what it proposed, and what came by."""

    def __init__(self, node, shard=0):
        self.node = node
        self.line = node.lines.make(shard)
        self.line.follow(START)
        self.seen = []
        self.number = 0

    def propose(self, count=1, *, payload=b"p"):
        for _ in range(count):
            self.number += 1
            name = b"%d" % self.number
            self.line.submit(self.number, b"m" + name, [payload + name] if payload else ())
        return self.number

    def look(self):
        """Take what there is."""
        while taken := self.line.take(0):
            self.seen += taken
        return self.seen

    def own(self):
        return [record for record in self.look() if record.client == self.line.client]

    async def wait(self, number=None, seconds=60):
        """Until a proposal of ours came by."""
        number = self.number if number is None else number
        with trio.fail_after(seconds):
            while not any(record.number == number for record in self.own()):
                await trio.sleep(0.01)

    def payload(self, record):
        frame = self.line._member.log.frame(record.address)
        return bytes(self.line.read(record.address, 0, frame.payload_length))


class Observer:
    """A mount, as far as the wire goes: everything said to it, and what it says."""

    def __init__(self, connection):
        self.connection = connection
        self.heard = []

    async def say(self, message, parts=()):
        await self.connection.send(wire.encode(message, parts))

    async def listen(self):
        while True:
            for data in await self.connection.receive():
                self.heard.append(wire.decode(data))

    def of(self, kind):
        return [message for message, _ in self.heard if isinstance(message, kind)]

    def records(self):
        return [record for message in self.of(wire.Records) for record in message.records]

    async def until(self, condition, seconds=60):
        with trio.fail_after(seconds):
            while not condition():
                await trio.sleep(0.01)


class Reach:
    """The authority as one node reaches it, or does not: then its lease lapses at once and its view stands still."""

    def __init__(self, authority, name):
        self.inner = authority
        self.name = name
        self.frozen = None
        self.back = trio.Event()
        self.presence = None

    def cut(self):
        self.frozen = self.inner.view
        self.presence = self.inner.view.live[self.name]
        self.inner._put(key_of(self.presence), None)

    def mend(self):
        self.frozen = None
        self.inner._put(key_of(self.presence), self.presence)
        self.back.set()
        self.back = trio.Event()

    @property
    def view(self):
        return self.frozen or self.inner.view

    @property
    def standing(self):
        return Standing.AWAY if self.frozen else Standing.REACHED

    trouble = None

    async def wait_view(self, after):
        while self.frozen:
            await self.back.wait()
        return await self.inner.wait_view(after)

    async def read(self):
        if self.frozen:
            raise Unavailable("cut off", outcome_unknown=False)
        return await self.inner.read()

    async def change(self, changes):
        if self.frozen:
            raise Unavailable("cut off", outcome_unknown=False)
        return await self.inner.change(changes)

    def hold(self, presence, ttl_s):
        return self.inner.hold(presence, ttl_s)


class World:
    """See the module. `async with World(nursery)` is not needed: the nursery ends all."""

    def __init__(self, nursery, *, names=("n1", "n2", "n3"), durability="disk", replicas=3, **pool):
        self.nursery = nursery
        self.network = MemoryNetwork()
        self.durability = durability
        self.authority = StaticAuthority(
            [
                values.Cluster(f"{IDENTITY:016x}", 1),
                values.Pool("main", "/", replicas=replicas, durability=durability, **pool),
                values.Shard(0, "main"),
                *[values.Node(name, (f"{name}:1",)) for name in names],
            ]
        )
        self.disks = {}
        self.nodes = {}
        self.scopes = {}
        self.ended = {}
        self.boots = 0
        self.room = dict.fromkeys(names, True)
        self.options = {}
        self.reach = {name: Reach(self.authority, name) for name in names}

    async def start(self, *names):
        for name in names or ("n1", "n2", "n3"):
            node = Node(
                name,
                self.network.transport(Identity(CLUSTER, Role.NODE, name)),
                self.reach[name],
                lambda shard, name=name: self.disk(name, shard),
                TrioClock(),
                steady_ns,
                random.Random(name),
                address=f"{name}:1",
                boot_id=b"%016d" % self.boots,
                segment_bytes=SEGMENT_BYTES,
                has_room=lambda name=name: self.room[name],
                patience=PATIENCE,
                **self.options,
            )
            self.nodes[name] = node
            self.scopes[name] = trio.CancelScope()
            self.ended[name] = trio.Event()
            await self.nursery.start(self._run, name, node)

    async def _run(self, name, node, task_status):
        with self.scopes[name]:
            await node.run(task_status=task_status)
        self.ended[name].set()

    def disk(self, name, shard=0):
        return self.disks.setdefault((name, shard), MemoryDisk())

    async def stop(self, name):
        """End a node as a clean stop does."""
        self.scopes[name].cancel()
        await self.ended[name].wait()
        del self.nodes[name]

    async def kill(self, name):
        """End a node's process: the kernel keeps what was written."""
        await self._end(name, lambda disk: disk.crash(disk.pending))

    async def power_cut(self, name):
        """End a node's machine: what was not synced is gone."""
        await self._end(name, lambda disk: disk.crash())

    async def _end(self, name, left_by):
        left = {key: left_by(disk) for key, disk in self.disks.items() if key[0] == name}
        await self.stop(name)
        self.disks.update(left)

    async def wait_seat_of(self, name, seconds=20):
        with trio.fail_after(seconds):
            return await self.nodes[name].wait_seat(0)

    def cut_off(self, name):
        """Nobody reaches a node any more, nor it the authority."""
        self.reach[name].cut()
        for other in self.room:
            self.network.swallow(name, other)
            self.network.swallow(other, name)

    def mend(self):
        self.network.mend()
        for reach in self.reach.values():
            if reach.frozen:
                reach.mend()

    def wipe(self, name):
        for key in [key for key in self.disks if key[0] == name]:
            del self.disks[key]

    def epoch(self, shard=0):
        return self.authority.view.epochs.get(shard)

    def leader(self, shard=0):
        return self.nodes[self.epoch(shard).leader]

    async def wait_members(self, *names, seconds=60):
        """Until exactly these are the members, all of them serving."""
        names = names or ("n1", "n2", "n3")
        with trio.fail_after(seconds):
            while True:
                epoch = self.epoch()
                if epoch and set(epoch.members) == set(names):
                    members = [self.nodes[n].members.get(0) for n in names]
                    if all(
                        m and m.replica.in_sync and m.replica.epoch.number == epoch.epoch
                        for m in members
                    ):
                        return epoch
                await trio.sleep(0.01)

    async def wait_same(self, *names, seconds=60):
        """Until these nodes' logs are at the same, committed, end; then they are compared to the byte."""
        names = names or tuple(self.nodes)
        logs = [self.nodes[name].members[0] for name in names]
        with trio.fail_after(seconds):
            while len({(m.log.last_index, m.committed == m.log.last_index) for m in logs}) > 1 or (
                logs[0].committed != logs[0].log.last_index
            ):
                await trio.sleep(0.01)
        first, *others = [bodies(self.disk(name)) for name in names]
        for other in others:
            assert other == first
        return first

    async def observer(self, node, *, role=Role.MOUNT, name="m1"):
        transport = self.network.transport(Identity(CLUSTER, role, name))
        connection = await transport.connect(self.nursery, f"{node}:1", role=Role.NODE)
        observer = Observer(connection)
        self.nursery.start_soon(_until_broken, observer)
        return observer


async def _until_broken(observer):
    from storage.transport import Broken

    try:
        await observer.listen()
    except Broken as broken:
        observer.heard.append((broken, []))


def bodies(disk):
    """Segments without their headers, which hold the durable mark."""
    names = [f"log/{name}" for name in disk.list("log")]
    return {name: disk.open(name).pread(10**8, BLOCK_BYTES).rstrip(b"\0") for name in names}


__all__ = ["IDENTITY", "Observer", "Proposer", "Rejected", "World", "inline_threads", "msgspec"]

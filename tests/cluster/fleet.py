"""A cluster of processes to break: nodes that are stopped, frozen, wiped, cut off; programs with certificates; what nodes say of
themselves.

    with Etcd(directory) as etcd, Fleet(directory, etcd.endpoints, shards=4) as fleet:
        fleet.start(); fleet.wait_well()
        with fleet.program(uid=0) as store: ...
        fleet.kill(fleet.leader(0)); fleet.freeze("n2"); fleet.wipe("n3")
"""

from __future__ import annotations

import functools
import shutil
import signal
import time

import msgspec
import trio

import cascadefs
from cascadefs import configuration
from storage import wire
from storage.codec import BLOCK_BYTES
from storage.membership.etcd import open_etcd
from storage.membership.http import open_gateway
from storage.transport import Broken, Identity, IdMap, IdRange, Role, TcpTransport
from storage.transport.certificates import Credentials
from tests.cluster.processes import CLUSTER, Processes

WELL_S = 90


class Fleet(Processes):
    """See the module."""

    def __init__(self, directory, endpoints, *args, hosts=None, node=None, **options):
        """`hosts`: where nodes run, else all on loopback; `node`: keys of node.toml."""
        self.hosts = hosts
        self.frozen = set()
        self._node = node or {}
        self._permitted = set()
        # Each directory in the root lives in a shard of its own choice.
        super().__init__(directory, endpoints, *args, **{"spread": 1, **options})
        for name in self.names:
            (directory / name / "data").mkdir()

    # --- processes ---

    def address(self, name):
        if self.hosts is not None:
            return f"{self.hosts.address(name)}:{self.ports[name]}"
        return super().address(name)

    def settings(self, name):
        found = super().settings(name)
        etcd = msgspec.structs.replace(found.etcd, plain=self.hosts is not None)
        if self.hosts is not None and (transport := self.hosts.transport(name)) is not None:
            found = msgspec.structs.replace(found, transport=transport)
        return msgspec.structs.replace(found, etcd=etcd, **self._node)

    def command(self, name):
        inside = self.hosts.inside(name) if self.hosts is not None else []
        return [*inside, *super().command(name)]

    def freeze(self, name):
        """It neither answers nor breaks its connections."""
        self.running[name].send_signal(signal.SIGSTOP)
        self.frozen.add(name)

    def thaw(self, *names):
        for name in names or tuple(self.frozen):
            self.running[name].send_signal(signal.SIGCONT)
            self.frozen.discard(name)

    def wipe(self, name):
        """The disk of a node that does not run is a new one."""
        assert name not in self.running
        for entry in (self.directory / name / "data").iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def kill(self, name, number=signal.SIGKILL):
        self.frozen.discard(name)
        return super().kill(name, number)

    # --- programs ---

    def permit(self, name, uid=0, gid=0, *, role=Role.CLIENT, signer=None):
        """The mount.toml of a program."""
        one = [IdMap((IdRange(number, number, 1),)) for number in (uid, gid)]
        home = self.directory / name
        if name not in self._permitted:
            self._permitted.add(name)
            issued = (signer or self.signer).issue(
                Identity(CLUSTER, role, name, *one), now_ns=time.time_ns()
            )
            self.signer.install(issued, home / "credentials")
            told = configuration.Mount(CLUSTER, tuple(self.address(node) for node in self.names))
            (home / "mount.toml").write_text(configuration.spell(told))
        return home / "mount.toml"

    def program(self, name="", uid=0, gid=0):
        """`cascadefs.connect` as a user."""
        return cascadefs.connect(self.permit(name or f"user{uid}", uid, gid))

    # --- what nodes say ---

    def status(self, name):
        """A node's figures; None if it gives none."""
        return trio.run(self._ask, name)

    def statuses(self):
        """Of all that run."""
        return trio.run(self._ask_all)

    async def _ask_all(self):
        found = {}

        async def one(name):
            found[name] = await self._ask(name)

        async with trio.open_nursery() as nursery:
            for name in self.running.keys() - self.frozen:
                nursery.start_soon(one, name)
        return found

    async def _ask(self, name):
        credentials = self._credentials
        transport = TcpTransport(credentials.identity, credentials.contexts())
        answers = []
        with trio.move_on_after(5):
            try:
                async with trio.open_nursery() as nursery:
                    connection = await transport.connect(
                        nursery, self.address(name), role=Role.NODE, name=name
                    )
                    await connection.send(wire.encode(wire.Ask(1, "status")))
                    while not answers:
                        for data in await connection.receive():
                            message, parts = wire.decode(data)
                            if isinstance(message, wire.Answer):
                                answers.append(msgspec.json.decode(parts[0]))
                    nursery.cancel_scope.cancel()
            except* Broken:
                pass
        return answers[0] if answers else None

    @functools.cached_property
    def _credentials(self):
        home = self.permit("asker").parent
        return Credentials.load(home / "credentials", now_ns=time.time_ns())

    def epochs(self):
        """The epochs of all shards, as etcd has them."""

        async def read():
            async with (
                open_gateway(self.endpoints, "/cascadefs/") as gateway,
                open_etcd(gateway, time.monotonic_ns) as authority,
            ):
                return (await authority.read()).epochs

        return dict(trio.run(read))

    def leader(self, shard):
        return self.epochs()[shard].leader

    def wait(self, condition, what, seconds=WELL_S):
        """Until a condition holds; its last value is what it answers."""
        until = time.monotonic() + seconds
        began = time.monotonic()
        while not (found := condition()):
            now = time.monotonic()
            assert now < until, f"{what}: not within {seconds} s\n{self.troubles()}"
            # Looking takes at most half of a processor, which may be the only one.
            time.sleep(max(0.1, now - began))
            began = time.monotonic()
        return found

    def is_well(self):
        """Whether all nodes are members of all shards, in sync, and have applied everything."""
        statuses = self.statuses()
        if len(statuses) < len(self.names) or None in statuses.values():
            return False
        ends = {}
        for status in statuses.values():
            if len(status["shards"]) != self.shards:
                return False
            for shard in status["shards"]:
                here = shard["committed"] == shard["last_index"] and shard["in_sync"]
                if not here or len(shard["members"]) != len(self.names):
                    return False
                applied = status["faces"]["applied"].get(str(shard["shard"]))
                ends.setdefault(shard["shard"], set()).add((shard["last_index"], applied))
        return all(
            len(end) == 1 and {a for _, a in end} == {i for i, _ in end} for end in ends.values()
        )

    def wait_well(self, seconds=WELL_S):
        """Until `is_well`."""
        self.wait(self.is_well, "all nodes are members of everything", seconds)

    def troubles(self):
        """For who reads that a test failed."""
        said = [
            f"{name}: {line}" for name in self.names for line in self.log(name).splitlines()[-12:]
        ]
        for name, status in self.statuses().items():
            for shard in (status or {}).get("shards", ()):
                keys = ("shard", "role", "epoch", "leader", "members", "in_sync", "last_index")
                keys += ("committed", "failure", "membership")
                said.append(f"{name}: { ({key: shard[key] for key in keys}) }")
        return "\n".join(said)

    # --- logs ---

    def segments(self, name):
        """The files of a node's logs, by their names below its shards."""
        root = self.directory / name / "data" / "shards"
        return {str(path.relative_to(root)): path for path in root.glob("*/log/*.seg")}

    def check_logs(self):
        """All logs are the same to the byte, but for each segment's first block, with its durable mark. Nobody may write meanwhile."""
        self.wait_well()
        first, *others = [self.segments(name) for name in self.names]
        assert first
        for name, other in zip(self.names[1:], others, strict=True):
            assert other.keys() == first.keys()
            for path in other:
                at = _differs(first[path], other[path])
                assert at is None, f"{path} of {name} is not as that of {self.names[0]}, at {at}"


CHUNK_BYTES = 1 << 20


def _differs(one, other):
    """Where two segments differ; what one of them has no room for is empty in the other."""
    with one.open("rb") as here, other.open("rb") as there:
        at = BLOCK_BYTES
        here.seek(at)
        there.seek(at)
        while True:
            a, b = here.read(CHUNK_BYTES), there.read(CHUNK_BYTES)
            if not a and not b:
                return None
            if a != b and a.rstrip(b"\0") != b.rstrip(b"\0"):
                return at + next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
            at += CHUNK_BYTES


__all__ = ["CLUSTER", "Fleet"]

"""Nodes as processes of their own, on an etcd of their own, over TCP with certificates; and a client that only proposes.

Everything lies in one directory; ports are the kernel's choice.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import trio

from cascadefs import configuration
from storage import wire
from storage.codec import BLOCK_BYTES, HEAD_BYTES
from storage.membership import values
from storage.membership.contract import Change
from storage.membership.etcd import open_etcd
from storage.membership.http import open_gateway
from storage.transport import Broken, Identity, Role
from storage.transport.certificates import Authority, Credentials
from storage.transport.tcp import TcpTransport
from tests.etcd import free_ports

CLUSTER = "00c0ffee00c0ffee"
READY_S = 30


class Processes:
    """A cluster of node processes; `start` and `kill` them by name."""

    cascadefs = (sys.executable, "-m", "cascadefs.cli")

    def __init__(self, directory: Path, endpoints, names=("n1", "n2", "n3"), shards=1, **pool):
        self.directory = directory
        self.names = names
        self.shards = shards
        self.endpoints = tuple(endpoints)
        self.running = {}
        now_ns = time.time_ns()
        self.signer = Authority.create(CLUSTER, now_ns=now_ns)
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        for name in names:
            self._lay(name)
        self._install(Identity(CLUSTER, Role.MOUNT, "m1"), "m1")
        pool = {"replicas": len(names), **pool}
        trio.run(self._found, pool, shards)

    def _install(self, identity, name):
        issued = self.signer.issue(identity, now_ns=time.time_ns())
        self.signer.install(issued, self.directory / name / "credentials")

    def address(self, name):
        """Where a node listens."""
        return f"127.0.0.1:{self.ports[name]}"

    def settings(self, name):
        """Its node.toml."""
        return configuration.Node(
            cluster=CLUSTER,
            name=name,
            listen=self.address(name),
            etcd=configuration.Etcd(self.endpoints, timeout_s=0.9),
            lease_s=2.0,
            log=f"{name}.log",
        )

    def command(self, name):
        """What runs a node; the descriptor to say ready on comes behind it."""
        node = str(self.directory / name / "node.toml")
        return [*self.cascadefs, "serve", "--config", node, "--ready-fd"]

    def _lay(self, name):
        self._install(Identity(CLUSTER, Role.NODE, name), name)
        path = self.directory / name / "node.toml"
        path.write_text(configuration.spell(self.settings(name)))

    async def _found(self, pool, shards):
        changes = [
            values.Cluster(CLUSTER, 1),
            values.Pool("main", "/", **pool),
            *[values.Shard(number, "main") for number in range(shards)],
            *[values.Node(name, (self.address(name),)) for name in self.names],
        ]
        async with (
            open_gateway(self.endpoints, "/cascadefs/") as gateway,
            open_etcd(gateway, time.monotonic_ns) as authority,
        ):
            await authority.read()
            assert await authority.change([Change(None, value) for value in changes])

    def start(self, *names):
        waiting = []
        for name in names or self.names:
            reading, writing = os.pipe()
            with (self.directory / name / "stderr").open("ab") as stderr:
                self.running[name] = subprocess.Popen(
                    [*self.command(name), str(writing)],
                    pass_fds=[writing],
                    stdin=subprocess.DEVNULL,
                    stderr=stderr,
                )
            os.close(writing)
            waiting.append((name, reading))
        for name, reading in waiting:
            with open(reading, "rb") as pipe:
                assert pipe.read() == b"ready\n", self.log(name)

    def log(self, name):
        """What a node has said."""
        paths = [self.directory / name / said for said in (f"{name}.log", "stderr")]
        return "".join(path.read_text() for path in paths if path.exists())

    def kill(self, name, number=signal.SIGKILL):
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(timeout=30)

    def stop_all(self):
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        return {name: self.running.pop(name).wait(timeout=60) for name in list(self.running)}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for name in list(self.running):
            self.kill(name)

    def log_bytes(self, name, last):
        """A log of one segment up to the head of a committed record; what is behind may be of a stop in disorder."""
        path = self.directory / name / "data" / "shards" / "000" / "log" / f"{0:016x}.seg"
        with path.open("rb") as file:
            file.seek(BLOCK_BYTES)
            return file.read(last.address + HEAD_BYTES - BLOCK_BYTES)


class Client:
    """Proposes to a shard's leader, again and again until it comes by, and follows one member; in a trio loop."""

    def __init__(self, processes, client):
        self.processes = processes
        self.client = client
        self.outstanding = {}
        self.number = 0
        self.seen = []
        self.seen_at = {}
        self.leader = ""
        self.epoch = 0
        self.members = 0
        self.connections = {}
        self.at = (0, 0, 0)
        self.news = trio.Event()
        path = processes.directory / "m1" / "credentials"
        credentials = Credentials.load(path, now_ns=time.time_ns())
        self.transport = TcpTransport(credentials.identity, credentials.contexts())

    async def run(self, nursery):
        for name in self.processes.names:
            nursery.start_soon(self._keep, nursery, name)
        nursery.start_soon(self._again)

    async def _keep(self, nursery, name):
        while True:
            try:
                address = self.processes.address(name)
                connection = await self.transport.connect(
                    nursery, address, role=Role.NODE, name=name
                )
                self.connections[name] = connection
                await connection.send(wire.encode(wire.Hello()))
                # One stream at a time would do; all of them find a member that differs.
                await connection.send(wire.encode(wire.Subscribe(0, *self.at)))
                while True:
                    for data in await connection.receive():
                        self._hear(connection, *wire.decode(data))
            except Broken:
                self.connections.pop(name, None)
                if name == self.leader:
                    self.leader = ""
                await trio.sleep(0.05)

    def _hear(self, connection, message, parts):
        del parts
        match message:
            case wire.Records(records=records):
                for record in records:
                    self._take(record)
                if records:
                    connection.send_nowait(wire.encode(wire.Taken(0, records[-1].index)))
            case wire.Epoch(epoch=epoch, leader=leader, members=members) if epoch >= self.epoch:
                self.members = len(members)
                if (epoch, leader) != (self.epoch, self.leader):
                    self.epoch, self.leader = epoch, leader
                    self._send(list(self.outstanding))
            case wire.Expecting():
                self._send(list(self.outstanding))

    def _take(self, record):
        index = record.index
        if index <= len(self.seen):
            assert self.seen[index - 1] == record  # All members stream the same.
            return
        assert index == len(self.seen) + 1
        self.seen.append(record)
        self.at = (record.index, record.address, record.checksum)
        if record.client == self.client and self.outstanding.pop(record.number, None):
            self.seen_at[record.number] = time.perf_counter()
            self.news.set()
            self.news = trio.Event()

    async def _again(self):
        while True:
            first = next(iter(self.outstanding), 0)
            await trio.sleep(0.5)
            if first and first == next(iter(self.outstanding), 0):
                self._send(list(self.outstanding))

    def _send(self, numbers):
        connection = self.connections.get(self.leader)
        if connection is None or not numbers:
            return
        proposals = [
            (n, len(self.outstanding[n][1]), self.outstanding[n][0])
            for n in numbers
            if n in self.outstanding
        ]
        parts = [self.outstanding[n][1] for n in numbers if n in self.outstanding]
        message = wire.encode(
            wire.Propose(0, self.client, proposals), [part for part in parts if part]
        )
        with contextlib.suppress(Broken, trio.WouldBlock):
            connection.send_nowait(message)

    def propose(self, metadata, payload=b""):
        self.number += 1
        self.outstanding[self.number] = (metadata, payload)
        self._send([self.number])
        return self.number

    async def wait(self, outstanding=0, seconds=60):
        with trio.fail_after(seconds):
            while len(self.outstanding) > outstanding:
                await self.news.wait()


__all__ = ["CLUSTER", "Client", "Processes"]

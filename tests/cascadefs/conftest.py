"""A store in memory for the tests of programs, and a service of it in a thread of its own."""

import contextlib
import os
import random
import threading

import pytest
import trio

from cascadefs.client import Client, calls
from cascadefs.client.remote import Remote
from cascadefs.client.service import Service
from storage.disk import MemoryDisk
from storage.store import LocalStore
from storage.table import MemoryTable
from storage.transport import Broken, Identity, IdMap, IdRange, Role
from storage.transport.tcp import TcpTransport
from triggers.testing import ManualClock


class _Index:
    open = renew = view = staticmethod(MemoryTable)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def store(clock):
    opened = LocalStore.open_on(
        MemoryDisk(), _Index(), clock, random.Random(0), boot_id="test", owner=(0, 0),
        segment_bytes=1024 * 1024,
    )  # fmt: skip
    yield opened
    opened.close()


NODE = Identity("test", Role.NODE, "n1")


def user(uid):
    only = IdMap((IdRange(uid, uid, 1),))
    return Identity("test", Role.CLIENT, f"user{uid}", only, only)


class Server:
    """A service in a thread of its own, which can be cut off and started again."""

    def __init__(self, path, store, clock):
        self.clock = clock
        self.store = store
        self.address = f"unix:{path}"
        self.path = path
        self.lock = threading.Lock()
        self.applied = []
        self.mute = 0
        """Answers to swallow, each with its connection."""
        self.executed = 0
        self.leader = []
        """Where it says that all shards are led."""
        self.swallow = 0
        """The number of the one answer to swallow, with its connection; 0: none."""

    def start(self):
        self.ready = threading.Event()
        self.thread = threading.Thread(target=trio.run, args=(self.run,), daemon=True)
        self.thread.start()
        assert self.ready.wait(20)

    async def run(self):
        self.token = trio.lowlevel.current_trio_token()
        service = Service(
            self.store, self.clock, lambda: self.lock, self.path.parent,
            applied=self.applied.extend, reserved=lambda directory, name: False,
        )  # fmt: skip
        service.leader = lambda: self.leader
        execute = service.execute

        async def muted(who, arguments, parts):
            answer = await execute(who, arguments, parts)
            if isinstance(calls.decode_call(arguments), calls.Instant):
                return answer  # Asked of each connection before anything else.
            self.executed += 1
            if self.mute or self.executed == self.swallow:
                self.mute = max(self.mute - 1, 0)
                raise Broken("cut by the test")
            return answer

        service.execute = muted
        with trio.CancelScope() as self.scope:
            async with trio.open_nursery() as nursery:
                transport = TcpTransport(NODE, None, insecure_loopback=True)
                listener = await transport.listen(nursery, self.address)
                self.ready.set()
                await service.serve(listener, "n1")

    def stop(self):
        self.token.run_sync_soon(self.scope.cancel)
        self.thread.join()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


@pytest.fixture
def server(tmp_path, store, clock):
    server = Server(tmp_path / "s", store, clock)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def connect(server):
    clients = []

    def connect(uid=0, draw=None, **options):
        transport = TcpTransport(user(uid), None, insecure_loopback=True)
        remote = Remote(transport, [server.address], draw or random.Random(uid), **options)
        clients.append(Client(remote, server.clock))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()

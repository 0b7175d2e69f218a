"""Key-value stores that several machines keep, each as its own processes on loopback: etcd and Redis.

What is asked of each: `put` and `get` of one value after another by one client, and `put_many`, as many values with
so many on their way at any time. What a put has reached when it returns is in the peer's name, because they do not promise
the same: etcd's is on a majority's disks, Redis' in the memory of as many replicas as WAIT asks for.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Etcd", "Redis", "Replicated", "free_ports"]

START_SECONDS_MAX = 30.0


class Replicated:
    """One peer with `members` of its processes. `start`, any number of puts and gets, `stop`."""

    name: ClassVar[str]
    promise: ClassVar[str]
    """What a put that has returned has reached."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Programs, and Python modules with a leading "."."""

    def __init__(self, directory: Path, members: int) -> None:
        """Everything lies below `directory`."""
        self.directory = directory
        self.members = members
        self.processes: list[subprocess.Popen[bytes]] = []
        directory.mkdir(parents=True)

    @classmethod
    def missing(cls) -> list[str]:
        """What is not installed."""
        return [
            need
            for need in cls.needs
            if (find_spec(need[1:]) if need.startswith(".") else shutil.which(need)) is None
        ]

    def start(self) -> None:
        """Ready for puts when this returns."""
        raise NotImplementedError

    def put(self, key: str, value: bytes) -> None:
        """One value; returns when it has reached what is promised."""
        raise NotImplementedError

    def get(self, key: str) -> bytes:
        """One value back."""
        raise NotImplementedError

    def put_many(self, keys: list[str], value: bytes, concurrent: int) -> None:
        """Values, `concurrent` of them on their way at any time; returns when all have arrived."""
        raise NotImplementedError

    def stop(self) -> None:
        """Nothing of it runs any more."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        self.processes.clear()

    def spawn(self, *words: str) -> None:
        """One process more, silent."""
        with open(self.directory / f"{len(self.processes)}.log", "wb") as log:
            self.processes.append(
                subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _within(seconds: float) -> Iterator[None]:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        yield
        time.sleep(0.05)
    raise TimeoutError("a peer did not start")


class Etcd(Replicated):
    """etcd through its gRPC interface, with messages made by hand: no client's cost but gRPC's."""

    name = "etcd"
    promise = "on a majority's disks"
    needs = ("etcd", ".grpc")

    def start(self) -> None:
        """See `Replicated`."""
        import grpc

        ports = free_ports(2 * self.members)
        clients, peers = ports[: self.members], ports[self.members :]
        cluster = ",".join(f"m{i}=http://127.0.0.1:{port}" for i, port in enumerate(peers))
        for i, (port, peer) in enumerate(zip(clients, peers, strict=True)):
            self.spawn(
                "etcd", "--name", f"m{i}", "--data-dir", str(self.directory / f"m{i}"),
                "--listen-client-urls", f"http://127.0.0.1:{port}",
                "--advertise-client-urls", f"http://127.0.0.1:{port}",
                "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-cluster", cluster, "--log-level", "error",
                "--quota-backend-bytes", str(8 * 1024**3), "--max-request-bytes", str(2 * 1024**2),
            )  # fmt: skip
        leader = self._leader(clients)
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{leader}", options=[("grpc.max_receive_message_length", 4 * 1024**2)]
        )
        self._put = self._channel.unary_unary("/etcdserverpb.KV/Put")
        self._range = self._channel.unary_unary("/etcdserverpb.KV/Range")

    def _leader(self, ports: list[int]) -> int:
        """The port of the member that leads: a put there saves a hop."""
        for _ in _within(START_SECONDS_MAX):
            for port in ports:
                with contextlib.suppress(OSError, KeyError, ValueError, http.client.HTTPException):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
                    connection.request("POST", "/v3/maintenance/status", "{}")
                    status = json.loads(connection.getresponse().read())
                    if status.get("leader") and status["leader"] == status["header"]["member_id"]:
                        return port
        raise AssertionError("a loop without an end ended")

    def put(self, key: str, value: bytes) -> None:
        """See `Replicated`."""
        self._put(_field(1, key.encode()) + _field(2, value))

    def get(self, key: str) -> bytes:
        """See `Replicated`."""
        return bytes(self._range(_field(1, key.encode())))

    def put_many(self, keys: list[str], value: bytes, concurrent: int) -> None:
        """See `Replicated`."""
        under_way: deque[Any] = deque()
        for key in keys:
            if len(under_way) >= concurrent:
                under_way.popleft().result()
            under_way.append(self._put.future(_field(1, key.encode()) + _field(2, value)))
        for one in under_way:
            one.result()

    def stop(self) -> None:
        """See `Replicated`."""
        if hasattr(self, "_channel"):
            self._channel.close()
        super().stop()


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    length, size = len(value), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes([number << 3 | 2]) + bytes(size) + value


class Redis(Replicated):
    """Redis, a primary and replicas that keep everything in memory; a put waits for all of them (WAIT)."""

    name = "Redis, WAIT"
    promise = "in every replica's memory"
    needs = ("redis-server", ".redis")

    def start(self) -> None:
        """See `Replicated`."""
        import redis

        ports = free_ports(self.members)
        for i, port in enumerate(ports):
            below = self.directory / f"m{i}"
            below.mkdir()
            self.spawn(
                "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(below),
                "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0",
                *(["--replicaof", "127.0.0.1", str(ports[0])] if i else []),
            )  # fmt: skip
        self._redis = redis.Redis(port=ports[0])
        for _ in _within(START_SECONDS_MAX):
            with contextlib.suppress(redis.RedisError):
                if self._redis.info("replication").get("connected_slaves") == self.members - 1:
                    break
        self.put("warm", b"")

    def put(self, key: str, value: bytes) -> None:
        """See `Replicated`."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(key, value)
        pipeline.execute_command("WAIT", self.members - 1, 0)
        _, reached = pipeline.execute()
        assert reached == self.members - 1

    def get(self, key: str) -> bytes:
        """See `Replicated`."""
        return bytes(self._redis.get(key))

    def put_many(self, keys: list[str], value: bytes, concurrent: int) -> None:
        """See `Replicated`: one pipeline of `concurrent` sets and a WAIT after another."""
        for start in range(0, len(keys), concurrent):
            pipeline = self._redis.pipeline(transaction=False)
            for key in keys[start : start + concurrent]:
                pipeline.set(key, value)
            pipeline.execute_command("WAIT", self.members - 1, 0)
            assert pipeline.execute()[-1] == self.members - 1

    def stop(self) -> None:
        """See `Replicated`."""
        if hasattr(self, "_redis"):
            self._redis.close()
        super().stop()

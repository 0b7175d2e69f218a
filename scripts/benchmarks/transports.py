"""What a message costs on each transport, beside a plain blocking socket: `scripts/bench --transports`.

Two processes on this machine, except for `memory`, where both ends are in one. *Round trip*: 64 bytes there and back, one at a time.
*Batched*: as many 64-byte messages as the bounds let through, then one answer. *Bulk*: the same with messages of 4 KiB and 1 MiB.
The echo at the other end is the same code in every case. A blocking socket sends and receives the same bytes with the same framing
in its own way: no loop, no bounds, one socket.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from storage.transport import Broken, Identity, MemoryNetwork, Role, TcpTransport
from storage.transport.certificates import Authority, Credentials

if TYPE_CHECKING:
    from storage.transport import Connection, Transport

__all__ = ["KINDS", "markdown", "measure"]

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("blocking", "memory", "unix", "plain", "tls")
ROUND_TRIPS, SMALL, PAGES, LARGE = 2_000, 100_000, 20_000, 500
ECHO, SINK, ASK = b"e", b"s", b"q"
CLUSTER = "bench"


def measure(work: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of interleaved rounds: kind -> figure -> value."""
    now_ns = time.time_ns()  # noqa: TID251  # TLS compares with the machine's clock
    authority = Authority.create(CLUSTER, now_ns=now_ns)
    for name in ("near", "far"):
        who = Identity(CLUSTER, Role.NODE, name)
        authority.install(authority.issue(who, now_ns=now_ns), work / name)
    samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            samples[kind].append(_once(work, kind))
    return {
        kind: {key: statistics.median(sample[key] for sample in runs) for key in runs[0]}
        for kind, runs in samples.items()
    }


def markdown(figures: dict[str, dict[str, float]]) -> str:
    """The table of the document."""
    lines = [
        "| | round trip, us | batched, messages/s | us of CPU each | messages a call | 4 KiB, messages/s | 1 MiB, MB/s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, figure in figures.items():
        per_call = f"{figure['per_call']:,.0f}" if figure["per_call"] else "-"
        lines.append(
            f"| {kind} | {figure['round_trip_us']:.0f} | {figure['small_per_s']:,.0f} | {figure['cpu_us']:.1f} | {per_call} "
            f"| {figure['pages_per_s']:,.0f} | {figure['large_mb_per_s']:,.0f} |"
        )
    return "\n".join(lines)


def _once(work: Path, kind: str) -> dict[str, float]:
    if kind == "memory":
        return trio.run(_in_memory)
    if kind != "blocking":
        return trio.run(_between_processes, work, kind)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = _other(work, kind, str(listening.getsockname()[1]))
        connected, _ = listening.accept()
        with connected:
            figures = _drive_blocking(connected)
        process.wait()
    return figures


def _other(work: Path, kind: str, address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.transports", str(work), kind, address]
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "scripts"))
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})


def _transport(work: Path, kind: str, name: str) -> Transport:
    if kind != "tls":
        return TcpTransport(Identity(CLUSTER, Role.NODE, name), None, insecure_loopback=True)
    now_ns = time.time_ns()  # noqa: TID251
    credentials = Credentials.load(work / name, now_ns=now_ns)
    return TcpTransport(credentials.identity, credentials.contexts())


async def _in_memory() -> dict[str, float]:
    network = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        far, near = (network.transport(Identity(CLUSTER, Role.NODE, n)) for n in ("far", "near"))
        listener = await far.listen(nursery, "far")
        connection = await near.connect(nursery, "far", role=Role.NODE)
        nursery.start_soon(_answer, await listener.accept())
        figures = await _drive(connection)
        nursery.cancel_scope.cancel()
    return figures


async def _between_processes(work: Path, kind: str) -> dict[str, float]:
    async with trio.open_nursery() as nursery:
        address = f"unix:{work}/socket" if kind == "unix" else "127.0.0.1:0"
        listener = await _transport(work, kind, "near").listen(nursery, address)
        process = _other(work, kind, listener.address)
        async with await listener.accept() as connection:
            figures = await _drive(connection)
        await trio.to_thread.run_sync(process.wait)
        nursery.cancel_scope.cancel()
    return figures


async def _far_end(work: Path, kind: str, address: str) -> None:
    async with trio.open_nursery() as nursery:
        transport = _transport(work, kind, "far")
        await _answer(await transport.connect(nursery, address, role=Role.NODE))
        nursery.cancel_scope.cancel()


async def _answer(connection: Connection) -> None:
    try:
        while True:
            for message in await connection.receive():
                kind = message[:1]
                if kind != SINK:
                    await connection.send([bytes(message) if kind == ECHO else b""])
    except Broken:
        return


async def _drive(connection: Connection) -> dict[str, float]:
    trips = []
    for _ in range(ROUND_TRIPS):
        begin = time.perf_counter()
        await connection.send([ECHO * 64])
        await connection.receive()
        trips.append(time.perf_counter() - begin)

    async def sent(message: list[bytes], count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            await connection.send(message)
        await connection.send([ASK])
        await connection.receive()
        return count / (time.perf_counter() - begin)

    cpu_s, calls = time.process_time(), connection.counters.sent_calls
    small_per_s = await sent([SINK * 64], SMALL)
    cpu_s, calls = time.process_time() - cpu_s, connection.counters.sent_calls - calls
    pages_per_s = await sent([SINK * 64, bytes(4096)], PAGES)
    large_per_s = await sent([SINK + bytes(2**20 - 1)], LARGE)
    return _figures(trips, small_per_s, cpu_s, SMALL / calls, pages_per_s, large_per_s)


def _figures(
    trips: list[float],
    small_per_s: float,
    cpu_s: float,
    per_call: float,
    pages_per_s: float,
    large_per_s: float,
) -> dict[str, float]:
    return {
        "round_trip_us": statistics.median(trips) * 1e6,
        "small_per_s": small_per_s,
        "cpu_us": cpu_s / SMALL * 1e6,
        "per_call": per_call,
        "pages_per_s": pages_per_s,
        "large_mb_per_s": large_per_s * 2**20 / 1e6,
    }


# --- The blocking socket: a length in 4 bytes, a message, and a call for each


def _drive_blocking(connected: socket.socket) -> dict[str, float]:
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    trips = []
    frame = _frame(ECHO * 64)
    for _ in range(ROUND_TRIPS):
        begin = time.perf_counter()
        connected.sendall(frame)
        connected.recv(len(frame), socket.MSG_WAITALL)
        trips.append(time.perf_counter() - begin)

    def sent(message: bytes, count: int) -> float:
        frame = _frame(message)
        begin = time.perf_counter()
        for _ in range(count):
            connected.sendall(frame)
        connected.sendall(_frame(ASK))
        connected.recv(len(_frame(ASK)), socket.MSG_WAITALL)
        return count / (time.perf_counter() - begin)

    cpu_s = time.process_time()
    small_per_s = sent(SINK * 64, SMALL)
    cpu_s = time.process_time() - cpu_s
    pages_per_s = sent(SINK * 4160, PAGES)
    return _figures(trips, small_per_s, cpu_s, 1, pages_per_s, sent(SINK * 2**20, LARGE))


def _frame(message: bytes) -> bytes:
    return len(message).to_bytes(4, "little") + message


def _answer_blocking(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        space = memoryview(bytearray(2**20 + 4))
        with connected.makefile("rb", buffering=65_536) as reader:
            while reader.readinto(space[:4]):  # type: ignore[arg-type]
                message = space[: int.from_bytes(space[:4], "little")]
                reader.readinto(message)  # type: ignore[arg-type]
                if message[:1] != SINK:
                    connected.sendall(_frame(bytes(message)))


if __name__ == "__main__":
    _work, _kind, _address = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if _kind == "blocking":
        _answer_blocking(int(_address))
    else:
        trio.run(_far_end, _work, _kind, _address)

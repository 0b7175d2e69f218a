"""Messages over RDMA verbs beside TCP and beside perftest on the same device: `scripts/bench rdma`.

Where this machine has no RDMA device it runs in a guest with Soft-RoCE (scripts/rdma-guest), whose times say nothing of a card: what carries
over are the counts, and Python's microseconds. Two processes, as in `transports`; for perftest (ib_write_bw, Debian package perftest) one
server and one client, messages of 1 MiB, as many in flight as it likes.

*Each by itself*: a turn of the loop for every message. *32 a turn*, *as fast as it goes*: the same messages of 64 bytes, gathered.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import trio  # noqa: E402  # found by the line above

from storage.transport import Broken, Identity, Role, TcpTransport  # noqa: E402
from storage.transport.verbs import Fabric  # noqa: E402

if TYPE_CHECKING:
    from storage.transport import Connection, Transport

DOCUMENT = ROOT / "docs/PERFORMANCE.md"
BEGIN, END = "<!-- table: scripts/bench rdma -->\n", "<!-- end of table -->\n"
KINDS = ("verbs", "tcp")
MESSAGES, TURNS, LARGE_BYTES, LARGE = 50_000, 2_000, 1 << 20, 64
ECHO, SINK, ASK = b"e", b"s", b"q"
PERFTEST_ROUNDS = (32, 288)


def transport(kind: str, name: str, place: int) -> Transport:
    """On the device at that place of the list, or the last."""
    control = TcpTransport(Identity("bench", Role.NODE, name), None, insecure_loopback=True)
    if kind == "tcp":
        return control
    from storage.transport.verbs.device import device_names
    from storage.transport.verbs.transport import VerbsTransport

    names = device_names()
    return VerbsTransport(control, Fabric(device=names[min(place, len(names) - 1)]))


async def far_end(kind: str, address: str) -> None:
    """The other process: takes everything, answers what asks for it."""
    async with trio.open_nursery() as nursery:
        connection = await transport(kind, "far", 1).connect(nursery, address, role=Role.NODE)
        try:
            while True:
                for message in await connection.receive():
                    if message[:1] != SINK:
                        await connection.send([bytes(message)])
        except Broken:
            nursery.cancel_scope.cancel()


async def near_end(kind: str) -> dict[str, float]:
    """Measure one kind, with a process of its own at the other end."""
    async with trio.open_nursery() as nursery:
        listener = await transport(kind, "near", 0).listen(nursery, "127.0.0.1:0")
        other = await trio.lowlevel.open_process(
            [sys.executable, __file__, "--far", kind, listener.address]
        )
        async with await listener.accept() as connection:
            figures = await drive(connection)
        await other.wait()
        nursery.cancel_scope.cancel()
    return figures


async def drive(connection: Connection) -> dict[str, float]:
    """What this end sees."""
    message = [SINK * 64]

    async def answered() -> None:
        await connection.send([ASK])
        await connection.receive()

    async def rate(count: int, a_turn: int, message: list[bytes]) -> float:
        begin = time.perf_counter()
        for number in range(count):
            await connection.send(message)
            if number % a_turn == a_turn - 1:
                await trio.lowlevel.checkpoint()
        await answered()
        return count / (time.perf_counter() - begin)

    await answered()
    trips = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        await connection.send([ECHO * 64])
        await connection.receive()
        trips.append(time.perf_counter() - begin)
    figures = {"round_trip_us": statistics.median(trips) * 1e6}
    figures["single_per_s"] = await rate(TURNS, 1, message)
    before = counts(connection)
    figures["turns_per_s"] = await rate(MESSAGES, 32, message)
    used = {key: value - before[key] for key, value in counts(connection).items()}
    figures |= {key: value / MESSAGES for key, value in used.items()}
    cpu_s = time.process_time()
    figures["batched_per_s"] = await rate(MESSAGES, MESSAGES, message)
    figures["cpu_us"] = (time.process_time() - cpu_s) / MESSAGES * 1e6
    large = [SINK + bytes(LARGE_BYTES - 1)]
    figures["large_mb_per_s"] = await rate(LARGE, LARGE, large) * LARGE_BYTES / 1e6
    return figures


def counts(connection: Connection) -> dict[str, float]:
    """What the device was asked, and what was copied, so far."""
    status = getattr(connection, "status", None)
    if status is None:
        return {"doorbells": connection.counters.sent_calls}
    told = status()
    return {
        "doorbells": told["doorbells"],
        "posts": told["posts"],
        "copies": told["copied_bytes"] / 64,
    }


def perftest() -> float:
    """MB/s of ib_write_bw between the same two devices.

    By the clock, from two runs of different length: its own figure counts the processor's cycles, whose rate a guest does not know.
    """
    few, many = PERFTEST_ROUNDS
    seconds = {count: perftest_s(count) for count in (few, many)}
    return (many - few) * LARGE_BYTES / (seconds[many] - seconds[few]) / 1e6


def perftest_s(count: int) -> float:
    """Seconds of its client's run."""
    from storage.transport.verbs.device import Device, device_names

    names = device_names()
    commands = []
    for place in (0, min(1, len(names) - 1)):
        device = Device(Fabric(device=names[place]))
        gid = device.gid(None)
        device.close()
        options = ["-d", names[place], "-x", str(gid.index), "-s", str(LARGE_BYTES)]
        commands.append(["ib_write_bw", *options, "-n", str(count), "-F"])
    server = subprocess.Popen(commands[0], stdout=subprocess.DEVNULL)
    try:
        for _ in range(50):
            begin = time.perf_counter()
            client = subprocess.run(
                [*commands[1], "127.0.0.1"], capture_output=True, text=True, check=False
            )
            if client.returncode == 0:
                return time.perf_counter() - begin
            time.sleep(0.1)  # the server may not listen yet
    finally:
        server.kill()
        server.wait()
    raise RuntimeError(f"ib_write_bw failed:\n{client.stdout}{client.stderr}")


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Medians of interleaved rounds."""
    samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in (*KINDS, "ib_write_bw")}
    for _ in range(rounds):
        for kind in KINDS:
            samples[kind].append(trio.run(near_end, kind))
        samples["ib_write_bw"].append({"large_mb_per_s": perftest()})
    return {
        kind: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for kind, runs in samples.items()
    }


COLUMNS = (
    ("round trip, us", "round_trip_us", "{:.0f}"),
    ("each by itself, messages/s", "single_per_s", "{:,.0f}"),
    ("32 a turn, messages/s", "turns_per_s", "{:,.0f}"),
    ("as fast as it goes, messages/s", "batched_per_s", "{:,.0f}"),
    ("us of CPU each", "cpu_us", "{:.1f}"),
    ("posts each", "posts", "{:.3f}"),
    ("doorbells or calls each", "doorbells", "{:.3f}"),
    ("copies each", "copies", "{:.2f}"),
    ("1 MiB, MB/s", "large_mb_per_s", "{:,.0f}"),
)


def markdown(figures: dict[str, dict[str, float]], where: str) -> str:
    """The table of the document."""
    lines = [
        "| | " + " | ".join(title for title, _, _ in COLUMNS) + " |",
        "|---|" + "--:|" * len(COLUMNS),
    ]
    for kind, figure in figures.items():
        cells = [form.format(figure[key]) if key in figure else "" for _, key, form in COLUMNS]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n{where}\n"


def inside(rounds: int) -> int:
    """Where the device is."""
    if shutil.which("ib_write_bw") is None:
        print("bench: ib_write_bw is not there; apt-get install perftest", file=sys.stderr)
        return 2
    from storage.transport.verbs.device import device_names

    where = f"{', '.join(device_names()[:2])}; {'guest kernel' if 'RDMA_GUEST' in os.environ else 'kernel'} {os.uname().release}, Python {sys.version.split()[0]}; medians of {rounds} rounds; load of the machine {{load}}"
    print("FIGURES " + json.dumps([measure(rounds), where]), flush=True)
    return 0


def main(arguments: list[str]) -> int:
    """See the module; --document puts the table into docs/PERFORMANCE.md."""
    parser = argparse.ArgumentParser(prog="scripts/bench rdma", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--document", action="store_true", help="into docs/PERFORMANCE.md, too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--far", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.far:
        trio.run(far_end, *options.far)
        return 0
    if options.inside:
        return inside(options.rounds)
    has_device = any(Path("/sys/class/infiniband").glob("*"))
    guest = [] if has_device else [str(ROOT / "scripts/rdma-guest"), "--nodes", "2", "--"]
    words = [sys.executable, __file__, "--inside", "--rounds", str(options.rounds)]
    said = subprocess.run(
        [*guest, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    found = re.search(r"^FIGURES (.*)$", said.stdout, re.M)
    if said.returncode or found is None:
        print(said.stdout, file=sys.stderr)
        return said.returncode or 1
    figures, where = json.loads(found[1])
    table = markdown(figures, where.format(load=round(os.getloadavg()[1], 1)))
    print(table)
    if options.document:
        text = DOCUMENT.read_text()
        begin = text.index(BEGIN) + len(BEGIN)
        end = text.index(END, begin)
        DOCUMENT.write_text(text[:begin] + "\n" + table + "\n" + text[end:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

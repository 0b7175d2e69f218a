"""Messages and replicated puts over RDMA verbs beside TCP, and beside perftest on the same device: `scripts/bench rdma`.

Where this machine has no RDMA device it runs in a guest with Soft-RoCE (scripts/rdma-guest), whose times say nothing of a card: what carries
over are the counts, and Python's microseconds. Two processes, as in `transports`; for perftest (ib_write_lat, ib_write_bw; Debian package
perftest) one server and one client, messages of 64 bytes and of 1 MiB.

*Messages.* Each by itself: a turn of the loop for every message. 32 a turn, as fast as it goes: the same messages of 64 bytes, gathered.
*Puts* (`puts`). Records of 64 bytes that commit when both replicas have them in their logs: one after the other, and 256 on their way at
a time; and of 256 KiB, the longest there are, 8 at a time. System calls are counted by strace in a run of its own, of the leader's main thread.
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
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

import trio  # noqa: E402  # found by the line above

from benchmarks.puts import FOLLOWER, LEADER, Replica, counts, spent  # noqa: E402
from benchmarks.stopwatch import Stopwatch  # noqa: E402
from storage.transport import Broken, Identity, Role, TcpTransport  # noqa: E402
from storage.transport.verbs import Fabric  # noqa: E402

if TYPE_CHECKING:
    from storage.transport import Connection, Transport

DOCUMENT = ROOT / "docs/PERFORMANCE.md"
BEGIN, END = "<!-- table: scripts/bench rdma -->\n", "<!-- end of table -->\n"
KINDS = ("verbs", "tcp")
MESSAGES, TURNS, LARGE_BYTES, LARGE = 50_000, 2_000, 1 << 20, 64
ECHO, SINK, ASK = b"e", b"s", b"q"
PERFTEST_ROUNDS = {"ib_write_bw": (32, 288), "ib_write_lat": (500, 4500)}
PERFTEST_BYTES = {"ib_write_bw": LARGE_BYTES, "ib_write_lat": 64}
PUTS_ALONE, PUTS, PUTS_AT_ONCE, SEGMENTS = 300, 20_000, 256, 10
LONG_PUTS, LONG_BYTES, LONG_AT_ONCE = 64, 256 * 1024, 8
TRACED_S_MAX = 120
TRACED = (2_000, 10_000)
"""Puts of the two runs whose system calls are subtracted from each other: what starting costs is in both."""


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
    figures |= a_piece(spent(before, counts(connection)), MESSAGES, 64)
    cpu_s = time.process_time()
    figures["batched_per_s"] = await rate(MESSAGES, MESSAGES, message)
    figures["cpu_us"] = (time.process_time() - cpu_s) / MESSAGES * 1e6
    large = [SINK + bytes(LARGE_BYTES - 1)]
    await rate(8, 8, large)  # pages touched for the first time; perftest's are not counted either
    figures["large_mb_per_s"] = await rate(LARGE, LARGE, large) * LARGE_BYTES / 1e6
    return figures


def a_piece(used: dict[str, int], pieces: int, size: int) -> dict[str, float]:
    """What each took of posts, doorbells (or calls) and copies of its bytes."""
    found = {"doorbells": used.get("doorbells", used.get("sent_calls", 0)) / pieces}
    if "posts" in used:
        found["posts"] = used["posts"] / pieces
        found["copies"] = used["copied_bytes"] / pieces / size
    return found


async def follow(kind: str, address: str) -> None:
    """The other process of the puts: a replica."""
    async with trio.open_nursery() as nursery:
        connection = await transport(kind, FOLLOWER, 1).connect(nursery, address, role=Role.NODE)
        with tempfile.TemporaryDirectory() as directory:
            replica = Replica(FOLLOWER, connection, Path(directory))
            await replica.serve()
            replica.close()
        nursery.cancel_scope.cancel()


async def lead(kind: str, puts: int | None = None) -> dict[str, float]:
    """Measure the puts of one kind; or only do so many, for somebody who counts."""
    figures: dict[str, float] = {}
    async with trio.open_nursery() as nursery:
        listener = await transport(kind, LEADER, 0).listen(nursery, "127.0.0.1:0")
        other = await trio.lowlevel.open_process(
            [sys.executable, __file__, "--follow", kind, listener.address]
        )
        connection = await listener.accept()
        with tempfile.TemporaryDirectory() as directory:
            replica = Replica(LEADER, connection, Path(directory))
            nursery.start_soon(replica.serve)
            await replica.ready()
            if puts is not None:
                await replica.put(puts, bytes(64), PUTS_AT_ONCE)
            else:
                figures = await drive_puts(replica)
            await connection.aclose()
            replica.close()
        await other.wait()
        nursery.cancel_scope.cancel()
    return figures


async def drive_puts(replica: Replica) -> dict[str, float]:
    """What the leader sees."""
    connection = replica.connection
    await replica.put(PUTS_AT_ONCE, bytes(64), 16)
    before, begin = counts(connection), time.perf_counter()
    for _ in range(PUTS_ALONE):
        await replica.put(1, bytes(64), 1)
    figures = {"alone_us": (time.perf_counter() - begin) / PUTS_ALONE * 1e6}
    used = a_piece(spent(before, counts(connection)), PUTS_ALONE, 64)
    figures |= {f"alone_{key}": value for key, value in used.items()}
    before, begin, cpu_s = counts(connection), time.perf_counter(), time.process_time()
    await replica.put(PUTS, bytes(64), PUTS_AT_ONCE)
    figures["puts_per_s"] = PUTS / (time.perf_counter() - begin)
    figures["put_cpu_us"] = (time.process_time() - cpu_s) / PUTS * 1e6
    used = a_piece(spent(before, counts(connection)), PUTS, 64)
    figures |= {f"put_{key}": value for key, value in used.items()}
    begin = time.perf_counter()
    await replica.put(LONG_PUTS, bytes(LONG_BYTES), LONG_AT_ONCE)
    figures["long_mb_per_s"] = LONG_PUTS * LONG_BYTES / (time.perf_counter() - begin) / 1e6
    endpoint = getattr(connection, "_endpoint", None)
    if endpoint is not None:  # The last thing, since being timed costs time.
        watch = Stopwatch()
        watch.watch("device", endpoint._posting, "end")
        watch.watch("device", endpoint, "poll", "arm", "take_event", "post_receives")
        watch.watch("python", connection, "send_nowait", "_push", "_grant", "_take", "_poll")
        figures["python_us"] = float("inf")
        for _ in range(SEGMENTS):  # the best of some: what else the machine does must not count
            watch.clear()
            await replica.put(PUTS // SEGMENTS, bytes(64), PUTS_AT_ONCE)
            took_us = watch.seconds["python"] / (PUTS // SEGMENTS) * 1e6
            figures["python_us"] = min(figures["python_us"], took_us)
    return figures


def system_calls(kind: str) -> float | None:
    """System calls a put, of the leader's main thread; None without strace."""
    if shutil.which("strace") is None:
        return None
    totals = {}
    for puts in TRACED:
        with tempfile.NamedTemporaryFile("r") as said:
            words = ["strace", "-c", "-o", said.name, sys.executable, __file__]
            subprocess.run([*words, "--lead", kind, str(puts)], check=True, timeout=TRACED_S_MAX)
            totals[puts] = int(said.read().splitlines()[-1].split()[3])
    few, many = TRACED
    return (totals[many] - totals[few]) / (many - few)


def perftest(program: str) -> float:
    """Seconds that a program of perftest takes for one message between the same two devices.

    By the clock, from two runs of different length: its own figure counts the processor's cycles, whose rate a guest does not know.
    """
    few, many = PERFTEST_ROUNDS[program]
    seconds = {count: perftest_s(program, count) for count in (few, many)}
    return (seconds[many] - seconds[few]) / (many - few)


def perftest_s(program: str, count: int) -> float:
    """Seconds of its client's run."""
    from storage.transport.verbs.device import Device, device_names

    names = device_names()
    commands = []
    for place in (0, min(1, len(names) - 1)):
        device = Device(Fabric(device=names[place]))
        gid = device.gid(None)
        device.close()
        options = ["-d", names[place], "-x", str(gid.index), "-s", str(PERFTEST_BYTES[program])]
        commands.append([program, *options, "-n", str(count), "-F"])
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
    raise RuntimeError(f"{program} failed:\n{client.stdout}{client.stderr}")


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Medians of interleaved rounds."""
    kinds = (*KINDS, *PERFTEST_ROUNDS)
    samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in KINDS:
            samples[kind].append(trio.run(near_end, kind) | trio.run(lead, kind))
        large_s = perftest("ib_write_bw")
        samples["ib_write_bw"].append({"large_mb_per_s": LARGE_BYTES / large_s / 1e6})
        # Its client counts both ways as one; a round trip is two.
        samples["ib_write_lat"].append({"round_trip_us": perftest("ib_write_lat") * 1e6})
    figures = {
        kind: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for kind, runs in samples.items()
    }
    for kind in KINDS:
        if (calls := system_calls(kind)) is not None:
            figures[kind]["put_calls"] = calls
    return figures


MESSAGE_COLUMNS = (
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
PUT_COLUMNS = (
    ("one alone, us", "alone_us", "{:.0f}"),
    ("posts", "alone_posts", "{:.2f}"),
    ("doorbells or sends", "alone_doorbells", "{:.2f}"),
    ("256 at once, puts/s", "puts_per_s", "{:,.0f}"),
    ("us of CPU a put", "put_cpu_us", "{:.0f}"),
    ("of it Python in the transport", "python_us", "{:.2f}"),
    ("system calls", "put_calls", "{:.2f}"),
    ("posts", "put_posts", "{:.3f}"),
    ("doorbells or sends", "put_doorbells", "{:.3f}"),
    ("copies", "put_copies", "{:.2f}"),
    ("256 KiB, MB/s", "long_mb_per_s", "{:,.0f}"),
)


def markdown(figures: dict[str, dict[str, float]], where: str) -> str:
    """The tables of the document."""
    puts = {kind: figure for kind, figure in figures.items() if kind in KINDS}
    return (
        f"Messages:\n\n{rows(figures, MESSAGE_COLUMNS)}\n\n"
        f"Replicated puts, at the leader:\n\n{rows(puts, PUT_COLUMNS)}\n\n{where}\n"
    )


def rows(figures: dict[str, dict[str, float]], columns: tuple[tuple[str, str, str], ...]) -> str:
    """One table."""
    lines = [
        "| | " + " | ".join(title for title, _, _ in columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    for kind, figure in figures.items():
        cells = [form.format(figure[key]) if key in figure else "" for _, key, form in columns]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def inside(rounds: int) -> int:
    """Where the device is."""
    for program in PERFTEST_ROUNDS:
        if shutil.which(program) is None:
            print(f"bench: {program} is not there; scripts/setup bench brings it", file=sys.stderr)
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
    for other in ("--far", "--follow", "--lead"):
        parser.add_argument(other, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.far:
        trio.run(far_end, *options.far)
        return 0
    if options.follow:
        trio.run(follow, *options.follow)
        return 0
    if options.lead:
        trio.run(lead, options.lead[0], int(options.lead[1]))
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

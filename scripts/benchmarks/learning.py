"""What machine learning asks of the store: `scripts/bench learning`, and on a machine with a card `scripts/bench gpu`.

    prefetch   how busy a worker is that reads a file for each 22 ms of computing, where every read takes 20 ms
    vectors    an addition to 100 numbers anywhere in a vector of 1 MiB, and a look at 100: time, bytes in the log and in the index
    question   the mean of one cow over ten days, out of 100,000 versions of 500 cows
    gpu        files to a card, beside cudaMemcpy and torch.load

Each in a store of its own, in a temporary directory; prints a line for each figure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import trio

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import cascadefs  # noqa: E402
from storage.namespace import ROOT as ROOT_INODE  # noqa: E402
from triggers.access import Identity  # noqa: E402
from triggers.cut import StoreCut  # noqa: E402
from triggers.handler import device as caches  # noqa: E402
from triggers.handler.effects import encode  # noqa: E402
from triggers.run import Done, Event, Run, Script  # noqa: E402
from triggers.runner.pool import Settings, open_pool  # noqa: E402
from triggers.testing import Cascade  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

READ_SECONDS, COMPUTE_SECONDS, FILES = 0.020, 0.022, 100
INDICES, VECTOR_BYTES, ADDITIONS = 100, 1 << 20, 1000
COWS, DAYS = 500, 200

HANDLER = f"""
import time
from cascadefs.triggers import watch

@watch("in/*")
def compute(event, ctx):
    began, busy = time.monotonic(), 0.0
    for file in ctx.prefetch(["part/%d" % number for number in range({FILES})], ahead=int(event.name)):
        started = time.monotonic()
        while time.monotonic() - started < {COMPUTE_SECONDS}:
            pass
        busy += time.monotonic() - started
    return "%.3f" % (busy / (time.monotonic() - began))
"""


class Slow:
    """A cut whose files take a while."""

    def __init__(self, cut: StoreCut) -> None:
        self._cut = cut

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cut, name)

    def get(self, path: str, **how: Any) -> Any:
        """Read, late."""
        time.sleep(READ_SECONDS)
        return self._cut.get(path, **how)


def prefetch() -> None:
    """How busy a worker is, without and with files asked for ahead."""

    async def measure() -> None:
        cascade = Cascade(uid=65534 if os.getuid() == 0 else os.getuid())
        for number in range(FILES):
            cascade.put(f"part/{number}", bytes(10_000))
        script = Script(
            "v1", "", "s.py", "module", {"s.py": HANDLER.encode()}, cascade.uid, cascade.uid
        )
        clocks = time.time_ns, time.monotonic_ns  # noqa: TID251  a process of its own
        async with open_pool(Settings(workers_max=1), *clocks) as pool:
            await pool.load(script)
            for ahead in (0, 1, 2):
                version = cascade.put(f"in/{ahead}", b"x")
                now = cascade.store.now()
                event = Event(f"in/{ahead}", "k", f"in/{ahead}", version, now)
                cut = Slow(
                    StoreCut(cascade.store, ROOT_INODE, now, Identity(cascade.uid, cascade.uid))
                )
                run = Run(f"r{ahead}", script, "compute", "s.compute", [event], now)
                done = await pool.run(run, cut)  # type: ignore[arg-type]
                assert isinstance(done, Done), done
                print(f"prefetch  ahead={ahead}  busy {float(done.result):.0%}")

    trio.run(measure)


def vectors(work: Path) -> None:
    """What additions and look-ups cost."""
    draw = np.random.default_rng(0)
    with cascadefs.connect(work) as store:
        shard = store._executor._store._shard  # type: ignore[attr-defined]
        store.put("w", bytes(VECTOR_BYTES))
        count = VECTOR_BYTES // 4
        delta = np.ones(INDICES, np.float32)
        for _ in range(200):
            store.add("w", draw.integers(0, count, INDICES), delta)
        shard.publish()
        log, index = shard._position.address, _index_bytes(work)

        def add() -> None:
            store.add("w", draw.integers(0, count, INDICES), delta)

        def pull() -> None:
            store.pull("w", draw.integers(0, count, INDICES))

        began = time.process_time()
        add_us = _median_us(add, ADDITIONS)
        cpu_us = (time.process_time() - began) / ADDITIONS * 1e6
        shard.publish()
        log = (shard._position.address - log) / ADDITIONS
        index = (_index_bytes(work) - index) / ADDITIONS
        print(
            f"vectors   add {add_us:.0f} us ({cpu_us:.0f} us of CPU), {log / 1000:.0f} KB of log, {index / 1000:.0f} KB of index"
        )
        print(f"vectors   pull {_median_us(pull, ADDITIONS):.0f} us")


def _index_bytes(work: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (work / "index").rglob("*"))


def question(work: Path) -> None:
    """One cow among many."""
    with cascadefs.connect(work) as store:
        began = time.perf_counter()
        for day in range(DAYS):
            with store.batch() as batch:
                for cow in range(COWS):
                    batch.put(f"fat/{cow}.json", f'{{"fat": {4 + (cow * day) % 97 / 100}}}')
        made_s = time.perf_counter() - began
        asked = "select avg(json_extract(text_of(path, version), '$.fat')::double) as mean from versions where path = $p"
        since = store.versions("fat/0.json", limit=10)[0].timestamp
        for what, first in (("ten days", since), ("all of it", None)):
            began = time.perf_counter()
            answer = store.sql(asked, "fat/*", since=first, p="fat/128.json")
            print(
                f"question  {what}: {time.perf_counter() - began:.2f} s, scanned {answer.scanned}, opened {answer.opened}"
                f" (100,000 versions made in {made_s:.0f} s)"
            )


def gpu(work: Path) -> None:
    """Files to a card."""
    cache = caches.gpu()
    if cache is None:
        print("gpu       there is no CUDA device here that CuPy finds: nothing was measured")
        return
    cupy = cache.xp
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"gpu       {name}, CuPy {cupy.__version__}")
    with cascadefs.connect(work) as store:
        for size in (1 << 20, 16 << 20, 256 << 20):
            host = np.random.default_rng(1).random(size // 4, np.float32)
            path = f"{size}.npy"
            store.put(path, encode(path, host))
            version = store.stat(path).version

            def cold(path: str = path, version: int = version) -> None:
                store.devices._caches.clear()
                store.get(path, version=version, device="cuda")
                cupy.cuda.runtime.deviceSynchronize()

            def warm(path: str = path) -> None:
                store.get(path, device="cuda")

            _rate(f"store.get, {size >> 20} MiB", cold, size)
            store.get(path, device="cuda")
            print(f"gpu       store.get again: {_median_us(warm, 20):.0f} us, 0 bytes moved")
            device = cupy.empty_like(host)
            pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.float32, host.size)
            for what, source in (("pinned", pinned), ("pageable", host)):
                _rate(f"cudaMemcpy from {what} memory", partial(device.set, source), size)
            _torch(work, host)


def _torch(work: Path, host: np.ndarray[Any, Any]) -> None:
    try:
        import torch
    except ImportError:
        print("gpu       torch.load + .cuda(): PyTorch is not installed")
        return
    if not torch.cuda.is_available():
        print("gpu       torch.load + .cuda(): this PyTorch has no CUDA")
        return
    file = work.parent / "plain.pt"
    torch.save(torch.from_numpy(host), file)

    def load() -> None:
        torch.load(file).cuda()
        torch.cuda.synchronize()

    _rate("torch.load + .cuda() of a plain file", load, host.nbytes)
    file.unlink()


def _rate(what: str, call: Callable[[], object], size: int) -> None:
    call()
    print(f"gpu       {what}: {size / _median_us(call, 7) / 1000:.2f} GB/s")


def _median_us(call: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e6


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "what",
        nargs="*",
        default=["prefetch", "vectors", "question"],
        choices=["prefetch", "vectors", "question", "gpu"],
    )
    chosen = parser.parse_args().what
    for what in chosen:
        work = Path(tempfile.mkdtemp(prefix="cascadefs-bench-"))
        try:
            if what == "prefetch":
                prefetch()
            else:
                {"vectors": vectors, "question": question, "gpu": gpu}[what](work / "data")
        finally:
            shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())

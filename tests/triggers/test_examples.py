"""Goal: the examples in docs/ do what they say. Method: the in-memory store; scripts in this process, and in real workers.

The dairy's numbers are those that a working pipeline must reach: 97 % of the cows and of the illnesses right, one health
record per frame whatever is killed, a new model from its version on.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import signal
import struct
import sys
import time
import zlib
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.triggers.runner.conftest import NOBODY
from triggers.engine import Options
from triggers.runner.pool import Settings, open_pool
from triggers.testing import Cascade

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def install(cascade: Cascade, example: str, base: str = "") -> None:
    """Put an example's scripts in place."""
    watch = EXAMPLES / example / "watch"
    for path in sorted(watch.rglob("*"), key=lambda path: path.parent == watch):  # lib/ first
        if path.is_file() and path.suffix in (".py", ".sh"):
            name = str(path.relative_to(watch))
            cascade.script(name, path.read_text(), base=base, mode=path.stat().st_mode & 0o755)


def module_of(example: str, name: str):
    """A module of an example; nothing of it stays behind that others would take for theirs."""
    path, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(EXAMPLES / example))
    spec = importlib.util.spec_from_file_location(
        name.strip("_"), EXAMPLES / example / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
        for own in set(sys.modules) - known:
            origin = getattr(sys.modules[own], "__file__", None) or ""
            if own.partition(".")[0] == "watch" or origin.startswith(str(EXAMPLES)):
                del sys.modules[own]
    return module


@asynccontextmanager
async def in_workers():
    """A store in memory whose scripts run in sandboxed worker processes."""
    settings = Settings(workers_max=4)
    async with open_pool(settings, time.time_ns, time.monotonic_ns) as pool:
        options = Options(workers=1, node="test")
        yield Cascade(uid=NOBODY, options=options, runner=lambda clock: pool), pool


# --- thumbs -----------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A gray picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + bytes((x + y) % 256 for x in range(width)) for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def size_of(picture: bytes) -> tuple[int, int]:
    return struct.unpack(">II", picture[16:24])


@pytest.mark.slow
async def test_thumbs_makes_one_of_every_picture_and_rejects_what_is_none():
    async with in_workers() as (cascade, _):
        install(cascade, "thumbs", base="photos")
        await cascade.run_until_idle()
        assert cascade.problems == {}
        cascade.put("photos/cow.png", png(320, 160))
        cascade.put("photos/2026/05/calf.png", png(20, 10))
        cascade.put("photos/notes.txt", "no picture")
        cascade.put("photos/broken.jpg", "no picture either")
        await cascade.run_until_idle()
        assert cascade.files("photos/thumbs") == ["2026/05/calf.png", "cow.png"]
        assert size_of(cascade.get("photos/thumbs/cow.png")) == (64, 32)
        assert size_of(cascade.get("photos/thumbs/2026/05/calf.png")) == (20, 10)
        assert [(letter.event.path, letter.kind) for letter in cascade.failed] == [
            ("broken.jpg", "reject")
        ]


# --- words ------------------------------------------------------------------------------------------------------------


async def test_words_counts_what_texts_say_now():
    cascade = Cascade()
    install(cascade, "words")
    await cascade.run_until_idle()
    texts = {f"t{n}": f"cow cow{n % 3} milk " * (n + 1) for n in range(12)}
    for name, text in texts.items():
        cascade.put(f"texts/deep/{name}.txt", text)
    await cascade.run_until_idle()
    cascade.put("texts/deep/t3.txt", "calf")
    cascade.delete("texts/deep/t5.txt")
    await cascade.run_until_idle()
    texts |= {"t3": "calf", "t5": ""}
    wanted = collections.Counter(" ".join(texts.values()).split())
    counted = collections.Counter()
    for name in cascade.files("counts"):
        counted.update(json.loads(cascade.get(f"counts/{name}")))
    assert counted == wanted
    assert cascade.failed == []


# --- dairy ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def farm_module():
    """farm.py as a module."""
    return module_of("dairy", "farm")


class Dairy:
    """The pipeline over a store, and the truth about what it was shown."""

    def __init__(self, cascade: Cascade, farm) -> None:
        self.cascade, self.farm = cascade, farm
        self.shots = []
        install(cascade, "dairy")
        cascade.put("models/identify.npz", farm.model())
        cascade.put("milk.csv", farm.milk())

    def film(self, into: str = "frames") -> None:
        shot = self.farm.shot()
        self.cascade.put(f"{into}/{len(self.shots):06}.npy", shot.frame)
        self.shots.append(shot)

    def records(self) -> list[tuple[str, dict]]:
        """Every version of every health record: (cow, record)."""
        return [
            (name.removesuffix(".json"), json.loads(version))
            for name in self.cascade.files("health")
            for version in self.cascade.versions(f"health/{name}")
        ]

    def named(self) -> dict[bytes, str]:
        """The cow by frame, as identified."""
        return {
            version: cow
            for cow in {cow for cow, _ in self.records()}
            for version in self.cascade.versions(f"cows/{cow}/frame.npy")
        }


async def test_dairy_knows_its_cows_and_their_health_at_one_cut(farm_module):
    dairy = Dairy(Cascade(), farm_module.Farm(seed=1))
    cascade = dairy.cascade
    await cascade.run_until_idle()
    assert cascade.problems == {}
    for _ in range(150):
        dairy.film()
    await cascade.run_until_idle()
    assert cascade.failed == []

    seen = [shot for shot in dairy.shots if shot.cow is not None]
    named = dairy.named()
    right = sum(named.get(shot.frame) == str(shot.cow) for shot in seen)
    assert right >= 0.97 * len(seen)
    assert len(cascade.files("cows-seen")) == len(seen)  # none empty, none lost

    records = dairy.records()
    assert len(records) == len(seen)
    ill = {str(cow) for cow in dairy.farm.rises}
    assert sum(record["mastitis"] == (cow in ill) for cow, record in records) >= 0.97 * len(records)

    # Both handlers of a frame saw the same cut: that of the frame.
    for cow in {cow for cow, _ in records}:
        cuts = [record["cut"] for name, record in records if name == cow]
        for field in ("yield", "fat", "protein"):
            lines = cascade.get(f"daily/{field}/{cow}").decode().splitlines()
            assert [int(line.split()[1]) for line in lines] == cuts

    often = {cow for cow, count in collections.Counter(c for c, _ in records).items() if count >= 2}
    assert set(cascade.files("alerts")) == {f"{cow}.json" for cow in often & ill}


async def test_a_new_model_counts_from_its_version_on_and_provenance_names_it(farm_module):
    dairy = Dairy(Cascade(), farm_module.Farm(seed=2))
    cascade = dairy.cascade
    await cascade.run_until_idle()
    for _ in range(20):
        dairy.film(into="cows-seen")
    cascade.put("models/identify.npz", dairy.farm.model(first=100))  # before any of them has run
    for _ in range(20):
        dairy.film(into="cows-seen")
    await cascade.run_until_idle()
    named = dairy.named()
    for number, shot in enumerate(dairy.shots):
        assert (int(named[shot.frame]) >= 100) == (number >= 20)
    for cow in sorted({cow for cow, _ in dairy.records()}):
        model = 2 if int(cow) >= 100 else 1
        assert f"models/identify.npz@v{model}" in cascade.why(f"cows/{cow}/frame.npy").reads


class Murderer:
    """A runner that kills a worker before every n-th run: the run may meet it dying."""

    def __init__(self, pool, every: int) -> None:
        self._pool, self._every = pool, every
        self.runs = self.killed = self.deaths = 0

    def __getattr__(self, name):
        return getattr(self._pool, name)

    async def run(self, run, cut):
        self.runs += 1
        if self.runs % self._every == 0:
            for workers in list(self._pool.workers.values()):
                os.kill(workers[0].process.pid, signal.SIGKILL)
                self.killed += 1
        outcome = await self._pool.run(run, cut)
        self.deaths += getattr(outcome, "kind", None) == "death"
        return outcome


@pytest.mark.slow
async def test_killed_workers_leave_exactly_one_record_per_frame(farm_module):
    async with in_workers() as (_, pool):
        murderer = Murderer(pool, every=20)
        options = Options(workers=1, node="test")
        cascade = Cascade(uid=NOBODY, options=options, runner=lambda clock: murderer)
        dairy = Dairy(cascade, farm_module.Farm(seed=3))
        await cascade.run_until_idle()
        assert cascade.problems == {}
        for _ in range(40):
            dairy.film()
        await cascade.run_until_idle()
        assert murderer.killed >= 5
        assert cascade.failed == []
        seen = [shot for shot in dairy.shots if shot.cow is not None]
        records = [record for _, record in dairy.records()]
        assert len(records) == len({record["frame"] for record in records}) == len(seen)


# --- intersection -----------------------------------------------------------------------------------------------------


async def forecasts(street, change: str = "") -> tuple[list[dict], int]:
    """What is forecast of twelve frames that come at once, with a change to how positions are read; dead letters."""
    cascade = Cascade()
    install(cascade, "intersection")
    script = (EXAMPLES / "intersection/watch/intersection.py").read_text()
    position = 'ctx.get(f"tracks/{crossing}/{vehicle}.json"'
    assert script.count(position) == 1
    cascade.script("intersection.py", script.replace(position, position + change))
    await cascade.run_until_idle()
    scene = street.Scene(seed=1)
    for number in range(12):
        cascade.put("cam/1/frame.npy", scene.frame(number))
    await cascade.run_until_idle()
    found = [json.loads(one) for one in cascade.versions("forecasts/1.json")]
    return found, len(cascade.failed)


async def test_a_forecast_is_of_one_instant_and_would_not_be_of_what_is_newest():
    street, main = module_of("intersection", "street"), module_of("intersection", "__main__")
    at_the_cut, failed = await forecasts(street)
    assert (len(at_the_cut), failed) == (12, 0)
    assert main.ghosts(at_the_cut) == 0
    newest, _ = await forecasts(street, ', at="latest"')
    with pytest.raises(AssertionError):
        assert main.ghosts(newest) == 0

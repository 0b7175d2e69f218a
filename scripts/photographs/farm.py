"""A small farm on a mount, for pictures of the page: frames, scripts that look at them, runs under way, a sweep.

Seeded, so that two pictures differ only where the page does.
"""

from __future__ import annotations

import json
import math
import random
import struct
import time
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_farm"]

COWS = ("bella", "heidi", "lotte", "rosa", "alma", "greta")

HEALTH = '''\
"""Udder health: the warmest quarter against the others."""

import json

import numpy as np

from cascadefs.triggers import watch


@watch("frames/*.npy", emit="health/")
def health(event, ctx):
    limit = json.loads(bytes(ctx.get("model.json").data))["limit"]
    quarters = [q.mean() for half in np.array_split(event.array(), 2) for q in np.array_split(half, 2, axis=1)]
    excess = float(max(quarters) - np.median(quarters))
    told = {"cow": event.name[:-4], "excess": round(excess, 2), "ill": excess > limit}
    ctx.emit(event.name[:-4] + ".json", json.dumps(told, indent=2).encode() + b"\\n")
'''

ALERTS = '''\
"""One page a day: who needs the vet."""

import json

from cascadefs.triggers import watch


@watch("health/*.json", order="shard")
def alerts(event, ctx):
    ill = []
    for name in NAMES:
        known = ctx.get(f"health/{name}.json")
        if known is not None and json.loads(bytes(known.data))["ill"]:
            ill.append(name)
    text = "# Vet list\\n\\n" + "".join(f"- {one}\\n" for one in ill or ["nobody"])
    ctx.put("vet-list.md", text.encode())


NAMES = %r
'''

TRAIN = '''\
"""A line of the sweep: trains for as long as it takes."""

import time

from cascadefs.triggers import watch


@watch("sweep/*.toml", timeout="1h")
def train(event, ctx):
    while True:
        time.sleep(1)
'''

PLAN = (
    "# Plan\n\n- milk at six\n- count the herd\n",
    "# Plan\n\n- milk at six\n- count the herd\n- call the vet about Rosa\n",
    "# Plan\n\n- milk at half past five\n- count the herd\n- call the vet about Rosa\n- mend the east fence\n",
    "# Plan\n\n- milk at half past five\n- count the herd, twice\n- mend the east fence\n- hay for Friday\n",
)


def png(rows: np.ndarray) -> bytes:
    """A picture of 8-bit RGB."""
    height, width, _ = rows.shape
    raw = b"".join(b"\0" + row.tobytes() for row in rows.astype(np.uint8))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def thermogram(seed: int, *, warm: bool) -> np.ndarray:
    """32 by 32 temperatures of an udder, one quarter warmer if it is ill."""
    noise = np.random.default_rng(seed).normal(0, 0.15, (32, 32))
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    field = 34 + 3 * np.exp(-(x**2 + y**2)) + noise
    if warm:
        field[16:, 16:] += 1.6 * np.exp(
            -((x[16:, 16:] - 0.45) ** 2 + (y[16:, 16:] - 0.45) ** 2) * 4
        )
    return field.astype(np.float32)


def barn(hour: float) -> np.ndarray:
    """A barn under the sky of an hour."""
    y, x = np.mgrid[0:1:320j, 0:1:560j]
    day = max(0.15, math.sin(math.pi * hour / 24))
    sky = np.stack([90 + 120 * y * day, 120 * day + 60 * y, 220 * day + 20 + 0 * y], axis=-1)
    sun = np.exp(-(((x - hour / 24) ** 2 + (y - 0.75 + 0.55 * day) ** 2) * 260))[..., None]
    sky = sky * (1 - sun) + np.array([255, 225, 140]) * sun
    field = y > 0.72
    sky[field] = np.array([60, 110, 50]) * (0.4 + 0.6 * day)
    wall = (abs(x - 0.4) < 0.16) & (y > 0.5) & (y < 0.8)
    roof = (y > 0.36) & (y <= 0.5) & (abs(x - 0.4) < 0.19 * (y - 0.36) / 0.14)
    sky[wall] = np.array([150, 52, 42]) * (0.45 + 0.55 * day)
    sky[roof] = np.array([80, 72, 70]) * (0.5 + 0.5 * day)
    door = (abs(x - 0.4) < 0.045) & (y > 0.62) & (y < 0.8)
    sky[door] = (240, 226, 200)
    return sky.clip(0, 255)


def make_farm(root: Path, *, pause_s: float) -> None:
    """Fill a mount; between two steps the time passes that a slider is to show."""
    chance = random.Random(7)
    farm = root / "farm"
    for below in (".cascade/watch", "frames", "sweep"):
        (farm / below).mkdir(parents=True)
    (farm / "model.json").write_text(json.dumps({"limit": 0.45, "trained": "2026-11"}) + "\n")
    for name, text in (("health.py", HEALTH), ("alerts.py", ALERTS % (COWS,)), ("train.py", TRAIN)):
        (farm / ".cascade/watch" / name).write_text(text)
    time.sleep(3 * pause_s)
    (farm / "README.txt").write_text("Frames come in, health goes out.\n")
    for step in range(5):
        for number, cow in enumerate(COWS):
            if step and cow != "rosa" and chance.random() < 0.35:
                continue
            warm = (cow == "rosa" and step > 1) or (cow == "greta" and step == 4)
            np.save(farm / f"frames/{cow}.npy", thermogram(10 * number + step, warm=warm))
            time.sleep(pause_s / 6)
        if step < len(PLAN):
            (farm / "plan.md").write_text(PLAN[step])
        (farm / "barn.png").write_bytes(png(barn(6 + 3 * step)))
        if step == 2:
            (farm / "model.json").write_text(
                json.dumps({"limit": 0.3, "trained": "2026-12"}) + "\n"
            )
        time.sleep(pause_s)
    for line in range(12):
        rate = 0.01 * 1.6**line
        (root / f"sweep/{line:02}").mkdir(parents=True)
        for epoch in range(24):
            best = 0.49 + 0.6 * abs(math.log10(rate / 0.08)) * 0.12
            loss = best + (0.69 - best) * math.exp(-epoch * rate * 6) + chance.gauss(0, 0.004)
            loss += max(0.0, rate - 0.6) * 0.05 * epoch / 4
            (root / f"sweep/{line:02}/loss").write_text(f"{loss:.4f}\n")
    for line in (3, 9, 11):
        (farm / f"sweep/{line:02}.toml").write_text(f"rate = {0.01 * 1.6**line:.4f}\n")

"""Byte ranges on files that are killed again and again (`exerciser`), on the layer and on the mount.

The seed is in every message; `CASCADEFS_EXERCISER_SEED=N` runs that one, `CASCADEFS_EXERCISER_OPERATIONS=N` that many
operations (of the mount forms a hundredth), and the figures are printed: `-s` shows them.
"""

from __future__ import annotations

import contextlib
import os

import pytest

from tests.model.exerciser import Exerciser
from tests.model.layer import Layer, small_limits
from tests.model.mount import OPTIONS, MountDoor
from tests.mounted.program import Actor

SEED = int(os.environ.get("CASCADEFS_EXERCISER_SEED", "1"))
OPERATIONS = int(os.environ.get("CASCADEFS_EXERCISER_OPERATIONS", "0"))
CHUNK_BYTES = 256 * 1024


def exercise(exerciser: Exerciser, operations: int) -> None:
    exerciser.run(operations)
    print(exerciser.figures())


@pytest.mark.timeout(3600)
def test_the_layer_with_small_limits():
    with small_limits():
        exercise(Exerciser(Layer(), SEED, border=64, largest=900), OPERATIONS or 4000)


@pytest.mark.timeout(3600)
def test_the_layer_as_it_is():
    layer = Layer(segment_bytes=4 * 1024 * 1024 + 17 * 1024 * 1024)
    exerciser = Exerciser(layer, SEED, border=CHUNK_BYTES, largest=3 * CHUNK_BYTES)
    exercise(exerciser, OPERATIONS // 20 or 200)


@pytest.mark.mounted
@pytest.mark.timeout(3600, method="thread")
@pytest.mark.parametrize("door", ["kernel", "pyfuse3"])
def test_the_mount(make_mount, tmp_path, door):
    mount = make_mount("--door", door, *OPTIONS)
    with Actor(tmp_path) as other, contextlib.ExitStack() as stack:
        mounted = MountDoor(mount, "exercised", other)
        stack.callback(mounted.close_all)
        exerciser = Exerciser(
            mounted,
            SEED,
            border=CHUNK_BYTES,
            largest=3 * CHUNK_BYTES,
            is_mount=True,
            has_ranges=door == "kernel",
            operations_between_ends=60,
        )
        exercise(exerciser, OPERATIONS // 100 or 250)

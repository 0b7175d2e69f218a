"""A mount does what the reference does, through either door, from two processes, over kill -9 and SIGTERM.

Goal and rules as `test_layer`; here the kernel's memory of names, attributes and pages is in it too. Few steps, because
each is some system calls and its check walks the tree; `CASCADEFS_MODEL_EXAMPLES` says how many sequences.
"""

from __future__ import annotations

import contextlib
import os
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.model.machine import Machine, run
from tests.model.mount import OPTIONS, MountDoor
from tests.model.pair import Pair
from tests.mounted.program import Actor

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mounted

EXAMPLES = int(os.environ.get("CASCADEFS_MODEL_EXAMPLES", "4"))
STEPS = 50


@pytest.mark.timeout(900, method="thread")
def test_random_calls_and_kills(make_mount, tmp_path, door):
    mount = make_mount(*OPTIONS)
    numbers = count(1)

    class MountMachine(Machine):
        ends_max = 1
        cuts_power = False
        has_ranges = door == "kernel"

        @staticmethod
        @contextlib.contextmanager
        def make_pair() -> Iterator[Pair]:
            through = MountDoor(mount, f"{next(numbers)}", other)
            try:
                yield Pair(through)
            finally:
                through.close_all()

    with Actor(tmp_path) as other:
        run(MountMachine, examples=EXAMPLES, steps=STEPS)
    print(Pair.figures())

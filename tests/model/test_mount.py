"""A mount does what the reference does, through either door, from two processes, over kill -9 and SIGTERM.

Goal and rules as `test_layer`; here the kernel's memory of names, attributes and pages is in it too. Few steps, because
each is some system calls and its check walks the tree; `CASCADEFS_MODEL_EXAMPLES` says how many sequences, and with
`CASCADEFS_MODEL_SHRINK` in the environment a failing one is made smaller, which takes minutes.
"""

from __future__ import annotations

import os
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.model.mount import OPTIONS, MountDoor
from tests.model.pair import Pair

pytestmark = pytest.mark.mounted

EXAMPLES = int(os.environ.get("CASCADEFS_MODEL_EXAMPLES", "5"))
STEPS = 50
# Shrinking makes hundreds of sequences, of a second each: only where somebody asks for it.
PHASES = (Phase.reuse, Phase.generate) + (Phase.shrink,) * ("CASCADEFS_MODEL_SHRINK" in os.environ)


@pytest.mark.timeout(900, method="thread")
@pytest.mark.parametrize("door", ["kernel", "pyfuse3"])
def test_random_calls_and_kills(make_mount, door):
    mount = make_mount("--door", door, *OPTIONS)
    numbers = count(1)

    class MountMachine(Machine):
        ends_max = 1
        cuts_power = False
        has_ranges = door == "kernel"

        def make_pair(self) -> Pair:
            return Pair(MountDoor(mount, f"{next(numbers)}", ranges=self.has_ranges))

        def teardown(self) -> None:
            if not hasattr(self, "w"):
                return
            try:
                if self.w.agrees:
                    self.w.finish()
            finally:
                self.w.door.close_all()

    Pair.last_failure = ""
    try:
        run_state_machine_as_test(
            MountMachine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                phases=PHASES,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        print(Pair.last_failure)  # a divergence that a second try does not show is told as well

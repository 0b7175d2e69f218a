"""The file system layer does what the reference does, whatever is asked of it and whenever it is cut off.

Goal: no sequence of calls, by any number of handles, with kills and power cuts in between, after which a live tree, a
version, an instant, a log line or an errno is other than SEMANTICS says. Method: `machine`, through the door without a
mount, with limits so small that a few hundred bytes reach every border. `HYPOTHESIS_PROFILE=deep` goes on for hours.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.model.layer import Layer, small_limits
from tests.model.machine import Machine
from tests.model.pair import Pair

EXAMPLES = int(os.environ.get("CASCADEFS_MODEL_EXAMPLES", "250"))
STEPS = 60


class LayerMachine(Machine):
    def make_pair(self) -> Pair:
        self.limits = small_limits()
        self.limits.__enter__()
        return Pair(Layer())

    def end(self) -> None:
        self.limits.__exit__(None, None, None)

    def teardown(self) -> None:
        try:
            if hasattr(self, "w") and self.w.agrees:
                self.w.finish()
                self.w.door.check_nothing_is_held(len(self.w.files))
        finally:
            super().teardown()

    @rule(seconds=st.sampled_from([1, 3, 6, 30]))
    def wait(self, seconds):
        self.w.wait(seconds)


@pytest.mark.timeout(900)
def test_random_calls_and_cuts():
    run_state_machine_as_test(
        LayerMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            phases=(Phase.reuse, Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""The file system layer does what the reference does, whatever is asked of it and whenever it is cut off.

Goal: no sequence of calls, by any number of handles, with kills and power cuts in between, after which a live tree, a
version, an instant, a log line or an errno is other than SEMANTICS says. Method: `machine`, through the door without a
mount, with limits so small that a few hundred bytes reach every border. `CASCADEFS_MODEL_EXAMPLES` says how many
sequences; figures are printed (`-s`).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.model.layer import Layer, small_limits
from tests.model.machine import Machine, run
from tests.model.pair import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = int(os.environ.get("CASCADEFS_MODEL_EXAMPLES", "200"))
STEPS = 60


class LayerMachine(Machine):
    """On a simulated disk; time passes by rule."""

    @staticmethod
    @contextlib.contextmanager
    def make_pair() -> Iterator[Pair]:
        with small_limits():
            layer = Layer()
            yield (pair := Pair(layer))
            if pair.agrees:
                layer.check_nothing_is_held(len(pair.files))

    @rule(seconds=st.sampled_from([1, 3, 6, 30]))
    def wait(self, seconds):
        self.w.wait(seconds)


@pytest.mark.timeout(900)
def test_random_calls_and_cuts():
    run(LayerMachine, examples=EXAMPLES, steps=STEPS)
    print(Pair.figures())

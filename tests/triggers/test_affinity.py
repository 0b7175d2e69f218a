"""Goal: what lives together by the pool's affinity rule can be ordered and counted together.

Method: the in-memory store, told of a pool's rule; that it is placed so on a cluster is `tests/cluster/test_affinity.py`.
"""

from __future__ import annotations

import pytest
import trio

from storage.cluster.home import group_of
from storage.membership.values import Pool, View
from triggers.engine import Options
from triggers.testing import Cascade

VIEW = View(1, pools={"root": Pool("root", "/", affinity="cam[0-9]+")})
SCRIPT = """
from cascadefs.triggers import watch

@watch("site/**/*.npy", {options})
def count(event, ctx):
    ctx.state["runs"] = ctx.state.get("runs", 0) + 1
    ctx.append("ledger", f"{{event.key}} {{ctx.state['runs']}}\\n")
"""


@pytest.mark.parametrize("options", ['key="affinity"', 'order="affinity"'])
def test_the_pools_group_orders_events_and_owns_their_state(options):
    group = lambda path: group_of(VIEW, path.encode()).decode()  # noqa: E731
    cascade = Cascade(options=Options(workers=4, affinity=group))
    cascade.script("count.py", SCRIPT.format(options=options), base="farm")
    trio.run(cascade.run_until_idle)
    for path in ("1/cam7/a", "2/cam7/frames/b", "1/cam8/a", "none/a", "1/cam7/a", "other/b"):
        cascade.put(f"farm/site/{path}.npy", b"")
    trio.run(cascade.run_until_idle)
    assert cascade.problems == {}
    lines = sorted(cascade.get("farm/ledger").decode().splitlines())
    assert lines == [" 1", " 2", "cam7 1", "cam7 2", "cam7 3", "cam8 1"]


def test_without_pools_there_are_no_groups():
    cascade = Cascade()
    cascade.script("count.py", SCRIPT.format(options='key="affinity"'))
    trio.run(cascade.run_until_idle)
    assert "affinity groups are of a cluster's pools" in cascade.problems["count.py"]

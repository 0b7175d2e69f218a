"""Goal: who is turned away again and again does not fill the log. Method: a clock that jumps."""

from __future__ import annotations

from types import SimpleNamespace

from cascadefs.configuration import Transport
from cascadefs.node.transport import REFRAIN_S, REFRAINS_MAX, NodeTransport, Refrain


async def test_the_same_is_told_again_only_after_a_while(mock_clock):
    told = []
    tell = Refrain(told.append)
    for port in range(50):
        tell(f"10.0.0.7:{40000 + port}: its certificate has expired")
        mock_clock.jump(2)
    tell("10.0.0.8:40000: its certificate has expired")
    assert told == [f"10.0.0.{host}:40000: its certificate has expired" for host in (7, 8)]
    mock_clock.jump(REFRAIN_S)
    tell("10.0.0.7:50000: its certificate has expired")
    assert len(told) == 3


async def test_what_is_remembered_is_bounded():
    told = []
    tell = Refrain(told.append)
    for number in range(2 * REFRAINS_MAX):
        tell(f"host{number}: why")
    assert len(told) == 2 * REFRAINS_MAX
    assert len(tell._told) <= REFRAINS_MAX


def test_what_was_with_a_node_that_is_gone_is_forgotten():
    tcp = SimpleNamespace(identity=None)
    transport = NodeTransport(Transport(), tcp)
    transport._fell("n2", "no packets")
    transport._fell("n3", "no packets")
    assert transport.status({"n1", "n3"})["troubles"] == ["reaches n3 by TCP: no packets"]
    assert transport.status()["troubles"] == ["reaches n3 by TCP: no packets"]

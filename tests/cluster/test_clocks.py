"""Whose clock is wrong is told by what most of them show, to within a minute; nodes find out by asking each other."""

import pytest

from cascadefs.node.clocks import wrong
from tests.cluster.world import TrioClock


@pytest.mark.parametrize(
    ("offsets_s", "found"),
    [
        ({}, {}),
        ({"a": 5000}, {}),
        ({"a": 0, "b": 59, "c": -59}, {}),
        ({"a": 0, "b": 0.1, "c": 75}, {"c": "75 s ahead"}),
        ({"a": 0, "b": -3600, "c": 0.2, "d": 1}, {"b": "3600 s behind"}),
        ({"a": 0, "b": 100}, {"a": "100 s behind", "b": "100 s ahead"}),
        ({"a": 0, "b": 100, "c": 300}, {"a": "100 s behind", "c": "200 s ahead"}),
        (
            {"a": 0, "b": 1, "c": 300, "d": 301},
            {"a": "300 s behind", "b": "299 s behind", "c": "299 s ahead", "d": "300 s ahead"},
        ),
    ],
)
def test_who_differs_from_most_is_wrong(offsets_s, found):
    said = wrong(offsets_s)
    assert said.keys() == found.keys()
    assert all(f"its clock is {how} " in said[name] for name, how in found.items())


class Fast(TrioClock):
    def now_ns(self):
        return super().now_ns() + 90 * 10**9


def test_a_node_with_a_wrong_clock_is_noticed_by_all_and_itself(in_world, caplog):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        world.nodes["n2"]._clock = world.nodes["n2"].clocks._clock = Fast()
        for node in world.nodes.values():
            await node.clocks.look()
            assert node.clocks.wrong.keys() == {"n2"}
        assert caplog.text.count("node n2: its clock is 90 s ahead of the others'") == 3

    in_world(scenario)

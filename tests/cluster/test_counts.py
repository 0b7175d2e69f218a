"""Goal: what a committed record costs is counted, so that a change that makes it dearer is seen.

Method: three nodes in one process; records one after the other and many at once; messages, syncs and appended frames
before and after.
"""

import pytest
import trio

from storage.limits import PAYLOAD_BYTES_MAX
from tests.cluster.world import Proposer

RECORDS = 64


def totals(world):
    members = [node.members[0] for node in world.nodes.values()]
    return {
        "appended": sum(member.counts["appended"] for member in members),
        "sent": sum(member.counts["sent"] for member in members),
        "syncs": sum(member.counts["syncs"] for member in members),
        "writes": sum(world.disk(name).calls["pwritev"] for name in world.nodes),
    }


def spent(before, after):
    return {what: after[what] - before[what] for what in before}


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_records_one_after_the_other(in_world, durability):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        proposer = Proposer(world.leader())
        before = totals(world)
        started = trio.current_time()
        for _ in range(RECORDS):
            proposer.propose()
            await proposer.wait()
        idle = (trio.current_time() - started) / 0.2 * 4 + 8  # Heartbeats and their answers.
        cost = spent(before, totals(world))
        assert cost["appended"] == 3 * RECORDS
        # To two members the frame, from each an acknowledgement, and to each that it is committed.
        assert cost["sent"] <= 6 * RECORDS + idle
        if durability == "disk":
            assert cost["syncs"] <= 3 * RECORDS + 8

    in_world(scenario, durability=durability)


def test_records_at_once_share_messages_and_syncs(in_world):
    async def scenario(world):
        await world.start()
        await world.wait_members()
        proposer = Proposer(world.leader())
        before = totals(world)
        proposer.propose(RECORDS)
        await proposer.wait()
        cost = spent(before, totals(world))
        assert cost["appended"] == 3 * RECORDS
        assert cost["sent"] <= 12
        assert cost["syncs"] <= 6

    in_world(scenario)


def test_a_mebibyte_in_pieces_leaves_with_one_message_to_each(in_world):
    """What a face stages together: from its node to the leader, and from there to both others."""

    async def scenario(world):
        await world.start()
        await world.wait_members()
        leader = world.leader()
        away = next(node for node in world.nodes.values() if node is not leader)
        for node in (leader, away):
            proposer = Proposer(node)
            proposer.propose()
            await proposer.wait()
            before = totals(world)
            links = node.links.get(leader.name) if node is away else None
            posted = links.connection.counters.sent_messages if links else 0
            for left in (3, 2, 1, 0):
                proposer.number += 1
                metadata, payload = b"w%d" % left, bytes(PAYLOAD_BYTES_MAX)
                proposer.line.submit(proposer.number, metadata, [payload], more=left > 0)
                await trio.sleep(0.001)  # The network's loop could have taken it by now.
            await proposer.wait()
            cost = spent(before, totals(world))
            assert cost["appended"] == 12
            assert cost["syncs"] <= 3 + 1
            # Besides: acknowledgements, that it is committed, heartbeats.
            assert cost["sent"] <= 2 + 2 + 2 + 4
            if links is not None:
                assert links.connection.counters.sent_messages - posted <= 1 + 1 + 2

    in_world(scenario, durability="disk")


def test_a_payload_is_not_copied_on_its_way_into_the_logs(in_world, monkeypatch):
    """The very bytes that were submitted are what each log writes, but for the one copy that a network makes."""
    seen = []

    async def scenario(world):
        await world.start()
        await world.wait_members()
        proposer = Proposer(world.leader())
        payload = b"\xab" * 100_000
        writers = {name: node.members[0].log._writer for name, node in world.nodes.items()}
        for name, writer in writers.items():
            original = writer.append

            def append(
                kind, timestamp, metadata, parts=(), *, name=name, original=original, **rest
            ):
                seen.extend((name, part) for part in parts)
                return original(kind, timestamp, metadata, parts, **rest)

            monkeypatch.setattr(writer, "append", append)
        proposer.number += 1
        proposer.line.submit(proposer.number, b"m1", [payload])
        await proposer.wait()
        await world.wait_same()
        parts = dict(seen)
        assert len(seen) == 3
        assert parts[world.leader().name] is payload
        for part in parts.values():
            assert part == payload
            # A view into what the transport received, not bytes made of it.
            assert part is payload or isinstance(part, memoryview)

    in_world(scenario)

"""An epoch without trouble: what is sent, synced and promised for a record, and what is refused.

Goal: the counts that make the protocol fast, and its limits. Method: three members by hand, messages counted.
"""

import pytest

from storage.replication import EPOCH_KIND, Ack, Append, Report, Role, Verdict
from storage.replication.lineage import decode

SECOND = 1_000_000_000


def test_an_epoch_opens_with_its_frame_on_all_members(shard):
    assert shard["a"].replica.role is Role.LEADER
    assert shard["b"].replica.role is Role.FOLLOWER
    assert [frame.kind for frame in shard["c"].log] == [EPOCH_KIND]
    assert decode(shard["c"].log[0].metadata) == ((1, 1),)
    assert {node.committed for node in shard.nodes.values()} == {1}


def test_a_record_costs_an_append_an_ack_and_a_notice_for_each_member(shard):
    shard.sent.clear()
    shard.write("a", 1)
    shard.settle()
    assert shard["c"].records(shard["c"].committed) == [(7, 1, b"record 1")]
    assert shard.sent == {
        "Append": 4,
        "Ack": 2,
    }  # Two members: the frame, and that it is committed.


def test_what_gathers_goes_in_one_message(shard):
    shard.sent.clear()
    shard.write("a", 1, 100)
    shard.settle()
    assert shard.same_logs()
    assert shard["b"].committed == 101
    assert shard.sent == {"Append": 4, "Ack": 2}


def test_the_commit_rides_with_the_next_frames(shard):
    shard.write("a", 1)
    shard["a"].work()
    while shard.queue:
        shard.deliver()
    shard["b"].work()
    shard["c"].work()
    shard.sent.clear()
    while shard.queue:
        shard.deliver()
    shard.write("a", 2)  # Before the leader came to say that the first is committed.
    shard.settle()
    assert shard.sent["Append"] == 4
    assert shard["b"].committed == 3


def two_under_way(shard):
    """The leader hears that all have the first of two records; what they say of the second is held back."""
    for number in (1, 2):
        shard.write("a", number)
        shard["a"].work()
    for count in (2, 4):  # To both the first; then the second, and to the leader what they said.
        for _ in range(count):
            shard.deliver()
        shard["b"].work()
        shard["c"].work()
    held = list(shard.queue)
    shard.queue.clear()
    shard.sent.clear()
    return held


def test_a_commit_is_told_with_the_next_one_that_is_under_way(shard):
    held = two_under_way(shard)
    shard["a"].work()
    assert shard["a"].committed == 2
    assert not shard.sent
    shard.queue.extend(held)
    shard.settle()
    assert shard["b"].committed == shard["c"].committed == 3
    assert shard.sent == {"Append": 2}


def test_a_commit_does_not_wait_long_for_what_is_under_way(shard):
    held = two_under_way(shard)
    shard.run(50)
    assert shard["b"].committed == shard["c"].committed == 2
    assert shard.sent == {"Append": 2}
    shard.queue.extend(held)
    shard.settle()
    assert shard["b"].committed == 3


def test_with_disk_durability_one_sync_a_batch_and_nothing_commits_before(make_shard):
    shard = make_shard(durable=True)
    shard.elect("a")
    before = [node.sync_count for node in shard.nodes.values()]
    shard["c"].syncs = False
    shard.sent.clear()
    shard.write("a", 1, 50)
    shard.settle()
    assert shard["b"].log == shard["c"].log
    assert shard["a"].committed == 1
    shard["c"].sync()
    shard.settle()
    assert shard["b"].committed == 51
    assert shard["b"].replica.durable_index == 51
    assert [node.sync_count for node in shard.nodes.values()] == [count + 1 for count in before]
    assert shard.sent == {"Append": 4, "Ack": 2}


def test_the_leader_is_a_member_like_others(shard):
    appended, shard["a"].replica.appended = shard["a"].replica.appended, lambda index: None
    shard.write("a", 1)
    shard.settle()
    assert len(shard["b"].log) == 2
    assert shard["a"].committed == 1
    appended(2)
    shard.settle()
    assert shard["b"].committed == 2


def test_memory_durability_needs_no_sync_and_tells_what_the_disks_have(shard):
    shard.write("a", 1)
    shard.settle()
    assert shard["a"].committed == 2
    assert [node.sync_count for node in shard.nodes.values()] == [0, 0, 0]
    shard["a"].sync()
    shard["b"].sync()
    shard.settle()
    assert shard["a"].replica.durable_index == 0
    shard["c"].sync()
    shard.settle()
    assert {node.replica.durable_index for node in shard.nodes.values()} == {2}


def test_an_idle_leader_sends_a_heartbeat_a_member_and_gets_an_answer(shard):
    shard.run(1000)
    shard.sent.clear()
    shard.run(2000)
    assert shard.sent["Append"] == shard.sent["Ack"] == 2 * 2000 // 200
    assert set(shard.sent) == {"Append", "Ack"}


def test_a_single_member_commits_alone_and_sends_nothing(make_shard):
    shard = make_shard("a")
    shard.elect("a")
    shard.write("a", 1, 3)
    shard.settle()
    shard.run(1000)
    assert shard["a"].committed == 4
    assert not shard.sent
    assert shard["a"].replica.frontier.index == 4


def test_numbers_are_taken_once_and_in_order(shard):
    assert shard["a"].propose(2) is Verdict.EARLY
    assert shard["a"].propose(1) is Verdict.TAKEN
    assert shard["a"].propose(1) is Verdict.KNOWN  # On its way is enough.
    assert shard["a"].propose(2) is Verdict.TAKEN
    assert shard["a"].propose(1, client=8) is Verdict.TAKEN
    shard.settle()
    assert shard["a"].propose(2) is Verdict.KNOWN
    assert [(c, n) for c, n, _ in shard["b"].records()] == [(7, 1), (7, 2), (8, 1)]


def test_only_the_leader_takes_proposals(shard):
    assert shard["b"].propose(1) is Verdict.NOT_LEADING


def test_a_full_window_takes_nothing_more_until_something_committed(make_shard):
    shard = make_shard(window_bytes=4096, read_bytes=1024, batch_bytes=1024)
    shard.elect("a")
    taken = 0
    while shard["a"].propose(taken + 1, payload=[bytes(500)]) is Verdict.TAKEN:
        taken += 1
    assert 4096 / 550 - 1 < taken < 4096 / 500 + 1
    assert shard["a"].propose(taken + 1) is Verdict.FULL
    shard["a"].work()
    assert max(len(m.frames) for *_, m in shard.queue) <= 2  # A batch is bounded, too.
    shard.settle()
    assert shard["a"].propose(taken + 1) is Verdict.TAKEN
    shard.settle()
    assert shard["c"].committed == taken + 2


def test_a_frame_larger_than_a_batch_goes_alone(make_shard):
    shard = make_shard(batch_bytes=100, read_bytes=100)
    shard.elect("a")
    for number in (1, 2, 3):
        assert shard["a"].propose(number, payload=[bytes(1000), b"end"]) is Verdict.TAKEN
    shard.settle()
    assert shard["c"].committed == 4
    assert b"".join(shard["c"].log[2].payload) == bytes(1000) + b"end"


def test_payloads_are_passed_on_and_not_copied(shard):
    payload = bytearray(b"payload")
    assert shard["a"].propose(1, payload=[memoryview(payload)]) is Verdict.TAKEN
    payload[0:1] = b"P"  # A caller must not; here it shows that these are its very bytes.
    shard.settle()
    assert bytes(shard["b"].log[1].payload[0]) == b"Payload"
    assert shard["a"].log[1].payload[0].obj is payload


def test_writes_pause_below_replicas_min_and_reads_do_not(make_shard):
    shard = make_shard(replicas_min=2)
    shard.elect("a")
    shard.elect("a", "a")
    assert shard["a"].propose(1) is Verdict.PAUSED
    before = shard["a"].replica.frontier
    shard.run(1000)
    assert shard["a"].replica.frontier > before
    shard["a"].replica.teach(shard.now_ns, ["b"])
    shard.settle()
    shard.elect("a", "ab")
    shard.write("a", 1)
    shard.settle()
    assert shard["b"].committed == shard["a"].committed == 4


def test_a_lapsed_lease_counts_only_while_others_are_silent(shard):
    leader = shard["a"].replica
    leader.lease_until_ns = shard.now_ns  # The authority has been away for long.
    shard.run(500)
    shard.write("a", 1)  # All members answer: none is in another epoch.
    shard.settle()
    assert shard["a"].committed == 2
    shard.cut_off.add("c")
    shard.run(1500)
    assert shard["a"].propose(2) is Verdict.NOT_LEADING
    leader.lease_until_ns = shard.now_ns + SECOND
    assert shard["a"].propose(2) is Verdict.TAKEN


def test_alone_in_its_epoch_a_leader_stops_with_its_lease(make_shard):
    shard = make_shard("a")
    shard.elect("a")
    shard["a"].replica.lease_until_ns = shard.now_ns + SECOND
    shard.write("a", 1)
    shard["a"].work()
    shard["a"].replica.lease_until_ns = shard.now_ns
    before = shard["a"].replica.frontier
    assert shard["a"].propose(2) is Verdict.NOT_LEADING
    shard.run(1000)
    assert shard["a"].replica.frontier == before
    shard["a"].replica.lease_until_ns = shard.now_ns + 2 * SECOND
    shard.run(1000)
    assert shard["a"].replica.frontier > before


@pytest.mark.parametrize(("lost", "again"), [(Append, "Report"), (Ack, "Append")])
def test_one_lost_message_is_made_good_within_heartbeats(shard, lost, again):
    once = []

    def lose(source, target, message):
        return (
            target in "ac" and isinstance(message, lost) and not once and (once.append(1) or True)
        )

    shard.run(500)
    shard.write("a", 1)
    shard.lost = lose
    shard.settle()
    assert shard["a"].committed == 1
    shard.sent.clear()
    shard.run(500)
    assert shard["a"].committed == shard["c"].committed == 2
    assert shard.sent[again]


def test_a_member_that_stops_answering_is_asked_and_told_again(shard):
    shard.run(500)
    shard.cut_off.add(("c", "a"))
    shard.write("a", 1)
    shard.run(1500)
    assert shard["a"].replica.silent(shard.now_ns) == {"c"}
    assert shard.sent["Inquire"] > 3  # Three at the start of the epoch, at most.
    shard.cut_off.clear()
    shard.run(500)
    assert shard["a"].replica.silent(shard.now_ns) == set()
    assert shard["c"].committed == 2


def test_a_silent_leader_is_noticed(shard):
    shard.run(500)
    assert shard["b"].replica.silent(shard.now_ns) == set()
    shard.cut_off.add("a")
    shard.run(1500)
    assert shard["b"].replica.silent(shard.now_ns) == {"a"}


def test_a_broken_member_says_so_and_is_heard_again_and_again(shard):
    shard["c"].replica.fail("No space left on device")
    shard.settle()
    assert shard["c"].replica.role is Role.BROKEN
    assert not shard["c"].replica.in_sync
    assert shard["a"].replica.broken == {"c": "No space left on device"}
    shard.write("a", 1)
    shard.run(500)
    assert shard["a"].committed == 1
    shard.elect("a", "ab")
    assert shard["a"].committed == shard["b"].committed == 3
    assert shard["a"].replica.broken == {}


def test_nothing_is_committed_that_the_own_log_refused(make_shard):
    shard = make_shard("ab")
    shard.elect("a", "a")
    shard.write("a", 1, 3)
    shard.settle()
    shard["b"].full = True
    shard["a"].replica.teach(shard.now_ns, ["b"])
    shard.settle()  # The frames and that they are committed come in one message.
    assert shard["b"].replica.role is Role.BROKEN
    assert shard["b"].replica.commit_index == 0
    assert shard["a"].committed == 4


def test_a_leader_that_broke_is_known_to_the_others(shard):
    shard["a"].replica.fail("Input/output error")
    shard.settle()
    assert shard["b"].replica.broken == {"a": "Input/output error"}
    assert shard["a"].propose(1) is Verdict.NOT_LEADING
    shard.elect("b", "bc")
    shard.write("b", 1)
    shard.settle()
    assert shard["c"].records(shard["c"].committed) == [(7, 1, b"record 1")]


def test_strangers_are_not_believed(shard):
    leader = shard["a"].replica
    leader.step(shard.now_ns, "mallory", Ack(1, 99, 99, 99))
    leader.step(shard.now_ns, "b", Ack(1, 99, 99, 2**60))
    leader.step(shard.now_ns, "mallory", Report(1, 0, (), False))
    shard["b"].replica.step(shard.now_ns, "c", Append(1, 1, 1, 9, 9, 9, 9, 9, True))
    shard.settle()
    assert shard["a"].committed == shard["b"].committed == 1
    shard.write("a", 1)
    shard.settle()
    assert shard["c"].committed == 2
    shard.cut_off.add("b")  # Who claimed to have 99.
    shard.write("a", 2)
    shard.settle()
    assert shard["a"].committed == 2

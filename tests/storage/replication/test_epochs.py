"""From one epoch to the next: what was committed stays, what was not may go, and who was deposed is heard no more.

Goal: the arguments of CLUSTER, "Invariants", each by its shortest story. Method: three members by hand; `Shard.published`
checks after every step that what was committed anywhere stays committed everywhere.
"""

import pytest

from storage.replication import (
    EPOCH_KIND,
    Ack,
    Append,
    Epoch,
    Fenced,
    Frame,
    Note,
    Role,
    Verdict,
)


def test_failover_keeps_what_was_committed_and_goes_on(shard):
    shard.write("a", 1, 5)
    shard.settle()
    shard.cut_off.add("a")
    shard.elect("b", "bc", told="bc")
    assert shard["c"].records(shard["c"].committed) == [
        (7, n, b"record %d" % n) for n in range(1, 6)
    ]
    shard.write("b", 6)
    shard.settle()
    assert shard["b"].committed == shard["c"].committed == 8


def test_a_record_that_only_some_had_is_kept_or_cut_but_one_of_both_everywhere(shard):
    shard.cut_off.add(("a", "c"))
    shard.write("a", 1, 3)
    shard.settle()
    assert len(shard["b"].log) == 4
    assert len(shard["c"].log) == 1
    shard.cut_off.add("a")
    shard.elect("c", "bc", told="bc")  # It never had them: now nobody has.
    assert shard["b"].log == shard["c"].log
    assert shard["b"].records() == []
    shard.write("c", 1)  # So the client's number is new again.
    shard.settle()
    assert shard["b"].records(shard["b"].committed) == [(7, 1, b"record 1")]


def test_the_new_leader_commits_all_it_has(shard):
    shard.cut_off.add(("a", "c"))
    shard.write("a", 1, 3)
    shard.settle()
    shard.cut_off.add("a")
    shard.elect("b", "bc", told="bc")
    assert shard["c"].committed == 5
    assert len(shard["c"].records()) == 3
    assert shard["b"].propose(3) is Verdict.KNOWN  # A retry is answered, not repeated.
    assert shard["b"].propose(4) is Verdict.TAKEN


def test_a_deposed_leader_cannot_commit(shard):
    shard.elect("b", "bc", told="bc")
    assert shard["a"].replica.role is Role.LEADER  # It does not know.
    shard.write("a", 1)
    shard.settle()
    assert shard["a"].committed == 1
    assert shard.sent["Fenced"]
    assert shard["a"].replica.heard_epoch == 2  # Now it does, and asks the authority.
    assert shard["a"].propose(2) is Verdict.NOT_LEADING
    shard["a"].replica.adopt(shard.now_ns, shard.epoch)
    assert shard["a"].replica.role is Role.LEARNER
    assert not shard["a"].replica.in_sync


def test_a_member_that_heard_of_a_newer_epoch_acknowledges_nothing_older(shard):
    shard["b"].replica.step(shard.now_ns, "c", Fenced(9))
    shard.write("a", 1)
    shard.settle()
    assert shard["a"].committed == 1
    assert shard["b"].replica.heard_epoch == 9


def test_the_tail_of_a_deposed_leader_is_cut_when_it_learns(shard):
    shard.cut_off.add("a")
    shard.write("a", 1, 3)
    shard["a"].work()
    shard.elect("b", "bc", told="bc")
    shard.write("b", 1, client=8)
    shard.settle()
    shard.cut_off.clear()
    shard["a"].replica.adopt(shard.now_ns, shard.epoch)
    shard["b"].replica.teach(shard.now_ns, ["a"])
    shard.settle()
    assert shard.same_logs()
    assert shard["a"].records() == [(8, 1, b"record 1")]
    assert shard["a"].replica.caught_up == frozenset()
    assert shard["b"].replica.caught_up == {"a"}


def test_messages_of_an_older_epoch_change_nothing(shard):
    shard.write("a", 1)
    shard["a"].work()
    late = [message for source, target, message in shard.queue if target == "c"]
    shard.queue.clear()
    shard.elect("b", "abc")
    before = list(shard["c"].log)
    for message in late:
        shard["c"].replica.step(shard.now_ns, "a", message)
    shard.settle()
    assert shard["c"].log == before


def of_epoch(number):
    """Messages that carry the first frame of that epoch."""
    return lambda source, target, message: (
        isinstance(message, Append)
        and any(frame.kind == EPOCH_KIND and frame.epoch == number for frame in message.frames)
    )


def test_nothing_commits_before_the_first_frame_of_the_epoch(make_shard):
    shard = make_shard(batch_bytes=1, read_bytes=1)  # A frame a message.
    shard.elect("a")
    shard.cut_off.add(("a", "c"))
    shard.write("a", 1, 2)
    shard.settle()
    shard.cut_off = {"a"}
    shard.lost = of_epoch(2)
    shard.elect("b", "bc", told="bc")
    shard.run(500)
    assert len(shard["c"].log) == 3  # All of the old epoch,
    assert shard["b"].committed == 1  # and not yet sure to stay.
    shard.lost = lambda *_: False
    shard.run(500)
    assert shard["b"].committed == shard["c"].committed == 4
    assert shard["b"].log[3].kind == EPOCH_KIND


def test_what_was_on_the_disk_before_a_cut_does_not_count_for_what_came_instead(make_shard):
    shard = make_shard(durable=True)
    shard.elect("a")
    shard.cut_off |= {("a", "c"), ("c", "a")}
    shard.write("a", 1, 4)
    shard.settle()
    assert shard["b"].durable == 5
    shard["b"].syncs = False
    shard.cut_off = {"a"}
    shard.elect("c", "bc", told="bc")
    shard.write("c", 1, 2)
    shard.settle()
    assert shard["b"].log == shard["c"].log
    assert shard["c"].committed == 1
    shard["b"].sync()
    shard.settle()
    assert shard["c"].committed == 4


def test_an_epoch_may_keep_its_leader(shard):
    shard.write("a", 1, 3)
    shard["a"].work()  # On the way while the epoch changes.
    shard.elect("a", "ab")
    assert shard["b"].committed == 5
    assert shard["b"].records(5) == [(7, n, b"record %d" % n) for n in (1, 2, 3)]


def test_an_older_or_the_same_epoch_is_not_adopted(shard):
    shard["b"].replica.adopt(shard.now_ns, Epoch(1, "b", ("a", "b", "c")))
    assert shard["b"].replica.role is Role.FOLLOWER
    shard.elect("a")
    shard["b"].replica.adopt(shard.now_ns, Epoch(1, "b", ("a", "b", "c")))
    assert shard["b"].replica.epoch == shard.epoch


def test_a_leader_that_starts_again_does_not_go_on_in_its_epoch(shard):
    shard.write("a", 1)
    shard["a"].work()
    shard["a"].log.pop()  # Sent, and killed before its own log had it.
    shard["a"].start(shard.epoch)
    shard.settle()
    assert shard["a"].replica.role is Role.IDLE
    assert shard["a"].replica.in_sync
    assert shard["a"].propose(1) is Verdict.NOT_LEADING
    shard.elect("a")
    assert shard.same_logs()
    assert shard["b"].committed == 2


def test_a_follower_that_starts_again_goes_on_where_its_log_ends(shard):
    shard.write("a", 1, 3)
    shard.settle()
    shard["b"].start(shard.epoch)
    assert shard["b"].replica.in_sync
    shard.write("a", 4)
    shard.run(500)
    assert shard["a"].committed == shard["b"].committed == 5


def test_all_start_again_and_any_one_of_them_has_everything(shard):
    shard.write("a", 1, 3)
    shard.settle()
    for node in shard.nodes.values():
        node.start(shard.epoch)
    shard.elect("c", "c", told="c")
    assert shard["c"].committed == 5
    assert shard["c"].propose(3) is Verdict.KNOWN


def test_sessions_survive_a_restart_by_state_machine_and_tail(shard):
    shard.cut_off.add(("c", "a"))
    shard.write("a", 1, 2)
    shard.settle()
    node = shard["b"]
    node.start(shard.epoch)
    assert node.committed < len(node.log)
    shard.cut_off = {"a"}
    shard.elect("b", "bc", told="bc")
    assert node.propose(2) is Verdict.KNOWN
    assert node.propose(4) is Verdict.EARLY
    assert node.propose(3) is Verdict.TAKEN


def test_what_was_cut_is_not_taken_for_known(shard):
    shard.write("a", 1)
    shard.settle()
    shard.cut_off.add(("a", "c"))
    shard.write("a", 2, 4)
    shard.settle()
    shard.cut_off = set()
    shard.elect("c", "abc")
    shard.elect("b", "abc")
    assert shard["b"].propose(1) is Verdict.KNOWN
    assert shard["b"].propose(2) is Verdict.TAKEN


# --- Those who lost something ---


def wipe(node, epoch):
    node.log.clear()
    node.durable = node.committed = 0
    node.note = Note(0, False)
    node.start(epoch)


def test_a_member_that_lost_its_log_may_not_lead_and_is_told_of(shard):
    shard.write("a", 1, 3)
    shard.settle()
    wipe(shard["c"], shard.epoch)
    shard.run(500)
    assert not shard["c"].replica.in_sync
    assert shard["a"].replica.absent == {"c"}
    assert shard.same_logs()  # It was filled all the same,
    assert not shard["c"].replica.in_sync  # and may lead only from another epoch on.
    shard.cut_off.add("a")
    shard.elect("c", "bc", told="bc")
    assert shard["c"].replica.role is Role.IDLE


def test_when_nobody_is_in_sync_an_epoch_is_forced(shard):
    shard.write("a", 1, 3)
    shard.settle()
    for node, left in zip(shard.nodes.values(), (2, 4, 3), strict=True):
        del node.log[left:]  # The power went, and durability is memory.
        node.durable = node.committed = min(node.committed, left)
        node.note = Note(0, False)
        node.start(shard.epoch)
    shard.elect("b")
    assert shard["b"].replica.role is Role.IDLE
    shard.epoch = Epoch(3, "b", ("a", "b", "c"), forced=True)
    for node in shard.nodes.values():
        node.replica.adopt(shard.now_ns, shard.epoch)
    shard.settle()
    assert shard.leads("b")
    assert all(node.replica.in_sync for node in shard.nodes.values())
    assert shard.same_logs()
    assert shard["a"].committed == 5


def test_a_lost_member_comes_back_as_a_learner(shard):
    shard.write("a", 1, 3)
    shard.settle()
    wipe(shard["c"], shard.epoch)
    shard.run(500)
    shard.elect("a", "ab")
    assert shard["c"].replica.role is Role.LEARNER
    shard["a"].replica.teach(shard.now_ns, ["c"])
    shard.run(500)
    assert shard["a"].replica.caught_up == {"c"}
    shard.elect("a", "abc", told="c")
    assert not shard["c"].replica.in_sync  # Taken in, and the first frame is still to come.
    shard["a"].replica.adopt(shard.now_ns, shard.epoch)
    shard.settle()
    assert shard["c"].replica.in_sync
    assert shard["a"].replica.absent == frozenset()
    shard.cut_off |= {"a"}
    shard.elect("c", "bc", told="bc")
    assert shard.leads("c")
    assert shard["c"].records(shard["c"].committed) == [(7, n, b"record %d" % n) for n in (1, 2, 3)]


@pytest.mark.parametrize("durable", [False, True])
def test_a_leader_knows_who_is_in_sync_with_it(make_shard, durable):
    shard = make_shard(durable=durable)
    shard.elect("a", "ab")
    assert shard["a"].replica.synced == {"b"}
    assert shard["b"].replica.synced == frozenset()
    shard["a"].replica.teach(shard.now_ns, ["c"])
    shard.run(500)
    assert shard["a"].replica.caught_up == {"c"}
    assert shard["a"].replica.synced == {"b"}
    shard["c"].syncs = False
    shard.elect("a", "abc")
    shard.run(500)
    # What has not come to its disk is not had, where disks count.
    assert shard["c"].replica.in_sync is not durable
    assert shard["a"].replica.synced == ({"b"} if durable else {"b", "c"})
    shard["c"].sync()
    shard.run(500)
    assert shard["c"].replica.in_sync
    assert shard["a"].replica.synced == {"b", "c"}


def test_a_leader_that_lost_its_log_leads_no_more(make_shard):
    shard = make_shard(batch_bytes=1, read_bytes=1)
    shard.elect("a")
    shard.write("a", 1, 3)
    shard.settle()
    wipe(shard["a"], shard.epoch)
    assert not shard["a"].replica.in_sync
    shard.lost = of_epoch(2)
    shard.elect("b", "abc")  # Whoever made this took it for alive.
    shard.run(500)
    assert len(shard["a"].log) == 4
    assert not shard["a"].replica.in_sync
    shard.lost = lambda *_: False
    shard.run(500)
    assert shard.same_logs()
    assert shard["a"].committed == 5
    assert shard["a"].replica.in_sync  # The new epoch's first frame came with all before it.


def test_a_learner_is_not_caught_up_before_it_is(make_shard):
    shard = make_shard("ab", read_bytes=1, window_frames=4)
    shard.elect("a", "a")
    for number in range(1, 21):
        shard.write("a", number)
        shard.settle()
    leader = shard["a"].replica
    supply, seen = leader.supply, []

    def watch(member, frames):
        seen.append(frames[0].index)
        assert leader.caught_up == frozenset()
        supply(member, frames)

    leader.supply = watch
    leader.teach(shard.now_ns, ["b"])
    shard.run(500)
    assert seen == list(range(1, 22))
    assert leader.caught_up == {"b"}
    shard.elect("a", "a")
    shard.lost = lambda source, target, message: isinstance(message, Ack)
    leader.teach(shard.now_ns, ["b"])
    shard.run(500)
    assert shard.same_logs()
    assert leader.caught_up == frozenset()  # It has all, and the leader does not know.


def test_a_log_that_was_read_before_a_cut_is_not_sent(make_shard):
    shard = make_shard("ab")
    shard.elect("a", "a")
    shard.write("a", 1, 3)
    shard.settle()
    leader = shard["a"].replica
    supply, read = leader.supply, []
    leader.supply = lambda member, frames: read.append(frames)
    leader.teach(shard.now_ns, ["b"])
    shard.settle()
    assert read
    supply("b", [Frame(1, 9, 1, EPOCH_KIND, b"")])  # Another frame 1 than the log has now.
    shard.settle()
    assert not shard["b"].log
    assert shard["b"].replica.trouble is None


def test_a_learner_is_filled_in_pieces_and_keeps_up(make_shard):
    shard = make_shard(
        "ab", read_bytes=2000, batch_bytes=1000, window_bytes=4000, caught_up_bytes=500
    )
    shard.elect("a", "a")
    for number in range(1, 101):
        assert shard["a"].propose(number, payload=[bytes(300)]) is Verdict.TAKEN
        shard["a"].work()
    assert shard["a"].replica.caught_up == frozenset()
    assert not shard["b"].log
    shard["a"].replica.teach(shard.now_ns, ["b"])
    shard.settle()
    assert shard.same_logs()
    assert shard["b"].committed == 101
    assert shard["a"].replica.caught_up == {"b"}
    shard.cut_off.add("b")
    shard.write("a", 101, 102)
    shard.run(1500)
    assert shard["a"].committed == 103  # It holds nobody up.
    assert shard["a"].replica.caught_up == frozenset()


def test_a_learner_syncs_what_members_have_synced_before_it_is_one_of_them(shard):
    shard.elect("a", "ab")
    shard.write("a", 1, 3)
    shard.settle()
    shard["a"].sync()
    shard["b"].sync()
    shard.settle()
    shard.write("a", 4)  # Nobody asked for that one to be on a disk.
    shard["c"].syncs = False
    shard["a"].replica.teach(shard.now_ns, ["c"])
    shard.run(500)
    assert shard.same_logs()
    assert shard["a"].replica.caught_up == frozenset()
    assert shard["c"].sync_owed
    shard["c"].sync()
    shard.run(500)
    assert shard["a"].replica.caught_up == {"c"}
    assert shard["a"].sync_count == shard["b"].sync_count == shard["c"].sync_count == 1


def test_a_log_that_cannot_be_read_is_asked_again(make_shard):
    shard = make_shard("ab")
    shard.elect("a", "a")
    shard.write("a", 1, 3)
    shard.settle()
    leader = shard["a"].replica
    leader.teach(shard.now_ns, ["b"])
    supply, failures = leader.supply, []

    def fail(member, frames):
        failures.append(member)
        supply(member, () if len(failures) < 3 else frames)

    leader.supply = fail
    shard.run(1000)
    assert len(failures) == 3
    assert shard.same_logs()


def test_who_is_taught_no_more_gets_nothing(make_shard):
    shard = make_shard("ab")
    shard.elect("a", "a")
    shard["a"].replica.teach(shard.now_ns, ["b"])
    shard.settle()
    shard["a"].replica.teach(shard.now_ns, [])
    shard.write("a", 1)
    shard.settle()
    assert len(shard["b"].log) == 1


def test_a_learner_says_nothing_before_it_is_noted_that_it_is_one(shard):
    shard["c"].keeps_notes = False
    shard.elect("a", "ab")
    shard["a"].replica.teach(shard.now_ns, ["c"])
    shard.run(500)
    assert not shard["c"].replica.in_sync
    assert shard["a"].replica.caught_up == frozenset()
    shard["c"].start(shard.epoch)  # Nothing was kept, so nothing may follow from what it said.
    shard["c"].keeps_notes = True
    shard.run(500)
    assert shard["a"].replica.caught_up == {"c"}
    assert not shard["c"].note.in_sync


# --- Bugs are loud ---


def test_nothing_committed_is_ever_cut(shard):
    shard.write("a", 1, 3)
    shard.settle()
    log = list(shard["c"].log)
    shard["c"].replica.adopt(shard.now_ns, Epoch(2, "b", ("b", "c")))
    wrong = Frame(2, 2, 10**18, EPOCH_KIND, b"\x90")
    shard["c"].replica.step(shard.now_ns, "b", Append(2, 1, 1, 1, 0, 0, 0, 0, True, (wrong,)))
    shard["c"].work()
    assert shard["c"].replica.role is Role.BROKEN
    assert "committed here" in shard["c"].replica.trouble
    assert shard["c"].log == log


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (Frame(9, 1, 10**18, 3, b""), "as 2"),
        (Frame(2, 5, 10**18, 3, b""), "epoch 5"),
        (Frame(2, 0, 10**18, 3, b""), "goes back"),
        (Frame(2, 1, 1, 3, b""), "goes back"),
        (Frame(2, 1, 10**18, 2, b"short"), "too short"),
    ],
)
def test_a_leader_that_contradicts_itself_is_not_followed(shard, frame, what):
    shard["c"].replica.step(shard.now_ns, "a", Append(1, 1, 1, 1, 0, 0, 0, 0, True, (frame,)))
    shard["c"].work()
    assert what in shard["c"].replica.trouble
    assert len(shard["c"].log) == 1

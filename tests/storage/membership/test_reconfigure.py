"""What epoch a node tries next: each rule, what always holds, and that it ends where it should.

Goal: no decision can lose what was committed, one attempt at a time is the rule, and a cluster left alone comes to rest
with every shard led, replicated as wished, and nobody trying. Method: single decisions for the rules; hypothesis for any situation
at all; and a small world in which nodes die, come back, fall silent, are wiped, drain, and time passes.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.membership.contract import Change
from storage.membership.reconfigure import Patience, Reconfigurer, Replica
from storage.membership.values import Cluster, Epoch, Node, Pool, Presence, Shard, Stranded, View

SECOND = 10**9
PATIENCE = Patience()
NAMES = ("n1", "n2", "n3", "n4", "n5")


def view(
    *,
    live="n1 n2 n3",
    nodes="n1 n2 n3",
    draining="",
    wished="n1 n2 n3",
    epoch=None,
    replicas=3,
    replicas_min=1,
    labels=(),
    stranded=None,
    full="",
    volatile=False,
):
    stranded = stranded or {}
    return View(
        revision=1,
        cluster=Cluster("c", 0),
        pools={"root": Pool("root", "/", replicas, replicas_min, volatile=volatile, labels=labels)},
        shards={0: Shard(0, "root", tuple(wished.split()))},
        nodes={
            name: Node(name, (f"{name}:1",), (), "draining" if name in draining else "active")
            for name in nodes.split()
        },
        epochs={} if epoch is None else {0: epoch},
        live={
            name: Presence(name, 1, (), stranded=tuple(stranded.get(name, ())), full=name in full)
            for name in live.split()
        },
    )


def epoch(number, leader, members):
    return Epoch(0, number, leader, tuple(members.split()))


def names(text):
    return frozenset(text.split())


def decide(me, seen, replica, *, after_s=0.0, patience=None):
    """What a node decides some seconds after it first saw a view and was first asked."""
    reconfigurer = Reconfigurer(me, patience)
    reconfigurer.see(0, seen)
    reconfigurer.decide(0, 0, replica)
    return reconfigurer.decide(round(after_s * SECOND), 0, replica)


def led(number, **known):
    known = {"synced": frozenset(NAMES), **known}
    return Replica(serves=number, leads=True, in_sync=True, **known)


def follows(number, **known):
    return Replica(serves=number, in_sync=True, **known)


def tried(decision):
    return None if decision.change is None else decision.change.new


# --- a new shard ---------------------------------------------------------------------------------------------------


def test_the_first_choice_of_placement_begins_a_shard_and_the_others_wait_their_turn():
    seen = view(wished="", epoch=None)
    firsts = [name for name in NAMES[:3] if decide(name, seen, Replica()).change]
    assert len(firsts) == 1
    waits = sorted(decide(name, seen, Replica()).again_ns or 0 for name in NAMES[:3])
    assert waits == [0, PATIENCE.stagger_ns, 2 * PATIENCE.stagger_ns]
    for name in NAMES[:3]:
        assert tried(decide(name, seen, Replica(), after_s=1)) == epoch(1, name, name)


def test_a_shard_waits_a_little_for_registered_nodes_that_are_not_there_yet():
    seen = view(live="n1", wished="", epoch=None)
    assert decide("n1", seen, Replica()).again_ns == PATIENCE.settle_ns
    assert tried(decide("n1", seen, Replica(), after_s=3)) == epoch(1, "n1", "n1")


def test_only_nodes_with_the_pools_labels_begin_its_shards():
    assert decide("n1", view(labels=("ssd",)), Replica(), after_s=100).change is None


# --- a leader ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["silent", "lost"])
def test_a_leader_drops_a_member_that_is_silent_or_lost_what_it_had(how):
    seen = view(epoch=epoch(4, "n1", "n1 n2 n3"))
    decision = decide("n1", seen, led(4, **{how: names("n3")}))
    assert tried(decision) == epoch(5, "n1", "n1 n2")


def test_a_leader_alone_goes_on_alone():
    seen = view(live="n1", epoch=epoch(4, "n1", "n1 n2 n3"))
    assert tried(decide("n1", seen, led(4, silent=names("n2 n3")))) == epoch(5, "n1", "n1")


def test_a_member_that_is_heard_but_not_in_the_authority_is_kept_for_a_while():
    seen = view(live="n1 n2", epoch=epoch(4, "n1", "n1 n2 n3"))
    decision = decide("n1", seen, led(4))
    assert decision.change is None
    assert decision.again_ns == PATIENCE.detached_ns
    assert tried(decide("n1", seen, led(4), after_s=30)) == epoch(5, "n1", "n1 n2")


def test_who_cannot_follow_goes_with_the_one_that_has_to_go():
    seen = view(live="n1 n2", epoch=epoch(4, "n1", "n1 n2 n3"))
    assert tried(decide("n1", seen, led(4, silent=names("n2")))) == epoch(5, "n1", "n1")


def test_a_learner_is_taken_in_once_it_has_caught_up():
    seen = view(epoch=epoch(4, "n1", "n1 n2"))
    waiting = decide("n1", seen, led(4))
    assert not isinstance(tried(waiting), Epoch)
    assert waiting.learners == ("n3",)
    assert tried(decide("n1", seen, led(4, caught_up=names("n3")))) == epoch(5, "n1", "n1 n2 n3")


def test_a_learner_that_nobody_wished_for_is_not_taken_in():
    seen = view(
        live="n1 n2 n4", wished="n1 n2", replicas=2, nodes="n1 n2", epoch=epoch(4, "n1", "n1 n2")
    )
    assert not isinstance(tried(decide("n1", seen, led(4, caught_up=names("n4")))), Epoch)


def test_a_replacement_joins_in_the_epoch_that_drops_the_replaced():
    seen = view(live="n1 n4", wished="n1 n4", nodes="n1 n2 n4", epoch=epoch(4, "n1", "n1 n2"))
    decision = decide("n1", seen, led(4, silent=names("n2"), caught_up=names("n4")))
    assert tried(decision) == epoch(5, "n1", "n1 n4")


def test_the_wish_follows_placement_and_is_the_leaders_to_change():
    seen = view(wished="", epoch=epoch(1, "n2", "n2"))
    decision = decide("n2", seen, led(1))
    assert decision.change.old == Shard(0, "root")
    assert sorted(decision.change.new.wished) == ["n1", "n2", "n3"]
    assert decide("n1", seen, Replica()).change is None


def test_a_node_that_is_away_for_long_is_replaced():
    at_first = decide("n1", view(epoch=None, wished=""), Replica(), after_s=10)
    assert tried(at_first) is not None
    nodes = "n1 n2 n3 n4"
    full = Reconfigurer("n1")
    seen = view(live="n1 n2 n4", nodes=nodes, epoch=epoch(5, "n1", "n1 n2"))
    full.see(0, seen)
    wish = full.decide(0, 0, led(5))
    now_ns = PATIENCE.replace_ns
    wish = full.decide(now_ns, 0, led(5))
    assert isinstance(tried(wish), Shard)
    assert sorted(tried(wish).wished) == ["n1", "n2", "n4"]


def rested(nodes="n1 n2 n3", replicas=3, draining="", seen_epoch=None, **known):
    """A view whose wish is already what placement says; answers it with the wish."""
    seen = view(
        nodes=nodes, live=nodes, wished="", replicas=replicas, draining=draining, epoch=seen_epoch
    )
    leader = seen_epoch.leader
    wish = tried(decide(leader, seen, led(seen_epoch.epoch)))
    return msgspec.structs.replace(seen, shards={0: wish}), wish.wished


def test_members_that_are_not_wished_are_let_go_when_all_wished_are_members():
    seen, wished = rested("n1 n2 n3", 2, seen_epoch=epoch(4, "n1", "n1 n2 n3"))
    leader = wished[1]
    seen = msgspec.structs.replace(seen, epochs={0: epoch(4, leader, "n1 n2 n3")})
    decision = decide(leader, seen, led(4))
    assert set(tried(decision).members) == set(wished)
    assert tried(decision).leader == leader


def test_leadership_goes_home_after_a_while():
    seen, wished = rested(seen_epoch=epoch(4, "n1", "n1 n2 n3"))
    leader = wished[1]
    seen = msgspec.structs.replace(seen, epochs={0: epoch(4, leader, "n1 n2 n3")})
    early = decide(leader, seen, led(4), after_s=29)
    assert early.change is None
    assert early.again_ns == SECOND
    late = tried(decide(leader, seen, led(4), after_s=30))
    assert (late.leader, set(late.members)) == (wished[0], {"n1", "n2", "n3"})


def test_a_draining_leader_hands_over_and_is_let_go_by_the_next():
    seen, wished = rested("n1 n2 n3", 2, draining="n1", seen_epoch=epoch(4, "n1", "n1 n2 n3"))
    assert "n1" not in wished
    handed = tried(decide("n1", seen, led(4)))
    assert handed.leader == wished[0]
    assert set(handed.members) == {"n1", "n2", "n3"}
    seen = msgspec.structs.replace(seen, epochs={0: handed})
    assert set(tried(decide(wished[0], seen, led(5))).members) == set(wished)


def test_nobody_is_named_leader_or_left_alone_with_one_who_is_not_in_sync_yet():
    seen, wished = rested("n1 n2 n3", 2, draining="n1", seen_epoch=epoch(4, "n1", "n1 n2 n3"))
    new, old = wished
    waiting = decide("n1", seen, led(4, synced=names(old)), after_s=1000)
    assert waiting.change is None
    assert new in waiting.why
    assert tried(decide("n1", seen, led(4, synced=names("n2 n3")))).leader == new
    led_by_old = msgspec.structs.replace(seen, epochs={0: epoch(4, old, "n1 n2 n3")})
    assert tried(decide(old, led_by_old, led(4, synced=names("n1")), after_s=1000)) is None


def test_who_acknowledges_nothing_any_more_is_let_go_of_if_it_is_not_wished():
    seen, wished = rested("n1 n2 n3", 2, draining="n1", seen_epoch=epoch(4, "n1", "n1 n2 n3"))
    new, old = wished
    led_by_new = msgspec.structs.replace(seen, epochs={0: epoch(5, new, "n1 n2 n3")})
    left = tried(decide(new, led_by_new, led(5, synced=names(old))))
    assert (left.leader, set(left.members)) == (new, set(wished))
    assert tried(decide(new, led_by_new, led(5, synced=names("n1")))) is None


def test_a_leader_without_room_hands_over_to_who_has_some_and_back_later():
    seen, wished = rested(seen_epoch=epoch(4, "n1", "n1 n2 n3"))
    a, b, c = wished
    old = epoch(4, a, "n1 n2 n3")
    for full, leader in ((a, b), (f"{a} {b}", c), ("n1 n2 n3", None), (f"{b} {c}", None)):
        live = view(full=full).live
        seen = msgspec.structs.replace(seen, epochs={0: old}, live=live)
        new = tried(decide(a, seen, led(4)))
        if leader is None:
            assert new is None
            continue
        assert (new.leader, set(new.members)) == (leader, set(old.members))
        # It does not go home to one that is full, and does to one that has room again.
        seen = msgspec.structs.replace(seen, epochs={0: new})
        assert tried(decide(leader, seen, led(5), after_s=100)) is None
        seen = msgspec.structs.replace(seen, live=view().live)
        assert tried(decide(leader, seen, led(5), after_s=100)).leader == a


def test_a_leader_that_most_members_do_not_hear_lets_these_go_first():
    old = epoch(4, "n1", "n1 n2 n3")
    deaf = led(4, silent=names("n2 n3"))
    assert tried(decide("n1", view(epoch=old), deaf)) is None
    for name in ("n2", "n3"):
        seen = view(epoch=old)
        taken = tried(decide(name, seen, follows(4, silent=names("n1")), after_s=3))
        assert set(taken.members) == {"n2", "n3"}
    assert tried(decide("n1", view(epoch=old), deaf, after_s=6)) == epoch(5, "n1", "n1")
    # One after the other is no other matter.
    rest = tried(decide("n1", view(epoch=old), led(4, silent=names("n2"))))
    assert rest == epoch(5, "n1", "n1 n3")
    assert tried(decide("n1", view(epoch=rest), led(5, silent=names("n3")))) is None
    # Of two, it stays with the leader; and the dead are not counted.
    two = view(epoch=epoch(4, "n1", "n1 n2"), wished="n1 n2")
    assert tried(decide("n1", two, led(4, silent=names("n2")))) == epoch(5, "n1", "n1")
    assert tried(decide("n1", view(epoch=old, live="n1"), deaf)) == epoch(5, "n1", "n1")


def test_a_drained_node_is_let_go_unless_writes_would_stop():
    standing = epoch(4, "n2", "n1 n2")
    for replicas_min, wished in ((1, {"n2"}), (2, {"n1", "n2"})):
        seen = view(
            live="n1 n2",
            nodes="n1 n2",
            draining="n1",
            wished="",
            epoch=standing,
            replicas_min=replicas_min,
        )
        wish = tried(decide("n2", seen, led(4)))
        assert set(wish.wished) == wished
        assert wish.wished[0] == "n2"
        seen = msgspec.structs.replace(seen, shards={0: wish})
        after = tried(decide("n2", seen, led(4), after_s=1000))
        assert after == (None if replicas_min == 2 else epoch(5, "n2", "n2"))


def test_the_only_node_stays_although_it_drains():
    seen = view(live="n1", nodes="n1", draining="n1", wished="n1", epoch=epoch(4, "n1", "n1"))
    assert decide("n1", seen, led(4), after_s=1000).change is None


def test_a_leader_that_is_not_alive_in_the_authority_tries_nothing():
    seen = view(live="n2 n3", epoch=epoch(4, "n1", "n1 n2 n3"))
    assert decide("n1", seen, led(4, silent=names("n2 n3"))).change is None


# --- a member ------------------------------------------------------------------------------------------------------


def test_members_leave_a_leader_alone_that_they_hear():
    seen = view(epoch=epoch(4, "n1", "n1 n2 n3"))
    assert decide("n2", seen, follows(4), after_s=1000).change is None


def test_the_next_in_the_wish_takes_over_from_a_dead_leader_at_once_and_the_others_later():
    seen = view(live="n2 n3", epoch=epoch(4, "n1", "n1 n2 n3"))
    replica = follows(4, silent=names("n1"))
    assert tried(decide("n2", seen, replica)) == epoch(5, "n2", "n2 n3")
    waiting = decide("n3", seen, replica)
    assert waiting.change is None
    assert waiting.again_ns == PATIENCE.stagger_ns
    assert tried(decide("n3", seen, replica, after_s=0.3)) == epoch(5, "n3", "n2 n3")


def test_a_leader_that_is_silent_but_alive_gets_time_to_drop_us_first():
    seen = view(epoch=epoch(4, "n1", "n1 n2 n3"))
    replica = follows(4, silent=names("n1"))
    assert decide("n2", seen, replica, after_s=1.9).change is None
    assert tried(decide("n2", seen, replica, after_s=2)) == epoch(5, "n2", "n2 n3")


def test_a_leader_that_was_heard_again_begins_with_full_patience():
    seen = view(epoch=epoch(4, "n1", "n1 n2 n3"))
    reconfigurer = Reconfigurer("n2")
    reconfigurer.see(0, seen)
    silent = follows(4, silent=names("n1"))
    assert reconfigurer.decide(0, 0, silent).change is None
    assert reconfigurer.decide(1 * SECOND, 0, follows(4)).change is None
    assert reconfigurer.decide(2 * SECOND, 0, silent).change is None
    assert reconfigurer.decide(4 * SECOND, 0, silent).change is not None


def test_a_leader_that_says_it_is_broken_is_taken_over_at_once():
    seen = view(epoch=epoch(4, "n1", "n1 n2 n3"))
    assert tried(decide("n2", seen, follows(4, lost=names("n1")))) == epoch(5, "n2", "n2 n3")


def test_a_leader_that_lost_the_authority_but_is_heard_keeps_leading_for_a_while():
    seen = view(live="n2 n3", epoch=epoch(4, "n1", "n1 n2 n3"))
    assert decide("n2", seen, follows(4), after_s=29).change is None
    assert tried(decide("n2", seen, follows(4), after_s=30)) == epoch(5, "n2", "n2 n3")


def test_who_drains_takes_over_last():
    seen = view(live="n2 n3", draining="n2", epoch=epoch(4, "n1", "n1 n2 n3"))
    replica = follows(4, silent=names("n1"))
    assert decide("n2", seen, replica).again_ns == PATIENCE.stagger_ns
    assert decide("n3", seen, replica).change is not None


def test_who_is_not_in_sync_or_no_member_or_behind_the_record_tries_nothing():
    seen = view(live="n2 n3 n4", epoch=epoch(4, "n1", "n1 n2 n3"))
    for me, replica in (
        ("n2", Replica(serves=4, in_sync=False, silent=names("n1"))),
        ("n4", Replica(serves=4, in_sync=True, silent=names("n1"))),
        ("n2", follows(3, silent=names("n1"))),
        ("n2", Replica()),
    ):
        assert decide(me, seen, replica, after_s=1000).change is None


# --- starts --------------------------------------------------------------------------------------------------------


def test_a_restarted_leader_makes_the_next_epoch_and_does_not_go_on_in_the_old():
    seen = view(epoch=epoch(4, "n1", "n1 n2 n3"))
    assert tried(decide("n1", seen, follows(4))) == epoch(5, "n1", "n1 n2 n3")


def test_a_whole_shard_that_starts_waits_a_little_for_its_members():
    seen = view(live="n1", epoch=epoch(4, "n1", "n1 n2 n3"))
    assert decide("n1", seen, follows(4)).again_ns == PATIENCE.settle_ns
    assert tried(decide("n1", seen, follows(4), after_s=3)) == epoch(5, "n1", "n1")


def stranded(at, last_epoch, last_index):
    return [Stranded(0, at, last_epoch, last_index)]


def test_when_every_member_lost_something_the_one_with_most_goes_on_when_all_are_back():
    ends = {"n1": stranded(4, 3, 90), "n2": stranded(4, 4, 10), "n3": stranded(4, 4, 9)}
    lost = Replica(serves=4)
    seen = view(epoch=epoch(4, "n1", "n1 n2 n3"), stranded=ends)
    assert decide("n1", seen, lost, after_s=1000).change is None
    assert decide("n3", seen, lost, after_s=1000).change is None
    assert tried(decide("n2", seen, lost)) == Epoch(0, 5, "n2", ("n2",), forced=True)


@pytest.mark.parametrize("missing", ["not live", "not stranded", "of another epoch", "empty"])
def test_as_long_as_one_member_may_know_more_nobody_goes_on_with_less(missing):
    ends = {"n1": stranded(4, 4, 90), "n2": stranded(4, 4, 10), "n3": stranded(4, 4, 9)}
    live = "n1 n2 n3"
    if missing == "not live":
        live = "n1 n2"
    elif missing == "not stranded":
        del ends["n3"]
    elif missing == "empty":
        ends["n3"] = stranded(4, 0, 0)  # its disk may only not be mounted
    else:
        ends["n3"] = stranded(3, 3, 9)
    seen = view(live=live, epoch=epoch(4, "n1", "n1 n2 n3"), stranded=ends)
    for me in ("n1", "n2"):
        decision = decide(me, seen, Replica(serves=4), after_s=1000)
        assert decision.change is None
        assert "n3" in decision.why


def test_a_volatile_shard_that_nobody_has_begins_anew_by_itself():
    ends = {name: stranded(4, 0, 0) for name in NAMES}
    seen = view(epoch=epoch(4, "n1", "n1 n2 n3"), stranded=ends, volatile=True)
    assert decide("n2", seen, Replica(serves=4), after_s=1000).change is None
    assert tried(decide("n1", seen, Replica(serves=4))) == Epoch(0, 5, "n1", ("n1",), forced=True)
    ends["n3"] = stranded(4, 4, 9)  # Filled in part: what it has is more than nothing.
    seen = view(epoch=epoch(4, "n1", "n1 n2 n3"), stranded=ends, volatile=True)
    assert tried(decide("n3", seen, Replica(serves=4))) == Epoch(0, 5, "n3", ("n3",), forced=True)


def test_a_volatile_shard_waits_for_members_that_are_away_for_a_while_and_for_those_that_live():
    ends = {"n1": stranded(4, 0, 0), "n2": stranded(4, 0, 0)}
    away = view(live="n1 n2", epoch=epoch(4, "n3", "n1 n2 n3"), stranded=ends, volatile=True)
    lost = Replica(serves=4)
    assert decide("n1", away, lost, after_s=29).change is None
    assert tried(decide("n1", away, lost, after_s=31)) == Epoch(0, 5, "n1", ("n1",), forced=True)
    lives = view(epoch=epoch(4, "n3", "n1 n2 n3"), stranded=ends, volatile=True)
    assert decide("n1", lives, lost, after_s=1000).change is None


def test_the_only_member_with_an_empty_disk_does_not_begin_anew_by_itself():
    ends = {"n1": stranded(4, 0, 0)}
    seen = view(live="n1", epoch=epoch(4, "n1", "n1"), stranded=ends)
    assert decide("n1", seen, Replica(serves=4), after_s=1000).change is None


# --- what always holds ---------------------------------------------------------------------------------------------

some = st.frozensets(st.sampled_from(NAMES))


@st.composite
def situations(draw):
    members = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    old = Epoch(0, draw(st.integers(1, 9)), draw(st.sampled_from(members)), tuple(members))
    seen = view(
        live=" ".join(draw(some)),
        nodes=" ".join(draw(some)),
        draining=" ".join(draw(some)),
        wished=" ".join(draw(st.lists(st.sampled_from(NAMES), unique=True))),
        epoch=draw(st.sampled_from([old, old, old, None])),
        replicas=draw(st.integers(1, 5)),
        stranded={name: stranded(old.epoch, 1, draw(st.integers(0, 3))) for name in draw(some)},
    )
    me = draw(st.sampled_from(NAMES))
    replica = Replica(
        draw(st.sampled_from([old.epoch, old.epoch, 0, old.epoch - 1])),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(some),
        draw(some),
        draw(some),
        draw(some),
    )
    return me, seen, replica, draw(st.sampled_from([0, 0.5, 5, 50, 5000]))


@given(situations())
def test_every_epoch_that_is_tried_is_safe(situation):
    me, seen, replica, after_s = situation
    decision = decide(me, seen, replica, after_s=after_s)
    assert decision.why
    assert decision.again_ns is None or decision.again_ns > 0
    new = tried(decision)
    if isinstance(new, Shard):
        assert replica.leads
        assert seen.epochs[0].leader == me
        assert new.wished
        return
    if new is None:
        return
    old = seen.epochs.get(0)
    assert decision.change == Change(old, new)
    assert me in seen.live
    assert new.members
    assert new.leader in new.members
    assert len(set(new.members)) == len(new.members)
    if old is None:
        assert new == Epoch(0, 1, me, (me,))
        return
    assert new.epoch == old.epoch + 1
    assert new.leader in old.members
    assert me in old.members
    assert me in new.members
    if new.forced:
        assert set(old.members) <= set(seen.live)
        assert all(seen.live[name].stranded[0].last_index for name in old.members)
        return
    assert replica.in_sync
    newcomers = set(new.members) - set(old.members)
    assert newcomers <= replica.caught_up
    assert not newcomers or (replica.leads and old.leader == me)
    if me != old.leader:
        assert new.leader == me
    assert new.leader in {me, *replica.synced}
    assert (new.leader, set(new.members)) != (old.leader, set(old.members)) or not replica.leads


# --- a small world -------------------------------------------------------------------------------------------------


class World:
    """Nodes with perfect replicas: who lives answers, learners catch up at once and are in sync some steps after they
    became members, a started process is told all."""

    STEPS_TO_SYNC = 3

    def __init__(self, nodes, replicas):
        self.view = view(nodes=" ".join(nodes), live="", wished="", replicas=replicas)
        self.now_ns = 0
        self.in_sync = {}  # node -> is its log complete
        self.coming = {}  # node -> steps until it is, as a member
        self.entered = {}  # node -> (epoch it serves in, leads)
        self.reconfigurers = {}
        self.tried = 0
        self.won = 0

    def change(self, **values):
        self.view = msgspec.structs.replace(self.view, revision=self.view.revision + 1, **values)

    def start(self, name):
        self.reconfigurers[name] = Reconfigurer(name)
        self.change(live={**self.view.live, name: Presence(name, 1, ())})
        self.entered[name] = (self.view.epochs[0].epoch if self.view.epochs else 0, False)

    def kill(self, name):
        self.reconfigurers.pop(name, None)
        self.entered.pop(name, None)
        self.change(live={n: p for n, p in self.view.live.items() if n != name})

    def wipe(self, name):
        self.kill(name)
        self.in_sync[name] = False

    def drain(self, name, state):
        node = msgspec.structs.replace(self.view.nodes[name], state=state)
        self.change(nodes={**self.view.nodes, name: node})

    def replica(self, name):
        standing = self.view.epochs.get(0)
        if standing is None:
            return Replica()
        serves, leads = self.entered[name]
        others = set(standing.members) - {name}
        if leads:
            silent = frozenset(other for other in others if other not in self.entered)
            lost = frozenset(
                other for other in others - self.coming.keys() if not self.in_sync.get(other)
            )
        else:
            # Who does not lead says nothing, also when the record names it.
            silent = frozenset(
                {standing.leader} - {n for n, (_, lead) in self.entered.items() if lead}
            )
            lost = frozenset()
        caught_up = (
            frozenset(n for n in self.entered if n not in standing.members)
            if leads
            else frozenset()
        )
        synced = frozenset(other for other in others if leads and self.in_sync.get(other))
        return Replica(
            serves, leads, self.in_sync.get(name, False), silent - {name}, lost, caught_up, synced
        )

    def adopt(self):
        standing = self.view.epochs.get(0)
        if standing is None:
            return
        for name, (serves, _) in list(self.entered.items()):
            if serves != standing.epoch:
                known = self.in_sync.get(name, False) and name in standing.members
                self.in_sync[name] = known
                if name in standing.members and not known:
                    self.coming.setdefault(name, self.STEPS_TO_SYNC)
                leads = standing.leader == name and known
                self.entered[name] = (standing.epoch, leads)
        for name in self.in_sync:
            if name not in standing.members:
                self.in_sync[name] = False
        for name in list(self.coming):
            self.coming[name] -= 1
            if name not in standing.members or name not in self.entered:
                del self.coming[name]
            elif not self.coming[name]:
                del self.coming[name]
                self.in_sync[name] = True

    def step(self):
        """A tenth of a second: every node decides once, attempts are made one after another."""
        self.now_ns += SECOND // 10
        for name in sorted(self.reconfigurers):
            self.reconfigurers[name].see(self.now_ns, self.view)
        attempts = []
        for name in sorted(self.reconfigurers):
            decision = self.reconfigurers[name].decide(self.now_ns, 0, self.replica(name))
            if decision.change is not None:
                attempts.append((name, decision.change))
        for name, (old, new) in attempts:
            self.tried += 1
            if isinstance(new, Shard):
                if self.view.shards[0] == old:
                    self.change(shards={0: new})
            elif self.view.epochs.get(0) == old:
                if old is None:
                    self.in_sync[name] = True
                else:
                    assert self.in_sync.get(new.leader), "it would lead without having everything"
                self.won += 1
                self.change(epochs={0: new})
        self.adopt()

    def run(self, seconds):
        for _ in range(round(seconds * 10)):
            self.step()

    def at_rest(self):
        before = self.view
        self.run(5)
        return self.view == before

    @property
    def epoch(self):
        return self.view.epochs[0]


def test_a_cluster_of_three_begins_fails_over_heals_and_goes_home():
    world = World(NAMES[:3], 3)
    for name in NAMES[:3]:
        world.start(name)
    world.run(60)
    assert set(world.epoch.members) == {"n1", "n2", "n3"}
    home = world.view.shards[0].wished[0]
    assert world.epoch.leader == home
    assert world.at_rest()
    world.kill(home)
    world.run(1)
    assert world.epoch.leader != home
    assert home not in world.epoch.members
    world.start(home)
    world.run(60)
    assert set(world.epoch.members) == {"n1", "n2", "n3"}
    assert world.epoch.leader == home
    assert world.at_rest()


def test_a_drained_node_ends_with_nothing_and_gets_its_part_back():
    world = World(NAMES, 3)
    for name in NAMES:
        world.start(name)
    world.run(60)
    leader = world.epoch.leader
    world.drain(leader, "draining")
    world.run(60)
    assert leader not in world.epoch.members
    assert len(world.epoch.members) == 3
    assert world.at_rest()
    world.drain(leader, "active")
    world.run(60)
    assert world.epoch.leader == leader


def test_a_shard_of_one_replica_moves_in_three_epochs():
    world = World(NAMES[:2], 1)
    for name in NAMES[:2]:
        world.start(name)
    world.run(60)
    old = world.epoch
    world.drain(old.leader, "draining")
    world.run(60)
    assert world.epoch.epoch == old.epoch + 3
    assert {world.epoch.leader, old.leader} == set(NAMES[:2])
    assert world.epoch.members == (world.epoch.leader,)


def test_all_processes_of_a_shard_killed_and_started_again():
    world = World(NAMES[:3], 3)
    for name in NAMES[:3]:
        world.start(name)
    world.run(60)
    for name in NAMES[:3]:
        world.kill(name)
    for name in NAMES[:3]:
        world.start(name)
        world.run(0.5)
    world.run(60)
    assert set(world.epoch.members) == {"n1", "n2", "n3"}
    assert world.at_rest()


def test_a_node_away_for_good_is_replaced_and_a_wiped_one_is_a_newcomer():
    world = World(NAMES[:4], 3)
    for name in NAMES[:4]:
        world.start(name)
    world.run(60)
    gone = world.epoch.members[1]
    world.kill(gone)
    world.run(700)
    assert set(world.epoch.members) == set(NAMES[:4]) - {gone}
    world.wipe(gone)
    world.start(gone)
    world.run(60)
    assert world.at_rest()
    assert len(world.epoch.members) == 3


events = st.lists(
    st.tuples(
        st.sampled_from(["kill", "start", "wipe", "drain", "undrain"]),
        st.sampled_from(NAMES),
        st.sampled_from([0.1, 0.3, 1, 5, 40]),
    ),
    max_size=25,
)


@settings(max_examples=40)  # each is some five minutes of a cluster's life
@given(st.integers(1, 5), st.integers(1, 4), events)
def test_whatever_happens_it_comes_to_rest_as_wished(count, replicas, happened):
    nodes = NAMES[:count]
    world = World(nodes, replicas)
    for name in nodes:
        world.start(name)
    world.run(10)
    for what, name, seconds in happened:
        if name not in nodes:
            continue
        up = name in world.reconfigurers
        if what == "kill" and up:
            world.kill(name)
        elif what == "start" and not up:
            world.start(name)
        elif what == "wipe":
            others = [n for n in world.epoch.members if n != name and world.in_sync.get(n)]
            if others:  # else the only copy would be gone, which nobody can mend
                world.wipe(name)
        elif what in ("drain", "undrain"):
            world.drain(name, "draining" if what == "drain" else "active")
        world.run(seconds)
    for name in nodes:
        world.drain(name, "active")
        if name not in world.reconfigurers:
            world.start(name)
    world.run(200)
    assert world.entered[world.epoch.leader][1], "nobody leads"
    assert set(world.epoch.members) == set(world.view.shards[0].wished)
    assert len(world.epoch.members) == min(replicas, count)
    assert world.epoch.leader == world.view.shards[0].wished[0]
    assert world.at_rest()

"""Whatever happens in whatever order: what was committed stays, and when the trouble ends all members agree and go on.

Goal: what no story in the other tests thought of. Method: hypothesis draws steps for a shard of three (deliver, lose, double and
reorder messages, time, proposals, epochs by the rules, restarts, lost logs, disks that lag); `Shard.published` checks each. A
failure shrinks to the shortest story. Whole clusters, with real clocks and rules of membership, are the simulator's.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.replication import Note, Role, Verdict

names = st.sampled_from("abc")
steps = st.one_of(
    st.tuples(st.just("work"), names),
    st.tuples(st.just("work"), names),
    st.tuples(st.just("deliver"), st.integers(1, 6)),
    st.tuples(st.just("deliver"), st.integers(1, 6)),
    st.tuples(st.just("settle")),
    st.tuples(st.just("lose"), st.integers(0, 9)),
    st.tuples(st.just("double"), st.integers(0, 9)),
    st.tuples(st.just("late"), st.integers(0, 9)),
    st.tuples(st.just("tick"), st.sampled_from((10, 250, 1200))),
    st.tuples(st.just("propose"), names, st.integers(1, 3)),
    st.tuples(st.just("propose"), names, st.integers(1, 3)),
    st.tuples(st.just("epoch"), names, names, st.sets(names)),
    st.tuples(st.just("epoch"), names, names, st.sets(names)),
    st.tuples(st.just("tell"), names),
    st.tuples(st.just("teach"), names),
    st.tuples(st.just("restart"), names),
    st.tuples(st.just("wipe"), names),
    st.tuples(st.just("sync"), names, st.booleans()),
    st.tuples(st.just("notes"), names, st.booleans()),
    st.tuples(st.just("skew"), names, st.sampled_from((-60, 0, 60))),
)


class World:
    """A shard, and who may do what to it."""

    def __init__(self, shard):
        self.shard = shard
        self.numbers = dict.fromkeys((1, 2, 3), 0)
        shard.elect("a")

    def safe(self, besides=""):
        """Members that are in sync and know the newest epoch: one of them has to stay."""
        return [
            name
            for name in self.shard.epoch.members
            if name not in besides
            and self.shard[name].replica.in_sync
            and self.shard[name].replica.epoch == self.shard.epoch
        ]

    def do(self, what, *how):
        getattr(self, what)(*how)

    def work(self, name):
        self.shard[name].work()

    def deliver(self, count):
        for _ in range(min(count, len(self.shard.queue))):
            self.shard.deliver()

    def settle(self):
        self.shard.settle()

    def lose(self, at):
        if at < len(self.shard.queue):
            del self.shard.queue[at]

    def double(self, at):
        if at < len(self.shard.queue):
            self.shard.queue.append(self.shard.queue[at])

    def late(self, at):
        if at < len(self.shard.queue):
            message = self.shard.queue[at]
            del self.shard.queue[at]
            self.shard.queue.append(message)

    def tick(self, ms):
        self.shard.now_ns += ms * 1_000_000
        for node in self.shard.nodes.values():
            node.replica.tick(self.shard.now_ns, node.wall_ns)

    def propose(self, name, client):
        verdict = self.shard[name].propose(self.numbers[client] + 1, client)
        if verdict in (Verdict.TAKEN, Verdict.KNOWN):
            self.numbers[client] += 1
        elif verdict is Verdict.EARLY:  # What it took was cut; go back to what is surely there.
            self.numbers[client] = self.shard[name].last_applied(client)

    def epoch(self, maker, leader, members):
        """Somebody makes the next one, as CLUSTER allows; who else hears of it is another step."""
        replica = self.shard[maker].replica
        old = self.shard.epoch
        if maker not in self.safe() or leader not in self.safe():
            return
        allowed = set(old.members)
        if replica.role is Role.LEADER:
            allowed |= replica.caught_up
        members = (members & allowed) | {maker, leader}
        self.shard.elect(leader, sorted(members), told=maker)

    def tell(self, name):
        self.shard[name].replica.adopt(self.shard.now_ns, self.shard.epoch)

    def teach(self, name):
        self.shard[name].replica.teach(self.shard.now_ns, "abc")

    def restart(self, name):
        node = self.shard[name]
        node.sync_owed = False
        node.unkept = None
        node.start(self.shard.epoch)

    def wipe(self, name):
        if self.safe(besides=name):
            node = self.shard[name]
            node.log.clear()
            node.durable = node.committed = 0
            node.note = Note(0, False)
            self.restart(name)

    def sync(self, name, syncs):
        self.shard[name].syncs = syncs

    def notes(self, name, keeps):
        self.shard[name].keeps_notes = keeps

    def skew(self, name, seconds):
        self.shard[name].skew_ns = seconds * 10**9

    def heal(self):
        shard = self.shard
        for node in shard.nodes.values():
            node.syncs = node.keeps_notes = True
            node.keep()
            node.replica.adopt(shard.now_ns, shard.epoch)
            if node.sync_owed:
                node.sync()
        shard.run(2500)
        if not shard.leads(shard.epoch.leader) or shard[shard.epoch.leader].replica.absent:
            leader = self.safe()[0]
            shard.elect(leader, [leader])
        shard[shard.epoch.leader].replica.teach(shard.now_ns, "abc")
        shard.run(2500)
        leader = shard[shard.epoch.leader]
        shard.elect(leader.name, sorted({*shard.epoch.members, *leader.replica.caught_up}))
        shard.run(2500)
        assert set(shard.epoch.members) == set("abc")
        assert leader.propose(1, client=99) is Verdict.TAKEN
        shard.run(500)
        assert shard.same_logs()
        for node in shard.nodes.values():
            assert node.committed == len(node.log)
            assert node.replica.in_sync
        for client in self.numbers:
            numbers = [number for c, number, _ in leader.records() if c == client]
            assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("durable", [False, True])
@given(st.lists(steps, max_size=80))
def test_what_was_committed_stays_and_in_the_end_all_agree(make_shard, durable, drawn):
    world = World(make_shard(durable=durable))
    for step in drawn:
        world.do(*step)
    world.heal()

"""Bugs planted on purpose, one at a time: each is one that somebody could write, and that its checker has to notice.

A mutant takes pytest's ``monkeypatch`` and spoils one thing: mostly in the replication core, a few in its driver or in
a mount. `MUTANTS` says by name which checker must notice it; others may as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from storage.replication.follower import Follower
from storage.replication.frontier import Bound, Candidates, Published
from storage.replication.holding import Holding
from storage.replication.leader import Leader
from storage.replication.lineage import Lineage
from storage.replication.messages import Ack, Append, Message
from storage.replication.replica import Replica
from storage.replication.standing import Standing
from tests.simulation.cluster.mount import Face, Mount
from tests.simulation.cluster.platter import Platter
from tests.simulation.cluster.registers import Change, Registers, State
from tests.simulation.cluster.workload import Writer

if TYPE_CHECKING:
    import pytest

    from storage.replication.messages import Frame
    from storage.replication.ready import Frontier, Note
    from tests.simulation.cluster.checkers.agreement import Committed

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """A planted bug, and who must notice it."""

    checkers: tuple[str, ...]
    """Whose word counts; for some bugs it is chance which of them sees it first."""
    plant: Callable[[pytest.MonkeyPatch], None]
    kinds: tuple[str, ...]
    """The kinds of trouble that make it show; all that the seed draws if there are none here."""


MUTANTS: dict[str, Mutant] = {}


def mutant(
    *checkers: str, kinds: tuple[str, ...] = ()
) -> Callable[[Callable[[pytest.MonkeyPatch], None]], None]:
    """Note a mutant, to be noticed by one of some checkers."""

    def note(plant: Callable[[pytest.MonkeyPatch], None]) -> None:
        MUTANTS[plant.__name__] = Mutant(checkers, plant, kinds)

    return note


# --- fencing and epochs -------------------------------------------------------------------------------------------


@mutant("agreement", "durability", "trouble", kinds=("leader cut off", "one-way cut"))
def leaders_of_older_epochs_are_acknowledged(patch: pytest.MonkeyPatch) -> None:
    """Fencing removed."""
    real = Replica.step

    def step(self: Replica, now_ns: int, sender: str, message: Message) -> None:
        number = self.epoch.number if self.epoch else 0
        if isinstance(message, Append) and message.epoch < number:
            last = message.previous_index + len(message.frames)
            self._send.append((sender, Ack(message.epoch, last, last, message.candidate_us)))
            self._stirred = True
            return
        real(self, now_ns, sender, message)

    patch.setattr(Replica, "step", step)
    patch.setattr(
        Replica, "_fenced", False
    )  # Else the old leader itself stops at the first word of it.


@mutant("agreement", "durability", "trouble", kinds=("power cut", "blackout", "slow disk"))
def a_leader_goes_on_in_its_epoch_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    real = Replica.__init__

    def init(self: Replica, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        _, _, epoch, now_ns, *_ = arguments
        if epoch is not None and epoch.leader == self._member:
            self._epoch = None
            self.adopt(now_ns, epoch)

    patch.setattr(Replica, "__init__", init)


@mutant("agreement", "durability", "trouble", kinds=("power cut",))
def who_lost_its_memory_leads(patch: pytest.MonkeyPatch) -> None:
    """The driver takes an old note for true after a power cut."""
    real = Platter.cut_power

    def cut_power(self: Platter, random: Any) -> None:
        note = self.note
        real(self, random)
        self.note = note

    patch.setattr(Platter, "cut_power", cut_power)


@mutant(
    "agreement", "durability", "trouble", kinds=("kill", "power cut", "slow disk", "drained node")
)
def a_learner_is_in_sync_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Follower, "has_start", property(lambda _self: True))


@mutant("agreement", "durability", "trouble", kinds=("kill", "slow disk", "drained node", "pause"))
def a_member_let_go_stays_in_sync(patch: pytest.MonkeyPatch) -> None:
    def enter(self: Standing, *, listed: bool, forced: bool) -> None:
        self.in_sync = self.in_sync or forced

    patch.setattr(Standing, "enter", enter)


# --- the log ------------------------------------------------------------------------------------------------------


@mutant("agreement", "durability", "trouble")
def what_does_not_fit_is_not_cut(patch: pytest.MonkeyPatch) -> None:
    """Truncation missing: a place is known by its index alone."""
    real = Follower._extend

    def fits(self: Follower, previous_index: int, _previous_epoch: int) -> bool:
        return previous_index <= self._holding.last_index

    def extend(self: Follower, previous_index: int, frames: Sequence[Frame]) -> None:
        overlap = min(len(frames), self._holding.last_index - previous_index)
        real(self, previous_index + overlap, frames[overlap:])

    patch.setattr(Follower, "_fits", fits)
    patch.setattr(Follower, "_extend", extend)


@mutant("progress")
def logs_are_the_same_as_far_as_both_go(patch: pytest.MonkeyPatch) -> None:
    def common(_self: Lineage, last_index: int, _theirs: object, their_last: int) -> int:
        return min(last_index, their_last)

    patch.setattr(Lineage, "common", common)


@mutant("durability")
def acknowledged_before_it_is_on_the_disk(patch: pytest.MonkeyPatch) -> None:
    real = Replica.appended

    def appended(self: Replica, last_index: int) -> None:
        real(self, last_index)
        self.persisted(last_index)

    patch.setattr(Replica, "appended", appended)


@mutant("durability")
def a_commit_does_not_wait_for_the_slowest(patch: pytest.MonkeyPatch) -> None:
    real = Leader.advance

    def advance(self: Leader) -> None:
        others = self._others
        slowest = min(others, key=lambda name: others[name].match, default=None)
        if len(others) > 1:
            self._others = {name: peer for name, peer in others.items() if name != slowest}
        real(self)
        self._others = others

    patch.setattr(Leader, "advance", advance)


@mutant("durability")
def a_commit_does_not_wait_for_the_leaders_own_log(patch: pytest.MonkeyPatch) -> None:
    real = Leader.advance

    def advance(self: Leader) -> None:
        holding = self._holding
        appended, persisted = holding.appended, holding.persisted
        if self._others:
            holding.appended = holding.persisted = holding.last_index
        real(self)
        holding.appended, holding.persisted = appended, persisted

    patch.setattr(Leader, "advance", advance)


@mutant("progress")
def nobody_listens_to_who_lacks_something(patch: pytest.MonkeyPatch) -> None:
    real = Leader.reported

    def reported(self: Leader, peer: Any, report: Any) -> None:
        if not peer.next_index:
            real(self, peer, report)

    patch.setattr(Leader, "reported", reported)
    patch.setattr("storage.replication.progress.Progress.in_flight", property(lambda _self: False))


@mutant("gaps")
def what_the_log_refused_is_committed(patch: pytest.MonkeyPatch) -> None:
    """As it once was: found by this simulator."""
    real = Replica.fail

    def fail(self: Replica, why: str) -> None:
        commit_index = self._holding.last_index
        real(self, why)
        self._holding.commit_index = commit_index

    patch.setattr(Replica, "fail", fail)


# --- requests -----------------------------------------------------------------------------------------------------


@mutant("requests")
def a_retry_is_done_again(patch: pytest.MonkeyPatch) -> None:
    """Dedupe forgotten."""
    real = Leader.propose

    def propose(self: Leader, client: int, number: int, *rest: Any) -> Any:
        sessions = self._holding.sessions
        sessions.last = lambda _client: number - 1  # type: ignore[method-assign]
        try:
            return real(self, client, number, *rest)
        finally:
            del sessions.last

    patch.setattr(Leader, "propose", propose)


@mutant("requests")
def a_new_leader_knows_only_what_was_applied(patch: pytest.MonkeyPatch) -> None:
    """Requests that are in its log and not committed yet are done again."""
    real = Holding.__init__

    def init(self: Holding, holdings: Any, *rest: Any, **options: Any) -> None:
        real(self, holdings._replace(requests=()), *rest, **options)

    patch.setattr(Holding, "__init__", init)


@mutant("cuts")
def what_the_author_has_seen_is_ignored(patch: pytest.MonkeyPatch) -> None:
    real = Leader.propose

    def propose(
        self: Leader, client: int, number: int, metadata: bytes, payload: Any, _after: int
    ) -> Any:
        return real(self, client, number, metadata, payload, 0)

    patch.setattr(Leader, "propose", propose)


# --- the frontier -------------------------------------------------------------------------------------------------


@mutant("frontier", kinds=("leader cut off", "clock jump"))
def the_frontier_does_not_wait_for_promises(patch: pytest.MonkeyPatch) -> None:
    real = Candidates.take

    def take(self: Candidates, _noted_us: int, commit_index: int) -> Frontier | None:
        return real(self, 2**62, commit_index)

    patch.setattr(Candidates, "take", take)


@mutant("frontier", kinds=("leader cut off", "kill", "clock jump"))
def a_new_leader_forgets_what_it_promised(patch: pytest.MonkeyPatch) -> None:
    real = Leader.__init__

    def init(self: Leader, *arguments: Any) -> None:
        bound = next(one for one in arguments if isinstance(one, Bound))
        highest_us, bound.highest_us = bound.highest_us, 0
        real(self, *arguments)
        bound.highest_us = max(bound.highest_us, highest_us)

    patch.setattr(Leader, "__init__", init)


@mutant("frontier", kinds=("blackout", "kill", "clock jump"))
def a_promise_ends_with_the_process(patch: pytest.MonkeyPatch) -> None:
    real = Platter.holdings

    def holdings(self: Platter, commit_index: int, note: Note) -> Any:
        return real(self, commit_index, note._replace(bound_us=0))

    patch.setattr(Platter, "holdings", holdings)


@mutant("frontier")
def the_frontier_goes_back(patch: pytest.MonkeyPatch) -> None:
    def publish(self: Published, frontier: Frontier) -> None:
        self.frontier = frontier

    patch.setattr(Published, "publish", publish)


@mutant("frontier")
def the_frontier_is_of_one_record_too_few(patch: pytest.MonkeyPatch) -> None:
    real = Candidates.put

    def put(self: Candidates, timestamp_us: int, index: int) -> None:
        real(self, timestamp_us, index - 1)

    patch.setattr(Candidates, "put", put)


# --- mounts -------------------------------------------------------------------------------------------------------


@mutant("cuts", "immutability")
def the_past_is_read_before_all_of_it_is_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Face, "complete_to", lambda self: self.frontier[0])


@mutant("gaps")
def a_mount_takes_whatever_comes(patch: pytest.MonkeyPatch) -> None:
    real = Mount.records

    def records(
        self: Mount,
        source: str,
        shard: int,
        _previous: int,
        records: Sequence[Committed],
        frontier: tuple[int, int],
    ) -> None:
        face = self.faces[shard]
        if records and records[0].index > face.applied + 1:
            face.applied = records[0].index - 1
        real(self, source, shard, 0, records, frontier)

    patch.setattr(Mount, "records", records)


@mutant("linearizability")
def a_get_is_answered_from_what_the_mount_has(patch: pytest.MonkeyPatch) -> None:
    real = Writer._done

    def done(self: Writer, number: int, record: Committed, state: Any) -> None:
        if self._under_way[number][2].kind == "get":
            state = self._stale.setdefault(number, state)
        real(self, number, record, state)

    def call(self: Writer) -> None:
        real_call(self)
        _, shard, change = self._under_way[self._calls]
        if not hasattr(self, "_stale"):
            self._stale = {}
        if change.kind == "get":
            self._stale[self._calls] = self._mount.faces[shard].registers.at(change.name)

    real_call = Writer._call
    patch.setattr(Writer, "_call", call)
    patch.setattr(Writer, "_done", done)


@mutant("immutability")
def old_values_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    real = Registers.apply

    def apply(self: Registers, timestamp: int, change: Change) -> State:
        if len(self._times.get(change.name, ())) > 3:
            del self._times[change.name][0], self._states[change.name][0]
        return real(self, timestamp, change)

    patch.setattr(Registers, "apply", apply)

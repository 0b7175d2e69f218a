"""The leader of an epoch: stamps, sends, commits, publishes.

It begins with a frame of kind EPOCH behind all its log holds; nothing commits before that one. Frames that are not
committed are kept in memory (`tail`) and sent from there; who needs older ones is served from the log, by `Wanted`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from storage.replication.frontier import Candidates
from storage.replication.messages import (
    EPOCH_KIND,
    RECORD_KIND,
    Ack,
    Append,
    Frame,
    Inquire,
    Report,
)
from storage.replication.options import BATCH_FRAMES_MAX, BATCH_PARTS_MAX
from storage.replication.progress import Progress
from storage.replication.ready import Verdict, Wanted
from storage.sequencer import seal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from storage.clock import HybridClock
    from storage.codec import Buffer
    from storage.replication.frontier import Bound, Published
    from storage.replication.holding import Holding
    from storage.replication.messages import Message
    from storage.replication.options import Options
    from storage.replication.ready import Epoch

__all__ = ["Leader"]

NOTICE_NS: Final = 2_000_000
"""Between two notices of commits to a peer, while more is under way: a commit rides with what comes next, as far as anything does."""

_ASKED_AHEAD_US: Final = 2_000_000
"""Nobody waits longer than that for a frontier (SEMANTICS 5); who asks for a later one would only hide who waits."""


class Leader:
    """One epoch, led. Made by `Replica.adopt`, dropped by the next.

    Attributes:
        options: May be replaced.
        wall_ns: The wall clock as of `now_ns`; set by the replica before each call.
        now_ns: The monotonic clock, likewise.
        lease_until_ns: See `Replica.lease_until_ns`.
        peers: All other members and learners.
        start_index: Of the epoch's first frame.
        send, wanted: What `flush` adds for the driver.
    """

    def __init__(
        self,
        member: str,
        epoch: Epoch,
        holding: Holding,
        clock: HybridClock,
        bound: Bound,
        published: Published,
        options: Options,
        now_ns: int,
        wall_ns: int,
    ) -> None:
        assert holding.last_epoch <= epoch.number
        self.now_ns = now_ns
        self.wall_ns = wall_ns
        self.options = options
        self.lease_until_ns: int | None = None
        self.send: list[tuple[str, Message]] = []
        self.wanted: list[Wanted] = []
        self._epoch = epoch
        self._holding = holding
        self._clock = clock
        self._bound = bound
        self._published = published
        self._others = {name: Progress(now_ns) for name in epoch.members if name != member}
        self.peers: dict[str, Progress] = dict(self._others)
        self._candidates = Candidates()
        self._asked_us = 0
        self._prompt = False  # Somebody waits for what an empty Append would tell.
        self._beat_ns = now_ns  # When a leader without peers made its last candidate.
        self._tail: list[Frame] = []
        self._tail_bytes = 0
        self.start_index = holding.last_index + 1
        clock.observe(max(bound.highest_us, holding.last_timestamp))
        self._stamp(EPOCH_KIND, b"", ())

    # --- Order ---

    def propose(
        self, client: int, number: int, metadata: bytes, payload: Sequence[Buffer], after_us: int
    ) -> Verdict:
        """See `Replica.propose`."""
        options = self.options
        if not self.may_lead():
            return Verdict.NOT_LEADING
        if len(self._epoch.members) < options.replicas_min:
            return Verdict.PAUSED
        last = self._holding.sessions.last(client)
        if number <= last:
            return Verdict.KNOWN
        if number != last + 1:
            return Verdict.EARLY
        if self._tail_bytes >= options.window_bytes or len(self._tail) >= options.window_frames:
            return Verdict.FULL
        if after_us > self._clock.last_us:
            if after_us > self.wall_ns // 1000 + options.clock_ahead_max_ms * 1000:
                return Verdict.AHEAD
            self._clock.observe(after_us)
        if len(payload) > BATCH_PARTS_MAX:
            payload = (b"".join(payload),)
        self._stamp(RECORD_KIND, seal(client, number, metadata), payload)
        return Verdict.TAKEN

    def _stamp(self, kind: int, metadata: bytes, payload: Sequence[Buffer]) -> None:
        holding = self._holding
        index = holding.last_index + 1
        if kind == EPOCH_KIND:
            holding.lineage.extend(self._epoch.number, index)
            metadata = holding.lineage.encode()
        size_bytes = len(metadata) + sum(map(len, payload))
        timestamp = self._clock.tick(self.wall_ns)
        frame = Frame(
            index, self._epoch.number, timestamp, kind, metadata, tuple(payload), size_bytes
        )
        holding.extend(frame)
        self._tail.append(frame)
        self._tail_bytes += size_bytes

    def may_lead(self) -> bool:
        """Whether nobody else can lead now: the lease holds, or all others still answer in this epoch."""
        until_ns = self.lease_until_ns
        if until_ns is None or self.now_ns < until_ns:
            return True
        return bool(self._others) and not any(map(self._is_silent, self._others.values()))

    def _is_silent(self, peer: Progress) -> bool:
        return self.now_ns - peer.heard_ns > self.options.silence_ms * 1_000_000

    # --- What others say ---

    def teach(self, learners: Iterable[str], member: str) -> None:
        """See `Replica.teach`."""
        wished = set(learners) - set(self._epoch.members) - {member}
        for name in self.peers.keys() - self._others.keys() - wished:
            del self.peers[name]
        for name in sorted(wished - self.peers.keys()):  # Sorted: the same seed, the same run.
            self.peers[name] = Progress(self.now_ns)

    def heard(self, sender: str) -> Progress | None:
        """Anything came from somebody; answers what is known of it, if it is a peer."""
        peer = self.peers.get(sender)
        if peer is not None:
            peer.heard_ns = self.now_ns
        return peer

    def acknowledged(self, peer: Progress, ack: Ack) -> None:
        """A peer has so much of the log."""
        if ack.index > self._holding.last_index:
            return  # Nobody can have what was not sent; a peer that says so is not believed.
        if peer.acknowledged(self.now_ns, ack.index, ack.durable_index, ack.noted_us):
            self.advance()

    def reported(self, peer: Progress, report: Report) -> None:
        """A peer says what it holds: send from where that ends being ours."""
        holding = self._holding
        peer.lost = report.lost
        common = holding.lineage.common(holding.last_index, report.lineage, report.last_index)
        peer.restart(max(common, 0) + 1)
        peer.moved_ns = self.now_ns
        peer.sent_ns = -(1 << 62)  # It gets something at once, if only a heartbeat to acknowledge.

    def ask(self, timestamp_us: int) -> None:
        """Somebody waits for the frontier to be there."""
        if timestamp_us < self._time_us() + _ASKED_AHEAD_US:
            self._asked_us = max(self._asked_us, timestamp_us)

    def supply(self, name: str, frames: Sequence[Frame]) -> None:
        """See `Replica.supply`."""
        peer = self.peers.get(name)
        if peer is None:
            return
        peer.reading = False
        if not frames:
            peer.read_ns = self.now_ns + self.options.heartbeat_ms * 1_000_000
        elif frames[0].index == peer.next_index and all(map(self._is_ours, frames)):
            candidate_us = self._candidate()
            at = 0
            while at < len(frames):
                batch = self._batch(frames, at)
                self._append(name, peer, batch, candidate_us, reply=True)
                at += len(batch)

    def _is_ours(self, frame: Frame) -> bool:
        """Whether a frame that was read is still in the log: what was read may be of before a cut."""
        return self._holding.lineage.epoch_at(frame.index) in (frame.epoch, 0)

    def advance(self) -> None:
        """Commit what all members have, publish what all members promised."""
        holding = self._holding
        others = self._others.values()
        durable = min((peer.durable for peer in others), default=holding.persisted)
        durable = min(durable, holding.persisted)
        if holding.durable:
            have = durable
        else:
            have = min((peer.match for peer in others), default=holding.appended)
            have = min(have, holding.appended)
        if have < self.start_index or not self.may_lead():
            return
        published = self._published
        if durable > published.durable_index:
            published.durable_index = durable
        if have > holding.commit_index:
            count = max(0, have - (holding.last_index - len(self._tail)))
            self._tail_bytes -= sum(frame.size_bytes for frame in self._tail[:count])
            del self._tail[:count]
            holding.commit(have)
        noted_us = min((peer.noted_us for peer in others), default=self._bound.noted_us)
        noted_us = min(noted_us, self._bound.noted_us)
        frontier = self._candidates.take(noted_us, holding.commit_index)
        if frontier is not None:
            if published.frontier.timestamp_us < self._asked_us:
                self._prompt = True
            published.publish(frontier)

    # --- What goes out ---

    def flush(self) -> None:
        """Make the messages that are due now."""
        options = self.options
        holding = self._holding
        heartbeat_ns = options.heartbeat_ms * 1_000_000
        asked = self._candidates.last_us < self._asked_us <= self._time_us()
        if not self._others and (asked or self.now_ns - self._beat_ns >= heartbeat_ns):
            self._beat_ns = self.now_ns
            self._candidate()
        if not self._others:
            self.advance()
        first = holding.last_index - len(self._tail) + 1
        batches: dict[int, tuple[Frame, ...]] = {}  # Members are mostly at the same place.
        for name, peer in self.peers.items():
            if self.now_ns - peer.moved_ns > options.resend_ms * 1_000_000 and peer.in_flight:
                peer.restart(0)
            due = self.now_ns - peer.sent_ns >= heartbeat_ns
            if not peer.next_index:
                if due:
                    peer.sent_ns = self.now_ns
                    self.send.append((name, Inquire(self._epoch.number)))
                continue
            count = len(self.send)
            while first <= peer.next_index <= holding.last_index and self._has_room(peer):
                batch = batches.get(peer.next_index)
                if batch is None:
                    batch = self._batch(self._tail, peer.next_index - first)
                    batches[peer.next_index] = batch
                self._append(name, peer, batch, self._candidate(), reply=True)
            if peer.next_index < first and not peer.reading and self._has_room(peer):
                self._want(name, peer, min(first - 1, holding.appended))
            is_prompt = self._prompt or self._has_news(peer)
            if len(self.send) == count and (due or asked or is_prompt):
                self._append(name, peer, (), self._candidate(), reply=due or asked)
        self._prompt = False

    def _has_news(self, peer: Progress) -> bool:
        """Whether to tell a peer of commits without waiting for what they could ride with."""
        if peer.told == (self._holding.commit_index, self._published.durable_index):
            return False
        return not self._tail or self.now_ns - peer.told_ns >= NOTICE_NS

    def _has_room(self, peer: Progress) -> bool:
        return (
            peer.flight_bytes < self.options.window_bytes
            and peer.flight_frames < self.options.window_frames
        )

    def _want(self, name: str, peer: Progress, last_index: int) -> None:
        if last_index < peer.next_index or self.now_ns < peer.read_ns:
            return
        peer.reading = True
        self.wanted.append(Wanted(name, peer.next_index, last_index, self.options.read_bytes))

    def _batch(self, frames: Sequence[Frame], at: int) -> tuple[Frame, ...]:
        """Frames from a place on that fit one message; at least one."""
        end = at
        size_bytes = parts = 0
        while end < len(frames):
            frame = frames[end]
            size_bytes += frame.size_bytes
            parts += len(frame.payload)
            if end > at and (
                size_bytes > self.options.batch_bytes
                or parts > BATCH_PARTS_MAX
                or end - at >= BATCH_FRAMES_MAX
            ):
                break
            end += 1
        return tuple(frames[at:end])

    def _append(
        self,
        name: str,
        peer: Progress,
        frames: tuple[Frame, ...],
        candidate_us: int,
        *,
        reply: bool,
    ) -> None:
        holding = self._holding
        frontier = self._published.frontier
        previous = peer.next_index - 1
        message = Append(
            self._epoch.number,
            previous,
            holding.lineage.epoch_at(previous),
            holding.commit_index,
            self._published.durable_index,
            candidate_us,
            frontier.timestamp_us,
            frontier.index,
            reply,
            frames,
        )
        self.send.append((name, message))
        peer.told, peer.told_ns = (message.commit_index, message.durable_index), self.now_ns
        if frames:
            size_bytes = sum(frame.size_bytes for frame in frames)
            peer.sent(self.now_ns, frames[-1].index, len(frames), size_bytes)
        elif reply:
            peer.sent_ns = self.now_ns

    def _time_us(self) -> int:
        """What this leader's clock would put on a frame now, or a little less."""
        return max(self.wall_ns // 1000, self._clock.last_us)

    def _candidate(self) -> int:
        """The newest moment left behind: nothing will be stamped at or below it by this leader any more."""
        clock = self._clock
        clock.observe(self.wall_ns // 1000)
        self._candidates.put(clock.last_us, self._holding.last_index)
        self._bound.note(clock.last_us)
        return clock.last_us

    # --- What is known ---

    def silent(self) -> frozenset[str]:
        """Peers not heard from for a while."""
        return frozenset(name for name, peer in self.peers.items() if self._is_silent(peer))

    def absent(self) -> frozenset[str]:
        """Members that said they lost what they had."""
        return frozenset(name for name, peer in self._others.items() if peer.lost)

    def synced(self) -> frozenset[str]:
        """Members that have the epoch's first frame, and all before it."""
        is_durable = self._holding.durable
        return frozenset(
            name
            for name, peer in self._others.items()
            if (peer.durable if is_durable else peer.match) >= self.start_index
        )

    def caught_up(self) -> frozenset[str]:
        """Learners that lack little."""
        first = self._holding.last_index - len(self._tail) + 1
        return frozenset(
            name
            for name, peer in self.peers.items()
            if name not in self._others
            and peer.next_index >= first
            and peer.match >= self.start_index
            and peer.durable >= self._published.durable_index
            and peer.flight_bytes <= self.options.caught_up_bytes
            and not self._is_silent(peer)
        )

"""A member or learner in an epoch that another leads: takes in, acknowledges, says what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.replication.lineage import REPORTED_MAX
from storage.replication.messages import EPOCH_KIND, RECORD_KIND, Ack, Append, Ask, Report
from storage.replication.ready import Frontier
from storage.sequencer import ENVELOPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.replication.frontier import Bound, Published
    from storage.replication.holding import Holding
    from storage.replication.messages import Frame, Message
    from storage.replication.ready import Epoch

__all__ = ["Diverged", "Follower"]


class Diverged(Exception):
    """The leader contradicts what is committed here, or itself: a bug somewhere, and nothing may be touched."""


class Follower:
    """One epoch, followed. Made by `Replica.adopt`, dropped by the next.

    Attributes:
        heard_ns: When the leader was heard of last.
        verified: The log is as the leader's up to here, as of the leader's own words.
        start_index: Of the epoch's first frame; 0 while it was not seen.
    """

    def __init__(
        self, epoch: Epoch, holding: Holding, bound: Bound, published: Published, now_ns: int
    ) -> None:
        self.heard_ns = now_ns
        self.verified = 0
        self.start_index = 0
        self._epoch = epoch
        self._holding = holding
        self._bound = bound
        self._published = published
        self._commit_index = 0  # The leader's; here it counts as far as the log goes.
        self._durable_index = 0
        self._frontier = Frontier(0, 0)
        self._ack_due = False
        self._report_due = True
        self._reported_ns = now_ns
        self._asked_us = 0

    def grown(self, *, have: bool) -> None:
        """The log grew; `have` if in the sense of the pool's durability or of the disk's: the leader wants to know that."""
        self._advance()
        self._ack_due = self._ack_due or have

    def _advance(self) -> None:
        """Take what the leader said of commit and frontier for true here, as far as the log goes."""
        holding, published = self._holding, self._published
        index = min(self._commit_index, self.verified, holding.appended)
        if index > holding.commit_index:
            holding.commit(index)
        durable_index = min(self._durable_index, holding.commit_index)
        holding.others_durable = max(holding.others_durable, durable_index)
        published.durable_index = max(published.durable_index, durable_index)
        if self._frontier.index <= holding.commit_index:
            published.publish(self._frontier)

    def ask(self, timestamp_us: int) -> None:
        """Somebody here waits for the frontier to be there."""
        self._asked_us = max(self._asked_us, timestamp_us)

    def inquired(self) -> None:
        """The leader does not know what this log holds."""
        self._report_due = True

    def take(self, message: Append, now_ns: int, report_every_ns: int) -> None:
        """What the leader sends.

        Raises:
            Diverged: See there. Nothing was changed by the frames not yet taken.
        """
        holding = self._holding
        if not self._fits(message.previous_index, message.previous_epoch):
            # Something was lost on the way, and what is behind it will not fit either: say so once.
            if now_ns - self._reported_ns >= report_every_ns:
                self._report_due = True
                self._reported_ns = now_ns
            return
        frames = message.frames
        if frames:
            self._extend(message.previous_index, frames)
        self.verified = max(self.verified, message.previous_index + len(frames))
        self._commit_index = max(self._commit_index, message.commit_index)
        self._durable_index = max(self._durable_index, message.durable_index)
        if message.frontier_us > self._frontier.timestamp_us:
            self._frontier = Frontier(message.frontier_us, message.frontier_index)
        self._advance()
        self._bound.note(message.candidate_us)
        if message.reply and holding.have >= self.verified:
            self._ack_due = True  # Else when it has them.
        elif message.reply and not frames:
            self._ack_due = True

    def _fits(self, previous_index: int, previous_epoch: int) -> bool:
        """Whether this log holds the frame in front."""
        holding = self._holding
        if previous_index > holding.last_index:
            return False
        known = holding.lineage.epoch_at(previous_index)
        if known == previous_epoch:
            return True
        if previous_index > holding.commit_index:
            return False
        if known and previous_epoch:
            raise Diverged(
                f"frame {previous_index} is committed here and of epoch {known}; the leader's is of epoch {previous_epoch}"
            )
        return True  # So old that one of us has forgotten its epoch, and committed.

    def _extend(self, previous_index: int, frames: Sequence[Frame]) -> None:
        """Put frames behind that one, less those that are there, instead of others that are."""
        holding = self._holding
        overlap = min(len(frames), holding.last_index - previous_index)
        for at, frame in enumerate(frames[:overlap]):
            self._check(frame, previous_index + at + 1)
            known = holding.lineage.epoch_at(frame.index)
            if known == frame.epoch:
                if frame.kind == EPOCH_KIND:
                    self._seen(frame)
                continue
            if frame.index > holding.commit_index:
                holding.cut(frame.index - 1)
                overlap = at
                break
            if known:
                raise Diverged(
                    f"frame {frame.index} is committed here and of epoch {known}; the leader's is of epoch {frame.epoch}"
                )
        for frame in frames[overlap:]:
            self._check(frame, holding.last_index + 1)
            if frame.epoch < holding.last_epoch or frame.timestamp <= holding.last_timestamp:
                raise Diverged(f"frame {frame.index} goes back in epoch or time")
            holding.extend(frame)
            if frame.kind == EPOCH_KIND:
                self._seen(frame)

    def _check(self, frame: Frame, index: int) -> None:
        if frame.index != index or frame.epoch > self._epoch.number:
            raise Diverged(f"the leader sent frame {frame.index} of epoch {frame.epoch} as {index}")
        if frame.kind == RECORD_KIND and len(frame.metadata) < ENVELOPE_BYTES:
            raise Diverged(f"frame {index} says it is a client's record and is too short for one")

    def _seen(self, frame: Frame) -> None:
        if frame.epoch == self._epoch.number:
            self.start_index = frame.index

    @property
    def has_start(self) -> bool:
        """Whether the log has the epoch's first frame, so everything that was committed in epochs before."""
        have = min(self._holding.have, self.verified)
        return 0 < self.start_index <= have

    def flush(self, *, lost: bool) -> list[Message]:
        """What to tell the leader now."""
        messages: list[Message] = []
        holding = self._holding
        number = self._epoch.number
        if self._report_due:
            self._report_due = False
            entries = holding.lineage.entries(REPORTED_MAX)
            messages.append(Report(number, holding.last_index, entries, lost))
        if self._ack_due and self.verified:
            index = min(self.verified, holding.appended)
            durable = min(self.verified, holding.persisted)
            messages.append(Ack(number, index, durable, self._bound.noted_us))
        self._ack_due = False
        if self._asked_us > self._published.frontier.timestamp_us:
            messages.append(Ask(number, self._asked_us))
        self._asked_us = 0
        return messages

"""What the own log holds, or was told to hold: the part of a replica that outlives epochs."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from storage.replication.lineage import Lineage
from storage.replication.messages import RECORD_KIND
from storage.replication.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.replication.messages import Frame
    from storage.replication.ready import Holdings

__all__ = ["Holding"]

_ENVELOPE: Final = struct.Struct("<QQ")  # As storage.sequencer seals it.


class Holding:
    """The end of one log, and the orders to its driver that are not given yet.

    Invariants: commit_index <= appended; persisted <= appended <= given <= last_index. Frames behind `given` wait in
    `orders`; all indices but commit_index may go back, by `cut`, and never below it.

    Attributes:
        last_index: Of the last frame the log has or was told to have.
        last_timestamp: Its stamp, 0 if not known (after a cut).
        appended: The log has everything up to here.
        persisted: So has the disk.
        commit_index: Known to be committed.
        durable: Whether having a frame means having it on the disk.
        others_durable: All others have so much on their disks, so this one should, too.
        lineage: Of the log.
        sessions: Of the log.
    """

    def __init__(
        self, holdings: Holdings, last_number: Callable[[int], int], *, durable: bool
    ) -> None:
        assert 0 <= holdings.commit_index <= holdings.last_index
        assert 0 <= holdings.durable_index <= holdings.last_index
        self.last_index = self.appended = self._given = holdings.last_index
        self.last_timestamp = holdings.last_timestamp
        self.persisted = self._sync_asked = holdings.durable_index
        self.commit_index = holdings.commit_index
        self.durable = durable
        self.others_durable = 0
        self.lineage = Lineage(holdings.lineage)
        self.last_epoch = self.lineage.last_epoch
        assert bool(self.last_epoch) or not self.last_index
        self.sessions = Sessions(last_number)
        for index, client, number in holdings.requests:
            self.sessions.extend(index, client, number)
        self._cut: int | None = None
        self._orders: list[Frame] = []

    @property
    def have(self) -> int:
        """Up to where this member has the log, in the sense of the pool's durability."""
        return self.persisted if self.durable else self.appended

    def extend(self, frame: Frame) -> None:
        """A frame goes behind the last."""
        assert frame.index == self.last_index + 1
        assert frame.timestamp > self.last_timestamp
        if frame.epoch != self.last_epoch:
            self.lineage.extend(frame.epoch, frame.index)
            self.last_epoch = frame.epoch
        if frame.kind == RECORD_KIND:
            client, number = _ENVELOPE.unpack_from(frame.metadata)
            self.sessions.extend(frame.index, client, number)
        self.last_index = frame.index
        self.last_timestamp = frame.timestamp
        self._orders.append(frame)

    def cut(self, index: int) -> None:
        """The log shall end with this index."""
        assert self.commit_index <= index < self.last_index
        del self._orders[max(0, index - self._given) :]
        if index < self._given:
            self._cut = self._given = index
        self.appended = min(self.appended, index)
        self.persisted = min(self.persisted, index)
        self._sync_asked = min(self._sync_asked, index)
        self.lineage.cut(index)
        self.last_epoch = self.lineage.last_epoch
        self.sessions.cut(index)
        self.last_index = index
        self.last_timestamp = 0

    def commit(self, index: int) -> None:
        """Everything up to this index is committed."""
        assert self.commit_index <= index <= self.appended
        self.commit_index = index
        self.sessions.commit(index)

    def take_orders(self) -> tuple[int | None, tuple[Frame, ...]]:
        """What the driver has to cut and then to append, given once."""
        cut, orders = self._cut, tuple(self._orders)
        self._cut = None
        self._orders.clear()
        self._given = self.last_index
        return cut, orders

    def take_sync(self) -> bool:
        """Whether a sync is wanted that was not asked for yet."""
        wanted = self.appended if self.durable else min(self.appended, self.others_durable)
        if wanted <= max(self.persisted, self._sync_asked):
            return False
        self._sync_asked = self.appended
        return True

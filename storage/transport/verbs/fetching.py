"""Messages that are not pushed but fetched: staged in memory that the peer may read, and read out of the peer's.

A message that nobody waits for (catch-up, a payload asked for) so neither fills the ring nor is copied at the receiver: its device
writes it where it stays. The sender copies it once, into the stage, and says where it is and what it adds up to; the receiver reads when it
comes to it, and says when it has. Memory for this is registered when it is first needed: who never lags never locks it.

Fencing takes the right to read as it takes that to write (`Endpoint.revoke`), and with the connection all of it ends.
"""

from __future__ import annotations

import mmap
from collections import deque
from typing import TYPE_CHECKING

from storage.codec import checksum
from storage.transport.landing import Landings
from storage.transport.verbs.accelerator import Target
from storage.transport.verbs.fabric import Unusable
from storage.transport.verbs.memory import REMOTE_READ
from storage.transport.verbs.ring import Malformed, Offer
from storage.transport.verbs.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.codec import Buffer
    from storage.transport.verbs.accelerator import Accelerated
    from storage.transport.verbs.endpoint import Endpoint
    from storage.transport.verbs.memory import Lent

__all__ = ["OFFERED_BYTES_MIN", "Fetching", "Staging"]

OFFERED_BYTES_MIN = 64 * 1024
"""What is shorter is pushed: it would wait for the reading longer than it takes."""


class Staging:
    """What this side offers.

    Attributes:
        copied_bytes: Into the stage.
    """

    def __init__(self, endpoint: Endpoint, size_bytes: int) -> None:
        """Offer up to so many bytes at a time; 0: nothing."""
        self._endpoint = endpoint
        self._size = size_bytes
        self._stage = Stage(size_bytes)
        self._lent: Lent | None = None
        self._view: memoryview
        self.copied_bytes = 0

    def offer(self, message: Sequence[Buffer], length: int) -> Offer | None:
        """Stage a message; None: it is to be pushed, for it is short, or there is no room."""
        if not OFFERED_BYTES_MIN <= length <= self._size:
            return None
        if self._lent is None and not self._register():
            return None
        assert self._lent is not None
        offset = self._stage.lay(length)
        if offset is None:
            return None
        at = offset
        for buffer in message:
            behind = at + len(buffer)
            self._view[at:behind] = buffer
            at = behind
        self.copied_bytes += length
        staged = self._view[offset:at]
        return Offer(self._lent.address + offset, self._lent.key, length, checksum(staged))

    def _register(self) -> bool:
        memory = mmap.mmap(-1, self._size)
        try:
            self._lent = self._endpoint.lend(memory, REMOTE_READ)
        except Unusable:
            self._size = 0  # there is no memory for it; pushing needs none
            return False
        self._view = memoryview(memory)
        return True

    def let_go(self, count: int) -> None:
        """The peer has so many more of what was offered."""
        self._stage.let_go(count)


class Fetching:
    """What this side reads, one message at a time.

    Attributes:
        fetched_bytes: So far.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._landings = Landings(self._forget)
        self._lent: dict[int, Lent] = {}  # by identity of the piece; alive as long as it is lent
        self._piece: bytearray | None = None
        self._number = 0  # of the work request that reads into it
        self._aimed: deque[Target] = deque()
        self._target: Target | None = None  # of the message that is being read
        self.fetched_bytes = 0

    def aim(self, memory: Accelerated) -> Target:
        """The next message that is fetched and is long enough ends in that memory of an accelerator (`accelerator`)."""
        target = Target(self._endpoint, memory)
        self._aimed.append(target)
        return target

    def fetch(self, offer: Offer) -> memoryview | None:
        """Begin to read a message, or answer it once it is there, less what landed in a target; called again until then.

        Raises:
            Malformed: What was read is not what was offered.
            Unusable: No more memory may be locked.
            PyverbsError: As `Endpoint.read`.
            OSError: As `Target.land`.
        """
        if self._piece is None:
            if self._endpoint.has_room():
                self._begin(offer)
            return None
        if self._endpoint.done < self._number:
            return None
        piece, self._piece = self._piece, None
        target, self._target = self._target, None
        self.fetched_bytes += offer.length
        head_bytes = offer.length - (target.nbytes if target is not None else 0)
        message = memoryview(piece).toreadonly()[: offer.length]
        if not self._landings.keeps(piece):
            self._forget(piece)
        if target is not None and target.lent is not None:
            target.land(None)  # never seen here, so not checked either
            return message[:head_bytes]
        if checksum(message) != offer.checksum:
            raise Malformed(f"{offer.length} bytes were offered, and others were there")
        if target is not None:
            target.land(message[head_bytes:])
        return message[:head_bytes]

    def _begin(self, offer: Offer) -> None:
        if self._aimed and self._aimed[0].nbytes <= offer.length:
            self._target = self._aimed.popleft()
        direct = self._target.lent if self._target is not None else None
        direct_bytes = self._target.nbytes if self._target is not None and direct else 0
        head_bytes = offer.length - direct_bytes
        piece = self._landings.piece(max(1, head_bytes))
        if head_bytes:
            self._number = self._endpoint.read(
                self._lend(piece), head_bytes, offer.key, offer.address
            )
        if direct is not None:
            self._number = self._endpoint.read(
                direct, direct_bytes, offer.key, offer.address + head_bytes
            )
        self._piece = piece

    def _lend(self, piece: bytearray) -> Lent:
        lent = self._lent.get(id(piece))
        if lent is None:
            lent = self._lent[id(piece)] = self._endpoint.lend(piece)
        return lent

    def _forget(self, piece: bytearray) -> None:
        lent = self._lent.pop(id(piece), None)
        if lent is not None:
            self._endpoint.take_back(lent)

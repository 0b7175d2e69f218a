"""Messages that are not pushed but fetched: staged in memory that the peer may read, and read out of the peer's.

A message that nobody waits for (catch-up, a payload asked for) so neither fills the ring nor is copied at the receiver: its device
writes it where it stays. The sender copies it once, into the stage, and says where it is and what it adds up to; the receiver reads when it
comes to it, and says when it has. Memory for this is registered when it is first needed: who never lags never locks it.

Fencing takes the right to read as it takes that to write (`Endpoint.revoke`), and with the connection all of it ends.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from storage.codec import checksum
from storage.transport.verbs.fabric import Unusable
from storage.transport.verbs.landing import Landings
from storage.transport.verbs.memory import REMOTE_READ
from storage.transport.verbs.ring import Malformed, Offer
from storage.transport.verbs.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.codec import Buffer
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
        self.fetched_bytes = 0

    def fetch(self, offer: Offer) -> memoryview | None:
        """Begin to read a message, or answer it once it is there; called again until then.

        Raises:
            Malformed: What was read is not what was offered.
            Unusable: No more memory may be locked.
            PyverbsError: As `Endpoint.read`.
        """
        endpoint = self._endpoint
        if self._piece is None:
            if endpoint.has_room():
                piece = self._landings.piece(offer.length)
                self._number = endpoint.read(
                    self._lend(piece), offer.length, offer.key, offer.address
                )
                self._piece = piece
            return None
        if endpoint.done < self._number:
            return None
        piece, self._piece = self._piece, None
        message = memoryview(piece).toreadonly()[: offer.length]
        if not self._landings.keeps(piece):
            self._forget(piece)
        if checksum(message) != offer.checksum:
            raise Malformed(f"{offer.length} bytes were offered, and others were there")
        self.fetched_bytes += offer.length
        return message

    def _lend(self, piece: bytearray) -> Lent:
        lent = self._lent.get(id(piece))
        if lent is None:
            lent = self._lent[id(piece)] = self._endpoint.lend(piece)
        return lent

    def _forget(self, piece: bytearray) -> None:
        lent = self._lent.pop(id(piece), None)
        if lent is not None:
            self._endpoint.take_back(lent)

"""The receiver's end of a ring: doorbells come in, messages come out, credits go back (`ring`). Pure."""

from __future__ import annotations

from storage.limits import MESSAGE_BYTES_MAX
from storage.transport.landing import Landings
from storage.transport.verbs.ring import (
    DOORBELLS_MAX,
    HEAD,
    HEAD_BYTES,
    LENGTH_BITS,
    LENGTH_MASK,
    OFFER,
    POSITION_BITS,
    RING_BYTES_MIN,
    SEQUENCE_MASK,
    SHARED_BYTES_MAX,
    Bell,
    Credit,
    Kind,
    Malformed,
    Offer,
    padded,
)

__all__ = ["Incoming"]


class Incoming:
    """The receiver's side: doorbells come in, messages come out, credits go back.

    Invariant: given.read <= read <= arrived <= given.read + size.
    """

    __slots__ = (
        "_filled",
        "_long",
        "_needs",
        "_offering",
        "_ring",
        "_sequence",
        "_size",
        "_waited",
        "arrived",
        "copied_bytes",
        "doorbells",
        "fetched",
        "given",
        "landings",
        "offer",
        "probed",
        "read",
    )

    def __init__(self, ring: memoryview, sequence: int) -> None:
        self._ring = ring
        self._size = len(ring)
        assert self._size & (self._size - 1) == 0
        assert self._size >= RING_BYTES_MIN
        self._sequence = sequence
        self.arrived = 0
        self.read = 0
        self.doorbells = 0
        self.given = Credit(0, 0, 0)
        self._waited = False  # the sender waits for a credit that rings
        # A message that is gathered in its own memory: one that has not come whole, or is long, or goes around the end.
        self._long: memoryview | None = None
        self._filled = 0
        self._needs = 0  # bytes of its frame that are still to be read, padding and all
        self._offering = False  # it is an offer
        self.offer: Offer | None = (
            None  # to be fetched and `landed`; nothing behind it is taken before
        )
        self.fetched = 0
        self.probed = 0  # bytes of probes that have come
        self.copied_bytes = 0
        self.landings = Landings()

    def rang(self, bell: Bell) -> None:
        """A doorbell of data: everything before its position is in the ring.

        Raises:
            Malformed: That is more than the ring holds.
        """
        assert not bell.is_credit
        count = bell.position - self.arrived & (1 << POSITION_BITS + 3) - 1
        if self.arrived + count > self.given.read + self._size:
            raise Malformed(f"a doorbell for {count} bytes, which is more than there was room for")
        self.arrived += count
        self.doorbells += 1
        self._waited = self._waited or bell.waits

    def inside_message(self) -> bool:
        """Whether the stream may not end here."""
        return self._long is not None or self.offer is not None

    def landed(self) -> None:
        """The offer was fetched."""
        assert self.offer is not None
        self.offer = None
        self.fetched += 1

    def take(self) -> list[memoryview]:
        """All messages that are whole, read-only and copied out of the ring; up to an offer, which `offer` then is.

        Raises:
            Malformed: What is there is no message; those before it are lost.
        """
        messages: list[memoryview] = []
        while self.arrived > self.read and self.offer is None:
            if self._long is not None:
                self._gather()
            else:
                before = self.read
                self._take_run(messages)
                if self.read == before:  # the next is not for a run
                    self._begin()
            if self._long is not None and not self._needs:
                if self._offering:
                    self.offer = Offer.decode(self._long)
                else:
                    messages.append(self._long.toreadonly())
                self._long = None
        return messages

    def _take_run(self, messages: list[memoryview]) -> None:
        """Whole small messages that lie behind each other, with one copy."""
        ring, sequence, unpack = self._ring, self._sequence, HEAD.unpack_from
        begin = at = self.read & self._size - 1
        end = min(begin + self.arrived - self.read, self._size, begin + SHARED_BYTES_MAX)
        found: list[tuple[int, int]] = []
        while at < end:
            word, number = unpack(ring, at)
            # A word above this is another kind, or too long: not for here.
            if number != sequence or word > MESSAGE_BYTES_MAX:
                break
            behind = at + HEAD_BYTES + (word + 7 & -8)
            if behind > end:
                break
            start = at - begin + HEAD_BYTES
            found.append((start, start + word))
            sequence = sequence + 1 & SEQUENCE_MASK
            at = behind
        if not found:
            return
        self._sequence = sequence
        self.read += at - begin
        self.copied_bytes += sum(end - start for start, end in found)
        shared = memoryview(bytes(ring[begin:at]))
        messages += [shared[start:end] for start, end in found]

    def _begin(self) -> None:
        """Take the head of one frame; its bytes follow as they come."""
        word, number = HEAD.unpack_from(self._ring, self.read & self._size - 1)
        if number != self._sequence:
            raise Malformed(f"frame {self._sequence} was to come, here is {number}")
        self._sequence = number + 1 & SEQUENCE_MASK
        kind, length = word >> LENGTH_BITS, word & LENGTH_MASK
        self.read += HEAD_BYTES
        if kind == Kind.PROBE and length <= self._size:
            # As the first frame, and not gathered: it has no meaning.
            if self.arrived - self.read < padded(length):
                raise Malformed("half a probe")
            self.read += padded(length)
            self.probed += length
            return
        self._offering = kind == Kind.OFFER
        longest = OFFER.size if self._offering else MESSAGE_BYTES_MAX
        if kind not in (Kind.MESSAGE, Kind.OFFER) or length > longest:
            raise Malformed(f"a frame of kind {kind} with {length} bytes, which no version has")
        self._long = self.landings.take(length)
        self._filled, self._needs = 0, padded(length)

    def _gather(self) -> None:
        """Copy what has come of the long message."""
        assert self._long is not None
        offset = self.read & self._size - 1
        count = min(self._needs, self.arrived - self.read, self._size - offset)
        useful = min(count, len(self._long) - self._filled)
        self._long[self._filled : self._filled + useful] = self._ring[offset : offset + useful]
        self._filled += useful
        self._needs -= count
        self.read += count
        self.copied_bytes += useful

    def give(self) -> tuple[Credit, bool] | None:
        """The credit to send now, and whether it must ring; None while it is not worth a WRITE.

        At a quarter of the ring or of the doorbells, when something was fetched, or as soon as there is anything for a
        sender who waits.
        """
        credit = Credit(self.read, self.doorbells, self.fetched)
        if credit == self.given:
            return None
        rings = self._waited
        if not rings and not (
            credit.read - self.given.read >= self._size // 4
            or credit.doorbells - self.given.doorbells >= DOORBELLS_MAX // 4
            or credit.fetched > self.given.fetched
        ):
            return None
        self.given = credit
        self._waited = False
        return credit, rings

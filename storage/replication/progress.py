"""What a leader knows of one other replica: how far its log goes, and what is on the way to it."""

from __future__ import annotations

from collections import deque

__all__ = ["Progress"]


class Progress:
    """One member or learner, as its leader sees it.

    Until it reported, nothing is sent to it but `Inquire`. Then frames go out in order from `next_index`, ahead of the
    acknowledgements, up to a window; what was lost shows in a `Report`, and sending begins again where that says.

    Attributes:
        match: It acknowledged all frames up to here in this epoch. Never goes back.
        durable: Of these, on its disk.
        noted_us: The greatest candidate it promised.
        next_index: Of the next frame to send; 0 while it is not known.
        flight_bytes, flight_frames: Sent and not acknowledged.
        reading: A `Wanted` for it is not answered.
        read_ns: Not before should the log be read for it again.
        lost: What its last report said of that.
        heard_ns: When anything came from it last.
        sent_ns: When anything went to it last that it answers.
        told: The commit index and the durable index that went to it last.
        told_ns: When they did.
        moved_ns: When its acknowledgements moved last, or something was sent while nothing was in flight.
    """

    __slots__ = (
        "_flight",
        "durable",
        "flight_bytes",
        "flight_frames",
        "heard_ns",
        "lost",
        "match",
        "moved_ns",
        "next_index",
        "noted_us",
        "read_ns",
        "reading",
        "sent_ns",
        "told",
        "told_ns",
    )

    def __init__(self, now_ns: int) -> None:
        self.match = self.durable = self.noted_us = self.next_index = 0
        self.flight_bytes = self.flight_frames = 0
        self.reading = False
        self.read_ns = 0
        self.lost = False
        self.heard_ns = self.moved_ns = now_ns
        self.sent_ns = self.told_ns = -(1 << 62)
        self.told = (0, 0)
        self._flight: deque[tuple[int, int, int]] = deque()  # (last index, frames, bytes)

    def sent(self, now_ns: int, last_index: int, frames: int, size_bytes: int) -> None:
        """Frames up to an index are on their way."""
        if not self._flight:
            self.moved_ns = now_ns
        self._flight.append((last_index, frames, size_bytes))
        self.flight_frames += frames
        self.flight_bytes += size_bytes
        self.next_index = last_index + 1
        self.sent_ns = now_ns

    def acknowledged(self, now_ns: int, index: int, durable: int, noted_us: int) -> bool:
        """It has so much; answers whether that is news."""
        news = index > self.match or durable > self.durable or noted_us > self.noted_us
        self.match = max(self.match, index)
        self.durable = max(self.durable, durable)
        self.noted_us = max(self.noted_us, noted_us)
        flight = self._flight
        while flight and flight[0][0] <= index:
            _, frames, size_bytes = flight.popleft()
            self.flight_frames -= frames
            self.flight_bytes -= size_bytes
            self.moved_ns = now_ns
        return news

    def restart(self, next_index: int) -> None:
        """Send from here on, as if nothing were on the way; 0: it is not known from where, ask."""
        self.next_index = next_index
        self.flight_bytes = self.flight_frames = 0
        self._flight.clear()

    @property
    def in_flight(self) -> bool:
        """Whether something was sent that is not acknowledged."""
        return bool(self._flight)

"""A connection over a socket: frames written and read by two tasks at most, silence noticed by a third.

`Wire` is a connected, non-blocking socket, plain or with TLS (`secure`); `StreamConnection` is the contract over one.

Who writes: a task that sleeps while nothing is queued (`front`). Who reads: the task that receives.

Silence: each side sends a heartbeat when it has sent nothing for a quarter of what the other bears. Bytes that lie unread
count as heard. TCP_USER_TIMEOUT is not used: it also ends connections whose peer is well but slow to read (the kernel
counts a closed window as no answer), which here is only a sender waiting. What it is good for, a dead host while the
receiver is not reading, is asked of TCP_INFO.
"""

from __future__ import annotations

import fcntl
import itertools
import select
import socket
import struct
import sys
import termios
from typing import TYPE_CHECKING, Protocol

import trio

from storage.transport.carrier import PLAIN, TCP
from storage.transport.contract import Broken
from storage.transport.framing import Inbox, Kind, Outbox, control, goodbye
from storage.transport.front import Front

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.transport.contract import Identity

__all__ = ["PlainWire", "StreamConnection", "Wire"]

READS_MAX = 8
"""Reads without a whole message before others have their turn: a flood of heartbeats, or a long message, never waits."""

HEARTBEAT = control(Kind.HEARTBEAT)
TCP_INFO = struct.Struct("=8B13I")


class Wire(Protocol):
    """A connected socket that never blocks."""

    socket: socket.socket

    def read_into(self, space: memoryview) -> int:
        """Bytes read; 0 at the end.

        Raises:
            BlockingIOError: There are none yet.
            OSError: The connection is lost.
        """
        ...

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Bytes written of these, at least one. After a BlockingIOError the next call begins with the same bytes.

        Raises:
            BlockingIOError: There is no room yet.
            OSError: The connection is lost.
        """
        ...


class PlainWire:
    """The socket as it is."""

    __slots__ = ("read_into", "socket", "write")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.read_into = connected.recv_into
        self.write = connected.sendmsg


class StreamConnection(Front):
    """`contract.Connection` over a wire whose peer is known and has welcomed us."""

    def __init__(
        self,
        nursery: trio.Nursery,
        wire: Wire,
        peer: Identity,
        address: str,
        *,
        silence_ms: int,
        peer_silence_ms: int,
    ) -> None:
        self._outbox = Outbox()
        super().__init__(peer, address, self._outbox)
        self.carrier = (
            TCP  # what both sides agreed on; where it is another, this one is for control
        )
        self.peer_offer = PLAIN
        self._wire = wire
        self._silence_s = silence_ms / 1000
        self._beat_s = min(silence_ms, peer_silence_ms) / 4000
        self._inbox = Inbox()
        # The socket is closed too, which after a failed write it is not yet, since what the peer said last may still be
        # there to be read.
        self._over = trio.Event()
        nursery.start_soon(self._write, name=f"write to {peer}")
        nursery.start_soon(self._watch, name=f"watch {peer}")

    # --- Sending

    def queued(self) -> int:
        """As the contract."""
        return self._outbox.size

    async def _write(self) -> None:
        outbox, counters, wire = self._outbox, self.counters, self._wire
        try:
            while not self._over.is_set():
                if not outbox.size:
                    await self._writer.park()
                    continue
                try:
                    count = wire.write(outbox.gather())
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(wire.socket)
                    continue
                counters.sent_calls += 1
                outbox.advance(count)
                if self._room:
                    self._room.unpark_all()
        except trio.ClosedResourceError:
            return
        except OSError as error:
            self._stop_sending(self._lost(error))

    # --- Receiving

    async def _receive(self) -> list[memoryview]:
        inbox, wire, waited = self._inbox, self._wire, False
        for read in itertools.count(1):
            if self._over.is_set():
                break
            if read % READS_MAX == 0:
                await trio.lowlevel.checkpoint()
            if inbox.trouble is not None:
                self._end(Broken(f"{self._who()} sent what is no message: {inbox.trouble}"))
                break
            if inbox.farewell is not None:
                self._end(Broken(f"{self._who()} closed the connection: {inbox.farewell}"))
                break
            try:
                count = wire.read_into(inbox.space())
            except BlockingIOError:
                waited = True
                try:
                    await trio.lowlevel.wait_readable(wire.socket)
                except trio.ClosedResourceError:
                    break
                continue
            except OSError as error:
                self._end(self._lost(error))
                break
            if not count:
                inside = " inside a message" if inbox.inside_message() else ""
                self._end(Broken(f"{self._who()} is gone without a word{inside}"))
                break
            self.counters.received_calls += 1
            messages = inbox.filled(count)
            if messages:
                self._received(messages)
                if not waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return messages
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        raise self._again()

    # --- Life

    def status(self) -> dict[str, object]:
        """As the contract."""
        return {
            "transport": TCP,
            "peer": str(self.peer),
            "address": self.address,
            "queued_bytes": self._outbox.size,
            "broken": None if self._why is None else str(self._why),
        }

    def close(self, why: str = "closed") -> None:
        """As the contract."""
        self._end(Broken(f"connection to {self._who()}: {why}"))

    async def aclose(self) -> None:
        """As the contract."""
        try:
            if self._why is None:
                self._outbox.put_control(goodbye("it is done"))
                self._stop_taking(Broken(f"connection to {self._who()}: closed"))
                with trio.move_on_after(self._silence_s):
                    await self._all_left()
            else:
                await trio.lowlevel.checkpoint()
        finally:
            self.close()

    async def _all_left(self) -> None:
        # A socket closed with bytes unread resets the connection, and with it what the other side's kernel has not
        # taken yet (RFC 1122, 4.2.2.13). So we stay until it has.
        while self._outbox.size and not self._over.is_set():
            await self._room.park()
        pause_s = 0.0005
        while not self._over.is_set() and _unacknowledged(self._wire.socket):
            await trio.sleep(pause_s)  # noqa: TID251  # nothing tells when the last byte was taken
            pause_s = min(2 * pause_s, 0.02)

    async def _watch(self) -> None:
        try:
            await self._listen_for_silence()
        finally:
            self.close("its nursery was cancelled")

    async def _listen_for_silence(self) -> None:
        calls, reads, heard_s = 0, 0, trio.current_time()
        landings, taken = self._inbox.landings, 0
        while True:
            with trio.move_on_after(self._beat_s):
                await self._over.wait()
            if (
                self._over.is_set()
            ):  # perhaps in the very turn in which the time was up; the socket is closed then
                return
            counters, now_s = self.counters, trio.current_time()
            if counters.sent_calls == calls and not self._outbox.size and self._why is None:
                self._outbox.put_control(HEARTBEAT)
                self._writer.unpark()
            if landings.taken == taken:
                landings.let_go()  # No long message for a while.
            taken = landings.taken
            readable = _readable(self._wire.socket)
            if counters.received_calls != reads or readable:
                heard_s = now_s
            calls, reads = counters.sent_calls, counters.received_calls
            silent = now_s - heard_s >= self._silence_s
            if silent or (readable and _unanswered(self._wire.socket, self._silence_s)):
                self._end(Broken(f"{self._who()}: nothing heard for {self._silence_s:g} s"))
                return

    def _lost(self, error: OSError) -> Broken:
        lost = Broken(f"{self._who()}: connection lost: {error.strerror or error}")
        lost.__cause__ = error
        return lost

    def _stop_sending(self, why: Broken) -> None:
        self._outbox.clear()
        self._stop_taking(why)

    def _end(self, why: Broken) -> None:
        if self._over.is_set():
            return
        self._over.set()
        self._stop_sending(why)
        trio.lowlevel.notify_closing(self._wire.socket)
        self._wire.socket.close()


def _readable(connected: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(0))


def _unacknowledged(connected: socket.socket) -> int:
    """Bytes written that the other side's kernel has not taken (SIOCOUTQ, tcp(7))."""
    if connected.family == socket.AF_UNIX:
        return 0  # they lie with the peer from the moment they are written, and stay there
    return int.from_bytes(fcntl.ioctl(connected, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def _unanswered(connected: socket.socket, silence_s: float) -> bool:
    """Whether the other side's kernel owes an answer for so long: a retransmission or a window probe is under way."""
    if connected.family == socket.AF_UNIX:
        return False
    data = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
    fields = TCP_INFO.unpack(data)
    retransmits, probes, last_answer_ms = fields[2], fields[3], fields[20]
    return bool(retransmits or probes) and last_answer_ms >= 1000 * silence_s

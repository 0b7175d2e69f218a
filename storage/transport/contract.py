"""What carries messages between authenticated peers, and what it promises.

A *message* is a run of bytes without meaning here, 0 to `MESSAGE_BYTES_MAX` long. Every kind of transport (`memory`,
`tcp`, verbs) keeps to this page, and one suite holds them to it (``tests/storage/transport``).

**Order and loss.** Messages of one connection arrive in the order they were sent, each once and whole, up to some message
and none behind it. Nothing tells a sender that a message arrived: whoever needs to know has the peer answer.

**Memory.** Each direction holds at most `SEND_QUEUE_BYTES` and one message here, and what the kernel (or a ring) holds:
a receiver that does not take its messages makes the sender wait. What is sent as *bulk* may lie in memory set aside for it.

**Cost.** A message costs no switch of tasks: `Connection.send` queues and returns while there is room, and all that was
queued in one turn of the loop leaves in one system call; `Connection.receive` gives all messages of one.

**Life.** A connection that is idle exchanges heartbeats by itself. It is *broken* once and for good: by the peer, by the
network, by silence, by bytes that are no message, or by `aclose`; from then on every call raises `Broken` with why.
One thread with one trio loop uses a connection; any number of tasks may send, one at a time may receive.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from storage.limits import MESSAGE_BYTES_MAX, SEND_QUEUE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    import trio

    from storage.codec import Buffer

__all__ = [
    "EVERYBODY",
    "MESSAGE_BYTES_MAX",
    "SEND_QUEUE_BYTES",
    "Broken",
    "Connection",
    "Counters",
    "IdMap",
    "IdRange",
    "Identity",
    "Listener",
    "Rejected",
    "Role",
    "Transport",
]


class Role(enum.Enum):
    """What kind of process a peer is; a certificate is for one."""

    NODE = "node"
    """Holds members of shards; speaks for itself."""

    MOUNT = "mount"
    """A machine's mount: speaks for the users of that machine."""

    CLIENT = "client"
    """A program: speaks for one user."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """Numbers `first` to `first + count - 1` at the peer are `target` and up here, as in user_namespaces(7)."""

    first: int
    target: int
    count: int


@dataclass(frozen=True, slots=True)
class IdMap:
    """The user (or group) numbers a peer may speak for, and what they are here."""

    ranges: tuple[IdRange, ...] = ()

    def translate(self, claimed: int) -> int | None:
        """The number here of one that the peer claims; None if it may not speak for that one."""
        for r in self.ranges:
            if 0 <= claimed - r.first < r.count:
                return claimed - r.first + r.target
        return None


EVERYBODY = IdMap((IdRange(0, 0, 2**32 - 1),))
"""Every number is itself; 2**32 - 1 is no number (chown(2) has it as "leave it")."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is at the other end, as somebody the cluster trusts has signed it (FORMAT, "Certificates").

    With TLS from the peer's certificate; on a Unix socket from the kernel; where people chose to go without
    (``insecure_loopback``, memory), what the peer says.
    """

    cluster: str
    role: Role
    name: str
    # Whom it may speak for. A client's map has the numbers its user has, and those alone.
    uids: IdMap = EVERYBODY
    gids: IdMap = EVERYBODY
    serial: str = field(default="", compare=False)
    """Of the certificate that says so, hexadecimal; empty where none does."""

    def __str__(self) -> str:
        return f"{self.role.value} {self.name}"


class Broken(Exception):
    """The connection is no more (or never came to be); the message says why, naming the peer.

    Messages sent may have arrived or not. Dial again, and ask the peer how far it got.
    """


class Rejected(Broken):
    """The peer, or we, did not accept the other: authority, role, cluster, version.

    Dialling again will not help before somebody has changed something.
    """


@dataclass(slots=True)
class Counters:
    """What a connection has moved since it began. Heartbeats count as calls, not as messages."""

    sent_messages: int = 0
    sent_bytes: int = 0
    # System calls (or posts) that moved bytes: what batching is measured by.
    sent_calls: int = 0
    received_messages: int = 0
    received_bytes: int = 0
    received_calls: int = 0


class Connection(Protocol):
    """A pair of message streams with one peer. ``async with`` closes it."""

    peer: Identity
    counters: Counters
    # Where the peer is, for people.
    address: str

    async def send(self, message: Sequence[Buffer], *, bulk: bool = False) -> None:
        """Send one message made of several buffers end to end; waits while the queue is full, else returns at once.

        `bulk` says that it is long and nobody waits for it: then the peer may fetch it out of memory here when it comes to it
        (verbs), instead of its being pushed. It keeps its place in the order. Other kinds push everything.

        The transport refers to the buffers until they have left: the caller never changes their bytes afterwards (small
        ones are copied, but do not count on it). Not a checkpoint while there is room, so that what is sent in one turn
        leaves together; a full queue is one.

        Cancelled: this message was not sent at all, the connection is as it was.

        Raises:
            Broken: See there.
            ValueError: The message is longer than `MESSAGE_BYTES_MAX`; nothing was sent.
        """
        ...

    def send_nowait(self, message: Sequence[Buffer], *, bulk: bool = False) -> None:
        """As `send`, but raises instead of waiting.

        Raises:
            trio.WouldBlock: The queue is full; nothing was sent.
            Broken: See there.
            ValueError: As `send`.
        """
        ...

    async def receive(self) -> list[memoryview]:
        """All whole messages that are there, in order; waits until there is one. Never empty.

        The views are read-only and the receiver's for as long as it likes. Small messages of one call share their memory
        (up to 64 KiB), so copy a small thing that is kept for long. Always a checkpoint.

        Cancelled: nothing is lost, the next call gives it.

        Raises:
            Broken: Given after all messages that came whole before.
            trio.BusyResourceError: Another task is receiving.
        """
        ...

    def queued(self) -> int:
        """Bytes sent that have not left this process yet."""
        ...

    def broken(self) -> Broken | None:
        """Why the connection is no more; None while it is."""
        ...

    def status(self) -> dict[str, object]:
        """For people: "transport", the kind; "peer", "queued_bytes", "broken", and what the kind has to say and to count."""
        ...

    def close(self, why: str = "closed") -> None:
        """Break the connection at once: what is queued does not leave. Harmless when repeated; callable from any task."""
        ...

    async def aclose(self) -> None:
        """Let what is queued leave, for as long as silence would be borne, tell the peer, and close.

        Cancelled: closed at once, as by `close`.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Listener(Protocol):
    """Accepts connections. Peers that are not who they should be are turned away here and never seen."""

    # Where it listens, as others dial it; a port asked as 0 is the real one.
    address: str

    async def accept(self) -> Connection:
        """The next connection, its peer known and accepted. At most a few wait here, the rest in the kernel.

        Raises:
            Broken: The listener is closed.
        """
        ...

    def close(self) -> None:
        """Stop listening. Connections accepted live on."""
        ...


class Transport(Protocol):
    """One way to carry messages, with our own identity in it.

    Connections and listeners run their own tasks in the nursery given; these end with them, never raise but for a bug, and
    cancelling the nursery closes all of them.
    """

    identity: Identity

    async def listen(self, nursery: trio.Nursery, address: str) -> Listener:
        """Listen at an address.

        Raises:
            OSError: The system would not have it.
            ValueError: The address is none of this transport's, or would be open to others without authentication.
        """
        ...

    async def connect(
        self, nursery: trio.Nursery, address: str, *, role: Role, name: str | None = None
    ) -> Connection:
        """Dial a peer, which must have this role and, if given, this name.

        Cancelled: no connection.

        Raises:
            Rejected: It is not who it should be, or it would not have us; the message says what and what to do.
            Broken: It could not be reached, or nothing was heard in time.
            ValueError: As `listen`.
        """
        ...

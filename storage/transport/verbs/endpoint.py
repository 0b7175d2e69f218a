"""One connection's share of the device: memory, a queue pair, a completion queue. Nothing here waits.

The peer writes the ring, the credit and the table of our *inbox*, and reads what is staged for it; we write from the *mirror*,
and what is small inline. Memory that long messages are read into is lent as they come.

Sources: ibv_post_send(3), ibv_modify_qp(3), ibv_get_cq_event(3); InfiniBand Architecture Specification, volume 1, 9.7 and 10.
"""

from __future__ import annotations

import contextlib
import ctypes
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Final

from storage.transport.verbs.attributes import MTUS_BYTES, VERSION, Attributes
from storage.transport.verbs.fabric import Unusable
from storage.transport.verbs.library import (
    CQ,
    GID,
    PD,
    QP,
    SGE,
    AHAttr,
    CompChannel,
    GlobalRoute,
    PyverbsError,
    QPAttr,
    QPCap,
    QPEx,
    QPInitAttr,
    QPInitAttrEx,
    RecvWR,
    event_descriptor,
    next_descriptors,
    verbs,
)
from storage.transport.verbs.memory import (
    LOCAL_WRITE,
    PAGE_BYTES,
    REMOTE_READ,
    REMOTE_WRITE,
    Lent,
    LentDmabuf,
    Memory,
)
from storage.transport.verbs.posting import EXTENDED_OPERATIONS, Span, posting
from storage.transport.verbs.ring import CREDIT_BYTES, DOORBELLS_MAX

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from storage.transport.verbs.device import Device
    from storage.transport.verbs.fabric import GidEntry
    from storage.transport.verbs.outgoing import Push
    from storage.transport.verbs.ring import Credit

__all__ = ["RECEIVES_MAX", "SENDS_MAX", "Endpoint"]

SENDS_MAX: Final = 256
"""Work requests on their way: two for each doorbell, credits, and room."""

SIGNAL_EVERY: Final = 32
"""Every so many work requests one says when it is done, and with it all before it. Fewer would fill the queue."""

RECEIVES_MAX: Final = DOORBELLS_MAX + 2
"""Doorbells of data, and the one of a credit that this side may be waiting for."""

INLINE_BYTES: Final = 64
"""Up to this the bytes travel in the work request: the card need not fetch them. At least a credit, and a line of a table."""

CHANNEL_TRIES_MAX: Final = 100

READS_AT_ONCE: Final = 4

RNR_RETRIES: Final = 6
"""Where the peer has no receive posted, which it always has: then something is wrong, and 7 would mean "for ever"."""

PEER_MAY: Final = REMOTE_WRITE | REMOTE_READ

assert CREDIT_BYTES <= INLINE_BYTES
assert 2 * SIGNAL_EVERY <= SENDS_MAX - 2 * DOORBELLS_MAX


class Endpoint:
    """Not connected yet. Closed, it has no completions and no events; nothing may be written then.

    Attributes:
        posts: Work requests so far.
        doorbells: Calls that told the device of some.
        done: Posts that are done, at least.
        polls, arms, wakes: How often the completion queue was looked at, the device asked to wake us, and has done so.

    Raises:
        Unusable: The memory cannot be registered, or the queues not be made.
    """

    def __init__(self, device: Device, gid: GidEntry) -> None:
        fabric = device.fabric
        self._device = device
        self._gid = gid
        self._fabric = fabric
        self._open: list[Any] = []  # to be closed last to first
        self._lent: list[Lent | LentDmabuf] = []
        self.posts = self.doorbells = self.done = self.polls = self.arms = self.wakes = 0
        self._signaled = 0  # the newest post that will say when it is done
        self._armed = False
        self._events = 0
        self._pair: Any = None
        size = fabric.ring_bytes
        try:
            # A protection domain of its own: a peer that guesses the key of another's ring cannot use it.
            self._domain = self._keep(PD(device.context))
            self._inbox = Memory(self._domain, size + PAGE_BYTES, REMOTE_WRITE)
            self._lent.append(self._inbox)
            self._mirror = Memory(self._domain, size, LOCAL_WRITE)
            self._lent.append(self._mirror)
            self._channel, self.descriptor = self._make_channel()
            depth = SENDS_MAX + RECEIVES_MAX
            self._queue = self._keep(CQ(device.context, depth, None, self._channel, 0))
            self._pair = self._keep(self._make_pair())
        except PyverbsError as error:
            self.close()
            raise Unusable(f"{device.name} does not give a queue pair: {error}") from error
        except BaseException:
            self.close()
            raise
        self._posting = posting(self._pair)
        self.ring = self._inbox.view[:size].toreadonly()
        self.mirror = self._mirror.view
        self.credit = self._inbox.view[size : size + CREDIT_BYTES].toreadonly()
        self._small = bytearray(
            INLINE_BYTES
        )  # what is written inline; taken before the call returns
        self._small_address = ctypes.addressof(ctypes.c_char.from_buffer(self._small))
        self._receive = RecvWR(
            wr_id=0, num_sge=1, sg=[SGE(self._inbox.address, 0, self._inbox.local_key)]
        )

    def _keep(self, resource: Any) -> Any:
        self._open.append(resource)
        return resource

    def _make_channel(self) -> tuple[Any, int]:
        for _ in range(CHANNEL_TRIES_MAX):
            candidates = next_descriptors()
            channel = CompChannel(self._device.context)
            descriptor = event_descriptor(candidates)
            if descriptor is not None:
                return self._keep(channel), descriptor
            channel.close()  # another thread opened one just then
        raise Unusable("the completion channel's descriptor is not to be found")

    def _make_pair(self) -> Any:
        capacity = QPCap(
            max_send_wr=SENDS_MAX,
            max_recv_wr=RECEIVES_MAX,
            max_send_sge=1,
            max_recv_sge=1,
            max_inline_data=INLINE_BYTES,
        )
        queues = {"scq": self._queue, "rcq": self._queue, "cap": capacity}
        attributes = QPAttr(port_num=self._fabric.port)
        attributes.qp_access_flags = PEER_MAY
        # sq_sig_all is 1 unless said otherwise: then every post completes, and the completion queue overruns.
        if self._device.is_extended:
            init = QPInitAttrEx(
                qp_type=verbs.IBV_QPT_RC,
                sq_sig_all=0,
                pd=self._domain,
                comp_mask=verbs.IBV_QP_INIT_ATTR_PD | verbs.IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
                send_ops_flags=EXTENDED_OPERATIONS,
                **queues,
            )
            try:
                return QPEx(self._device.context, init, attributes)
            except PyverbsError:
                self._device.is_extended = False
        init = QPInitAttr(qp_type=verbs.IBV_QPT_RC, sq_sig_all=0, **queues)
        return QP(self._domain, init, attributes)

    def attributes(self, packet_sequence: int, sequence: int) -> Attributes:
        """What the peer has to know; the sequences are drawn by the caller."""
        device, size = self._device, self._fabric.ring_bytes
        return Attributes(
            version=VERSION,
            device=device.name,
            link=device.link,
            gid=self._gid.address.packed,
            lid=device.lid,
            queue_pair=self._pair.qp_num,
            packet_sequence=packet_sequence,
            mtu_bytes=device.mtu_bytes,
            ring_address=self._inbox.address,
            ring_bytes=size,
            credit_address=self._inbox.address + size,
            key=self._inbox.key,
            sequence=sequence,
            fetches=device.fetches,
        )

    def connect(self, mine: Attributes, its: Attributes, mtu_bytes: int) -> None:
        """Post the receives and take the queue pair to ready-to-send. The peer's address must be known to the network by now
        (a kernel that has to ask for it makes this call wait for seconds).

        Raises:
            Unusable: The system would not; mostly since the peer cannot be reached from this device.
        """
        fabric = self._fabric
        self.post_receives(RECEIVES_MAX)
        to = QPAttr(port_num=fabric.port)
        to.qp_access_flags = PEER_MAY
        to.dest_qp_num = its.queue_pair
        to.path_mtu = MTUS_BYTES.index(mtu_bytes) + 1
        to.rq_psn, to.sq_psn = its.packet_sequence, mine.packet_sequence
        to.max_rd_atomic = to.max_dest_rd_atomic = READS_AT_ONCE
        to.min_rnr_timer, to.rnr_retry = 12, RNR_RETRIES
        to.timeout, to.retry_cnt = fabric.timeout_exponent, fabric.retry_count
        address = IPv6Address(its.gid)
        if self._device.link == "Ethernet":
            route = GlobalRoute(
                dgid=GID(address.exploded),
                sgid_index=self._gid.index,
                hop_limit=64,
                traffic_class=fabric.traffic_class,
            )
            to.ah_attr = AHAttr(gr=route, is_global=1, port_num=fabric.port)
        else:
            to.ah_attr = AHAttr(dlid=its.lid, is_global=0, port_num=fabric.port)
        try:
            self._pair.to_rts(to)
        except PyverbsError as error:
            raise Unusable(
                f"{self._device.name} with address {self._gid} has no way to {address.ipv4_mapped or address} ({error}): "
                "are both on one network? (gid)"
            ) from error

    # --- Work

    def post_receives(self, count: int) -> None:
        """That many doorbells can be taken."""
        if self._pair is None:
            return
        for _ in range(count):
            self._pair.post_recv(self._receive)

    def has_room(self) -> bool:
        """Whether three more may be posted: a push and a credit."""
        return self.posts - self.done <= SENDS_MAX - 3

    def write(self, push: Push, to: Attributes, word: int) -> None:
        """Write spans of the mirror to the peer's ring, with `word` for its doorbell; one call to the device.

        Raises:
            PyverbsError: The device is gone, or its queue full.
        """
        post, mirror = self._posting, self._mirror
        post.begin()
        for offset, length in push.spans[:-1]:
            self.posts += 1
            span = Span(mirror.address + offset, length, mirror.local_key)
            post.write(
                0,
                span,
                to.key,
                to.ring_address + offset,
                word=None,
                inline=length <= INLINE_BYTES,
                signaled=False,
            )
        offset, length = push.spans[-1]
        self.posts += 1
        span = Span(mirror.address + offset, length, mirror.local_key)
        post.write(
            self.posts,
            span,
            to.key,
            to.ring_address + offset,
            word=word,
            inline=length <= INLINE_BYTES,
            signaled=self._signals(),
        )
        self.doorbells += 1
        post.end()

    def write_credit(self, credit: Credit, to: Attributes, word: int | None) -> None:
        """Write a credit into the peer's memory, with a doorbell if there is a word for it.

        Raises:
            PyverbsError: As `write`.
        """
        self._write_small(credit.encode(), to.key, to.credit_address, word)

    def _write_small(self, data: bytes, key: int, address: int, word: int | None) -> None:
        length = len(data)
        self._small[:length] = data
        self.posts += 1
        self.doorbells += 1
        post = self._posting
        post.begin()
        post.write(
            self.posts,
            Span(self._small_address, length, 0),
            key,
            address,
            word=word,
            inline=True,
            signaled=self._signals(),
        )
        post.end()

    def _signals(self) -> bool:
        if self.posts - self._signaled < SIGNAL_EVERY:
            return False
        self._signaled = self.posts
        return True

    def signal_next(self) -> None:
        """The next post says when it is done."""
        self._signaled = self.posts - SIGNAL_EVERY

    def lend(self, memory: bytearray | mmap.mmap, access: int = LOCAL_WRITE) -> Lent:
        """Let the device reach memory of the caller's, until `take_back` or the end.

        Raises:
            Unusable: As `Lent`.
        """
        lent = Lent(self._domain, memory, access)
        self._lent.append(lent)
        return lent

    def lend_dmabuf(self, descriptor: int, offset: int, size: int) -> LentDmabuf:
        """Likewise, memory of another device.

        Raises:
            PyverbsError: As `LentDmabuf`.
        """
        lent = LentDmabuf(self._domain, descriptor, offset, size)
        self._lent.append(lent)
        return lent

    def take_back(self, lent: Lent | LentDmabuf) -> None:
        """The device reaches it no more."""
        lent.revoke()
        self._lent.remove(lent)

    def fetches_no_more(self) -> None:
        """There is no memory to read long messages into; further connections of the device have them pushed."""
        self._device.fetches = False

    def read(self, lent: Lent | LentDmabuf, length: int, key: int, address: int) -> int:
        """Read the peer's memory into memory that was lent; it has come when `done` is what this answers.

        Raises:
            PyverbsError: As `write`.
        """
        self.posts += 1
        self.doorbells += 1
        self._signaled = self.posts
        post = self._posting
        post.begin()
        post.read(self.posts, Span(lent.address, length, lent.local_key), key, address)
        post.end()
        return self.posts

    def poll(self) -> list[Any]:
        """Work completions there are, some at a time: `status`, `wr_id` (0: a receive), `imm_data` in network order."""
        if self._pair is None:
            return []
        self.polls += 1
        _, completions = self._queue.poll(16)
        return completions  # type: ignore[no-any-return]  # pyverbs has no types

    def has_failed(self) -> bool:
        """Whether the queue pair is in its error state; asks the device."""
        if self._pair is None:
            return False
        try:
            attributes, _ = self._pair.query(verbs.IBV_QP_STATE)
        except PyverbsError:
            return True
        return bool(attributes.qp_state == verbs.IBV_QPS_ERR)

    async def watch(self, told: Callable[[str | None], None]) -> None:
        """See `Device.watch`."""
        await self._device.watch(told)

    # --- Sleeping

    def arm(self) -> None:
        """Make `descriptor` readable at the next completion. Poll once more before sleeping: one may have come just now."""
        if not self._armed and self._pair is not None:
            self._queue.req_notify()
            self._armed = True
            self.arms += 1

    def take_event(self) -> None:
        """Take what made the descriptor readable; nothing where it was somebody else's."""
        if self._pair is None:
            return
        try:
            self._channel.get_cq_event(self._queue)
        except PyverbsError:  # the descriptor is non-blocking, and nothing was there
            return
        self._armed = False
        self.wakes += 1
        self._events += 1
        if self._events == 64:  # takes a lock
            self._queue.ack_events(self._events)
            self._events = 0

    # --- The end

    def revoke(self) -> None:
        """From here on no byte of the peer's arrives and none is read; what it tries fails at its side at once. Safe to repeat."""
        if self._pair is None:
            return
        to = QPAttr(port_num=self._fabric.port)
        to.qp_access_flags = LOCAL_WRITE
        with contextlib.suppress(PyverbsError):  # it is in error already, and takes nothing
            self._pair.modify(to, verbs.IBV_QP_ACCESS_FLAGS)
        for lent in self._lent:
            if lent is not self._mirror:
                lent.revoke()

    def close(self) -> None:
        """Let go of everything but the memory that views still show. Safe to repeat."""
        for lent in self._lent:
            lent.revoke()
        queue = getattr(self, "_queue", None)
        if queue is not None and self._events:
            queue.ack_events(self._events)
            self._events = 0
        self._pair = None
        while self._open:
            self._open.pop().close()

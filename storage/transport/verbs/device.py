"""The RDMA device: what is asked of pyverbs, and nothing else asks it.

`Device` is an open device with one port and one address of it; `Endpoint` one connection's share of it: memory, a queue
pair, a completion queue. No call here waits: pyverbs keeps Python's lock in every call, so one that waited would stop the
whole process; descriptors are non-blocking, and whoever wants to sleep does so on `Endpoint.descriptor`.

Sources: ibv_post_send(3), ibv_modify_qp(3), ibv_get_cq_event(3); InfiniBand Architecture Specification, volume 1, 9.7 and 10.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import socket
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Final

from storage.transport.verbs.attributes import MTUS_BYTES, VERSION, Attributes
from storage.transport.verbs.fabric import GidEntry, Unusable, choose_gid
from storage.transport.verbs.ring import CREDIT_BYTES, DOORBELLS_MAX

try:
    from pyverbs.addr import GID, AHAttr, GlobalRoute
    from pyverbs.cq import CQ, CompChannel
    from pyverbs.device import Context, get_device_list
    from pyverbs.mr import MR
    from pyverbs.pd import PD
    from pyverbs.pyverbs_error import PyverbsError, PyverbsRDMAError
    from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
    from pyverbs.wr import SGE, RecvWR, SendWR

    try:
        import pyverbs.libibverbs_enums as verbs  # newer releases
    except ImportError:
        import pyverbs.enums as verbs
except ImportError as missing:
    raise Unusable(
        f"pyverbs cannot be loaded ({missing}): scripts/setup rdma brings it (Debian: python3-pyverbs, ibverbs-providers)"
    ) from missing

if TYPE_CHECKING:
    from storage.transport.verbs.fabric import Fabric
    from storage.transport.verbs.ring import Push

__all__ = [
    "FLUSHED",
    "UNANSWERED",
    "Device",
    "Endpoint",
    "PyverbsError",
    "device_names",
    "explain",
]

PAGE_BYTES: Final = 4096
SENDS_MAX: Final = 256
"""Work requests on their way: two for each doorbell, credits, and room."""

SIGNAL_EVERY: Final = 32
"""Every so many work requests one says when it is done, and with it all before it. Fewer would fill the queue."""

RECEIVES_MAX: Final = DOORBELLS_MAX + 2
"""Doorbells of data, and the one of a credit that this side may be waiting for."""

INLINE_BYTES: Final = 64
"""Up to this the bytes travel in the work request: the card need not fetch them. At least a credit."""

CHANNEL_TRIES_MAX: Final = 100

RNR_RETRIES: Final = 6
"""Where the peer has no receive posted, which it always has: then something is wrong, and 7 would mean "for ever"."""

REMOTE_WRITE: Final = verbs.IBV_ACCESS_LOCAL_WRITE | verbs.IBV_ACCESS_REMOTE_WRITE
FLUSHED: Final = verbs.IBV_WC_WR_FLUSH_ERR
UNANSWERED: Final = frozenset({None, verbs.IBV_WC_RETRY_EXC_ERR, FLUSHED})
"""Statuses that a connection ends with when packets are lost: its own, that of what was queued behind, or none in time."""

assert CREDIT_BYTES <= INLINE_BYTES
assert 2 * SIGNAL_EVERY <= SENDS_MAX - 2 * DOORBELLS_MAX


def device_names() -> list[str]:
    """The RDMA devices of this machine."""
    return [device.name.decode() for device in get_device_list()]


def explain(status: int | None) -> str:
    """What a failed work completion means; None: that there was none."""
    if status in (None, verbs.IBV_WC_RETRY_EXC_ERR):
        return "it does not answer on the RDMA network"
    if status in (
        verbs.IBV_WC_REM_ACCESS_ERR,
        verbs.IBV_WC_REM_INV_REQ_ERR,
        verbs.IBV_WC_REM_OP_ERR,
    ):
        return "it has taken from us the right to write into its memory"
    if status == FLUSHED:
        return "the queue pair has failed"
    return f"work completion with status {status} (ibv_poll_cq(3))"


class Device:
    """An open device, used as `fabric` says.

    Raises:
        Unusable: It cannot be; the message says why and what to do.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        names = device_names()
        if not names:
            raise Unusable(
                "this machine has no RDMA device: is the card's driver loaded (modprobe mlx5_ib, ib_uverbs)? "
                "A software one: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev INTERFACE"
            )
        if fabric.device is None and len(names) > 1:
            raise Unusable(f"there are several RDMA devices, {', '.join(names)}: name one (device)")
        self.name = fabric.device or names[0]
        if self.name not in names:
            raise Unusable(f"there is no RDMA device {self.name!r}; there are {', '.join(names)}")
        try:
            self.context = Context(name=self.name)
        except PyverbsError as error:
            raise Unusable(
                f"{self.name} cannot be opened ({error}): are /dev/infiniband/uverbs* open to this user?"
            ) from error
        try:
            self._port = self._active_port()
        except BaseException:
            self.close()
            raise
        self.link = "InfiniBand" if self._port.link_layer == 1 else "Ethernet"
        mtu_bytes = MTUS_BYTES[self._port.active_mtu - 1]
        self.mtu_bytes = min(mtu_bytes, fabric.mtu_bytes or mtu_bytes)

    def _active_port(self) -> Any:
        where = f"port {self.fabric.port} of {self.name}"
        try:
            port = self.context.query_port(self.fabric.port)
        except PyverbsError as error:
            raise Unusable(f"there is no {where}: ports count from 1 ({error})") from error
        if port.state != verbs.IBV_PORT_ACTIVE:
            raise Unusable(f"{where} is down: see to its cable and network interface (rdma link)")
        return port

    def gids(self) -> list[GidEntry]:
        """The port's addresses, in the order of their index."""
        kinds = {0: "InfiniBand", 1: "RoCE v1", 2: "RoCE v2"}
        return [
            GidEntry(entry.gid_index, IPv6Address(entry.gid_str()), kinds.get(entry.gid_type, "?"))
            for entry in self.context.query_gid_table(self._port.gid_tbl_len)
            if entry.port_num == self.fabric.port
        ]

    def gid(self, towards_peer: str | None) -> GidEntry:
        """The address to use for a peer.

        Raises:
            Unusable: As `choose_gid`.
        """
        return choose_gid(self.gids(), self.fabric.gid, towards_peer)

    @property
    def lid(self) -> int:
        """The port's local identifier; 0 on Ethernet."""
        return int(self._port.lid)

    def try_memory(self) -> None:
        """Register as much as a connection will, and let it go: so that a limit is told at the start.

        Raises:
            Unusable: As `Endpoint`.
        """
        Endpoint(self, self.gid(None)).close()

    def close(self) -> None:
        """Close it. Endpoints first."""
        self.context.close()


class _Memory:
    """Memory that the device may reach: shared and anonymous, so pinning it is allowed and children do not copy it."""

    def __init__(self, domain: Any, size: int, access: int) -> None:
        self._map = mmap.mmap(-1, size)
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        try:
            self._region = MR(domain, size, access, address=self.address)
        except PyverbsRDMAError as error:
            limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
            allowed = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit} bytes"
            raise Unusable(
                f"the device may not have {size} bytes of memory ({error}); this process may lock {allowed} of "
                "memory in all: raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity in a systemd unit, memlock in "
                "/etc/security/limits.conf), or use smaller rings (ring_bytes)"
            ) from error
        self.local_key = self._region.lkey
        self.key = self._region.rkey

    def revoke(self) -> None:
        """The device reaches it no more; its bytes stay for us."""
        if self._region is not None:
            self._region.close()
            self._region = None


class Endpoint:
    """One connection's queue pair and memory, not connected yet. Closed, it has no completions and no events; nothing
    may be written then.

    Raises:
        Unusable: The memory cannot be registered, or the queues not be made.
    """

    def __init__(self, device: Device, gid: GidEntry) -> None:
        fabric = device.fabric
        self._device = device
        self._gid = gid
        self._fabric = fabric
        self._open: list[Any] = []  # to be closed last to first
        self.posts = 0
        self.doorbells = 0  # calls that told the device of posts
        self._signaled = 0  # the newest post that will say when it is done
        self.done = 0  # posts that are, at least
        self._armed = False
        self._events = 0
        self._pair: Any = None
        size = fabric.ring_bytes
        try:
            # A protection domain of its own: a peer that guesses the key of another's ring cannot use it.
            self._domain = self._keep(PD(device.context))
            self._inbox = _Memory(self._domain, size + PAGE_BYTES, REMOTE_WRITE)
            self._mirror = _Memory(self._domain, size, verbs.IBV_ACCESS_LOCAL_WRITE)
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
        self.ring = self._inbox.view[:size].toreadonly()
        self.mirror = self._mirror.view
        self.credit = self._inbox.view[size : size + CREDIT_BYTES].toreadonly()
        self._receive = RecvWR(
            wr_id=0, num_sge=1, sg=[SGE(self._inbox.address, 0, self._inbox.local_key)]
        )

    def _keep(self, resource: Any) -> Any:
        self._open.append(resource)
        return resource

    def _make_channel(self) -> tuple[Any, int]:
        # Older releases do not tell the descriptor, but the kernel gives the lowest number that is free (open(2)); unless
        # another thread opens a file just then.
        for _ in range(CHANNEL_TRIES_MAX):
            expected = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            os.close(expected)
            channel = CompChannel(self._device.context)
            descriptor = getattr(channel, "fd", expected)
            if "infinibandevent" in _target(descriptor):
                os.set_blocking(descriptor, False)
                return self._keep(channel), descriptor
            channel.close()
        raise Unusable("the completion channel's descriptor is not to be found")

    def _make_pair(self) -> Any:
        capacity = QPCap(
            max_send_wr=SENDS_MAX,
            max_recv_wr=RECEIVES_MAX,
            max_send_sge=1,
            max_recv_sge=1,
            max_inline_data=INLINE_BYTES,
        )
        # sq_sig_all is 1 unless said otherwise: then every post completes, and the completion queue overruns.
        init = QPInitAttr(
            qp_type=verbs.IBV_QPT_RC, scq=self._queue, rcq=self._queue, cap=capacity, sq_sig_all=0
        )
        attributes = QPAttr(port_num=self._fabric.port)
        attributes.qp_access_flags = REMOTE_WRITE
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
        to.qp_access_flags = REMOTE_WRITE
        to.dest_qp_num = its.queue_pair
        to.path_mtu = MTUS_BYTES.index(mtu_bytes) + 1
        to.rq_psn, to.sq_psn = its.packet_sequence, mine.packet_sequence
        to.max_rd_atomic = to.max_dest_rd_atomic = 4
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
        requests: list[Any] = [None]  # pyverbs does not keep the next one of a request alive
        last = len(push.spans) - 1
        for place in range(last, -1, -1):
            offset, length = push.spans[place]
            rings = place == last
            self.posts += 1
            flags = self._flags(length, rings)
            request = SendWR(
                wr_id=self.posts if rings else 0,
                opcode=verbs.IBV_WR_RDMA_WRITE_WITH_IMM if rings else verbs.IBV_WR_RDMA_WRITE,
                num_sge=1,
                sg=[SGE(self._mirror.address + offset, length, self._mirror.local_key)],
                imm_data=socket.htonl(word) if rings else 0,
                send_flags=flags,
                next_wr=requests[-1],
            )
            request.set_wr_rdma(to.key, to.ring_address + offset)
            requests.append(request)
        self.doorbells += 1
        self._pair.post_send(requests[-1])

    def write_credit(self, credit: bytes, to: Attributes, word: int | None) -> None:
        """Write a credit into the peer's memory, with a doorbell if there is a word for it.

        Raises:
            PyverbsError: As `write`.
        """
        size = self._fabric.ring_bytes
        staged = (
            size + PAGE_BYTES // 2
        )  # of the inbox's page; inline, so it is read before the call returns
        self._inbox.view[staged : staged + CREDIT_BYTES] = credit
        self.posts += 1
        self.doorbells += 1
        request = SendWR(
            wr_id=self.posts,
            opcode=verbs.IBV_WR_RDMA_WRITE if word is None else verbs.IBV_WR_RDMA_WRITE_WITH_IMM,
            num_sge=1,
            sg=[SGE(self._inbox.address + staged, CREDIT_BYTES, self._inbox.local_key)],
            imm_data=0 if word is None else socket.htonl(word),
            send_flags=self._flags(CREDIT_BYTES, True),
        )
        request.set_wr_rdma(to.key, to.credit_address)
        self._pair.post_send(request)

    def _flags(self, length: int, may_signal: bool) -> int:
        flags = verbs.IBV_SEND_INLINE if length <= INLINE_BYTES else 0
        if may_signal and self.posts - self._signaled >= SIGNAL_EVERY:
            self._signaled = self.posts
            flags |= verbs.IBV_SEND_SIGNALED
        return int(flags)

    def signal_next(self) -> None:
        """The next post says when it is done."""
        self._signaled = self.posts - SIGNAL_EVERY

    def poll(self) -> list[Any]:
        """Work completions there are, some at a time: `status`, `wr_id` (0: a receive), `imm_data` in network order."""
        if self._pair is None:
            return []
        _, completions = self._queue.poll(16)
        return completions  # type: ignore[no-any-return]  # pyverbs has no types

    # --- Sleeping

    def arm(self) -> None:
        """Make `descriptor` readable at the next completion. Poll once more before sleeping: one may have come just now."""
        if not self._armed and self._pair is not None:
            self._queue.req_notify()
            self._armed = True

    def take_event(self) -> None:
        """Take what made the descriptor readable; nothing where it was somebody else's."""
        if self._pair is None:
            return
        try:
            self._channel.get_cq_event(self._queue)
        except PyverbsError:  # the descriptor is non-blocking, and nothing was there
            return
        self._armed = False
        self._events += 1
        if self._events == 64:  # takes a lock
            self._queue.ack_events(self._events)
            self._events = 0

    # --- The end

    def revoke(self) -> None:
        """From here on no byte of the peer's arrives; what it tries fails at its side at once. Safe to repeat."""
        if self._pair is None:
            return
        to = QPAttr(port_num=self._fabric.port)
        to.qp_access_flags = verbs.IBV_ACCESS_LOCAL_WRITE
        with contextlib.suppress(PyverbsError):  # it is in error already, and takes nothing
            self._pair.modify(to, verbs.IBV_QP_ACCESS_FLAGS)
        self._inbox.revoke()

    def close(self) -> None:
        """Let go of everything but the memory that views still show. Safe to repeat."""
        for name in ("_inbox", "_mirror"):
            memory = getattr(self, name, None)
            if memory is not None:
                memory.revoke()
        queue = getattr(self, "_queue", None)
        if queue is not None and self._events:
            queue.ack_events(self._events)
            self._events = 0
        self._pair = None
        while self._open:
            self._open.pop().close()


def _target(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""

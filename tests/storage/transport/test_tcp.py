"""TCP as the world has it: peers that die, fall silent, or are slow; and a listener that bears them all.

Goal: every end of a connection is noticed and said, none that is alive is ended, and a stranger is turned away with a reason while
the listener lives on. Method: the chaos proxy between two ends, and sockets that say what no peer of ours says.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import socket
import ssl
import struct
import sys
import tempfile
import tracemalloc
from functools import partial

import pytest
import trio
import trio.testing

from storage.limits import MESSAGE_BYTES_MAX
from storage.transport import Broken, Identity, IdMap, IdRange, Rejected, Role, TcpTransport
from storage.transport.certificates import Authority, Credentials
from storage.transport.framing import GREETING, VERSION, Kind, control
from tests.cluster.proxy import Proxy
from tests.storage.transport.kinds import CLUSTER, SILENCE_MS, node, pause, take

WAIT_S = 20
"""Only so that a test that hangs ends."""

FUZZ_STREAMS = int(os.environ.get("CASCADEFS_WIRE_STREAMS", "600"))
FUZZ_SEED = int(os.environ.get("CASCADEFS_WIRE_SEED", "11"))


class Through:
    """Two ends with a proxy between them; near dialled."""

    def __init__(self, kind, silence_ms=SILENCE_MS):
        self.kind = kind
        self.silence_ms = silence_ms

    async def __aenter__(self):
        self._manager = trio.open_nursery()
        self.nursery = await self._manager.__aenter__()
        self.listener = await self.kind.make(node("n1"), self.silence_ms).listen(
            self.nursery, self.kind.address
        )
        self.proxy = await Proxy(self.listener.address).start(self.nursery)
        self.near = await self.kind.make(node("n2"), self.silence_ms).connect(
            self.nursery, self.proxy.address, role=Role.NODE
        )
        self.far = await self.listener.accept()
        return self

    async def __aexit__(self, *error):
        self.nursery.cancel_scope.cancel()
        return await self._manager.__aexit__(*error)


@pytest.mark.parametrize("cut_bytes", [1, 3, 4, 5, 1000, 300_000])
async def test_a_peer_that_dies_inside_a_message_gives_none_of_it(tcp_kind, cut_bytes):
    async with Through(tcp_kind, 10_000) as world:
        await world.near.send([b"whole"])
        assert await take(world.far, 1) == [b"whole"]
        world.proxy.forth.cut_after_bytes = cut_bytes
        await world.near.send([bytes(1_000_000)])
        with trio.fail_after(WAIT_S):
            with pytest.raises(Broken, match="node n2 at 127"):
                await world.far.receive()
            with pytest.raises(Broken, match="node n1 at 127"):
                await world.near.receive()
        with pytest.raises(Broken):
            await world.near.send([b"x"])


@pytest.mark.parametrize("way", ["forth", "back"])
async def test_half_open_is_noticed_by_the_end_that_hears_nothing(tcp_kind, way):
    async with Through(tcp_kind) as world:
        getattr(world.proxy, way).swallow = True
        deaf, heard = (world.far, world.near) if way == "forth" else (world.near, world.far)
        with trio.fail_after(WAIT_S), pytest.raises(Broken, match=r"nothing heard for 0\.4 s"):
            await deaf.receive()
        # Its end then ends the other's.
        with trio.fail_after(WAIT_S), pytest.raises(Broken):
            await heard.receive()


async def test_half_open_is_noticed_while_nobody_receives(tcp_kind):
    async with Through(tcp_kind) as world:
        world.proxy.back.swallow = True
        with trio.fail_after(WAIT_S):
            while world.near.broken() is None:
                await pause(0.01)
        assert "nothing heard" in str(world.near.broken())


SO_ATTACH_FILTER = 26


def deafen(connection) -> None:
    """Have the kernel drop what arrives for a connection, acknowledgements too: a host that is gone, or a cable.

    A filter that keeps no byte of any packet (socket(7), SO_ATTACH_FILTER; "ret #0" in the classic language).
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    pointer = struct.pack("HxxxxxxP", 1, ctypes.addressof(program))
    connection._wire.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)


@pytest.mark.parametrize("unread", [False, True])
async def test_a_host_that_is_gone_is_noticed_by_who_only_sends(tcp_kind, unread):
    async with tcp_kind.pair(SILENCE_MS) as (near, far), trio.open_nursery() as nursery:
        if unread:
            await far.send([b"never read"])
            await pause(0.05)
        deafen(near)
        deafen(far)

        @nursery.start_soon
        async def send():
            with contextlib.suppress(Broken):
                while True:
                    await near.send([bytes(100_000)])

        with trio.fail_after(WAIT_S):
            while near.broken() is None:
                await pause(0.01)
        assert "nothing heard" in str(near.broken())


async def test_a_long_message_is_few_calls(tcp_kind):
    message = bytes(range(256)) * 4096  # a MiB
    async with tcp_kind.pair() as (near, far), trio.open_nursery() as nursery:
        for _ in range(3):
            sent, received = near.counters.sent_calls, far.counters.received_calls
            nursery.start_soon(near.send, [b"head", message])
            assert await take(far, 1) == [b"head" + message]
            # By TLS, of 256 KiB; plain, what the socket takes and has.
            assert near.counters.sent_calls - sent <= 5
            # The sender may be slower than we are, but not by single records of 16 KiB.
            assert far.counters.received_calls - received < 64


async def test_what_is_sent_is_kept_no_longer(tcp_kind):
    gc.collect()
    async with tcp_kind.pair(SILENCE_MS) as (near, far):
        tracemalloc.start()
        try:
            await near.send([bytes(200_000)])
            await take(far, 1)
            far._inbox.landings.let_go()
            far._inbox._view = memoryview(bytearray(1))
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert kept < 100_000


async def test_memory_of_long_messages_is_let_go_while_there_are_none(tcp_kind):
    message = bytes(1 << 20)
    async with tcp_kind.pair(SILENCE_MS) as (near, far):
        landings = far._inbox.landings
        await near.send([message])
        await take(far, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, far, 1)  # It hears heartbeats all the while.
            with trio.fail_after(10):
                while landings._kept:
                    await pause(0.01)
            nursery.cancel_scope.cancel()
        await near.send([message])
        assert await take(far, 1) == [message]


async def test_a_slow_receiver_is_not_taken_for_a_dead_one(tcp_kind):
    async with Through(tcp_kind) as world, trio.open_nursery() as nursery:
        # Nothing is received for five times the silence that is borne, with every buffer between full.
        sent = 0

        @nursery.start_soon
        async def send():
            nonlocal sent
            for _ in range(2000):
                await world.near.send([bytes(20_000)])
                sent += 1

        with trio.move_on_after(5 * SILENCE_MS / 1000):
            await world.near.receive()
        assert sent < 2000
        assert world.near.broken() is None
        assert world.far.broken() is None
        assert await take(world.far, 2000) == [bytes(20_000)] * 2000


async def test_a_slow_network_is_not_taken_for_a_dead_one(tcp_kind):
    async with Through(tcp_kind, 1000) as world, trio.open_nursery() as nursery:
        world.proxy.forth.rate_bytes_s = 1_000_000
        world.proxy.forth.delay_ms = 50
        nursery.start_soon(world.near.send, [bytes(1_500_000)])
        assert await take(world.far, 1) == [bytes(1_500_000)]


async def test_a_stall_is_waited_out(tcp_kind):
    async with Through(tcp_kind, 5000) as world:
        world.proxy.forth.stall = True
        await world.near.send([b"late"])
        with trio.move_on_after(0.1):
            await world.far.receive()
        world.proxy.mend()
        assert await take(world.far, 1) == [b"late"]


async def test_a_reset_breaks_both_ends(tcp_kind):
    async with Through(tcp_kind, 10_000) as world:
        world.proxy.reset()
        for end in (world.near, world.far):
            with trio.fail_after(WAIT_S), pytest.raises(Broken):
                await end.receive()
        # While dialling too: that is no rejection, and dialling again is right.
        dialler = tcp_kind.make(node("n3"), 1000)
        for fault in ("refuse", "gone"):
            world.proxy.refuse = fault == "refuse"
            world.proxy.forth.cut_after_bytes = 10 if fault == "gone" else None
            with pytest.raises(Broken) as told:
                await dialler.connect(world.nursery, world.proxy.address, role=Role.NODE)
            assert not isinstance(told.value, Rejected)


async def test_what_came_before_the_end_is_received_though_sending_failed(tcp_kind):
    async with Through(tcp_kind, 10_000) as world:
        for number in range(100):
            await world.far.send([b"%d" % number])
        await world.far.aclose()
        await pause(0.05)
        for _ in range(100):  # until the failure of sending shows
            if world.near.broken() is None:
                await world.near.send([b"into the void"])
                await pause(0.001)
        assert await take(world.near, 100) == [b"%d" % number for number in range(100)]
        with pytest.raises(Broken):
            await world.near.receive()


async def test_a_peer_that_closes_says_so_and_one_that_dies_does_not(tcp_kind):
    async with tcp_kind.pair() as (near, far):
        await near.aclose()
        with pytest.raises(Broken, match=r"node n2 at .* closed the connection: it is done"):
            await far.receive()
    async with tcp_kind.pair() as (near, far):
        near.close()
        with pytest.raises(Broken, match=r"node n2 at .* is gone without a word"):
            await far.receive()


# --- Strangers


class Refusals(list):
    """What a listener says of those it turned away."""

    async def one(self) -> str:
        with trio.fail_after(WAIT_S):
            while not self:
                await pause(0.005)
        return self.pop()


def listening(tls, refusals, identity=None, **options):
    return TcpTransport(
        identity or node("n1"),
        tls,
        insecure_loopback=tls is None,
        turned_away=refusals.append,
        **options,
    )


def contexts(certificates, identity):
    return certificates.credentials(identity).contexts()


async def raw(address: str) -> trio.SocketStream:
    host, _, port = address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def rest(stream) -> bytes:
    data = b""
    with trio.fail_after(WAIT_S):
        try:
            while more := await stream.receive_some():
                data += more
        except trio.BrokenResourceError:
            pass
    return data


def greeting(low=VERSION, high=VERSION, silence_ms=1000, uri=f"cascadefs://{CLUSTER}/node/n9"):
    return GREETING.pack(b"cascade\n", low, high, silence_ms, len(uri)) + uri.encode()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n", "not cascadefs"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20), "speaks TLS and this side"),
        (greeting(low=7, high=9), "versions 7 to 9 .* this side 1: upgrade the older"),
        (greeting(silence_ms=0), "damaged greeting"),
        (greeting(silence_ms=2**31), "damaged greeting"),
        (GREETING.pack(b"cascade\n", 1, 1, 1000, 2**32 - 1), "damaged greeting"),
        (greeting(uri="cascadefs://c1/king/n9"), "none of node, mount, client"),
        (greeting(uri="cascadefs://c7/node/n9"), "of cluster c7, and this is cluster c1"),
        (greeting(uri="\x00\x01"), "without an identity"),
    ],
)
async def test_a_stranger_is_told_why_and_the_listener_lives(said, why):
    refusals = Refusals()
    async with trio.open_nursery() as nursery:
        listener = await listening(None, refusals).listen(nursery, "127.0.0.1:0")
        stream = await raw(listener.address)
        await stream.send_all(said)
        answer = await rest(stream)
        await stream.aclose()
        refusal = await refusals.one()
        with pytest.raises(AssertionError, match=why):
            raise AssertionError(refusal)
        reason = refusal.partition(": ")[2]
        assert reason.encode() in answer
        near = await listening(None, refusals, node("n2")).connect(
            nursery, listener.address, role=Role.NODE
        )
        await near.send([b"hello"])
        assert await take(await listener.accept(), 1) == [b"hello"]
        nursery.cancel_scope.cancel()


async def test_one_who_says_nothing_is_not_waited_for_long():
    refusals = Refusals()
    async with trio.open_nursery() as nursery:
        transport = listening(None, refusals, greeting_ms=50)
        listener = await transport.listen(nursery, "127.0.0.1:0")
        silent = await raw(listener.address)
        assert "no greeting in 0.05 s" in await refusals.one()
        assert (await rest(silent)).startswith(b"cascade\n")
        await silent.aclose()
        deaf = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = deaf[0].socket.getsockname()[1]
        with pytest.raises(Broken, match=r"no answer in 0\.05 s"):
            await transport.connect(nursery, f"127.0.0.1:{port}", role=Role.NODE)
        await deaf[0].aclose()
        nursery.cancel_scope.cancel()


async def test_strangers_do_not_keep_peers_out():
    refusals = Refusals()
    async with trio.open_nursery() as nursery:
        listener = await listening(None, refusals, greeting_ms=300).listen(nursery, "127.0.0.1:0")
        strangers = [await raw(listener.address) for _ in range(150)]
        near = await listening(None, refusals, node("n2")).connect(
            nursery, listener.address, role=Role.NODE
        )
        assert near.peer == node("n1")
        for stranger in strangers:
            await stranger.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("secure_side", ["listener", "dialler"])
async def test_tls_on_one_side_only(certificates, secure_side):
    refusals = Refusals()
    secure = secure_side == "listener"
    async with trio.open_nursery() as nursery:
        one = listening(contexts(certificates, node("n1")) if secure else None, refusals)
        other = listening(
            None if secure else contexts(certificates, node("n2")), refusals, node("n2")
        )
        listener = await one.listen(nursery, "127.0.0.1:0")
        with pytest.raises(Rejected, match="TLS"):
            await other.connect(nursery, listener.address, role=Role.NODE)
        assert "TLS" in await refusals.one()
        nursery.cancel_scope.cancel()


DAYS_NS = 86_400 * 10**9


async def test_no_certificate(certificates):
    refusals = Refusals()
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(cadata=certificates.authority().pem().decode())
    mine = contexts(certificates, node("n1"))
    async with trio.open_nursery() as nursery:
        listener = await listening(mine, refusals).listen(nursery, "127.0.0.1:0")
        with pytest.raises(Rejected, match="asks for a certificate, and we showed none"):
            await listening((mine[0], bare), refusals, node("n2")).connect(
                nursery, listener.address, role=Role.NODE
            )
        assert "it showed no certificate" in await refusals.one()
        nursery.cancel_scope.cancel()


async def test_an_older_tls(certificates):
    refusals = Refusals()
    mine, theirs = (contexts(certificates, node(name)) for name in ("n1", "n2"))
    theirs[1].minimum_version = theirs[1].maximum_version = ssl.TLSVersion.TLSv1_2
    async with trio.open_nursery() as nursery:
        listener = await listening(mine, refusals).listen(nursery, "127.0.0.1:0")
        with pytest.raises(Rejected, match=r"TLS older than 1\.3"):
            await listening(theirs, refusals, node("n2")).connect(
                nursery, listener.address, role=Role.NODE
            )
        assert "TLS older than 1.3" in await refusals.one()
        nursery.cancel_scope.cancel()


def other_authority(certificates, identity):
    """Certificates of an authority with the same name that is not ours."""
    authority = certificates.authority(CLUSTER, "another")
    issued = authority.issue(identity, now_ns=certificates.now_ns)
    return Credentials.load(
        certificates.install(authority, issued), now_ns=certificates.now_ns
    ).contexts()


def of_another_time(certificates, identity, days):
    """Certificates that were, or will be, good for one day so many days from now, of an authority that always was."""
    old = Authority.create(CLUSTER, now_ns=certificates.now_ns - 1000 * DAYS_NS)
    then_ns = certificates.now_ns + days * DAYS_NS
    now = old.issue(identity, now_ns=then_ns, days=1)
    directory = certificates.install(old, now)
    peer = old.issue(node("n1"), now_ns=certificates.now_ns)
    good = Credentials.load(certificates.install(old, peer), now_ns=certificates.now_ns)
    return Credentials.load(directory, now_ns=then_ns).contexts(), good.contexts()


async def rejection(listener_tls, dialler_tls, dialler=None) -> tuple[str, str]:
    """What who dialled is told, and what the listener says of it."""
    refusals = Refusals()
    async with trio.open_nursery() as nursery:
        listener = await listening(listener_tls, refusals).listen(nursery, "127.0.0.1:0")
        with pytest.raises(Rejected) as told:
            await listening(dialler_tls, refusals, dialler or node("n2")).connect(
                nursery, listener.address, role=Role.NODE
            )
        refusal = await refusals.one()
        nursery.cancel_scope.cancel()
    return str(told.value), refusal


async def test_certificates_of_another_authority(certificates):
    ours = contexts(certificates, node("n1"))
    theirs = other_authority(certificates, node("n2"))
    told, said = await rejection(ours, theirs)
    assert "its certificate is of another cluster's authority" in told
    assert "it did not accept our certificate: the authority is another cluster's" in said
    # A rogue that trusts us all the same: then it is the listener who finds out.
    theirs[1].load_verify_locations(cadata=certificates.authority().pem().decode())
    told, said = await rejection(ours, theirs)
    assert "did not accept our certificate" in told
    assert "its certificate is of another cluster's authority" in said


@pytest.mark.parametrize(("days", "why"), [(-10, "has expired"), (10, "not valid yet")])
async def test_certificates_of_another_time(certificates, days, why):
    bad, good = of_another_time(certificates, node("n2"), days)
    told, said = await rejection(good, bad)
    assert why in said
    assert "did not accept our certificate" in told


async def test_a_client_cannot_pass_for_a_node(certificates):
    client = Identity(CLUSTER, Role.CLIENT, "eve", IdMap((IdRange(1000, 1000, 1),)))
    ours, hers = contexts(certificates, node("n1")), contexts(certificates, client)
    # Dialling: her certificate says who she is.
    told, said = await rejection(ours, hers, node("eve"))
    for words in (told, said):
        assert "it says it is node eve, and its certificate is of client eve" in words
    # With more users than the certificate has.
    more = Identity(CLUSTER, Role.CLIENT, "eve", IdMap((IdRange(0, 0, 2000),)))
    told, said = await rejection(ours, hers, more)
    assert "it says it is client eve" in said
    # Dialled: her certificate is not for that.
    told, said = await rejection(hers, ours)
    assert "not for that" in told
    assert "not for that use" in said
    # As herself she is welcome, and known by what was signed.
    async with trio.open_nursery() as nursery:
        listener = await listening(ours, Refusals()).listen(nursery, "127.0.0.1:0")
        await listening(hers, Refusals(), client).connect(
            nursery, listener.address, role=Role.NODE, name="n1"
        )
        assert (await listener.accept()).peer == client
        nursery.cancel_scope.cancel()


# --- Where it may listen


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:7000"])
async def test_without_certificates_only_loopback(address):
    transport = listening(None, [])
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="open to others"):
            await transport.listen(nursery, address)
        with pytest.raises(ValueError, match="open to others"):
            await transport.connect(nursery, address, role=Role.NODE)


def test_without_certificates_only_by_choice():
    with pytest.raises(ValueError, match="insecure_loopback"):
        TcpTransport(node("n1"), None)


@pytest.mark.parametrize("address", ["", "n1", ":7000", "n1:", "n1:http", "/tmp/x:1"])
async def test_an_address_that_is_none(address):
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="HOST:PORT"):
            await listening(None, []).connect(nursery, address, role=Role.NODE)


async def test_ipv6():
    async with trio.open_nursery() as nursery:
        listener = await listening(None, []).listen(nursery, "[::1]:0")
        assert listener.address.startswith("[::1]:")
        near = await listening(None, [], node("n2")).connect(
            nursery, listener.address, role=Role.NODE
        )
        await near.send([b"six"])
        assert await take(await listener.accept(), 1) == [b"six"]
        nursery.cancel_scope.cancel()


OTHER = """
import socket, sys, os
os.setgroups([23, 42]); os.setgid(4242); os.setuid(4343)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(bytes.fromhex(sys.argv[2])); print(s.recv(1000)[-1] is not None, flush=True); s.recv(1000)
"""


async def test_on_a_unix_socket_the_kernel_says_who_it_is(tmp_path):
    assert os.geteuid() == 0, "as root, to be somebody else for once"
    with tempfile.TemporaryDirectory(prefix="cascadefs-") as directory:
        os.chmod(directory, 0o755)
        async with trio.open_nursery() as nursery:
            listener = await listening(None, []).listen(nursery, f"unix:{directory}/s")
            said = greeting() + control(Kind.WELCOME)
            command = [sys.executable, "-c", OTHER, f"{directory}/s", said.hex()]
            process = await nursery.start(partial(trio.run_process, command, check=False))
            far = await listener.accept()
            assert (far.peer.role, far.peer.name) == (Role.CLIENT, "uid-4343")
            assert far.peer.uids == IdMap((IdRange(4343, 4343, 1),))
            assert {g for g in (23, 42, 4242, 0) if far.peer.gids.translate(g) == g} == {
                23,
                42,
                4242,
            }
            process.kill()
            nursery.cancel_scope.cancel()


async def test_a_socket_left_behind_is_replaced_and_a_file_is_not(tmp_path):
    with tempfile.TemporaryDirectory(prefix="cascadefs-") as directory:
        left = socket.socket(socket.AF_UNIX)
        left.bind(f"{directory}/s")
        left.close()
        await trio.Path(f"{directory}/f").touch()
        async with trio.open_nursery() as nursery:
            await listening(None, []).listen(nursery, f"unix:{directory}/s")
            with pytest.raises(OSError, match="in use"):
                await listening(None, []).listen(nursery, f"unix:{directory}/f")
            nursery.cancel_scope.cancel()


# --- What no peer of ours sends


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (struct.pack("<I", MESSAGE_BYTES_MAX + 1), f"message of {MESSAGE_BYTES_MAX + 1} bytes"),
        (struct.pack("<I", 9 << 28), "frame of kind 9"),
        (struct.pack("<I", Kind.HEARTBEAT << 28 | 5), "frame of kind 1 with 5 bytes"),
        (struct.pack("<I", Kind.GOODBYE << 28 | 100_000), "frame of kind 3"),
        (greeting(), "frame of kind"),
    ],
)
async def test_bytes_that_are_no_frame_break_behind_what_came_before(sent, why):
    async with trio.open_nursery() as nursery:
        listener = await listening(None, []).listen(nursery, "127.0.0.1:0")
        stream = await raw(listener.address)
        await stream.send_all(greeting() + control(Kind.WELCOME) + b"\x02\0\0\0ok" + sent)
        far = await listener.accept()
        assert await take(far, 1) == [b"ok"]
        with pytest.raises(Broken, match=why):
            await far.receive()
        await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_flood_of_heartbeats_leaves_the_others_their_turn():
    async with trio.open_nursery() as nursery:
        listener = await listening(None, []).listen(nursery, "127.0.0.1:0")
        stream = await raw(listener.address)
        await stream.send_all(greeting() + control(Kind.WELCOME))
        far = await listener.accept()
        deaf = far._wire.read_into
        reads = 0

        def flood(space):  # as a peer that is never slower than we are
            nonlocal reads
            reads += 1
            space[:4] = control(Kind.HEARTBEAT)
            return 4

        far._wire.read_into = flood
        with trio.move_on_after(0.01):
            await far.receive()
        assert reads > 1
        far._wire.read_into = deaf
        await stream.aclose()
        nursery.cancel_scope.cancel()


def client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    written = ssl.MemoryBIO()
    secure = context.wrap_bio(ssl.MemoryBIO(), written, server_hostname="n1")
    with pytest.raises(ssl.SSLWantReadError):
        secure.do_handshake()
    return written.read()


def conversation() -> bytes:
    frames = b"".join(struct.pack("<I", size) + bytes(size) for size in (0, 5, 100))
    said = greeting() + control(Kind.WELCOME) + control(Kind.HEARTBEAT)
    return said + frames + control(Kind.GOODBYE, b"x")


def mutations(good: bytes, count: int, seed: int):
    """What a peer of ours would send, with a few bytes changed, left out or put in, or of chance alone."""
    chance = random.Random(seed)
    for _ in range(count):
        if chance.random() < 0.2:
            yield chance.randbytes(chance.randrange(200))
            continue
        data = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[place] ^= 1 << chance.randrange(8)
                case 1:
                    data[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
                case 2:
                    del data[place : place + chance.randrange(1, 20)]
                case 3:
                    data[place:place] = chance.randbytes(chance.randrange(1, 20))
        yield bytes(data)


@pytest.mark.parametrize("secure", [False, True])
async def test_whatever_is_sent_the_listener_lives(certificates, secure):
    refusals = Refusals()
    tls = contexts(certificates, node("n1")) if secure else None
    outcomes = {"broken": 0, "accepted": 0}
    async with trio.open_nursery() as nursery:
        listener = await listening(tls, refusals, greeting_ms=100).listen(nursery, "127.0.0.1:0")

        async def serve(connection):
            outcomes["accepted"] += 1
            with trio.move_on_after(WAIT_S):
                try:
                    while True:
                        await connection.receive()
                except Broken:
                    outcomes["broken"] += 1

        async def accept():
            while True:
                nursery.start_soon(serve, await listener.accept())

        async def say(data, limit):
            async with limit:
                stream = await raw(listener.address)
                try:
                    for start in range(0, len(data), 37):
                        await stream.send_all(data[start : start + 37])
                    await stream.send_eof()
                    await rest(stream)
                except trio.BrokenResourceError:
                    pass
                await stream.aclose()

        nursery.start_soon(accept)
        limit = trio.CapacityLimiter(20)
        async with trio.open_nursery() as sayers:
            good = client_hello() if secure else conversation()
            for data in mutations(good, FUZZ_STREAMS, FUZZ_SEED):
                sayers.start_soon(say, data, limit)
        with trio.fail_after(WAIT_S):
            while len(refusals) + outcomes["broken"] < FUZZ_STREAMS:
                await pause(0.01)
        assert len(refusals) + outcomes["accepted"] == FUZZ_STREAMS
        assert len(refusals) == listener.turned_away
        assert secure or outcomes["accepted"] > FUZZ_STREAMS // 10
        assert all(why.partition(": ")[2] for why in refusals)
        near = await listening(
            contexts(certificates, node("n2")) if secure else None, refusals, node("n2")
        ).connect(nursery, listener.address, role=Role.NODE)
        assert near.peer == node("n1")
        nursery.cancel_scope.cancel()

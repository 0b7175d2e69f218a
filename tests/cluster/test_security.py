"""Goal: a live node tells strangers nothing, does for each peer only what its certificate says, and noise costs it neither its work nor
its memory.

Method: three `cascadefs serve` over TLS. Strangers with no certificate, another cluster's, a forged name; a program's certificate with
messages that are not for programs; another user's program against root's files; then seconds of random bytes and mutated messages at
a port, while a program goes on working.
"""

import contextlib
import os
import random
import socket
import ssl
import subprocess
import time

import msgspec
import pytest
import trio

from cascadefs import configuration
from cascadefs.client import calls
from cascadefs.client.client import Client
from cascadefs.client.remote import Remote
from storage import wire
from storage.transport import Broken, Identity, IdMap, IdRange, Role, TcpTransport
from storage.transport.certificates import Authority, Credentials
from tests.cluster.fleet import CLUSTER

NOISE_SECONDS = float(os.environ.get("CASCADEFS_NOISE_SECONDS", "8"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240 + 2 * NOISE_SECONDS)]

GROWTH_BYTES_MAX = 96 * 2**20
SAID_BYTES_MAX = 4096
"""A stranger is told why it is turned away, in a certificate and a sentence."""


class Clock:
    def now_ns(self):
        return time.time_ns()


def transport_of(home):
    credentials = Credentials.load(home / "credentials", now_ns=time.time_ns())
    return TcpTransport(credentials.identity, credentials.contexts())


def split(address):
    host, _, port = address.rpartition(":")
    return host, int(port)


def heard_by(sock):
    """Everything the other end says until it hangs up."""
    said = b""
    sock.settimeout(10)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := sock.recv(65536):
            said += data
    return said


async def told(transport, address, message, parts=()):
    """Everything that a node says to who says this, until it hangs up or has nothing more to say."""
    heard = []
    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            connection = await transport.connect(nursery, address, role=Role.NODE)
            await connection.send(wire.encode(message, parts))
            try:
                while True:
                    for data in await connection.receive():
                        heard.append(wire.decode(data)[0])
            except Broken as broken:
                heard.append(broken)
            nursery.cancel_scope.cancel()
    return heard


def test_no_certificate(fleet):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name in fleet.names:
        with socket.create_connection(split(fleet.address(name)), timeout=10) as plain:
            plain.sendall(b"cascade\n" + bytes(100))
            assert len(heard_by(plain)) < SAID_BYTES_MAX
        with socket.create_connection(split(fleet.address(name)), timeout=10) as plain:
            try:
                secure = context.wrap_socket(plain)
            except (ssl.SSLError, ConnectionError):
                continue
            with secure, contextlib.suppress(ssl.SSLError, ConnectionError):
                secure.sendall(b"cascade\n" + bytes(100))
                assert heard_by(secure) == b""


def test_another_clusters_certificate(fleet, tmp_path):
    for cluster in (
        "00badbadbadbad00",
        CLUSTER,
    ):  # Another, and one that only calls itself this one.
        other = Authority.create(cluster, now_ns=time.time_ns())
        who = Identity(cluster, Role.CLIENT, "user0", IdMap((IdRange(0, 0, 1),)))
        home = tmp_path / cluster / "credentials"
        other.install(other.issue(who, now_ns=time.time_ns()), home)
        for trusts in (home / "authority.crt", fleet.directory / "n1/credentials/authority.crt"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(trusts)
            context.load_cert_chain(home / "identity.crt", home / "identity.key")
            transport = TcpTransport(who, (context, context))

            async def call(transport=transport):
                return await told(transport, fleet.address("n1"), wire.Ask(1, "status"))

            with pytest.raises((Broken, ExceptionGroup)):
                trio.run(call)


def test_a_name_that_is_not_the_certificates(fleet):
    home = fleet.permit("user1000", 1000, 1000).parent
    credentials = Credentials.load(home / "credentials", now_ns=time.time_ns())
    root = IdMap((IdRange(0, 0, 1),))
    for who in (
        Identity(CLUSTER, Role.CLIENT, "user1000", root, root),
        Identity(CLUSTER, Role.CLIENT, "user0", root, root),
        Identity(CLUSTER, Role.MOUNT, "user1000", root, root),
        Identity(CLUSTER, Role.NODE, "n2"),
    ):
        transport = TcpTransport(who, credentials.contexts())

        async def call(transport=transport):
            return await told(transport, fleet.address("n1"), wire.Ask(1, "status"))

        with pytest.raises((Broken, ExceptionGroup)):
            trio.run(call)


@pytest.mark.parametrize(
    "message",
    [
        wire.Subscribe(0, 0, 0, 0),
        wire.Propose(0, 77, [(1, 0, b"x")]),
        wire.ReadPayload(1, 0, 1024, 0, 100),
        wire.ReadFrame(1, 0, 1024),
        wire.AskFrontier(0, 1),
        wire.AskIndex(1, 0),
        wire.Peer(0, msgspec.Raw(b"\x91\x05")),
        wire.Answer(1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_is_not_for_programs_is_cut_off_and_nothing_told(fleet, message):
    transport = transport_of(fleet.permit("user0").parent)
    heard = trio.run(told, transport, fleet.address("n1"), message)
    assert [type(one) for one in heard] == [wire.Refusal, Broken]
    assert heard[0].why == f"a client may not say {type(message).__name__}"


def test_a_user_gets_nothing_of_root(fleet):
    with fleet.program() as root, fleet.program(uid=1000, gid=1000) as user:
        first = root.put("secret/file", "one", mode=0o600)
        root.put("secret/file", "two")
        root.put("open", "x", mode=0o644)
        for look in (
            lambda: user.get("secret/file"),
            lambda: user.get("secret/file", version=1),
            lambda: user.get("secret/file", at=first.timestamp),
            lambda: user.put("secret/file", "mine"),
            lambda: user.append("secret/file", "mine"),
            lambda: user.put("secret/other", "mine"),
            lambda: user.delete("secret/file"),
            lambda: user.put("new", "mine"),
        ):
            with pytest.raises(PermissionError):
                look()
        assert user.get("open") == b"x"
        assert root.get("secret/file") == b"two"


def test_a_closed_directory_is_closed(fleet):
    with fleet.program() as root, fleet.program(uid=1000, gid=1000) as user:
        # A directory that only root may enter: made by a mount's record, for programs make directories that all may read.
        close_directory(fleet, "closed")
        token = user.look("**", "")[1]
        root.put("closed/file", "x", mode=0o644)
        at = root.now()
        for look in (
            lambda: user.list("closed"),
            lambda: user.list("closed", at=at),
            lambda: user.get("closed/file"),
            lambda: user.get("closed/file", version=1),
            lambda: user.stat("closed/file"),
        ):
            with pytest.raises(PermissionError):
                look()
        assert [path for path in user.glob("**") if path.startswith("closed")] == []
        with contextlib.suppress(PermissionError):
            assert list(user.versions("closed/file")) == []
        changes, _ = user.look("**", token)
        assert [change.path for change in changes if change.path.startswith("closed")] == []
        # Nor may anybody have a node read more at a time than it should.
        assert root.get("sparse", offset=2**39, length=10) == bytes(10)
        assert root.stat("sparse").size == 2**40


def close_directory(fleet, name):
    """Make a directory of mode 0700 as a mount does."""
    mount = fleet.permit("m2", role=Role.MOUNT)
    point = fleet.directory / "mnt"
    point.mkdir(exist_ok=True)
    command = [*fleet.cascadefs, "mount", point, "--cluster", mount, "--foreground"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        (point / name).mkdir(mode=0o700)
        (point / "sparse").touch()
        os.truncate(point / "sparse", 2**40)
        process.terminate()
        assert process.wait(60) == 0


def listening(pid):
    """(host, port) of every TCP socket a process listens on."""
    inodes = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as lines:
            for line in list(lines)[1:]:
                words = line.split()
                if words[3] == "0A" and words[9] in inodes:
                    host, _, port = words[1].partition(":")
                    found.add((host, int(port, 16)))
    return found


def test_a_node_listens_where_it_says_and_nowhere_without_certificates(fleet, tmp_path):
    for name, process in fleet.running.items():
        assert listening(process.pid) == {("0100007F", fleet.ports[name])}
    node = msgspec.structs.replace(
        fleet.settings("n1"),
        listen="0.0.0.0:7400",
        advertise=("10.1.2.3:7400",),
        credentials="nowhere",
        log="",
    )
    (tmp_path / "node.toml").write_text(configuration.spell(node))
    for option, why in ((), "nowhere"), (("--insecure-loopback",), "only loopback addresses"):
        command = [*fleet.cascadefs, "serve", "--config", tmp_path, *option]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert why in done.stderr


# --- noise ------------------------------------------------------------------------------------------------------------


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def raw_noise(choice, address):
    with contextlib.suppress(OSError), socket.create_connection(split(address), timeout=1) as plain:
        plain.sendall(choice.randbytes(choice.choice([1, 20, 500, 70_000])))
        if choice.random() < 0.3:
            plain.settimeout(0.2)
            plain.recv(1000)


async def message_noise(choice, transport, address):
    """A connection with a good certificate and bad messages."""
    good = [
        wire.encode(wire.Hello()),
        wire.encode(wire.Ask(1, "status")),
        *[
            wire.encode(wire.Call(2, "call", msgspec.Raw(calls.encode(call))), parts)
            for call, parts in (
                (calls.Get("noise/a"), []),
                (calls.List(""), []),
                (calls.Scan("**", None, None, 1), []),
                (calls.Watch("**", ""), []),
                (calls.Write([calls.Put("noise/a")]), [b"x" * 100]),
                (calls.Write([calls.Append("noise/a"), calls.Delete("noise/b")]), [b"yy"]),
            )
        ],
    ]
    with contextlib.suppress(Broken), trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            connection = await transport.connect(nursery, address, role=Role.NODE)
            for _ in range(choice.randrange(1, 30)):
                data = bytearray(b"".join(bytes(part) for part in choice.choice(good)))
                for _ in range(choice.choice([0, 1, 1, 3, 10])):
                    data[choice.randrange(len(data))] = choice.randrange(256)
                if choice.random() < 0.1:
                    del data[choice.randrange(len(data)) :]
                if choice.random() < 0.05:
                    data += bytes(choice.choice([1, 1000, 3_000_000]))
                await connection.send([bytes(data)])
            if choice.random() < 0.5:
                with trio.move_on_after(0.1):
                    while True:
                        await connection.receive()
            connection.close()
            nursery.cancel_scope.cancel()


def test_noise_disturbs_nobody_and_costs_no_memory(fleet):
    choice = random.Random(5)
    victim = fleet.leader(0)
    pid, address = fleet.running[victim].pid, fleet.address(victim)
    home = fleet.permit("noise", 0, 0).parent
    transport = transport_of(home)
    store = Client(Remote(transport, [address], random.Random(1)), Clock())
    rounds = raws = 0

    async def noise():
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(message_noise, choice, transport, address)

    before, most = 0, 0
    warm_until, until = time.monotonic() + NOISE_SECONDS / 3, time.monotonic() + NOISE_SECONDS
    with store:
        while time.monotonic() < until:
            rounds += 1
            with contextlib.suppress(ExceptionGroup):
                trio.run(noise)
            for _ in range(10):
                raws += 1
                raw_noise(choice, address)
            store.put("quiet/file", f"{rounds}")
            assert store.get("quiet/file") == b"%d" % rounds
            if time.monotonic() < warm_until or not before:
                before = resident_bytes(pid)
            most = max(most, resident_bytes(pid))
    assert most - before < GROWTH_BYTES_MAX
    assert fleet.running[victim].poll() is None
    assert "Traceback" not in fleet.log(victim)
    fleet.wait_well()
    print(
        f"figure: noise at a node's port: {raws} of random bytes, {4 * rounds} connections with a certificate and mutated messages; "
        f"resident memory {before >> 20} MiB after a third of it, {most >> 20} MiB at most"
    )

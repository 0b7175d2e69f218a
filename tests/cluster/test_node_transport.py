"""How two nodes come to RDMA, fall back to TCP and come back; and what a new site gets wrong, as its node says it.

Goal: by RDMA where both have it, by TCP only where that is configured, and said; each mistake is told with what to do. Method: the
transports of two nodes on two devices of the guest; and `cascadefs serve` as a person starts it.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
import trio

from cascadefs import configuration
from cascadefs.configuration import Transport
from cascadefs.node.transport import open_transport
from storage.errors import Unusable
from storage.transport import Identity, Rejected, Role, TcpTransport
from storage.transport.verbs.ring import RING_BYTES_MIN
from tests.cluster.wires import run
from tests.storage.transport.kinds import node, take

pytestmark = pytest.mark.rdma(guest=True)

PATIENT = {"ring_bytes": RING_BYTES_MIN, "retry_count": 6, "timeout_exponent": 16}
TCP_ONLY = Transport()


def verbs(number, **more):
    return Transport("verbs", **{"device": f"rxe{number}", **PATIENT, **more})


class Ends:
    """n1 listens, n2 dials."""

    def __init__(self, nursery, listener, far, near):
        self.nursery = nursery
        self.listener = listener
        self.far = far
        self.near = near

    async def connect(self):
        near = await self.near.connect(
            self.nursery, self.listener.address, role=Role.NODE, name="n1"
        )
        far = await self.listener.accept()
        await near.send([b"there"])
        await far.send([b"back"])
        assert await take(far, 1) == [b"there"]
        assert await take(near, 1) == [b"back"]
        return near, far


@asynccontextmanager
async def ends(far_settings, near_settings, turned_away=None, again_s=0.1):
    tell = (turned_away if turned_away is not None else []).append

    def make(name, settings):
        def make_tcp(offer):
            return TcpTransport(
                node(name), None, insecure_loopback=True, offer=offer, turned_away=tell
            )

        return open_transport(settings, make_tcp, tell)

    far, near = make("n1", far_settings), make("n2", near_settings)
    near._again_s = again_s
    try:
        async with trio.open_nursery() as nursery:
            yield Ends(nursery, await far.listen(nursery, "127.0.0.1:0"), far, near)
            nursery.cancel_scope.cancel()
    finally:
        far.close()
        near.close()


def kinds(*connections):
    return [connection.status()["transport"] for connection in connections]


async def test_two_nodes_with_verbs_are_connected_by_it_and_a_mount_by_tcp():
    async with ends(verbs(1), verbs(2)) as both:
        assert kinds(*await both.connect()) == ["verbs", "verbs"]
        mount = TcpTransport(Identity("c1", Role.MOUNT, "m1"), None, insecure_loopback=True)
        near = await mount.connect(both.nursery, both.listener.address, role=Role.NODE)
        assert kinds(near, await both.listener.accept()) == ["tcp", "tcp"]
        assert both.near.status()["troubles"] == both.far.status()["troubles"] == []
        assert any("10.9.0.2 (RoCE v2)" in entry for entry in both.near.status()["gids"])


@pytest.mark.parametrize("far", [verbs(1), TCP_ONLY], ids=["dialled", "dials"])
async def test_one_that_has_verbs_and_one_that_has_not_are_told(far):
    near = TCP_ONLY if far.kind == "verbs" else verbs(2)
    said = []
    async with ends(far, near, said) as both:
        with pytest.raises(Rejected, match=r"set the same kind in \[transport\].*fallback"):
            await both.connect()
        with trio.fail_after(5):
            while not said:
                await trio.sleep(0.01)
        assert "node n2" in said[0]
        assert "set the same kind" in said[0]


async def test_one_that_has_verbs_falls_back_to_one_that_has_not_where_it_may():
    async with ends(verbs(1, fallback="tcp"), TCP_ONLY) as both:
        assert kinds(*await both.connect()) == ["tcp", "tcp"]
        assert both.far.status()["troubles"] == []  # that is how they are configured


async def test_falling_back_is_said_and_ends_when_rdma_works_again(caplog):
    caplog.set_level(logging.INFO)
    async with ends(verbs(1, fallback="tcp"), verbs(2, fallback="tcp")) as both:
        run("ip", "link", "set", "p2", "mtu", "1500")
        try:
            near, far = await both.connect()
        finally:
            run("ip", "link", "set", "p2", "mtu", "4500")
        assert kinds(near, far) == ["tcp", "tcp"]
        (trouble,) = both.near.status()["troubles"]
        assert trouble.startswith("reaches n1 by TCP: node n1 at ")
        assert "packets of 4096 bytes do not get through" in trouble
        assert "set the MTU of every interface and switch" in trouble
        assert "node n1 is reached by TCP, for RDMA does not work" in caplog.text
        with trio.fail_after(60):
            better = await both.near.improve(both.nursery, near)
            there = await both.listener.accept()
        assert kinds(better, there) == ["verbs", "verbs"]
        assert both.near.status()["troubles"] == []
        assert "node n1 is reached by RDMA again" in caplog.text


async def test_one_may_fall_back_and_the_other_not():
    async with ends(verbs(1), verbs(2, fallback="tcp")) as both:
        run("ip", "link", "set", "p2", "mtu", "1500")
        try:
            with pytest.raises(Rejected, match=r"do not get through.* it does not fall back"):
                await both.connect()
        finally:
            run("ip", "link", "set", "p2", "mtu", "4500")


WRONG = {
    "device": ({"device": "mlx9_9"}, r"no RDMA device 'mlx9_9'; there are rxe1, rxe2, rxe3"),
    "several": ({"device": ""}, r"several RDMA devices, rxe1, rxe2, rxe3: name one \(device\)"),
    "port": ({"port": 3}, r"no port 3 of rxe2: ports count from 1"),
    "gid": ({"gid": "10.9.0.1"}, r"gid = '10\.9\.0\.1' is no address.*there are .*10\.9\.0\.2"),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
async def test_what_a_new_site_gets_wrong(wrong, said, caplog):
    def make_tcp(offer):
        return TcpTransport(node("n2"), None, insecure_loopback=True, offer=offer)

    with pytest.raises(Unusable, match=r"^\[transport\]: .*" + said):
        open_transport(verbs(2, **wrong), make_tcp, print)
    async with ends(TCP_ONLY, verbs(2, fallback="tcp", **wrong)) as both:
        assert kinds(*await both.connect()) == ["tcp", "tcp"]
        (trouble,) = both.near.status()["troubles"]
        assert trouble.startswith("no RDMA: ")
        assert "nodes are reached by TCP, for here is no RDMA" in caplog.text


MEMLOCK = """
import encodings.idna, os, resource, sys  # nobody may not be able to read Python itself
import storage.transport.verbs.transport
from cascadefs.configuration import Transport
from cascadefs.node.transport import open_transport
from storage.transport import Identity, Role, TcpTransport

resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
os.setuid(65534)
who = Identity("c1", Role.NODE, "n2")
try:
    open_transport(Transport("verbs", device="rxe2"), lambda offer: TcpTransport(who, None, insecure_loopback=True), print)
except Exception as error:
    print(error)
"""


def test_a_node_that_may_not_lock_memory_says_so_at_its_start():
    said = run(sys.executable, "-c", MEMLOCK)
    assert said.startswith("[transport]: the device may not have")
    assert "this process may lock 1048576 bytes" in said
    assert "LimitMEMLOCK=infinity" in said


def test_a_device_that_is_down_and_a_node_as_a_person_starts_it(tmp_path):
    settings = configuration.Node(
        cluster="c1",
        name="n2",
        listen="127.0.0.1:7400",
        etcd=configuration.Etcd(("http://127.0.0.1:1",)),
        transport=verbs(2),
    )
    path = tmp_path / "node.toml"
    path.write_text(configuration.spell(settings))
    run("ip", "link", "set", "p2", "down")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cascadefs.cli", "serve", "-c", path, "--insecure-loopback"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        run("ip", "link", "set", "p2", "up")
    assert done.returncode == 1
    assert done.stderr.startswith("cascadefs: [transport]: port 1 of rxe2 is down: see to its")
    assert "Traceback" not in done.stderr

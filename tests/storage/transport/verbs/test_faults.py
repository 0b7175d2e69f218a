"""Verbs on a wire that loses, is cut, or takes small packets only, and on a device that goes away.

Goal: what arrives is right, and what cannot arrive is told. Method: the guest's own wires (scripts/rdma/network); the control
connection does not go over them, so what is noticed here the queue pair noticed.
"""

from __future__ import annotations

import random
import subprocess
from contextlib import contextmanager

import pytest
import trio

from storage.transport import Broken, Rejected, Role
from storage.transport.verbs.device import device_names
from storage.transport.verbs.library import QPAttr, verbs
from tests.storage.transport.kinds import pause, take
from tests.storage.transport.verbs.fabrics import LOOPBACK, pair, run, transport

pytestmark = pytest.mark.rdma(guest=True)

QUICK = {"retry_count": 6, "timeout_exponent": 12}
"""Sends again after 17 ms."""


@contextmanager
def netem(*words: str):
    """Faults on what node 2 receives and sends."""
    for end in ("p2", "n2"):
        run("tc", "qdisc", "add", "dev", end, "root", "netem", *words)
    try:
        yield
    finally:
        for end in ("p2", "n2"):
            run("tc", "qdisc", "del", "dev", end, "root")


@contextmanager
def link_down():
    """The cable of node 2 is out."""
    run("ip", "link", "set", "p2", "down")
    try:
        yield
    finally:
        run("ip", "link", "set", "p2", "up")


@pytest.mark.parametrize("loss", ["2%", "5%"])
async def test_what_the_wire_loses_is_sent_again(loss):
    messages = [random.Random(n).randbytes(n * 397 % 30_000) for n in range(100)]
    async with pair(QUICK, QUICK) as (near, far):
        with netem("loss", loss):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def send():
                    for message in messages:
                        await near.send([message])

                @nursery.start_soon
                async def answer():
                    for message in await take(far, len(messages)):
                        await far.send([message])

                assert await take(near, len(messages)) == messages


async def test_delay_and_reordering_change_nothing():
    messages = [random.Random(n).randbytes(5000) for n in range(40)]
    async with pair(QUICK, QUICK) as (near, far):
        with netem("delay", "1ms", "reorder", "2%"):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def send():
                    for message in messages:
                        await near.send([message])

                assert await take(far, len(messages)) == messages


async def test_a_cut_wire_breaks_and_a_mended_one_is_dialled_again():
    async with pair() as (near, far):
        with link_down():
            await near.send([b"into the void"])
            with pytest.raises(Broken, match=r"RDMA network"), trio.fail_after(40):
                await near.receive()
            with pytest.raises(Broken), trio.fail_after(40):
                await far.receive()
    await mended()


async def test_a_port_that_goes_down_ends_its_connections_at_once():
    # Nothing is sent, and the queue pairs would bear a minute of silence: it is the device that says it.
    slow = {"retry_count": 6, "timeout_exponent": 20}
    async with pair(slow, slow) as (near, far):
        with link_down():
            with (
                pytest.raises(Broken, match=r"port 1 of rxe2.*is down"),
                trio.fail_after(20),
            ):
                await near.receive()
            with pytest.raises(Broken), trio.fail_after(20):
                await far.receive()
    await mended()


async def test_a_queue_pair_that_fails_ends_its_connection_and_no_other():
    # Soft-RoCE tells no such event; what follows one is the same whoever tells it.
    async with pair() as (near, far), pair() as (other, _):
        near._endpoint._pair.modify(QPAttr(qp_state=verbs.IBV_QPS_ERR), verbs.IBV_QP_STATE)
        near._happened(None)
        other._happened(None)
        assert "the queue pair has failed" in str(near.broken())
        assert other.broken() is None
        with pytest.raises(Broken), trio.fail_after(20):
            await far.receive()


async def test_a_cut_wire_is_noticed_by_an_idle_connection():
    async with pair() as (near, _):
        with link_down(), pytest.raises(Broken, match="RDMA network"), trio.fail_after(40):
            await near.receive()
    await mended()


async def mended():
    async with pair() as (near, far):
        await near.send([b"again"])
        assert await take(far, 1) == [b"again"]


async def test_dialling_over_a_cut_wire_says_which_address_does_not_answer():
    own, other = transport("n1", 0), transport("n2", 1)
    run("ip", "neigh", "flush", "dev", "n2")
    run("ip", "neigh", "flush", "dev", "n1")
    async with trio.open_nursery() as nursery:
        listener = await own.listen(nursery, LOOPBACK)
        with link_down(), pytest.raises(Rejected, match=r"10\.9\.0\.[12].*one network") as told:
            await other.connect(nursery, listener.address, role=Role.NODE)
        assert "node n1" in str(told.value)
        nursery.cancel_scope.cancel()
    own.close()
    other.close()
    await mended()


async def test_a_network_of_smaller_packets_is_named_and_smaller_packets_work():
    run("ip", "link", "set", "p2", "mtu", "1500")
    try:
        with pytest.RaisesGroup(
            pytest.RaisesExc(Broken, match=r"packets of 4096 bytes do not get through.*mtu_bytes"),
            flatten_subgroups=True,
        ):
            async with pair():
                pass
        async with pair({"mtu_bytes": 1024}) as (near, far):
            assert near.status()["mtu_bytes"] == far.status()["mtu_bytes"] == 1024
            await near.send([bytes(100_000)])
            assert await take(far, 1) == [bytes(100_000)]
    finally:
        run("ip", "link", "set", "p2", "mtu", "4500")
    await mended()


async def test_an_interface_that_goes_away_under_load():
    # A device of its own. Deleting its interface waits until nobody has it open any more, so that must not be asked of
    # the process that has.
    run("ip", "link", "add", "going", "mtu", "4500", "type", "dummy")
    run("ip", "link", "set", "going", "up")
    run("ip", "address", "add", "10.8.0.1/24", "dev", "going")
    run("rdma", "link", "add", "rxe9", "type", "rxe", "netdev", "going")
    own, other = transport("n1", 0, device="rxe9"), transport("n2", 0, device="rxe9")
    ends: list[str] = []

    async def send(near):
        while True:
            await near.send([bytes(20_000)])

    async def receive(far):
        while True:
            await far.receive()

    async def until_broken(work, connection):
        try:
            await work(connection)
        except Broken as why:
            ends.append(str(why))

    async with trio.open_nursery() as nursery:
        listener = await own.listen(nursery, LOOPBACK)
        near = await other.connect(nursery, listener.address, role=Role.NODE)
        far = await listener.accept()
        with trio.fail_after(30):
            async with trio.open_nursery() as tasks:
                tasks.start_soon(until_broken, send, near)
                tasks.start_soon(until_broken, receive, far)
                while far.counters.received_messages < 10:
                    await pause(0.01)
                deleting = subprocess.Popen(["ip", "link", "delete", "going"])  # noqa: ASYNC220
        assert len(ends) == 2
        nursery.cancel_scope.cancel()
    own.close()
    other.close()
    with trio.fail_after(40):
        while deleting.poll() is None:
            await pause(0.05)
    assert deleting.returncode == 0
    assert "rxe9" not in device_names()

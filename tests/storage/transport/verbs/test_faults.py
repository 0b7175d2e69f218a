"""Verbs on a wire that loses, is cut, or takes small packets only, and on a device that goes away.

Goal: what arrives is right, and what cannot arrive is told. Method: the guest's own wires (scripts/rdma/network); the control
connection does not go over them, so what is noticed here the queue pair noticed.
"""

from __future__ import annotations

import random
from contextlib import contextmanager

import pytest
import trio

from storage.transport import Broken, Rejected, Role
from tests.storage.transport.kinds import pause, take
from tests.storage.transport.verbs.fabrics import LOOPBACK, pair, resources, run, transport

pytestmark = pytest.mark.rdma(guest=True)


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


@pytest.mark.parametrize("loss", ["2%", "10%"])
async def test_what_the_wire_loses_is_sent_again(loss):
    messages = [random.Random(n).randbytes(n * 397 % 30_000) for n in range(100)]
    patient = {"retry_count": 6, "timeout_exponent": 10}
    async with pair(patient, patient) as (near, far):
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
    async with pair() as (near, far):
        with netem("delay", "5ms", "2ms", "reorder", "25%"):
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
            with pytest.raises(Broken, match=r"RDMA network"), trio.fail_after(20):
                await near.receive()
            with pytest.raises(Broken), trio.fail_after(20):
                await far.receive()
    await mended()


async def test_a_cut_wire_is_noticed_by_an_idle_connection():
    async with pair() as (near, _):
        with link_down(), pytest.raises(Broken, match="RDMA network"), trio.fail_after(20):
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


async def test_a_device_that_goes_away_under_load():
    before = resources()
    own, other = transport("n1", 0), transport("n3", 2)
    try:
        async with trio.open_nursery() as nursery:
            listener = await own.listen(nursery, LOOPBACK)
            near = await other.connect(nursery, listener.address, role=Role.NODE)
            far = await listener.accept()
            ends = []

            async def send():
                try:
                    while True:
                        await near.send([bytes(20_000)])
                except Broken as why:
                    ends.append(str(why))

            async def receive():
                try:
                    while True:
                        await far.receive()
                except Broken as why:
                    ends.append(str(why))

            with trio.fail_after(30):
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(send)
                    tasks.start_soon(receive)
                    await take_some(far)
                    run("rdma", "link", "delete", "rxe3")
            assert len(ends) == 2
            nursery.cancel_scope.cancel()
    finally:
        own.close()
        other.close()
        run("rdma", "link", "add", "rxe3", "type", "rxe", "netdev", "n3")
    assert resources() == before


async def take_some(connection):
    with trio.fail_after(10):
        while connection.counters.received_messages < 10:
            await pause(0.01)

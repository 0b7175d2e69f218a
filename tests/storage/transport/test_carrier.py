"""What two nodes agree to be carried by, and what is said where they cannot.

Goal: both sides come to the same without asking again, whoever dialled; who says nothing offers TCP. Method: the pure rule, and greetings
over loopback.
"""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from storage.transport import Rejected, Role, TcpTransport
from storage.transport.carrier import PLAIN, TCP, VERBS, agree, parse, spell
from storage.transport.framing import GREETING_BYTES, Greeting, Malformed
from tests.storage.transport.kinds import node

BOTH, BACK = (VERBS, TCP), (TCP, VERBS)


@pytest.mark.parametrize(
    ("dialler", "listener", "carrier"),
    [
        (PLAIN, PLAIN, TCP),
        (BOTH, BOTH, VERBS),
        (BACK, BOTH, TCP),  # it has fallen back
        (BACK, (VERBS,), VERBS),  # and may not
        (BOTH, PLAIN, TCP),
        (PLAIN, BOTH, TCP),
        ((VERBS,), PLAIN, None),
        (PLAIN, (VERBS,), None),
        (("pigeons", TCP), BOTH, TCP),
    ],
)
def test_the_first_of_the_diallers_that_the_other_has(dialler, listener, carrier):
    assert agree(dialler, listener) == carrier


@given(st.lists(st.from_regex("[a-z0-9-]{1,20}", fullmatch=True), min_size=1).map(tuple))
def test_an_offer_is_read_as_it_was_written(offer):
    assert offer == PLAIN or parse(spell(offer)[1:]) == offer


@pytest.mark.parametrize("text", ["", " ", "tcp  verbs", "Verbs", "a" * 21, "tcp\n"])
def test_what_is_no_offer(text):
    with pytest.raises(ValueError, match="cannot be read"):
        parse(text)
    body = Greeting.of(node("n1"), 3000).uri.encode() + b"\n" + text.encode()
    head = Greeting.of(node("n1"), 3000).encode()[: GREETING_BYTES - 4]
    with pytest.raises(Malformed):
        Greeting.decode(head + len(body).to_bytes(4, "little") + body)


def test_a_greeting_says_more_than_tcp_only_where_there_is_more():
    plain, more = Greeting.of(node("n1"), 3000), Greeting.of(node("n1"), 3000, BOTH)
    assert plain.encode()[GREETING_BYTES:] == plain.uri.encode()
    assert more.encode()[GREETING_BYTES:] == more.uri.encode() + b"\nverbs tcp"
    assert Greeting.decode(more.encode())[0].offer == BOTH
    assert Greeting.decode(plain.encode())[0].offer == PLAIN


def plain(who, offer):
    return TcpTransport(who, None, insecure_loopback=True, offer=offer)


@pytest.mark.parametrize(
    ("dialler", "listener", "carrier"), [(BOTH, BOTH, VERBS), (BACK, BOTH, TCP), (PLAIN, BOTH, TCP)]
)
async def test_both_sides_know_it(dialler, listener, carrier):
    async with trio.open_nursery() as nursery:
        listening = await plain(node("n1"), listener).listen(nursery, "127.0.0.1:0")
        near = await plain(node("n2"), dialler).connect(nursery, listening.address, role=Role.NODE)
        far = await listening.accept()
        assert near.carrier == far.carrier == carrier
        assert near.status()["transport"] == "tcp"
        nursery.cancel_scope.cancel()


async def test_nodes_without_one_in_common_are_told_both():
    said = []
    async with trio.open_nursery() as nursery:
        own = plain(node("n1"), (VERBS,))
        own.turned_away = said.append
        listening = await own.listen(nursery, "127.0.0.1:0")
        with pytest.raises(Rejected, match=r"node n2 has tcp, and node n1 verbs.*fallback = "):
            await plain(node("n2"), PLAIN).connect(nursery, listening.address, role=Role.NODE)
        while not said:
            await trio.lowlevel.checkpoint()
        assert "node n1 has verbs, and node n2 tcp: set the same kind" in said[0]
        nursery.cancel_scope.cancel()


async def test_anybody_else_comes_by_tcp():
    async with trio.open_nursery() as nursery:
        listening = await plain(node("n1"), (VERBS,)).listen(nursery, "127.0.0.1:0")
        mount = node("m1")
        mount = type(mount)(mount.cluster, Role.MOUNT, "m1")
        near = await plain(mount, PLAIN).connect(nursery, listening.address, role=Role.NODE)
        assert near.carrier == (await listening.accept()).carrier == TCP
        nursery.cancel_scope.cancel()


async def test_a_node_dials_from_the_address_it_is_told():
    async with trio.open_nursery() as nursery:
        listening = await plain(node("n1"), PLAIN).listen(nursery, "127.0.0.1:0")
        own = TcpTransport(node("n2"), None, insecure_loopback=True, source="127.0.0.77")
        await own.connect(nursery, listening.address, role=Role.NODE)
        assert (await listening.accept()).address.startswith("127.0.0.77:")
        other = TcpTransport(node("n2"), None, insecure_loopback=True, source="::1")
        await other.connect(nursery, listening.address, role=Role.NODE)
        nursery.cancel_scope.cancel()

"""What a site configures, and which address of the device that means; what is wrong says what to do."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address

import pytest
import trio

from storage.transport import Broken
from storage.transport.verbs.fabric import Fabric, GidEntry, Unusable, choose_gid
from storage.transport.verbs.transport import address_towards


def mapped(text: str) -> IPv6Address:
    return IPv6Address(f"::ffff:{text}")


LOCAL = GidEntry(0, IPv6Address("fe80::1"), "RoCE v2")
OLD = GidEntry(1, mapped("10.0.0.1"), "RoCE v1")
FIRST = GidEntry(2, mapped("10.0.0.1"), "RoCE v2")
SECOND = GidEntry(3, mapped("10.1.0.1"), "RoCE v2")
GLOBAL = GidEntry(4, IPv6Address("2001:db8::1"), "RoCE v2")
TABLE = [LOCAL, OLD, FIRST, SECOND, GLOBAL]


@pytest.mark.parametrize(
    ("wanted", "towards_peer", "chosen"),
    [
        (None, None, FIRST),
        (None, "10.1.0.1", SECOND),
        (None, "2001:db8::1", GLOBAL),
        (None, "127.0.0.1", FIRST),
        (None, "no address", FIRST),
        ("10.0.0.1", None, FIRST),
        ("10.1.0.1", "10.0.0.1", SECOND),
        ("::ffff:10.1.0.1", None, SECOND),
        ("fe80::1", None, LOCAL),
        (1, None, OLD),
        (0, "10.0.0.1", LOCAL),
    ],
)
def test_the_address_that_is_meant(wanted, towards_peer, chosen):
    assert choose_gid(TABLE, wanted, towards_peer) == chosen


def test_where_there_is_nothing_better():
    assert choose_gid([LOCAL], None, None) == LOCAL
    infiniband = GidEntry(0, IPv6Address("fe80::2"), "InfiniBand")
    assert choose_gid([infiniband], None, "10.0.0.1") == infiniband


@pytest.mark.parametrize("wanted", ["10.9.9.9", 7, "rubbish"])
def test_a_wrong_address_lists_the_right_ones(wanted):
    with pytest.raises(
        Unusable, match=r"gid = .*there are 0: fe80::1 .*3: 10\.1\.0\.1 \(RoCE v2\)"
    ):
        choose_gid(TABLE, wanted, None)


def test_no_address_at_all():
    with pytest.raises(Unusable, match="give its network interface an address"):
        choose_gid([], None, None)
    with pytest.raises(Unusable, match="no address for RoCE v2"):
        choose_gid([OLD], None, None)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"retry_count": 7}, "use 0 to 6"),  # "for ever", and a dead peer would not be noticed
        ({"retry_count": -1}, "use 0 to 6"),
        ({"timeout_exponent": 0}, "use 1 to 20"),  # the same
        ({"timeout_exponent": 21}, "use 1 to 20"),
        ({"ring_bytes": 100_000}, "power of two"),
        ({"ring_bytes": 4096}, "power of two"),
        ({"mtu_bytes": 1500}, r"one of \(256, 512, 1024, 2048, 4096\)"),
        ({"port": 0}, "port"),
        ({"traffic_class": 256}, "traffic_class"),
        ({"polls_before_sleep": -1}, "polls_before_sleep"),
    ],
)
def test_values_that_cannot_be(values, why):
    with pytest.raises(Unusable, match=why):
        Fabric(**values)


def test_how_long_silence_is_borne():
    assert Fabric(timeout_exponent=14, retry_count=3).silence_s == pytest.approx(0.268, abs=0.001)


class _Lost(trio.abc.HostnameResolver):
    """Knows no name any more."""

    async def getaddrinfo(self, *_):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def getnameinfo(self, *_):
        raise NotImplementedError


async def test_a_name_that_is_lost_meanwhile_breaks_that_connection_alone():
    assert await address_towards("unix:/somewhere") is None
    assert await address_towards("127.0.0.1:7400") == "127.0.0.1"
    trio.socket.set_custom_hostname_resolver(_Lost())
    with pytest.raises(Broken, match=r"n1\.example:7400: Temporary failure"):
        await address_towards("n1.example:7400")

"""What two sides say of their queue pairs: what fits, what does not, and what to do then."""

from __future__ import annotations

import msgspec
import pytest

from storage.transport.verbs.attributes import (
    Attributes,
    Farewell,
    Misfit,
    Ready,
    Unable,
    agree,
    decode,
    encode,
)

MINE = Attributes(
    version=1,
    device="rxe1",
    link="Ethernet",
    gid=bytes(10) + b"\xff\xff\x0a\x09\x00\x01",
    lid=0,
    queue_pair=17,
    packet_sequence=5,
    mtu_bytes=4096,
    ring_address=0x7F00_0000_0000,
    ring_bytes=1 << 20,
    credit_address=0x7F00_0010_0000,
    key=0x1234,
    sequence=9,
    fetches=True,
)


@pytest.mark.parametrize("message", [MINE, Ready(), Unable("no card"), Farewell(2**40)])
def test_there_and_back(message):
    assert decode(encode(message)) == message


def test_to_the_byte():
    assert encode(Ready()) == b"\x91\x02"
    assert encode(Farewell(24)) == b"\x92\x04\x18"
    assert msgspec.msgpack.decode(encode(MINE)) == [1, *msgspec.structs.astuple(MINE)]


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x91\x09", b"\x92\x01\x01", b"x" * 100])
def test_what_is_none_of_these_is_refused(data):
    with pytest.raises(Misfit, match="cannot be read"):
        decode(data)


def test_the_smaller_packets_are_agreed_on():
    assert agree(MINE, MINE) == 4096
    assert agree(MINE, msgspec.structs.replace(MINE, mtu_bytes=1024)) == 1024
    assert agree(msgspec.structs.replace(MINE, mtu_bytes=256), MINE) == 256


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "upgrade the older one"),
        ({"link": "InfiniBand", "device": "mlx5_0"}, "mlx5_0 is on InfiniBand.*one network"),
        ({"ring_bytes": 100_000}, "ring of 100000 bytes"),
        ({"ring_bytes": 0}, "ring of 0 bytes"),
        ({"ring_bytes": 1 << 40}, "ring of"),
        ({"ring_address": 4}, "multiple of eight"),
        ({"credit_address": 4}, "multiple of eight"),
        ({"mtu_bytes": 1500}, "damaged"),
        ({"gid": b"short"}, "damaged"),
        ({"sequence": 2**32}, "damaged"),
        ({"queue_pair": 2**24}, "damaged"),
        ({"packet_sequence": -1}, "damaged"),
        ({"lid": 2**16}, "damaged"),
        ({"key": -1}, "damaged"),
        ({"ring_address": -8}, "damaged"),
    ],
)
def test_what_does_not_fit_is_refused(change, why):
    with pytest.raises(Misfit, match=why):
        agree(MINE, msgspec.structs.replace(MINE, **change))

"""Goal: what is decoded is what was encoded, for this store and place only, and a flipped bit is never a frame.

Method: round trips under Hypothesis, every bit of a frame and of a segment header flipped, and bytes written by hand
from FORMAT, so that the layout cannot drift together with the code.
"""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from storage import codec
from storage.codec import Slot

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
SLOT = Slot(0xA5, 7, 3, 9, 4096, 100, 99)


def encoded(metadata=b"meta", identity=0xA5, address=1024, **changes):
    values = {"kind": 5, "shard": 7, "epoch": 3, "index": 100, "timestamp": 12345} | changes
    return codec.encode_head(
        *values.values(), metadata, 10, 0xC0FFEE, identity=identity, address=address
    )


@given(
    st.integers(0, 255), U16, U32, st.integers(1, 2**64 - 1), U64, st.binary(max_size=200), U64, U64
)
def test_a_head_comes_back_as_it_went(
    kind, shard, epoch, index, timestamp, metadata, identity, address
):
    data = b"\xff" * 8 + codec.encode_head(
        kind, shard, epoch, index, timestamp, metadata, 10, 77, identity=identity, address=address
    )
    head = codec.decode_head(data, 8)
    assert head[:10] == (kind, 0, shard, len(metadata), 10, index, epoch, 0, timestamp, 77)
    assert codec.decode_metadata(head, data, 8, identity=identity, address=address) == metadata


def test_the_bytes_are_those_of_the_format_document():
    checked = struct.pack(
        "<4sBBHIIQIIQQ", b"\xcaFR\x01", 5, 0, 7, 4, 10, 100, 3, 0, 12345, 0xC0FFEE
    )
    seed = (0xA5 + 1024 * 0x9E3779B97F4A7C15) % 2**64
    digest = xxh3_64_intdigest(checked + b"meta", seed)
    assert encoded() == checked + struct.pack("<Q", digest) + b"meta"

    checked = struct.pack(
        "<16sIHHQQQQIIQ", b"cascadefs log\0\0\0", 1, 7, 0, 0xA5, 9, 4096, 100, 3, 0, 99
    )
    assert codec.encode_slot(SLOT) == checked + struct.pack("<Q", xxh3_64_intdigest(checked))


@pytest.mark.parametrize(
    "place", [{"identity": 0xA6}, {"address": 1032}, {"address": 1024 + 2**32}]
)
def test_a_frame_is_one_only_in_its_store_and_at_its_address(place):
    data = encoded()
    where = {"identity": 0xA5, "address": 1024} | place
    assert codec.decode_metadata(codec.decode_head(data), data, 0, **where) is None


def test_every_flipped_bit_of_head_and_metadata_is_seen():
    data = encoded()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        head = codec.decode_head(flipped)
        found = head and codec.decode_metadata(head, flipped, 0, identity=0xA5, address=1024)
        assert found is None, bit


def test_every_cut_of_head_and_metadata_is_seen():
    data = encoded()
    for length in range(len(data)):
        head = codec.decode_head(data[:length])
        assert head is None or (
            codec.decode_metadata(head, data[:length], 0, identity=0xA5, address=1024) is None
        )


def test_lengths_beyond_the_limits_are_not_a_head():
    data = bytearray(encoded())
    data[8:12] = struct.pack("<I", codec.METADATA_BYTES_MAX + 1)
    assert codec.decode_head(data) is None
    data = bytearray(encoded())
    data[12:16] = struct.pack("<I", codec.PAYLOAD_BYTES_MAX + 1)
    assert codec.decode_head(data) is None


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_frames_are_whole_multiples_of_eight(metadata, payload):
    size = codec.frame_bytes(metadata, payload)
    assert size % 8 == 0
    assert 0 <= size - (56 + metadata + payload) < 8


@given(st.lists(st.binary(max_size=50)))
def test_a_checksum_does_not_see_where_buffers_end(parts):
    assert codec.checksum_of(parts) == codec.checksum(b"".join(parts))


@given(U64, U16, U32, U64, st.integers(1, 2**40), st.integers(1, 2**64 - 1), U64)
def test_a_slot_comes_back_as_it_went(identity, shard, epoch, number, eighths, first, durable):
    slot = Slot(identity, shard, epoch, number, eighths * 8, first, durable)
    block = codec.encode_block(slot)
    assert len(block) == codec.BLOCK_BYTES
    assert [codec.decode_slot(block, offset) for offset in codec.SLOT_OFFSETS] == [slot, slot]


def test_every_flipped_bit_of_a_slot_is_seen():
    data = codec.encode_slot(SLOT)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert codec.decode_slot(flipped, 0) is None, bit
    assert all(codec.decode_slot(data[:length], 0) is None for length in range(len(data)))


def test_another_format_version_is_told_from_damage():
    data = bytearray(codec.encode_slot(SLOT))
    data[16] = 3
    data[-8:] = struct.pack("<Q", xxh3_64_intdigest(bytes(data[:-8])))
    with pytest.raises(codec.UnknownVersion, match="3"):
        codec.decode_slot(data, 0)

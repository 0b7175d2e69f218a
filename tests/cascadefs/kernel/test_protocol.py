"""The bytes are where the kernel looks for them.

Method: fields are read back from the offsets of include/uapi/linux/fuse.h, written down here once more.
"""

from __future__ import annotations

import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadefs.filesystem import Stat, Usage
from cascadefs.kernel import notification, protocol
from cascadefs.kernel.protocol import OPCODES_MAX, Opcode

SECOND = 10**9
STAT = Stat(
    number=77,
    mode=stat.S_IFREG | 0o640,
    nlink=2,
    uid=11,
    gid=12,
    rdev=0x801,
    size=5_000_000_000,
    blocks=9,
    atime_ns=-1,
    mtime_ns=5 * SECOND + 6,
    ctime_ns=7 * SECOND + 8,
    entry_timeout_s=1.5,
    attribute_timeout_s=2.25,
)


def at(data: bytes, offset: int, form: str) -> int:
    return struct.unpack_from("=" + form, data, offset)[0]


def check_attributes(data: bytes) -> None:
    assert len(data) == 88
    assert [at(data, n * 8, "Q") for n in range(3)] == [77, 5_000_000_000, 9]
    assert [at(data, 24 + n * 8, "q") for n in range(3)] == [-1, 5, 7], "seconds round down"
    assert [at(data, 48 + n * 4, "I") for n in range(3)] == [999_999_999, 6, 8]
    assert [at(data, 60 + n * 4, "I") for n in range(5)] == [STAT.mode, 2, 11, 12, 0x801]
    assert at(data, 80, "I") == 4096


def test_attributes_alone_and_with_a_name():
    check_attributes(protocol.pack_attributes(STAT))
    entry = protocol.pack_entry(STAT)
    assert len(entry) == 128
    assert at(entry, 0, "Q") == 77
    assert (at(entry, 16, "Q"), at(entry, 24, "Q")) == (1, 2)
    assert (at(entry, 32, "I"), at(entry, 36, "I")) == (500_000_000, 250_000_000)
    check_attributes(entry[40:])
    reply = protocol.pack_getattr(STAT)
    assert (at(reply, 0, "Q"), at(reply, 8, "I")) == (2, 250_000_000)
    check_attributes(reply[16:])


def test_absence_is_an_entry_of_node_zero_with_a_time():
    absent = protocol.pack_absence(3.0)
    assert len(absent) == 128
    assert (at(absent, 0, "Q"), at(absent, 16, "Q")) == (0, 3)


def test_statx_has_the_birth_where_it_is_known():
    known, unknown = (protocol.pack_statx(STAT, birth) for birth in (9 * SECOND + 1, None))
    assert len(known) == len(unknown) == 288
    assert at(known, 32, "I") & 0x800
    assert not at(unknown, 32, "I") & 0x800
    body = known[32:]
    assert (at(body, 16, "I"), at(body, 28, "H")) == (2, STAT.mode)
    assert [at(body, 32 + n * 8, "Q") for n in range(3)] == [77, 5_000_000_000, 9]
    times = [(at(body, 64 + n * 16, "q"), at(body, 72 + n * 16, "I")) for n in range(4)]
    assert times == [(-1, 999_999_999), (9, 1), (7, 8), (5, 6)]
    assert (at(body, 128, "I"), at(body, 132, "I")) == (8, 1)


def test_totals():
    data = protocol.pack_statfs(Usage(4096, 100, 50, 40, 30, 20, 255))
    assert len(data) == 80
    assert [at(data, n * 8, "Q") for n in range(5)] == [100, 50, 40, 30, 20]
    assert [at(data, 40 + n * 4, "I") for n in range(3)] == [4096, 255, 4096]


@given(st.lists(st.binary(min_size=1, max_size=255), max_size=20))
def test_entries_of_a_listing_can_be_walked(names):
    data = b"".join(
        protocol.pack_directory_entry(name, number + 2, stat.S_IFDIR, number + 1)
        for number, name in enumerate(names)
    )
    found = []
    offset = 0
    while offset < len(data):
        number, next_offset, length, kind = struct.unpack_from("=QQII", data, offset)
        assert (number, next_offset, kind) == (len(found) + 2, len(found) + 1, 4)
        found.append(data[offset + 24 : offset + 24 + length])
        offset += protocol.directory_entry_bytes(found[-1])
    assert found == names
    assert len(data) % 8 == 0


@pytest.mark.parametrize(
    ("message", "code", "body"),
    [
        (notification.invalidate_node(5, -1, 7), 2, struct.pack("=Qqq", 5, -1, 7)),
        (notification.invalidate_entry(5, b"ab"), 3, struct.pack("=QII", 5, 2, 0) + b"ab\0"),
        (notification.store(5, 4096, b"xyz"), 4, struct.pack("=QQII", 5, 4096, 3, 0) + b"xyz"),
        (notification.delete_entry(5, 6, b"ab"), 6, struct.pack("=QQII", 5, 6, 2, 0) + b"ab\0"),
    ],
)
def test_notifications_answer_no_request(message, code, body):
    assert message == struct.pack("=IiQ", 16 + len(body), code, 0) + body


def test_every_opcode_has_a_place_in_a_table():
    assert max(Opcode) < OPCODES_MAX

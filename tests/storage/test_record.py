"""Records and rows are on the disk as FORMAT says, byte for byte, and stay so.

Method: every record against bytes written by hand from the tables there; every row of a small namespace likewise.
"""

from __future__ import annotations

import struct
from typing import get_args

import msgspec
import pytest

from storage import extents, record
from storage.attributes import DIRECTORY, REGULAR, Attributes
from storage.binding import MOVED, REMOVED, Binding, Tombstone
from storage.namespace import ROOT, Namespace
from storage.table import MemoryTable

RECORDS = [
    (
        record.Create(1, b"f", 2, REGULAR | 0o644, 3, 4, 5, b"t"),
        "99 01 01 c40166 02 cd81a4 03 04 05 c40174",
    ),
    (record.Link(1, b"f", 2), "94 02 01 c40166 02"),
    (record.Unlink(1, b"f", directory=True), "94 03 01 c40166 c3"),
    (record.Rename(1, b"f", 2, b"g", 1), "96 04 01 c40166 02 c40167 01"),
    (record.SetAttributes(2, mtime_ns=-1), "97 05 02 c0 c0 c0 c0 ff"),
    (record.SetXattr(2, b"u", None, 2), "95 06 02 c40175 c0 02"),
    (record.Write(2, 300), "93 07 02 cd012c"),
    (
        record.Commit(2, 9, None, [(0, 9, record.SELF, 1)], 5, 6),
        "97 08 02 09 c0 91 94 00 09 00 01 05 06",
    ),
    (record.Label(1, b"l", 7, move=True), "95 09 01 c4016c 07 c3"),
    (record.Unlabel(1, b"l"), "93 0a 01 c4016c"),
    (record.Batch([record.Link(1, b"f", 2)]), "92 0b 91 94 02 01 c40166 02"),
    (
        record.Batch([record.Expect(1, b"f", 2, 3), record.Event(2, -1)]),
        "92 0b 92 95 1e 01 c40166 02 03 93 1f 02 ff",
    ),
    (record.Prune(2, [(1, 3), (5, 5)], purged=True), "94 0c 02 92 92 01 03 92 05 05 c3"),
    (record.Drop(1, b"f", [2]), "94 0d 01 c40166 91 02"),
    (record.CreateUnnamed(2, REGULAR | 0o644, 3, 4), "95 12 02 cd81a4 03 04"),
    (record.Adopt(3), "92 14 03"),
    (record.Activate(1, b"s", [(b"c", b"d", 7, 8)]), "94 15 01 c40173 91 94 c40163 c40164 07 08"),
    (
        record.Finish(
            1,
            b"c",
            3,
            [(5, 0)],
            1,
            (5, 80),
            [record.Unlink(1, b"f")],
            [(1, b"g", 2)],
            [("k", b"v")],
            b"p",
            b"l",
        ),
        "9c 16 01 c40163 03 91 92 05 00 01 92 05 50 91 94 03 01 c40166 c2"
        "91 93 01 c40167 02 91 92 a16b c40176 c40170 c4016c",
    ),
    (
        record.Attempt(1, b"c", 3, [(5, 0)], 2, 9, b"f"),
        "98 17 01 c40163 03 91 92 05 00 02 09 c40166",
    ),
    (record.Advance(3, [(1, b"c", 7, 8)]), "93 18 03 91 94 01 c40163 07 08"),
    (
        record.Batch([record.Still(2, 3), record.Link(1, b"f", 2)]),
        "92 0b 92 93 21 02 03 94 02 01 c40166 02",
    ),
    (record.Reserve(64), "92 20 40"),
    (record.Close(2), "92 22 02"),
    (record.Detach(1, b"f", 2), "94 23 01 c40166 02"),
    (record.Denied(), "91 25"),
    (record.Rearm(1, b"c", [(5, 0)], again=True), "96 19 01 c40163 91 92 05 00 c3 c2"),
]


@pytest.mark.parametrize(("one", "encoded"), RECORDS)
def test_a_record_is_what_format_says(one, encoded) -> None:
    assert record.encode(one) == bytes.fromhex(encoded)
    assert record.decode(bytes.fromhex(encoded)) == one


def test_every_record_is_here() -> None:
    assert {type(one) for one, _ in RECORDS} == set(get_args(record.Record))


def test_elements_left_out_have_their_defaults() -> None:
    for one, encoded in (
        (record.Create(1, b"f", 2, 3, 4, 5), "97 01 01 c40166 02 03 04 05"),
        (record.Unlink(1, b"f"), "93 03 01 c40166"),
        (record.SetAttributes(2), "92 05 02"),
    ):
        assert record.decode(bytes.fromhex(encoded)) == one


@pytest.mark.parametrize(
    "junk", ["", "c0", "90", "91 0c", "92 07 02", "92 01 a3616263", "80", "ff"]
)
def test_what_is_no_record_is_not_read_as_one(junk) -> None:
    with pytest.raises(msgspec.DecodeError):
        record.decode(bytes.fromhex(junk))


def test_values_are_what_format_says() -> None:
    attributes = Attributes(1, 2, 3, 4, 5, 6, -7, 8, 9, 10, 11, 12, 13, 14)
    row = struct.pack("<4I2Q3q2Q2IQ", 1, 2, 3, 4, 5, 6, -7, 8, 9, 10, 11, 12, 13, 14)
    assert attributes.pack() == row
    assert len(row) == 88
    assert Attributes.unpack(row) == attributes
    binding = Binding(1, 2, 3, DIRECTORY, MOVED, 4, b"from")
    row = struct.pack("<QQQIBQ", 1, 2, 3, DIRECTORY, 3, 4) + b"from"
    assert len(row) == 37 + 4
    assert binding.pack() == row
    assert Binding.unpack(row) == binding
    tombstone = Tombstone(9, REMOVED)
    row = struct.pack("<QBQ", 9, 4, 0)
    assert len(row) == 17
    assert tombstone.pack() == row
    assert Tombstone.unpack(row) == tombstone
    assert extents.pack([(1, 2, 3, 4)]) == struct.pack("<IIQI", 1, 2, 3, 4)


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def down(number: int) -> bytes:
    return u64(2**64 - 1 - number)


def test_rows_are_where_format_says() -> None:
    table = MemoryTable()
    space = Namespace(table)
    for t, one in enumerate(
        (
            record.Create(0, b"", ROOT, 0o755, 0, 0),
            record.Create(ROOT, b"f", 2, REGULAR, 0, 0),
            record.Commit(2, 3, None, [(0, 3, record.SELF, 0)], 0, 0),
            record.Commit(2, 3, 0, [(1, 2, 80, 5)], 0, 0),
            record.SetXattr(2, b"user.x", b"v"),
            record.Label(ROOT, b"l", 3),
            record.Create(ROOT, b"s", 3, 0o120777, 0, 0, 0, b"to"),
            record.Rename(ROOT, b"f", ROOT, b"g"),
        ),
        start=1,
    ):
        assert space.apply(t, 8 * t, one).reason is None
    rows = dict(table.scan(b"\0", b"\xff"))
    f, g, s = (u64(ROOT) + name + b"\0" for name in (b"f", b"g", b"s"))
    binding_f = Binding(2, 1, 1, REGULAR, 1).pack()
    expected = {
        b"E" + g: u64(8) + Binding(2, 1, 2, REGULAR, 3, ROOT, b"f").pack(),
        b"E" + s: u64(7) + Binding(3, 1, 1, 0o120000, 1).pack(),
        b"e" + f + down(8): b"\0" + Tombstone(3, 3, ROOT, b"g").pack(),
        b"e" + f + down(2): b"\1" + binding_f,
        b"V" + f + down(3): u64(8) + b"\0" + Tombstone(3, 3, ROOT, b"g").pack(),
        b"V" + f + down(1): u64(2) + b"\1" + binding_f,
        b"K" + u64(2) + u64(1): u64(3) + bytes(5),
        b"R" + u64(80): bytes([2, 0, 0, 0]),
        b"C" + u64(2) + bytes(4) + bytes(4): u64(3) + extents.pack([(0, 3, 24, 0)]),
        b"C" + u64(2) + b"\0\0\0\1" + bytes(4): u64(4) + extents.pack([(1, 2, 80, 5)]),
        b"X" + u64(2) + b"user.x\0": u64(5) + b"v",
        b"L" + u64(ROOT) + b"l\0": u64(6) + u64(3),
        b"S" + u64(3): b"to",
        **{b"J" + down(t): u64(ROOT) for t in (2, 3, 4, 5, 7, 8)},
        **{b"N" + u64(inode) + name: b"" for inode, name in ((2, f), (2, g), (3, s))},
    }
    inodes = {key for key in rows if key[:1] in (b"I", b"i")}
    assert inodes == {
        *(b"I" + u64(n) for n in (1, 2, 3)),
        *(b"i" + u64(1) + down(t) for t in (1, 2, 7)),
        *(b"i" + u64(2) + down(t) for t in (2, 3, 4, 5)),
    }
    assert {key: row for key, row in rows.items() if key not in inodes} == expected

"""Goal: no record that a mount for some users may propose ends a shard: what fits can be applied, whatever its numbers and names are.

Method: each field of each kind of record in turn is something odd; what `fits` lets pass is applied to a small tree, and so is what
comes behind it.
"""

import struct

import msgspec
import pytest

from cascadefs.node.bounds import fits
from storage import record
from storage.attributes import DIRECTORY, REGULAR, SYMLINK
from storage.namespace import ROOT, Namespace
from storage.table import MemoryTable

NUMBERS = (-1, 0, 2**16, 2**31, 2**32 - 1, 2**40, 2**48, 2**63 - 1, 2**63, 2**64 - 1)
NAMES = (b"", b"a\0b", b"a/b", b".", b"..", b"\0", b"x" * 256, b"x" * 600)
PAIRS = [[(one, other)] for one in NUMBERS for other in NUMBERS]
EXTENTS = [[(offset, 3, 0, 0)] for offset in NUMBERS]
EXTENTS += [[(0, length, 0, 0)] for length in NUMBERS]
EXTENTS += [[(0, 3, address, 0)] for address in NUMBERS]
EXTENTS += [[(0, 3, 0, place)] for place in NUMBERS]
ODD = {"extents": EXTENTS, "contents": PAIRS, "events": PAIRS, "inodes": [[n] for n in NUMBERS]}

USUAL = [
    record.Create(5, b"n", 8, REGULAR | 0o644, 1000, 1000),
    record.Create(5, b"n", 8, SYMLINK | 0o777, 1000, 1000, 0, b"f"),
    record.Create(5, b"n", 8, DIRECTORY | 0o755, 1000, 1000),
    record.CreateUnnamed(8, REGULAR | 0o644, 1000, 1000),
    record.Link(5, b"l", 6),
    record.Unlink(5, b"f"),
    record.Rename(5, b"f", 5, b"g"),
    record.SetAttributes(6, 0o644, 1000, 1000, 1, 1),
    record.SetXattr(6, b"user.x", b"1"),
    record.Commit(6, 3, 0, [(0, 3, record.SELF, 0)], 1, 1),
    record.Label(5, b"l", 1000),
    record.Unlabel(5, b"l"),
    record.Prune(6, [(1, 1)], purged=True),
    record.Drop(0, b"", [7]),
    record.Event(6, 5),
    record.Reserve(1),
    record.Write(6, 0),
    record.Close(5),
    record.Detach(5, b"f", 6),
    record.Rearm(5, b"c", [(1, 1)], True),
    record.Expect(5, b"f", 1, 6),
    record.Still(6, 1),
    record.Once(1, 1),
]


def odd(one):
    """The record with one field that is odd at a time, as far as the wire carries it."""
    for name in one.__struct_fields__:
        value = getattr(one, name)
        for other in ODD.get(name, NAMES if isinstance(value, bytes) else NUMBERS):
            if isinstance(value, bool):
                continue
            changed = msgspec.structs.replace(one, **{name: other})
            yield record.Batch([changed]) if isinstance(changed, record.Part) else changed


class Tree:
    """A directory with a file, and one without a name."""

    def __init__(self):
        self.timestamp = 1000
        self.namespace = Namespace(MemoryTable(), keep_past=True)
        for one in (
            record.Create(ROOT, b"", ROOT, 0o755, 0, 0),
            record.Create(ROOT, b"d", 5, DIRECTORY | 0o777, 1000, 1000),
            record.Create(5, b"f", 6, REGULAR | 0o666, 1000, 1000),
            record.Commit(6, 3, 0, [(0, 3, record.SELF, 0)], 1, 1),
            record.CreateUnnamed(7, REGULAR | 0o600, 1000, 1000),
        ):
            assert self.do(one).reason is None

    def do(self, one):
        self.timestamp += 10
        return self.namespace.apply(self.timestamp, self.timestamp * 100, one)


@pytest.mark.parametrize("usual", USUAL, ids=lambda one: type(one).__name__)
def test_what_fits_can_be_applied(usual):
    assert fits(usual)
    refused = 0
    for one in odd(usual):
        if not fits(one):
            refused += 1
            continue
        tree = Tree()
        try:
            tree.do(one)
            for then in (
                record.Commit(6, 4, None, [(3, 1, record.SELF, 0)], 2, 2),
                record.Unlink(5, b"f"),
            ):
                tree.do(then)
        except (struct.error, OverflowError, AssertionError, ValueError) as error:
            pytest.fail(f"{one}: {error!r}")
    assert refused or type(usual) is record.Write, "that one is not looked at by anybody"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_directory_can_have_is_given_to_nothing(name):
    assert not fits(record.Link(5, name, 6))
    assert not fits(record.Batch([record.Rename(5, b"f", 5, name)]))
    assert fits(record.Create(5, name, 8, REGULAR | 0o644, 1, 1)) is (not name)

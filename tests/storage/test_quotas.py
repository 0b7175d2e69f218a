"""The accounts say what counting afresh says, after any changes of names and contents.

Method: random records over nested directories with quotas, against a sum over all inodes there are.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.attributes import DIRECTORY, REGULAR, Attributes, is_directory
from storage.errors import Reason
from storage.namespace import ROOT, Namespace
from storage.namespace.quotas import QUOTA_XATTR, limit_of
from storage.record import Commit, Create, CreateUnnamed, Link, Rename, SetXattr, Unlink
from storage.table import MemoryTable

NAMES = (b"a", b"b", b"c")
STEP = st.tuples(
    st.sampled_from(
        ["make", "mkdir", "write", "unlink", "rmdir", "link", "rename", "swap", "quota", "unnamed"]
    ),
    *[st.integers(0, 7)] * 4,
)


def counted(space: Namespace, table: MemoryTable, top: int) -> int:
    total = 0
    for _, row in table.scan(b"I", b"J"):
        attributes = Attributes.unpack(row[8:])
        if is_directory(attributes.mode) or not attributes.nlink:
            continue
        if space.is_below(attributes.parent, top):
            total += attributes.size
    return total


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_accounts_are_what_counting_afresh_says(steps):
    table = MemoryTable()
    space = Namespace(table)
    now = 1
    space.apply(now, 8, Create(0, b"", ROOT, 0o755, 0, 0))
    directories, files, refused = [ROOT], [], 0
    for kind, one, two, three, size in steps:
        now += 1
        directory = directories[one % len(directories)]
        other = directories[two % len(directories)]
        name, new = NAMES[three % 3], NAMES[size % 3]
        inode = space.counters.next_inode
        if kind == "make":
            record = Create(directory, name, inode, REGULAR, 0, 0)
            files.append(inode)
        elif kind == "mkdir":
            record = Create(directory, name, inode, DIRECTORY, 0, 0)
        elif kind == "unnamed":
            record = CreateUnnamed(inode, REGULAR, 0, 0)
            files.append(inode)
        elif kind == "write" and files:
            record = Commit(files[two % len(files)], 10 * size, None, [], 0, 0)
        elif kind == "unlink":
            record = Unlink(directory, name)
        elif kind == "rmdir":
            record = Unlink(directory, name, directory=True)
        elif kind == "link" and files:
            record = Link(directory, name, files[two % len(files)])
        elif kind == "rename":
            record = Rename(directory, name, other, new)
        elif kind == "swap":
            record = Rename(directory, name, other, new, 2)
        else:
            record = SetXattr(directory, QUOTA_XATTR, b"1M" if size % 4 else None)
        outcome = space.apply(now, 8 * now, record)
        refused += outcome.reason is Reason.CROSS_QUOTA
        if kind == "mkdir" and outcome.reason is None:
            directories.append(inode)
        for key, _ in table.scan(b"A", b"B"):
            top = int.from_bytes(key[1:], "big")
            attributes = space.attributes(top)
            if attributes is not None and attributes.nlink:
                assert space.quotas.account(top)[0] == counted(space, table, top)
    again = Namespace(table)
    for directory in directories:
        assert again.quotas.accounts(directory) == space.quotas.accounts(directory)


def test_what_is_a_number_of_bytes() -> None:
    assert limit_of(b"0") == 0
    assert limit_of(b"10G") == 10 * 2**30
    for text in (b"", b"G", b"-1", b"1g", b"1.5G", b"1 G", b"9" * 16):
        assert limit_of(text) is None


def test_a_limit_no_account_can_hold_is_refused() -> None:
    assert limit_of(b"8388607T") == 8388607 * 2**40
    space = Namespace(MemoryTable())
    space.apply(1, 8, Create(0, b"", ROOT, 0o755, 0, 0))
    for text in (b"8388608T", b"16777216T", b"9" * 15 + b"T"):
        said = space.apply(2, 80, SetXattr(ROOT, QUOTA_XATTR, text))
        assert said.reason is Reason.MALFORMED


def test_a_tree_may_be_as_deep_as_it_likes_and_larger_than_what_is_remembered(monkeypatch) -> None:
    monkeypatch.setattr("storage.namespace.quotas.REMEMBERED_MAX", 100)
    space = Namespace(MemoryTable())
    space.apply(1, 8, Create(0, b"", ROOT, 0o755, 0, 0))
    space.apply(2, 16, SetXattr(ROOT, QUOTA_XATTR, b"1M"))
    depth = 1500
    for number in range(depth):
        parent = number + 1 if number else ROOT
        space.apply(3 + number, 24, Create(parent, b"d", number + 2, DIRECTORY, 0, 0))
    for number in range(5):
        parent, inode = depth + 1 - 150 * number, depth + 2 + number
        space.apply(9000 + 2 * number, 32, Create(parent, b"f", inode, REGULAR, 0, 0))
        space.apply(9001 + 2 * number, 40, Commit(inode, 7, None, [], 0, 0))
        assert space.quotas.account(ROOT)[0] == 7 * (number + 1)


def test_too_much_below_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("storage.namespace.quotas.ENTRIES_MAX", 3)
    space = Namespace(MemoryTable())
    space.apply(1, 8, Create(0, b"", ROOT, 0o755, 0, 0))
    for number in range(4):
        space.apply(2 + number, 80, Create(ROOT, b"%d" % number, 2 + number, REGULAR, 0, 0))
    said = space.apply(9, 90, SetXattr(ROOT, QUOTA_XATTR, b"1M"))
    assert said.reason is Reason.TOO_MANY_ENTRIES
    assert space.xattr(ROOT, QUOTA_XATTR) is None

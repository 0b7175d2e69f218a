"""The namespace remembers what copies of a dict of dicts, taken at every record, would.

Method: random records on namespaces over both tables and on a dumb twin that is copied after every record. After
each: the same outcome, a refusal changes no row, the present is the same, the counters fit a recount. At the end:
every number of every name ever, random pasts as of a timestamp, and the same rows on both tables. Chunks are made 64
bytes long, so that small files have borders. A namespace without a past is held to the present and the numbers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import extents
from storage.attributes import DIRECTORY, REGULAR, SYMLINK, TYPE_MASK
from storage.errors import Reason
from storage.namespace import ROOT, Namespace, contents
from storage.record import (
    SELF,
    Batch,
    Commit,
    Create,
    Label,
    Link,
    Rename,
    SetAttributes,
    SetXattr,
    Unlabel,
    Unlink,
)
from storage.table import LmdbTable, MemoryTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.record import Record
    from storage.table import Table

CHUNK = 64
NAMES = [b"a", b"b", b"a\xff"]
TYPES = [REGULAR, REGULAR, DIRECTORY, SYMLINK]
NOREPLACE, EXCHANGE = 1, 2


@dataclass
class Node:
    mode: int
    nlink: int
    parent: int
    ctime: int
    mtime: int
    atime: int
    uid: int = 0
    gid: int = 0
    target: bytes = b""
    contents: int = 0
    data: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return self.mode & TYPE_MASK == DIRECTORY


class Twin:
    """What the namespace is, said as directly as Python can."""

    def __init__(self) -> None:
        self.nodes = {ROOT: Node(DIRECTORY | 0o755, 2, 0, 1000, 1000, 1000, contents=1)}
        self.trees: dict[int, dict[bytes, int]] = {ROOT: {}}
        self.labels: dict[tuple[int, bytes], int] = {}
        # Of each name ever: (timestamp, inode, content number), or (timestamp, 0, 0) where it ended.
        self.versions: dict[tuple[int, bytes], list[tuple[int, int, int]]] = {}
        self.journal: dict[int, set[int]] = {1: set()}

    def freeze(self) -> tuple[dict[int, Node], dict[int, dict[bytes, int]]]:
        nodes = {number: copy.copy(node) for number, node in self.nodes.items()}
        for node in nodes.values():
            node.xattrs = dict(node.xattrs)
        return nodes, {number: dict(tree) for number, tree in self.trees.items()}

    def names_of(self, inode: int) -> list[tuple[int, bytes]]:
        return [
            (d, n) for d, tree in self.trees.items() for n, bound in tree.items() if bound == inode
        ]

    def lives(self, inode: int) -> bool:
        return (
            inode in self.nodes and self.nodes[inode].is_directory and self.nodes[inode].nlink > 0
        )

    def apply(
        self, t: int, record: Record, payload: dict[int, bytes], address: int
    ) -> Reason | None:
        match record:
            case Batch(parts):
                before = copy.deepcopy(self.__dict__)
                for part in parts:
                    reason = self.apply(t, part, payload, address)
                    if reason:
                        self.__dict__ = before
                        return reason
                return None
            case Create():
                return self.create(t, record)
            case Link():
                return self.link(t, record)
            case Unlink():
                return self.unlink(t, record)
            case Rename():
                return self.rename(t, record)
            case SetAttributes():
                return self.set_attributes(t, record)
            case SetXattr():
                return self.set_xattr(t, record)
            case Commit():
                return self.commit(t, record, payload, address)
            case Label(directory, label, timestamp):
                if not self.lives(directory):
                    return Reason.ABSENT
                if (directory, label) in self.labels:
                    return Reason.EXISTS
                self.labels[directory, label] = timestamp
            case Unlabel(directory, label):
                if (directory, label) not in self.labels:
                    return Reason.ABSENT
                del self.labels[directory, label]
        return None

    def touched(self, t: int, *directories: int, links: int = 0) -> None:
        self.journal.setdefault(t, set()).update(directories)
        for directory in set(directories):
            node = self.nodes[directory]
            node.ctime = node.mtime = t * 1000

    def bind(self, t: int, directory: int, name: bytes, inode: int) -> None:
        self.trees[directory][name] = inode
        versions = self.versions.setdefault((directory, name), [])
        node = self.nodes[inode]
        node.parent = directory
        if node.contents:
            versions.append((t, inode, node.contents))

    def unbind(self, t: int, directory: int, name: bytes) -> None:
        del self.trees[directory][name]
        self.versions[directory, name].append((t, 0, 0))

    def drop(self, t: int, inode: int) -> None:
        node = self.nodes[inode]
        node.nlink = 0 if node.is_directory else node.nlink - 1
        node.ctime = t * 1000

    def create(self, t: int, r: Create) -> Reason | None:
        if r.parent not in self.nodes:
            return Reason.ABSENT
        if not self.nodes[r.parent].is_directory:
            return Reason.NOT_A_DIRECTORY
        if not self.lives(r.parent):
            return Reason.ABSENT
        if r.name in self.trees[r.parent]:
            return Reason.EXISTS
        kind = r.mode & TYPE_MASK
        now = t * 1000
        node = Node(r.mode, 2 if kind == DIRECTORY else 1, r.parent, now, now, now, r.uid, r.gid)
        node.target = node.data = r.target
        node.contents = 0 if kind == REGULAR else 1
        self.nodes[r.inode] = node
        if kind == DIRECTORY:
            self.trees[r.inode] = {}
            self.nodes[r.parent].nlink += 1
        self.bind(t, r.parent, r.name, r.inode)
        self.touched(t, r.parent)
        return None

    def link(self, t: int, r: Link) -> Reason | None:
        if not self.lives(r.parent) or r.inode not in self.nodes:
            return Reason.ABSENT
        node = self.nodes[r.inode]
        if node.is_directory:
            return Reason.NOT_PERMITTED
        if node.nlink == 0:
            return Reason.ABSENT
        if r.name in self.trees[r.parent]:
            return Reason.EXISTS
        self.bind(t, r.parent, r.name, r.inode)
        node.nlink += 1
        node.ctime = t * 1000
        self.touched(t, r.parent)
        return None

    def unlink(self, t: int, r: Unlink) -> Reason | None:
        inode = self.trees.get(r.parent, {}).get(r.name)
        if inode is None:
            return Reason.ABSENT
        directory = self.nodes[inode].is_directory
        if directory != r.directory:
            return Reason.IS_A_DIRECTORY if directory else Reason.NOT_A_DIRECTORY
        if directory and self.trees[inode]:
            return Reason.NOT_EMPTY
        self.unbind(t, r.parent, r.name)
        self.drop(t, inode)
        self.nodes[r.parent].nlink -= directory
        self.touched(t, r.parent)
        return None

    def below(self, inode: int, directory: int) -> bool:
        while inode != directory:
            if inode == ROOT:
                return False
            inode = self.nodes[inode].parent
        return True

    def rename(self, t: int, r: Rename) -> Reason | None:
        source = self.trees.get(r.parent, {}).get(r.name)
        if source is None or not self.lives(r.new_parent):
            return Reason.ABSENT
        if self.nodes[source].is_directory and self.below(r.new_parent, source):
            return Reason.MALFORMED
        target = self.trees[r.new_parent].get(r.new_name)
        if r.flags & EXCHANGE:
            return self.exchange(t, r, source, target)
        moved = self.nodes[source].is_directory
        if target is not None:
            if r.flags & NOREPLACE:
                return Reason.EXISTS
            if target == source:
                return None
            if self.nodes[target].is_directory:
                if not moved:
                    return Reason.IS_A_DIRECTORY
                if self.trees[target]:
                    return Reason.NOT_EMPTY
            elif moved:
                return Reason.NOT_A_DIRECTORY
            self.drop(t, target)
            self.nodes[r.new_parent].nlink -= moved
        self.bind(t, r.new_parent, r.new_name, source)
        self.unbind(t, r.parent, r.name)
        self.nodes[r.parent].nlink -= moved
        self.nodes[r.new_parent].nlink += moved
        self.nodes[source].ctime = t * 1000
        self.touched(t, r.parent, r.new_parent)
        return None

    def exchange(self, t: int, r: Rename, source: int, target: int | None) -> Reason | None:
        if target is None:
            return Reason.ABSENT
        if self.nodes[target].is_directory and self.below(r.parent, target):
            return Reason.MALFORMED
        if source == target:
            return None
        for inode, frm, to in ((source, r.parent, r.new_parent), (target, r.new_parent, r.parent)):
            self.nodes[frm].nlink -= self.nodes[inode].is_directory
            self.nodes[to].nlink += self.nodes[inode].is_directory
            self.nodes[inode].ctime = t * 1000
        self.bind(t, r.parent, r.name, target)
        self.bind(t, r.new_parent, r.new_name, source)
        self.touched(t, r.parent, r.new_parent)
        return None

    def noted(self, t: int, inode: int) -> Node:
        node = self.nodes[inode]
        node.ctime = t * 1000
        self.journal.setdefault(t, set()).add(node.parent or inode)
        return node

    def set_attributes(self, t: int, r: SetAttributes) -> Reason | None:
        if r.inode not in self.nodes:
            return Reason.ABSENT
        node = self.noted(t, r.inode)
        if r.mode is not None:
            node.mode = node.mode & TYPE_MASK | r.mode
        node.uid = node.uid if r.uid is None else r.uid
        node.gid = node.gid if r.gid is None else r.gid
        node.atime = node.atime if r.atime_ns is None else r.atime_ns
        node.mtime = node.mtime if r.mtime_ns is None else r.mtime_ns
        return None

    def set_xattr(self, t: int, r: SetXattr) -> Reason | None:
        if r.inode not in self.nodes:
            return Reason.ABSENT
        there = self.nodes[r.inode].xattrs
        if r.name in there and r.flags & 1:
            return Reason.ATTRIBUTE_EXISTS
        if r.name not in there and (r.value is None or r.flags & 2):
            return Reason.NO_SUCH_ATTRIBUTE
        if r.value is None:
            del there[r.name]
        else:
            there[r.name] = r.value
        self.noted(t, r.inode)
        return None

    def commit(self, t: int, r: Commit, payload: dict[int, bytes], address: int) -> Reason | None:
        if r.inode not in self.nodes:
            return Reason.ABSENT
        node = self.nodes[r.inode]
        if node.mode & TYPE_MASK != REGULAR:
            return Reason.MALFORMED
        kept = node.data[: r.size] if r.keep is None else node.data[: min(r.keep, r.size)]
        data = bytearray(kept.ljust(r.size, b"\0"))
        for offset, length, place, start in r.extents:
            source = payload[address if place == SELF else place]
            data[offset : offset + length] = source[start : start + length]
        assert len(data) == r.size
        node.data = bytes(data)
        node.contents += 1
        node.mtime = r.mtime_ns
        node.ctime = max(node.ctime, r.changed_ns)
        self.journal.setdefault(t, set()).add(node.parent)
        for name in self.names_of(r.inode):
            self.versions[name].append((t, r.inode, node.contents))
        return None


Choice = tuple[str, int, int, int, int, int]
BYTE = st.integers(0, 255)
CHOICES = st.tuples(
    st.sampled_from(
        ["create"] * 3
        + ["commit"] * 4
        + ["rename"] * 4
        + ["link", "unlink", "unlink", "attributes", "xattr", "label", "batch"]
    ),
    *[BYTE] * 5,
)


class Maker:
    """Turns small numbers into records that make sense about as often as not."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.payload: dict[int, bytes] = {}
        self.next_inode = ROOT + 1

    def directory(self, n: int) -> int:
        living = [number for number in self.twin.trees if self.twin.lives(number)]
        dead = [number for number in self.twin.nodes if number not in living]
        return dead[n % len(dead)] if n % 7 == 6 and dead else living[n % len(living)]

    def inode(self, n: int) -> int:
        known = [*self.twin.nodes, self.next_inode + 5]
        return known[n % len(known)]

    def bound(self, n: int, m: int) -> tuple[int, bytes]:
        """A name that means something, mostly."""
        bound = [(d, name) for d, tree in self.twin.trees.items() for name in tree]
        if not bound or n % 8 == 7:
            return self.directory(n), NAMES[m % len(NAMES)]
        return bound[m % len(bound)]

    def record(self, address: int, choice: Choice) -> Record:
        kind, a, b, c, d, e = choice
        name = NAMES[b % len(NAMES)]
        match kind:
            case "create":
                self.next_inode += 1
                mode = TYPES[c % 4] | d
                target = b"t" * e if mode & TYPE_MASK == SYMLINK else b""
                return Create(self.directory(a), name, self.next_inode, mode, d, e, 0, target)
            case "link":
                return Link(self.directory(a), name, self.inode(c))
            case "unlink":
                return Unlink(*self.bound(a, b), bool(c % 2))
            case "rename":
                flags = [0, 0, 0, NOREPLACE, EXCHANGE, EXCHANGE][e % 6]
                target = self.bound(c, d) if e % 2 else (self.directory(c), NAMES[d % len(NAMES)])
                return Rename(*self.bound(a, b), *target, flags)
            case "attributes":
                fields = [c if c % 3 else None, d if d % 3 else None, e if e % 3 else None]
                return SetAttributes(self.inode(a), *fields, b if b % 2 else None, e * 1000)
            case "xattr":
                value = b"v" * (c % 5) if d % 3 else None
                return SetXattr(self.inode(a), [b"user.x", b"user.y"][b % 2], value, e % 3)
            case "label":
                if e % 4 == 3:
                    return Unlabel(self.directory(a), [b"l", b"m"][b % 2])
                return Label(self.directory(a), [b"l", b"m"][b % 2], c)
        return self.commit(address, a, b, c, d, e)

    def commit(self, address: int, a: int, b: int, c: int, d: int, e: int) -> Commit:
        files = [n for n, node in self.twin.nodes.items() if node.mode & TYPE_MASK == REGULAR]
        inode = files[a % len(files)] if files and a % 16 != 15 else self.inode(a)
        size = b % 200
        keep = None if c % 2 else c
        self.payload[address] = bytes((address * 31 + at) % 255 + 1 for at in range(80))
        old = sorted(self.payload)[d % len(self.payload)]  # staged once, or shared with another
        found = [(d % 200, 1 + e % 70, SELF, e % 10), (e % 200, 1 + d % 40, old, d % 30)][: c % 3]
        extents_ = [
            (at, min(n, size - at), where, start) for at, n, where, start in found if at < size
        ]
        return Commit(inode, size, keep, extents_, e * 1000, e * 1000)


def content_of(space: Namespace, payload: dict[int, bytes], inode: int, t: int | None) -> bytes:
    found = space.attributes(inode) if t is None else space.attributes_at(inode, t)[1]
    data = bytearray(found.size)
    reach = 0
    for chunk, pieces in space.chunks(inode, found.generation, t):
        assert pieces == space.pieces(inode, found.generation, chunk, t)
        for start, length, address, offset in pieces:
            at = chunk * CHUNK + start
            assert at >= reach, "sorted and disjoint"
            assert start + length <= CHUNK
            reach = at + length
            data[at:reach] = payload[address][offset : offset + length]
            assert len(payload[address]) >= offset + length
    assert len(data) == found.size, "no piece reaches behind the end"
    return bytes(data)


def check_state(space: Namespace, frozen: tuple, payload: dict[int, bytes], t: int | None) -> None:
    """The namespace, now or at a timestamp, is the frozen twin."""
    nodes, trees = frozen
    for inode, node in nodes.items():
        found = space.attributes(inode) if t is None else space.attributes_at(inode, t)[1]
        assert found is not None
        seen = (found.mode, found.uid, found.gid, found.nlink, found.size, found.content)
        assert seen == (node.mode, node.uid, node.gid, node.nlink, len(node.data), node.contents)
        times = (found.atime_ns, found.mtime_ns, found.ctime_ns)
        assert times == (node.atime, node.mtime, node.ctime)
        assert found.parent == node.parent
        names = space.xattrs(inode, t)
        assert {name: space.xattr(inode, name, t) for name in names} == node.xattrs
        if node.mode & TYPE_MASK == REGULAR:
            assert content_of(space, payload, inode, t) == node.data
            rows = space.chunks(inode, found.generation, t)
            assert found.stored == sum(extents.bytes_stored(pieces) for _, pieces in rows)
    for directory, tree in trees.items():
        rows = list(space.children(directory) if t is None else space.children_at(directory, t))
        assert [name for name, _ in rows] == sorted(tree)
        for name, binding in rows:
            assert binding.inode == tree[name]
            assert binding.mode == nodes[tree[name]].mode & TYPE_MASK
            one = space.binding(directory, name)
            assert binding == (one if t is None else space.binding_at(directory, name, t))
            rest = (
                space.children(directory, name)
                if t is None
                else space.children_at(directory, t, name)
            )
            assert [n for n, _ in rest] == [n for n in sorted(tree) if n > name]


def check_counters(space: Namespace, twin: Twin) -> None:
    living = [node for node in twin.nodes.values() if node.nlink]
    assert space.counters.live_inodes == len(living)
    assert space.counters.live_bytes == sum(len(node.data) for node in living)


def check_numbers(
    space: Namespace, twin: Twin, batches: set[int], *, keep_past: bool = True
) -> None:
    """Every number of every name ever: dense, and never of something else."""
    for (directory, name), versions in twin.versions.items():
        assert space.head(directory, name) == len(versions)
        assert space.version(directory, name, 0) is None
        assert space.version(directory, name, len(versions) + 1) is None
        assert space.known(directory, name)
        if not keep_past:
            continue
        for number, (timestamp, inode, content) in enumerate(versions, start=1):
            found = space.version(directory, name, number)
            assert found is not None
            assert (found.number, found.timestamp) == (number, timestamp)
            if not inode:
                assert found.tombstone.number == number
                assert found.binding is None
                continue
            binding = found.binding
            assert (binding.inode, binding.base + number - binding.first) == (inode, content)
            assert found.tombstone is None
            if timestamp not in batches:
                # name@vN and name@T are one thing where T is N's own timestamp.
                assert space.binding_at(directory, name, timestamp) == binding
                assert space.attributes_at(inode, timestamp)[1].content == content
    for directory, tree in twin.trees.items():
        gone = {n for (d, n) in twin.versions if d == directory and n not in tree}
        assert {name for name, _, _ in space.deleted(directory)} == gone


def rows_of(table: Table) -> list[tuple[bytes, bytes]]:
    return list(table.scan(b"\0", b"\xff" * 9))


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extents, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(contents, "CHUNK_BYTES", CHUNK)


@pytest.fixture(scope="module")
def lmdb_table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LmdbTable]:
    table = LmdbTable(tmp_path_factory.mktemp("twin") / "table")
    yield table
    table.close()


def start(space: Namespace) -> None:
    assert space.apply(1, 8, Create(0, b"", ROOT, 0o755, 0, 0)).reason is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(CHOICES, max_size=45), st.lists(BYTE, min_size=3, max_size=3))
def test_the_namespace_is_its_twin(
    lmdb_table: LmdbTable, choices: list[Choice], pasts: list[int]
) -> None:
    compare(lmdb_table, choices, pasts)


@pytest.mark.parametrize("seed", range(6))
def test_long_histories(lmdb_table: LmdbTable, seed: int) -> None:
    """What hypothesis, fond of short lists, does not try: deep trees, many versions of few names."""
    random = Random(seed)
    kinds = ["create"] * 3 + ["commit"] * 5 + ["rename"] * 5 + ["link", "unlink", "batch"] * 2
    kinds += ["attributes", "xattr", "label"]
    choices = [
        (random.choice(kinds), *(random.randrange(256) for _ in range(5))) for _ in range(250)
    ]
    compare(lmdb_table, choices, [random.randrange(256) for _ in range(30)])


def compare(lmdb_table: LmdbTable, choices: list[Choice], pasts: list[int]) -> None:
    """Apply the choices to all and compare all there is to see."""
    lmdb_table.abandon()
    memory = MemoryTable()
    space, on_lmdb = Namespace(memory), Namespace(lmdb_table)
    volatile = Namespace(MemoryTable(), keep_past=False)
    spaces = (space, on_lmdb, volatile)
    for each in spaces:
        start(each)
    twin = Twin()
    maker = Maker(twin)
    snapshots = [(1, twin.freeze())]
    batches = set()
    t = 1
    at = 0
    while at < len(choices):
        t += 1 + choices[at][1] % 2
        address = 16 + 8 * t
        if choices[at][0] == "batch":
            count = choices[at][1] % 4
            # Parts are chosen from the state before the batch, as a proposer does.
            parts = [maker.record(address, c) for c in choices[at + 1 : at + 1 + count]]
            record = Batch([p for p in parts if not isinstance(p, Label | Unlabel)])
            batches.add(t)
            at += count
        else:
            record = maker.record(address, choices[at])
        at += 1
        before = rows_of(memory)
        expected = twin.apply(t, record, maker.payload, address)
        outcomes = {each.apply(t, address, record).reason for each in spaces}
        assert outcomes == {expected}
        if expected is not None:
            assert rows_of(memory) == before, "a refusal leaves no trace"
        snapshots.append((t, twin.freeze()))
        check_state(space, snapshots[-1][1], maker.payload, None)
        check_counters(space, twin)
    check_state(volatile, snapshots[-1][1], maker.payload, None)
    check_counters(volatile, twin)
    check_numbers(volatile, twin, batches, keep_past=False)
    check_numbers(space, twin, batches)
    for past in pasts:
        when = past * (t + 2) // 256
        found = [frozen for since, frozen in snapshots if since <= when]
        if found:
            check_state(space, found[-1], maker.payload, when)
    for (directory, label), when in twin.labels.items():
        assert space.label(directory, label) == when
    assert sum(len(space.labels(d)) for d in twin.nodes) == len(twin.labels)
    journal = {when: set(touched) for when, touched in space.journal()}
    assert journal == {when: touched for when, touched in twin.journal.items() if touched}
    assert [when for when, _ in space.journal(before=max(t - 2, 0))] == sorted(
        (when for when in journal if when <= t - 2), reverse=True
    )
    # The same records make the same rows, whatever the table: replay is exact.
    assert rows_of(lmdb_table) == rows_of(memory)
    assert all(c.pack() == space.counters.pack() for c in (on_lmdb.counters, volatile.counters))

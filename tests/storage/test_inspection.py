"""What fsck finds is what is wrong, no less and no more; what repair mends is whole afterwards, and the rest is said.

Method: the small store of test_store, whose every fact is known. One thing is spoiled at a time, everywhere in turn;
`inspect` must say so and change nothing, `mend` must leave a store that is clean, or name what only a copy has.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

import pytest

from storage import record
from storage.disk import RealDisk
from storage.errors import Unusable
from storage.index import LmdbIndex, write_mark
from storage.inspection import Inspection, inspect
from storage.log.reader import Reader
from storage.namespace import ROOT
from storage.remedy import mend
from storage.scrub import Scrub
from storage.superblock import Superblock
from storage.table import LmdbTable, MemoryTable
from tests.storage.retention.conftest import World
from tests.storage.test_store import (
    TickingClock,
    check_facts,
    copy_tree,
    drop,
    facts,
    open_store,
    places,
    small,  # noqa: F401  a fixture
    snapshot,
)


def look(directory: Path, **options) -> Inspection:
    return inspect(RealDisk(directory), LmdbIndex(directory), boot_id="boot", **options)


def mended(directory: Path, found: Inspection, *, recover: bool = False):
    return mend(
        RealDisk(directory),
        LmdbIndex(directory),
        found,
        TickingClock(),
        Random(1),
        boot_id="boot",
        recover=recover,
    )


def spoil(path: Path, offset: int, mask: int = 0x41) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


@pytest.fixture
def copy(small, tmp_path) -> Path:  # noqa: F811
    return copy_tree(small.stopped, tmp_path / "copy")


def test_a_whole_store_is_clean_and_nothing_is_changed(small, copy) -> None:  # noqa: F811
    before = snapshot(copy)
    said = []
    found = look(copy, progress=lambda *how_far: said.append(how_far))
    assert (found.damage, found.damage_count, found.remarks) == ([], 0, [])
    assert found.records == small.last
    assert found.payload_bytes > 500
    assert found.index_rows > 50
    assert snapshot(copy) == before
    assert mended(copy, found)[0] == []


def test_a_store_in_use_is_clean(small, tmp_path) -> None:  # noqa: F811
    """The index is behind the log, the mark too; none of it is damage."""
    directory = copy_tree(small.killed, tmp_path / "copy")
    found = look(directory)
    assert found.damage == []
    # An append that is under way.
    name, high = [(name, high) for _, name, _, high in places(small)][-1]
    path = directory / "log" / name
    data = bytearray(path.read_bytes())
    data[high : high + 20] = data[1024 : 1024 + 20]
    path.write_bytes(data)
    assert look(directory, in_use=True).remarks == []
    assert look(directory).damage == []
    assert "an append that a crash cut" in look(directory).remarks[0]


def test_an_index_of_another_boot_is_a_remark(small, tmp_path) -> None:  # noqa: F811
    directory = copy_tree(small.killed, tmp_path / "copy")
    write_mark(RealDisk(directory), b"another boot")
    found = look(directory)
    assert found.damage == []
    (remark,) = found.remarks
    assert "built again" in remark
    done, left = mended(directory, found)
    assert done
    assert (left.damage, left.remarks) == ([], [])
    assert left.index_rows > 50


def test_a_damaged_payload_names_the_versions_that_need_it(small, copy) -> None:  # noqa: F811
    frames = {index: (name, low, high) for index, name, low, high in places(small)}
    hurt = None
    for name, low, high in frames.values():
        data = (copy / "log" / name).read_bytes()
        at = data.find(b"VERSION and more", low, high)
        if at >= 0:
            hurt = copy / "log" / name, at
    assert hurt is not None
    spoil(*hurt)
    found = look(copy)
    (damage,) = found.damage
    assert damage.where == "log"
    # The first name was replaced by another file later; the hard link kept this content until its next commit.
    assert damage.versions == ["d/also f@v1", "f@v2"] or set(damage.versions) >= {"f@v2"}
    done, left = mended(copy, found)
    assert left.damage == found.damage, "only a copy has those bytes"
    assert not left.index_is_damaged
    del done


@pytest.mark.parametrize("what", ["value", "key", "missing", "position", "other store"])
def test_a_wrong_row_of_the_index_is_found_and_mended(small, copy, what) -> None:  # noqa: F811
    table = LmdbTable(copy / "index" / "index.lmdb")
    key, row = table.first(b"I", b"J")
    match what:
        case "value":
            table.put(key, row[:-1] + bytes([row[-1] ^ 1]))
        case "key":
            table.put(key + b"x", row)
        case "missing":
            table.delete(key)
        case "position":
            position = bytearray(table.get(b"M\0position"))
            position[8] -= 1
            table.put(b"M\0position", bytes(position))
        case "other store":
            position = bytearray(table.get(b"M\0position"))
            position[0] ^= 1
            table.put(b"M\0position", bytes(position))
    table.sync()
    table.close()
    found = look(copy)
    assert found.index_is_damaged
    assert {damage.where for damage in found.damage} == {"index"}
    done, left = mended(copy, found)
    assert done[0] == "threw the index away"
    assert (left.damage, left.remarks) == ([], [])
    store = open_store(copy)
    assert store.recovery == []
    assert not check_facts(facts(store), small.after[small.last])
    drop(store)


@pytest.mark.parametrize("text", [None, b"", b"{}", b"\xff\xfe", b"[" * 60_000])
def test_a_description_is_made_again_from_the_log(small, copy, text) -> None:  # noqa: F811
    path = copy / "cascadefs.json"
    before = path.read_bytes()
    path.unlink()
    if text is not None:
        path.write_bytes(text)
    found = look(copy)
    assert [damage.where for damage in found.damage] == ["description"]
    done, left = mended(copy, found)
    assert "cascadefs.json" in done[0]
    assert left.damage == []
    assert path.read_bytes() == before


def test_what_is_no_store_is_refused(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unusable, match="there is no store here"):
        look(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_flipped_byte_anywhere_in_a_record_is_found(small, tmp_path) -> None:  # noqa: F811
    """And mended, where recovery can: what opens afterwards is clean but for payloads, and a prefix in order."""
    deep = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
    tried = still = 0
    for index, name, low, high in places(small):
        # Padding is covered by nothing, so the last bytes may not count.
        for offset in range(low, high - 8, 1 if deep else 23):
            directory = copy_tree(small.stopped, tmp_path / "copy")
            spoil(directory / "log" / name, offset)
            found = look(directory)
            assert found.damage_count, f"record {index}, byte {offset - low}"
            try:
                _, left = mended(directory, found)
            except Unusable:
                _, left = mended(directory, found, recover=True)
            assert not left.index_is_damaged
            for damage in left.damage:
                assert "payload" in damage.what
                still += 1
            store = open_store(directory)
            last = store.status()["records"]
            if last == 1:  # The root itself was hit: made again.
                drop(store)
            else:
                check_facts(facts(store), small.after[last])
                drop(store)
            shutil.rmtree(directory)
            tried += 1
    print(f"figure: fsck: {tried} offsets of records flipped: all found, {tried - still} mended")
    assert tried > 80


# --- scrub --------------------------------------------------------------------------------------------------------------


def test_a_scrub_reads_everything_in_bounded_steps(copy) -> None:
    store = open_store(copy)
    scrub = Scrub(store._shard.log)
    steps = 1
    while scrub.step(400, 3):
        assert scrub.status()["record"] > 0
        steps += 1
    assert steps >= 6
    frames = list(store._shard.log.frames())
    assert scrub.bytes_read == sum(frame.size_bytes for frame in frames)
    assert (scrub.passes, scrub.damage_count, scrub.damage) == (1, 0, [])
    assert scrub.step(10**6, 10**6) is False
    assert scrub.passes == 2
    drop(store)


def test_a_scrub_finds_what_rots_while_the_store_is_used(small, copy) -> None:  # noqa: F811
    store = open_store(copy)
    scrub = Scrub(store._shard.log)
    assert scrub.step(10**6, 10**6) is False
    index, name, _, high = places(small)[-1]
    spoil(copy / "log" / name, high - 9)
    while scrub.step(10**6, 10**6):
        pass
    assert scrub.damage_count == 1
    assert f"record {index}" in scrub.damage[0]
    drop(store)


def test_a_scrub_goes_on_behind_a_damaged_head(small, copy) -> None:  # noqa: F811
    frames = places(small)
    store = open_store(copy)
    behind = {name for _, name, _, _ in frames}
    assert len(behind) > 1, "several segments"
    spoil(copy / "log" / frames[1][1], frames[1][2] + 9)
    last = [frame for frame in frames if frame[1] != frames[1][1]][-1]
    spoil(copy / "log" / last[1], last[3] - 9)
    scrub = Scrub(store._shard.log)
    while scrub.step(10**6, 10**6):
        pass
    assert scrub.damage_count == 2
    assert "no intact record head" in scrub.damage[0]
    drop(store)


def test_a_scrub_that_cannot_read_says_so_and_goes_on(copy, monkeypatch) -> None:
    store = open_store(copy)
    scrub = Scrub(store._shard.log)
    real = Reader.payload
    calls = []

    def payload(self, frame):
        calls.append(frame.index)
        if len(calls) == 2:
            raise OSError(5, "a bad sector")
        return real(self, frame)

    monkeypatch.setattr(Reader, "payload", payload)
    assert scrub.step(10**6, 10**6) is False
    assert scrub.passes == 1
    assert "a bad sector" in scrub.damage[0]
    assert scrub.damage_count == 1
    assert scrub.bytes_read == sum(frame.size_bytes for frame in store._shard.log.frames())
    drop(store)


def test_a_walk_through_the_index_comes_to_its_end_in_bounded_steps(copy) -> None:
    store = open_store(copy)
    scrub = store.index_scrub
    steps = 1
    while scrub.step(7):
        steps += 1
    assert steps > 5
    rows = len(list(store._table.scan(b"\0", b"\xff" * 9)))
    assert (scrub.passes, scrub.rows_read, scrub.damage) == (1, rows, None)
    drop(store)


def test_a_walk_through_the_index_meets_what_no_question_finds(copy) -> None:
    """A key is turned: whoever asks for it does not find the row, and the walk does."""
    path = copy / "index/index.lmdb"
    data = path.read_bytes()
    # Every page that holds the row: LMDB leaves old ones where they were.
    at = -1
    needle = b"V" + (1).to_bytes(8, "big") + b"link\0"
    hits = 0
    while (at := data.find(needle, at + 1)) >= 0:
        spoil(path, at + len(needle), 1)
        hits += 1
    assert hits
    store = open_store(copy)
    while store.index_scrub.step(5):
        pass
    assert "not" in store.index_scrub.damage
    assert not store.index_scrub.step(5)
    drop(store)


class KeptTable:
    """An index that is a table in memory."""

    def __init__(self, table) -> None:
        self.table = table

    def view(self):
        copy = MemoryTable()
        for key, row in self.table.scan(b"\0", b"\xff" * 9):
            copy.put(key, row)
        return copy


@pytest.mark.parametrize("swept", [False, True])
def test_what_retention_let_go_is_no_damage(swept) -> None:
    """Payloads that are not there any more, rows that only pruned versions showed: all as it should be."""
    world = World(1 << 16)
    world.policy(b"all:1s;min=2")
    for name in (b"f", b"g"):
        inode = world.make(name)
        for number in range(200):
            world.write(inode, bytes([number]) * 3000)
            world.pass_time(60_000_000)
    world.shard.log.sync()
    world.retention.run()
    if swept:
        world.retention.clean()
        assert world.retention.cleaning.segments > 0
    world.shard.publish()
    Superblock(1, f"{world.shard.log.identity:016x}", 1 << 16).write(world.disk)
    write_mark(world.disk, b"boot")
    found = inspect(world.disk, KeptTable(world.table), boot_id="boot", in_use=True)
    assert found.damage == []
    assert found.index_rows > 400
    scrub = Scrub(world.shard.log)
    while scrub.step(10**6, 10**6):
        pass
    assert scrub.damage == []


def test_a_name_dropped_and_swept_is_no_damage() -> None:
    world = World(1 << 16)
    world.policy(b"all:forever;ephemeral=60s")
    inode = world.make(b"tmp")
    for number in range(3):
        world.write(inode, bytes([number]) * 100)
        world.pass_time(1_000_000)
    world.do(record.Unlink(ROOT, b"tmp"))
    world.pass_time(10**9)
    assert set(world.retention.run()) == {"ephemeral"}
    assert world.space.attributes(inode) is None
    world.shard.log.sync()
    world.shard.publish()
    Superblock(1, f"{world.shard.log.identity:016x}", 1 << 16).write(world.disk)
    write_mark(world.disk, b"boot")
    found = inspect(world.disk, KeptTable(world.table), boot_id="boot", in_use=True)
    assert found.damage == []

"""A store on a disk opens after whatever happened to it, says what it found, and never shows wrong bytes.

Method: a small store with a bit of everything, described whole (`facts`: every name, every version, every byte) after
each of its records. Then copies of its directory, taken while it runs or after it stopped, with index and log deleted,
exchanged, cut and flipped; opening a copy must give the facts after some record, unread bytes aside, and say so.

A damaged byte is tried at every so many offsets; at every single one with HYPOTHESIS_PROFILE=deep.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from storage import record
from storage.attributes import DIRECTORY, REGULAR, SYMLINK
from storage.errors import Corruption, Unusable
from storage.extents import DirtyMap
from storage.log.reader import Reader
from storage.namespace import ROOT, Namespace
from storage.shard import PUBLISH_RECORDS_MAX
from storage.store import LocalStore
from storage.superblock import DirectoryLock, Superblock
from storage.table import LmdbTable

SEGMENT_BYTES = 2048
DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"


class TickingClock:
    def __init__(self, now_ns: int = 10**18) -> None:
        self.at = now_ns

    def now_ns(self) -> int:
        self.at += 1_000_000
        return self.at


def open_store(directory: Path, boot: str = "boot", **options) -> LocalStore:
    return LocalStore.open(
        directory,
        TickingClock(),
        Random(7),
        boot_id=boot,
        **{"segment_bytes": SEGMENT_BYTES} | options,
    )


def drop(store: LocalStore) -> None:
    """Let go as a killed process does: nothing is saved, nothing is said."""
    store._table.close()
    store._shard.log._reader.segments.clear()
    if store._lock is not None:
        os.close(store._lock._descriptor)


def copy_file(source: str, target: str) -> None:
    """Without the hole at the end, of which an index has 16 MiB."""
    with open(source, "rb") as file, open(target, "wb") as copy:
        size = os.fstat(file.fileno()).st_size
        copy.write(file.read(1 << 18) if size > 1 << 20 else file.read())
        assert not file.read(1 << 12).strip(b"\0")
        copy.truncate(size)


def copy_tree(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, copy_function=copy_file))


def killed(store: LocalStore, target: Path) -> Path:
    """What a kill right now would leave."""
    shutil.copytree(store.directory, target)
    return target


def save(
    store: LocalStore, inode: int, *writes: tuple[int, bytes], size: int | None = None
) -> None:
    dirty = DirtyMap()
    for at, data in writes:
        dirty.write(at, data)
    end = max([at + len(data) for at, data in writes], default=0)
    wanted = max(store.attributes(inode).size, end) if size is None else size
    assert store.commit(inode, dirty, wanted, size, 0, 0).reason is None


def steps(store: LocalStore):
    """The life of a small store, a record or so at each step."""
    make = lambda n, name, kind, at=ROOT: record.Create(at, name, n, kind | 0o644, 1, 2)  # noqa: E731
    yield store.propose(make(2, b"f", REGULAR))
    yield save(store, 2, (0, b"first version"))
    yield save(store, 2, (6, b"VERSION and more"))
    yield store.propose(make(3, b"d", DIRECTORY))
    yield store.propose(make(4, b"inside", REGULAR, 3))
    yield save(store, 4, (0, b"a" * 300), (1000, b"b" * 50))
    yield store.stage(4, 100, b"staged for nobody")
    yield store.propose(record.Link(3, b"also f", 2))
    yield store.propose(record.SetXattr(2, b"user.note", b"kept"))
    yield save(store, 4, size=20)
    yield store.propose(record.Rename(3, b"inside", ROOT, b"f"))
    yield store.propose(record.Create(ROOT, b"link", 5, SYMLINK | 0o777, 1, 2, 0, b"d/also f"))
    yield store.propose(record.Label(ROOT, b"then", 5))
    yield store.propose(record.Unlink(ROOT, b"link"))
    yield save(store, 2, (0, b"c" * 200))
    yield store.propose(record.Batch([make(6, b"g", REGULAR), record.SetAttributes(6, mode=0o600)]))
    yield save(store, 6, (0, b"last"))


DAMAGED = "damaged"


def bytes_at(store: LocalStore, inode: int, timestamp: int | None) -> bytes | str:
    if timestamp is None:
        attributes = store.attributes(inode)
    else:
        attributes = store.attributes_at(inode, timestamp)[1]
    try:
        return bytes(store.read(inode, attributes, timestamp, 0, attributes.size))
    except Corruption:
        return DAMAGED


def facts(store: LocalStore) -> dict[tuple, object]:
    """All there is to see."""
    found: dict[tuple, object] = {}
    directories = [ROOT]
    while directories:
        directory = directories.pop()
        names = {name for name, _ in store.children(directory)}
        names |= {name for name, _, _ in store.deleted(directory)}
        found["names", directory] = sorted(name for name, _ in store.children(directory))
        found["labels", directory] = store.labels(directory)
        for name in names:
            entry = (directory, name)
            binding = store.binding(*entry)
            found["binding", entry] = binding
            if binding is not None:
                attributes = store.attributes(binding.inode)
                found["attributes", entry] = attributes.pack()
                found["target", entry] = store.target(binding.inode)
                found["xattrs", entry] = [
                    (n, store.xattr(binding.inode, n)) for n in store.xattrs(binding.inode)
                ]
                if binding.mode == DIRECTORY:
                    directories.append(binding.inode)
                if binding.mode == REGULAR:
                    found["bytes", entry] = bytes_at(store, binding.inode, None)
            for number in range(1, store.head(*entry) + 1):
                version = store.version(*entry, number)
                found["version", entry, number] = version
                if version and version.binding and version.binding.mode == REGULAR:
                    at = bytes_at(store, version.binding.inode, version.timestamp)
                    found["bytes", entry, number] = at
    return found


def check_facts(found: dict[tuple, object], expected: dict[tuple, object]) -> bool:
    """Equal, save bytes that say they are damaged; whether there were any."""
    assert found.keys() == expected.keys()
    hurt = False
    for key, value in found.items():
        if key[0] == "bytes" and value is DAMAGED:
            hurt = True
        else:
            assert value == expected[key], key
    return hurt


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> SimpleNamespace:
    """The small store stopped, the same killed, and its facts after each record."""
    base = tmp_path_factory.mktemp("small")
    store = open_store(base / "live", segment_bytes=SEGMENT_BYTES)
    after = {0: None, 1: facts(store)}
    for _ in steps(store):
        for index in range(max(after) + 1, store.status()["records"] + 1):
            after[index] = facts(store)
    killed(store, base / "killed")
    store.close()
    last = max(after)
    assert last == 18
    assert len(list((base / "live" / "log").glob("*.seg"))) >= 2
    return SimpleNamespace(stopped=base / "live", killed=base / "killed", after=after, last=last)


@pytest.fixture
def copy_of(tmp_path):
    numbers = iter(range(10**6))

    def copy(directory: Path) -> Path:
        return copy_tree(directory, tmp_path / f"copy{next(numbers)}")

    return copy


# --- the ordinary ways ------------------------------------------------------------------------------------------------


def test_a_clean_stop_leaves_nothing_to_say(small, copy_of) -> None:
    directory = copy_of(small.stopped)
    assert sorted(path.name for path in directory.iterdir()) == ["cascadefs.json", "index", "log"]
    for _ in range(2):
        store = open_store(directory, boot="another boot")
        assert store.recovery == []
        check_facts(facts(store), small.after[small.last])
        assert not store.unsynced()
        store.close()


def test_a_killed_store_applies_what_the_index_had_not_seen(small, copy_of) -> None:
    store = open_store(copy_of(small.killed))
    (said,) = store.recovery
    assert said == f"applied {small.last - 1} records the index had not seen"
    assert not check_facts(facts(store), small.after[small.last])
    store.close()


def test_counters_and_numbers_go_on_after_a_kill(small, copy_of) -> None:
    for directory in (small.killed, small.stopped):
        store = open_store(copy_of(directory))
        assert store.allocate_inode() == 7
        assert store.counters.live_inodes == 5
        assert store.counters.live_bytes == 20 + 200 + 4
        t = store.now()
        store.propose(record.SetAttributes(2, mode=0))
        assert store.attributes_row(2)[0] > t
        drop(store)


def test_another_boot_builds_the_index_again(small, copy_of) -> None:
    store = open_store(copy_of(small.killed), boot="another")
    assert store.recovery == [
        "the machine went down without a clean stop; it is built again from the log",
        f"built the index from {small.last} records of the log",
    ]
    assert not check_facts(facts(store), small.after[small.last])
    store.close()


def test_an_index_that_runs_says_which_boot_at_once(small, copy_of) -> None:
    """Or a power cut before the first publication would leave one that says it was closed."""
    directory = copy_of(small.stopped)
    store = open_store(directory)
    left = killed(store, directory.parent / "left")
    drop(store)
    again = open_store(left, boot="another")
    assert "went down" in again.recovery[0]
    again.close()


def test_volatile_stores_begin_empty() -> None:
    store = LocalStore.open_volatile(TickingClock(), owner=(3, 4))
    assert store.attributes(ROOT).uid == 3
    assert store.recovery == []
    store.propose(record.Create(ROOT, b"f", store.allocate_inode(), REGULAR, 0, 0))
    save(store, 2, (0, b"bytes"))
    assert bytes_at(store, 2, None) == b"bytes"
    assert not store.unsynced()
    assert store.space()[0] > 0
    store.close()


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_settled_time_is_final(small, copy_of) -> None:
    clock = TickingClock()
    store = LocalStore.open(copy_of(small.stopped), clock, Random(), boot_id="boot")
    now = store.now()
    assert store.settle(now)
    assert not store.settle(now + 10**9)
    clock.at -= 10**12  # the wall clock falls back
    store.propose(record.SetAttributes(2, mode=0))
    assert store.attributes_row(2)[0] == now + 1
    assert store.now() == now + 1
    store.close()


def test_a_clock_behind_the_log_does_not_reorder_history(small, copy_of) -> None:
    store = LocalStore.open(copy_of(small.killed), TickingClock(0), Random(), boot_id="boot")
    last = next(store.journal())[0]
    store.propose(record.SetAttributes(2, mode=0))
    assert next(store.journal())[0] == last + 1
    store.close()


# --- what costs what --------------------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Records applied, and heads decoded."""
    counts = {"applied": 0, "heads": 0}
    apply, decode = Namespace.apply, Reader.decode

    def counting_apply(self, *args):
        counts["applied"] += 1
        return apply(self, *args)

    def counting_decode(self, *args):
        counts["heads"] += 1
        return decode(self, *args)

    monkeypatch.setattr(Namespace, "apply", counting_apply)
    monkeypatch.setattr(Reader, "decode", counting_decode)
    return counts


@pytest.mark.slow
def test_starting_costs_what_is_new_and_not_what_there_is(tmp_path, monkeypatch) -> None:
    store = open_store(tmp_path / "s", segment_bytes=1 << 20)
    for number in range(5000):
        name = b"%d" % number
        store.propose(record.Create(ROOT, name, store.allocate_inode(), REGULAR, 0, 0))
        if number == 4500:
            store._shard.log.sync()
    left = killed(store, tmp_path / "killed")
    store.close()
    counts = counted(monkeypatch)
    store = open_store(tmp_path / "s")
    assert store.recovery == []
    assert counts["applied"] == 0
    assert counts["heads"] <= 10
    drop(store)
    counts.update(applied=0, heads=0)
    store = open_store(left)
    tail = 5001 % PUBLISH_RECORDS_MAX
    assert counts["applied"] <= tail
    assert counts["heads"] <= 2.2 * tail + 20  # once to find the end, once to apply them
    assert store.recovery == [f"applied {counts['applied']} records the index had not seen"]
    assert len(list(store.children(ROOT))) == 5000
    drop(store)


# --- the index ----------------------------------------------------------------------------------------------------------


def check_rebuilt(directory: Path, small: SimpleNamespace, said: str) -> None:
    store = open_store(directory)
    assert said in store.recovery[0]
    assert store.recovery[-1] == f"built the index from {small.last} records of the log"
    assert not check_facts(facts(store), small.after[small.last])
    store.close()
    store = open_store(directory)
    assert store.recovery == []
    store.close()


@pytest.mark.parametrize("state", ["stopped", "killed"])
def test_an_index_deleted(small, copy_of, state) -> None:
    directory = copy_of(getattr(small, state))
    shutil.rmtree(directory / "index")
    check_rebuilt(directory, small, "built the index")


def test_an_older_index_put_back(tmp_path, small) -> None:
    store = open_store(tmp_path / "s")
    for number, _ in enumerate(steps(store)):
        if number == 7:
            store.publish()
            old = tmp_path / "old"
            shutil.copytree(tmp_path / "s" / "index", old)
    store.close()
    shutil.rmtree(tmp_path / "s" / "index")
    shutil.copytree(old, tmp_path / "s" / "index")
    store = open_store(tmp_path / "s")
    assert store.recovery == ["applied 9 records the index had not seen"]
    assert facts(store).keys() == small.after[small.last].keys()
    store.close()


def test_an_older_log_put_back_under_a_newer_index(tmp_path, small) -> None:
    store = open_store(tmp_path / "s")
    older = None
    for number, _ in enumerate(steps(store)):
        if number == 7:
            older = shutil.copytree(tmp_path / "s" / "log", tmp_path / "log")
    store.close()
    shutil.rmtree(tmp_path / "s" / "log")
    shutil.copytree(older, tmp_path / "s" / "log")
    store = open_store(tmp_path / "s")
    assert "the index does not fit the log and is built again from it" in store.recovery
    assert store.status()["records"] == 9
    assert facts(store).keys() == small.after[9].keys()
    store.close()


def test_the_index_of_another_store(tmp_path, small, copy_of) -> None:
    other = LocalStore.open(tmp_path / "other", TickingClock(), Random(8), boot_id="boot")
    other.propose(record.Create(ROOT, b"strange", 2, REGULAR, 0, 0))
    other.close()
    directory = copy_of(small.stopped)
    shutil.rmtree(directory / "index")
    shutil.copytree(tmp_path / "other" / "index", directory / "index")
    check_rebuilt(directory, small, "belongs to another store")


def overwrite_index(directory: Path, change) -> None:
    path = directory / "index" / "index.lmdb"
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:5000],
        lambda data: data[:4096],
        lambda data: data[:100],
        lambda data: b"junk" * 5000,
        lambda data: bytes(len(data)),
        lambda data: b"\0" * 8192 + data[8192:],
    ],
)
def test_an_index_cut_or_overwritten(small, copy_of, change) -> None:
    directory = copy_of(small.stopped)
    overwrite_index(directory, change)
    check_rebuilt(directory, small, "the index is damaged")


@pytest.mark.slow
def test_a_flipped_byte_in_the_pages_that_say_where_the_index_is(small, tmp_path) -> None:
    """LMDB's two meta pages. It keeps no checksums, so a flip in a page of rows is *not* always noticed."""
    data = (small.stopped / "index" / "index.lmdb").read_bytes()
    rebuilt = 0
    for at in range(0, 180, 1 if DEEP else 9):
        for page in (0, 4096):
            directory = copy_tree(small.stopped, tmp_path / "copy")
            flipped = bytearray(data)
            flipped[page + at] ^= 0x41
            (directory / "index" / "index.lmdb").write_bytes(flipped)
            try:
                store = open_store(directory)
            except OSError as error:
                if error.errno != errno.ENOMEM:  # a map too large for any machine
                    raise
            else:
                rebuilt += bool(store.recovery)
                assert not check_facts(facts(store), small.after[small.last])
                drop(store)
            shutil.rmtree(directory)
    assert rebuilt


def test_an_empty_index_file_is_an_index_not_made_yet(small, copy_of) -> None:
    directory = copy_of(small.stopped)
    overwrite_index(directory, lambda data: b"")
    check_rebuilt(directory, small, "built the index")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"M\0position", None),
        (b"M\0position", b"short"),
        (b"M\0counters", None),
        (b"M\0counters", b"short"),
    ],
)
def test_an_index_that_does_not_know_where_it_stands(small, copy_of, key, value) -> None:
    directory = copy_of(small.stopped)
    table = LmdbTable(directory / "index" / "index.lmdb")
    table.delete(key) if value is None else table.put(key, value)
    table.sync()
    table.close()
    check_rebuilt(directory, small, "the index is damaged")


# --- the log ------------------------------------------------------------------------------------------------------------


def open_somehow(directory: Path) -> LocalStore:
    """As an operator would: and if it is refused with a reason, once more with --recover."""
    try:
        return open_store(directory)
    except Unusable as error:
        if "--recover" not in str(error):
            raise
        return open_store(directory, recover=True)


def check_damaged(
    directory: Path, small: SimpleNamespace, least: int, *, may_be_silent: bool
) -> int:
    """Opens, shows the facts after some record at or behind `least`; the index of that record."""
    store = open_somehow(directory)
    index = store.status()["records"]
    if index == 1 and facts(store) != small.after[1]:
        index = 0  # not even the root was left: begun anew, and said so
    else:
        hurt = check_facts(facts(store), small.after[index])
        assert store.recovery or hurt or may_be_silent
    assert least <= index <= small.last
    if index < small.last:
        assert store.recovery, "what is missing is said"
    drop(store)
    return index


def places(small: SimpleNamespace) -> list[tuple[int, str, int, int]]:
    """(first byte, segment file, offset, end offset) of each record, by index."""
    store = open_store(small.stopped, read_only=True)
    found = []
    for frame in store._shard.log.frames():
        number, offset = divmod(frame.address, SEGMENT_BYTES)
        found.append((frame.index, f"{number:016x}.seg", offset, offset + frame.size_bytes))
    drop(store)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("state", ["stopped", "killed"])
def test_a_flipped_byte_anywhere_in_the_log(small, tmp_path, state, indexed) -> None:
    source = getattr(small, state)
    frames = places(small)
    tried = 0
    for segment in sorted((source / "log").glob("*.seg")):
        data = segment.read_bytes()
        step = 1 if DEEP else 61
        for offset in range(0 if DEEP else hash(segment.name) % step, len(data), step):
            directory = copy_tree(source, tmp_path / "copy")
            if not indexed:
                shutil.rmtree(directory / "index")
            hurt = bytearray(data)
            hurt[offset] ^= 0x41
            (directory / "log" / segment.name).write_bytes(hurt)
            hit = [
                i for i, name, low, high in frames if name == segment.name and low <= offset < high
            ]
            behind = [i for i, name, low, _ in frames if (name, low) > (segment.name, offset)]
            least = hit[0] - 1 if hit else (behind or [small.last + 1])[0] - 1
            # Padding, the unused end of a segment, and what no reader needs may change and nobody notices.
            check_damaged(directory, small, least, may_be_silent=True)
            shutil.rmtree(directory)
            tried += 1
    print(
        f"figure: log, {state}, {'with' if indexed else 'without'} index: {tried} offsets flipped"
    )
    assert tried > 50


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("state", ["stopped", "killed"])
def test_the_log_cut_anywhere(small, tmp_path, state, indexed) -> None:
    source = getattr(small, state)
    frames = places(small)
    tried = 0
    segments = sorted((source / "log").glob("*.seg"))
    for at, segment in enumerate(segments):
        data = segment.read_bytes()
        used = max(high for _, name, _, high in frames if name == segment.name)
        step = 1 if DEEP else 61
        for length in range(1024 if at == 0 else 0, used, step):
            directory = copy_tree(source, tmp_path / "copy")
            if not indexed:
                shutil.rmtree(directory / "index")
            (directory / "log" / segment.name).write_bytes(data[:length])
            for later in segments[at + 1 :]:
                (directory / "log" / later.name).unlink()
            whole = [i for i, name, _, high in frames if (name, high) <= (segment.name, length)]
            reached = check_damaged(directory, small, max(whole, default=0), may_be_silent=False)
            # Padding may be gone: the record is whole without it.
            assert reached <= max(whole, default=0) + 1
            shutil.rmtree(directory)
            tried += 1
    print(f"figure: log, {state}, {'with' if indexed else 'without'} index: {tried} lengths cut")
    assert tried > 20


def test_a_log_that_is_gone_is_not_taken_for_an_empty_store(small, copy_of) -> None:
    directory = copy_of(small.stopped)
    shutil.rmtree(directory / "log")
    for options in ({}, {"recover": True}, {"read_only": True}):
        with pytest.raises(Unusable, match="no log"):
            open_store(directory, **options)


# --- the directory ------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_anywhere_in_the_description(small, copy_of) -> None:
    directory = copy_of(small.stopped)
    path = directory / "cascadefs.json"
    text = path.read_bytes()
    refused = 0
    for offset in range(len(text)):
        for bit in (1, 0x20):
            path.write_bytes(text[:offset] + bytes([text[offset] ^ bit]) + text[offset + 1 :])
            try:
                store = open_store(directory)
            except Unusable:
                refused += 1
            else:
                check_facts(facts(store), small.after[small.last])
                store.close()
    assert refused > len(text)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1}', b"\xff"])
def test_a_description_that_is_none(small, copy_of, text) -> None:
    directory = copy_of(small.stopped)
    (directory / "cascadefs.json").write_bytes(text)
    with pytest.raises(Unusable, match=r"format version|not a store description"):
        open_store(directory)


def test_a_store_without_its_description_is_not_made_again(small, copy_of) -> None:
    directory = copy_of(small.stopped)
    (directory / "cascadefs.json").unlink()
    with pytest.raises(Unusable, match="restore that file"):
        open_store(directory)


def test_a_making_cut_short_is_finished(tmp_path, monkeypatch) -> None:
    def fail(*_args) -> None:
        raise OSError("power")

    with monkeypatch.context() as patch:
        patch.setattr(Superblock, "write", fail)
        with pytest.raises(OSError, match="power"):
            open_store(tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert store.attributes(ROOT) is not None
    store.close()
    assert open_store(tmp_path / "s").recovery == []


def test_one_daemon_at_a_time(tmp_path) -> None:
    store = open_store(tmp_path / "s")
    for options in ({}, {"read_only": True}):
        with pytest.raises(Unusable, match=f"in use by process {os.getpid()}"):
            open_store(tmp_path / "s", **options)
    store.close()
    open_store(tmp_path / "s").close()


def test_a_lock_file_removed_by_its_holder_is_not_the_lock(tmp_path, monkeypatch) -> None:
    """One that was opened just before its holder removed it locks nobody out."""
    first = DirectoryLock(tmp_path)
    real = os.open
    calls = []

    def opened(*args, **kwargs):
        descriptor = real(*args, **kwargs)
        calls.append(descriptor)
        if len(calls) == 1:
            first.release()
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        second = DirectoryLock(tmp_path)
    assert len(calls) == 2
    with pytest.raises(Unusable):
        DirectoryLock(tmp_path)
    second.release()


# --- reading only -------------------------------------------------------------------------------------------------------


def snapshot(directory: Path) -> dict[str, object]:
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.name == "index.lmdb-lock":  # LMDB's table of readers
            continue
        status = path.stat()
        found[str(path)] = (status.st_mtime_ns, path.read_bytes() if path.is_file() else None)
    return found


@pytest.mark.parametrize("state", ["stopped", "killed", "torn", "damaged", "index"])
async def test_a_read_only_store_changes_nothing(small, copy_of, state) -> None:
    directory = copy_of(small.killed if state == "killed" else small.stopped)
    last = small.last
    if state in ("torn", "damaged"):
        frames = places(small)
        index, name, low, high = frames[-1 if state == "torn" else 8]
        path = directory / "log" / name
        data = bytearray(path.read_bytes())
        if state == "torn":
            del data[(low + high) // 2 :]
        else:
            data[low + 8] ^= 1
            shutil.rmtree(directory / "index")
        path.write_bytes(data)
        last = index - 1
    if state == "index":
        overwrite_index(directory, lambda data: b"junk" * 5000)
    before = snapshot(directory)
    store = open_store(directory, read_only=True)
    assert store.recovery if state != "stopped" else not store.recovery
    assert not check_facts(facts(store), small.after[last])
    store.publish()
    assert not store.unsynced()
    await store.wait_durable()
    assert store.status()["records"] == last
    store.close()
    assert snapshot(directory) == before


def test_reading_only_makes_no_store(tmp_path) -> None:
    (tmp_path / "s").mkdir()
    for name in ("s", "absent"):
        with pytest.raises(Unusable, match="no store here"):
            open_store(tmp_path / name, read_only=True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "s"]


def test_a_store_never_begun_has_nothing_to_show(tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("storage.shard.Shard.format", lambda *_args: None)
        open_store(tmp_path / "s").close()
    with pytest.raises(Unusable, match="nothing to show"):
        open_store(tmp_path / "s", read_only=True)


# --- closing ------------------------------------------------------------------------------------------------------------


def test_a_stop_that_could_not_save_is_not_a_clean_one(small, copy_of, monkeypatch) -> None:
    directory = copy_of(small.stopped)
    store = open_store(directory)
    store.propose(record.SetAttributes(2, mode=0))

    def fail(*_args) -> int:
        raise OSError("the disk is gone")

    monkeypatch.setattr(store._shard.log, "sync", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        store.close()
    monkeypatch.undo()
    again = open_store(directory, boot="another")  # and it is not locked
    assert "without a clean stop" in again.recovery[0]
    again.close()

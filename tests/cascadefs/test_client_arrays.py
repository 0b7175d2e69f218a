"""Tensors and tables over versions: what is read is what is asked for, and it is what the versions hold."""

import errno
import threading

import msgspec
import numpy as np
import pytest

from cascadefs.client import Batch, Client, calls
from cascadefs.client.operations import Operations
from storage import record
from storage.attributes import DIRECTORY, REGULAR
from storage.namespace import ROOT
from tests.triggers.handler.card import Card
from triggers.access import Identity
from triggers.cut import StoreCut
from triggers.handler.copies import Copies
from triggers.handler.device import DeviceCache
from triggers.handler.effects import encode
from triggers.handler.frames import CutFrames
from triggers.handler.table import sql

MINUTE = 60 * 10**9


class _Direct:
    """Executes, and counts the versions whose bytes were asked for."""

    def __init__(self, store, clock):
        self.operations = Operations(store, clock, Identity(0, 0))
        self.read = []

    def execute(self, call, buffers):
        if isinstance(call, calls.Get):
            self.read.append((call.path, call.version))
        return self.operations.execute(call, buffers)

    def close(self):
        pass


@pytest.fixture
def direct(store, clock):
    return _Direct(store, clock)


@pytest.fixture
def client(direct, clock):
    return Client(direct, clock)


def npy(path, values):
    return encode(path, values)


@pytest.fixture
def frames(client, clock):
    """60 frames of two cameras, one a minute, and the arrays."""
    kept = np.random.default_rng(1).normal(size=(60, 6, 8)).astype(np.float32)
    for index, frame in enumerate(kept):
        camera = index % 2
        path = f"cam{camera}/frame.npy" if camera else f"cam0/{index:03}.npy"
        client.put(path, npy(path, frame))
        clock.value_ns += MINUTE
    return kept


def test_a_tensor_is_the_frames(client, frames):
    tensor = client.tensor("cam?/*.npy")
    assert len(tensor) == 60
    assert tensor.shape == (60, 6, 8)
    assert (tensor.ndim, tensor.dtype) == (3, np.float32)
    np.testing.assert_array_equal(np.asarray(tensor), frames)
    np.testing.assert_array_equal(np.from_dlpack(tensor), frames)
    assert (np.diff(tensor.times) >= np.timedelta64(60, "s")).all()


@pytest.mark.parametrize(
    "key",
    [
        0, -1, slice(10, 20), slice(None, None, -7), [3, 1, 2], (Ellipsis, 3), (slice(2, 4), Ellipsis, slice(2, 5)),
        (5, 2), (5, 2, 3), (Ellipsis, 1, 2, 3), (slice(0, 6, 2), 1), (slice(0, 0), 1), (slice(1, 3), slice(None), [0, 4]),
        np.int64(4), np.array([1, 5]),
    ],
    ids=str,
)  # fmt: skip
def test_it_is_indexed_as_numpy_indexes(client, frames, key):
    found = client.tensor("cam?/*.npy")[key]
    expected = frames[key]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_only_what_is_asked_for_is_read(client, direct, frames):
    tensor = client.tensor("cam?/*.npy")
    assert (tensor.opened, direct.read) == (0, [])
    np.testing.assert_array_equal(tensor[20:30, ..., :2], frames[20:30, ..., :2])
    assert tensor.opened == len(direct.read) == 10
    with pytest.raises(IndexError):
        tensor[60]
    with pytest.raises(IndexError):
        tensor[None]
    assert tensor.opened == 10


def test_an_interval_of_time(client, frames):
    whole = client.tensor("cam1/*")
    assert len(whole) == 30
    times = whole.times.astype(int)
    part = client.tensor("cam1/*", since=int(times[5]), until=int(times[9]))
    np.testing.assert_array_equal(part[:], frames[1::2][5:10])
    assert len(client.tensor("cam1/*", since="-10m")) == 5
    assert len(client.tensor("nothing/*")) == 0
    with pytest.raises(IndexError, match="nothing matched"):
        _ = client.tensor("nothing/*").shape


def test_what_is_late_does_not_change_a_tensor_taken_before(client, store, frames):
    inode = store.binding(store.binding(1, b"cam1").inode, b"frame.npy").inode

    def put_late(value, event_us):
        path = "cam1/frame.npy"
        data = npy(path, np.full((6, 8), value, np.float32))
        extents = [(0, len(data), record.SELF, 0)]
        commit = record.Commit(inode, len(data), 0, extents, 0, 0)
        store.propose(record.Batch([commit, record.Event(inode, event_us)]), [data])

    first = int(client.tensor("cam1/*").times.astype(int)[0])
    before = client.tensor("cam1/*", axis="event")
    put_late(7.0, first - 1)
    put_late(8.0, first + 1)
    np.testing.assert_array_equal(before[:], frames[1::2])
    after = client.tensor("cam1/*", axis="event")
    assert [float(after[index, 0, 0]) for index in (0, 2)] == [7.0, 8.0]
    by_commit = client.tensor("cam1/*")
    assert [float(by_commit[index, 0, 0]) for index in (-2, -1)] == [7.0, 8.0]
    assert len(client.tensor("cam1/*", until=first, axis="event")) == 2


def test_frames_that_do_not_fit_are_named(client):
    client.put("a/1.npy", npy("a/1.npy", np.zeros(3)))
    client.put("a/2.npy", npy("a/2.npy", np.zeros(4)))
    with pytest.raises(ValueError, match=r"a/2\.npy@v1: .*\(4,\)"):
        client.tensor("a/*")[:]
    client.put("b/raw", np.arange(6, dtype="<i2").tobytes())
    raw = client.tensor("b/raw", dtype="<i2", shape=(2, 3))
    np.testing.assert_array_equal(raw[0], np.arange(6).reshape(2, 3))
    with pytest.raises(ValueError, match="b/raw@v1"):
        client.tensor("b/raw", dtype="<i8", shape=(2, 3))[0]


def test_xarray_with_a_time_axis(client, frames):
    found = client.tensor("cam1/*").to_xarray("y", "x")
    assert found.dims == ("time", "y", "x")
    np.testing.assert_array_equal(found.values, frames[1::2])
    assert found["version"].values.tolist() == list(range(1, 31))
    nearest = found.sel(time=found["time"].values[3], method="nearest")
    np.testing.assert_array_equal(nearest, frames[1::2][3])


# --- tables -----------------------------------------------------------------------------------------------------------

COWS, DAYS = 200, 30


@pytest.fixture
def herd(client, clock):
    """The daily fat of each cow, as versions of one file a cow; and what was written."""
    draw = np.random.default_rng(2)
    kept = draw.normal(4.0, 0.5, size=(DAYS, COWS)).round(3)
    for day in range(DAYS):
        batch = Batch()
        for cow in range(COWS):
            batch.put(f"daily/fat/{cow}.json", f'{{"day": {day}, "fat": {kept[day, cow]}}}')
        client.commit(batch)
        clock.value_ns += 24 * 60 * MINUTE
    return kept


def test_the_mean_of_one_cow_opens_the_versions_of_one_cow(client, direct, herd):
    answer = client.sql(
        """select avg(json_extract(text_of(path, version), '$.fat')::double) as mean from versions
           where path = $path""",
        "daily/fat/*.json",
        since="-10d",
        path="daily/fat/128.json",
    )
    assert answer.arrow["mean"][0].as_py() == pytest.approx(herd[-10:, 128].mean())
    assert answer.scanned == 10 * COWS
    assert answer.opened == len(direct.read) == 10
    assert {path for path, _ in direct.read} == {"daily/fat/128.json"}


def test_a_question_that_needs_no_bytes_opens_none(client, direct, herd):
    answer = client.sql(
        "select path, count(*) as n, max(version) as last from versions group by path order by path",
        "daily/fat/1?.json",
    )
    assert answer.arrow.to_pylist()[0] == {"path": "daily/fat/10.json", "n": DAYS, "last": DAYS}
    assert (len(answer), answer.opened, direct.read) == (10, 0, [])


def test_a_table_has_what_is_in_the_files(client, herd):
    found = client.table("daily/fat/7.json", since="-5d")
    assert found.arrow["fat"].to_pylist() == herd[-5:, 7].tolist()
    assert found.arrow["version"].to_pylist() == list(range(DAYS - 4, DAYS + 1))
    frame = found.to_pandas()
    assert frame["day"].tolist() == list(range(DAYS - 5, DAYS))
    import polars

    assert polars.DataFrame(found)["fat"].to_list() == herd[-5:, 7].tolist()


def test_csv_parquet_lists_and_the_rest(client):
    import io

    import pandas

    rows = pandas.DataFrame({"x": [1, 2], "path": ["own", "names"]})
    sink = io.BytesIO()
    rows.to_parquet(sink)
    client.put("t/a.csv", rows.to_csv(index=False))
    client.put("t/b.parquet", sink.getvalue())
    client.put("t/c.json", '[{"x": 5}, {"x": 6, "y": "more"}]')
    client.put("t/d.bin", b"\0\1")
    found = client.table("t/*").arrow.to_pylist()
    assert [(row["path"], row["x"], row["path_"], row["y"]) for row in found] == [
        ("t/a.csv", 1, "own", None), ("t/a.csv", 2, "names", None),
        ("t/b.parquet", 1, "own", None), ("t/b.parquet", 2, "names", None),
        ("t/c.json", 5, None, None), ("t/c.json", 6, None, "more"), ("t/d.bin", None, None, None),
    ]  # fmt: skip
    client.put("t/broken.json", "{")
    with pytest.raises(ValueError, match=r"t/broken\.json@v1"):
        client.table("t/*.json")
    assert len(client.table("nothing/*")) == 0


def test_an_answer_is_at_one_cut_while_a_writer_goes_on(client, herd, clock):
    cut = client.now()
    before = client.sql("select count(*) as n from versions", "daily/**", at=cut).arrow
    client.put("daily/fat/0.json", "{}")
    assert client.sql("select count(*) as n from versions", "daily/**", at=cut).arrow == before
    assert client.sql("select count(*) as n from versions", "daily/**").arrow != before


def test_many_versions_come_in_pieces(client, monkeypatch):
    for number in range(30):
        client.put(f"p/{number % 3}", f"{number}")
    monkeypatch.setattr("cascadefs.client.client.SCAN_VERSIONS", 7)
    found = client.scan("p/*", None, None, client.now())
    assert [(one.path, one.version) for one in found] == [
        (f"p/{name}", number) for name in range(3) for number in range(1, 11)
    ]


# --- a hundred thousand versions --------------------------------------------------------------------------------------

MANY_COWS, MANY_DAYS = 500, 200
DAY_US = 24 * 3600 * 10**6

MEAN = """select avg(json_extract(text_of(path, version), '$.fat')::double) as mean from versions where path = $path"""


@pytest.fixture
def large_herd(store, clock):
    """The daily fat of 500 cows over 200 days: one record a day, since 100,000 calls would take a minute."""
    draw = np.random.default_rng(3)
    directory = store.allocate_inode(ROOT)
    store.propose(record.Create(ROOT, b"fat", directory, DIRECTORY | 0o755, 0, 0))
    cows = [store.allocate_inode(directory) for _ in range(MANY_COWS)]
    names = [
        record.Create(directory, b"%d.json" % cow, inode, REGULAR | 0o644, 0, 0)
        for cow, inode in enumerate(cows)
    ]
    store.propose(record.Batch(names))
    for _ in range(MANY_DAYS):
        clock.value_ns += DAY_US * 1000
        rows = [b'{"fat": %.3f}' % fat for fat in draw.normal(4.0, 0.5, MANY_COWS)]
        commits, at = [], 0
        for inode, row in zip(cows, rows, strict=True):
            extents = [(0, len(row), record.SELF, at)]
            commits.append(record.Commit(inode, len(row), 0, extents, 0, 0))
            at += len(row)
        assert store.propose(record.Batch(commits), [b"".join(rows)]).reason is None
    return store


class _Shared(_Direct):
    """Used by threads, one after the other."""

    def __init__(self, store, clock):
        super().__init__(store, clock)
        self.lock = threading.Lock()

    def execute(self, call, buffers):
        with self.lock:
            return super().execute(call, buffers)


@pytest.mark.slow
def test_the_mean_over_a_hundred_thousand_versions_while_a_writer_goes_on(large_herd, clock):
    shared = _Shared(large_herd, clock)
    client = Client(shared, clock)
    cut = client.now()
    end, written = threading.Event(), threading.Event()

    def write():
        writer = Client(shared, clock)
        while not end.is_set():
            writer.put("fat/128.json", '{"fat": 99}')
            written.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert written.wait(20)
    shared.read.clear()
    since = cut - 10 * DAY_US
    handlers = StoreCut(large_herd, ROOT, cut, Identity(0, 0))  # what `ctx.sql` of a run asks
    frames = CutFrames(Locked(handlers, shared.lock), Copies())
    answers = [
        client.sql(MEAN, "fat/*", since=since, at=cut, path="fat/128.json"),
        sql(frames, MEAN, "fat/*", since, None, path="fat/128.json"),
    ]
    end.set()
    thread.join()
    assert len(shared.read) == len(handlers.reads) == 10
    one_by_one = [
        msgspec.json.decode(client.get("fat/128.json", version=version.number))["fat"]
        for version in client.versions("fat/128.json", since=since, until=cut)
    ]
    assert len(one_by_one) == 10
    for answer in answers:
        assert answer.arrow["mean"][0].as_py() == pytest.approx(np.mean(one_by_one))
        assert answer.opened == 10
        assert MANY_COWS * 9 <= answer.scanned <= MANY_COWS * 10
    assert client.stat("fat/128.json").version > MANY_DAYS


class Locked:
    """Each call of a cut's holds the store, as the daemon's do."""

    def __init__(self, cut, lock):
        self._cut, self._lock = cut, lock

    def __getattr__(self, name):
        def call(*arguments):
            with self._lock:
                return getattr(self._cut, name)(*arguments)

        return call


# --- on a device ------------------------------------------------------------------------------------------------------


def test_an_array_on_a_device_is_read_and_moved_once(client, direct, monkeypatch):
    card = Card(1 << 20)
    monkeypatch.setattr("triggers.handler.device.gpu", lambda: DeviceCache(card, 1 << 19))
    first = np.arange(100, dtype=np.float32)
    client.put("m.npy", npy("m.npy", first))
    there = client.get("m.npy", device="cuda")
    np.testing.assert_array_equal(there, first)
    assert client.get("m.npy", device="cuda") is there
    cache = client.devices.cache("cuda")
    assert (cache.moved_bytes, cache.hits, len(direct.read)) == (400, 1, 1)
    client.put("m.npy", npy("m.npy", first + 1))
    np.testing.assert_array_equal(client.get("m.npy", device="cuda"), first + 1)
    assert (cache.moved_bytes, cache.size_bytes) == (800, 400)
    np.testing.assert_array_equal(client.get("m.npy", version=1, device="cuda"), first)
    np.testing.assert_array_equal(there, first)


def test_without_a_card_the_same_is_numpys(client, direct):
    client.put("m.npy", npy("m.npy", np.eye(3)))
    there = client.get("m.npy", device="cpu")
    assert client.get("m.npy", device="cpu") is there
    assert (there.tolist(), there.flags.writeable, len(direct.read)) == (
        np.eye(3).tolist(),
        False,
        1,
    )
    assert client.devices.cache("cpu").moved_bytes == 0
    assert client.get("m.npy", at=client.now(), device="cpu") is there
    import torch

    assert torch.from_dlpack(there.copy()).sum() == 3
    client.put("raw", b"\1\2")
    assert client.get("raw", device="cpu").tolist() == [1, 2]


def test_what_a_device_cannot_give_is_said(client, monkeypatch):
    client.put("d/raw", b"\1\2")
    monkeypatch.setattr("triggers.handler.device.gpu", lambda: None)
    with pytest.raises(OSError, match=r'no GPU that CuPy finds.*device="cpu"') as caught:
        client.get("d/raw", device="cuda")
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(ValueError, match='write "cpu" or "cuda"'):
        client.get("d/raw", device="tpu")
    with pytest.raises(ValueError, match="a part of a file is bytes"):
        client.get("d/raw", device="cpu", offset=1)
    with pytest.raises(IsADirectoryError):
        client.get("d", device="cpu")
    with pytest.raises(FileNotFoundError):
        client.get("nothing", device="cpu")

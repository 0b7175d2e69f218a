"""`cascade://` with the libraries that read by fsspec: each reads a pinned past, and writes versions."""

import contextlib
import errno
import multiprocessing
import pickle

import fsspec
import numpy as np
import pytest

import cascadefs
from cascadefs.client.spec import CascadeFileSystem


@pytest.fixture
def where(tmp_path):
    cascadefs.connect(tmp_path / "data").close()
    return str(tmp_path / "data")


@pytest.fixture
def fs(where):
    fs = CascadeFileSystem(where=where, skip_instance_cache=True)
    yield fs
    fs.close()


def test_it_is_found_by_its_name(where):
    with contextlib.closing(fsspec.filesystem("cascade", where=where)) as fs:
        assert isinstance(fs, CascadeFileSystem)
        with fsspec.open("cascade://lab/a.txt", "w", where=where) as file:
            file.write("one")
        with fsspec.open("cascade://lab/a.txt", where=where) as file:
            assert file.read() == b"one"


def test_names_with_at_are_the_past(fs):
    fs.pipe("lab/d/a.txt", b"one")
    first = fs.info("lab/d/a.txt")["timestamp"]
    fs.pipe("lab/d/a.txt", b"two")
    fs.pipe("lab/d/b.txt", b"new")
    instant = f"@t={first}"
    assert fs.cat("lab/d/a.txt@v1") == b"one"
    assert fs.cat("lab/d/a@v1.txt") == b"one"
    assert fs.cat("lab/d/a.txt@v-1") == b"one"
    assert fs.cat(f"lab/d/a.txt{instant}") == b"one"
    assert fs.cat(f"lab/d{instant}/a.txt") == b"one"
    assert fs.cat(f"lab/.{instant}/d/a.txt") == b"one"
    assert fs.ls(f"lab/d{instant}", detail=False) == [f"lab/d{instant}/a.txt"]
    assert fs.find(f"lab/.{instant}") == [f"lab/.{instant}/d/a.txt"]
    assert fs.glob("lab/**/*.txt") == ["lab/d/a.txt", "lab/d/b.txt"]
    assert [version.number for version in fs.versions("lab/d/a.txt")] == [1, 2]
    with pytest.raises(FileNotFoundError):
        fs.cat(f"lab/d{instant}/b.txt")
    with pytest.raises(ValueError, match="at a mount"):
        fs.cat("lab/d@tag-x/a.txt")
    with pytest.raises(OSError, match="takes a time") as caught:
        fs.cat("lab/d/a.txt?at=yesterday")
    assert caught.value.errno == errno.EINVAL


def test_nothing_is_made_of_a_name_that_means_no_store(tmp_path):
    (tmp_path / "unmounted").mkdir()
    for name in ("mistyped", "unmounted"):
        fs = CascadeFileSystem(where=str(tmp_path / name), skip_instance_cache=True)
        with pytest.raises(FileNotFoundError, match="is it mounted"):
            fs.ls("lab")
        assert not any((tmp_path / name).glob("*"))


def test_a_name_that_is_there_is_just_a_name(fs):
    fs.pipe("lab/icon@2x.png", b"plain")
    fs.pipe("lab/b@v1", b"plain too")
    assert fs.cat("lab/icon@2x.png") == b"plain"
    assert fs.cat("lab/b@v1") == b"plain too"


def test_an_instant_for_everything(fs, where):
    fs.pipe("lab/a", b"one")
    then = fs.info("lab/a")["timestamp"]
    fs.pipe("lab/a", b"two")
    fs.close()
    past = CascadeFileSystem(where=where, at=then, skip_instance_cache=True)
    assert past.cat("lab/a") == b"one"
    assert past.modified("lab/a").timestamp() == pytest.approx(then / 1e6)
    with pytest.raises(OSError, match="past") as caught:
        past.pipe("lab/a", b"three")
    assert caught.value.errno == errno.EROFS
    past.close()
    with fsspec.open(f"cascade://lab/a?at={then}", where=where) as file:
        assert file.read() == b"one"
        file.fs.close() if hasattr(file, "fs") else None


def test_a_file_being_read_stays_the_version_it_was(fs):
    data = np.random.default_rng(0).bytes(300_000)
    fs.pipe("lab/a", data)
    with fs.open("lab/a", "rb", block_size=10_000) as file:
        head = file.read(10)
        fs.pipe("lab/a", b"other")
        file.seek(-20, 2)
        assert head + file.read() == data[:10] + data[-20:]
    assert fs.cat_file("lab/a@v1", start=-20) == data[-20:]
    assert fs.cat_file("lab/a@v1", start=5, end=9) == data[5:9]
    assert fs.cat_ranges(["lab/a@v1", "lab/a@v2"], [0, 0], [3, 3]) == [data[:3], b"oth"]


def test_an_instant_behind_a_path_counts_for_a_file_system_that_has_none(fs):
    fs.pipe({"lab/d/a": b"one", "lab/d/b?c": b"plain"})
    then = fs.client("lab").now()
    fs.pipe({"lab/d/a": b"two", "lab/d/ab": b"new"})
    assert fs.cat(f"cascade://lab/d/a?at={then}") == b"one"
    assert fs.cat(f"cascade://lab/d?at={then}/a") == b"one"  # libraries put names behind an URL
    assert fs.ls(f"lab?at={then}", detail=False) == [f"lab/.@t={then}/d"]
    assert fs.glob(f"lab/d/a*?at={then}") == [f"lab/.@t={then}/d/a"]
    assert fs.expand_path([f"lab/d/*?at={then}"]) == [
        f"lab/.@t={then}/d/a",
        f"lab/.@t={then}/d/b?c",
    ]
    assert fs.glob("lab/d/a?") == ["lab/d/ab"]
    assert fs.cat("lab/d/b?c") == b"plain"
    assert fs.cat("lab/d/a?at=now") == b"two"
    with pytest.raises(OSError, match="past"):
        fs.pipe(f"lab/d/a?at={then}", b"three")


class Counted:
    """Counts what an executor is asked."""

    def __init__(self, executor):
        self.executor = executor
        self.calls = []

    def execute(self, call, buffers):
        self.calls.append(type(call).__name__)
        return self.executor.execute(call, buffers)

    def close(self):
        self.executor.close()


@pytest.fixture
def counted(fs):
    client = fs.client("lab")
    client._executor = Counted(client._executor)
    return client._executor.calls


def test_many_ranges_are_one_request(fs, counted):
    data = np.random.default_rng(0).bytes(100_000)
    fs.pipe("lab/big", data)
    fs.pipe({f"lab/d/{number}": b"%d" % number for number in range(30)})
    fs.pipe("lab/big", b"other")
    starts = list(range(0, 100_000, 2000))
    ends = [start + 100 for start in starts]
    counted.clear()
    found = fs.cat_ranges(["lab/big@v1"] * 50, starts, ends)
    assert found == [data[start:end] for start, end in zip(starts, ends, strict=True)]
    assert counted.count("GetEach") == len(counted) - 2 == 1  # two for what the name means
    counted.clear()
    assert fs.cat("lab/d/*") == {f"lab/d/{number}": b"%d" % number for number in range(30)}
    assert "Get" not in counted
    assert counted.count("GetEach") == 1
    counted.clear()
    assert fs.du("lab/d") == 10 + 2 * 20
    assert fs.du("lab", total=False, maxdepth=1) == {"lab/big": 5}
    assert len(counted) < 10


def test_of_many_ranges_each_may_fail_alone(fs):
    fs.pipe({"lab/a": b"0123456789", "lab/d/b": b"x"})
    wanted = ["lab/a", "lab/none", "lab/a", "lab/a", "lab/d", "lab/a@v7"]
    found = fs.cat_ranges(wanted, [2, 0, -3, 8, 0, 0], [5, 9, None, 100, 1, 1])
    assert [found[0], found[2], found[3]] == [b"234", b"789", b"89"]
    kinds = [type(found[number]) for number in (1, 4, 5)]
    assert kinds == [FileNotFoundError, IsADirectoryError, FileNotFoundError]
    with pytest.raises(FileNotFoundError, match="none"):
        fs.cat_ranges(wanted, 0, 1, on_error="raise")
    assert fs.cat(["lab/a", "lab/none"], on_error="omit") == {"lab/a": b"0123456789"}
    with pytest.raises(FileNotFoundError):
        fs.cat(["lab/a", "lab/none"])
    with pytest.raises(ValueError, match="2 starts"):
        fs.cat_ranges(["lab/a"], [1, 2], 3)


@pytest.mark.parametrize("cache", ["none", "readahead", "bytes", "blockcache", "all", "first"])
def test_caches_of_open_files(fs, cache):
    data = np.random.default_rng(0).bytes(50_000)
    fs.pipe("lab/a", data)
    with fs.open("lab/a", "rb", block_size=4096, cache_type=cache) as file:
        fs.pipe("lab/a", b"other")
        file.seek(30_000)
        assert file.read(5000) == data[30_000:35_000]
        file.seek(1)
        assert file.read() == data[1:]


def test_copies_on_the_own_disk(fs, where, tmp_path):
    fs.pipe("lab/a", b"one")
    then = fs.client("lab").now()
    fs.close()
    options = {"cascade": {"where": where}, "filecache": {"cache_storage": str(tmp_path / "c")}}
    for _ in range(2):
        with fsspec.open(f"filecache::cascade://lab/a?at={then}", **options) as file:
            assert file.read() == b"one"
    other = fsspec.filesystem("cascade", where=where)
    other.pipe("lab/a", b"two")
    options["filecache"]["check_files"] = True
    for path, expected in (("lab/a", b"two"), ("lab/a@v1", b"one")):
        with fsspec.open(f"filecache::cascade://{path}", **options) as file:
            assert file.read() == expected
    other.close()


def test_modes(fs):
    for mode, text in (("w", "eins\n"), ("a", "zwei\n"), ("x", None)):
        if text is None:
            with pytest.raises(FileExistsError), fs.open("lab/a", mode) as file:
                file.write("drei")
        else:
            with fs.open("lab/a", mode) as file:
                file.write(text)
    with fs.open("lab/a", "r", encoding="utf-8") as file:
        assert file.readlines() == ["eins\n", "zwei\n"]
    with pytest.raises(NotImplementedError):
        fs.open("lab/a", "r+b")
    with pytest.raises(OSError, match="past"):
        fs.open("lab/a@v1", "wb")
    with pytest.raises(FileNotFoundError):
        fs.open("lab/none")


def test_synchronous_by_word(where):
    with contextlib.closing(fsspec.filesystem("cascade", where=where, asynchronous=False)) as fs:
        fs.pipe("lab/a", b"1")
        assert fs.cat("lab/a") == b"1"
    CascadeFileSystem.clear_instance_cache()


def test_an_open_file_sent_elsewhere_stays_its_version(fs, where):
    fs.pipe("lab/a", b"one, the first")
    file = fs.open("lab/a", "rb")
    file.seek(5)
    fs.pipe("lab/a", b"two")
    data = pickle.dumps(file)
    fs.close()
    again = pickle.loads(data)
    assert again.read() == b"the first"
    again.fs.close()


def test_a_client_of_an_own_store_does_not_go_on_in_a_child(where):
    with cascadefs.connect(where) as client:
        client.put("a", "1")
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_errno, args=(client, queue))
        child.start()
        assert queue.get(timeout=60) == errno.EBUSY
        child.join(60)
        assert client.get("a") == b"1"


def _errno(client, queue):
    try:
        client.get("a")
    except OSError as error:
        queue.put(error.errno)
    client.close()


def test_writing_makes_versions(fs):
    with fs.open("lab/a", "wb", block_size=1000) as file:
        for _ in range(10):
            file.write(b"x" * 500)
    with fs.open("lab/a", "ab") as file:
        file.write(b"tail")
    assert (fs.info("lab/a")["version"], fs.size("lab/a")) == (2, 5004)
    with pytest.raises(FileExistsError), fs.open("lab/a", "xb") as file:
        file.write(b"new")
    with pytest.raises(FileExistsError):
        fs.pipe_file("lab/a", b"", mode="create")
    with fs.transaction:
        with fs.open("lab/t", "wb") as file:
            file.write(b"later")
        assert not fs.exists("lab/t")
    assert fs.cat("lab/t") == b"later"
    fs.cp("lab/a", "lab/c")
    assert fs.cat("lab/c") == fs.cat("lab/a@v2")
    fs.mv("lab/c", "lab/m")
    assert fs.ls("lab", detail=False) == ["lab/a", "lab/m", "lab/t"]
    fs.rm("lab/m")
    assert not fs.exists("lab/m")
    assert fs.exists("lab/m@v1")
    with pytest.raises(FileNotFoundError):
        fs.rm_file("lab/m")
    for gone in ("lab/a@v1",):
        with pytest.raises(OSError, match="past"):
            fs.rm_file(gone)


def test_a_tree_is_removed_at_one_instant(fs):
    fs.pipe({f"lab/d/{name}": b"x" for name in ("a", "b", "e/c")})
    then = fs.client("lab").now()
    fs.rm("lab/d", recursive=True)
    assert fs.ls("lab") == []
    assert fs.find(f"lab/.@t={then}") == [f"lab/.@t={then}/d/{name}" for name in ("a", "b", "e/c")]


def test_pools_have_names(tmp_path, monkeypatch, where):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"pools\.toml"):
        fsspec.filesystem("cascade", skip_instance_cache=True).ls("lab")
    (tmp_path / "cascadefs").mkdir()
    (tmp_path / "cascadefs/pools.toml").write_text(f'lab = "{where}"\n')
    fs = CascadeFileSystem(skip_instance_cache=True)
    fs.pipe("cascade://lab/a", b"1")
    assert [entry["name"] for entry in fs.ls("")] == ["lab"]
    assert fs.ls("cascade://lab", detail=False) == ["lab/a"]
    assert fs.ukey("lab/a") == "lab/a@v1"
    again = pickle.loads(pickle.dumps(fs))
    fs.close()
    assert again.cat("lab/a") == b"1"
    again.close()


# --- the libraries --------------------------------------------------------------------------------------------------


@pytest.fixture
def table(fs, where):
    """A table of which there are two versions, and the name of the first."""
    import pandas

    old = pandas.DataFrame({"x": range(100), "y": np.arange(100) * 0.5})
    options = {"where": where, "skip_instance_cache": True}
    for number, frame in enumerate((old, old * 3)):
        with fs.open("lab/t.csv", "w") as file:
            frame.to_csv(file, index=False)
        with fs.open("lab/t.parquet", "wb") as file:
            frame.to_parquet(file)
        assert fs.info("lab/t.csv")["version"] == number + 1
    return old, options


def test_pandas(fs, table):
    import pandas

    old, _ = table
    with fs.open("lab/t.csv@v1") as file:
        pandas.testing.assert_frame_equal(pandas.read_csv(file), old)
    fs.close()
    frame = pandas.read_csv("cascade://lab/t@v1.csv", storage_options={"where": fs._where})
    pandas.testing.assert_frame_equal(frame, old)
    frame = pandas.read_parquet("cascade://lab/t@v1.parquet", storage_options={"where": fs._where})
    pandas.testing.assert_frame_equal(frame, old)
    CascadeFileSystem(where=fs._where).close()


def test_pyarrow(fs, table):
    import pyarrow.dataset
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    old, _ = table
    dataset = pyarrow.dataset.dataset(
        "lab/t@v1.parquet", filesystem=PyFileSystem(FSSpecHandler(fs)), format="parquet"
    )
    found = dataset.to_table(filter=pyarrow.dataset.field("x") > 90)
    assert found["y"].to_pylist() == old[old.x > 90]["y"].tolist()


def test_duckdb(fs, table):
    import duckdb

    old, _ = table
    connection = duckdb.connect()
    connection.register_filesystem(fs)
    query = "select sum(y) from read_parquet('cascade://lab/t@v1.parquet')"
    assert connection.execute(query).fetchone()[0] == old["y"].sum()
    query = "select count(*), sum(x) from read_csv('cascade://lab/t@v1.csv')"
    assert connection.execute(query).fetchone() == (100, old["x"].sum())


def test_polars(fs, table):
    import polars
    import pyarrow.dataset
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    old, _ = table
    with fs.open("lab/t@v1.parquet") as file:
        assert polars.read_parquet(file)["y"].to_list() == old["y"].tolist()
    with fs.open("lab/t@v1.csv") as file:
        assert polars.read_csv(file)["x"].to_list() == old["x"].tolist()
    dataset = pyarrow.dataset.dataset(
        "lab/t@v1.parquet", filesystem=PyFileSystem(FSSpecHandler(fs)), format="parquet"
    )
    lazy = polars.scan_pyarrow_dataset(dataset).filter(polars.col("x") > 90)
    assert lazy.collect()["y"].to_list() == old[old.x > 90]["y"].tolist()


def test_zarr_and_xarray(fs, where):
    import xarray
    import zarr
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    def field(value):
        return xarray.DataArray(
            np.full((4, 8, 8), value, np.float32), dims=("time", "y", "x"), name="temperature"
        )

    def store(path, read_only=False):
        asynchronous = AsyncFileSystemWrapper(fs, asynchronous=True)
        return zarr.storage.FsspecStore(asynchronous, path=path, read_only=read_only)

    def read(path):
        return xarray.open_zarr(store(path, True), consolidated=False)["temperature"].load()

    field(1.0).to_dataset().to_zarr(store("lab/field.zarr"), consolidated=False)
    then = fs.client("lab").now()
    field(2.0).to_dataset().to_zarr(store("lab/field.zarr"), mode="w", consolidated=False)
    xarray.testing.assert_equal(read(f"lab/field.zarr@t={then}"), field(1.0))
    xarray.testing.assert_equal(read("lab/field.zarr"), field(2.0))
    with pytest.raises(OSError, match="past"):
        fs.pipe(f"lab/field.zarr@t={then}/x", b"")


def test_dask(fs, where):
    import dask.bag
    import dask.dataframe

    fs.pipe({f"lab/parts/{n}.csv": f"x\n{n}\n".encode() for n in range(5)})
    then = fs.client("lab").now()
    fs.pipe({f"lab/parts/{n}.csv": b"x\n100\n" for n in range(7)})
    fs.close()
    options = {"where": where, "at": then}
    frame = dask.dataframe.read_csv("cascade://lab/parts/*.csv", storage_options=options)
    assert frame["x"].sum().compute(scheduler="sync") == 10
    CascadeFileSystem(**options).close()


def _read(fs, path, queue):
    queue.put(fs.cat(path))


def test_a_child_of_a_fork_connects_anew(tmp_path):
    # As the workers of a torch DataLoader do. A data directory nobody serves has room for one process only.
    import subprocess
    import sys

    mount = tmp_path / "mnt"
    mount.mkdir()
    command = [sys.executable, "-m", "cascadefs.cli"]
    subprocess.run(
        [*command, "mount", mount, "--data", tmp_path / "served"], check=True, timeout=60
    )
    try:
        fs = CascadeFileSystem(where=str(mount), skip_instance_cache=True)
        fs.pipe("lab/a", b"1")
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        children = [context.Process(target=_read, args=(fs, "lab/a", queue)) for _ in range(3)]
        for child in children:
            child.start()
        assert [queue.get(timeout=60) for _ in children] == [b"1"] * 3
        for child in children:
            child.join(60)
        assert fs.cat("lab/a") == b"1"
        fs.close()
    finally:
        subprocess.run([*command, "umount", mount], check=True, timeout=60)


def test_conflicts_and_errors_are_those_of_the_client():
    assert issubclass(cascadefs.Conflict, OSError)

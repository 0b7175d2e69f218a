"""The libraries of people who train and compute read a pinned past, by `cascade://` and by the mount, while a writer goes on.

Method: a tree is written, an instant named, and then another process replaces every file of it for as long as the tests run.
Each library reads the tree as of that instant, by its own means, both ways. docs/ML.md has the table of them.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import cascadefs
from cascadefs.client.spec import CascadeFileSystem
from tests.mounted.conftest import mounts_below
from tests.mounted.program import end, finish, start_python

pytestmark = [pytest.mark.mounted, pytest.mark.slow]

FRAMES = 24
WRITER = """
    import os, pathlib, sys
    root = pathlib.Path(sys.argv[1])
    files = sorted(path for path in root.rglob("*") if path.is_file())
    turn = 0
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        (root / "frames" / f"new-{turn % 5}.npy").write_bytes(b"not of the past")
        path = files[turn % len(files)]
        path.write_bytes(b"something else, turn %d" % turn)
        turn += 1
    print(turn)
""".replace("import os,", "import select,")


@dataclass
class Past:
    """A mount whose files are being replaced, and the instant when they were right."""

    mount: Path
    instant: int

    def url(self, path: str) -> str:
        return f"cascade://lab/{path}?at={self.instant}"

    def file(self, path: str = "") -> Path:
        return self.mount / f".@t={self.instant}" / path

    @property
    def options(self) -> dict[str, Any]:
        return {"where": str(self.mount)}


def frame_of(number: int) -> np.ndarray:
    return np.full((8, 8), number, np.float32)


def table() -> Any:
    import pandas

    return pandas.DataFrame({"x": range(100), "y": np.arange(100) * 0.5})


def field() -> Any:
    import xarray

    values = np.arange(4 * 8 * 8, dtype=np.float32).reshape(4, 8, 8)
    return xarray.DataArray(values, dims=("time", "y", "x"), name="temperature")


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """See the module; through the door that mounts have by themselves, for it makes no difference here."""
    with mounts_below(tmp_path_factory.mktemp("libraries")) as make:
        root = make().path
        table().to_csv(root / "t.csv", index=False)
        table().to_parquet(root / "t.parquet")
        (root / "parts").mkdir()
        for number in range(5):
            table()[number * 20 : number * 20 + 20].to_csv(
                root / f"parts/{number}.csv", index=False
            )
        (root / "frames").mkdir()
        for number in range(FRAMES):
            np.save(root / f"frames/{number:03}.npy", frame_of(number))
        field().to_dataset().to_zarr(root / "field.zarr", consolidated=False)
        with cascadefs.connect(root) as store:
            instant = store.now()
        writer = start_python(WRITER, root)
        try:
            while (root / "t.parquet").read_bytes()[:4] == b"PAR1":
                time.sleep(0.01)  # everything that is read below is another file by now
            yield Past(root, instant)
            assert writer.poll() is None
            assert writer.stdin is not None
            writer.stdin.write("enough\n")
            assert int(finish([writer])[0]) > FRAMES
        finally:
            end(writer)
            for fs in list(CascadeFileSystem._cache.values()):
                fs.close()
            CascadeFileSystem.clear_instance_cache()


def both(past: Past, path: str) -> list[tuple[str, dict[str, Any]]]:
    """What a library is given that takes names: the arguments for each way."""
    return [(past.url(path), {"storage_options": past.options}), (str(past.file(path)), {})]


def test_pandas(past: Past) -> None:
    import pandas

    for path, options in both(past, "t.csv"):
        pandas.testing.assert_frame_equal(pandas.read_csv(path, **options), table())
    for path, options in both(past, "t.parquet"):
        pandas.testing.assert_frame_equal(pandas.read_parquet(path, **options), table())
    version = pandas.read_csv("cascade://lab/t@v1.csv", storage_options=past.options)
    pandas.testing.assert_frame_equal(version, table())
    pandas.testing.assert_frame_equal(pandas.read_csv(past.mount / "t@v1.csv"), table())


def test_pyarrow(past: Past) -> None:
    import pyarrow.dataset
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    def rows(path: Path | str, **options: Any) -> list[float]:
        found = pyarrow.dataset.dataset(path, **options)
        wanted = found.to_table(filter=pyarrow.dataset.field("x") > 90)
        return sorted(wanted["y"].to_pylist())

    fs, place = fsspec.core.url_to_fs(past.url("parts"), **past.options)
    filesystem = PyFileSystem(FSSpecHandler(fs))
    expected = table()[table().x > 90]["y"].tolist()
    assert rows("lab/t@v1.parquet", filesystem=filesystem) == expected
    assert rows(place, filesystem=filesystem, format="csv") == expected
    assert rows(past.file("t.parquet")) == expected
    assert rows(past.file("parts"), format="csv") == expected
    assert rows(past.mount / "t@v1.parquet") == expected


def test_duckdb(past: Past) -> None:
    import duckdb

    connection = duckdb.connect()
    connection.register_filesystem(fsspec.filesystem("cascade", **past.options))
    for path in (past.url("t.parquet"), "cascade://lab/t@v1.parquet", past.file("t.parquet")):
        query = f"select sum(y) from read_parquet('{path}')"
        assert connection.execute(query).fetchone() == (table()["y"].sum(),)
    for path in (past.url("parts/*.csv"), past.file("parts/*.csv")):
        query = f"select count(*), sum(x) from read_csv('{path}')"
        assert connection.execute(query).fetchone() == (100, 4950)


def test_polars(past: Past) -> None:
    import polars

    with fsspec.open(past.url("t.parquet"), **past.options) as file:
        assert polars.read_parquet(file)["y"].to_list() == table()["y"].tolist()
    with fsspec.open("cascade://lab/t@v1.csv", **past.options) as file:
        assert polars.read_csv(file)["x"].to_list() == table()["x"].tolist()
    lazy = polars.scan_parquet(past.file("t.parquet")).filter(polars.col("x") > 90)
    assert lazy.collect()["y"].to_list() == table()[table().x > 90]["y"].tolist()
    assert polars.read_csv(past.mount / "t@v1.csv")["x"].to_list() == table()["x"].tolist()


def test_zarr_and_xarray(past: Past) -> None:
    import xarray
    import zarr

    for path, options in both(past, "field.zarr"):
        array = zarr.open_group(path, mode="r", **options)["temperature"]
        assert np.array_equal(array[1:3, 4], field().values[1:3, 4])
        with xarray.open_zarr(path, consolidated=False, **options) as opened:
            xarray.testing.assert_equal(opened["temperature"].load(), field())


def test_dask(past: Past) -> None:
    import dask.array
    import dask.dataframe

    for path, options in both(past, "parts/*.csv"):
        frame = dask.dataframe.read_csv(path, **options)
        assert frame["x"].sum().compute(scheduler="threads") == 4950
    for path, options in both(past, "field.zarr/temperature"):
        array = dask.array.from_zarr(path, **options)
        assert array.sum().compute(scheduler="threads") == field().values.sum()


def start_dask(kind: str, directory: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *options]
    command += ["--scheduler-file", str(directory / "scheduler.json")]
    if kind == "worker":
        command += ["--no-nanny", "--nthreads", "1", "--local-directory", str(directory)]
    return subprocess.Popen(
        command,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
def test_a_dask_scheduler_killed_and_started_again_gives_the_same(
    past: Past, tmp_path: Path
) -> None:
    import dask.dataframe
    import distributed

    frame = dask.dataframe.read_csv(past.url("parts/*.csv"), storage_options=past.options)
    question = (frame["x"] * frame["y"]).sum()
    expected = question.compute(scheduler="sync")
    answers = []
    for life in range(2):
        directory = tmp_path / str(life)
        directory.mkdir()
        processes = [start_dask(kind, directory) for kind in ("scheduler", "worker")]
        try:
            with distributed.Client(scheduler_file=directory / "scheduler.json") as client:
                answers.append(client.compute(question).result(timeout=50))
                if life == 0:  # What it has been asked next, nobody will answer.
                    waiting = client.compute(frame["x"].map_partitions(pause, meta=("x", "i8")))
                    os.kill(processes[0].pid, signal.SIGKILL)
                    processes[0].wait(20)
                    assert waiting.status != "finished"
        finally:
            for process in processes:
                end(process)
    assert answers == [expected, expected]


def pause(part: Any) -> Any:
    time.sleep(60)
    return part


# --- torch ----------------------------------------------------------------------------------------------------------


class Frames:
    """A map-style data set as anybody would write it: it opens what it is asked for, by name."""

    def __init__(self, paths: list[str], options: dict[str, Any]) -> None:
        self.paths = paths
        self.options = options

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        with fsspec.open(self.paths[index], **self.options) as file:
            return np.load(file)


class Connected(Frames):
    """One that holds a file system, and a client, which have been used before the workers began."""

    def __init__(self, paths: list[str], options: dict[str, Any], instant: int) -> None:
        super().__init__(paths, options)
        self.fs = fsspec.filesystem("cascade", **options)
        self.store = cascadefs.connect(options["where"])
        self.instant = instant
        assert self.fs.exists(paths[0])
        assert self.store.now() > instant

    def __getitem__(self, index: int) -> np.ndarray:
        first = self.fs.cat_file(self.paths[index])
        second = self.store.get(f"frames/{index:03}.npy", at=self.instant)
        assert first == second
        return np.load(io.BytesIO(first))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_torch_data_loader(past: Past, start: str) -> None:
    """Workers of both kinds, by all three ways: each epoch has all frames, in order, as they were."""
    import torch.utils.data

    with fsspec.open_files(past.url("frames/*.npy"), **past.options) as files:
        assert len(files) == FRAMES  # of the past: new-*.npy are not among them
    named = [past.url(f"frames/{number:03}.npy") for number in range(FRAMES)]
    mounted = [str(past.file(f"frames/{number:03}.npy")) for number in range(FRAMES)]
    connected = Connected(named, past.options, past.instant)
    sets = [connected] if start == "spawn" else [Frames(named, past.options), Frames(mounted, {})]
    for data in [*sets, connected]:
        loader = torch.utils.data.DataLoader(
            data,
            batch_size=5,
            num_workers=2 if start == "fork" else 1,  # a new one imports torch: seconds
            multiprocessing_context=start,
            timeout=60,
        )
        found = torch.cat(list(loader))
        assert np.array_equal(found.numpy(), np.stack([frame_of(n) for n in range(FRAMES)]))
        # The parent's own connection goes on beside its children's.
        assert np.array_equal(connected[3], frame_of(3))
    connected.store.close()


# --- Hugging Face datasets ------------------------------------------------------------------------------------------


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The library, with a cache of its own and nobody to ask; not in its offline mode, in which it opens nothing by fsspec."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets

    datasets.disable_progress_bars()
    return datasets


def test_hugging_face_datasets(
    past: Past, datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded and streamed by name, in both ways; saved as a version, and loaded from that."""
    import torch.utils.data

    cache = str(tmp_path / "cache")
    expected = table()["y"].tolist()
    for path, options in [*both(past, "parts/*.csv"), *both(past, "t.csv")]:
        # By the mount also where the library may ask nobody.
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", not options)
        loaded = datasets.load_dataset(
            "csv", data_files=path, split="train", cache_dir=cache, **options
        )
        assert loaded["y"] == expected
    for path, options in both(past, "t.parquet"):
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", not options)
        loaded = datasets.load_dataset(
            "parquet", data_files=path, split="train", cache_dir=cache, **options
        )
        assert loaded["y"] == expected
        streamed = datasets.load_dataset(
            "parquet", data_files=path, split="train", streaming=True, **options
        )
        loader = torch.utils.data.DataLoader(streamed, batch_size=10, num_workers=1)
        assert torch.cat([batch["y"] for batch in loader]).tolist() == expected
    loaded.save_to_disk("cascade://lab/saved", storage_options=past.options)
    with cascadefs.connect(past.mount) as store:
        saved = Past(past.mount, store.now())
    loaded.map(lambda row: {"y": -row["y"]}).save_to_disk(
        "cascade://lab/saved", storage_options=past.options
    )
    for path, options in both(saved, "saved"):
        assert datasets.load_from_disk(path, **options)["y"] == expected
    now = datasets.load_from_disk(str(past.mount / "saved"))
    assert now["y"] == [-one for one in expected]

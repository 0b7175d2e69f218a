"""Training on the mount: arrays mapped from it, a model that reads batches and saves a checkpoint every epoch."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier

from tests.mounted.program import finish, start_python

pytestmark = pytest.mark.mounted


@pytest.fixture
def place(shared_mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own on the mount of the whole run."""
    path = shared_mount.path / request.node.name
    path.mkdir()
    return path


def test_a_memmap_is_written_and_read_back(mount) -> None:
    """numpy.memmap filled in place, part by part, read by another process, read back after a remount."""
    shape = (1000, 700)
    array = np.memmap(mount.path / "a.bin", dtype=np.float32, mode="w+", shape=shape)
    expected = np.random.default_rng(1).random(shape, dtype=np.float32)
    for start in range(0, 1000, 100):
        array[start : start + 100] = expected[start : start + 100]
    array.flush()
    array[500, 500] = expected[500, 500] = 42.0
    script = """
        import numpy as np
        a = np.memmap("a.bin", dtype=np.float32, mode="r+", shape=(1000, 700))
        print(float(a[500, 500]))
        a[0, 0] = 7.0
    """
    assert finish([start_python(script, cwd=mount.path)]) == ["42.0\n"]
    expected[0, 0] = 7.0
    assert np.array_equal(array, expected)
    del array
    saved = np.lib.format.open_memmap(
        mount.path / "b.npy", mode="w+", dtype=np.int64, shape=(50_000,)
    )
    saved[:] = np.arange(50_000)
    del saved
    np.savez_compressed(mount.path / "c.npz", x=expected, y=np.arange(10))
    mount.remount()
    again = np.memmap(mount.path / "a.bin", dtype=np.float32, mode="r", shape=shape)
    assert np.array_equal(again, expected)
    del again
    mapped = np.load(mount.path / "b.npy", mmap_mode="r")
    assert np.array_equal(mapped, np.arange(50_000))
    del mapped
    with np.load(mount.path / "c.npz") as archive:
        assert np.array_equal(archive["x"], expected)


def make_shards(directory: Path, count: int) -> None:
    directory.mkdir()
    random = np.random.default_rng(7)
    weights = random.normal(size=20)
    for number in range(count):
        features = random.normal(size=(400, 20)).astype(np.float32)
        labels = (features @ weights + random.normal(scale=0.1, size=400) > 0).astype(np.int8)
        np.savez(directory / f"{number:03}.npz", x=features, y=labels)


def test_training_saves_a_checkpoint_every_epoch(place: Path) -> None:
    """scikit-learn reads shards from the mount and saves model.pkl by write-then-rename; every epoch stays loadable."""
    make_shards(place / "data", 6)
    os.mkdir(place / "data@tag-train")
    pinned = place / "data@tag-train"
    model = SGDClassifier(random_state=0)
    kept = []
    for epoch in range(5):
        for shard in sorted(pinned.glob("*.npz")):
            with np.load(shard) as batch:
                model.partial_fit(batch["x"], batch["y"], classes=[0, 1])
        (place / "data" / f"{epoch:03}.npz").write_bytes(
            b"not data any more"
        )  # somebody works on the live data
        with open(place / "model.tmp", "wb") as file:
            pickle.dump({"epoch": epoch, "model": model}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(place / "model.tmp", place / "model.pkl")
        kept.append(model.coef_.copy())
    with np.load(pinned / "000.npz") as batch:
        assert model.score(batch["x"], batch["y"]) > 0.9
    assert sorted(os.listdir(place / "model.pkl@@")) == [f"v{n}.pkl" for n in range(1, 6)]
    for epoch in range(5):
        saved = pickle.loads((place / f"model@v{epoch + 1}.pkl").read_bytes())
        assert saved["epoch"] == epoch
        assert np.array_equal(saved["model"].coef_, kept[epoch])


def test_loaders_in_processes_read_one_pinned_epoch(place: Path) -> None:
    """Four forked workers read the data set of one moment while a collector replaces and adds shards."""
    make_shards(place / "data", 8)
    os.mkdir(place / "data@tag-epoch")
    worker = """
        import sys, numpy as np
        from pathlib import Path
        total, count = 0.0, 0
        for turn in range(3):
            for shard in sorted(Path("data@tag-epoch").glob("*.npz")):
                with np.load(shard) as batch:
                    total += float(batch["x"].sum(dtype=np.float64)); count += len(batch["y"])
        print(count, repr(total))
    """
    workers = [start_python(worker, cwd=place) for _ in range(4)]
    for number in range(12):
        np.savez(
            place / "data" / "new.npz", x=np.zeros((1, 20), np.float32), y=np.zeros(1, np.int8)
        )
        os.replace(place / "data/new.npz", place / "data" / f"{number:03}.npz")
    said = finish(workers)
    assert len(set(said)) == 1
    assert said[0].split()[0] == str(3 * 8 * 400)
    assert len(list((place / "data").glob("*.npz"))) == 12

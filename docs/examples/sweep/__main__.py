#!/usr/bin/env python3
"""Sweep learning rates: `python docs/examples/sweep MOUNTPOINT [--rows 30000] [--epochs 2] [--picture FILE]`.

Writes clicks, has them hashed, starts a line for each rate, kills two workers on the way, and compares what came out with
scikit-learn. Ends with status 1 if that is worse than it has to be. See it run by `cascadefs top --sweep MOUNTPOINT/sweep/sweep`.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import clicks
import numpy as np
from scipy import sparse
from sklearn.linear_model import SGDClassifier
from watch.lib import logistic

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
from stage import POLL_SECONDS, Stage  # noqa: E402

RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
PARTS, TRAIN_PARTS = 100, 80
"""Lines learn from the first; the next one is for their loss, and no line sees the others."""

WORKERS = 4
PARTS_A_ROUND = 8
"""Of a gang."""

KILLS = 2


def prepare(stage, rows):
    """Write the raw data, in as many files as there will be parts, and wait until they are hashed."""
    (stage.path / "raw").mkdir()
    source = clicks.Clicks()
    for number in range(PARTS):
        (stage.path / f"raw/{number:03}.csv").write_text(source.table(rows // PARTS))
    stage.wait_done("hash_columns", PARTS)


def sweep(stage, epochs):
    """Start all lines, kill workers until so many rounds had to be run again, and wait for the end of all lines."""
    (stage.path / "sweep").mkdir()
    rounds = epochs * TRAIN_PARTS // PARTS_A_ROUND
    for number, rate in enumerate(RATES, 1):
        (stage.path / f"sweep/{number}.toml").write_text(
            f"rate = {rate}\nbatch = 50\nrounds = {rounds}\nparts = {TRAIN_PARTS}\n"
        )
    stage.wait_done("begin", len(RATES))
    stage.wait_done("train", 2 * len(RATES))
    while not has_ended(stage) and stage.bindings()["train"]["retries"] < KILLS:
        stage.kill_worker()
        time.sleep(4 * POLL_SECONDS)
    while not has_ended(stage):
        time.sleep(POLL_SECONDS)
    losses = [stage.versions(path)[-1]["loss"] for path in stage.files("sweep/*/loss")]
    while stage.versions("best.json")[-1]["loss"] != min(losses):
        time.sleep(POLL_SECONDS)


def has_ended(stage):
    """Whether no line that has begun has a round before it: a round writes its loss and, but for the last, what begins the next."""
    lines = [f"sweep/{number}" for number in range(1, len(RATES) + 1)]
    under_way = sum(stage.count(f"{one}/loss") < stage.count(f"{one}/round.json") for one in lines)
    return under_way <= stage.bindings()["train"]["failed"]  # a round that somebody killed


def acknowledged(stage, line):
    """The sum of all that was pushed in rounds that were committed, in their order."""
    total = np.zeros(logistic.COLUMNS, "float32")
    for number in range(1, stage.count(f"{line}/loss") + 1):
        for rank in range(WORKERS):
            pushed = np.load(stage.path / f"{line}/pushed-{rank}.npy@v{number}")
            np.add.at(total, pushed["column"], pushed["change"])
    return total


def read_parts(stage, first, last):
    """Parts as one sparse matrix and its labels."""
    rows, labels = [], []
    for number in range(first, last):
        part = logistic.unpacked((stage.path / f"parts/{number:03}.npz").read_bytes())
        entries = part.values, part.columns[part.places], part.starts
        rows.append(sparse.csr_matrix(entries, (len(part.labels), logistic.COLUMNS)))
        labels.append(part.labels)
    return sparse.vstack(rows), np.concatenate(labels)


def reference(train, test, epochs):
    """What scikit-learn comes to with each rate, one row after the other: {rate: loss}."""
    found = {}
    for rate in RATES:
        model = SGDClassifier(
            loss="log_loss", learning_rate="invscaling", power_t=0.25, eta0=rate, alpha=1e-6,
            max_iter=epochs, tol=None, random_state=0,
        )  # fmt: skip
        model.fit(*train)
        found[rate] = logistic.log_loss(test[1], model.predict_proba(test[0])[:, 1])
    return found


def judge(stage, epochs):
    """Compare with scikit-learn, and the models with what was acknowledged."""
    train, test = read_parts(stage, 0, TRAIN_PARTS), read_parts(stage, TRAIN_PARTS + 1, PARTS)
    base = logistic.log_loss(test[1], np.full(len(test[1]), train[1].mean()))
    theirs = reference(train, test, epochs)
    ours, wrong, late = {}, 0, 0.0
    for number, rate in enumerate(RATES, 1):
        line = f"sweep/{number}"
        weights = np.fromfile(stage.path / line / "weights", "<f4")
        wrong += not np.array_equal(weights, acknowledged(stage, line))
        ours[rate] = logistic.log_loss(test[1], 1 / (1 + np.exp(-(test[0] @ weights))))
        stopped = stage.path / line / "stopped"
        if stopped.exists():
            late = max(late, (stage.path / line / "loss").stat().st_mtime - stopped.stat().st_mtime)
    rate = stage.versions("best.json")[-1]["rate"]
    their_rate = min(theirs, key=theirs.get)
    stage.say("loss of knowing no more than how many click", base)
    stage.say("best loss of scikit-learn", theirs[their_rate])
    stage.say("    at a rate of", their_rate)
    stage.say("    of the sweep", ours[rate])
    stage.say("    at a rate of", rate)
    stage.demand("best of the sweep by scikit-learn's", ours[rate] / theirs[their_rate], most=1.05)
    stage.demand("best of the sweep by the base", ours[rate] / base, most=0.85)
    stage.demand("rates apart, in powers of ten", abs(math.log10(rate / their_rate)), most=0.99)
    stage.demand(
        "rounds run again as a worker was killed", stage.bindings()["train"]["retries"], least=KILLS
    )
    stage.demand("models that are not the sum of what was pushed", wrong, most=0)
    stage.demand("bad lines stopped", len(stage.files("sweep/*/stopped")), least=1)
    stage.say("seconds from the stop to the line's last round", late)
    return base, theirs, ours


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="a PNG of what came out")
    chosen = parser.parse_args()
    stage = Stage(chosen.mountpoint, HERE)
    started = time.monotonic()
    prepare(stage, chosen.rows)
    prepared = time.monotonic()
    sweep(stage, chosen.epochs)
    stage.say("seconds to hash", prepared - started)
    stage.say("seconds of the sweep", time.monotonic() - prepared)
    found = judge(stage, chosen.epochs)
    if chosen.picture:
        import picture

        picture.draw(stage, *found, chosen.picture)
    return stage.end()


if __name__ == "__main__":
    sys.exit(main())

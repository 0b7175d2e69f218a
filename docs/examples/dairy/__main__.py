#!/usr/bin/env python3
"""Run a dairy: `python docs/examples/dairy MOUNTPOINT [--frames 300] [--picture FILE]`.

Films a herd, writes a new model half-way, kills a worker every 50 frames, and compares what the stages say of each cow with
the truth. Ends with status 1 if that is worse than it has to be.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import farm

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
from stage import Stage  # noqa: E402

FRAMES_PER_KILL = 50
NEW_NAMES = 100
"""The second model calls cow 7 cow 107, so everybody sees which model was used."""


def run(stage, cows, frames):
    """Film, with a new model and killed workers on the way; wait for the last alert. What was to be seen: shots."""
    (stage.path / "models").mkdir()
    (stage.path / "frames").mkdir()
    model = stage.path / "models/identify.npz"
    model.write_bytes(cows.model())
    (stage.path / "milk.csv").write_text(cows.milk(names=(0, NEW_NAMES)))
    shots = []
    for number in range(frames):
        shots.append(cows.shot())
        (stage.path / f"frames/{number:06}.npy").write_bytes(shots[-1].frame)
        if number == frames // 2:
            model.write_bytes(cows.model(first=NEW_NAMES))
        if number % FRAMES_PER_KILL == FRAMES_PER_KILL - 1:
            stage.kill_worker()
    stage.wait_done("filter_empty", frames)
    stage.wait_done("identify", len(stage.files("cows-seen/*")))
    seen = sum(map(stage.count, stage.files("cows/*/frame.npy")))
    stage.wait_done("mastitis", seen)
    stage.wait_done("milk", seen)
    stage.wait_done("alert", sum(map(stage.count, stage.files("health/*"))))
    return shots


class Record(NamedTuple):
    """One version of a cow's health record, and where it comes from."""

    cow: int
    rise: float
    is_bad: bool
    cut: int
    frame: bytes
    model: int
    """The version of the model that said whose frame it is."""

    identified_at: int
    """The cut of that."""


def records(stage):
    """Every health record there is."""
    for path in stage.files("health/*.json"):
        for told in stage.versions(path):
            frame = stage.path / told["frame"]
            made = json.loads(os.getxattr(frame, "user.cascade.from"))
            (model,) = (int(ref.partition("@v")[2]) for ref in made["reads"] if "models/" in ref)
            yield Record(
                int(Path(path).stem), told["rise"], told["mastitis"], told["cut"],
                frame.read_bytes(), model, made["cut"],
            )  # fmt: skip


def judge(stage, shots):
    """Compare with the truth."""
    truth = {shot.frame: shot for shot in shots if shot.cow is not None}
    told = list(records(stage))
    right = sum(one.cow % NEW_NAMES == truth[one.frame].cow for one in told)
    ill = [one.is_bad for one in told if truth[one.frame].is_ill]
    well = [not one.is_bad for one in told if not truth[one.frame].is_ill]
    frames = {one.frame for one in told}
    stage.say("frames with a cow", len(truth))
    stage.demand("of them identified as the right one", right / len(truth), least=0.97)
    stage.demand("mastitis: sensitivity", sum(ill) / len(ill), least=0.97)
    stage.demand("mastitis: specificity", sum(well) / len(well), least=0.97)
    stage.demand("frames without a record, or of no cow", len(frames ^ truth.keys()), most=0)
    stage.demand("frames with two records", len(told) - len(frames), most=0)

    # The two handlers of an event note their cuts; they have to be the same ones.
    apart = 0
    for cow in {one.cow for one in told}:
        milk = (stage.path / f"daily/yield/{cow}").read_text().splitlines()
        apart += [int(line.split()[1]) for line in milk] != [
            one.cut for one in told if one.cow == cow
        ]
    stage.demand("cows whose two handlers saw different cuts", apart, most=0)

    # A new model counts from its version on: for what was looked at later, and for nothing before.
    since = os.stat(stage.path / "models/identify.npz").st_ctime_ns // 1000
    wrong = sum(
        not ((one.cow >= NEW_NAMES) == (one.model == 2) == (one.identified_at >= since))
        for one in told
    )
    stage.demand("records not of the model at their cut", wrong, most=0)
    stage.say("records of the second model", sum(one.model == 2 for one in told))
    return told


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="a PNG of what came out")
    chosen = parser.parse_args()
    stage = Stage(chosen.mountpoint, HERE)
    shots = run(stage, farm.Farm(chosen.seed), chosen.frames)
    told = judge(stage, shots)
    if chosen.picture:
        import picture

        picture.draw(told, shots, chosen.picture)
    return stage.end()


if __name__ == "__main__":
    sys.exit(main())

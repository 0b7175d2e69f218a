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


def records(stage):
    """Every health record: (the cow's name, the record, the frame it is about, which model said whose frame that is)."""
    for path in stage.files("health/*.json"):
        for record in stage.versions(path):
            frame = stage.path / record["frame"]
            made = json.loads(os.getxattr(frame, "user.cascade.from"))
            (model,) = (read for read in made["reads"] if read.startswith("models/identify.npz@v"))
            yield int(Path(path).stem), record, frame.read_bytes(), made["cut"], int(model[-1])


def judge(stage, shots):
    """Compare with the truth."""
    truth = {shot.frame: shot for shot in shots if shot.cow is not None}
    second_model = os.stat(stage.path / "models/identify.npz").st_ctime_ns // 1000
    right = ill = well = found = spared = wrong_model = apart = 0
    told = list(records(stage))
    for name, record, frame, cut, model in told:
        shot = truth[frame]
        right += name % NEW_NAMES == shot.cow
        ill += shot.is_ill
        well += not shot.is_ill
        found += shot.is_ill and record["mastitis"]
        spared += not shot.is_ill and not record["mastitis"]
        wrong_model += not ((name >= NEW_NAMES) == (model == 2) == (cut >= second_model))
    for name in {name for name, *_ in told}:
        cuts = [record["cut"] for other, record, *_ in told if other == name]
        milk = (stage.path / f"daily/yield/{name}").read_text().splitlines()
        apart += [int(line.split()[1]) for line in milk] != cuts
    stage.say("frames with a cow", len(truth))
    stage.demand("of them identified as the right one", right / len(truth), least=0.97)
    stage.demand("mastitis: sensitivity", found / ill, least=0.97)
    stage.demand("mastitis: specificity", spared / well, least=0.97)
    stage.demand("health records too many or too few", abs(len(told) - len(truth)), most=0)
    stage.demand(
        "frames with two records", len(told) - len({frame for _, _, frame, *_ in told}), most=0
    )
    stage.demand("cows whose two handlers saw different cuts", apart, most=0)
    stage.demand("records not of the model at their cut", wrong_model, most=0)
    stage.say("records of the second model", sum(model == 2 for *_, model in told))
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

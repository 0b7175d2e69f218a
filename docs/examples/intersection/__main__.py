#!/usr/bin/env python3
"""Watch crossings: `python docs/examples/intersection MOUNTPOINT [--crossings 40] [--picture FILE]`.

Films each crossing, waits until every frame has gone through all stages, and compares what they warned of with the truth.
Ends with status 1 if that is worse than it has to be.
"""

import argparse
import sys
from pathlib import Path

import street
from watch.lib import motion

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
from stage import Stage  # noqa: E402


def film(stage, scenes):
    """Every camera writes its frames, all of them side by side; wait for the last warning."""
    for crossing in scenes:
        (stage.path / "cam" / crossing).mkdir(parents=True)
    for number in range(street.FRAMES):
        for crossing, scene in scenes.items():
            (stage.path / f"cam/{crossing}/frame.npy").write_bytes(scene.frame(number))
    stage.wait_done("detect", len(scenes) * street.FRAMES)
    stage.wait_done("trajectory", sum(map(stage.count, stage.files("tracks/*/*.json"))))
    stage.wait_done("collision", sum(map(stage.count, stage.files("seen/*.json"))))


def warnings(stage):
    """The first warning for each pair: {(crossing, first, second): alert}."""
    found = {}
    for path in stage.files("alerts/*/*.json"):
        _, crossing, pair = path.removesuffix(".json").split("/")
        found[crossing, *map(int, pair.split("-"))] = stage.versions(path)[0]
    return found


def ghosts(forecasts):
    """How many forecasts are made of a vehicle that was elsewhere at the time."""
    least = 1.5 / motion.FRAMES_PER_SECOND
    return sum(
        any(abs(at - one["time"]) > least for at in one["read"].values()) for one in forecasts
    )


def gaps(trajectories):
    """How many lines leave a sighting out."""
    runs = (one["versions"] for one in trajectories)
    return sum(versions != list(range(versions[0], versions[-1] + 1)) for versions in runs)


def judge(stage, scenes):
    """Compare with the truth."""
    truth = {
        (name, *pair): at for name, one in scenes.items() for pair, at in one.crashes().items()
    }
    warned = warnings(stage)
    right = truth.keys() & warned.keys()
    early = [truth[pair] - warned[pair]["time"] for pair in right]
    forecasts = [one for path in stage.files("forecasts/*") for one in stage.versions(path)]
    lines = [one for path in stage.files("trajectories/*/*") for one in stage.versions(path)]
    stage.say("pairs that come too close", len(truth))
    stage.demand("precision of the warnings", len(right) / len(warned), least=0.85)
    stage.demand("recall of the warnings", len(right) / len(truth), least=0.85)
    stage.demand("warnings that come too late", sum(time <= 0 for time in early), most=0)
    stage.say("seconds of warning, mean", sum(early) / len(early))
    stage.demand("frames without a forecast", len(scenes) * street.FRAMES - len(forecasts), most=0)
    stage.demand("forecasts with a ghost", ghosts(forecasts), most=0)
    stage.demand("trajectories with a gap", gaps(lines), most=0)


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--crossings", type=int, default=40)
    parser.add_argument("--picture", type=Path, help="a PNG of what came out")
    chosen = parser.parse_args()
    stage = Stage(chosen.mountpoint, HERE)
    scenes = {f"{number:02}": street.Scene(number) for number in range(chosen.crossings)}
    film(stage, scenes)
    judge(stage, scenes)
    if chosen.picture:
        import picture

        picture.draw(stage, scenes, warnings(stage), chosen.picture)
    return stage.end()


if __name__ == "__main__":
    sys.exit(main())

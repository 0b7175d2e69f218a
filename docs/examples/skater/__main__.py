#!/usr/bin/env python3
"""Follow a skater's hands: `python docs/examples/skater MOUNTPOINT [--picture FILE]`.

A camera overwrites one file a hundred times, and its versions are the film. When the take is over its hands are followed, by
a handler that reads the film as a tensor. Ends with status 1 if they are not where they were, or an error is not found.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import rink

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
from stage import Stage  # noqa: E402


def shoot(stage):
    """Write the film, a version a frame, then say that the take is over; wait until the hands were followed."""
    (stage.path / "ice").mkdir()
    for frame in rink.film():
        file = io.BytesIO()
        np.save(file, frame)
        (stage.path / "ice/frame.npy").write_bytes(file.getvalue())
    (stage.path / "takes").mkdir()
    (stage.path / "takes/1").write_text("over\n")
    stage.wait_done("follow", 1)


def judge(stage, path, is_error):
    """Compare with the truth."""
    injected = np.zeros_like(is_error)
    injected[rink.WOBBLE, 0] = True
    farthest = float(np.linalg.norm(path - rink.truth(), axis=-1).max())
    stage.say("versions of the film", stage.count("ice/frame.npy"))
    stage.demand("farthest from the truth, in pixels", farthest, most=1)
    stage.say("frames at which an error was injected", int(injected.sum()))
    stage.demand(
        "errors not found, or found where none is", int((is_error != injected).sum()), most=0
    )


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--picture", type=Path, help="a PNG of what came out")
    chosen = parser.parse_args()
    stage = Stage(chosen.mountpoint, HERE)
    shoot(stage)
    path, off_course, is_error = (
        np.load(stage.path / f"hands/1-{name}.npy") for name in ("path", "off", "error")
    )
    judge(stage, path, is_error)
    if chosen.picture:
        import picture

        picture.draw(path, off_course, is_error, chosen.picture)
    return stage.end()


if __name__ == "__main__":
    sys.exit(main())

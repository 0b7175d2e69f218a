#!/usr/bin/env python3
"""Follow a skater's hands: `python docs/examples/skater MOUNTPOINT [--picture FILE]`.

A camera overwrites one file a hundred times, and its versions are the film: a tensor of time, rows, columns and layers, of
which only what is looked at is read. Ends with status 1 if the hands are not where they were, or an error is not found.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import rink
import tracker

import cascadefs


def shoot(path):
    """Write the film, a version a frame."""
    path.parent.mkdir(parents=True)
    for frame in rink.film():
        file = io.BytesIO()
        np.save(file, frame)
        path.write_bytes(file.getvalue())


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--picture", type=Path, help="a PNG of what came out")
    chosen = parser.parse_args()
    shoot(chosen.mountpoint / "skater/frame.npy")
    with cascadefs.connect(chosen.mountpoint) as store:
        film = store.tensor("skater/frame.npy")
        path = tracker.follow(film)
    off_course, is_error = tracker.errors(path)

    wrong = np.zeros_like(is_error)
    wrong[rink.WOBBLE, 0] = True
    worst = float(np.linalg.norm(path - rink.truth(), axis=-1).max())
    print(f"versions in the film                 {film.shape[0]:8}")
    print(f"farthest from the truth, in pixels   {worst:8.3f}")
    print(f"errors found at frames               {np.flatnonzero(is_error[:, 0])}")
    if chosen.picture:
        import picture

        picture.draw(path, off_course, is_error, chosen.picture)
    return int(worst > 1 or not np.array_equal(is_error, wrong))


if __name__ == "__main__":
    sys.exit(main())

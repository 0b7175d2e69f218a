"""What came out, as a picture: the hands' paths, and how far they were from their course."""

import matplotlib as mpl
import numpy as np
import rink
from watch.lib import tracker

mpl.use("agg")
from matplotlib import pyplot as plt

HANDS = (("left hand", "#4477aa"), ("right hand", "#228833"))
RED = "#d62728"


def draw(path, off_course, is_error, file):
    """Draw paths and errors."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 4.4), width_ratios=(1, 1.2), layout="constrained"
    )
    for hand, (name, colour) in enumerate(HANDS):
        wrong = is_error[:, hand]
        left.plot(*path[:, hand].T, ".-", color=colour, lw=1, ms=5, label=name)
        left.plot(*path[wrong, hand].T, "o", mfc="none", mec=RED, mew=1.8, ms=9)
        right.plot(off_course[:, hand], color=colour, lw=1.8, label=name)
        right.plot(
            np.flatnonzero(wrong), off_course[wrong, hand], "o", mfc="none", mec=RED, mew=1.8
        )
    left.plot([], [], "o", mfc="none", mec=RED, mew=1.8, label="off its course")
    left.set(
        title=f"{len(path)} versions of one file: two hands, spinning",
        xlabel="x (pixels)", ylabel="y (pixels)", xlim=(0, rink.SIDE), ylim=(rink.SIDE, 0), aspect="equal",
    )  # fmt: skip
    left.legend(frameon=False, loc="lower left", fontsize=8)
    right.axhspan(-tracker.ERROR_PIXELS, tracker.ERROR_PIXELS, color="0.93", lw=0)
    right.set(
        title="The wobble, found",
        xlabel="frame", ylabel="distance from the course (pixels)", xlim=(0, len(path)), ylim=(-4, 8),
    )  # fmt: skip
    right.legend(frameon=False, loc="upper left", fontsize=9)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=100)
    plt.close(figure)

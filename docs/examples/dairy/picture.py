"""What came out, as a picture: cows as the cameras saw them, and how warm their udders were."""

import io

import matplotlib as mpl
import numpy as np
from watch.lib import herd

mpl.use("agg")
from matplotlib import pyplot as plt

SHOWN_BAD, SHOWN_GOOD = 2, 5
BLUE, RED = "#4477aa", "#d62728"


def draw(told, shots, file):
    """Draw the last frames, and the records of all."""
    numbers = {shot.frame: number for number, shot in enumerate(shots)}
    told = sorted(told, key=lambda one: numbers[one.frame])
    bad, good = [one for one in told if one.is_bad], [one for one in told if not one.is_bad]
    some = bad[:: len(bad) // SHOWN_BAD][:SHOWN_BAD] + good[:: len(good) // SHOWN_GOOD][:SHOWN_GOOD]
    figure = plt.figure(figsize=(9, 5.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    upper.suptitle("Identified by coat (above), examined by thermogram (below)", size=12)
    some.sort(key=lambda one: numbers[one.frame])
    for axes, one in zip(upper.subplots(2, len(some)).T, some, strict=True):
        cow(axes, one)
    rises(lower.subplots(), told, numbers, len(shots) // 2)
    figure.savefig(file, dpi=90)
    plt.close(figure)


def cow(axes, one):
    """One record: coat and udder."""
    seen = np.load(io.BytesIO(one.frame))
    axes[0].imshow(seen["coat"], cmap="gray", interpolation="nearest")
    axes[1].imshow(seen["udder"], cmap="inferno", vmin=36.5, vmax=39.5, interpolation="nearest")
    axes[0].set_title(f"cow {one.cow}", size=10)
    axes[1].set_xlabel(
        f"{one.rise:+.1f} K", color=RED if one.is_bad else "black", weight="bold" if one.is_bad else "normal"
    )  # fmt: skip
    for each in axes:
        each.set(xticks=[], yticks=[])


def rises(axes, told, numbers, new_model):
    """How much warmer the warmest quarter was, frame by frame."""
    for is_ill, colour, said in ((False, BLUE, "healthy"), (True, RED, "mastitis")):
        some = [(numbers[one.frame], one.rise) for one in told if one.is_bad == is_ill]
        axes.plot(*np.array(some).T, "o", ms=4, color=colour, mec="white", mew=0.4, label=said)
    axes.axhline(herd.RISE_MIN, color="0.4", lw=1, ls="--")
    axes.axvline(new_model, color="0.4", lw=1, ls=":")
    axes.annotate("new model", (new_model, 1.85), xytext=(4, 0), textcoords="offset points", size=9)
    axes.set(
        xlabel="frame", ylabel="warmest quarter (K above median)", ylim=(-0.1, 2), xlim=(-2, None)
    )
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)
    axes.set_title("Health records, one for each frame with a cow", loc="left", size=12)
    axes.spines[["top", "right"]].set_visible(False)

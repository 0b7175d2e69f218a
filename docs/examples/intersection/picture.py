"""What came out, as a picture: one crossing at the moment of a warning, and how its vehicles came closer."""

import io

import matplotlib as mpl
import numpy as np
import street
from watch.lib import motion

mpl.use("agg")
from matplotlib import pyplot as plt

COLOURS = ("#4477aa", "#228833", "#ccbb44", "#aa3377")
RED = "#d62728"


def draw(stage, scenes, warned, file):
    """Draw the crossing where a warning is about the most seconds of trail, and came in time."""
    crashes = {
        (name, *pair): at for name, one in scenes.items() for pair, at in one.crashes().items()
    }
    right = sorted(warned.keys() & crashes.keys())
    best = max(
        right, key=lambda pair: min(warned[pair]["time"], crashes[pair] - warned[pair]["time"])
    )
    crossing, *pair = best
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.6), width_ratios=(1, 1.2), layout="constrained"
    )
    street_above(left, stage, crossing, pair, warned[best])
    distances(right, scenes[crossing], pair, warned[best]["time"], crashes[best])
    figure.savefig(file, dpi=100)
    plt.close(figure)


def street_above(axes, stage, crossing, pair, alert):
    """The frame that caused the warning, what was seen until then, and what is forecast."""
    number = round(alert["time"] * motion.FRAMES_PER_SECOND)
    frame = (stage.path / f"cam/{crossing}/frame.npy@v{number + 1}").read_bytes()
    axes.imshow(
        np.load(io.BytesIO(frame))["image"],
        cmap="gray_r",
        vmin=20,
        vmax=450,
        interpolation="nearest",
    )
    meeting = []
    for vehicle, colour in enumerate(COLOURS):
        seen = stage.versions(f"tracks/{crossing}/{vehicle}.json")
        past = [one for one in seen if one["time"] <= alert["time"]]
        axes.plot([one["x"] for one in past], [one["y"] for one in past], ".", color=colour, ms=6)
        track = motion.fit(past[-motion.FIT_SIGHTINGS :])
        ahead = track.place + np.outer((0, alert["seconds"]), track.velocity)
        axes.plot(*ahead.T, "--", color=colour, lw=1.5)
        axes.annotate(
            f"{vehicle}", track.place, xytext=(9, 9), textcoords="offset points", color=colour, weight="bold", size=13
        )  # fmt: skip
        if vehicle in pair:
            meeting.append(ahead[1])
    middle = np.mean(meeting, axis=0)
    axes.add_patch(plt.Circle(middle, motion.NEAR_PIXELS, fill=False, color=RED, lw=2.5))
    axes.annotate(
        f"in {alert['seconds']:.1f} s", middle, xytext=(-26, -26), textcoords="offset points",
        ha="right", va="top", color=RED, weight="bold", size=12,
    )  # fmt: skip
    axes.set(
        title=f"Crossing {crossing} at {alert['time']:.1f} s: a warning",
        xlabel="x (pixels)", ylabel="y (pixels)", xlim=(0, street.SIDE), ylim=(street.SIDE, 0),
    )  # fmt: skip


def distances(axes, scene, pair, warned, crash):
    """How far the two that were warned, and the others, were from each other."""
    count = len(motion.GRAYS)
    other = (0, 1) if list(pair) != [0, 1] else (2, 3)
    for first in range(count):
        for second in range(first + 1, count):
            apart = np.linalg.norm(scene.places[:, first] - scene.places[:, second], axis=1)
            is_warned = [first, second] == list(pair)
            axes.plot(
                np.arange(len(apart)) / motion.FRAMES_PER_SECOND, apart,
                color=RED if is_warned else "0.75", lw=2.5 if is_warned else 1.2, zorder=3 if is_warned else 2,
                label=f"vehicles {first} and {second}" if is_warned else "other pairs" if (first, second) == other else None,
            )  # fmt: skip
    axes.axhspan(0, motion.NEAR_PIXELS, color=RED, alpha=0.12, lw=0)
    for time, said in ((warned, "warned"), (crash, "too close")):
        axes.axvline(time, color="0.25", lw=1, ls=":")
        axes.annotate(
            f"{said}\n{time:.1f} s", (time, 0.97), xycoords=("data", "axes fraction"),
            xytext=(4, 0), textcoords="offset points", va="top", fontsize=9,
        )  # fmt: skip
    axes.set(
        title=f"{crash - warned:.1f} s before two come within {motion.NEAR_PIXELS} pixels",
        xlabel="time (s)", ylabel="distance (pixels)", xlim=(0, None), ylim=(0, 100),
    )  # fmt: skip
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.87))
    axes.spines[["top", "right"]].set_visible(False)

"""What came out, as a picture: how each line learned, and what it came to beside scikit-learn."""

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib import ticker

RED = "#d62728"


def draw(stage, base, theirs, ours, file):
    """Draw the curves, and the losses by rate."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 4.4), width_ratios=(1.25, 1), layout="constrained"
    )
    curves(left, stage, base)
    rates(right, base, theirs, ours)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def curves(axes, stage, base):
    """The loss of each line, round by round."""
    paths = stage.files("sweep/*/loss")
    colours = plt.get_cmap("viridis")
    for number, path in enumerate(paths):
        versions = stage.versions(path)
        losses, rate = [one["loss"] for one in versions], f"{versions[0]['rate']:g}"
        is_stopped = (stage.path / path).with_name("stopped").exists()
        colour = RED if is_stopped else colours(0.95 * number / len(paths))
        axes.plot(losses, color=colour, lw=1.8, label=f"{rate}, stopped" if is_stopped else rate)
        if is_stopped:
            axes.plot(len(losses) - 1, losses[-1], "x", color=RED, ms=9, mew=2.5)
    axes.legend(frameon=False, title="learning rate", loc="upper right", fontsize=9)
    axes.axhline(base, color="0.5", lw=1, ls="--")
    axes.annotate("no model", (0.99, base), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.4", size=9)  # fmt: skip
    axes.set(
        title="Loss of each rate",
        xlabel="round of four workers",
        ylabel="log loss, held-out rows",
        yscale="log",
    )
    axes.set_yticks(
        [0.45, 0.5, 0.6, 0.8, 1, 2, 4, 8], labels=["0.45", "0.5", "0.6", "0.8", "1", "2", "4", "8"]
    )
    axes.minorticks_off()
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def rates(axes, base, theirs, ours):
    """What each rate came to."""
    for losses, said, mark, colour in (
        (theirs, "scikit-learn", "s--", "0.55"), (ours, "this sweep", "o-", "#4477aa"),
    ):  # fmt: skip
        axes.plot(list(losses), list(losses.values()), mark, color=colour, label=said)
        best = min(losses, key=losses.get)
        axes.plot(best, losses[best], "o", mfc="none", mec=RED, mew=2, ms=13)
    axes.plot([], [], "o", mfc="none", mec=RED, mew=2, ms=11, label="best")
    axes.axhline(base, color="0.5", lw=1, ls="--")
    axes.set(
        title="Test loss by rate", xlabel="learning rate", ylabel="log loss, test rows",
        xscale="log", ylim=(0.42, 0.72),
    )  # fmt: skip
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)

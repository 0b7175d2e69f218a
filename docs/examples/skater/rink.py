"""The rink: a skater spins, pulls the arms in, and one hand wobbles once. The same for the same seed.

A frame is 96x96 pixels of two layers, a hand each: a bright spot in noise.
"""

import numpy as np

FRAMES = 100
SIDE = 96
TURNS = 3
SPOT_PIXELS = 2.5
NOISE = 0.08
WOBBLE = range(61, 67)
"""Frames at which the left hand leaves its course ..."""

WOBBLE_PIXELS = 5
"""... by so much."""


def truth():
    """Where the hands are: an array of frames, hands, and x and y."""
    spin = np.linspace(0, 1, FRAMES)
    angle = 2 * np.pi * TURNS * spin**1.3
    radius = np.stack([36 - 20 * spin] * 2)
    radius[0, WOBBLE] += WOBBLE_PIXELS
    angles = np.stack([angle, angle + np.pi])
    return (SIDE / 2 + radius * (np.cos(angles), np.sin(angles))).T


def film(seed=1):
    """The frames, one after the other."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((SIDE, SIDE))
    for hands in truth():
        distances = [np.hypot(columns - x, rows - y) for x, y in hands]
        spots = np.exp(-((np.stack(distances, axis=-1) / SPOT_PIXELS) ** 2) / 2)
        yield (spots + random.normal(scale=NOISE, size=spots.shape)).astype("float32")

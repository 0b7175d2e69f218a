"""The farm: a herd, the camera at the parlour's door, and the truth about who was seen. The same for the same seed.

40 cows. A coat is smoothed noise cut at a threshold; a frame shows it shifted by up to 4 pixels, brighter or darker, with
noise; a tenth of the frames is empty. One cow in five has a quarter of the udder 1.2 to 1.7 kelvin too warm.
"""

import io
from typing import NamedTuple

import numpy as np
from watch.lib import herd

COWS = 40
SHIFT = 4
NOISE = 0.12
EMPTY_SHARE = 0.1


class Shot(NamedTuple):
    """A frame and the truth about it."""

    frame: bytes
    cow: int | None
    is_ill: bool


class Farm:
    """Cows, and a camera; the same for the same seed."""

    def __init__(self, seed=1):
        """Breed."""
        self._random = np.random.default_rng(seed)
        self.coats = [self._coat() for _ in range(COWS)]
        ill = self._random.permutation(COWS)[: COWS // 5]
        self.rises = {int(cow): float(self._random.uniform(1.2, 1.7)) for cow in ill}
        self.quarters = self._random.integers(0, 4, COWS)

    def _coat(self):
        side = 64 + 2 * SHIFT
        spectrum = np.fft.fft2(self._random.normal(size=(side, side)))
        frequency = np.fft.fftfreq(side)
        radius = frequency[:, None] ** 2 + frequency[None, :] ** 2
        smooth = np.fft.ifft2(spectrum * np.exp(-radius * 2 * (np.pi * 4) ** 2)).real
        return (smooth > np.median(smooth)).astype("float32")

    def picture(self, cow):
        """A cow's coat as the camera sees it; of None, the stable."""
        y, x = self._random.integers(0, 2 * SHIFT + 1, 2)
        coat = np.full((64, 64), 0.5) if cow is None else self.coats[cow][y : y + 64, x : x + 64]
        coat = coat * self._random.uniform(0.7, 1.3)
        return (coat + self._random.normal(scale=NOISE, size=(64, 64))).astype("float32")

    def thermogram(self, cow):
        """A cow's udder in degrees Celsius."""
        udder = self._random.normal(37.5, 0.3, (2, 16, 2, 16))
        if cow in self.rises:
            row, column = divmod(int(self.quarters[cow]), 2)
            udder[row, :, column, :] += self.rises[cow]
        return udder.reshape(32, 32).astype("float32")

    def shot(self):
        """The next frame."""
        cow = int(self._random.integers(0, COWS))
        seen = None if self._random.random() < EMPTY_SHARE else cow
        record = np.array((self.picture(seen), self.thermogram(seen)), herd.FRAME)
        return Shot(npy(record), seen, seen in self.rises)

    def model(self, pictures=15, first=0):
        """A model file, from so many pictures of each cow; cows are numbered from `first`."""
        cows = np.repeat(np.arange(COWS), pictures)
        model = herd.train([self.picture(cow) for cow in cows], cows + first)
        file = io.BytesIO()
        np.savez(file, **model)
        return file.getvalue()

    def milk(self, names=(0,)):
        """The milking parlour's table, for models that number the cows from these on."""
        lines = ["cow,yield,fat,protein"]
        for cow in (first + cow for first in names for cow in range(COWS)):
            amounts = self._random.normal((28, 4.1, 3.4), (4, 0.3, 0.2))
            lines.append(",".join([str(cow), *(f"{amount:.2f}" for amount in amounts)]))
        return "\n".join(lines) + "\n"


def npy(record):
    """An array as a .npy file."""
    file = io.BytesIO()
    np.save(file, record)
    return file.getvalue()

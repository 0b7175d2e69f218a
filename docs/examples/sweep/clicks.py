"""Clicks on advertisements, in the shape of Criteo's data: 13 numbers and 26 categories a row, and whether somebody clicked.

Categories are as frequent as Zipf says: a few everywhere, most almost never. Who clicks follows a hidden model, and luck.
The same for the same seed.
"""

import numpy as np

NUMBERS, CATEGORIES = 13, 26
KINDS = np.geomspace(8, 20_000, CATEGORIES).astype(int)
"""How many there are of each category."""

ZIPF = 1.2
CLICKS_LOGIT = -1.0


class Clicks:
    """Where rows come from."""

    def __init__(self, seed=1):
        """Draw the hidden model."""
        self._random = np.random.default_rng(seed)
        self._weights = [self._random.normal(scale=0.55, size=kinds) for kinds in KINDS]
        self._slopes = self._random.normal(scale=0.25, size=NUMBERS)

    def table(self, rows):
        """So many rows, as comma-separated values with a heading."""
        spread = self._random.normal(1, 1, (rows, NUMBERS))
        numbers = np.log1p(self._random.poisson(np.exp(spread))).round(3)
        categories = np.stack([self._random.zipf(ZIPF, rows) % kinds for kinds in KINDS], axis=1)
        logit = CLICKS_LOGIT + (numbers - 1.3) @ self._slopes
        for weights, column in zip(self._weights, categories.T, strict=True):
            logit += weights[column]
        clicked = self._random.random(rows) < 1 / (1 + np.exp(-logit))
        heading = [
            "clicked",
            *(f"n{i}" for i in range(NUMBERS)),
            *(f"c{i}" for i in range(CATEGORIES)),
        ]
        lines = [",".join(heading)]
        for one, some, others in zip(clicked, numbers, categories, strict=True):
            lines.append(",".join(map(str, (int(one), *some, *others))))
        return "\n".join(lines) + "\n"

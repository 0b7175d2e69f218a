"""Clicks become rows of numbers, ready to learn from: raw/<n>.csv -> parts/<n>.npz."""

import csv
import io

import numpy as np
from lib import logistic
from sklearn.feature_extraction import FeatureHasher

from cascadefs.triggers import watch

NUMBER_SCALE = 0.25
"""So that numbers weigh about as much as categories."""


@watch("raw/*.csv", emit="parts/", timeout="60s")
def hash_columns(event, ctx):
    """A column for each category, by its hash: nobody needs a list of all there are."""
    labels, rows = [], []
    for row in csv.DictReader(io.StringIO(event.text())):
        labels.append(int(row.pop("clicked")))
        rows.append({
            name if name.startswith("n") else f"{name}={value}":
            float(value) * NUMBER_SCALE if name.startswith("n") else 1
            for name, value in row.items()
        })  # fmt: skip
    hashed = FeatureHasher(logistic.COLUMNS, input_type="dict").transform(rows)
    columns, places = np.unique(hashed.indices, return_inverse=True)
    part = logistic.Part(columns, places, hashed.data, hashed.indptr, np.array(labels))
    ctx.emit(f"{event.stem}.npz", logistic.packed(part))

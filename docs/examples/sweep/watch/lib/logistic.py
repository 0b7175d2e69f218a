"""Logistic regression on sparse rows, by AdaGrad in small batches: plain arithmetic on the columns that occur."""

import io
from typing import NamedTuple

import numpy as np

COLUMNS = 2**18
DAMPING = 1e-4


class Part(NamedTuple):
    """Some rows. Entry k is `values[k]` in column `columns[places[k]]`; those of row i are `starts[i]` to `starts[i + 1]`."""

    columns: np.ndarray
    places: np.ndarray
    values: np.ndarray
    starts: np.ndarray
    labels: np.ndarray


def packed(part):
    """A part as a .npz file."""
    file = io.BytesIO()
    np.savez(file, **part._asdict())
    return file.getvalue()


def unpacked(data):
    """A part from a .npz file."""
    with np.load(io.BytesIO(data)) as arrays:
        return Part(**arrays)


def predict(part, weights, first=0, last=None):
    """How likely a click is in each row from `first` to `last`; weights are of the part's columns."""
    starts = part.starts[first : None if last is None else last + 1]
    entries = slice(starts[0], starts[-1])
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    shares = part.values[entries] * weights[part.places[entries]]
    logit = np.bincount(rows, shares, minlength=len(starts) - 1)
    return 1 / (1 + np.exp(-logit)), entries, rows


def learn(part, weights, squares, rate, batch):
    """How weights and sums of squared gradients change by a part, in batches of so many rows."""
    weights_now, squares_now = weights.astype("float64"), squares.astype("float64")
    for first in range(0, len(part.labels), batch):
        last = min(first + batch, len(part.labels))
        likely, entries, rows = predict(part, weights_now, first, last)
        errors = (likely - part.labels[first:last])[rows] * part.values[entries]
        gradient = np.bincount(part.places[entries], errors, minlength=len(weights)) / (
            last - first
        )
        squares_now += gradient**2
        weights_now -= rate * gradient / np.sqrt(squares_now + DAMPING)
    return weights_now - weights, squares_now - squares


def log_loss(labels, likely):
    """The mean of -log(how likely what happened was thought to be)."""
    thought = np.where(labels, likely, 1 - likely)
    return float(-np.log(np.maximum(thought, 1e-12)).mean())

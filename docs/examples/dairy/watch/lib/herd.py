"""What the stages know about cows: plain arithmetic on arrays, the same on NumPy and CuPy."""

import csv
import io

import numpy as np

FRAME = np.dtype([("coat", "<f4", (64, 64)), ("udder", "<f4", (32, 32))])
CONTRAST_MIN = 0.1
RISE_MIN = 0.6
"""Kelvin."""


def contrast(coat):
    """How much a picture varies, coarser than its noise: 0.3 for a coat, 0.03 for an empty stable."""
    return float(coat.reshape(16, 4, 16, 4).mean(axis=(1, 3)).std())


def normal(coats, xp=np):
    """Pictures as vectors without brightness: mean 0, length 1."""
    flat = xp.asarray(coats, dtype="float32").reshape(-1, 64 * 64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / xp.linalg.norm(flat, axis=1, keepdims=True)


def nearest(xp, model, coat):
    """The cow with most of the three nearest pictures, by the principal components in a model."""
    seen = normal(coat, xp) @ model["components"]
    distances = ((model["pictures"] - seen) ** 2).sum(axis=1)
    cows = model["cows"][xp.argsort(distances)[:3]]
    return int(xp.bincount(cows).argmax()) if len({int(cow) for cow in cows}) < 3 else int(cows[0])


def train(coats, cows, components=48):
    """A model of pictures and whose they are (PCA by the eigenvectors of the small side)."""
    pictures = normal(coats)
    _, vectors = np.linalg.eigh(pictures @ pictures.T)
    axes = pictures.T @ vectors[:, -components:]
    axes /= np.linalg.norm(axes, axis=0)
    return {"components": axes, "pictures": pictures @ axes, "cows": np.asarray(cows, "int64")}


def warmest(udder):
    """How much the warmest quarter of an udder is above the median one, in kelvin."""
    quarters = udder.reshape(2, 16, 2, 16).mean(axis=(1, 3)).ravel()
    return float(quarters.max() - np.median(quarters))


def table(text):
    """A table of comma-separated values by its first column."""
    return {row.pop("cow"): row for row in csv.DictReader(io.StringIO(text))}

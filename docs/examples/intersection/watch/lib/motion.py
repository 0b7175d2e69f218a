"""What the stages know about pictures and motion."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

FRAME = np.dtype([("time", "<f8"), ("image", "u1", (128, 128))])
FRAMES_PER_SECOND = 10
GRAYS = (100, 140, 180, 220)
"""The gray of a vehicle is its number plate."""

GRAY_TOLERANCE = 18
AREA_PIXELS = 12
"""Of what is a vehicle, at least."""

NEAR_PIXELS = 9
HORIZON_SECONDS = 2
FIT_SIGHTINGS = 6
FIT_SIGHTINGS_MIN = 3


class Track(NamedTuple):
    """Where a vehicle is, in pixels, and where it goes, in pixels a second."""

    place: np.ndarray
    velocity: np.ndarray


class Meeting(NamedTuple):
    """The closest approach of two vehicles within the horizon."""

    pixels: float
    seconds: float


def vehicles(image):
    """The vehicles in a picture: number and middle, by the largest connected component of each gray."""
    for number, gray in enumerate(GRAYS):
        labels, _ = ndimage.label(abs(image.astype(int) - gray) <= GRAY_TOLERANCE)
        areas = np.bincount(labels.ravel())
        areas[0] = 0
        if areas.max() >= AREA_PIXELS:
            y, x = ndimage.center_of_mass(labels == areas.argmax())
            yield number, x, y


def fit(sightings):
    """A straight line through the last sightings, by least squares: the track at the newest of them."""
    times = np.array([one["time"] for one in sightings])
    places = np.array([(one["x"], one["y"]) for one in sightings])
    velocity, place = np.polyfit(times - times[-1], places, 1)
    return Track(place, velocity)


def closest(first, second):
    """When and how close two will come if they go on as they do."""
    apart, faster = second.place - first.place, second.velocity - first.velocity
    seconds = np.clip(-(apart @ faster) / max(faster @ faster, 1e-9), 0, HORIZON_SECONDS)
    return Meeting(float(np.linalg.norm(apart + faster * seconds)), float(seconds))

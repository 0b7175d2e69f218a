"""Follow bright spots through a film, layer by layer, and find where they leave their course."""

import numpy as np
from scipy import ndimage, stats

WINDOW_PIXELS = 6
ERROR_PIXELS = 2


def middle(picture):
    """The middle of the brightest spot, finer than a pixel: x and y."""
    smooth = ndimage.gaussian_filter(picture, 1.5)
    row, column = np.unravel_index(smooth.argmax(), smooth.shape)
    top, left = max(row - WINDOW_PIXELS, 0), max(column - WINDOW_PIXELS, 0)
    spot = smooth[top : row + WINDOW_PIXELS + 1, left : column + WINDOW_PIXELS + 1]
    y, x = ndimage.center_of_mass(spot * (spot > spot.max() / 4))
    return left + x, top + y


def follow(film):
    """Where the hands of a film are: an array of frames, hands, and x and y. The film is read a layer at a time."""
    hands = range(film.shape[-1])
    return np.stack([[middle(picture) for picture in film[..., hand]] for hand in hands], axis=1)


def errors(path):
    """How far each hand is from its course, in pixels, and whether that is an error: two arrays of frames and hands.

    A hand turns around the middle between both and is pulled in steadily: its distance from there is a straight line over
    time, which the median of all slopes finds whatever a few frames say (Theil and Sen).
    """
    axis = np.median(path.mean(axis=1), axis=0)
    radius = np.linalg.norm(path - axis, axis=-1)
    frames = np.arange(len(path))
    lines = [
        stats.theilslopes(radius[:, hand], frames, method="joint")
        for hand in range(radius.shape[1])
    ]
    course = np.stack([line.intercept + line.slope * frames for line in lines], axis=1)
    return radius - course, abs(radius - course) > ERROR_PIXELS

"""The street: vehicles, a camera above each crossing, and the truth about who comes too close to whom.

A scene is four vehicles that come from the four sides, each with its own gray and its own lane, braking and speeding up
as people do. A picture is 128x128 pixels, ten a second for four seconds.
"""

import io
import itertools

import numpy as np
from watch.lib import motion

FRAMES = 40
SIDE = 128
ROAD_GRAY = 40
NOISE_GRAY = 6
LANE = 6
"""Of a lane from the middle of the road, in pixels: vehicles that come from opposite sides pass each other."""

HEADINGS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
LANES = np.array([(0, LANE), (0, -LANE), (-LANE, 0), (LANE, 0)])


class Scene:
    """Four vehicles for four seconds, and what the camera sees of them; the same for the same seed."""

    def __init__(self, seed):
        """Let them come."""
        self._random = np.random.default_rng(seed)
        count = len(motion.GRAYS)
        self.times = np.arange(FRAMES) / motion.FRAMES_PER_SECOND
        ahead = np.arange(FRAMES + motion.HORIZON_SECONDS * motion.FRAMES_PER_SECOND)
        speed = self._random.uniform(10, 20, count)
        arrival = self._random.uniform(1.6, 4.6, count)
        pedal = self._random.normal(0, 5, (len(ahead), count)) / motion.FRAMES_PER_SECOND
        way = np.cumsum(speed + np.cumsum(pedal, axis=0), axis=0) / motion.FRAMES_PER_SECOND
        along = way - (speed * arrival)
        self.places = SIDE / 2 + along[:, :, None] * HEADINGS + LANES
        """Of each vehicle at each frame, and for as long as forecasts reach behind the last: x and y."""

    def frame(self, number):
        """A picture as a .npy file."""
        image = np.full((SIDE, SIDE), ROAD_GRAY, "float32")
        for gray, heading, (x, y) in zip(motion.GRAYS, HEADINGS, self.places[number], strict=True):
            wide, high = (4, 2.5) if heading[0] else (2.5, 4)
            rows, columns = np.indices(image.shape)
            image[(abs(columns - x) <= wide) & (abs(rows - y) <= high)] = gray
        image += self._random.normal(scale=NOISE_GRAY, size=image.shape)
        record = np.array((self.times[number], image.clip(0, 255)), motion.FRAME)
        file = io.BytesIO()
        np.save(file, record)
        return file.getvalue()

    def crashes(self):
        """The pairs that come too close, and the time at which they do: {(first, second): seconds}."""
        found = {}
        for pair in itertools.combinations(range(len(motion.GRAYS)), 2):
            first, second = (self.places[:, one] for one in pair)
            near = np.linalg.norm(first - second, axis=1) < motion.NEAR_PIXELS
            if near.any():
                found[pair] = float(near.argmax() / motion.FRAMES_PER_SECOND)
        return found

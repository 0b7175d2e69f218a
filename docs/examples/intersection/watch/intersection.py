"""Crossings: from the pictures of a camera to a warning before two vehicles meet.

    cam/<crossing>/frame.npy -> tracks/<crossing>/<vehicle>.json -> trajectories/<crossing>/<vehicle>.json
                             -> seen/<crossing>.json -> forecasts/<crossing>.json, alerts/<crossing>/<a>-<b>.json

A file `tracks/...` is where a vehicle was seen last. It is overwritten at each sighting, so its versions are the
trajectory. Whatever a handler reads is as of the frame that fired it, however many have come since.
"""

from itertools import combinations

from lib import motion

from cascadefs.triggers import watch

PERSISTENCE = 3
"""Frames in a row that forecast a collision before somebody is told."""

TEN_SECONDS = 10_000_000


@watch("re:cam/(?P<crossing>[^/]+)/frame[.]npy", timeout="5s")
def detect(event, ctx):
    """Find the vehicles in a frame."""
    frame, crossing = event.array(motion.FRAME), event.match["crossing"]
    time, numbers = float(frame["time"]), []
    for number, x, y in motion.vehicles(frame["image"]):
        numbers.append(number)
        ctx.put(f"tracks/{crossing}/{number}.json", {"time": time, "x": x, "y": y})
    ctx.put(f"seen/{crossing}.json", {"time": time, "vehicles": numbers})


@watch("tracks/*/*.json", timeout="5s")
def trajectory(event, ctx):
    """Where a vehicle goes: a line through where it was seen in the last ten seconds, but not more than a few times."""
    since = ctx.timestamp - TEN_SECONDS
    versions = [
        one.version for one in ctx.history(event.path, since=since, limit=motion.FIT_SIGHTINGS)
    ]
    seen = [ctx.get(event.path, version=version).json() for version in versions]
    if len(seen) >= motion.FIT_SIGHTINGS_MIN:
        track = motion.fit(seen)
        found = {"time": seen[-1]["time"], "place": track.place, "velocity": track.velocity}
        ctx.put(event.path.replace("tracks", "trajectories", 1), found | {"versions": versions})


@watch("seen/*.json", timeout="5s")
def collision(event, ctx):
    """Which two of those just seen come too close within two seconds, and say so if it is so for three frames in a row."""
    crossing, seen = event.stem, event.json()
    tracks, times = {}, {}
    for vehicle in map(str, seen["vehicles"]):
        # At the cut, so as of this very frame, however many have come since.
        here = ctx.get(f"tracks/{crossing}/{vehicle}.json").json()
        recent = [*ctx.state.get(vehicle, []), here][-motion.FIT_SIGHTINGS :]
        ctx.state[vehicle] = recent
        times[vehicle] = here["time"]
        if len(recent) >= motion.FIT_SIGHTINGS_MIN:
            tracks[vehicle] = motion.fit(recent)
    forecast = {}
    for first, second in combinations(tracks, 2):
        meeting = motion.closest(tracks[first], tracks[second])
        pair = f"{first}-{second}"
        forecast[pair] = meeting._asdict()
        near = meeting.pixels < motion.NEAR_PIXELS
        ctx.state[pair] = ctx.state.get(pair, 0) + 1 if near else 0
        if ctx.state[pair] == PERSISTENCE:
            alert = {"time": seen["time"], **meeting._asdict()}
            ctx.put(f"alerts/{crossing}/{pair}.json", alert)
    ctx.put(f"forecasts/{crossing}.json", {"time": seen["time"], "read": times, "pairs": forecast})

"""Versions as an array and as a table, in a handler: at its cut, whatever comes later, and read only where they are looked at.

Method: scripts over a store in memory; frames are tiny, so that there can be many.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
import trio

from storage import record
from storage.namespace import ROOT
from triggers.access import Identity
from triggers.cut import StoreCut
from triggers.handler.copies import Copies
from triggers.handler.effects import encode
from triggers.handler.frames import CutFrames, instant_of
from triggers.handler.tensor import Tensor
from triggers.testing import Cascade

MINUTE_US = 60_000_000

SCRIPT = """
from cascadefs.triggers import watch

@watch("fire/*", emit="out/")
def look(event, ctx):
    frames = ctx.tensor("cam/*.npy", axis="event")
    lately = ctx.tensor("cam/*.npy", since="-10m")
    rows = ctx.table("daily/*.json")
    ctx.emit(event.name, [frames[:].tolist(), [str(time) for time in frames.times], len(lately),
        rows.arrow["fat"].to_pylist() if len(rows) else []])
"""


@pytest.fixture
def cascade():
    cascade = Cascade()
    cascade.script("look.py", SCRIPT)
    idle(cascade)
    return cascade


def idle(cascade: Cascade) -> None:
    trio.run(cascade.run_until_idle)


def put_frame(cascade: Cascade, value: float, event_us: int | None = None) -> int:
    """One more version of the camera's frame, which tells of another time; its timestamp."""
    data = encode("x.npy", np.full(2, value, np.float32))
    if event_us is None:
        cascade.put("cam/frame.npy", data)
    else:
        inode = cascade.store.binding(cascade.store.binding(ROOT, b"cam").inode, b"frame.npy").inode
        commit = record.Commit(inode, len(data), 0, [(0, len(data), record.SELF, 0)], 0, 0)
        outcome = cascade.store.propose(
            record.Batch([commit, record.Event(inode, event_us)]), [data]
        )
        assert outcome.reason is None
    return cascade.store.now()


def test_what_comes_late_does_not_change_what_a_run_sees(cascade):
    first = put_frame(cascade, 1.0)
    cascade.clock.value_ns += 20 * MINUTE_US * 1000
    put_frame(cascade, 2.0)
    cascade.put("daily/128.json", '{"fat": 4.5}')
    cascade.put("fire/a", "x")  # the cut; it runs when the late ones are there
    put_frame(cascade, 3.0, event_us=first - MINUTE_US)
    cascade.put("daily/128.json", '{"fat": 9.9}')
    idle(cascade)
    seen, times, lately, fat = msgspec.json.decode(cascade.get("out/a"))
    assert seen == [[1.0, 1.0], [2.0, 2.0]]
    assert (lately, fat) == (1, [4.5])
    cascade.put("fire/b", "x")
    idle(cascade)
    seen, later, _, fat = msgspec.json.decode(cascade.get("out/b"))
    assert seen == [[3.0, 3.0], [1.0, 1.0], [2.0, 2.0]]
    assert later[1:] == times
    assert fat == [4.5, 9.9]
    assert cascade.failed == []


class Opened:
    """A store that counts the contents that are read."""

    def __init__(self, store) -> None:
        self._store = store
        self.count = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def read(self, *arguments):
        self.count += 1
        return self._store.read(*arguments)


def frames_of(cascade: Cascade) -> tuple[CutFrames, Opened]:
    opened = Opened(cascade.store)
    cut = StoreCut(opened, ROOT, cascade.store.now(), Identity(1000, 1000))
    return CutFrames(cut, Copies()), opened


def test_ten_of_a_thousand_frames_open_ten():
    cascade = Cascade()
    kept = np.random.default_rng(1).normal(size=(1000, 3, 4)).astype(np.float32)
    for number, frame in enumerate(kept):
        cascade.put(f"cam{number % 4}/frame.npy", encode("x.npy", frame))
    frames, opened = frames_of(cascade)
    tensor = Tensor(frames, "cam?/frame.npy")
    assert (len(tensor), opened.count) == (1000, 0)
    np.testing.assert_array_equal(tensor[500:510, ..., 1:], kept[500:510, ..., 1:])
    assert tensor.opened == opened.count == 10
    assert tensor[999].tobytes() == kept[999].tobytes()
    assert cascade.get("cam3/frame.npy").endswith(tensor[999].tobytes())


def test_versions_come_in_pieces_from_any_time_on(monkeypatch):
    monkeypatch.setattr("triggers.handler.frames.FRAMES_ASKED", 7)
    cascade = Cascade()
    stamps: dict[tuple[str, int], int] = {}
    for number in range(60):
        path = f"p/{number % 3}"
        if number % 10 == 9:
            cascade.delete(path)
        else:
            version = cascade.put(path, b"x")
            binding = cascade.store.binding(*cascade._parent(path))
            attributes = cascade.store.attributes(binding.inode)
            stamps[path, version] = attributes.content_timestamp
    frames, _ = frames_of(cascade)
    there = {path for path, _ in stamps if cascade.get(path) is not None}
    everything = [key for key in sorted(stamps) if key[0] in there]
    assert [one[:2] for one in frames.find("p/*", None, None)] == everything
    times = sorted(stamps.values())
    for first, last in (
        (times[10], times[30]),
        (times[0] - 5, times[5]),
        (times[50], None),
        (times[-1] + 1, None),
    ):
        wanted = [key for key in everything if first <= stamps[key] <= (last or 2**62)]
        assert [one[:2] for one in frames.find("p/*", first, last)] == wanted


def test_a_time_is_said_in_many_ways():
    cut = 1_800_000_000_000_000
    moment = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
    assert instant_of(None, cut) is None
    assert instant_of(5, cut) == 5
    assert instant_of(moment, cut) == instant_of(moment.replace(tzinfo=None), cut) == cut
    assert (
        instant_of("-10m", cut) == instant_of(timedelta(minutes=-10), cut) == cut - 10 * MINUTE_US
    )
    assert instant_of("-1.5h", cut) == cut - 90 * MINUTE_US
    for wrong in ("10m", "yesterday", "-1 fortnight", 1.5):
        with pytest.raises(ValueError, match=r"duration|microseconds"):
            instant_of(wrong, cut)

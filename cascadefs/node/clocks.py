"""Whose clock is wrong: each node asks the others for the time, and what most of them show is right. Nobody's promises depend on it.

A clock that is ahead stamps what is written, and time does not go back (CLUSTER, "What is not tolerated"); so a wrong one is worth
a word before somebody looks for files of tomorrow.
"""

from __future__ import annotations

import logging
import statistics
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from cascadefs.node.links import Unreachable
from storage import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cascadefs.node.links import Links
    from storage.clock import Clock

__all__ = ["WRONG_S", "Clocks", "wrong"]

WRONG_S: Final = 60.0
"""From how much on a clock is told of; NTP keeps within some milliseconds."""

LOOK_S: Final = 60.0
"""Between two looks at the others' clocks."""

ANSWER_S: Final = 5.0

_log = logging.getLogger("cascadefs.node")


class _Time(msgspec.Struct):
    time_us: int


def wrong(offsets_s: Mapping[str, float]) -> dict[str, str]:
    """Whose clock is wrong by more than a minute, and how, by name; where half of them differ from the other half, all may be.

    Args:
        offsets_s: how far each is ahead of any one of them, in seconds.
    """
    if len(offsets_s) < 2:
        return {}
    # With an even number the middle is between two.
    low, high = (
        statistics.median_low(offsets_s.values()),
        statistics.median_high(offsets_s.values()),
    )
    found = {}
    for name, offset_s in sorted(offsets_s.items()):
        aheads_s = sorted((offset_s - low, offset_s - high), key=abs)
        if abs(aheads_s[0]) > WRONG_S or high - low > WRONG_S:
            side = "ahead of" if aheads_s[1] > 0 else "behind"
            found[name] = (
                f"its clock is {abs(aheads_s[1]):.0f} s {side} the others': set it (chrony)"
            )
    return found


class Clocks:
    """This node's and the others'. In the network's loop."""

    def __init__(self, name: str, links: Links, clock: Clock) -> None:
        """Nobody is asked before `run`; `name` is this node's."""
        self._name = name
        self._links = links
        self._clock = clock
        self.wrong: dict[str, str] = {}
        """As the last look has found."""

    async def run(self) -> None:
        """Ask once a minute, and tell in the log of what is new, until cancelled."""
        while True:
            await trio.sleep(LOOK_S)  # noqa: TID251  # Nothing tells but time.
            await self.look()

    async def look(self) -> None:
        """Ask all that are connected, once."""
        offsets_s = {self._name: 0.0}
        async with trio.open_nursery() as nursery:
            for name in self._links.connected():
                nursery.start_soon(self._ask, name, offsets_s)
        found = wrong(offsets_s)
        for name, why in found.items():
            if name not in self.wrong:
                _log.warning("node %s: %s", name, why)
        for name in self.wrong.keys() - found.keys():
            _log.info("node %s: its clock is right again, or it is away", name)
        self.wrong = found

    async def _ask(self, name: str, offsets_s: dict[str, float]) -> None:
        before_ns = self._clock.now_ns()
        try:
            answer, parts = await self._links.get(name).ask(
                lambda request: wire.Ask(request, "time"), seconds=ANSWER_S
            )
            told_us = msgspec.json.decode(parts[0], type=_Time).time_us if parts else 0
        except (Unreachable, msgspec.MsgspecError):
            return
        if not answer.errno and told_us:
            middle_ns = (before_ns + self._clock.now_ns()) / 2
            offsets_s[name] = told_us / 1e6 - middle_ns / 1e9

"""The network between the machines of a simulated cluster: late, lossy, repeating, out of order, cut one way or both.

Theory of operation. A message is a call made at the receiver some time later, or never. A cut is directed: a to b may be dead while b
to a lives, which is what an asymmetric partition and a half-open connection are. What was under way when
a link was cut still arrives, late, as packets in a switch's queue do. Machines are names; the authority is one as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from tests.simulation.cluster.agenda import MICROSECOND, MILLISECOND, Agenda

__all__ = ["Network", "Weather"]


@dataclass
class Weather:
    """What happens to messages, all of it nothing unless drawn."""

    loss_probability: float = 0.0
    duplicate_probability: float = 0.0
    slow_probability: float = 0.0
    """A message that takes up to `slow_ms_max`, so that later ones overtake it."""
    slow_ms_max: int = 200
    reorders: bool = False
    """Each message takes its own time; otherwise a link is a stream, in which a late one holds up those behind it."""
    delay_us_min: int = 20
    delay_us_max: int = 300

    @classmethod
    def drawn(cls, random: Random) -> Weather:
        """A swarm: each kind in half of the seeds."""

        def some(most: float) -> float:
            return random.random() * most if random.random() < 0.5 else 0.0

        return cls(
            loss_probability=some(0.05),
            duplicate_probability=some(0.05),
            slow_probability=some(0.03),
            slow_ms_max=random.choice((5, 50, 1000)),
            reorders=random.random() < 0.5,
            delay_us_max=random.choice((50, 300, 5000)),
        )


class Network:
    """Carries calls from machine to machine.

    Attributes:
        weather: Of all links; may be exchanged at any time.
        counts: Messages sent, lost, repeated.
    """

    def __init__(self, agenda: Agenda, random: Random, weather: Weather) -> None:
        self.weather = weather
        self.counts: Counter[str] = Counter()
        self._agenda = agenda
        self._random = random
        self._cut: set[tuple[str, str]] = set()
        self._arrives_ns: dict[tuple[str, str], int] = {}

    def send(self, source: str, target: str, call: Callable[..., None], *arguments: object) -> None:
        """Make a call at another machine, if and when the network likes."""
        weather, draw, counts = self.weather, self._random.random, self.counts
        counts["sent"] += 1
        if (self._cut and (source, target) in self._cut) or (
            weather.loss_probability and draw() < weather.loss_probability
        ):
            counts["lost"] += 1
            return
        if weather.duplicate_probability and draw() < weather.duplicate_probability:
            counts["repeated"] += 1
            self._agenda.after(self._delay_ns(), call, *arguments)
        delay_ns = self._delay_ns()
        if not weather.reorders:
            link, now_ns = (source, target), self._agenda.now_ns
            arrives_ns = self._arrives_ns[link] = max(
                now_ns + delay_ns, self._arrives_ns.get(link, 0)
            )
            delay_ns = arrives_ns - now_ns
        self._agenda.after(delay_ns, call, *arguments)

    def _delay_ns(self) -> int:
        weather, draw = self.weather, self._random.random
        if weather.slow_probability and draw() < weather.slow_probability:
            return int(draw() * weather.slow_ms_max * MILLISECOND)
        spread_us = weather.delay_us_max - weather.delay_us_min
        return int((weather.delay_us_min + draw() * spread_us) * MICROSECOND)

    def cut(self, sources: Iterable[str], targets: Iterable[str]) -> set[tuple[str, str]]:
        """Nothing sent from the ones to the others arrives any more; answers the links, for `mend`."""
        targets = list(targets)
        links = {(a, b) for a in sources for b in targets if a != b}
        self._cut |= links
        return links

    def mend(self, links: set[tuple[str, str]]) -> None:
        """These links are whole."""
        self._cut -= links

    def heal(self) -> None:
        """All links are whole."""
        self._cut.clear()

"""What goes wrong in a simulated cluster, as options with units; drawn by the seed, a different mix each time.

A swarm: each kind is on in about half of the seeds, more or less often, so that none hides another.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from tests.simulation.cluster.agenda import MICROSECOND, MILLISECOND
from tests.simulation.cluster.network import Weather

__all__ = ["KINDS", "Faults"]

KINDS = {
    "kill": 4,
    "power cut": 3,
    "wiped disk": 1,
    "drained node": 2,
    "leader cut off": 3,
    "partition": 4,
    "one-way cut": 3,
    "authority away": 2,
    "authority unreachable": 2,
    "clock jump": 2,
    "blackout": 1,
    "pause": 3,
    "slow disk": 1,
    "full disk": 1,
    "mount killed": 2,
    "weather": 1,
}
"""Kinds of trouble the world makes, and how often beside each other when on."""


@dataclass
class Faults:
    """See the module."""

    random: Random
    kinds: tuple[str, ...] = ()
    every_ms_mean: int = 400
    """Time between two of the world's troubles."""
    lasts_ms_max: int = 1500
    """How long a partition, a pause, an absence lasts."""
    drift_ppm_max: int = 100
    skewed: bool = False
    """Wall clocks are wrong from the beginning."""
    quick_restart_probability: float = 0.0
    """Of a process or machine that is back before anybody missed it."""
    end_after_epoch_probability: float = 0.0
    """A member ends just when it, or another, has got a new epoch."""
    sync_us_mean: int = 300
    refused_sync_probability: float = 0.0
    end_at_step_probability: float = 0.0
    """A process ends between two steps of what `Ready` says."""
    weather: Weather = field(default_factory=Weather)
    on: bool = True
    injected: Counter[str] = field(default_factory=Counter)

    @classmethod
    def drawn(cls, random: Random) -> Faults:
        """A mix."""
        return cls(
            Random(random.random()),
            kinds=tuple(kind for kind in KINDS if random.random() < 0.5),
            every_ms_mean=random.choice((150, 400, 1000)),
            lasts_ms_max=random.choice((300, 1500, 3000)),
            drift_ppm_max=random.choice((0, 100, 500)),
            skewed=random.random() < 0.5,
            quick_restart_probability=random.choice((0.0, 0.5, 0.9)),
            end_after_epoch_probability=random.choice((0.0, 0.0, 0.1, 0.4)),
            sync_us_mean=random.choice((50, 300, 5000)),
            refused_sync_probability=random.choice((0.0, 0.0, 0.0, 0.01)),
            end_at_step_probability=random.choice((0.0, 0.0, 0.0005, 0.002)),
            weather=Weather.drawn(random),
        )

    def happens(self, what: str, probability: float) -> bool:
        """Draw for one fault."""
        if not self.on or not probability or self.random.random() >= probability:
            return False
        self.injected[what] += 1
        return True

    def sync_ns(self, random: Random) -> int:
        """How long one sync takes."""
        return int(random.expovariate(1 / self.sync_us_mean) * MICROSECOND) + MICROSECOND

    def next_ns(self) -> int:
        """Until the world's next trouble."""
        return int(self.random.expovariate(1 / self.every_ms_mean) * MILLISECOND)

    def lasts_ns(self) -> int:
        """How long one lasts."""
        return int(self.random.random() * self.lasts_ms_max * MILLISECOND)

    def restarts_ns(self) -> int:
        """Until something that ended is back."""
        if self.random.random() < self.quick_restart_probability:
            return int(self.random.random() * 30 * MILLISECOND)
        return self.lasts_ns()

    def draw(self) -> str:
        """The kind of the next."""
        weights = [KINDS[kind] for kind in self.kinds]
        return self.random.choices(self.kinds, weights)[0]

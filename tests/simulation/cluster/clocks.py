"""The clocks of one node: they drift, and the wall clock jumps, also backwards.

Theory of operation. A node's monotonic clock runs at true time's rate but for a bounded drift, from an origin of its
own, and starts over when the machine does. Its wall clock runs at the same rate and is set now and then, as an
administrator or NTP does. Nobody in the cluster knows true time.
"""

from __future__ import annotations

from random import Random

from tests.simulation.cluster.agenda import MILLISECOND, SECOND, Agenda

__all__ = ["EPOCH_NS", "Clocks"]

EPOCH_NS = 1_000_000_000 * SECOND
"""The wall clock of a node that is right, at true time 0."""

OFFSETS_NS = (0, MILLISECOND, 50 * MILLISECOND, SECOND, 5 * SECOND)


class Clocks:
    """Monotonic and wall clock of one node."""

    def __init__(self, agenda: Agenda, random: Random, drift_ppm_max: int, skewed: bool) -> None:
        self._agenda = agenda
        self._random = random
        self._drift_ppm = random.randint(-drift_ppm_max, drift_ppm_max)
        self._origin_ns = random.randrange(1000 * SECOND)
        self._wall_offset_ns = 0
        if skewed:
            self.jump()

    def monotonic_ns(self) -> int:
        """Never goes back while the machine is up."""
        now = self._agenda.now_ns
        return self._origin_ns + now + now * self._drift_ppm // 1_000_000

    def wall_ns(self) -> int:
        """What the machine takes for the time of day."""
        now = self._agenda.now_ns
        return EPOCH_NS + self._wall_offset_ns + now + now * self._drift_ppm // 1_000_000

    def reboot(self) -> None:
        """The machine went down: the monotonic clock starts anywhere."""
        self._origin_ns = self._random.randrange(1000 * SECOND)

    def jump(self) -> None:
        """Somebody sets the wall clock."""
        self._wall_offset_ns = self._random.choice((-1, 1)) * self._random.choice(OFFSETS_NS)

    def heal(self) -> None:
        """Somebody sets it right."""
        self._wall_offset_ns = 0

"""Figures: what was measured, beside what, and what was asked for.

Every ratio is a speed: twice as good is 2, whatever the unit. Against a peer it is cascadefs's speed over the peer's;
against a limit (3 s, 50 us) it is how many times over the limit is kept. So `target` is always the least ratio wanted.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Figure", "Sample", "Target", "median", "median_cpu_us"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one peer: the value in the figure's unit, and the daemon's processor time in us an operation."""

    value: float
    cpu_us: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for: so many times the speed of `reference`, said for people in `text`."""

    reference: str
    least: float
    text: str


@dataclass(slots=True)
class Figure:
    """One line of the table."""

    key: str
    title: str
    unit: str
    higher_is_better: bool
    values: dict[str, float]
    """By peer, medians; the key `cascadefs` is always there."""

    target: Target | None = None
    reference: float | None = None
    """What `target.reference` measured, in `unit`; or the limit itself."""

    cpu_us: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The speed over the reference's; None without one."""
        own = self.values["cascadefs"]
        if self.reference is None or not own or not self.reference:
            return None
        return own / self.reference if self.higher_is_better else self.reference / own

    @property
    def is_met(self) -> bool | None:
        """Whether the target is; None without one."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target.least

    def to_json(self) -> dict[str, Any]:
        """All of it, plain."""
        target = self.target
        return {
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "values": self.values,
            "reference": self.reference,
            "ratio": self.ratio,
            "target": None if target is None else [target.reference, target.least, target.text],
            "is_met": self.is_met,
            "cpu_us": self.cpu_us,
            "samples": self.samples,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Figure:
        """What `to_json` gave."""
        target = None if row["target"] is None else Target(*row["target"])
        names = ("key", "title", "unit", "higher_is_better", "values")
        return cls(
            *(row[name] for name in names),
            target,
            *(row[name] for name in ("reference", "cpu_us", "samples", "note")),
        )


def median(samples: list[Sample]) -> float:
    """Of the values."""
    return statistics.median(sample.value for sample in samples)


def median_cpu_us(samples: list[Sample]) -> float:
    """The median processor time."""
    return statistics.median(sample.cpu_us for sample in samples)

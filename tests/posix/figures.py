"""How much was compared, and how much differs, per area and door."""

from __future__ import annotations

from collections import Counter

from tests.posix.deviations import DEVIATIONS

same: Counter[tuple[str, str]] = Counter()
different: Counter[tuple[str, str]] = Counter()


def count(area: str, door: str, *, is_same: bool) -> None:
    """One more comparison."""
    (same if is_same else different)[area, door] += 1


def table(doors: tuple[str, ...]) -> list[str]:
    """For people; empty if nothing was compared."""
    areas = sorted({area for area, _ in same.keys() | different.keys()})
    if not areas:
        return []
    row = "{:<16}" + "{:>12}{:>12}" * len(doors)

    def figures(of: list[str]) -> list[int]:
        return [
            sum(counter[area, door] for area in of)
            for door in doors
            for counter in (same, different)
        ]

    return [
        row.format("area", *(word for door in doors for word in (door, "different"))),
        *(row.format(area, *figures([area])) for area in areas),
        row.format("all", *figures(areas)),
        f"{len(DEVIATIONS)} deviations are listed in tests/posix/deviations.py",
    ]

"""What a directory says about how long its history is kept: grammar and meaning (SEMANTICS 7). Pure.

``all:24h,hour:7d,day:90d,week:2y;min=3;max=10000;ephemeral=60s``: everything for a day; then for a week what was
there at each full hour, for 90 days at each midnight, for two years at each Monday's; always at least three versions of
a name that exists and never more than 10,000; and names that came and went within a minute are forgotten. All times are UTC.

A version holds from its own timestamp until the next one's, and is kept for every *boundary* in between: it is the
last one before it. So a directory at a boundary is exact, whatever happened between two.

    policy  := windows (";" option)*          options in any order, each at most once
    windows := window ("," window)*           finer units first, each kept longer than the one before
    window  := ("all" | "minute" | "hour" | "day" | "week") ":" (duration | "forever")
    option  := "min=" N | "max=" N | "ephemeral=" duration
    duration:= (N ("s"|"m"|"h"|"d"|"w"|"y"))+
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["FOREVER_US", "MalformedPolicy", "Policy", "Window", "parse"]

_SECOND_US: Final = 1_000_000
_UNITS_US: Final = {
    "s": _SECOND_US,
    "m": 60 * _SECOND_US,
    "h": 3600 * _SECOND_US,
    "d": 86_400 * _SECOND_US,
    "w": 7 * 86_400 * _SECOND_US,
    "y": 365 * 86_400 * _SECOND_US,
}
_PERIODS_US: Final = {
    "all": 0,
    "minute": _UNITS_US["m"],
    "hour": _UNITS_US["h"],
    "day": _UNITS_US["d"],
    "week": _UNITS_US["w"],
}
_MONDAY_US: Final = 4 * _UNITS_US["d"]
"""1970 began on a Thursday: the first Monday is four days later."""

FOREVER_US: Final = 2**62
"""A window without an end."""

POLICY_BYTES_MAX: Final = 1024

_DURATION = re.compile(r"(?:\d{1,9}[smhdwy])+")
_PART = re.compile(r"(\d+)([smhdwy])")


class MalformedPolicy(ValueError):
    """The text is no policy; the message says which part and what it should be."""


@dataclass(frozen=True, slots=True)
class Window:
    """For `length_us` back from now, what was there at each boundary of a period is kept; period 0: everything."""

    name: str
    period_us: int
    length_us: int

    def last_boundary(self, before: int) -> int:
        """The last boundary before a timestamp."""
        phase = _MONDAY_US if self.name == "week" else 0
        return (before - 1 - phase) // self.period_us * self.period_us + phase

    def is_boundary(self, timestamp: int) -> bool:
        """Whether a timestamp is one."""
        return self.last_boundary(timestamp + 1) == timestamp

    def keeps(self, now: int, start: int, end: int) -> bool:
        """Whether something that held in [start, end) is shown at an instant of this window."""
        since = now - self.length_us
        if not self.period_us:
            return end > since
        return self.last_boundary(end) >= max(start, since)


@dataclass(frozen=True, slots=True)
class Policy:
    """See the module. Timestamps and lengths in microseconds."""

    windows: tuple[Window, ...]
    versions_min: int = 0
    versions_max: int | None = None
    ephemeral_us: int = 0

    def why_kept(
        self, now: int, start: int, end: int, rank: int, *, exists: bool = True
    ) -> str | None:
        """The line of the policy that keeps a version, None if none does.

        Args:
            now: when the question is asked.
            start: when the version was committed.
            end: when the next one was, or the name ended.
            rank: how many newer versions of the name are kept; 0 is the newest.
            exists: whether the name means something now; `min` is for those that do.
        """
        if exists and rank < self.versions_min:
            return "min"
        if self.versions_max is not None and rank >= self.versions_max:
            return None
        return next((w.name for w in self.windows if w.keeps(now, start, end)), None)

    def keeps_instant(self, now: int, timestamp: int) -> bool:
        """Whether a directory is exact as of a timestamp: it lies in the window of everything, or on a boundary."""
        for window in self.windows:
            if timestamp < now - window.length_us:
                continue
            if not window.period_us or window.is_boundary(timestamp):
                return True
        return False

    def instants(self, now: int, count_max: int) -> list[int]:
        """The boundaries that are kept, newest first."""
        found: set[int] = set()
        for window in self.windows:
            if not window.period_us:
                continue
            at = window.last_boundary(now + 1)
            for _ in range(count_max):
                if at < max(now - window.length_us, 0):
                    break
                found.add(at)
                at -= window.period_us
        return sorted(found, reverse=True)[:count_max]


def parse(text: bytes) -> Policy:
    """The policy a text says.

    Raises:
        MalformedPolicy: it says none.
    """
    if len(text) > POLICY_BYTES_MAX:
        raise MalformedPolicy(f"longer than {POLICY_BYTES_MAX} bytes")
    try:
        parts = text.decode("ascii").split(";")
    except UnicodeDecodeError as error:
        raise MalformedPolicy("not ASCII text") from error
    options = _options(parts[1:])
    policy = Policy(
        _windows(parts[0]),
        _number("min", options.get("min", "0"), least=0),
        _number("max", options["max"], least=1) if "max" in options else None,
        _duration("ephemeral", options["ephemeral"]) if "ephemeral" in options else 0,
    )
    if policy.versions_max is not None and policy.versions_max < policy.versions_min:
        raise MalformedPolicy(f"max={policy.versions_max} is less than min={policy.versions_min}")
    return policy


def _windows(text: str) -> tuple[Window, ...]:
    windows: list[Window] = []
    for part in text.split(","):
        name, _, length = part.partition(":")
        if name not in _PERIODS_US or not length:
            units = ", ".join(f"{unit}:" for unit in _PERIODS_US)
            raise MalformedPolicy(f"{part!r}: a window is one of {units} and a duration like 24h")
        length_us = FOREVER_US if length == "forever" else _duration(name, length)
        window = Window(name, _PERIODS_US[name], length_us)
        if windows and window.period_us <= windows[-1].period_us:
            raise MalformedPolicy(f"{part!r}: finer windows come first, each once")
        if windows and window.length_us <= windows[-1].length_us:
            raise MalformedPolicy(
                f"{part!r}: it ends before {windows[-1].name!r} does, and keeps nothing"
            )
        windows.append(window)
    return tuple(windows)


def _options(parts: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if name not in ("min", "max", "ephemeral") or not equals:
            raise MalformedPolicy(f"{part!r}: an option is min=N, max=N or ephemeral=DURATION")
        if name in options:
            raise MalformedPolicy(f"{part!r}: {name} is given twice")
        options[name] = value
    return options


def _number(name: str, text: str, *, least: int) -> int:
    if not re.fullmatch(r"\d{1,12}", text) or int(text) < least:
        raise MalformedPolicy(f"'{name}={text}': a number from {least} on is needed")
    return int(text)


def _duration(name: str, text: str) -> int:
    if not _DURATION.fullmatch(text):
        raise MalformedPolicy(f"{name!r}: {text!r} is no duration; say 90s, 24h, 7d, 2w or 2y")
    return sum(int(count) * _UNITS_US[unit] for count, unit in _PART.findall(text))

"""How long chosen calls take, each without the chosen calls inside it, and without what the clock itself costs."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Stopwatch"]

CALIBRATION, CALIBRATED_AT_ONCE = 5_000, 50


class Stopwatch:
    """Replaces methods of objects by ones that are timed; what is no coroutine only.

    In a guest reading the clock is a system call; so it suits calls made once a batch, not once an item.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._inside: list[float] = []  # of each call under way: seconds of the timed calls in it
        self._call_s = 0.0
        self._whole_s = 0.0
        self._calibrate()

    def _calibrate(self) -> None:
        def nothing() -> None:
            pass

        timed = self._timed("", nothing)
        wholes, calls = [], []
        for _ in range(CALIBRATION // CALIBRATED_AT_ONCE):  # the best: the machine may be busy
            begin = time.perf_counter()
            for _ in range(CALIBRATED_AT_ONCE):
                timed()
            wholes.append((time.perf_counter() - begin) / CALIBRATED_AT_ONCE)
            calls.append(self.seconds.pop("") / CALIBRATED_AT_ONCE)
        self._whole_s, self._call_s = min(wholes), min(calls)
        self.clear()

    def watch(self, name: str, owner: Any, *methods: str) -> None:
        """Time these methods of an object under a name."""
        for method in methods:
            setattr(owner, method, self._timed(name, getattr(owner, method)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            self._inside.append(0.0)
            begin = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                took = time.perf_counter() - begin
                inside = self._inside.pop()
                self.seconds[name] += took - inside - self._call_s
                self.calls[name] += 1
                if self._inside:
                    self._inside[-1] += took - self._call_s + self._whole_s

        return timed

    def clear(self) -> None:
        """Begin anew."""
        self.seconds.clear()
        self.calls.clear()

"""What happens now, told to whoever looks: one look a second for all of them, and none while nobody does.

A look that takes long is followed by a rest as long, so a page takes half of a slow store's time at most.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

import trio

from cascadefs.page.board import board
from cascadefs.page.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cascadefs.page.prices import Prices
    from cascadefs.page.source import Source
    from cascadefs.page.timeline import Timeline

__all__ = ["LOOKERS_MAX", "Feed"]

LOOK_SECONDS: Final = 1.0
STEPS: Final = 8
"""Of a timeline, taken in one look: more changes than that in a second are said to be more."""

LATEST: Final = 100
LOOKERS_MAX: Final = 16
SWEEPS_MAX: Final = 4
"""Directories of sweeps looked at at the same time."""

_log = logging.getLogger(__name__)


class Feed:
    """See the module. `run` it beside the server."""

    def __init__(self, source: Source, timeline: Timeline, prices: Prices | None) -> None:
        self._source = source
        self._timeline = timeline
        self._prices = prices
        self._lookers: dict[object, str] = {}
        self._came = trio.Event()
        self._told = trio.Event()
        self._news: dict[str, bytes] = {}
        self._looked_s = 0.0
        self._sweeps: dict[str, Sweep] = {}
        self._before: tuple[float, int] | None = None
        self._is_mistaken = False
        self.looks = 0
        """Taken since the start."""

    @property
    def is_full(self) -> bool:
        """Whether nobody else may look."""
        return len(self._lookers) >= LOOKERS_MAX

    async def run(self) -> None:
        """Look while somebody does, until cancelled."""
        while True:
            if not self._lookers:
                self._before = None
                self._came = trio.Event()
                await self._came.wait()
            began = trio.current_time()
            wanted = sorted(set(self._lookers.values()))[:SWEEPS_MAX]
            self._news = await trio.to_thread.run_sync(self._look, wanted, began)
            self.looks, self._looked_s = self.looks + 1, trio.current_time()
            told, self._told = self._told, trio.Event()
            told.set()
            took = trio.current_time() - began
            await trio.sleep(max(LOOK_SECONDS - took, took))  # noqa: TID251  # Once a second is what is wanted.

    async def follow(self, sweep: str) -> AsyncGenerator[bytes, None]:
        """Server-sent events, one a look; `sweep`: a directory to be shown as one, or "".

        Source: HTML Living Standard, 9.2.
        """
        key = object()
        self._lookers[key] = sweep
        try:
            self._came.set()
            yield b"retry: 1000\n\n"
            if trio.current_time() - self._looked_s > LOOK_SECONDS:
                await self._told.wait()
            while True:
                news = self._news.get(sweep) or self._news.get("", b"{}")
                yield b"data: " + news + b"\n\n"
                await self._told.wait()
        finally:
            del self._lookers[key]

    def _look(self, sweeps: list[str], now_s: float) -> dict[str, bytes]:
        """On a worker thread: the store may make us wait."""
        try:
            news = self._found(sweeps, now_s)
        except OSError as error:
            why = _words(error)
        except Exception:  # Whatever is found there, the page goes on.
            if not self._is_mistaken:
                _log.exception("it cannot be told how the store is")
            self._is_mistaken, why = True, "the page made a mistake; its log says which"
        else:
            self._is_mistaken = False
            return news
        return {sweep: _encoded({"error": why}) for sweep in {*sweeps, ""}}

    def _found(self, sweeps: list[str], now_s: float) -> dict[str, bytes]:
        shown = self._board(now_s)
        news = {"": _encoded(shown)}
        self._sweeps = {one: self._sweeps.get(one) or self._sweep(one) for one in sweeps if one}
        for name, sweep in self._sweeps.items():
            try:
                found = sweep.look()
            except OSError as error:
                found = {"directory": name, "error": _words(error)}
            news[name] = _encoded({**shown, "sweep": found})
        return news

    def _sweep(self, directory: str) -> Sweep:
        return Sweep(self._source.client, directory)

    def _board(self, now_s: float) -> dict[str, Any]:
        is_all = self._timeline.advance(STEPS)
        if not is_all:
            self._timeline.leap()
        told, rate = self._timeline.told, None
        if self._before is not None and now_s > self._before[0]:
            rate = (told - self._before[1]) / (now_s - self._before[0])
        self._before = now_s, told
        return board(
            self._source.status(),
            self._prices,
            now=self._source.client.now(),
            versions_per_s=rate,
            is_more=not is_all,
            latest=self._timeline.latest(LATEST),
        )


def _encoded(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _words(error: OSError) -> str:
    return error.strerror or str(error)

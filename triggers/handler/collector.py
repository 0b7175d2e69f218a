"""`watch`, and what a module registers with it.

A decorator call becomes a *table*: the keywords as written, the patterns under "watch", the function's name under
"handler". Nothing is judged here: the one validator is `triggers.binding`. Without a loader around (somebody imports
the script in a test of their own) `watch` only hands the function back.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

__all__ = ["Collector", "Initialization", "collecting", "watch"]

Handler = TypeVar("Handler", bound="Callable[..., Any]")


class Collector:
    """Tables and handlers of one module, in the order of registration."""

    def __init__(self) -> None:
        self.tables: list[dict[str, object]] = []
        self.handlers: dict[str, Callable[..., Any]] = {}

    def add(
        self, handler: Callable[..., Any], patterns: tuple[str, ...], keys: dict[str, object]
    ) -> None:
        """Register a handler once more.

        Raises:
            TypeError: it cannot be called, or a value is none that a table can hold.
        """
        if not callable(handler):
            raise TypeError(
                f"watch: {handler!r} is no function; write @watch(...) right above a `def`"
            )
        table: dict[str, object] = {}
        if patterns:
            table["watch"] = list(patterns)
        for key, value in keys.items():
            table[key] = plain(value, key)
        table["handler"] = self.name(handler)
        self.tables.append(table)

    def name(self, handler: Callable[..., Any]) -> str:
        """A name for a function, its own if that is free; the same at every import, since the order is."""
        own = getattr(handler, "__name__", type(handler).__name__)
        name, number = own, 1
        while self.handlers.setdefault(name, handler) is not handler:
            number += 1
            name = f"{own}#{number}"
        return name

    def initialize(self, module: ModuleType) -> None:
        """Call the module's `initialize(ctx)`, if it has one."""
        initialize = getattr(module, "initialize", None)
        if callable(initialize):
            initialize(Initialization(self))


class Initialization:
    """The `ctx` of `initialize`: registers bindings whose patterns are computed."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def watch(
        self, *patterns: str, handler: Callable[..., Any] | None = None, **keys: object
    ) -> Callable[[Handler], Handler]:
        """Register `handler=`; without one, a decorator as `watch` is."""

        def register(function: Handler) -> Handler:
            self._collector.add(function, patterns, keys)
            return function

        if handler is not None:
            self._collector.add(handler, patterns, keys)
        return register


_current: ContextVar[Collector | None] = ContextVar("collector", default=None)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Collect what `watch` is called for inside the block."""
    collector = Collector()
    token = _current.set(collector)
    try:
        yield collector
    finally:
        _current.reset(token)


def watch(*patterns: str, **keys: object) -> Callable[[Handler], Handler]:
    """Run the function below for every version of every file that matches one of the patterns.

    Patterns are relative to the directory that holds `.cascade/`; the keywords are those of docs/TRIGGERS.md 2. The
    function takes `(event, ctx)`, plain or `async`; with `batch=` a list of events.
    """

    def register(function: Handler) -> Handler:
        collector = _current.get()
        if collector is not None:
            collector.add(function, patterns, keys)
        return function

    if len(patterns) == 1 and callable(patterns[0]):
        raise TypeError('watch: patterns are missing; write @watch("frames/*.npy")')
    return register


def plain(value: object, key: str) -> object:
    """A keyword's value as a table can hold it (tuples become lists).

    Raises:
        TypeError: it is none of text, number, bool, list, dict.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [plain(item, key) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item, key) for name, item in value.items()}
    raise TypeError(
        f"watch: {key}={value!r} is a {type(value).__name__};"
        " write text, a number, a bool, or a list of them"
    )

"""How the bindings of a mount stand, as rows of text: for tables and boards.

Made from what ``.cascade/status`` says of triggers (docs/TRIGGERS.md 11).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

__all__ = ["HEADINGS", "Row", "is_number", "plain", "rows"]

HEADINGS: Final = (
    "directory", "binding", "state", "pending", "lag", "running", "done", "failed", "p50 ms", "p99 ms", "memory", "watch",
)  # fmt: skip
_WORDS: Final = frozenset({"directory", "binding", "state", "watch"})


class Row(NamedTuple):
    """One binding."""

    base: str
    """Path of its directory from the root of the mount."""

    name: str
    cells: tuple[str, ...]
    """A text for each of `HEADINGS`."""


def rows(status: dict[str, Any]) -> list[Row]:
    """A row for each binding."""
    memory = status.get("workers", {}).get("memory", {})
    return [
        Row(base["path"], one["name"], _cells(base["path"], one, memory.get(one["script"], 0)))
        for base in status.get("bases", [])
        for one in base["bindings"]
    ]


def _cells(path: str, one: dict[str, Any], memory_bytes: int) -> tuple[str, ...]:
    return (
        plain(f"/{path}"), plain(one["name"]), one["state"], _number(one["pending"]),
        "" if one["lag_s"] is None else f"{one['lag_s']} s", _number(one["running"]), str(one["done"]), str(one["failed"]), _number(one["p50_ms"]), _number(one["p99_ms"]),
        f"{memory_bytes >> 20} MiB" if memory_bytes else "", plain(" ".join(one["watch"])),
    )  # fmt: skip


def is_number(heading: str) -> bool:
    """Whether what is below a heading are numbers."""
    return heading not in _WORDS


def plain(text: str) -> str:
    r"""For a terminal: bytes that are no UTF-8 as \udcXX."""
    return text.encode(errors="backslashreplace").decode()


def _number(value: float | None) -> str:
    return "" if value is None else str(value)

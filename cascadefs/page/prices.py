"""What things cost: a table of prices in a file, and what a store uses up by it. Pure, but for reading the file.

currency = "EUR"

[per_hour]
node = 0.12            # each node that is alive; of a mount, its machine
run = 0.02             # each run under way
gib_memory = 0.004     # of workers

[per_month]
gib_disk = 0.02        # of logs, on each replica
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from storage.errors import Unusable

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Prices", "Used"]

HOUR_SECONDS: Final = 3600.0
MONTH_SECONDS: Final = 730 * HOUR_SECONDS
"""A twelfth of a year, as clouds count."""

GIB: Final = 2**30

Price = Annotated[float, msgspec.Meta(ge=0)]


class _PerHour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    node: Price = 0.0
    run: Price = 0.0
    gib_memory: Price = 0.0


class _PerMonth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gib_disk: Price = 0.0


class Used(msgspec.Struct, frozen=True):
    """What a store uses up at a moment."""

    nodes: int = 1
    runs: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    """Of all replicas."""


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the module."""

    currency: Annotated[str, msgspec.Meta(min_length=1, max_length=8)]
    per_hour: _PerHour = _PerHour()
    per_month: _PerMonth = _PerMonth()

    @classmethod
    def load(cls, path: Path) -> Prices:
        """Read a table.

        Raises:
            Unusable: it cannot be read, or is none; the message says what helps.
        """
        try:
            return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), cls)
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}; name a file with prices") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
            raise Unusable(f"{path}: no table of prices: {error}; mend it there") from error

    def per_second(self, used: Used) -> dict[str, float]:
        """What each part costs in a second."""
        hour, month = self.per_hour, self.per_month
        return {
            "nodes": used.nodes * hour.node / HOUR_SECONDS,
            "runs": used.runs * hour.run / HOUR_SECONDS,
            "memory": used.memory_bytes / GIB * hour.gib_memory / HOUR_SECONDS,
            "disk": used.disk_bytes / GIB * month.gib_disk / MONTH_SECONDS,
        }

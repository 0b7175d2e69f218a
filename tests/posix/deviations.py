"""Every way in which a mount does not behave as ext4 does, each with its reason; docs/SEMANTICS.md tells users of them.

A deviation must be there: one that is gone fails its test, so this list stays as short as it can be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KERNEL, PYFUSE3 = ("kernel",), ("pyfuse3",)
BOTH = KERNEL + PYFUSE3


@dataclass(frozen=True)
class Deviation:
    """`case` and `keys` are regular expressions, of the whole; `ours` is what is seen instead (None: anything)."""

    doors: tuple[str, ...]
    case: str
    keys: str
    ours: object
    reason: str

    def is_about(self, case: object) -> bool:
        return re.fullmatch(self.case, str(case)) is not None

    def covers(self, key: str) -> bool:
        return re.fullmatch(self.keys, key) is not None

    def allows(self, value: object) -> bool:
        return self.ours is None or value == self.ours


DEVIATIONS: tuple[Deviation, ...] = ()

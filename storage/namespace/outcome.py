"""What became of a record: it took effect, or it was refused with a reason."""

from __future__ import annotations

from typing import NamedTuple

from storage.errors import Reason

__all__ = ["DONE", "REFUSED", "Outcome"]


class Outcome(NamedTuple):
    """What became of a record: `reason` is None if it took effect."""

    reason: Reason | None


DONE = Outcome(None)
REFUSED = {reason: Outcome(reason) for reason in Reason}

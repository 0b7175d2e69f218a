"""An authority in memory: for tests, and for a cluster of one process.

Nodes of one process share one `StaticAuthority`. It always answers and its leases never lapse, unless a test says
so: `lapse` is a node that froze, `go_away` an authority that cannot be reached.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import trio

from storage import limits
from storage.membership.contract import Standing, Unavailable, check_changes
from storage.membership.tree import Item, Tree
from storage.membership.keys import encode, key_of
from storage.membership.values import Presence, View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from storage.membership.contract import Change
    from storage.membership.keys import Kept

__all__ = ["StaticAuthority"]

"""What the cluster needs of its one authority: a lease per node, compare-and-swap, and the newest view.

The authority is asked rarely and never on the path of data: inside an epoch the members go on without it. Whoever uses
it holds `View`s, which are values, and is woken when there is a newer one; that a watch was cut, resumed or had
to read everything again is the implementation's affair. An implementation is opened as an asynchronous context
manager (``async with open_etcd(...) as authority``), owns the tasks it needs, and ends them there. All calls are
made in one trio loop.

Implementations: ``static`` (fixed, for tests and one process) and ``etcd``; one suite checks all
(tests/storage/membership).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from storage.membership.values import Presence, Value, View

__all__ = ["Authority", "Change", "Lease", "Standing", "Unavailable"]


class Standing(enum.Enum):
    """Whether the authority can be asked."""

    UNKNOWN = "not heard from yet"
    REACHED = "it answers"
    AWAY = "it does not answer"


class Unavailable(Exception):
    """The authority did not answer in time, or not with a majority behind it; the message names the end points."""

    def __init__(self, message: str, *, outcome_unknown: bool) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
        """True when a change was sent and may have happened: read the next view before trying anything else."""


class Change(NamedTuple):
    """Put `new` where `old` stands: None as `old` makes it, None as `new` removes it."""

    old: Value | None
    new: Value | None


class Lease(Protocol):
    """This node's time-bounded right to be counted among the living."""

    @property
    def until_ns(self) -> int:
        """Until when, on this process's monotonic clock, the authority surely keeps the lease.

        Counted from before the last renewal was sent, so it errs on the safe side. In the past: the lease may have
        lapsed, others may have made an epoch without us, and whoever leads by it must stop. It is taken again by
        itself as soon as the authority answers; so the value may go from past to future. It goes back only where somebody
        revoked the lease, or, to 0, where a newer start of this node has the name: this process is then no longer the node.
        """
        ...

    async def change_presence(self, presence: Presence) -> None:
        """Publish other addresses under the same lease, now or as soon as the authority answers."""
        ...


class Authority(Protocol):
    """The one place where membership, placement and epochs are decided."""

    @property
    def view(self) -> View:
        """The newest view known here; revision 0 until the authority was first read. Stale when it is away."""
        ...

    @property
    def standing(self) -> Standing:
        """Whether the authority answered last. It changes within the time-out of a request, not at once."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why it is not obeyed although it answers: it tells what has been, and nothing is changed there. None: it is obeyed."""
        ...

    async def wait_view(self, after: int) -> View:
        """The newest view as soon as its revision is greater than `after`.

        Views between may be left out: what counts is the state. Waits as long as the authority is away. Leaves nothing
        behind when cancelled.
        """
        ...

    async def wait_standing(self, other_than: Standing) -> Standing:
        """The standing, as soon as it is not `other_than`."""
        ...

    async def read(self) -> View:
        """Read everything from a majority: includes every change that was done before the call.

        Raises:
            Unavailable: nobody with a majority answered in time (its outcome is known: nothing happened).
        """
        ...

    async def change(self, changes: Sequence[Change]) -> bool:
        """Make all changes in one transaction if each `old` is what stands there; else change nothing.

        Returns whether they were made. `view` includes the outcome when the call returns: a refused caller finds there
        what stood in its way. An `Epoch` may only be followed by one with its number plus 1 and is
        never removed; the first has number 1. At most `limits.CHANGES_MAX` at once. A cancelled call may or may not have made them.

        Raises:
            Unavailable: no answer; `outcome_unknown` says whether the changes may have been made.
        """
        ...

    def hold(self, presence: Presence, ttl_s: float) -> AbstractAsyncContextManager[Lease]:
        """Keep `presence` alive for as long as the body runs, with a lease of `ttl_s` seconds.

        Entering waits until the authority has granted the lease and shows the presence; leaving revokes the lease,
        so that others notice at once, or lets it lapse if the authority is away. A presence of the same name with
        another incarnation is replaced: the newest start of a node is the node.
        """
        ...

"""How triggers run on a node, and who is told what they do to the tree: what an engine is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.record import Part
    from triggers.run import Done, Failed, Run

__all__ = ["Options", "Watcher"]


class Options(NamedTuple):
    """How triggers run on this node."""

    workers: int = 2
    """Runs at a time, of all bindings together."""

    may_run_as: Callable[[int], str | None] = lambda _uid: None
    """Why nothing may run as a user; None if it may."""

    groups_of: Callable[[int, int], tuple[int, ...]] = lambda _uid, _gid: ()
    """Supplementary groups of a user."""

    may_inproc: Callable[[str], bool] = lambda _base_path: False
    """Whether an administrator lets scripts of a base run in this process."""

    traced: Callable[[Run, Done | Failed], None] = lambda _run, _result: None
    """Told of every run that came back."""

    cuda_devices: Callable[[], int] = lambda: 0
    """How many there are on this node, now."""

    gang_max: int = 256
    """Workers that one event may have here."""

    affinity: Callable[[str], str] | None = None
    """The affinity group of what lives in a directory, by its path from the root; None: the store has no pools."""

    node: str = ""
    shard: int = 0
    """The one whose commits the engine follows."""

    is_shared: bool = False
    """Whether others propose to the store, too, and engines elsewhere take over from this one, and it from them."""

    mountpoint: str | None = None
    """Where the store is mounted, for executables that read the cut as a directory."""

    may_enter: Callable[[int], bool] = lambda _uid: True
    """Whether a user may, by the mount's options."""

    reserved: Callable[[int, bytes], bool] = lambda _directory, _name: False
    """Whether a name would be taken for history."""

    is_open: Callable[[int], bool] = lambda _inode: False
    """Whether somebody has an inode open for writing."""


class Watcher(Protocol):
    """Who is told what the engine does to the tree: a mount, whose kernel has caches."""

    def applied(self, records: list[Part]) -> None:
        """These took effect, not by way of the mount."""
        ...

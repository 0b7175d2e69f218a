"""What a process knows to have been in the authority, so that an older one in its place is noticed: by its epochs, its revision, and which etcd it is.

An etcd that was restored from a snapshot tells of epochs that were replaced long ago. Whoever obeyed it could lead an epoch
that has been, with other records: the one thing that must not happen (CLUSTER, invariant 1). So nobody who has seen more does
anything there, until an operator has brought it up to what the nodes hold and says so (`values.Recovered`). Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from storage.membership.values import (
    Certificate,
    Cluster,
    Epoch,
    Node,
    Pool,
    Recovered,
    Shard,
    Value,
    View,
)

if TYPE_CHECKING:
    from collections.abc import Container

__all__ = ["Known", "decode", "encode", "lasting"]


class Known(msgspec.Struct, frozen=True):
    """What was read last."""

    etcd: str = ""
    """Which etcd it was (`Reading.etcd`); empty: not known."""
    view: View = View()

    def objection(self, etcd: str, view: View, unreadable: Container[str] = ()) -> str | None:
        """Why a reading is that of an older authority, or of another; None: it goes on from here.

        Args:
            etcd: which one it is of.
            view: what was read.
            unreadable: keys that nothing is known of.
        """
        for shard, held in sorted(self.view.epochs.items()):
            found = view.epochs.get(shard)
            number = found.epoch if found is not None else 0
            if number < held.epoch and f"epochs/{shard}" not in unreadable:
                return f"shard {shard} was in epoch {held.epoch}, and there it is in {number or 'none'}"
        if _recovered_us(view) > _recovered_us(self.view):
            return None
        if etcd and self.etcd and etcd != self.etcd:
            return f"it is etcd {etcd}, and was {self.etcd}"
        if view.revision < self.view.revision:
            return f"from revision {self.view.revision} to {view.revision}"
        return None


def _recovered_us(view: View) -> int:
    return view.recovered.at_us if view.recovered is not None else 0


class _File(msgspec.Struct, frozen=True):
    """`Known` on a disk, and on the way to an operator."""

    etcd: str
    revision: int
    cluster: Cluster | None = None
    pools: list[Pool] = []
    shards: list[Shard] = []
    nodes: list[Node] = []
    epochs: list[Epoch] = []
    certificates: list[Certificate] = []
    recovered: Recovered | None = None


def encode(known: Known) -> bytes:
    """As JSON (FORMAT, "Authority"), without who lives."""
    view = known.view
    return msgspec.json.encode(
        _File(
            known.etcd,
            view.revision,
            view.cluster,
            list(view.pools.values()),
            list(view.shards.values()),
            list(view.nodes.values()),
            list(view.epochs.values()),
            list(view.certificates.values()),
            view.recovered,
        )
    )


def decode(raw: bytes) -> Known:
    """What `encode` gave.

    Raises:
        ValueError: it is not that.
    """
    try:
        file = msgspec.json.decode(raw, type=_File)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    view = View(
        revision=file.revision,
        cluster=file.cluster,
        pools={value.name: value for value in file.pools},
        shards={value.shard: value for value in file.shards},
        nodes={value.name: value for value in file.nodes},
        epochs={value.shard: value for value in file.epochs},
        certificates={value.serial: value for value in file.certificates},
        recovered=file.recovered,
    )
    return Known(file.etcd, view)


def lasting(view: View) -> list[Value]:
    """All of a view that outlives the nodes' leases."""
    found: list[Value] = [view.cluster] if view.cluster is not None else []
    for kind in (view.pools, view.shards, view.nodes, view.epochs, view.certificates):
        found += kind.values()
    return found

"""What etcd said last, on this node's disk: so that an older etcd in its place is noticed after a restart, too, and the newest can be brought back.

A file beside the shards (FORMAT, "Authority"), written again, whole, whenever something was read that is new. It may lack what
came in the instant before a crash; the logs themselves say which epochs they have records of.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from storage.membership import known

if TYPE_CHECKING:
    from pathlib import Path

    from cascadefs.node.node import Node
    from storage.membership.etcd import EtcdAuthority
    from storage.membership.known import Known

__all__ = ["FILE", "Recollection", "Told", "told"]

FILE: Final = "authority.json"

_log = logging.getLogger("cascadefs.node")


class Told(msgspec.Struct, frozen=True):
    """What a node answers an operator who brings an authority back (`wire.Ask`, "authority")."""

    node: str
    known: str
    """As the file has it."""
    held: dict[str, int]
    """The epoch that each shard here serves in or has records of, as far as its log is open."""
    trouble: str
    """Why etcd is not obeyed; empty: it is."""


class Recollection:
    """See the module."""

    def __init__(self, path: Path) -> None:
        """In this file.

        Raises:
            OSError: it is there and cannot be read.
        """
        self._path = path
        self.found: Known = known.Known()
        """What it held at the start."""
        try:
            self.found = known.decode(path.read_bytes())
        except FileNotFoundError:
            pass
        except ValueError as error:
            _log.warning("%s is not whole, and made again: %s", path, error)

    async def run(self, authority: EtcdAuthority) -> None:
        """Keep it up to date until cancelled."""
        kept, said = self.found, ""
        while True:
            now = authority.known
            if now != kept:
                try:
                    await trio.to_thread.run_sync(self._keep, known.encode(now))
                    kept, said = now, ""
                except OSError as error:
                    if str(error) != said:
                        said = str(error)
                        _log.warning("what etcd says is not kept: %s", said)
            await authority.wait_view(now.view.revision)

    def _keep(self, raw: bytes) -> None:
        new = self._path.with_name(f"{self._path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(descriptor)
        new.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def told(node: Node, authority: EtcdAuthority) -> dict[str, Any]:
    """What a node knows of its authority, for `Told`."""
    held = {}
    for shard, member in node.members.items():
        epochs, serves = member.log.epochs(), member.replica.epoch
        last = epochs[-1][1] if epochs else 0
        held[str(shard)] = max(last, serves.number if serves is not None else 0)
    return {
        "node": node.name,
        "known": known.encode(authority.known).decode(),
        "held": held,
        "trouble": authority.trouble or "",
    }

"""What programs and mounts ask of scripts, and tell them, brought to the nodes that lead the shards these are of.

Theory of operation. Whoever is asked finds the directory, looks whether the asker may (as the files in `.cascade` of a mount of one's own have
owners and modes), and passes it on to the node that leads, which does it and does not look again: nodes trust each other.
What must outlive that node is in the shard's log before the answer comes. How far bindings are is read in the log here; what only their
engines know is added where they say it in time.

Source: docs/TRIGGERS.md 11 and 15.
"""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import trio

from cascadefs.client import calls
from cascadefs.node.links import Unreachable
from storage import wire
from storage.namespace import ROOT
from triggers.access import Identity
from triggers.onlooker import Onlooker, filled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cascadefs.client.operations import Operations
    from cascadefs.node.node import Node
    from cascadefs.node.programs import Programs
    from cascadefs.node.scripts import Scripts
    from storage.attributes import Attributes
    from storage.cluster.store import ClusterStore
    from storage.store import Store
    from storage.transport import Identity as Peer
    from storage.transport import IdMap

    May = Callable[[Attributes, bool], bool]
    """Whether somebody may tell the scripts of a directory something or, if the other is true, read about them."""

__all__ = ["Desk"]

STATUS_S: Final = 1.0
"""How long a node may take to say how its scripts are; then what the log says is told."""

COMMAND_S: Final = 2.0
"""How long a command may take; and how long a leader that does not run the scripts yet is asked again."""

AGAIN_S: Final = 0.1

ROOT_USER: Final = Identity(0, 0)
"""Finds every directory: a mount's kernel has looked at the way to it."""

EMPTY: Final = msgspec.Raw(msgspec.msgpack.encode(None))


class Desk:
    """See the module. In the network's loop."""

    def __init__(
        self, node: Node, programs: Programs, scripts: Callable[[], Scripts | None]
    ) -> None:
        """`scripts`: of the shards led here, if this node runs any."""
        self._node = node
        self._programs = programs
        self._scripts = scripts

    async def of_program(self, who: Identity, order: calls.Order) -> calls.Answer:
        """Do what a user asks."""

        def may(owner: Attributes, reads: bool) -> bool:
            is_of_group = owner.gid in (who.gid, *who.groups)
            return who.uid in (0, owner.uid) or (reads and is_of_group)

        return await self._answered(who, order, may)

    async def of_mount(self, peer: Peer, order: calls.Order) -> calls.Answer:
        """Do what somebody asks whom a mount has let: it may speak for some users, or all, and says itself which of them may."""

        def may(owner: Attributes, reads: bool) -> bool:
            return _is_among(peer.uids, owner.uid) or (reads and _is_among(peer.gids, owner.gid))

        return await self._answered(ROOT_USER, order, may)

    async def _answered(self, who: Identity, order: calls.Order, may: May) -> calls.Answer:
        try:
            base = await self._base(who, order, may)
            order = msgspec.structs.replace(order, base=base)
            if order.what == "status":
                return calls.Told(json.dumps(await self._status(who, base, order)).encode())
            if base != ROOT or order.what == "log":
                return await self._tell(self._programs.store.shard_of(base), order)
            if order.what == "command":
                return await self._tell_any(who, order)
            why = "each directory with scripts has its own events; the root's are not gathered from all nodes"
            raise OSError(errno.EOPNOTSUPP, why)
        except OSError as error:
            return calls.Failed(error.errno or errno.EIO, error.strerror or str(error))
        except ValueError as error:
            return calls.Failed(errno.EINVAL, str(error))

    async def _base(self, who: Identity, order: calls.Order, may: May) -> int:
        """The directory it is about.

        Raises:
            OSError: there is none, or it is not for the asker to ask that.
        """
        told = order.base

        def find(operations: Operations, store: ClusterStore) -> tuple[int, Attributes | None]:
            base = operations.base_of(told) if isinstance(told, str) else told
            return base, store.attributes(base)

        base, owner = await self._programs.asked(find, who)
        if owner is None:
            raise OSError(errno.ENOENT, "there is no such directory any more")
        reads = order.what != "command"
        if not (base == ROOT and order.what == "status") and not may(owner, reads):
            raise OSError(errno.EACCES, "that is for the directory's owner")
        return base

    # --- status ---

    async def _status(self, who: Identity, base: int, order: calls.Order) -> dict[str, Any]:
        """Of a directory, or of all."""
        only = None if base == ROOT else base

        def seen(_: Operations, store: ClusterStore) -> dict[str, Any]:
            return Onlooker(cast("Store", store)).status(only)

        own = await self._programs.asked(seen, who)
        shards = sorted(self._node.authority.view.epochs)
        told: dict[str, Any] = {"running": [], "bases": []}

        async def ask(shard: int) -> None:
            try:
                answer = await self._tell_once(shard, order, STATUS_S)
            except OSError:
                return
            found = json.loads(answer.data)  # Names that are no UTF-8 are in it, as surrogates.
            told["running"] += found["running"]
            told["bases"] += ({**one, "shard": shard} for one in found["bases"])

        async with trio.open_nursery() as nursery:
            for shard in shards if only is None else [self._programs.store.shard_of(base)]:
                nursery.start_soon(ask, shard)
        return filled(own, told)

    # --- commands ---

    async def _tell_any(self, who: Identity, order: calls.Order) -> calls.Told:
        """A command that names what it is about in the whole tree: to the shard that has it, or to one after the other until one knows it."""
        line = order.text.decode(errors="surrogateescape").strip()

        def meant(_: Operations, store: ClusterStore) -> dict[str, int]:
            return Onlooker(cast("Store", store)).meant(line.partition(" ")[2])

        found = await self._programs.asked(meant, who)
        shards: Iterable[int] = sorted(set(found.values()))
        if len(set(shards)) > 1:
            raise OSError(errno.EINVAL, f"that may be about {', '.join(sorted(found))}; say which")
        trouble = OSError(errno.EAGAIN, "nobody leads any shard")
        for shard in shards or sorted(self._node.authority.view.epochs):
            try:
                return await self._tell(shard, order)
            except OSError as error:
                if trouble.errno != errno.EINVAL:
                    trouble = error
        raise trouble

    async def _tell(self, shard: int, order: calls.Order) -> calls.Told:
        """To the node that leads a shard; asked again for a moment where that does not run the scripts yet."""
        until = trio.current_time() + COMMAND_S
        while True:
            try:
                return await self._tell_once(shard, order, COMMAND_S)
            except OSError as error:
                if error.errno != errno.EAGAIN or trio.current_time() > until:
                    raise
            await trio.sleep(AGAIN_S)  # noqa: TID251  a retry

    async def _tell_once(self, shard: int, order: calls.Order, seconds: float) -> calls.Told:
        view = self._node.authority.view
        epoch = view.epochs.get(shard)
        leader = epoch.leader if epoch is not None else ""
        if leader not in view.live:
            raise OSError(errno.EAGAIN, f"nobody leads shard {shard} now")
        if not view.live[leader].runs:
            why = f"node {leader} leads shard {shard} and runs no scripts: its node.toml has no triggers"
            raise OSError(errno.EOPNOTSUPP, why)
        if leader == self._node.name:
            scripts = self._scripts()
            assert scripts is not None, "it says that it runs some"
            return await trio.to_thread.run_sync(scripts.order, shard, order)
        link = self._node.links.get(leader)
        if link.connection is None:
            raise OSError(errno.EAGAIN, f"node {leader}, which leads shard {shard}, is not reached")
        try:
            answer, parts = await link.ask(
                lambda request: wire.Call(request, "order", EMPTY),
                [msgspec.msgpack.encode((shard, order))],
                seconds,
            )
        except Unreachable as error:
            raise OSError(errno.EIO, f"{error}; look whether it is done") from error
        if answer.errno:
            raise OSError(answer.errno, answer.why)
        try:
            told = calls.decode_answer(parts[0])
        except (msgspec.DecodeError, IndexError):
            told = None
        if not isinstance(told, calls.Told):
            raise OSError(errno.EPROTO, f"node {leader} answers what is none")
        return told


def _is_among(ids: IdMap, number: int) -> bool:
    """Whether a number is one of those a mount may speak for."""
    return any(0 <= number - one.target < one.count for one in ids.ranges)

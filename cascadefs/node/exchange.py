"""The exchange: runs that nodes do for each other, over the links between them.

Theory of operation. A node that leads a shard asks another replica's node to do a run (`Errand`), and commits what comes
back as if it had been done here. So nothing depends on the answer: if the other node, or the way to it, is lost, nobody
knows whether the run was done, and nobody has to, for it had no effect; it is done again here. Nodes are also asked how they
are (`Standing`), ten times a second while there is work.

Scripts and links live in loops of their own, in two threads; `across` is the way from one into the other.

Source: docs/TRIGGERS.md 15, docs/FORMAT.md, "Errands".
"""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from cascadefs.client import calls
from cascadefs.node.links import Unreachable
from storage import wire
from triggers.access import Identity as Owner
from triggers.allocation import BITS, Standing
from triggers.cut import StoreCut
from triggers.dispatcher import Held
from triggers.run import Failed
from triggers.runner import errand as errands
from triggers.runner.errand import Errand
from triggers.spelling import Decoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractContextManager

    from cascadefs.node.node import Node
    from storage.codec import Buffer
    from storage.store import Store
    from storage.transport import Identity
    from triggers.run import Done, Run, Runner

__all__ = ["Exchange", "Lost"]

RUN, STANDING, KILL, ORDER = "run", "standing", "kill", "order"

STANDING_S: Final = 1.0
"""How long a node may take to say how it is; it is then passed over until it does."""

REACH_S: Final = 1.0
REACH_LOOK_S: Final = 0.002
"""How long the replica here may take to be as far as the leader's was, and between two looks."""

GRACE_S: Final = 10.0
"""Beyond its own time-out, before a run at a node that lives is given up."""

Answered = TypeVar("Answered")

_log = logging.getLogger("cascadefs.node")


class Lost(Exception):
    """A run was handed over and will not come back; whatever was done of it has no effect."""


class Exchange:
    """See the module. In the loop of the scripts, but for what says otherwise."""

    def __init__(
        self,
        node: Node,
        standing: Callable[[], Standing],
        view_of: Callable[[int], Store | None],
        held: Callable[[], AbstractContextManager[object]],
        why_not: Callable[[int], str | None],
        gang_max: int,
        order: Callable[[int, calls.Order], calls.Told],
    ) -> None:
        """Nothing is taken before `open`.

        Args:
            node: whose links and authority.
            standing: of this node, now.
            view_of: a shard's replica here; None: there is none.
            held: keeps everybody else from the replicas while it is entered.
            why_not: why nothing may run as a user; None if it may.
            gang_max: workers that one run can have here.
            order: does what the scripts of a shard that is led here are told; on a worker thread.
        """
        self._node = node
        self._runner: Runner | None = None
        self._standing = standing
        self._view_of = view_of
        self._held = held
        self._why_not = why_not
        self._gang_max = gang_max
        self._order = order
        self._network: trio.lowlevel.TrioToken | None = None
        self._scripts: trio.lowlevel.TrioToken | None = None
        self._under_way: dict[str, dict[str, trio.CancelScope]] = {}
        """Runs that are done here for others, by node."""
        self.handed = self.taken = self.lost = 0
        """Runs that others were asked to do, that were done here for others, and that did not come back."""

    def open(self, runner: Runner) -> None:
        """From now on runs are taken, and done by this; in the loop of the scripts."""
        self._runner = runner
        self._scripts = trio.lowlevel.current_trio_token()

    def listen(self) -> None:
        """In the loop of the network, before anything else."""
        self._network = trio.lowlevel.current_trio_token()

    # --- asking ---

    def partners(self, shard: int) -> set[str]:
        """The nodes that a run of a shard may go to: in sync, alive, and doing runs. Any thread."""
        view = self._node.authority.view
        epoch = view.epochs.get(shard)
        members = epoch.members if epoch is not None else ()
        return {
            name
            for name in members
            if name != self._node.name and name in view.live and view.live[name].runs
        }

    async def standing_of(self, name: str) -> Standing | None:
        """How a node is; None if it does not say."""
        try:
            answer, parts = await self._ask(name, STANDING, b"", STANDING_S)
            return standing_from(parts[0]) if not answer.errno else None
        except (Lost, msgspec.MsgspecError, IndexError, TypeError):
            return None

    async def hand(
        self, name: str, shard: int, base: int, run: Run, reached: int
    ) -> tuple[Done | Failed, list[tuple[str, int, bool]]]:
        """Have a node do a run: its result, and what it read. Cancelled, the run is ended there.

        Raises:
            Lost: it will not come back.
        """
        self.handed += 1
        data = errands.encode(Errand(run, shard, base, reached))
        try:
            answer, parts = await self._ask(name, RUN, data, run.timeout_ms / 1000 + GRACE_S)
        except Lost:
            self.lost += 1
            raise
        except trio.Cancelled:
            self._tell(name, KILL, errands.encode(run.id))
            raise
        if answer.errno:
            raise Lost(f"node {name} does not do it: {answer.why}")
        try:
            returned = errands.decode_returned(parts[0])
            memory = b"".join(parts[1:])
            return errands.outcome_of(returned, memoryview(memory), name), returned.reads
        except (msgspec.MsgspecError, ValueError, IndexError) as error:
            raise Lost(f"node {name} answers what is no result: {error}") from error

    async def _ask(
        self, name: str, operation: str, data: bytes, seconds: float
    ) -> tuple[wire.Answer, list[memoryview]]:
        async def in_network() -> tuple[wire.Answer, list[memoryview]] | str:
            found: tuple[wire.Answer, list[memoryview]] | str = f"node {name} is gone"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, name, nursery.cancel_scope)
                link = self._node.links.get(name)
                try:
                    found = await link.ask(
                        lambda request: wire.Call(request, operation, EMPTY), [data], seconds
                    )
                except Unreachable as error:
                    found = str(error)
                nursery.cancel_scope.cancel()
            return found

        if self._network is None:
            raise Lost("this node has no links yet")
        try:
            found = await across(self._network, in_network)
        except trio.RunFinishedError as error:
            raise Lost("this node is stopping") from error
        if isinstance(found, str):
            raise Lost(found)
        return found

    async def _watch(self, name: str, scope: trio.CancelScope) -> None:
        """End what waits for a node once it lives no more: its connection may not say so."""
        authority = self._node.authority
        view = authority.view
        while name in view.live:
            view = await authority.wait_view(view.revision)
        scope.cancel()

    def _tell(self, name: str, operation: str, data: bytes) -> None:
        """Say something without waiting for anything."""

        def in_network() -> None:
            buffers = wire.encode(wire.Call(0, operation, EMPTY), [data])
            self._node.links.get(name).post(buffers, sum(map(len, buffers)))

        if self._network is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._network.run_sync_soon(in_network)

    # --- being asked; in the loop of the network ---

    async def serve(
        self, peer: Identity, operation: str, parts: Sequence[memoryview]
    ) -> tuple[bytes, Sequence[Buffer]]:
        """Answer another node.

        Raises:
            OSError: it cannot be, and why.
        """
        scripts = self._scripts
        if scripts is None or len(parts) != 1:
            raise OSError(errno.EAGAIN, "no scripts run on this node")
        data = bytes(parts[0])
        try:
            match operation:
                case "standing":
                    return standing_to(self._standing_for(peer.name)), []
                case "run":
                    errand = errands.decode_errand(data)
                    return await across(scripts, lambda: self._take(peer.name, errand))
                case "kill":
                    run_id = Text.decode(data)
                    scripts.run_sync_soon(lambda: self._kill(peer.name, run_id))
                    return b"", []
                case "order":
                    shard, order = orders.decode(data)
                    told = await trio.to_thread.run_sync(self._order, shard, order)
                    return calls.encode(told), []
        except msgspec.MsgspecError as error:
            raise OSError(errno.EPROTO, f"no errand: {error}") from error
        except (trio.RunFinishedError, Lost) as error:
            raise OSError(errno.EAGAIN, "no scripts run on this node any more") from error
        raise OSError(errno.EOPNOTSUPP, f"a node does not do {operation!r}")

    def _standing_for(self, name: str) -> Standing:
        """How this node is, without what who asks has given to it."""
        standing = self._standing()
        theirs = len(self._under_way.get(name, ()))
        return standing._replace(waiting=max(0, standing.waiting - theirs))

    async def _take(self, name: str, errand: Errand) -> tuple[bytes, Sequence[Buffer]]:
        run, script = errand.run, errand.run.script
        if (why := self._why_not(script.uid)) is not None:
            raise OSError(errno.EPERM, why)
        if run.gang > self._gang_max:  # Whoever asks may be a larger machine.
            raise OSError(errno.EAGAIN, f"{run.gang} workers at a time are not to be had here")
        theirs = self._under_way.setdefault(name, {})
        if run.id in theirs:  # Whoever asks has given it up before, and begun anew.
            raise OSError(errno.EAGAIN, f"{run.id} is still under way here")
        with trio.CancelScope() as scope:
            theirs[run.id] = scope
            try:
                return await self._do(errand)
            finally:
                del theirs[run.id]
        raise OSError(errno.ECANCELED, "ended by request")

    async def _do(self, errand: Errand) -> tuple[bytes, Sequence[Buffer]]:
        run, script = errand.run, errand.run.script
        view = self._view_of(errand.shard)
        if view is None or not await self._reach(view, errand):
            raise OSError(errno.EAGAIN, f"shard {errand.shard} is not that far here")
        owner = Owner(script.uid, script.gid, script.groups)
        cut = StoreCut(view, errand.base, run.timestamp, owner)
        assert self._runner is not None, "opened before it was known where"
        self.taken += 1
        try:
            outcome = await self._runner.run(run, Held(cut, self._held))  # type: ignore[arg-type]
        except Exception as error:
            _log.exception("%s: the runner failed", run.id)
            outcome = Failed("death", f"the runner failed: {error}")
        return errands.bring(outcome, list(cut.reads))

    async def _reach(self, view: Store, errand: Errand) -> bool:
        """Wait until the replica here has what the leader's had."""
        with trio.move_on_after(REACH_S):
            while True:
                with self._held():
                    if view.now() >= max(errand.reached, errand.run.timestamp):
                        return True
                await trio.sleep(REACH_LOOK_S)  # noqa: TID251  # What comes by is told to nobody here.
        return False

    def _kill(self, name: str, run_id: str) -> None:
        scope = self._under_way.get(name, {}).get(run_id)
        if scope is not None:
            scope.cancel()

    @property
    def under_way(self) -> int:
        """Runs that are done here for others, now. Any thread."""
        return sum(map(len, list(self._under_way.values())))

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        return {"handed": self.handed, "taken": self.taken, "lost": self.lost}


orders: Final = msgspec.msgpack.Decoder(tuple[int, calls.Order])
"""What one node asks of another that leads a shard: which, and what."""

EMPTY: Final = msgspec.Raw(msgspec.msgpack.encode(None))
Text: Final = Decoder[str](str)


def standing_to(standing: Standing) -> bytes:
    """What a node says of itself."""
    slots, waiting, resident, devices = standing
    bitmap = resident.to_bytes(BITS // 8, "little")
    return msgspec.msgpack.encode((slots, waiting, bitmap, devices))


def standing_from(data: memoryview) -> Standing:
    """What a node has said of itself."""
    slots, waiting, resident, devices = msgspec.msgpack.decode(
        data, type=tuple[int, int, bytes, int]
    )
    return Standing(slots, waiting, int.from_bytes(resident, "little"), devices)


async def across(
    token: trio.lowlevel.TrioToken, call: Callable[[], Awaitable[Answered]]
) -> Answered:
    """Have a coroutine run in another thread's loop, and its result or exception here. Cancelled, it is cancelled there.

    Raises:
        trio.RunFinishedError: that loop is no more.
    """
    here = trio.lowlevel.current_trio_token()
    ended = trio.Event()
    scope = trio.CancelScope()
    outcomes: list[Answered] = []
    errors: list[BaseException] = []

    async def there() -> None:
        try:
            with scope:
                outcomes.append(await call())
        except Exception as error:
            errors.append(error)
        finally:
            with contextlib.suppress(trio.RunFinishedError):
                here.run_sync_soon(ended.set)

    token.run_sync_soon(lambda: trio.lowlevel.spawn_system_task(there))
    try:
        await ended.wait()
    except trio.Cancelled:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(scope.cancel)
        raise
    if errors:
        raise errors[0]
    if not outcomes:
        raise Lost("cancelled over there")
    return outcomes[0]

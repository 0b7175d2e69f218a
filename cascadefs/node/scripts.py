"""The scripts of the shards that this node leads: an engine for each, all of them in one thread of their own.

Theory of operation. An engine waits for the network when it proposes, so it cannot live in the network's thread. While it
waits for longer than others should, they have the faces (`_View`): a shard whose writes pause stops its own
scripts, and those of other shards here, and nothing else. An engine is at work as long as the replica here leads. The first it does is to begin an epoch of deliveries
(`Adopt`): once that is applied, the face has everything that was committed before, and what the engine of an earlier leader
still sends is refused. So who leads says who should run scripts, and the log who does.

Source: docs/TRIGGERS.md, "On a cluster".
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import threading
from typing import TYPE_CHECKING, Final, cast

import trio

from cascadefs.client import calls
from cascadefs.host import make_control
from cascadefs.node.exchange import Exchange
from cascadefs.node.spread import Observer, Spread
from storage.cluster.view import ShardView
from storage.namespace import ROOT
from storage.sequencer import Unavailable
from triggers.allocation import Standing
from triggers.engine import Deposed
from triggers.onlooker import Onlooker
from triggers.operator import BadCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cascadefs.host import Host
    from cascadefs.node.faces import Faces
    from cascadefs.node.node import Node
    from cascadefs.node.programs import Programs
    from storage.cluster.face import Face
    from storage.cluster.store import ClusterStore
    from storage.namespace import Outcome
    from storage.record import Record
    from storage.store import Store
    from triggers.dispatcher import Dispatcher
    from triggers.operator import Operator

__all__ = ["Scripts"]

LOOK_S: Final = 0.5
"""Between two looks at what is led, when nobody said that this has changed."""

HELD_LOOKS: Final = 8
HELD_LOOK_S: Final = 0.005
"""So many looks of at most so long each are there for a record to come by before others may have the faces."""

AGAIN_S: Final = 1.0
"""Before an engine that ended while its shard is led here is begun again."""

STREAM_BYTES_MAX: Final = 1024 * 1024
"""Of events, or of a binding's output, told at a time."""

END_S: Final = 10.0
"""How long workers may take to end with the node."""

_log = logging.getLogger("cascadefs.node")


class _View(ShardView):
    """A shard as its engine sees it, which holds the faces up for a moment only."""

    def __init__(self, store: ClusterStore, face: Face, faces: Faces) -> None:
        super().__init__(store, face)
        self._faces = faces

    def _decide(self, proposal: Record, payload: Sequence[bytes | memoryview]) -> Outcome:
        told: list[Outcome | OSError] = []
        self._face.begin(proposal, payload, told.append)
        for _ in range(HELD_LOOKS):
            if not told:
                self._face.wait_and_apply(HELD_LOOK_S)
        self._faces.wait(lambda: bool(told))
        if isinstance(told[0], OSError):
            raise told[0]
        return told[0]


class Scripts:
    """See the module."""

    def __init__(self, host: Host, faces: Faces, programs: Programs, node: Node) -> None:
        """Nothing runs before `run`. In the loop of the network.

        Args:
            host: of this node.
            faces: whose lock is held by whoever asks or proposes.
            programs: has the store over them.
            node: says which shards are led here, and has links with others.
        """
        self._host = host
        self._exchange = Exchange(
            node, self._standing, self._view_of, faces.exclusive, host.options.may_run_as,
            host.options.gang_max, self.order,
        )  # fmt: skip
        self._observer = Observer(
            self._exchange, node.name, self._standing, lambda: set(self._dispatchers)
        )
        self._spreads: dict[int, Spread] = {}
        self._faces = faces
        self._programs = programs
        self._leads = node.leads
        self._exchange.listen()
        node.errands = self._exchange.serve
        node.on_epoch = self.wake
        self._token: trio.lowlevel.TrioToken | None = None
        self._news = trio.Event()
        self._all = trio.CancelScope()
        self._over = False
        self._ended = threading.Event()
        self._at_work: dict[int, trio.CancelScope] = {}
        self._dispatchers: dict[int, Dispatcher] = {}
        self._views: dict[int, ShardView] = {}
        """Of the shards whose scripts run here, or ran; and of those that runs are done in for others."""
        self._guests: dict[int, ShardView] = {}
        self.trouble: dict[int, str] = {}
        """Why scripts of a shard that is led here do not run, by shard."""
        self._wanted: dict[int, int | None] = {}
        self._problems: dict[str, str] = {}
        """Why single scripts are not active."""

    # --- any thread ---

    def wake(self) -> None:
        """What is led here may have changed."""
        self._soon(lambda: self._news.set())

    def stop(self) -> None:
        """Have `run` end soon."""
        self._over = True
        self._soon(self._all.cancel)

    def wait_end(self) -> None:
        """Wait until `run` is over, if it ever began, and not for long."""
        if self._token is not None and not self._ended.wait(END_S):
            _log.error("scripts do not end; going on without waiting for them")

    def _soon(self, do: Callable[[], object]) -> None:
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(do)

    def wanted_since(self, shard: int) -> int | None:
        """From which time on scripts here are still to read a shard's history; all of it, before that is known."""
        return None if shard in self.trouble else self._wanted.get(shard, 0)

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        at_work = dict(self._dispatchers)
        return {
            "mode": self._host.mode,
            "running": {
                str(shard): len(one.engine.running) for shard, one in sorted(at_work.items())
            },
            "problems": self._problems,
            "trouble": {str(shard): why for shard, why in list(self.trouble.items())},
            "workers": self._host.workers(),
            "elsewhere": self._exchange.status(),
            "reads": self._reads(),
        }

    def _reads(self) -> dict[str, int]:
        """Contents read from the shards that the scripts are of, and from others."""
        views = [*list(self._views.values()), *list(self._guests.values())]
        return {
            "own": sum(view.reads_own for view in views),
            "others": sum(view.reads_others for view in views),
        }

    def _standing(self) -> Standing:
        """How this node is, for those that may give it runs. Any thread."""
        observer, options = self._observer, self._host.options
        waiting = observer.running - observer.away + self._exchange.under_way
        return Standing(options.workers, waiting, self._host.resident(), options.cuda_devices())

    def _view_of(self, shard: int) -> Store | None:
        """A shard's replica, for runs that its leader asks for."""
        if shard not in self._programs.shards:
            return None
        whole = self._programs.store
        guest = self._guests.get(shard)
        if guest is None or not guest.is_of(whole.faces[shard]):
            guest = self._guests[shard] = ShardView(whole, whole.faces[shard])
        return cast("Store", guest)

    # --- worker threads ---

    def standing(self) -> dict[str, object]:
        """How all bindings are: of shards led here as their engines say, of others as far as the log does. JSON-able."""
        running: list[object] = []
        bases: list[object] = []
        with self._faces.exclusive():
            at_work = dict(self._dispatchers)
            for _, one in sorted(at_work.items()):
                told = one.operator.status()
                running += cast("list[object]", told["running"])
                bases += cast("list[object]", told["bases"])
            others = Onlooker(cast("Store", self._programs.store)).status()
            bases += [
                base
                for base in cast("list[dict[str, object]]", others["bases"])
                if base["shard"] not in at_work
            ]
        return {
            "mode": self._host.mode,
            "running": running,
            "bases": bases,
            "workers": self._host.workers(),
        }

    def command(self, base: str, line: str, uid: int) -> None:
        """Tell the scripts of a directory something, as a user: its owner, or root.

        Raises:
            BadCommand: they do not run here, are not that user's, or cannot do it.
        """
        with self._faces.exclusive():
            for dispatcher in self._dispatchers.values():
                engine = dispatcher.engine
                now = engine.store.now()
                for inode in list(engine.registry.bases):
                    if engine.base_path(inode, now) != base:
                        continue
                    owner = engine.store.attributes(inode)
                    if uid != 0 and (owner is None or owner.uid != uid):
                        raise BadCommand(f"/{base} is not yours")
                    dispatcher.operator.command(line, inode)
                    return
        raise BadCommand(f"the scripts of /{base} run on another node, or there are none")

    def order(self, shard: int, order: calls.Order) -> calls.Told:
        """Do what is asked of the scripts of a shard that is led here. Whether whoever asks may was looked at before.

        Raises:
            OSError: EINVAL: it cannot be done, and why; EAGAIN: they do not run here, or not yet.
        """
        assert isinstance(order.base, int), "it was found before"
        with self._faces.exclusive():
            dispatcher = self._dispatchers.get(shard)
            if dispatcher is None or not dispatcher.is_open:
                raise OSError(errno.EAGAIN, f"the scripts of shard {shard} do not run here yet")
            try:
                life = f"{dispatcher.engine.store.deliveries.epoch()}"
                return self._obey(dispatcher.operator, order.base, order, life)
            except Deposed:
                raise OSError(errno.EAGAIN, f"shard {shard} is led elsewhere now") from None

    @staticmethod
    def _obey(operator: Operator, base: int, order: calls.Order, life: str) -> calls.Told:
        text = order.text.decode(errors="surrogateescape")
        match order.what:
            case "command":
                try:
                    operator.command(text, base)
                except BadCommand as error:
                    operator.refused(text, str(error), base)
                    raise OSError(errno.EINVAL, str(error)) from error
                return calls.Told()
            case "status":
                told = operator.status(None if base == ROOT else base)
                return calls.Told(json.dumps(told).encode())
            case "events":
                chronicle = operator.events(base)
            case "log":
                found = [one for one in operator.followers(base) if one.name == order.text]
                if not found:  # A replay that has ended, or one that is not known here yet.
                    return calls.Told()
                chronicle = found[0].output
        data = chronicle.read(order.offset, min(order.length, STREAM_BYTES_MAX))
        return calls.Told(data, chronicle.start, chronicle.end, life)

    # --- a thread of its own ---

    def run(self) -> None:
        """Run scripts until `stop`. That they cannot is trouble, and no reason to end the node."""
        try:
            trio.run(self._run)
        except Exception:
            _log.critical("no scripts run on this node any more", exc_info=True)
        finally:
            self._ended.set()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._all:
            if self._over:
                return
            async with self._host.open(), trio.open_nursery() as nursery:
                self._exchange.open(self._host.shared)
                nursery.start_soon(self._observer.run)
                while True:
                    led = self._leads() & self._programs.shards
                    led = {shard for shard in led if not self._faces.is_volatile(shard)}
                    for shard in self._at_work.keys() - led:
                        self._at_work[shard].cancel()
                    for shard in sorted(led - self._at_work.keys()):
                        self._at_work[shard] = trio.CancelScope()
                        nursery.start_soon(self._drive, shard, self._at_work[shard])
                    for shard, dispatcher in self._dispatchers.items():
                        slots = self._spreads[shard].slots()
                        if dispatcher.engine.workers != slots:
                            dispatcher.engine.workers = slots
                            dispatcher.wake()
                    self._look_for_problems()
                    self._wanted = {
                        shard: one.engine.lag.wanted_since()
                        for shard, one in self._dispatchers.items()
                    }
                    with trio.move_on_after(LOOK_S):
                        await self._news.wait()
                    self._news = trio.Event()

    def _look_for_problems(self) -> None:
        """Scripts that are not active: whoever put them there looks at the node's log or status."""
        found = {
            f"{name.decode(errors='backslashreplace')} of directory {base.inode}": problem.message
            for dispatcher in self._dispatchers.values()
            for base in dispatcher.engine.registry.bases.values()
            for name, problem in base.problems.items()
        }
        for script, message in found.items():
            if self._problems.get(script) != message:
                _log.warning("%s is not active: %s", script, message)
        self._problems = found

    async def _drive(self, shard: int, scope: trio.CancelScope) -> None:
        """One shard's engine, as long as the shard is led here."""
        try:
            with scope:
                await self._drive_or_raise(shard)
        except* Deposed:
            _log.info("shard %d: its scripts run elsewhere", shard)
        except* Unavailable:
            pass  # The node is stopping.
        except* Exception as errors:
            _log.critical("shard %d: no scripts run", shard, exc_info=True)
            self.trouble[shard] = repr(errors.exceptions[0])
        finally:
            self._dispatchers.pop(shard, None)
        with trio.move_on_after(0 if scope.cancelled_caught else AGAIN_S):
            await trio.sleep_forever()
        del self._at_work[shard]

    async def _drive_or_raise(self, shard: int) -> None:
        whole = self._programs.store
        seen = self._views[shard] = _View(whole, whole.faces[shard], self._faces)
        view = cast("Store", seen)
        options = self._host.options._replace(
            shard=shard,
            is_shared=True,
            reserved=self._programs.is_reserved,
            affinity=self._programs.affinity,
        )
        held = self._faces.exclusive
        spread = self._spreads[shard] = Spread(self._observer, self._host.shared, view, shard)
        dispatcher = self._host.drive(view, held, options, runner=spread)
        self._dispatchers[shard] = dispatcher
        if shard == 0:
            with held():
                make_control(view)
        _log.info("shard %d: its scripts run here", shard)
        self.trouble.pop(shard, None)
        await dispatcher.run()

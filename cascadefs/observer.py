"""A cluster as a mount has it: the link to its nodes in a thread of its own, and a store over faces of all its shards.

Nothing of it is on this machine but what can be fetched again. The store is used by whoever holds the file system; the link never
takes that lock, so a store that waits for the cluster cannot stop what brings it the answer.

Patience. Whoever changes something waits as long as the cluster is away, and others have the file system meanwhile (`storage.cluster.turns`). That
is meant: programs see a pause.
Only who ends the mount sets a limit (`give_up_after`): behind it everything that waits fails with EIO, and stays so.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import trio

from cascadefs.client import calls
from storage.clock import HybridClock
from storage.cluster.home import home_of, is_volatile
from storage.cluster.opening import FaceOpening
from storage.cluster.store import ClusterStore
from storage.distant import DistantLog
from storage.errors import Reason, Refused, Unusable
from storage.link import Link
from storage.sequencer import Astray
from storage.superblock import DirectoryLock
from storage.transport import Role, TcpTransport
from storage.transport.certificates import Credentials
from storage.transport.renewal import renew
from triggers.operator import BadCommand

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from random import Random

    from cascadefs.filesystem import Filesystem
    from storage.clock import Clock
    from storage.cluster.face import Face
    from storage.link import RemoteLine
    from storage.link.locks import Locks
    from storage.membership.values import View
    from storage.record import Record
    from storage.transport import Transport

__all__ = ["ClusterSettings", "Observer"]

START_SECONDS: Final = 30.0
"""How long the first answer of a node, and the first word about each shard, may take."""

SAY_SECONDS: Final = 2.0
"""After how long whoever waits for a mount is told for whom it waits."""

STEP_SECONDS: Final = 0.1
"""Between two looks while a shard is brought up."""

LOOK_SECONDS: Final = 1.0
"""Between two looks whether there is more, when nobody said so."""

AGAIN_SECONDS: Final = 1.0
"""Before what could not be applied is tried again."""

END_SECONDS: Final = 5.0
"""How long the link may take to close its connections."""

_REASONS: Final = {
    errno.EACCES: Reason.DENIED,
    errno.ENOENT: Reason.ABSENT,
    errno.EOPNOTSUPP: Reason.UNSUPPORTED,
}
"""What a node says of an order, where it is no matter of time."""

Stale: TypeAlias = list[tuple[int, bytes | None]]
"""What the kernel must forget (`Filesystem.take_invalidations`)."""

_log = logging.getLogger("cascadefs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Which cluster to mount, and as whom. Paths are absolute."""

    nodes: tuple[str, ...]
    """``HOST:PORT`` of some of its nodes."""

    credentials: Path
    """The directory with this mount's certificate and key, and the authority's certificate."""

    cache: Path | None = None
    """Where the index is kept from one mount to the next; None: in memory, fetched at each start."""


class Observer:
    """See the module. `open`, then use `store`; `close` at the end."""

    def __init__(
        self,
        settings: ClusterSettings,
        clock: Clock,
        random: Random,
        *,
        steady_ns: Callable[[], int],
        boot_id: str,
        transport: Transport | None = None,
    ) -> None:
        """Nothing is reached before `open`; `transport` is made from the credentials if none is given.

        Raises:
            Unusable: the credentials are none, or not a mount's; the message says what helps.
        """
        self._settings = settings
        self._clock = clock
        self._steady_ns = steady_ns
        self._boot_id = boot_id
        self._credentials: Credentials | None = None
        self._transport = transport or self._over_tcp()
        self._link = Link(self._transport, settings.nodes, random)
        self._seen = threading.Event()
        self._link.on_view = lambda view: self._seen.set()
        self._link.apart = self._read_apart
        self._thread = threading.Thread(target=self._run, name="cascadefs-link", daemon=True)
        self._scope: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._running = threading.Event()
        self._failure: BaseException | None = None
        self._hybrid = HybridClock()
        self._opening: FaceOpening | None = None
        self._lock: DirectoryLock | None = None
        self._lines: list[RemoteLine] = []
        self._on_more: Callable[[], None] = lambda: None
        self._store: ClusterStore | None = None
        self._waiting: Callable[[str], None] = lambda why: None

    @property
    def store(self) -> ClusterStore:
        """The store, once it is open."""
        assert self._store is not None
        return self._store

    @property
    def locks(self) -> Locks:
        """Who decides who may lock what. Any thread."""
        return self._link.locks

    # --- life ------------------------------------------------------------------------------------------------------

    def open(
        self,
        progress: Callable[[int, int], None],
        waiting: Callable[[str], None] = lambda why: None,
    ) -> ClusterStore:
        """Reach the cluster, and bring up what it has.

        Args:
            progress: called now and then with the records applied of a shard, and how many there are.
            waiting: told once who is waited for, where that takes longer than `SAY_SECONDS`.

        Raises:
            Unusable: no node answered in time, or the cluster is not made yet, or the cache is another mount's.
            OSError: the cache cannot be written.
            Corruption: a record makes no sense to this version.
        """
        self._waiting = waiting
        self._thread.start()
        self._running.wait()
        view = self._view()
        assert view.cluster is not None
        cache = self._settings.cache
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(cache)
            cache = cache / view.cluster.identity
        self._opening = FaceOpening(
            clock=self._clock,
            steady_ns=self._steady_ns,
            hybrid=self._hybrid,
            boot_id=self._boot_id,
            directory=cache,
            is_volatile=lambda shard: is_volatile(self._link.view, shard),
        )
        faces = [self._face(shard, progress) for shard in sorted(view.shards)]
        self._store = ClusterStore(
            faces,
            self._clock,
            self._hybrid,
            choose=lambda path: home_of(self._link.view, path),
            find=self._find,
            space=self._link.space,
            directory=cache,
        )
        return self._store

    def close(self) -> None:
        """Save the index and end the link. Whatever was opened is closed; twice is no mistake."""
        self.give_up("the mount ended")
        store, self._store = self._store, None
        if store is not None and self._opening is not None:
            for face in store.faces.values():
                try:
                    self._opening.close(face)
                except OSError as error:
                    _log.warning("the index of a shard is made again at the next start: %s", error)
        if self._token is not None and self._scope is not None:
            scope, self._scope = self._scope, None
            self._token.run_sync_soon(scope.cancel)
            self._thread.join(END_SECONDS)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _over_tcp(self) -> TcpTransport:
        where = self._settings.credentials
        self._credentials = credentials = Credentials.load(where, now_ns=self._clock.now_ns())
        if credentials.identity.role is not Role.MOUNT:
            raise Unusable(
                f"{where}: the certificate is that of {credentials.identity}, not a mount's; "
                "issue one with: cascadefs cluster permit NAME DIR --mount"
            )
        return TcpTransport(credentials.identity, credentials.contexts())

    def _run(self) -> None:
        try:
            trio.run(self._carry)
        except BaseException as error:
            self._failure = error
            _log.critical("the link to the cluster broke", exc_info=True)
            self.give_up(f"the link to the cluster broke: {error!r}")
        finally:
            self._running.set()
            self._seen.set()

    async def _carry(self) -> None:
        with trio.CancelScope() as self._scope:
            self._token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                if self._credentials is not None and isinstance(self._transport, TcpTransport):
                    show = self._transport.show
                    nursery.start_soon(renew, self._credentials, self._clock, show)
                await nursery.start(self._link.run)
                self._running.set()

    # --- following -------------------------------------------------------------------------------------------------

    async def follow(
        self,
        filesystem: Filesystem,
        apart: Callable[[Callable[[], None]], Awaitable[None]],
        forget: Callable[[Stale], None],
    ) -> None:
        """Apply what others commit while nobody here proposes, and say what the kernel must forget, until cancelled.

        Args:
            filesystem: over the store.
            apart: runs something that holds the file system, without keeping this loop from what else it does.
            forget: told what the kernel must forget, while the file system is held; must not wait.
        """
        token, trouble = trio.lowlevel.current_trio_token(), ""
        news = trio.Event()

        def wake() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(lambda: news.set(), idempotent=False)

        def changed(timestamp: int, record: Record) -> None:
            filesystem.others.changed(timestamp, record)
            wake()

        def catch_up() -> None:
            self.store.catch_up()
            # Told while the file system is held: whoever is granted a lock next comes behind it.
            if stale := filesystem.others.take():
                forget(stale)

        self.store.listen_to_others(changed)
        self.store.on_anew = filesystem.others.begun_anew
        filesystem.others.on_stale = wake
        self._on_more = wake
        try:
            while True:
                if self._is_behind() or filesystem.others.has_heard:
                    try:
                        await apart(catch_up)
                        trouble = ""
                    except OSError as error:
                        if str(error) != trouble:
                            trouble = str(error)
                            _log.error("what others commit is not applied: %s", trouble)
                        await trio.sleep(AGAIN_SECONDS)  # noqa: TID251  a retry at the edge
                    continue
                with trio.move_on_after(LOOK_SECONDS):
                    await news.wait()
                news = trio.Event()
        finally:
            self._on_more = filesystem.others.on_stale = lambda: None
            self.store.listen_to_others(None)
            self.store.on_anew = None

    def _is_behind(self) -> bool:
        """Whether something has come that nobody is applying."""
        return any(
            face.applied_index < face.log.last_index and not face.is_waiting
            for face in list(self.store.faces.values())
        )

    def order(self, shard: int, order: calls.Order, *, beside: bool = False) -> calls.Told:
        """Have a node do what somebody asks of scripts, or tells them. Others have the store meanwhile, unless the caller is `beside` it.

        Raises:
            BadCommand: it makes no sense where the scripts run.
            Refused: NOT_STABLE_YET: nobody answers, or what came of it is not known; DENIED, UNSUPPORTED: as a node says.
        """
        encoded = calls.encode(order)

        def call() -> bytes | None:
            return self._link.call(shard, encoded)

        turns = self.store.turns
        found = call() if beside or turns is None or not turns.lets_go else turns.apart(call)
        try:
            answer = calls.decode_answer(found) if found is not None else None
        except msgspec.DecodeError:
            answer = None
        if isinstance(answer, calls.Told):
            return answer
        if not isinstance(answer, calls.Failed):
            raise Refused(Reason.NOT_STABLE_YET)
        if answer.errno == errno.EINVAL:
            raise BadCommand(answer.message)
        _log.info("scripts of shard %d: %s", shard, answer.message)
        raise Refused(_REASONS.get(answer.errno, Reason.NOT_STABLE_YET))

    def give_up_after(self, seconds: float) -> None:
        """Have everything that still waits then fail, and whatever is asked of the cluster afterwards."""
        timer = threading.Timer(seconds, self.give_up, ("the cluster is away, and the mount ends",))
        timer.daemon = True
        timer.start()

    def give_up(self, why: str) -> None:
        """Nobody waits for the cluster any more."""
        for line in self._lines:
            line.close(why)
        self._link.locks.close()

    def status(self) -> dict[str, object]:
        """Figures of the link, JSON-able."""
        nodes = self._link.status()
        return {
            "nodes": nodes,
            "trouble": self._link.why if not all(nodes.values()) else None,
            **self._link.payloads.status(),
        }

    # --- shards ------------------------------------------------------------------------------------------------------

    def _read_apart(self, call: Callable[[], memoryview]) -> memoryview:
        """Fetch a payload while others have the store, where the caller lets go of it."""
        turns = self._store.turns if self._store is not None else None
        return turns.apart(call) if turns is not None and turns.lets_go else call()

    def _view(self) -> View:
        """What the cluster consists of, as soon as a node has told."""
        deadline_ns = self._steady_ns() + int(START_SECONDS * 1e9)
        nodes = ", ".join(self._settings.nodes)
        wait_s = SAY_SECONDS
        while True:
            self._seen.clear()
            view = self._link.view
            if view.cluster is not None and 0 in view.shards:
                return view
            left_s = (deadline_ns - self._steady_ns()) / 1e9
            if left_s <= 0 or self._failure is not None:
                break
            if not self._seen.wait(min(left_s, wait_s)) and wait_s < START_SECONDS:
                wait_s = START_SECONDS
                what = "has told of its shards yet" if view.revision else "has answered yet"
                self._waiting(f"no node of the cluster {what}; asking {nodes}: {self._link.why}")
        if not view.revision:
            raise Unusable(f"{nodes}: no node of the cluster answers: {self._link.why}")
        raise Unusable(
            f"{nodes}: the cluster has no shards yet; make it with: cascadefs cluster init"
        )

    def _face(self, shard: int, progress: Callable[[int, int], None]) -> Face:
        """A shard's face, with all that it had when it was first heard of."""
        cluster = self._link.view.cluster
        assert cluster is not None
        assert self._opening is not None
        line = self._link.line(shard, int(cluster.identity, 16))
        self._lines.append(line)
        face = self._opening.open(line, DistantLog(line))
        line.on_more = lambda: None if face.is_waiting else self._on_more()
        deadline_ns = self._steady_ns() + int(START_SECONDS * 1e9)
        say_at_ns = self._steady_ns() + int(SAY_SECONDS * 1e9)
        while not line.has_heard():
            if self._steady_ns() > say_at_ns:
                say_at_ns = deadline_ns
                self._waiting(f"no member of shard {shard} has answered yet: {self._link.why}")
            try:
                face.wait_and_apply(STEP_SECONDS)
            except OSError as error:
                if not isinstance(error.__cause__, Astray):
                    raise
                _log.warning("shard %d: the cache is of something else; it is made again", shard)
                face = self._opening.open_anew(face, line, DistantLog(line))
            if self._steady_ns() > deadline_ns:
                face.close()
                raise Unusable(f"shard {shard} has no member that answers: {self._link.why}")
        target = line.last_index()
        while face.applied_index < target:
            face.wait_and_apply(STEP_SECONDS)
            progress(face.applied_index, target)
        return face

    def _find(self, shard: int) -> Face:
        """A shard that came to be since the start."""
        if shard not in self._link.view.shards:
            raise OSError(5, f"the cluster has no shard {shard}")
        try:
            return self._face(shard, lambda records, total: None)
        except Unusable as error:
            raise OSError(5, str(error)) from error

"""The faces of the shards on a node: their tables, kept up with what is committed, under one lock.

Whoever holds the lock may ask and propose; the follower, a thread of its own, takes it when something was committed and
nobody applied it. A table that is not of its log any more is made anew from the log, as always.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from typing import TYPE_CHECKING, Final

from storage.clock import HybridClock
from storage.cluster.face import Face
from storage.cluster.turns import Turns
from storage.distant import DistantLog
from storage.errors import Corruption
from storage.index import CLEAN, read_mark, why_not, write_mark
from storage.member import MemoryLog, Releasing
from storage.namespace.sessions import Sessions
from storage.record import Reserve
from storage.sequencer import START, Astray, Place, Unavailable
from storage.shard import Position
from storage.table import MemoryTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.clock import Clock
    from storage.disk import Disk
    from storage.index import Index
    from storage.link import RemoteLine
    from storage.sequencer import Sequencer
    from storage.table import Table

__all__ = ["Faces"]

AFAR_S: Final = 30.0
"""How long a shard of other nodes may take to be brought up."""

STEP_S: Final = 0.1
"""Between two looks whether it is."""

LET_GO_NS: Final = 10**9
"""Between two looks what volatile shards can let go of."""

IDLE_US: Final = 10_000_000
"""How long something is due to be forgotten before a record is made for that."""

LOOK_S: Final = 1.0
"""How long the follower sleeps when nothing is told to it; then it publishes, and tries again what failed."""

_log = logging.getLogger("cascadefs.node")


class Faces:
    """See the module."""

    def __init__(
        self,
        disk_of: Callable[[int], Disk],
        index_of: Callable[[int], Index],
        clock: Clock,
        steady_ns: Callable[[], int],
        boot_id: str,
        is_volatile: Callable[[int], bool] = lambda shard: False,
    ) -> None:
        """Nothing is opened yet.

        Args:
            disk_of: a shard's directory, where the boot mark of its table is.
            index_of: where its table is.
            clock: the wall clock.
            steady_ns: the monotonic clock.
            boot_id: the machine's, as text.
            is_volatile: whether a shard is of a volatile pool.
        """
        self.is_volatile = is_volatile
        self.releasing: dict[int, Releasing] = {}
        """What is let go of the volatile shards here."""
        self.hybrid = HybridClock()
        self.trouble: dict[int, str] = {}
        """Why a face is behind its log, by shard."""
        self.on_face: Callable[[Face], None] | None = None
        """Called, with the lock held, with each face that is brought up."""
        self._disk_of = disk_of
        self._index_of = index_of
        self._clock = clock
        self._steady_ns = steady_ns
        self._boot_id = boot_id
        self._lock = threading.RLock()
        self._applied = threading.Condition(self._lock)
        self.turns = Turns(self._lock, is_followed=True)
        """How who waits lets go of the faces."""
        self._news = threading.Event()
        self._over = False
        self._tables: dict[int, tuple[Table, Position | None]] = {}
        self._faces: dict[int, Face] = {}
        self._afar: dict[int, Face] = {}

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[dict[int, Face]]:
        """The faces by shard, for one thread at a time."""
        with self._lock:
            yield self._faces

    def face(self, shard: int) -> Face | None:
        """One of them, to see how far it is."""
        return self._faces.get(shard)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Let others have the faces until a condition holds, that what is applied makes true. They are held by the caller.

        Raises:
            Unavailable: the node is stopping.
        """
        while not self._applied.wait_for(lambda: condition() or self._over, LOOK_S):
            pass
        if not condition():
            raise Unavailable("the node is stopping")

    # --- opening, on worker threads ---

    def prepare(self, shard: int) -> tuple[Place, dict[int, int]]:
        """Open a shard's table: how far it has come, and the last number it knows of each client."""
        if self.is_volatile(shard):
            self._tables[shard] = MemoryTable(), None
            return START, {}
        disk, index = self._disk_of(shard), self._index_of(shard)
        if shard in self._tables:  # An earlier attempt to open the shard failed.
            self._tables.pop(shard)[0].close()
        mark = read_mark(disk)
        why = why_not(mark, self._boot_id) if mark is not None else "there is none"
        table: Table | None = None
        position: Position | None = None
        if why is None:
            try:
                table = index.open()
                position = Position.load(table)
            except Corruption as error:
                why = str(error)
        if why is not None:
            if mark is not None:
                _log.warning("shard %d: the index is made again: %s", shard, why)
            table, position = self._renewed(index, table), None
        assert table is not None
        write_mark(disk, self._boot_id.encode())
        self._tables[shard] = table, position
        if position is None:
            return START, {}
        place = Place(position.index, position.address, position.checksum)
        return place, Sessions(table).all()

    def _renewed(self, index: Index, table: Table | None) -> Table:
        if table is not None:
            table.close()
        return index.renew()

    def attach(self, line: Sequencer) -> Face:
        """Bring up the face of a shard whose table was prepared, and keep it up from now on."""
        if line.shard not in self._tables:
            self.prepare(line.shard)
        table, position = self._tables.pop(line.shard)
        # The log was opened from where the table is: if that is not in it, there may come to be something else.
        is_astray = line.log is not None and not line.log.recovery.resumed
        if position is not None and (is_astray or position.identity != line.identity):
            _log.warning("shard %d: the index is of something else; it is made again", line.shard)
            table = self._renewed(self._index_of(line.shard), table)
        line.on_more = lambda: self._told(line)
        face = self._face(line, table)
        if face.is_volatile:
            self._release(face, line)
        try:
            try:
                face.recover()
            except (Astray, Corruption) as error:
                _log.warning("shard %d: the index is made again: %s", line.shard, error)
                face.close()
                if face.is_volatile:
                    raise
                face = self._face(line, self._index_of(line.shard).renew())
                face.recover()
        except BaseException:
            face.close()
            raise
        with self._lock:
            self._faces[line.shard] = face
            self._joined(face)
        return face

    def _release(self, face: Face, line: Sequencer) -> None:
        """Have a volatile shard's replica hold what lives, and no more."""

        def log_of() -> MemoryLog:
            log = line.log
            assert isinstance(log, MemoryLog)
            return log

        releasing = self.releasing[line.shard] = Releasing(face.namespace, log_of)
        face.on_applied = releasing.applied
        face.on_anew.append(lambda face: releasing.begin_anew(self._now_us()))

    def _now_us(self) -> int:
        return self._clock.now_ns() // 1000

    def _let_go(self) -> None:
        """Let go of what is due in the volatile shards here; a record of nothing has all faces forget what is, where none comes."""
        now_us = self._now_us()
        for shard, releasing in self.releasing.items():
            releasing.step(now_us)
            face = self._faces.get(shard)
            if face is None or face.has_proposed:
                continue
            due = face.namespace.forgetting.due()
            if due is not None and due < now_us - IDLE_US:
                with contextlib.suppress(OSError):
                    face.begin(Reserve(0), (), lambda outcome: None)

    def attach_afar(self, line: RemoteLine) -> None:
        """Bring up the face of a shard that other nodes hold, its table in memory, and keep it up until `leave_afar`.

        Raises:
            OSError: EAGAIN, if nobody tells of it in time.
            Corruption: a record makes no sense to this version.
        """
        line.on_more = lambda: self._told(line)
        face = self._face(line, MemoryTable())
        try:
            face.recover()
            deadline_ns = self._steady_ns() + int(AFAR_S * 1e9)
            while not line.has_heard() or face.applied_index < line.last_index():
                face.wait_and_apply(STEP_S)
                if self._steady_ns() > deadline_ns:
                    why = f"shard {line.shard} is on no node that tells of it"
                    raise OSError(errno.EAGAIN, why)
        except BaseException:
            face.close()
            raise
        with self._lock:
            self._afar[line.shard] = face
            self._joined(face)

    def leave_afar(self, shard: int) -> None:
        """A shard is followed at other nodes no more; whoever waits for it asks again. The caller holds the faces."""
        face = self._afar.pop(shard)
        face.retire()
        face.close(keep=True)  # Who waits for bytes in the midst of reading goes on reading there.

    def _told(self, line: Sequencer) -> None:
        """A shard has come further. Its frontier alone, a few times a second, wakes the follower only if somebody waits for it."""
        found = (self._faces.get(line.shard), self._afar.get(line.shard))
        faces = [face for face in found if face is not None]
        last = line.last_index()
        is_wanted = any(face.applied_index < last or face.has_proposed for face in faces)
        if is_wanted or self.turns.resting or not faces:
            self._news.set()

    def _joined(self, face: Face) -> None:
        if self.on_face is not None:
            self.on_face(face)
        self._news.set()

    def apart(self, call: Callable[[], bytes | memoryview]) -> bytes | memoryview:
        """Call what waits for another node; others have the faces meanwhile, if the caller lets go of them."""
        return self.turns.apart(call) if self.turns.lets_go else call()

    def _face(self, line: Sequencer, table: Table) -> Face:
        memory = table if isinstance(table, MemoryTable) else None
        return Face(
            line,
            DistantLog(line),
            table,
            self._clock,
            steady_ns=self._steady_ns,
            hybrid=self.hybrid,
            memory=memory if self.is_volatile(line.shard) else None,
        )

    # --- following, on a thread of its own ---

    def follow(self) -> None:
        """Apply what is committed until `stop`."""
        let_go_ns = 0
        while not self._over:
            came = self._news.wait(LOOK_S)
            self._news.clear()
            with self._lock:
                for shard, face in [*self._faces.items(), *self._afar.items()]:
                    self._catch_up(shard, face, publish=not came)
                if self.releasing and self._steady_ns() - let_go_ns > LET_GO_NS:
                    let_go_ns = self._steady_ns()
                    self._let_go()
                self._applied.notify_all()
                self.turns.tell()

    def _catch_up(self, shard: int, face: Face, *, publish: bool) -> None:
        try:
            face.catch_up()
            if publish:
                face.publish()
            self.trouble.pop(shard, None)
        except Unavailable:
            pass  # The node is stopping.
        except (OSError, Corruption) as error:
            if self.trouble.get(shard) != str(error):
                _log.error("shard %d: its index is behind the log: %s", shard, error)
            self.trouble[shard] = str(error)

    def keep_sessions(self) -> None:
        """Have every shard hear of its face, which waits for that; once a day is enough.

        Raises:
            OSError: a shard does not take it.
        """
        with self._lock, self.turns.letting_go():
            for face in [*self._faces.values(), *self._afar.values()]:
                face.keep_session()

    def stop(self) -> None:
        """Have `follow` end soon. Any thread."""
        self._over = self.turns.is_over = True
        self._news.set()

    def close(self) -> None:
        """Close all tables; those that have everything need no look at the next start."""
        with self._lock:
            for table, _ in self._tables.values():
                table.close()
            for face in self._afar.values():
                face.close()
            self._afar.clear()
            for shard, face in self._faces.items():
                try:
                    if face.close(keep=True) and not face.is_volatile:
                        write_mark(self._disk_of(shard), CLEAN)
                except OSError as error:
                    _log.error("shard %d: its index is not saved: %s", shard, error)
            self._faces.clear()

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        return {
            "applied": {
                str(shard): face.applied_index for shard, face in list(self._faces.items())
            },
            "afar": {str(shard): face.applied_index for shard, face in list(self._afar.items())},
            "trouble": {str(shard): why for shard, why in self.trouble.items()},
        }

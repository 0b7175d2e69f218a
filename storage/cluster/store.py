"""Many shards as one tree: the store of whoever is part of a cluster.

Theory of operation. An inode's number says which shard it lives in, and a directory's entries and files live where it does
(`storage.cluster.roots` for those whose name is elsewhere). So every question goes to one face, by the number in it, and is
answered here, without a message. A change is one record of one shard; what would need two is refused (CROSS_SHARD, EXDEV), and programs copy.

A snapshot is a timestamp for all shards alike. `settle` makes one final: it waits until the frontier of every shard has passed it and everything up
to there is applied, so that what is read as of then is one consistent cut. Proposals carry the greatest timestamp seen on any
shard, so what follows from something has a later one.

One thread at a time, as for every `Store`: whoever holds it applies (`storage.cluster.face`). `catch_up` does so where nobody proposes.
"""

from __future__ import annotations

import errno
import heapq
from typing import TYPE_CHECKING, Any, Final, cast

from storage import stream
from storage.attributes import is_directory
from storage.cluster.histories import Histories
from storage.cluster.roots import Roots
from storage.cluster.routing import shards_of
from storage.cluster.sayings import ClusterSayings
from storage.cluster.view import ShardView, log_of
from storage.errors import NotHere, Reason, Refused
from storage.limits import INODES_PER_SHARD, RECORD_INODE_MAX, SHARDS_MAX
from storage.namespace import REFUSED, ROOT, Counters, shard_of
from storage.namespace.keys import HOME_XATTR, MAX
from storage.record import Batch, Create, Unlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from storage.attributes import Attributes
    from storage.binding import Binding, Tombstone
    from storage.clock import Clock, HybridClock
    from storage.cluster.face import Face
    from storage.cluster.turns import Turns
    from storage.extents import DirtyMap
    from storage.namespace import Namespace, Outcome, Version
    from storage.namespace.deliveries import Deliveries
    from storage.record import Expect, Extent, Part, Record
    from storage.store import Store
    from storage.stream import Committed

__all__ = ["ClusterStore"]

CONTROL: Final = b".cascade"
"""The directory of a directory's scripts."""

FRONTIER_SECONDS: Final = 2.0
"""How long `settle` and `now` wait for the slowest shard."""


class ClusterStore:
    """`storage.store.Store` over faces; see the module."""

    def __init__(
        self,
        faces: Iterable[Face],
        clock: Clock,
        hybrid: HybridClock,
        *,
        choose: Callable[[bytes], int | None] = lambda path: None,
        find: Callable[[int], Face] | None = None,
        space: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0),
        directory: Path | None = None,
        frontier_s: float = FRONTIER_SECONDS,
    ) -> None:
        """Put faces together; each has been brought up (`Face.recover`), and that of shard 0 is among them.

        Args:
            faces: all with this `hybrid` clock. They are closed with the store.
            clock: the wall clock.
            hybrid: the greatest timestamp seen.
            choose: the home shard of a directory about to be made, by its path from the root (``a/b``); None: where its parent lives.
            find: brings the face of a shard that is not here yet; raises OSError if there is none.
            space: (bytes in all, free, free to users) of the disks below.
            directory: where the indexes are; None: in memory.
            frontier_s: how long `settle` waits.
        """
        self._faces: dict[int, Face] = {}
        self._spaces: dict[int, Namespace] = {}
        self._clock = clock
        self._hybrid = hybrid
        self._choose = choose
        self._find = find
        self.space = space
        self.directory = directory
        self._frontier_s = frontier_s
        self._ahead_us = (
            0  # By how much the clock here has turned out to be ahead of the cluster's.
        )
        self._listener: Callable[[int, int, Record], None] | None = None
        self._on_others: Callable[[int, Record], None] | None = None
        self.keeps_past = self.has_others = True
        self.on_anew: Callable[[int], None] | None = None
        """Told of a volatile shard that has begun anew: anything known of it may be wrong. Must not raise or propose."""
        self.turns: Turns | None = None
        """How who waits lets go of the store, where somebody may: `share`."""
        self.recovery: list[str] = []
        self.scrub = None
        self.retention = Histories(
            clock, ClusterSayings(self._tree, lambda: list(self._spaces.values()))
        )
        self.quotas = _Accounts(self)
        self._roots = Roots(self._face_of)
        for face in faces:
            self.add(face)

    # --- shards --------------------------------------------------------------------------------------------------

    def add(self, face: Face) -> None:
        """One more shard, brought up; or another face of one, in the place of that before."""
        shard = face.namespace.shard
        if shard in self._faces:
            self._faces[shard].retire()
        face.is_retired = False
        if face.is_volatile and self._begun_anew not in face.on_anew:
            face.on_anew.append(self._begun_anew)
        self._faces[shard] = face
        self._spaces[shard] = face.namespace
        self.retention.add(face)
        if self._listener is not None:  # Else a face's listener is its own (`view`).
            face.listener = self._listener
        if self._on_others is not None:
            face.on_others = self._on_others
        face.turns = self.turns

    def _begun_anew(self, face: Face) -> None:
        """A volatile shard has begun anew, perhaps empty."""
        if self.on_anew is not None:
            self.on_anew(face.namespace.shard)

    def _replanted(self, inode: int) -> bool:
        """Make again a shard root that a volatile shard has lost with all its members, empty; whether there is one now.

        Its name, in a shard that was not lost, says who it was: as root it has what a directory was made with.
        """
        shard = shard_of(inode)
        face = self._faces.get(shard)
        if face is None or not face.is_volatile:
            return False
        for above in list(self._spaces.values()):
            stub = above.attributes(inode) if above.shard != shard else None
            if stub is None or not stub.nlink or not is_directory(stub.mode):
                continue
            root = Create(stub.parent, b"", inode, stub.mode, stub.uid, stub.gid)
            try:
                return face.propose(root).reason in (None, Reason.EXISTS)
            except OSError as error:
                if error.errno != errno.EPERM:
                    raise
                return False  # A mount for some users makes nothing of others': whoever else looks does.
        return False

    def keeps_past_of(self, inode: int) -> bool:
        """See `Store`."""
        return self._of(inode).keeps_past

    def share(self, turns: Turns) -> None:
        """From now on the store is held by a lock that who waits lets go of, as `turns` says."""
        self.turns = turns
        for face in self._faces.values():
            face.turns = turns

    def wait(self, condition: Callable[[], bool]) -> None:
        """See `Store`."""
        if self.turns is not None:
            self.turns.wait(condition)
        assert condition(), "nobody else has the store who could make it true"

    def tell(self) -> None:
        """See `Store`."""
        if self.turns is not None:
            self.turns.tell()

    @property
    def shards(self) -> Sequence[int]:
        """See `Store`."""
        return sorted(self._faces)

    def view(self, shard: int) -> Store:
        """See `Store`."""
        view: Any = ShardView(self, self._faces[shard])
        return cast("Store", view)

    @property
    def faces(self) -> dict[int, Face]:
        """By shard; to be read only."""
        return self._faces

    def _face_of(self, inode: int) -> Face:
        """The face of the shard an inode lives in."""
        shard = inode // INODES_PER_SHARD
        face = self._faces.get(shard)
        if face is None:
            if self._find is None or not 0 <= shard < SHARDS_MAX:
                raise NotHere(shard)
            self.add(self._find(shard))
            face = self._faces[shard]
        return face

    def face_of(self, inode: int) -> Face:
        """The face of the shard an inode lives in.

        Raises:
            OSError: EIO, if that is not here.
        """
        return self._face_of(inode)

    def _tree(self, shard: int) -> Namespace | None:
        """The tree of a shard; None if it is nowhere to be had."""
        try:
            return self._of(shard * INODES_PER_SHARD)
        except OSError:
            return None

    def _of(self, inode: int) -> Namespace:
        """The tree of the shard an inode lives in."""
        space = self._spaces.get(inode // INODES_PER_SHARD)
        if space is not None:
            return space
        # Numbers of the past are nobody's: any shard knows nothing of them.
        return self._face_of(inode if inode < RECORD_INODE_MAX else ROOT).namespace

    def shard_of(self, inode: int) -> int:
        """See `Store`."""
        return shard_of(inode)

    def catch_up(self) -> bool:
        """Apply what others have committed; whether there was anything.

        Raises:
            OSError: an index cannot be brought up to its log; tried again at the next call.
        """
        some = False
        for face in list(self._faces.values()):
            some |= face.catch_up()
        return some

    def refresh(self, inode: int) -> bool:
        """See `Store`: what is asked next of the inode's shard includes all that others had committed before."""
        self._face_of(inode).refresh()
        return True

    def reach(self, inode: int, index: int) -> None:
        """Have all that was committed in the inode's shard up to an index be applied."""
        self._face_of(inode).reach(index)

    def has_reached(self, inode: int, index: int) -> bool:
        """Whether it is. Any thread."""
        face = self._faces.get(inode // INODES_PER_SHARD)
        return face is not None and face.applied_index >= index

    def keep_sessions(self) -> None:
        """Have every shard hear of us, without waiting for it; once a day is enough (`storage.namespace.sessions`)."""
        for face in list(self._faces.values()):
            face.keep_session_nowait()

    # --- questions -----------------------------------------------------------------------------------------------

    def _parent(self, inode: int, attributes: Attributes, timestamp: int | None) -> None:
        """A shard root says in its own shard who its parent was at first; its stub knows who it is."""
        above = self._of(attributes.parent)
        if timestamp is None:
            stub = above.attributes(inode)
        else:
            then = above.attributes_at(inode, timestamp)
            stub = then[1] if then is not None else None
        if stub is not None:
            attributes.parent = stub.parent

    def attributes(self, inode: int) -> Attributes | None:
        """See `Store`."""
        attributes = self._of(inode).attributes(inode)
        if attributes is None and self._replanted(inode):
            attributes = self._of(inode).attributes(inode)
        if (
            attributes is not None
            and attributes.parent // INODES_PER_SHARD != inode // INODES_PER_SHARD
            and attributes.parent
        ):
            self._parent(inode, attributes, None)
        return attributes

    def attributes_row(self, inode: int) -> tuple[int, Attributes] | None:
        """See `Store`."""
        row = self._of(inode).attributes_row(inode)
        if row is None and self._replanted(inode):
            row = self._of(inode).attributes_row(inode)
        if row is not None and row[1].parent and shard_of(row[1].parent) != shard_of(inode):
            self._parent(inode, row[1], None)
        return row

    def attributes_at(self, inode: int, timestamp: int) -> tuple[int, Attributes] | None:
        """See `Store`. A shard root is there as long as its name is: it was closed a moment before, and empty."""
        row = self._of(inode).attributes_at(inode, timestamp)
        if row is not None and row[1].parent and shard_of(row[1].parent) != shard_of(inode):
            if not row[1].nlink and self._has_name(row[1].parent, inode, timestamp):
                while not row[1].nlink:
                    row = self._of(inode).attributes_at(inode, row[0] - 1)
                    assert row is not None, "what was closed had been there"
            self._parent(inode, row[1], timestamp)
        return row

    def _has_name(self, parent: int, inode: int, timestamp: int) -> bool:
        """Whether the shard of its parent still had a name for a shard root."""
        stub = self._of(parent).attributes_at(inode, timestamp)
        return stub is not None and stub[1].nlink > 0

    def binding(self, directory: int, name: bytes) -> Binding | None:
        """See `Store`."""
        return self._of(directory).binding(directory, name)

    def binding_at(self, directory: int, name: bytes, timestamp: int) -> Binding | None:
        """See `Store`."""
        return self._of(directory).binding_at(directory, name, timestamp)

    def known(self, directory: int, name: bytes) -> bool:
        """See `Store`."""
        return self._of(directory).known(directory, name)

    def children(self, directory: int, after: bytes = b"") -> Iterator[tuple[bytes, Binding]]:
        """See `Store`."""
        return self._of(directory).children(directory, after)

    def children_at(
        self, directory: int, timestamp: int, after: bytes = b""
    ) -> Iterator[tuple[bytes, Binding]]:
        """See `Store`."""
        return self._of(directory).children_at(directory, timestamp, after)

    def deleted(self, directory: int, after: bytes = b"") -> Iterator[tuple[bytes, int, Tombstone]]:
        """See `Store`."""
        return self._of(directory).deleted(directory, after)

    def head(self, directory: int, name: bytes) -> int:
        """See `Store`."""
        return self._of(directory).head(directory, name)

    def version(self, directory: int, name: bytes, number: int) -> Version | None:
        """See `Store`."""
        return self._of(directory).version(directory, name, number)

    def content_timestamp(self, inode: int, content: int) -> int | None:
        """See `Store`."""
        return self._of(inode).content_timestamp(inode, content)

    def content_state(self, inode: int, content: int) -> int:
        """See `Store`."""
        return self._of(inode).content_state(inode, content)

    def keeps_instant(self, directory: int, timestamp: int) -> bool:
        """See `Store`."""
        return self.retention.keeps_instant(directory, timestamp)

    def kept_instants(self, directory: int, commits: list[int], count_max: int) -> list[int]:
        """See `Store`."""
        return self.retention.instants(directory, commits, count_max)

    def chunks(
        self, inode: int, generation: int, timestamp: int | None = None, after: int = -1
    ) -> Iterator[tuple[int, list[tuple[int, int, int, int]]]]:
        """See `Store`."""
        return self._of(inode).chunks(inode, generation, timestamp, after)

    def xattr(self, inode: int, name: bytes, timestamp: int | None = None) -> bytes | None:
        """See `Store`."""
        return self._of(inode).xattr(inode, name, timestamp)

    def xattrs(self, inode: int, timestamp: int | None = None) -> list[bytes]:
        """See `Store`."""
        return self._of(inode).xattrs(inode, timestamp)

    def target(self, inode: int) -> bytes | None:
        """See `Store`."""
        return self._of(inode).target(inode)

    def label(self, directory: int, label: bytes) -> int | None:
        """See `Store`."""
        return self._of(directory).label(directory, label)

    def labels(self, directory: int) -> list[tuple[bytes, int]]:
        """See `Store`."""
        return self._of(directory).labels(directory)

    def journal(self, before: int = MAX) -> Iterator[tuple[int, list[int]]]:
        """See `Store`: the commits of all shards, newest first."""
        journals = [space.journal(before) for space in self._spaces.values()]
        return heapq.merge(*journals, key=lambda entry: entry[0], reverse=True)

    def is_below(self, inode: int, directory: int) -> bool:
        """See `Store`."""
        while inode != directory:
            attributes = self.attributes(inode)
            if attributes is None or inode == ROOT or attributes.parent == 0:
                return False
            inode = attributes.parent
        return True

    def holds(self, record: Expect) -> bool:
        """See `Store`."""
        return self._of(record.directory).conditions.holds(record)

    def event_of(self, directory: int, name: bytes, number: int) -> int | None:
        """See `Store`."""
        return self._of(directory).events.event_of(directory, name, number)

    def version_by_event(
        self, directory: int, name: bytes, event_us: int, known: int | None = None
    ) -> int | None:
        """See `Store`."""
        return self._of(directory).events.version_by_event(directory, name, event_us, known)

    def names_at(self, inode: int, timestamp: int | None = None) -> list[tuple[int, bytes]]:
        """See `Store`. The names of a shard root are where its parent is."""
        space = self._of(inode)
        attributes = space.attributes(inode)
        if attributes is not None and attributes.parent:
            space = self._of(attributes.parent)
        return space.names_at(inode, timestamp)

    def entry_at(
        self, directory: int, name: bytes, timestamp: int
    ) -> tuple[int, Binding | None, Tombstone | None] | None:
        """See `Store`."""
        return self._of(directory).entry_at(directory, name, timestamp)

    def read(
        self, inode: int, attributes: Attributes, timestamp: int | None, offset: int, length: int
    ) -> bytes | bytearray | memoryview:
        """See `Store`."""
        return self._face_of(inode).read(inode, attributes, timestamp, offset, length)

    def read_ranges(
        self,
        inode: int,
        attributes: Attributes,
        timestamp: int | None,
        ranges: Sequence[tuple[int, int]],
    ) -> bytes:
        """See `Store`."""
        return self._face_of(inode).read_ranges(inode, attributes, timestamp, ranges)

    def read_staged(self, inode: int, address: int, offset: int, length: int) -> bytes | memoryview:
        """See `Store`."""
        return self._face_of(inode).log.read(address, offset, length)

    def request_done(self, directory: int, client: int) -> tuple[int, int]:
        """See `Store`."""
        return self._of(directory).sessions.done(client)

    # --- following -----------------------------------------------------------------------------------------------

    def _only(self) -> Face:
        """The one face there is: positions in a log are of one shard."""
        if len(self._faces) != 1:
            raise Refused(Reason.UNSUPPORTED)
        return next(iter(self._faces.values()))

    @property
    def deliveries(self) -> Deliveries:
        """See `Store`; of a store of one shard."""
        return self._only().namespace.deliveries

    def listen(self, listener: Callable[[int, int, Record], None] | None) -> None:
        """See `Store`."""
        self._listener = listener
        for face in self._faces.values():
            face.listener = listener

    def listen_to_others(self, listener: Callable[[int, Record], None] | None) -> None:
        """Have (timestamp, record) told of each record of another process that took effect. It must not raise or propose."""
        self._on_others = listener
        for face in self._faces.values():
            face.on_others = listener

    def committed(self, address: int = 0, after: int = 0) -> Iterator[Committed]:
        """See `Store`; of a store of one shard whose log is here."""
        return stream.committed(log_of(self._only()), address, after)

    def committed_at(self, address: int) -> Committed:
        """See `Store`; of a store of one shard whose log is here."""
        return stream.committed_at(log_of(self._only()), address)

    def address_of_time(self, timestamp: int) -> int:
        """See `Store`; of a store of one shard whose log is here."""
        return stream.address_of_time(log_of(self._only()), timestamp)

    def is_top(self, directory: int, timestamp: int) -> bool:
        """See `Store`; of all shards together."""
        del timestamp
        return directory == ROOT

    def provenance_of(self, inode: int, timestamp: int) -> bytes | None:
        """See `Store`."""
        face = self._face_of(inode)
        address = face.namespace.deliveries.finish_address(timestamp)
        if address is None:
            return None
        deliveries = face.namespace.deliveries
        if deliveries.keeps_provenance:
            return deliveries.provenance(timestamp)
        return stream.provenance_at(log_of(face), address)

    # --- changes -------------------------------------------------------------------------------------------------

    def propose(self, proposal: Record, payload: Sequence[bytes | memoryview] = ()) -> Outcome:
        """See `Store`. What is of several shards is refused: CROSS_SHARD."""
        shards = shards_of(proposal)
        if isinstance(proposal, Create) and len(shards) == 2:
            return self._roots.make(proposal)
        if isinstance(proposal, Unlink) and proposal.directory:
            root = self._roots.is_root(proposal.parent, proposal.name)
            if root is not None:
                return self._roots.remove(proposal.parent, proposal.name, root)
        if len(shards) > 1:
            return REFUSED[Reason.CROSS_SHARD]
        face = self._face_of(next(iter(shards), 0) * INODES_PER_SHARD)
        return face.propose(proposal, payload)

    def begin(
        self,
        proposal: Record,
        payload: Sequence[bytes | memoryview],
        done: Callable[[Outcome | OSError], None],
    ) -> None:
        """See `Store`."""
        shards = shards_of(proposal)
        if len(shards) == 1 and not isinstance(proposal, Unlink):
            self._face_of(next(iter(shards)) * INODES_PER_SHARD).begin(proposal, payload, done)
        else:
            done(self.propose(proposal, payload))

    def stage(self, inode: int, offset: int, data: bytes | memoryview) -> list[Extent]:
        """See `Store`."""
        return self._face_of(inode).stage(inode, offset, data)

    def commit(
        self,
        inode: int,
        dirty: DirtyMap,
        size: int,
        keep: int | None,
        mtime_ns: int,
        changed_ns: int,
        before: Sequence[Part] = (),
        after: Sequence[Part] = (),
    ) -> Outcome:
        """See `Store`."""
        if (before or after) and shards_of(Batch([*before, *after])) - {shard_of(inode)}:
            return REFUSED[Reason.CROSS_SHARD]
        face = self._face_of(inode)
        return face.commit(inode, dirty, size, keep, mtime_ns, changed_ns, before, after)

    def allocate_inode(self, directory: int = ROOT, name: bytes = b"", mode: int = 0) -> int:
        """See `Store`. A directory lives where HOME_XATTR of its parent says, else where `choose` says, else with its parent.

        Raises:
            Refused: MALFORMED, if HOME_XATTR names no shard there is; UNSUPPORTED for scripts in a volatile shard, as they
                need a past.
        """
        home = shard_of(directory)
        if name == CONTROL and not self._of(directory).keeps_past:
            raise Refused(Reason.UNSUPPORTED)
        if name and is_directory(mode):
            home = self._home(directory, name)
        return self._face_of(home * INODES_PER_SHARD).allocate_inode()

    def _home(self, directory: int, name: bytes) -> int:
        said = self.xattr(directory, HOME_XATTR)
        if said is not None and name != CONTROL:
            try:
                shard = int(said)
                self._face_of(shard * INODES_PER_SHARD)
            except (ValueError, OSError) as error:
                raise Refused(Reason.MALFORMED) from error
            return shard
        path = self.path_of(directory)
        if path is not None:
            path = path + b"/" + name if path else name
            if CONTROL not in path.split(b"/"):  # Scripts live with what they are about.
                chosen = self._choose(path)
                return shard_of(directory) if chosen is None else chosen
        return shard_of(directory)

    def path_of(self, directory: int) -> bytes | None:
        """The path of a directory from the root, now (``a/b``; the root's is empty); None if it has none."""
        names: list[bytes] = []
        while directory != ROOT:
            found = self.names_at(directory)
            if not found:
                return None
            directory, name = found[0]
            names.append(name)
        return b"/".join(reversed(names))

    def forget(self, inode: int) -> None:
        """See `Store`. History is kept."""

    # --- time and durability -------------------------------------------------------------------------------------

    def now(self) -> int:
        """See `Store`.

        Raises:
            Refused: NOT_STABLE_YET, if some shard does not answer in time.
        """
        now_us, before = self._now_us(), self._newest_frontier()
        if self._settle(now_us):
            return now_us
        reached = self._newest_frontier()
        if reached == before:
            raise Refused(Reason.NOT_STABLE_YET)
        # The cluster goes on, and this machine's clock is ahead of it: from now on it is asked for less.
        self._ahead_us += max(now_us - reached, 0)
        now_us = max(reached, self._hybrid.last_us)
        if not self._settle(now_us):
            raise Refused(Reason.NOT_STABLE_YET)
        return now_us

    def _now_us(self) -> int:
        return max(self._clock.now_ns() // 1000 - self._ahead_us, self._hybrid.last_us)

    def _newest_frontier(self) -> int:
        return max(face.frontier for face in self._faces.values())

    def settle(self, timestamp: int) -> bool:
        """See `Store`.

        Raises:
            Refused: NOT_STABLE_YET, if some shard does not answer in time.
        """
        if timestamp > self._now_us():
            return False
        if not self._settle(timestamp):
            raise Refused(Reason.NOT_STABLE_YET)
        return True

    def _settle(self, timestamp: int) -> bool:
        faces = list(self._faces.values())
        for face in faces:
            face.ask_frontier(timestamp)
        return all(face.settle(timestamp, self._frontier_s) for face in faces)

    def publish(self) -> None:
        """See `Store`: of all shards; raises what the first raised that could not."""
        failure: OSError | None = None
        for face in self._faces.values():
            try:
                face.publish()
            except OSError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def unsynced(self) -> bool:
        """See `Store`."""
        return any(face.log.durable_index < face.applied_index for face in self._faces.values())

    async def wait_durable(self, who: int = 0) -> None:
        """See `Store`."""
        for face in list(self._faces.values()):
            await face.wait_durable(who=who)

    # --- figures -------------------------------------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """Totals over all shards."""
        all_of = [space.counters for space in self._spaces.values()]
        return Counters(
            0,
            sum(one.live_bytes for one in all_of),
            sum(one.live_inodes for one in all_of),
            sum(one.pruned_contents for one in all_of),
        )

    @property
    def held_bytes(self) -> int:
        """What the logs hold, as far as it is known here; else what files hold now."""
        return sum(
            face.log.taken_bytes or face.namespace.counters.live_bytes
            for face in self._faces.values()
        )

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        counters = self.counters
        return {
            "directory": str(self.directory) if self.directory is not None else None,
            "records": sum(face.log.last_index for face in self._faces.values()),
            "records_durable": sum(face.log.durable_index for face in self._faces.values()),
            "last_commit_us": self._hybrid.last_us,
            "live_inodes": counters.live_inodes,
            "live_bytes": counters.live_bytes,
            "retention": self.retention.status(),
            "shards": {
                str(shard): {
                    "records": face.log.last_index,
                    "records_applied": face.applied_index,
                    "records_durable": face.log.durable_index,
                    "frontier_us": face.frontier,
                    "index_trouble": face.index_trouble,
                }
                for shard, face in sorted(self._faces.items())
            },
        }

    def close(self) -> None:
        """Save and close the indexes, all of them; sequencers and logs are whose they were.

        Raises:
            OSError: an index could not be saved: the next start has more to apply.
        """
        failure: OSError | None = None
        for face in self._faces.values():
            try:
                face.close(keep=self.directory is not None)
            except OSError as error:
                failure = failure or error
        if failure is not None:
            raise failure


class _Accounts:
    """`storage.namespace.quotas.Quotas` over shards: what a quota counts is what lives in its directory's own shard region."""

    def __init__(self, store: ClusterStore) -> None:
        self._store = store

    @property
    def some(self) -> bool:
        """Whether there are any."""
        return any(space.quotas.some for space in self._store._spaces.values())

    def room(self, directory: int) -> int | None:
        """See `Quotas`."""
        return self._store._of(directory).quotas.room(directory)

    def account(self, inode: int) -> tuple[int, int]:
        """See `Quotas`."""
        return self._store._of(inode).quotas.account(inode)

    def accounts(self, directory: int) -> tuple[int, ...]:
        """See `Quotas`."""
        return self._store._of(directory).quotas.accounts(directory)

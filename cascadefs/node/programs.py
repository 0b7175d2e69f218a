"""Operations that a node executes for programs elsewhere, on the shards it holds (`wire.Call`).

There is a tree once the face of shard 0 is up; others join it as they come. A shard that only other nodes hold is brought up when a
program asks for it first (`afar`), and followed from then on; also one that was here, and moved away.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import trio

from cascadefs.client import calls
from cascadefs.client.operations import Operations
from cascadefs.client.service import Service, user_of
from cascadefs.filesystem import Filesystem, FilesystemOptions
from storage.cluster.home import group_of, home_of
from storage.cluster.store import ClusterStore
from storage.errors import NotHere
from storage.transport import Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    import msgspec

    from cascadefs.node.faces import Faces
    from storage.clock import Clock
    from storage.cluster.face import Face
    from storage.codec import Buffer
    from storage.membership.values import View
    from storage.transport import Identity
    from triggers.access import Identity as AccessIdentity

__all__ = ["NotYet", "Programs"]

_Found = TypeVar("_Found")


class NotYet(OSError):
    """The tree is not up on this node."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "this node has no tree yet; ask again, or another node")


class Programs:
    """See the module."""

    def __init__(
        self, faces: Faces, clock: Clock, view: Callable[[], View], directory: Path
    ) -> None:
        """Join the faces as they come up; the view says where directories made by programs live.

        What programs send ahead of writes is kept on the disk of `directory`.
        """
        self._faces = faces
        self._directory = directory
        self._view = view
        self._clock = clock
        self._store: ClusterStore | None = None
        self._service: Service | None = None
        self._filesystem: Filesystem | None = None
        self.bring: Callable[[int], Awaitable[None]] | None = None
        """Brings up a shard that other nodes hold; raises OSError if that cannot be. None: nobody can."""
        self.holds: Callable[[int], bool] = lambda shard: False
        """Whether a shard is here, or will be."""
        self.order: Callable[[AccessIdentity, calls.Order], Awaitable[calls.Answer]] | None = None
        """Has what a user asks of scripts done by the nodes where they run. Set before there are faces."""
        self.order_of_mount: Callable[[Identity, calls.Order], Awaitable[calls.Answer]] | None = (
            None
        )
        """Likewise for a mount, which says itself who of its users may."""
        self.leave: Callable[[int], None] = lambda shard: None
        """Told of a shard that is here again."""
        self._near: dict[int, Face] = {}
        self._revision = -1
        self._missing: set[int] = set()
        self._bringing: dict[int, trio.Event] = {}
        faces.on_face = self._add

    def _add(self, face: Face) -> None:
        """With the lock of the faces held."""
        if face.is_near:
            self._near[face.namespace.shard] = face
            if face.namespace.shard in self._store_shards():
                self._revision = -1  # Followed elsewhere until now: `_sort`.
                return
        if self._store is not None:
            self._store.add(face)
        else:
            self._store = ClusterStore(
                [face],
                self._clock,
                self._faces.hybrid,
                choose=lambda path: home_of(self._view(), path),
                find=self._find,
            )
            self._store.share(self._faces.turns)
        if face.namespace.shard == 0 and self._service is None:
            filesystem = Filesystem(self._store, self._clock, FilesystemOptions())
            self._filesystem = filesystem
            self._service = Service(
                self._store,
                self._clock,
                self._exclusive,
                self._directory,
                applied=lambda parts: None,
                reserved=filesystem.is_reserved,
            )
            self._service.leader = self._leader
            self._service.order = self.order

    def _leader(self) -> list[str]:
        """The addresses of the one node that leads all shards; none where several lead."""
        view = self._view()
        leaders = {epoch.leader for epoch in view.epochs.values()}
        found: list[str] = []
        for name in leaders if len(leaders) == 1 else ():
            if name in view.nodes:
                found += view.nodes[name].addresses
            if name in view.live:
                found += view.live[name].addresses
        return found

    def _find(self, shard: int) -> Face:
        if self.bring is not None and shard in self._view().shards:
            self._missing.add(shard)
        raise NotHere(shard)

    async def _bring(self, shard: int) -> None:
        """Have a shard that is not here. It may come to be here by itself.

        Raises:
            OSError: nobody tells of it.
        """
        if self.bring is None or shard not in self._view().shards or self.holds(shard):
            return
        under_way = self._bringing.get(shard)
        if under_way is not None:
            await under_way.wait()
            return
        under_way = self._bringing[shard] = trio.Event()
        try:
            await self.bring(shard)
        finally:
            del self._bringing[shard]
            under_way.set()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._faces.exclusive(), self._faces.turns.letting_go():
            yield

    async def call(
        self, peer: Identity, arguments: msgspec.Raw, parts: Sequence[memoryview]
    ) -> tuple[bytes, Sequence[Buffer]]:
        """Execute an operation as the user whom a peer speaks for; what a mount asks of scripts as a mount. As `call_as`."""
        if peer.role is Role.MOUNT:
            call = calls.decode_call(arguments)
            if not isinstance(call, calls.Order) or self.order_of_mount is None:
                raise OSError(errno.EPERM, "a mount has other ways for that")
            return calls.encode(await self.order_of_mount(peer, call)), []
        return await self.call_as(user_of(peer), arguments, parts)

    async def call_as(
        self, who: AccessIdentity, arguments: msgspec.Raw, parts: Sequence[Buffer]
    ) -> tuple[bytes, Sequence[Buffer]]:
        """Execute an operation as a user.

        Raises:
            NotYet: there is no tree here.
            msgspec.DecodeError: it is no operation.
        """
        if self._service is None:
            await self._bring(0)
        if self._service is None:
            raise NotYet
        await self._sort()
        while True:
            answer, buffers = await self._service.execute(who, arguments, parts)
            self._missing -= self._store_shards()
            missing = set(self._missing)
            if not missing or not calls.is_elsewhere(calls.decode_answer(answer)):
                return answer, buffers
            for shard in missing:
                await self._bring(shard)
            if not missing <= self._store_shards():
                return answer, buffers

    async def asked(
        self, question: Callable[[Operations, ClusterStore], _Found], who: AccessIdentity
    ) -> _Found:
        """Ask the store on a worker thread, as a user; shards that are not here are brought.

        Raises:
            NotYet: there is no tree here.
            OSError: as the question does; nobody tells of a shard.
        """
        if self._service is None:
            await self._bring(0)
        if self._service is None:
            raise NotYet
        await self._sort()
        store = self.store
        operations = Operations(store, self._clock, who, self.is_reserved)

        def held() -> _Found:
            with self._exclusive():
                return question(operations, store)

        while True:
            try:
                return await trio.to_thread.run_sync(held)
            except NotHere:
                missing = self._missing - self._store_shards()
                for shard in missing:
                    await self._bring(shard)
                if not missing or not missing <= self._store_shards():
                    raise

    async def _sort(self) -> None:
        """Where shards have moved, ask who has them now."""
        revision = self._view().revision
        if revision == self._revision or self.bring is None:
            return
        self._revision = revision
        for shard in [shard for shard in self._near if not self.holds(shard)]:
            if shard in self.shards:
                with suppress(OSError):  # Then what is here answers, or says that it cannot.
                    await self._bring(shard)
        back = [shard for shard in self._near.keys() - self.shards if self.holds(shard)]
        for shard in back:
            if not await trio.to_thread.run_sync(self._put_back, shard):
                self._revision = -1

    def _put_back(self, shard: int) -> bool:
        """Have a shard that is here again, once its face has come as far as the one in its place."""
        with self._faces.exclusive():
            near, afar = self._near[shard], self.store.faces[shard]
            if afar.is_near:
                return True  # Another call was quicker.
            if near.applied_index < afar.applied_index:
                return False
            self.store.add(near)
            self._faces.leave_afar(shard)
        self.leave(shard)
        return True

    def _store_shards(self) -> set[int]:
        return set(self._store.faces) if self._store is not None else set()

    @property
    def shards(self) -> set[int]:
        """The shards whose replicas are here, and whose faces are up."""
        found = self._store.faces if self._store is not None else {}
        return {shard for shard, face in found.items() if face.is_near}

    @property
    def store(self) -> ClusterStore:
        """The store over them, once there are any."""
        assert self._store is not None
        return self._store

    def affinity(self, path: str) -> str:
        """The affinity group of what lives in a directory, by its path from the root."""
        group = group_of(self._view(), path.encode(errors="surrogateescape"))
        return group.decode(errors="surrogateescape")

    def is_reserved(self, directory: int, name: bytes) -> bool:
        """Whether a name in a directory would be taken for history."""
        return self._filesystem is not None and self._filesystem.is_reserved(directory, name)

    @property
    def executed(self) -> int:
        """Operations answered since the start."""
        return self._service.executed if self._service is not None else 0

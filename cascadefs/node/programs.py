"""Operations that a node executes for programs elsewhere, on the shards it holds (`wire.Call`).

There is a tree once the face of shard 0 is up; others join it as they come. A directory whose shard is on other nodes
only is answered EIO: a program dials a node that has what it needs, or all of them.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cascadefs.client.service import Service, user_of
from cascadefs.filesystem import Filesystem, FilesystemOptions
from storage.cluster.home import group_of, home_of
from storage.cluster.store import ClusterStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import msgspec

    from cascadefs.node.faces import Faces
    from storage.clock import Clock
    from storage.cluster.face import Face
    from storage.codec import Buffer
    from storage.membership.values import View
    from storage.transport import Identity

__all__ = ["NotYet", "Programs"]


class NotYet(OSError):
    """The tree is not up on this node."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "this node has no tree yet; ask again, or another node")


class Programs:
    """See the module."""

    def __init__(self, faces: Faces, clock: Clock, view: Callable[[], View]) -> None:
        """Join the faces as they come up; the view says where directories made by programs live."""
        self._faces = faces
        self._view = view
        self._clock = clock
        self._store: ClusterStore | None = None
        self._service: Service | None = None
        self._filesystem: Filesystem | None = None
        faces.on_face = self._add

    def _add(self, face: Face) -> None:
        """With the lock of the faces held."""
        if self._store is not None:
            self._store.add(face)
        else:
            self._store = ClusterStore(
                [face],
                self._clock,
                self._faces.hybrid,
                choose=lambda path: home_of(self._view(), path),
            )
            self._store.share(self._faces.turns)
        if face.namespace.shard == 0:
            filesystem = Filesystem(self._store, self._clock, FilesystemOptions())
            self._filesystem = filesystem
            self._service = Service(
                self._store,
                self._clock,
                self._exclusive,
                applied=lambda parts: None,
                reserved=filesystem.is_reserved,
            )

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._faces.exclusive(), self._faces.turns.letting_go():
            yield

    async def call(
        self, peer: Identity, arguments: msgspec.Raw, parts: Sequence[memoryview]
    ) -> tuple[bytes, Sequence[Buffer]]:
        """Execute an operation as the user whom a peer speaks for.

        Raises:
            NotYet: there is no tree here.
            msgspec.DecodeError: it is no operation.
        """
        if self._service is None:
            raise NotYet
        return await self._service.execute(user_of(peer), arguments, parts)

    @property
    def shards(self) -> set[int]:
        """The shards whose faces are here."""
        return set(self._store.faces) if self._store is not None else set()

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

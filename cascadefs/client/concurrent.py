"""The store for a program under trio: the calls of `Client`, awaited."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio

from cascadefs.client.client import WATCH_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType

    import numpy as np

    from cascadefs.client.client import Batch, Client, Instant, Key
    from cascadefs.client.devices import Device
    from cascadefs.client.values import Change, Content, Entry, Version
    from triggers.run import Buffer

__all__ = ["TrioClient"]

_Result = TypeVar("_Result")


class TrioClient:
    """`Client` for trio: each call runs on a worker thread, one at a time.

    Cancelled while it waits for its turn, a call does not happen; later, it is waited for.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._turn = trio.Lock()

    @overload
    async def get(
        self,
        path: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        event: Instant | None = None,
        offset: int = 0,
        length: int | None = None,
        device: None = None,
    ) -> bytes: ...

    @overload
    async def get(
        self,
        path: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        event: Instant | None = None,
        device: Device,
    ) -> Any: ...

    async def get(
        self,
        path: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        event: Instant | None = None,
        offset: int = 0,
        length: int | None = None,
        device: Device | None = None,
    ) -> Any:
        """See `Client.get`."""
        where = {"version": version, "at": at, "event": event, "offset": offset, "length": length}
        return await self._run(partial(self._client.get, path, **where, device=device))

    async def read(
        self,
        path: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        offset: int = 0,
        length: int | None = None,
    ) -> Content:
        """See `Client.read`."""
        return await self._run(
            partial(self._client.read, path, version=version, at=at, offset=offset, length=length)
        )

    async def get_many(self, paths: Sequence[str], *, at: Instant | None = None) -> Sequence[bytes]:
        """See `Client.get_many`."""
        return await self._run(partial(self._client.get_many, paths, at=at))

    async def put(
        self,
        path: str,
        data: Buffer | str,
        *,
        expect: int | None = None,
        mode: int = 0o644,
        event: Instant | None = None,
        durable: bool = False,
    ) -> Version:
        """See `Client.put`."""
        call = partial(self._client.put, path, data, expect=expect, mode=mode, event=event)
        return await self._run(partial(call, durable=durable))

    async def put_many(
        self, files: Mapping[str, Buffer | str], *, mode: int = 0o644, durable: bool = False
    ) -> Sequence[Version]:
        """See `Client.put_many`."""
        return await self._run(partial(self._client.put_many, files, mode=mode, durable=durable))

    async def append(self, path: str, data: Buffer | str, *, durable: bool = False) -> Version:
        """See `Client.append`."""
        return await self._run(partial(self._client.append, path, data, durable=durable))

    async def add(
        self,
        path: str,
        index: Any,
        delta: Any,
        *,
        dtype: str = "float32",
        key: Key | None = None,
        durable: bool = False,
    ) -> Version:
        """See `Client.add`."""
        return await self._run(
            partial(self._client.add, path, index, delta, dtype=dtype, key=key, durable=durable)
        )

    async def pull(
        self,
        path: str,
        index: Any,
        *,
        dtype: Any = "float32",
        version: int | None = None,
        at: Instant | None = None,
    ) -> np.ndarray[Any, Any]:
        """See `Client.pull`."""
        return await self._run(
            partial(self._client.pull, path, index, dtype=dtype, version=version, at=at)
        )

    async def delete(self, path: str, *, durable: bool = False) -> bool:
        """See `Client.delete`."""
        return await self._run(partial(self._client.delete, path, durable=durable))

    async def rmdir(self, path: str) -> None:
        """See `Client.rmdir`."""
        await self._run(partial(self._client.rmdir, path))

    async def commit(
        self, batch: Batch, *, durable: bool = False, key: Key | None = None
    ) -> Sequence[Version]:
        """See `Client.commit`; a `Batch` is made by its name."""
        return await self._run(partial(self._client.commit, batch, durable=durable, key=key))

    async def list(
        self,
        path: str = "",
        *,
        at: Instant | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> Sequence[Entry]:
        """See `Client.list`."""
        return await self._run(partial(self._client.list, path, at=at, after=after, limit=limit))

    async def stat(
        self,
        path: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        event: Instant | None = None,
    ) -> Entry:
        """See `Client.stat`."""
        return await self._run(
            partial(self._client.stat, path, version=version, at=at, event=event)
        )

    async def glob(self, pattern: str, *, at: Instant | None = None) -> Sequence[str]:
        """See `Client.glob`."""
        return await self._run(partial(self._client.glob, pattern, at=at))

    async def versions(
        self,
        path: str,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        first: int | None = None,
        last: int | None = None,
        limit: int | None = None,
    ) -> Sequence[Version]:
        """See `Client.versions`."""
        asked = partial(self._client.versions, path, since=since, until=until)
        return await self._run(partial(asked, first=first, last=last, limit=limit))

    async def now(self) -> int:
        """See `Client.now`."""
        return await self._run(self._client.now)

    async def watch(self, pattern: str = "**", *, after: str = "") -> AsyncIterator[Change]:
        """See `Client.watch`. Close it (`contextlib.aclosing`) when breaking out."""
        token = after
        while True:
            found, following = await self._run(partial(self._client.look, pattern, token))
            for change in found:
                yield change
            if following == token:
                await trio.sleep(WATCH_SECONDS)  # noqa: TID251  looked for, not told
            token = following

    async def aclose(self) -> None:
        """See `Client.close`."""
        await self._run(self._client.close)

    async def __aenter__(self) -> TrioClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with trio.CancelScope(shield=True):
            await self.aclose()

    async def _run(self, call: Callable[[], _Result]) -> _Result:
        async with self._turn:
            return await trio.to_thread.run_sync(call)

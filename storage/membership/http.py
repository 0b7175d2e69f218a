"""etcd's JSON gateway over HTTP: each call of its API as a POST, bytes in base64, 64-bit numbers as strings.

One end point is used at a time; where it fails, the next one is, and a watch moves with it. A call that
surely did not arrive is asked again elsewhere, and so is one that only reads; a transaction that may have arrived is
not. Sources: https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/ and its rpc.proto.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import httpx
import msgspec
import trio

from storage.membership.contract import Unavailable
from storage.membership.gateway import Batch, Compacted, Grant, LeaseGone, Reading
from storage.membership.tree import Event, Item

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from storage.membership.gateway import Put

__all__ = ["HttpGateway", "open_gateway", "tls_context"]

WATCH_IDLE_S = 30.0
"""A watch that was told nothing for so long is opened anew: its connection may have died without a word."""

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""One message of a watch: everything that can be kept changed at once, many times over."""

NOT_FOUND = 5
"""gRPC's code for what does not exist: a lease, or the whole API where this is another program or an etcd before 3.4."""


# --- etcd's messages, as far as we read them ------------------------------------------------------------------------
# Fields with their default values are left out by the gateway. msgspec reads bytes from base64, and, when it is not
# strict, numbers from strings.


class _Header(msgspec.Struct):
    revision: int
    cluster_id: int = 0


class _Pair(msgspec.Struct):
    key: bytes
    mod_revision: int
    value: bytes = b""


class _Ranged(msgspec.Struct):
    header: _Header
    kvs: list[_Pair] = []


class _Transacted(msgspec.Struct):
    header: _Header
    succeeded: bool = False


class _Granted(msgspec.Struct):
    ID: int
    TTL: int


class _Kept(msgspec.Struct):
    TTL: int = 0


class _KeptAlive(msgspec.Struct):
    result: _Kept


class _Revoked(msgspec.Struct):
    header: _Header


class _Event(msgspec.Struct):
    kv: _Pair
    type: str = "PUT"


class _Watched(msgspec.Struct):
    events: list[_Event] = []
    compact_revision: int = 0
    canceled: bool = False
    cancel_reason: str = "it was cancelled"


class _Trouble(msgspec.Struct):
    message: str = "an error"
    code: int = 0


class _Message(msgspec.Struct):
    result: _Watched | None = None
    error: _Trouble | None = None


T = TypeVar("T")


def _decode(raw: bytes, kind: type[T]) -> T:
    return msgspec.json.decode(raw, type=kind, strict=False)


class _Body(httpx.AsyncByteStream):
    """A request's bytes. httpx's own are an asynchronous generator, which a cancelled request leaves unfinished."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self.raw)


class _Once:
    def __init__(self, raw: bytes) -> None:
        self._rest = [raw]

    def __aiter__(self) -> _Once:
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            raise StopAsyncIteration
        return self._rest.pop()


class _Broken(Exception):
    """A watch ended; the text says how."""


def tls_context(ca: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """How an etcd with TLS is met: its certificate is checked against `ca`, ours is shown if there is one.

    Raises:
        OSError, ssl.SSLError: a file cannot be read, or is no certificate or key.
    """
    context = ssl.create_default_context(cafile=str(ca))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


@asynccontextmanager
async def open_gateway(
    endpoints: Sequence[str],
    prefix: str,
    *,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = 2.0,
) -> AsyncIterator[HttpGateway]:
    """A `Gateway` to a real etcd, for as long as the body runs. Nothing is connected yet.

    Args:
        endpoints: ``http://host:port`` or ``https://host:port`` of its members, the nearest first.
        prefix: What all keys begin with, ``/cascadefs/``.
        tls: For https; without it the system's authorities are trusted.
        timeout_s: How long one end point may take for one answer.
    """
    logging.getLogger("httpx").setLevel(
        logging.WARNING
    )  # else each call of ours is a line in the log
    limits = httpx.Limits(max_connections=16, max_keepalive_connections=8)
    # No proxies from the environment: the way to etcd is in the configuration alone.
    verify = tls or any(endpoint.startswith("https:") for endpoint in endpoints)
    async with httpx.AsyncClient(
        verify=verify, limits=limits, trust_env=False, timeout=httpx.Timeout(timeout_s)
    ) as client:
        yield HttpGateway(client, endpoints, prefix, timeout_s)


class _Failed(Exception):
    """One end point gave no answer; the text says how."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


class HttpGateway:
    """See `Gateway`; made by `open_gateway`."""

    def __init__(
        self, client: httpx.AsyncClient, endpoints: Sequence[str], prefix: str, timeout_s: float
    ) -> None:
        assert endpoints
        self._client = client
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._at = 0
        self._prefix = prefix.encode()
        self._timeout_s = timeout_s
        self._watches: set[trio.CancelScope] = set()

    @property
    def endpoint(self) -> str:
        """The one in use."""
        return self._endpoints[self._at]

    # --- Calls ------------------------------------------------------------------------------------------------------

    async def read(self) -> Reading:
        """See `Gateway`."""
        answer = await self._ask("/v3/kv/range", self._everything(), _Ranged)
        items = [Item(self._below(pair), pair.mod_revision, pair.value) for pair in answer.kvs]
        return Reading(answer.header.revision, items, f"{answer.header.cluster_id:x}")

    async def ping(self) -> int:
        """See `Gateway`."""
        asked = {"key": self._prefix + b"cluster", "keys_only": True}
        return (await self._ask("/v3/kv/range", asked, _Ranged)).header.revision

    async def transact(
        self, conditions: Sequence[tuple[str, int]], puts: Sequence[Put]
    ) -> int | None:
        """See `Gateway`."""
        asked = {
            "compare": [
                {"key": self._full(key), "target": "MOD", "mod_revision": str(revision)}
                for key, revision in conditions  # "result" is EQUAL where it is left out
            ],
            "success": [self._operation(put) for put in puts],
        }
        answer = await self._ask("/v3/kv/txn", asked, _Transacted, again=False)
        return answer.header.revision if answer.succeeded else None

    async def grant(self, ttl_s: int) -> Grant:
        """See `Gateway`."""
        answer = await self._ask("/v3/lease/grant", {"TTL": str(ttl_s)}, _Granted)
        return Grant(answer.ID, answer.TTL)

    async def keep_alive(self, lease: int) -> int:
        """See `Gateway`."""
        answer = await self._ask("/v3/lease/keepalive", {"ID": str(lease)}, _KeptAlive)
        if answer.result.TTL <= 0:
            raise LeaseGone
        return answer.result.TTL

    async def revoke(self, lease: int) -> None:
        """See `Gateway`."""
        with suppress(LeaseGone):
            await self._ask("/v3/lease/revoke", {"ID": str(lease)}, _Revoked)

    # --- The watch --------------------------------------------------------------------------------------------------

    async def watch(self, after: int, deliver: Callable[[Batch], None]) -> NoReturn:
        """See `Gateway`."""
        at = self._at
        ends: list[Exception] = []

        def take(message: bytes) -> None:
            try:
                self._take(_decode(message, _Message), deliver)
            except (Compacted, _Broken, msgspec.MsgspecError, UnicodeDecodeError) as error:
                # Raised into the reading loop it would leave httpx's generators behind unfinished; a
                # cancellation of what the innermost waits for goes through all of them.
                ends.append(error)
                scope.cancel()

        with trio.CancelScope() as scope:
            self._watches.add(scope)
            try:
                await self._stream(after, take)
            except httpx.HTTPError as error:
                ends.append(error)
            finally:
                self._watches.discard(scope)
        cause = ends[0] if ends else None
        if isinstance(cause, Compacted):
            raise cause
        if not isinstance(
            cause, httpx.ReadTimeout
        ):  # idle; whether it hangs is found out by asking
            self._leave(at)
        why = _words(cause) if cause else "it was closed"
        text = f"{self._endpoints[at]}: the watch broke: {why}"
        raise Unavailable(text, outcome_unknown=False) from cause

    async def _stream(self, after: int, take: Callable[[bytes], None]) -> None:
        asked = {"create_request": {**self._everything(), "start_revision": str(after + 1)}}
        timeout = httpx.Timeout(self._timeout_s, read=WATCH_IDLE_S)
        request = self._request(self.endpoint + "/v3/watch", asked, timeout)
        # A member of etcd without a majority then ends the watch instead of going silent.
        request.headers["Grpc-Metadata-hasleader"] = "true"
        response = await self._client.send(request, stream=True)
        try:
            held = b""
            async for chunk in response.aiter_bytes():
                *messages, held = (held + chunk).split(b"\n")
                for message in messages:
                    take(message)
                if len(held) > MESSAGE_BYTES_MAX:
                    take(held)
        finally:
            await response.aclose()

    def _take(self, message: _Message, deliver: Callable[[Batch], None]) -> None:
        told = message.result
        if message.error is not None or told is None:
            raise _Broken(message.error.message if message.error else "an empty message")
        if told.compact_revision:
            raise Compacted
        if told.canceled:
            raise _Broken(told.cancel_reason)
        events = [
            Event(
                self._below(event.kv),
                event.kv.mod_revision,
                None if event.type == "DELETE" else event.kv.value,
            )
            for event in told.events
        ]
        if events:
            # A message has all events of a revision, unless fragments are asked for.
            deliver(Batch(events[-1].revision, events))

    # --- End points -------------------------------------------------------------------------------------------------

    async def _ask(
        self, path: str, asked: dict[str, Any], kind: type[T], *, again: bool = True
    ) -> T:
        """Ask one end point after another, each once; `again`: also when an earlier one may have been reached."""
        troubles = []
        for _ in self._endpoints:
            at = self._at
            try:
                return await self._ask_one(self._endpoints[at] + path, asked, kind)
            except _Failed as failed:
                troubles.append(f"{self._endpoints[at]}: {failed}")
                self._leave(at)
                if failed.sent and not again:
                    raise Unavailable("; ".join(troubles), outcome_unknown=True) from failed
        raise Unavailable("; ".join(troubles), outcome_unknown=False)

    async def _ask_one(self, url: str, asked: dict[str, Any], kind: type[T]) -> T:
        request = self._request(url, asked, httpx.Timeout(self._timeout_s))
        try:
            with trio.fail_after(self._timeout_s):
                response = await self._client.send(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _Failed(_words(error), sent=False) from error
        except trio.TooSlowError as error:
            raise _Failed(f"no answer in {self._timeout_s:g} s", sent=True) from error
        except httpx.HTTPError as error:
            raise _Failed(_words(error), sent=True) from error
        status = response.status_code
        try:
            if status == httpx.codes.OK:
                return _decode(response.content, kind)
            trouble = _decode(response.content, _Trouble)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _Failed(f"HTTP {status}, and no answer of etcd's", sent=True) from error
        if trouble.code == NOT_FOUND and "lease" in trouble.message:
            raise LeaseGone(trouble.message)
        raise _Failed(f"HTTP {status}: {trouble.message}", sent=True)

    def _request(self, url: str, asked: dict[str, Any], timeout: httpx.Timeout) -> httpx.Request:
        raw = msgspec.json.encode(asked)
        request = self._client.build_request("POST", url, content=raw, timeout=timeout)
        request.stream = _Body(raw)
        return request

    def _leave(self, at: int) -> None:
        """An end point failed: use the next one, and have the watches follow."""
        if self._at == at:
            self._at = (at + 1) % len(self._endpoints)
            for scope in self._watches:
                scope.cancel()

    # --- Keys -------------------------------------------------------------------------------------------------------

    def _everything(self) -> dict[str, Any]:
        behind = self._prefix[:-1] + bytes([self._prefix[-1] + 1])
        return {"key": self._prefix, "range_end": behind}

    def _full(self, key: str) -> bytes:
        return self._prefix + key.encode()

    def _below(self, pair: _Pair) -> str:
        return pair.key[len(self._prefix) :].decode(errors="replace")

    def _operation(self, put: Put) -> dict[str, Any]:
        if put.raw is None:
            return {"request_delete_range": {"key": self._full(put.key)}}
        asked = {"key": self._full(put.key), "value": put.raw, "lease": str(put.lease)}
        return {"request_put": asked}


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__

"""One connection of a browser: HTTP/1.1 on a trio stream, requests one after the other. The only import of h11.

Bounded: a head of 16 KiB, a body of 64 KiB, half a minute between requests and for each 64 KiB of an answer to be taken.

Source: RFC 9112, as h11 reads it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import h11
import trio

from cascadefs.page.gate import HEADERS
from cascadefs.page.message import Request, Response, failure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

__all__ = ["converse"]

HEAD_BYTES_MAX: Final = 16 * 1024
BODY_BYTES_MAX: Final = 64 * 1024
RECEIVE_BYTES: Final = 4096
SEND_BYTES: Final = 64 * 1024
IDLE_SECONDS: Final = 30.0
"""For a request to come, and for `SEND_BYTES` of an answer to be taken."""

GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""The other side is, or does not listen."""


class _Refusal(Exception):
    """What no request of ours is; nothing more is read."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


async def converse(
    stream: trio.abc.Stream,
    answer: Callable[[Request], Awaitable[Response]],
    waiting: dict[object, trio.CancelScope],
) -> None:
    """Answer requests until the other side has no more; never raises for what it does. The stream is closed then.

    Args:
        stream: ours from the call on.
        answer: answers one.
        waiting: has the stream while nothing of it is being answered; cancelling the scope there hangs up.

    Raises:
        Exception: an answer in pieces ended before its end.
    """
    protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
    async with stream:
        try:
            while True:
                with trio.fail_after(IDLE_SECONDS) as waiting[stream]:
                    try:
                        request = await _request(protocol, stream)
                    finally:
                        waiting.pop(stream, None)
                if request is None:
                    return
                await _respond(protocol, stream, await answer(request))
                if (protocol.our_state, protocol.their_state) != (h11.DONE, h11.DONE):
                    return  # The other side wants no more, or has not read to the end.
                protocol.start_next_cycle()
        except* (*GONE, ConnectionError):  # The last of TLS, on a connection that broke.
            pass
        except* _Refusal as refusals:
            refusal = refusals.exceptions[0]
            assert isinstance(refusal, _Refusal), "raised in no nursery"
            await _complain(protocol, stream, refusal.response)
        except* h11.RemoteProtocolError as errors:
            hint = getattr(errors.exceptions[0], "error_status_hint", 400)
            await _complain(protocol, stream, failure(hint, "that is no request"))


async def _complain(protocol: h11.Connection, stream: trio.abc.Stream, why: Response) -> None:
    """Say why there is no answer, if there can still be said anything."""
    if protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE):
        with contextlib.suppress(*GONE):
            await _respond(protocol, stream, why)


async def _request(protocol: h11.Connection, stream: trio.abc.Stream) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = protocol.next_event()
        match event:
            case h11.Request():
                head = event
                if head.method == b"HEAD":  # Its answer has no body, of which others' consist.
                    raise _Refusal(Response(405))
            case h11.Data(data=data):
                body += data
                if len(body) > BODY_BYTES_MAX:
                    raise _Refusal(failure(413, "too long"))
            case h11.EndOfMessage():
                assert head is not None, "h11 keeps the order"
                return _whole(head, bytes(body))
            case h11.ConnectionClosed():
                return None
            case h11.NEED_DATA:
                if protocol.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    await stream.send_all(protocol.send(go_on) or b"")
                protocol.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))


def _whole(head: h11.Request, body: bytes) -> Request:
    headers: dict[str, str] = {}
    for raw, value in head.headers:
        name, text = raw.decode("ascii"), value.decode("latin-1")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    return Request(head.method.decode("ascii"), head.target.decode("latin-1"), headers, body)


async def _respond(protocol: h11.Connection, stream: trio.abc.Stream, response: Response) -> None:
    given = {name.lower() for name, _ in response.headers}
    headers = [*response.headers, *(pair for pair in HEADERS if pair[0].lower() not in given)]
    headers.append(("Content-Type", response.kind))
    body = response.body
    if isinstance(body, bytes):
        headers.append(("Content-Length", str(len(body))))
    head = h11.Response(status_code=response.status, headers=headers)
    await _send(protocol, stream, head)
    if isinstance(body, bytes):
        await _send(protocol, stream, h11.Data(data=body))
    elif "content-length" in given:
        await _send_pieces(protocol, stream, body)
    else:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, stream, nursery.cancel_scope)
            await _send_pieces(protocol, stream, body)
        return
    await _send(protocol, stream, h11.EndOfMessage())


async def _send_pieces(
    protocol: h11.Connection, stream: trio.abc.Stream, body: AsyncGenerator[bytes, None]
) -> None:
    async with contextlib.aclosing(body) as pieces:
        async for piece in pieces:
            await _send(protocol, stream, h11.Data(data=piece))


async def _cancel_when_gone(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    """Of an answer without an end: whoever listens to it has nothing to say, and hangs up when it is enough."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.receive_some(RECEIVE_BYTES)
    scope.cancel()


async def _send(protocol: h11.Connection, stream: trio.abc.Stream, event: h11.Event) -> None:
    """In pieces: a slow line is none that does not listen."""
    data = memoryview(protocol.send(event) or b"")
    for at in range(0, len(data), SEND_BYTES):
        with trio.fail_after(IDLE_SECONDS):
            await stream.send_all(data[at : at + SEND_BYTES])

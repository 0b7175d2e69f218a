"""The page's server: listens, has the gate look at each request, and hands it to whoever answers."""

from __future__ import annotations

import logging
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from cascadefs.page.answers import Answers
from cascadefs.page.connection import converse
from cascadefs.page.feed import Feed
from cascadefs.page.gate import Gate
from cascadefs.page.message import Response, failure
from cascadefs.page.timeline import Timeline

if TYPE_CHECKING:
    from cascadefs.page.listening import Listening
    from cascadefs.page.message import Request
    from cascadefs.page.prices import Prices
    from cascadefs.page.source import Source

__all__ = ["CONNECTIONS_MAX", "serve"]

CONNECTIONS_MAX: Final = 64
HANDSHAKE_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


async def serve(
    source: Source,
    listening: Listening,
    token: str,
    prices: Prices | None = None,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a page until cancelled. Started with the port when browsers can connect.

    Raises:
        OSError: it cannot listen there.
    """
    timeline = Timeline(source.client)
    feed = Feed(source, timeline, prices)
    answers = Answers(source, timeline, feed)
    listeners = await trio.open_tcp_listeners(listening.port, host=listening.host)
    port: int = listeners[0].socket.getsockname()[1]
    is_tls = listening.tls is not None
    gate = Gate(token, port, (listening.host, *listening.names), is_tls=is_tls)

    async def answer(request: Request) -> Response:
        refused = gate.turn_away(request)
        if refused is not None:  # Who may not come in takes no place of those who may.
            return replace(refused, headers=(*refused.headers, ("Connection", "close")))
        try:
            return await answers.answer(request)
        except Exception:  # Whatever one browser asks, the page goes on.
            _log.exception("%s cannot be answered", request.path)
            return failure(500, "the page made a mistake; its log says which")

    connected = 0
    waiting: dict[object, trio.CancelScope] = {}
    """Connections on which nothing is being answered, the one that waits longest first."""

    async def attend(stream: trio.SocketStream) -> None:
        nonlocal connected
        if connected >= CONNECTIONS_MAX:
            if not waiting:
                await stream.aclose()
                return
            waiting.pop(next(iter(waiting))).cancel()
        connected += 1
        try:
            await converse(await _secured(stream, listening.tls, waiting), answer, waiting)
        except (trio.BrokenResourceError, trio.TooSlowError, ssl.SSLError, OSError) as error:
            _log.debug("a connection broke: %s", error)
            await trio.aclose_forcefully(stream)
        except Exception:  # Whatever one browser does, the page goes on.
            _log.exception("a connection was given up")
            await trio.aclose_forcefully(stream)
        finally:
            connected -= 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        nursery.start_soon(trio.serve_listeners, attend, listeners)
        task_status.started(port)


async def _secured(
    stream: trio.SocketStream,
    tls: ssl.SSLContext | None,
    waiting: dict[object, trio.CancelScope],
) -> trio.abc.Stream:
    if tls is None:
        return stream
    secured = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
    with trio.fail_after(HANDSHAKE_SECONDS) as waiting[stream]:
        try:
            await secured.do_handshake()
        finally:
            waiting.pop(stream, None)
    return secured

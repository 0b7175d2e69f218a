"""The page of a node: the tree, as the user sees it whom the node runs as; the cluster; and the scripts of the shards led here.

Served by the node's own process, because only that may ask its faces: requests are taken in the network's loop, which is small
work, and everything about the store is done on worker threads that hold the faces as programs do.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from cascadefs.client import Client, calls
from cascadefs.page import (
    Listening,
    Prices,
    Refused,
    certified,
    parse_address,
    serve,
    token_at,
)
from cascadefs.page.board import clustered
from cascadefs.page.process import TOKEN_FILE
from storage.errors import Unusable
from triggers.access import Identity
from triggers.operator import BadCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascadefs.configuration import Node as Settings
    from cascadefs.node.node import Node
    from cascadefs.node.programs import Programs
    from cascadefs.node.scripts import Scripts
    from storage.clock import Clock
    from triggers.run import Buffer

__all__ = ["Page"]

_log = logging.getLogger("cascadefs.node")


class _Executor:
    """`cascadefs.client.client.Executor` on a node's own faces."""

    def __init__(self, programs: Programs, who: Identity) -> None:
        self._programs = programs
        self._who = who

    def execute(
        self, call: calls.Call, buffers: Sequence[Buffer]
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        """See `cascadefs.client.client.Executor`; on a worker thread of the network's loop."""
        arguments = msgspec.Raw(calls.encode(call))
        answer, data = trio.from_thread.run(self._programs.call_as, self._who, arguments, buffers)
        return calls.decode_answer(answer), data

    def close(self) -> None:
        """Others use them, too."""


class Page:
    """See the module; a `cascadefs.page.Source`."""

    def __init__(
        self,
        settings: Settings,
        node: Node,
        programs: Programs,
        scripts: Scripts | None,
        clock: Clock,
    ) -> None:
        """Nothing is served before `run`."""
        who = Identity(os.geteuid(), os.getegid(), tuple(os.getgroups()))
        self.name = f"{settings.name} of cluster {settings.cluster[:8]}"
        self.user = "root" if who.uid == 0 else f"user {who.uid}"
        self.client = Client(_Executor(programs, who), clock)
        self._settings = settings
        self._node = node
        self._scripts = scripts
        self._uid = who.uid

    async def run(self, data: Path) -> None:
        """Serve until cancelled. That it cannot be is trouble, and no reason to end the node."""
        settings = self._settings
        try:
            host, port = parse_address(settings.http)
            tls = None
            if settings.http_certificate:
                key = Path(settings.http_key) if settings.http_key else None
                tls = certified(Path(settings.http_certificate), key)
            listening = Listening(host=host, port=port, names=settings.http_names, tls=tls)
            token = token_at(data / TOKEN_FILE)
            prices = Prices.load(Path(settings.prices)) if settings.prices else None
            async with trio.open_nursery() as nursery:
                port = await nursery.start(serve, self, listening, token, prices)
                self._node.http = f"{next(iter(settings.http_names), host)}:{port}"
                scheme = "http" if tls is None else "https"
                _log.info("the page is at %s://%s/", scheme, self._node.http)
        except* (OSError, Unusable) as errors:
            _log.error("there is no page: %s", errors.exceptions[0])
        except* Exception:
            _log.critical("there is no page any more", exc_info=True)

    # --- see `Source`; on worker threads of the network's loop ---

    def status(self) -> dict[str, Any]:
        """How the cluster is, and the scripts."""
        told = msgspec.json.decode(trio.from_thread.run(self._node.status_json))
        triggers = {"mode": "off"} if self._scripts is None else self._scripts.standing()
        return {**clustered([told]), "triggers": triggers}

    def command(self, base: str, line: str) -> None:
        """Told to the scripts of a directory, if they are this user's and run here."""
        if self._scripts is None:
            raise Refused("no scripts run on this node")
        try:
            self._scripts.command(base, line, self._uid)
        except (BadCommand, OSError) as error:
            raise Refused(str(error)) from error

"""A page in a process of its own, beside the daemon of a mount: what browsers ask never takes the interpreter from who writes.

It is `cascadefs page MOUNTPOINT`, so it sees and does what the user who mounted may. It ends with the daemon, however that ends:
its standard input does.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TOKEN_FILE", "PageProcess"]

TOKEN_FILE: Final = "page.token"
"""In the data directory, beside the socket of programs."""

END_SECONDS: Final = 5.0

_log = logging.getLogger("cascadefs")


class PageProcess:
    """See the module. `run` it beside a mount that answers."""

    def __init__(self, mountpoint: Path, address: str, token: Path, prices: Path | None) -> None:
        self._token = token
        # -P: nothing is imported from wherever the daemon happens to be.
        self._command = [
            *(sys.executable, "-P", "-m", "cascadefs.cli", "page", str(mountpoint)),
            *("--http", address, "--token", str(token), "--attached"),
            *(() if prices is None else ("--prices", str(prices))),
        ]
        self._url: str | None = None
        self._trouble: str | None = None

    async def run(self) -> None:
        """Until cancelled, or until it ends by itself: that is trouble, and told in the status."""
        process = await trio.lowlevel.open_process(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = b""
            async for data in process.stdout:
                said += data
                if said.endswith(b"\n"):
                    self._url = json.loads(said)["url"]
                    _log.info("the page is at %s", self._url)
                    break
            code = await process.wait()
            self._url, self._trouble = None, f"it ended with status {code}; the log says why"
            _log.error("the page: %s", self._trouble)
        finally:
            with trio.CancelScope(shield=True):
                await process.stdin.aclose()
                await process.stdout.aclose()
                with trio.move_on_after(END_SECONDS) as late:
                    await process.wait()
                if late.cancelled_caught:
                    process.kill()
                    await process.wait()

    def status(self) -> dict[str, object]:
        """JSON-able; the token is not in it, but where it lies."""
        return {"url": self._url, "token": str(self._token), "trouble": self._trouble}

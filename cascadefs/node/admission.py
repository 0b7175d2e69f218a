"""Who may be connected with this node: not who shows a certificate that was revoked. And whom this node shows itself as: its own, renewed.

Theory of operation. Certificates are revoked by their serial numbers, in etcd (`values.Certificate`). A node refuses them in the
greeting, and ends the connections that are as soon as it hears of it. What was once revoked stays so in this process, whatever etcd
says later; without etcd the list is the last one, from the node's disk after a restart.

A certificate that is laid in the place of the node's own is taken up within seconds: connections that begin from then on show it.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

import trio

from storage import wire
from storage.errors import Unusable
from storage.transport import Broken, Role
from storage.transport.certificates import Credentials
from storage.transport.renewal import renew

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from storage.clock import Clock
    from storage.membership.contract import Authority
    from storage.membership.values import View
    from storage.transport import Connection, Identity

__all__ = ["Admission"]

GOODBYE_S: Final = 1.0
"""How long who is turned out has to hear why; it is not listened to meanwhile."""

LOOK_S: Final = 2.0
"""Between two looks without news: who was greeted before they came may be connected since."""

_log = logging.getLogger("cascadefs")


class Admission:
    """See the module."""

    def __init__(self, credentials: Credentials | None, clock: Clock) -> None:
        """Nobody is refused yet.

        Args:
            credentials: this node's own; None where people chose to go without.
            clock: the wall clock.
        """
        self.credentials = credentials
        self._clock = clock
        self._revoked: dict[str, str] = {}

    def see(self, view: View) -> None:
        """Learn from a view who is revoked.

        Raises:
            Unusable: this node itself.
        """
        for serial, certificate in view.certificates.items():
            if certificate.revoked_us:
                self._revoked[serial] = f": {certificate.why}" if certificate.why else ""
        mine = self.credentials.identity if self.credentials is not None else None
        why = self.refuses(mine) if mine is not None else None
        if why is not None and not self._is_replaced():
            raise Unusable(
                f"{why}; it serves nothing before another is issued with `cascadefs cluster add`"
            )

    def _is_replaced(self) -> bool:
        """Whether another certificate lies there, which is taken up soon."""
        assert self.credentials is not None
        try:
            found = Credentials.load(self.credentials.directory, now_ns=self._clock.now_ns())
        except Unusable:
            return False
        return self.refuses(found.identity) is None

    def refuses(self, peer: Identity) -> str | None:
        """Why a peer is not to be spoken with; None: it may be."""
        why = self._revoked.get(peer.serial) if peer.serial else None
        if why is None:
            return None
        return f"the certificate {peer.serial} of {peer} was revoked{why}"

    async def run(self, authority: Authority, connections: Collection[Connection]) -> None:
        """Turn out who is revoked, until cancelled.

        Raises:
            Unusable: this node itself was revoked.
        """
        async with trio.open_nursery() as nursery:
            while True:
                view = authority.view
                self.see(view)
                for connection in list(connections):
                    why = self.refuses(connection.peer)
                    if why is not None:
                        _log.warning("%s is cut off: %s", connection.address, why)
                        nursery.start_soon(_turn_out, connection, why)
                with trio.move_on_after(LOOK_S):
                    await authority.wait_view(view.revision)

    async def renew(self, show: Callable[[Credentials], None]) -> None:
        """Take up a renewed certificate of this node, and say in the log if it expires soon, until cancelled."""

        def take(credentials: Credentials) -> None:
            show(credentials)
            self.credentials = credentials

        if self.credentials is not None:
            await renew(self.credentials, self._clock, take)

    def status(self) -> dict[str, Any] | None:
        """This node's certificate, JSON-able."""
        if self.credentials is None:
            return None
        return {
            "serial": self.credentials.identity.serial,
            "expires_s": self.credentials.expires_s,
        }


async def _turn_out(connection: Connection, why: str) -> None:
    if connection.peer.role is not Role.NODE:  # These have it from the authority, too.
        with contextlib.suppress(Broken, trio.WouldBlock):
            connection.send_nowait(wire.encode(wire.Refusal(why)))
    with trio.move_on_after(GOODBYE_S):
        await connection.aclose()
    connection.close(why)

"""A cluster, as `mount.toml` describes it: its nodes, and what shows them who we are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from cascadefs.client.remote import Remote
from cascadefs.configuration import Mount, load
from storage.transport import TcpTransport
from storage.transport.certificates import Credentials

if TYPE_CHECKING:
    from storage.clock import Clock

__all__ = ["elsewhere"]


def elsewhere(path: Path, clock: Clock) -> Remote:
    """Calls to the nodes that a ``mount.toml`` names; nobody is dialled yet.

    Raises:
        Unusable: the file or the certificates are not what they should be; the message says what helps.
    """
    told = load(path, Mount)
    credentials = Credentials.load(Path(told.credentials), now_ns=clock.now_ns())
    transport = TcpTransport(credentials.identity, credentials.contexts())
    return Remote(transport, told.nodes, random.SystemRandom())

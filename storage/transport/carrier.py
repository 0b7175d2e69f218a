"""What may carry the messages of two nodes, and which of it does (FORMAT, "Transport"). Pure.

Each side offers carriers, the one it likes best first. The first of the dialler's that the other has too is used. So both know
without asking again, and a dialler that failed with its best can dial again and like another one better. Between a node and anybody
else it is always TCP.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

__all__ = ["PLAIN", "TCP", "VERBS", "Offer", "agree", "parse", "spell"]

TCP: Final = "tcp"
"""The connection that the greeting came by."""

VERBS: Final = "verbs"
"""RDMA, with that connection for control (`storage.transport.verbs`)."""

Offer: TypeAlias = tuple[str, ...]
"""Names of carriers, the best first; one that we do not know is somebody newer's."""

PLAIN: Final[Offer] = (TCP,)
"""What everybody offers who says nothing."""

_NAME: Final = re.compile(r"[a-z0-9-]{1,20}")


def agree(dialler: Offer, listener: Offer) -> str | None:
    """The carrier that both use; None if they have none in common."""
    return next((name for name in dialler if name in listener), None)


def spell(offer: Offer) -> str:
    """As it stands behind the identity in a greeting; empty for `PLAIN`."""
    return "" if offer == PLAIN else "\n" + " ".join(offer)


def parse(text: str) -> Offer:
    """What stands behind an identity's line feed.

    Raises:
        ValueError: it is no offer.
    """
    names = tuple(text.split(" "))
    if not all(_NAME.fullmatch(name) for name in names):
        raise ValueError("carriers that cannot be read")
    return names

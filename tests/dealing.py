"""Who of several pytest processes runs which test (pytest-xdist, ``scripts/test``).

All tests of a file go to one process, so what they share is made once; and all that run in the guest kernel go to one, so there is one guest. Who
deals knows nothing of a test but its name: so those have names by which one can tell.
"""

from __future__ import annotations

import re

from xdist.scheduler import LoadFileScheduling

__all__ = ["Dealing", "is_called_as_for_the_guest"]

_FOR_THE_GUEST = re.compile("verbs|rdma|guest|node_transport")


def is_called_as_for_the_guest(nodeid: str) -> bool:
    """Whether a test may be for the guest, by its name."""
    return _FOR_THE_GUEST.search(nodeid) is not None


class Dealing(LoadFileScheduling):
    """See the module."""

    def _split_scope(self, nodeid: str) -> str:
        return "guest" if is_called_as_for_the_guest(nodeid) else super()._split_scope(nodeid)

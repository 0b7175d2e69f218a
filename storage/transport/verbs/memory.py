"""Memory that the device may reach, and for how long."""

from __future__ import annotations

import ctypes
import mmap
import resource
from typing import Any, Final

from storage.transport.verbs.fabric import Unusable
from storage.transport.verbs.library import MR, DmaBufMR, PyverbsRDMAError, verbs

__all__ = [
    "LOCAL_WRITE",
    "PAGE_BYTES",
    "REMOTE_READ",
    "REMOTE_WRITE",
    "Lent",
    "LentDmabuf",
    "Memory",
]

PAGE_BYTES: Final = 4096
LOCAL_WRITE: Final = int(verbs.IBV_ACCESS_LOCAL_WRITE)
REMOTE_WRITE: Final = LOCAL_WRITE | int(verbs.IBV_ACCESS_REMOTE_WRITE)
REMOTE_READ: Final = int(verbs.IBV_ACCESS_REMOTE_READ)


class Lent:
    """Writable memory of somebody's that the device may reach until `revoke`; kept alive by this.

    Raises:
        Unusable: The system would not have so much locked; the message says how much is allowed, and where.
    """

    def __init__(self, domain: Any, memory: bytearray | mmap.mmap, access: int) -> None:
        size = len(memory)
        self.memory = memory
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        try:
            self._region = MR(domain, size, access, address=self.address)
        except PyverbsRDMAError as error:
            limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
            allowed = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit} bytes"
            raise Unusable(
                f"the device may not have {size} bytes of memory ({error}); this process may lock {allowed} of "
                "memory in all: raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity in a systemd unit, memlock in "
                "/etc/security/limits.conf), or use smaller rings (ring_bytes)"
            ) from error
        self.local_key: int = self._region.lkey
        self.key: int = self._region.rkey

    def revoke(self) -> None:
        """The device reaches it no more; its bytes stay for us. Harmless when repeated."""
        if self._region is not None:
            self._region.close()
            self._region = None


class LentDmabuf:
    """Memory of another device, that ours may write until `revoke`; `address` is what work requests call its beginning.

    Raises:
        PyverbsRDMAError: The driver or the card does not do that.
    """

    def __init__(self, domain: Any, descriptor: int, offset: int, size: int) -> None:
        self.address = offset
        self._region = DmaBufMR(domain, size, LOCAL_WRITE, dmabuf=descriptor, offset=offset)
        self.local_key: int = self._region.lkey

    def revoke(self) -> None:
        """As `Lent`."""
        if self._region is not None:
            self._region.close()
            self._region = None


class Memory(Lent):
    """Memory of its own: shared and anonymous, so pinning it is allowed and children do not copy it.

    Raises:
        Unusable: As `Lent`.
    """

    def __init__(self, domain: Any, size: int, access: int) -> None:
        own = mmap.mmap(-1, size)
        super().__init__(domain, own, access)
        self.view = memoryview(own)

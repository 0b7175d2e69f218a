"""Files as arrays on a device, for a program: each version is brought there once.

The caches are those of handlers (`triggers.handler.device`); made at first use, for any threads.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from triggers.handler import device as caches

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.client.values import Entry
    from triggers.handler.device import DeviceCache

__all__ = ["Device", "Devices"]

Device: TypeAlias = Literal["cpu", "cuda"]


class Devices:
    """The caches of one client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._caches: dict[str, DeviceCache] = {}

    def cache(self, device: Device) -> DeviceCache:
        """What is kept on a device; found, or made.

        Raises:
            OSError: ENODEV where there is none; the message says what helps.
            ValueError: nothing is called that.
        """
        if device not in ("cpu", "cuda"):
            raise ValueError(f'device={device!r}: write "cpu" or "cuda"')
        if device not in self._caches:
            made = caches.host() if device == "cpu" else caches.gpu()
            if made is None:
                raise OSError(
                    errno.ENODEV,
                    'no GPU that CuPy finds (pip install "cascadefs[gpu]", nvidia-smi); device="cpu" is the same by NumPy',
                )
            self._caches[device] = made
        return self._caches[device]

    def get(
        self,
        device: Device,
        path: str,
        entry: Entry,
        read: Callable[[str, int], memoryview],
    ) -> Any:
        """The array of one version of a file; `read` is asked for its bytes where it is not there yet."""
        with self._lock:
            identity = entry.timestamp, entry.version
            return self.cache(device).get(path, identity, lambda: read(path, entry.version))

"""Numbers on their way to a GPU: one copy, which the card's own engine makes out of memory that stays where it is.

A card reads main memory by itself only where that is *pinned*. A large array is pinned where it lies, in the mapping of the log or
of a worker's input, for as long as the copy takes; where the driver does not do that for such memory, and for small arrays, for
which it costs more than it saves, the numbers pass through pinned memory of CuPy's pool first.

Knows of CuPy only what its documentation says, so that tests can stand in for it. Sources: CuPy, "cupy.cuda.alloc_pinned_memory",
"cupy.ndarray.set"; CUDA Runtime API, cudaHostRegister.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

__all__ = ["Transfer"]

REGISTER_BYTES_MIN = 16 << 20
"""To pin memory takes a system call and some work for every page."""

READ_ONLY = 0x08
"""cudaHostRegisterReadOnly: what is mapped is nobody's to write."""


class Transfer:
    """Copies to the device of `xp` (`numpy`: there is none, and nothing is copied), with counts of what was done."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.moved_bytes = 0
        """To the device."""

        self.staged_bytes = 0
        """Through pinned memory, since they could not be pinned where they lay."""

        self._registers = True

    def move(self, host: np.ndarray[Any, Any]) -> Any:
        """An array of the device with the numbers of `host`; where there is no device, `host` itself.

        Raises:
            ValueError: no device has numbers of that type.
            xp.cuda.memory.OutOfMemoryError: there is no room.
        """
        if self.xp.__name__ == "numpy":
            return host
        if host.dtype.kind not in "biufc" or not host.dtype.isnative:
            raise ValueError(f"an array of {host.dtype} cannot be on a GPU")
        is_fortran = host.flags.f_contiguous and not host.flags.c_contiguous
        moved = self.xp.empty(host.shape, host.dtype, order="F" if is_fortran else "C")
        if host.nbytes:
            with self._pinned(host) as source:
                moved.set(source)
        self.moved_bytes += host.nbytes
        return moved

    @contextmanager
    def _pinned(self, host: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
        """The same numbers in pinned memory."""
        runtime = self.xp.cuda.runtime
        if self._registers and host.nbytes >= REGISTER_BYTES_MIN:
            address = host.ctypes.data
            try:
                runtime.hostRegister(address, host.nbytes, READ_ONLY)
            except runtime.CUDARuntimeError:
                self._registers = False  # the driver will not do it the next time either
            else:
                try:
                    yield host
                finally:
                    runtime.hostUnregister(address)
                return
        yield self._staged(host)

    def _staged(self, host: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        import numpy as np

        memory = self.xp.cuda.alloc_pinned_memory(host.nbytes)
        flat = np.frombuffer(memory, host.dtype, host.size)
        is_fortran = host.flags.f_contiguous and not host.flags.c_contiguous
        staged = flat.reshape(host.shape, order="F" if is_fortran else "C")
        staged[...] = host
        self.staged_bytes += host.nbytes
        return staged

"""Messages fetched into the memory of an accelerator: by the card itself where driver and card allow, else by way of the host.

A *target* is such memory, for the end of the next message that is fetched (`VerbsConnection.aim`): what is in front of it, the message's
head, is received as always. Whether the card can reach the memory is found out by trying: it is exported as a dmabuf and that is
registered; where one of the two is refused, `Target.why` says so, and the bytes are read into the host's memory and copied from there.

Sources: ibv_reg_dmabuf_mr(3); CUDA driver API, cuMemGetHandleForAddressRange; CUDA array interface, version 3. The direct path was not
tried on a card yet: Soft-RoCE registers no dmabuf.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any, Final, Protocol

from storage.transport.verbs.library import PyverbsError

if TYPE_CHECKING:
    from storage.transport.verbs.endpoint import Endpoint
    from storage.transport.verbs.memory import Lent, LentDmabuf

__all__ = ["Accelerated", "CudaMemory", "Target"]

DMABUF: Final = 1  # CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
CUDA_PAGE_BYTES: Final = 64 * 1024


class Accelerated(Protocol):
    """Memory of an accelerator, in one piece."""

    nbytes: int

    def export(self) -> tuple[int, int]:
        """A dmabuf's descriptor, the caller's to close, and where in it the memory begins.

        Raises:
            OSError: There is none of it.
        """
        ...

    def fill(self, data: memoryview) -> None:
        """Copy bytes of the host to its beginning; they are there when this returns.

        Raises:
            OSError: The accelerator did not take them.
        """
        ...


class CudaMemory:
    """`Accelerated` on an array that has the CUDA array interface (CuPy, PyTorch), C-contiguous; kept alive by this."""

    def __init__(self, array: Any) -> None:
        interface = array.__cuda_array_interface__
        if interface.get("strides") is not None:
            raise ValueError("the array's memory is not in one piece; make a contiguous one")
        self._array = array
        self._address = int(interface["data"][0])
        self.nbytes = int(array.nbytes)

    def export(self) -> tuple[int, int]:
        """As `Accelerated`."""
        begin = self._address & -CUDA_PAGE_BYTES
        end = (self._address + self.nbytes + CUDA_PAGE_BYTES - 1) & -CUDA_PAGE_BYTES
        descriptor = ctypes.c_int(-1)
        _call(
            "cuMemGetHandleForAddressRange",
            ctypes.byref(descriptor),
            ctypes.c_uint64(begin),
            ctypes.c_size_t(end - begin),
            ctypes.c_int(DMABUF),
            ctypes.c_ulonglong(0),
        )
        return descriptor.value, self._address - begin

    def fill(self, data: memoryview) -> None:
        """As `Accelerated`."""
        source = bytes(data)  # ctypes takes the address of nothing that is read-only but this
        _call(
            "cuMemcpyHtoD_v2",
            ctypes.c_uint64(self._address),
            ctypes.c_char_p(source),
            ctypes.c_size_t(len(source)),
        )


def _call(name: str, *arguments: Any) -> None:
    result = getattr(ctypes.CDLL("libcuda.so.1"), name)(*arguments)
    if result:
        raise OSError(f"{name} answers {result} (cuda.h, CUresult)")


class Target:
    """Memory that one message's end is to land in.

    Attributes:
        why: Why the card does not write there itself; empty if it does.
        filled: Whether it has landed.
    """

    def __init__(self, endpoint: Endpoint, memory: Accelerated) -> None:
        self.nbytes = memory.nbytes
        self.why = ""
        self.filled = False
        self._memory = memory
        self._endpoint = endpoint
        self.lent: LentDmabuf | Lent | None = None
        try:
            descriptor, offset = memory.export()
        except OSError as error:
            self.why = f"the accelerator's memory cannot be exported: {error}"
            return
        try:
            self.lent = endpoint.lend_dmabuf(descriptor, offset, memory.nbytes)
        except PyverbsError as error:
            self.why = f"the RDMA device does not register memory of an accelerator: {error}"
        finally:
            os.close(descriptor)

    def land(self, data: memoryview | None) -> None:
        """It has landed; or, where the card could not do it, this is what it is to hold.

        Raises:
            OSError: As `Accelerated.fill`.
        """
        if data is not None:
            self._memory.fill(data)
        self.filled = True
        self.close()

    def close(self) -> None:
        """The card reaches the memory no more. Harmless when repeated."""
        if self.lent is not None:
            self._endpoint.take_back(self.lent)
            self.lent = None

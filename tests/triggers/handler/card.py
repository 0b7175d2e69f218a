"""A card that is not there: as much of CuPy's documented interface as the cache uses, over NumPy, with a memory of so many bytes.

As with CuPy's own pool, what is given back is free for the card only after `free_all_blocks`. It shows that the cache does what
CuPy's pages ask for, not that a card does what they say: for that there is tests/gpu.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory.OutOfMemoryError."""


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime.CUDARuntimeError."""


class Array(np.ndarray):
    """An array of the card's."""

    def set(self, source: np.ndarray) -> None:
        card = self.card
        address = source.ctypes.data
        pinned = [*card.pinned, *card.registered.items()]
        assert any(
            first <= address and address + source.nbytes <= first + size for first, size in pinned
        ), "not pinned"
        assert (source.shape, source.dtype) == (self.shape, self.dtype)
        self[...] = source
        card.copies += 1

    def __del__(self) -> None:
        if self.base is None and hasattr(self, "card"):
            self.card.pooled_bytes += self.nbytes


class Card:
    """Stands in for the module `cupy`."""

    __name__ = "cupy"

    def __init__(self, size_bytes: int, *, registers: bool = True) -> None:
        self.free_bytes = size_bytes
        self.pooled_bytes = 0
        self.freed = self.copies = 0
        self.pinned: list[tuple[int, int]] = []
        self.registered: dict[int, int] = {}
        self.was_registered = 0
        self._registers = registers
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            hostRegister=self._register,
            hostUnregister=self.registered.pop,
        )
        self.cuda = SimpleNamespace(
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=runtime,
            alloc_pinned_memory=self._pin,
        )

    def empty(self, shape, dtype, order="C") -> Array:
        made = Array(shape, dtype, order=order)
        if made.nbytes > self.free_bytes:
            raise OutOfMemoryError(f"{made.nbytes} of {self.free_bytes}")
        self.free_bytes -= made.nbytes
        made.card = self
        return made

    def get_default_memory_pool(self):
        def free_all_blocks() -> None:
            self.freed += 1
            self.free_bytes += self.pooled_bytes
            self.pooled_bytes = 0

        return SimpleNamespace(free_all_blocks=free_all_blocks)

    def _pin(self, size_bytes: int) -> bytearray:
        memory = bytearray(size_bytes)
        self.pinned.append((np.frombuffer(memory, np.uint8).ctypes.data, size_bytes))
        return memory

    def _register(self, address: int, size_bytes: int, flags: int) -> None:
        if not self._registers:
            raise CUDARuntimeError("cudaErrorNotSupported")
        assert flags == 8, "what is mapped is read-only"
        self.registered[address] = size_bytes
        self.was_registered += 1

"""Bytes, and the ways to look at them: text, JSON, array, DLPack.

NumPy's own file format is understood: an array of a `.npy` file is the array in it, not its header. Every look is at
the same memory, read-only; only DLPack towards a consumer that knows no read-only memory copies, and counts it.
"""

from __future__ import annotations

import ast
import struct
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np

    from triggers.handler.copies import Copies
    from triggers.run import Content

__all__ = ["Blob", "File", "array"]

NPY_MAGIC = b"\x93NUMPY"


class Blob:
    """Something with `data`; what an event and a file read have in common."""

    __slots__ = ("_copies",)

    def __init__(self, copies: Copies) -> None:
        self._copies = copies

    @property
    def data(self) -> memoryview:
        """The bytes, read-only; valid as long as it is kept."""
        raise NotImplementedError

    def text(self, encoding: str = "utf-8") -> str:
        """The bytes as text."""
        return str(self.data, encoding)

    def json(self) -> Any:
        """The bytes as JSON."""
        return msgspec.json.decode(self.data)

    def array(
        self, dtype: Any = None, shape: tuple[int, ...] | int | None = None
    ) -> np.ndarray[Any, Any]:
        """The bytes as a read-only NumPy array, without a copy.

        Raises:
            ValueError: the bytes are not of that type and shape.
        """
        return array(self.data, dtype, shape)

    def __bytes__(self) -> bytes:
        data = self.data
        self._copies.made(len(data))
        return bytes(data)

    def __dlpack__(self, **wishes: Any) -> Any:
        """DLPack, of `array()`; a consumer too old to know read-only memory gets a copy."""
        whole = self.array()
        if wishes.get("max_version") is None and wishes.get("copy") is None:
            whole = whole.copy()
            self._copies.made(whole.nbytes)
        return whole.__dlpack__(**wishes)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Main memory."""
        return (1, 0)


class File(Blob):
    """A file as it was read: `data` and the rest of `Blob`, `path`, `version`, `timestamp` (microseconds), `size`.

    A version of 0: staged by this very run, not committed.
    """

    __slots__ = ("_data", "path", "size", "timestamp", "version")

    def __init__(
        self, path: str, version: int, timestamp: int, data: memoryview, copies: Copies
    ) -> None:
        super().__init__(copies)
        self.path = path
        self.version = version
        self.timestamp = timestamp
        self.size = data.nbytes
        self._data = data

    @classmethod
    def of(cls, content: Content, copies: Copies) -> File:
        """A file as the cut answers it; parts are joined."""
        return cls(
            content.path,
            content.version,
            content.timestamp,
            copies.joined(content.parts),
            copies,
        )

    @property
    def data(self) -> memoryview:
        """The bytes, read-only."""
        return self._data

    @property
    def ref(self) -> str:
        """`path@v<version>`, which the file system reads as this very version."""
        return f"{self.path}@v{self.version}"

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return True  # an empty file is there

    def __repr__(self) -> str:
        return f"<File {self.ref}, {self.size} bytes>"


def array(
    data: memoryview, dtype: Any = None, shape: tuple[int, ...] | int | None = None
) -> np.ndarray[Any, Any]:
    """Bytes as an array over the same memory; see `Blob.array`."""
    import numpy as np

    if bytes(data[:6]) != NPY_MAGIC:
        found: np.ndarray[Any, Any] = np.frombuffer(data, np.uint8 if dtype is None else dtype)
        return found if shape is None else found.reshape(shape)
    header, start = npy_header(data)
    kept = np.dtype(header["descr"])
    if kept.hasobject:
        raise ValueError("a .npy file of Python objects is not read: unpickling runs code")
    if dtype is not None and np.dtype(dtype) != kept:
        raise ValueError(f"the .npy file holds {kept}, not {np.dtype(dtype)}")
    found = np.frombuffer(data, kept, offset=start)
    found = found.reshape(header["shape"], order="F" if header["fortran_order"] else "C")
    if shape is not None and found.shape != ((shape,) if isinstance(shape, int) else tuple(shape)):
        raise ValueError(f"the .npy file holds an array of shape {found.shape}, not {shape}")
    return found


def npy_header(data: memoryview) -> tuple[dict[str, Any], int]:
    """The header of a .npy file, and where the numbers start (NumPy's "NPY format", versions 1 to 3)."""
    try:
        wide = data[6] >= 2
        (length,) = struct.unpack_from("<I" if wide else "<H", data, 8)
        start = (12 if wide else 10) + length
        header = ast.literal_eval(str(data[start - length : start], "utf-8"))
        return {key: header[key] for key in ("descr", "fortran_order", "shape")}, start
    except (IndexError, KeyError, struct.error, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"a damaged .npy header: {error}") from error

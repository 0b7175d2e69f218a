"""What a run has staged, and its own reads of that: an overlay over the cut.

Nothing staged is visible to anybody else before the run commits. A staged file has version 0, since the number it will
get is known at the commit only. What is staged is turned into bytes at once, so changing an array afterwards changes
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from triggers.handler.blob import File, array
from triggers.run import Add, Append, Delete, Put, PutIf, Stat

if TYPE_CHECKING:
    from triggers.handler.copies import Copies
    from triggers.run import Buffer, Cut, Effect

__all__ = ["Staged", "encode"]


class Staged:
    """Effects of one run in call order, and the view they give over the cut."""

    def __init__(self, cut: Cut, timestamp: int, copies: Copies) -> None:
        self.effects: list[Effect] = []
        self._cut = cut
        self._timestamp = timestamp
        self._copies = copies
        self._files: dict[str, memoryview | None] = {}  # as this run sees them; None: deleted
        self._modes: dict[str, int] = {}

    # --- stage --------------------------------------------------------------------------------------------------------

    def put(self, path: str, data: Any, mode: int) -> None:
        """Stage a whole file."""
        stored = encode(path, data)
        self.effects.append(Put(path, stored, mode))
        self._modes[path] = mode
        self._files[path] = memoryview(stored).toreadonly()

    def put_if(self, path: str, data: Any, expect: int) -> None:
        """Stage a whole file, on a condition."""
        stored = encode(path, data)
        self.effects.append(PutIf(path, stored, expect))
        self._files[path] = memoryview(stored).toreadonly()

    def delete(self, path: str) -> None:
        """Stage a removal."""
        self.effects.append(Delete(path))
        self._files[path] = None

    def append(self, path: str, data: Any) -> None:
        """Stage bytes at the end."""
        stored = encode(path, data)
        before = self._bytes(path)
        self.effects.append(Append(path, stored))
        self._files[path] = memoryview(bytes(before) + bytes(stored))

    def add(self, path: str, index: int, delta: Any, dtype: str) -> None:
        """Stage an addition to a vector."""
        import numpy as np

        kind = np.dtype(dtype).newbyteorder("<")
        numbers = np.ascontiguousarray(delta, dtype=kind).reshape(-1)
        if index < 0:
            raise ValueError(f"add: index {index} is negative")
        before = self._bytes(path)
        size = max(len(before), (index + len(numbers)) * kind.itemsize)
        vector = np.zeros(size // kind.itemsize, kind)
        vector[: len(before) // kind.itemsize] = array(before, kind)
        vector[index : index + len(numbers)] += numbers
        self.effects.append(Add(path, index, numbers.tobytes(), dtype))
        self._files[path] = memoryview(vector.tobytes())

    # --- read ---------------------------------------------------------------------------------------------------------

    def get(self, path: str, latest: bool, version: int | None) -> File | None:
        """A file as this run sees it; None where there is none."""
        if version is not None:
            content = self._cut.version(path, version)
            return None if content is None else File.of(content, self._copies)
        if path in self._files:
            data = self._files[path]
            return None if data is None else File(path, 0, self._timestamp, data, self._copies)
        content = self._cut.get(path, latest=latest)
        return None if content is None else File.of(content, self._copies)

    def stat(self, path: str, latest: bool) -> Stat | None:
        """A file without its bytes; None where there is none."""
        if path not in self._files:
            return self._cut.stat(path, latest=latest)
        data = self._files[path]
        if data is None:
            return None
        return Stat(path, 0, self._timestamp, data.nbytes, self._modes.get(path, 0o644))

    def files(self, glob: str) -> list[str]:
        """The files that match, with those staged and without those staged for removal."""
        found = self._cut.files(glob)
        if not self._files:
            return found
        from triggers.pattern import Pattern

        match = Pattern((glob,)).matches
        kept = {path for path in found if self._files.get(path, b"") is not None}
        kept |= {path for path, data in self._files.items() if data is not None and match(path)}
        return sorted(kept)

    def _bytes(self, path: str) -> memoryview:
        file = self.get(path, latest=False, version=None)
        return memoryview(b"") if file is None else file.data


def encode(path: str, data: Any) -> Buffer:
    """What a handler hands over, as bytes of its own: text as UTF-8, dict and list as JSON, arrays by the name.

    An array becomes a `.npy` file if the path says so, and its plain numbers otherwise. `bytes` are taken as they are;
    a `bytearray` or a view is copied, because its owner may change it.

    Raises:
        TypeError: nothing of that.
    """
    match data:
        case bytes():
            return data
        case str():
            return data.encode("utf-8", "surrogateescape")
        case bytearray():
            return bytes(data)
        case memoryview():
            return data if data.readonly and data.c_contiguous else data.tobytes()
        case dict() | list() | tuple() | int() | float() | bool() | None:
            return msgspec.json.encode(data, enc_hook=_number)
    if hasattr(data, "get") and hasattr(data, "__cuda_array_interface__"):
        data = data.get()  # CuPy: device to host
    if hasattr(data, "__array__"):
        return _array_bytes(path, data)
    if isinstance(data, msgspec.Struct):
        return msgspec.json.encode(data, enc_hook=_number)
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(
            f"put {path}: {type(data).__name__} cannot become a file;"
            " hand over bytes, text, an array, or what JSON knows"
        ) from None


def _array_bytes(path: str, data: Any) -> bytes:
    import io

    import numpy as np

    numbers = np.asarray(data)
    if numbers.dtype.hasobject:
        raise TypeError(f"put {path}: an array of Python objects cannot become a file")
    if not path.endswith(".npy"):
        return numbers.tobytes()
    file = io.BytesIO()
    np.save(file, numbers, allow_pickle=False)
    return file.getvalue()


def _number(value: Any) -> Any:
    """JSON of NumPy's numbers and arrays."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"JSON knows no {type(value).__name__}")

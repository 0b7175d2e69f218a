"""What a run has staged, and its own reads of that: an overlay over the cut.

Nothing staged is visible to anybody else before the run commits. A staged file has version 0, since the number it will
get is known at the commit only. What is staged is turned into bytes at once, so changing an array afterwards changes
nothing.
"""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from triggers.handler.blob import File
from triggers.handler.prefetch import Asked, Whenever
from triggers.handler.reader import BUFFER_BYTES, Reader
from triggers.run import Add, Append, Delete, Put, PutIf, Stat
from triggers.vector import DTYPES, Sum, gathered, indices_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from triggers.handler.copies import Copies
    from triggers.handler.prefetch import Reply
    from triggers.run import Buffer, Cut, Effect

__all__ = ["Staged", "addition", "encode"]


class Staged:
    """Effects of one run in call order, and the view they give over the cut.

    What a file looks like after an append or an addition is worked out when it is read, and only then: an append to a log
    must not cost the log.
    """

    def __init__(self, cut: Cut, timestamp: int, copies: Copies) -> None:
        self.effects: list[Effect] = []
        self._cut = cut
        self._timestamp = timestamp
        self._copies = copies
        self._by_path: dict[str, list[Effect]] = {}
        """What makes up a file: since it was last put or deleted, else since the cut."""

    # --- stage --------------------------------------------------------------------------------------------------------

    def put(self, path: str, data: Any, mode: int) -> None:
        """Stage a whole file."""
        self._stage(Put(path, encode(path, data), mode))

    def put_if(self, path: str, data: Any, expect: int) -> None:
        """Stage a whole file, on a condition."""
        self._stage(PutIf(path, encode(path, data), expect))

    def delete(self, path: str) -> None:
        """Stage a removal."""
        self._stage(Delete(path))

    def append(self, path: str, data: Any) -> None:
        """Stage bytes at the end."""
        self._stage(Append(path, encode(path, data)))

    def add(self, path: str, index: Any, delta: Any, dtype: str) -> None:
        """Stage an addition to a vector."""
        self._stage(addition(path, index, delta, dtype))

    def _stage(self, effect: Effect) -> None:
        self.effects.append(effect)
        if isinstance(effect, Append | Add):
            self._by_path.setdefault(effect.path, []).append(effect)
        else:
            self._by_path[effect.path] = [effect]

    # --- read ---------------------------------------------------------------------------------------------------------

    def get(self, path: str, latest: bool, version: int | None) -> File | None:
        """A file as this run sees it; None where there is none."""
        if version is not None:
            content = self._cut.version(path, version)
        elif path in self._by_path:
            data = self._view(path, latest)
            return None if data is None else File(path, 0, self._timestamp, data, self._copies)
        else:
            content = self._cut.get(path, latest=latest)
        return None if content is None else File.of(content, self._copies)

    def open(self, path: str, version: int | None) -> io.BufferedReader:
        """A file as this run sees it, to be read a part at a time.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if version is None and path in self._by_path:
            data = self._view(path, latest=False)
            if data is not None:
                return io.BufferedReader(io.BytesIO(data))
            first = None
        else:
            read = partial(self._cut.get, path)
            if version is not None:
                read = partial(self._cut.version, path, version)
            first = read(span=(0, 0))
        if first is None:
            raise FileNotFoundError(f"open: there is no {path} at the cut")
        return io.BufferedReader(Reader(first, lambda span: read(span=span)), BUFFER_BYTES)

    def begin(self, path: str) -> Reply:
        """Ask for a file at the cut, where there is somebody who reads it meanwhile; with what is staged now."""
        begin_get = getattr(self._cut, "begin_get", None)
        if path in self._by_path or begin_get is None:
            return Whenever(partial(self.get, path, latest=False, version=None))
        return Asked(begin_get(path), self._copies)

    def pull(self, path: str, index: Any, dtype: str, latest: bool) -> np.ndarray[Any, Any]:
        """Numbers of a file, in the shape of `index`.

        Raises:
            FileNotFoundError: there is no such file.
        """
        import numpy as np

        places, kind = indices_of(index), np.dtype(dtype).newbyteorder("<")
        found: Buffer | None = None
        if path not in self._by_path:
            content = self._cut.pull(path, places.tobytes(), kind.itemsize, latest=latest)
            if content is not None:
                found = self._copies.joined(content.parts)
        elif (view := self._view(path, latest)) is not None:

            def read(ranges: Sequence[tuple[int, int]]) -> bytes:
                return b"".join(view[start:end] for start, end in ranges)

            found = gathered(places.tobytes(), kind.itemsize, len(view), read)
        if found is None:
            raise FileNotFoundError(f"pull: there is no {path}" + ("" if latest else " at the cut"))
        return np.frombuffer(bytearray(found), kind).reshape(places.shape)

    def stat(self, path: str, latest: bool) -> Stat | None:
        """A file without its bytes; None where there is none."""
        effects = self._by_path.get(path)
        if effects is None:
            return self._cut.stat(path, latest=latest)
        data = self._view(path, latest)
        if data is None:
            return None
        mode = effects[0].mode if isinstance(effects[0], Put) else 0o644
        return Stat(path, 0, self._timestamp, data.nbytes, mode)

    def files(self, glob: str) -> list[str]:
        """The files that match, with those staged and without those staged for removal."""
        found = self._cut.files(glob)
        if not self._by_path:
            return found
        from triggers.pattern import Pattern

        matches = Pattern((glob,)).matches
        deleted = {path for path, last in self._by_path.items() if isinstance(last[-1], Delete)}
        staged = {path for path in self._by_path if path not in deleted and matches(path)}
        return sorted(set(found) - deleted | staged)

    def _view(self, path: str, latest: bool) -> memoryview | None:
        """The bytes of a staged file; None if it is deleted."""
        first, *rest = self._by_path[path]
        data: memoryview | None
        match first:
            case Put() | PutIf():
                data = memoryview(first.data).toreadonly()
            case Delete():
                data = None
            case _:
                content = self._cut.get(path, latest=latest)
                data = None if content is None else self._copies.joined(content.parts)
                rest = [first, *rest]
        for effect in rest:
            data = applied(effect, data)
        return data


def applied(effect: Effect, before: memoryview | None) -> memoryview:
    """A file after an append or an addition."""
    held = memoryview(b"") if before is None else before
    if isinstance(effect, Append):
        return memoryview(bytes(held) + bytes(effect.data))
    assert isinstance(effect, Add)
    added = Sum([effect])
    size = max(len(held), added.size_bytes)
    return memoryview(added.applied([(0, size)], bytes(held).ljust(size, b"\0")))


def addition(path: str, index: Any, delta: Any, dtype: str) -> Add:
    """An addition as a handler or a program says it: from one index on, or each number at its own.

    Raises:
        ValueError: an index is negative, there are more or fewer of them than numbers, or the file is no vector.
        TypeError: an index is no whole number.
    """
    import numpy as np

    if path.endswith(".npy"):
        raise ValueError(f"add: {path} would have a header; a vector is a file of plain numbers")
    if dtype not in DTYPES:
        raise ValueError(f"add: dtype {dtype!r}: write one of {', '.join(DTYPES)}")
    numbers = np.ascontiguousarray(delta, dtype=np.dtype(dtype).newbyteorder("<"))
    places = indices_of(index)
    if places.ndim == 0:
        return Add(path, int(places), numbers.tobytes(), dtype)
    if places.shape != numbers.shape:
        raise ValueError(f"add: {places.size} indices, and {numbers.size} numbers")
    return Add(path, 0, numbers.tobytes(), dtype, places.tobytes())


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
            return to_json(data)
    if hasattr(data, "get") and hasattr(data, "__cuda_array_interface__"):
        data = data.get()  # CuPy: device to host
    if hasattr(data, "__array__"):
        return _array_bytes(path, data)
    if isinstance(data, msgspec.Struct):
        return to_json(data)
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(
            f"put {path}: {type(data).__name__} cannot become a file;"
            " hand over bytes, text, an array, or what JSON knows"
        ) from None


def to_json(data: Any) -> bytes:
    """JSON, NumPy's numbers included; names of files that are no UTF-8 as escaped surrogates."""
    try:
        return msgspec.json.encode(data, enc_hook=_number)
    except UnicodeEncodeError:
        import json

        return json.dumps(msgspec.to_builtins(data, enc_hook=_number)).encode()


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

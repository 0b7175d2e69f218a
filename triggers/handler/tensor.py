"""A tensor over time: versions of arrays along the first axis, read when they are indexed.

    t = store.tensor("cam1/*.npy", since="-10m")
    t[3]                    one frame
    t[10:20, ..., :64]      ten frames, of each the left part; ten versions are read
    numpy.asarray(t)        all of it

The frames are chosen once: what is written later does not change a tensor, also where it tells of an earlier time.

Source: ML face, "Temporal tensor"; Python array API standard, indexing and DLPack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from triggers.handler.blob import array

if TYPE_CHECKING:
    import numpy as np
    import xarray

    from triggers.handler.frames import Frame, Frames

__all__ = ["Axis", "Tensor"]

Axis = Literal["commit", "event"]


class Tensor:
    """See the module. Indexed as a NumPy array of `shape` would be; the result is a new array, the caller's own."""

    def __init__(
        self,
        frames: Frames,
        glob: str,
        since: int | None = None,
        until: int | None = None,
        *,
        axis: Axis = "commit",
        dtype: Any = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        """Choose the frames; nothing is read.

        Args:
            frames: where versions come from.
            glob: which files.
            since: the first time, in microseconds; None: the beginning.
            until: the last one; None: the cut.
            axis: which time counts and orders: when a version was committed, or when what it tells of happened.
            dtype: of the numbers, where files are no `.npy`.
            shape: of a frame, likewise.
        """
        first, last = (since, until) if axis == "commit" else (None, None)
        found = frames.find(glob, first, last)
        if axis == "event":
            low = since if since is not None else -(2**63)
            high = until if until is not None else 2**63
            found = [frame for frame in found if low <= frame.event <= high]
        self.axis = axis
        self.frames: list[Frame] = sorted(found, key=self._order)
        self.opened = 0
        """Versions read so far."""

        self._source = frames
        self._dtype = dtype
        self._shape = shape
        self._first: np.ndarray[Any, Any] | None = None

    def _order(self, frame: Frame) -> tuple[int, int, str, int]:
        time = frame.event if self.axis == "event" else frame.timestamp
        return time, frame.timestamp, frame.path, frame.version

    # --- what it is --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def times(self) -> np.ndarray[Any, Any]:
        """Of each frame, as datetime64[us], UTC."""
        import numpy as np

        return np.array([self._order(frame)[0] for frame in self.frames], "datetime64[us]")

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, ...); reads one frame, once."""
        return (len(self.frames), *self._sample().shape)

    @property
    def ndim(self) -> int:
        """One more than a frame has."""
        return self._sample().ndim + 1

    @property
    def dtype(self) -> Any:
        """Of the numbers, NumPy's."""
        return self._sample().dtype

    def __repr__(self) -> str:
        return f"<Tensor of {len(self.frames)} frames by {self.axis} time>"

    def _sample(self, index: int = 0) -> np.ndarray[Any, Any]:
        if self._first is None:
            if not self.frames:
                raise IndexError("a tensor without frames has no shape: nothing matched")
            self._first = self._read(index)
        return self._first

    def _read(self, index: int) -> np.ndarray[Any, Any]:
        frame = self.frames[index]
        try:
            found = array(self._source.read(frame), self._dtype, self._shape)
        except ValueError as error:
            raise ValueError(f"{frame.path}@v{frame.version}: {error}") from error
        self.opened += 1
        first = self._first
        if first is not None and (found.shape != first.shape or found.dtype != first.dtype):
            raise ValueError(
                f"{frame.path}@v{frame.version}: {found.dtype} of shape {found.shape}, "
                f"and others are {first.dtype} of shape {first.shape}"
            )
        return found

    # --- what is in it -----------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        """The numbers that an index of the whole chooses; of the frames only those are read that it touches."""
        import numpy as np

        keys = key if isinstance(key, tuple) else (key,)
        if any(one is None or (hasattr(one, "dtype") and one.dtype == bool) for one in keys):
            raise IndexError("index with integers, slices, lists of integers and '...'")
        which, rest = self._split(keys)
        chosen = np.arange(len(self.frames))[which]
        if chosen.ndim == 0:
            return np.array(self._part(int(chosen), rest))
        parts = [self._part(int(index), rest) for index in chosen]
        if not parts:
            sample = self._sample()[rest]
            return np.empty((0, *sample.shape), sample.dtype)
        result = np.empty((len(parts), *parts[0].shape), parts[0].dtype)
        for index, part in enumerate(parts):
            result[index] = part
        return result

    def _split(self, keys: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """What chooses frames, and what is chosen of each."""
        if keys[0] is not Ellipsis:
            return keys[0], keys[1:]
        rest = keys[1:]
        if len(rest) >= self.ndim:
            return rest[0], rest[1:]
        return slice(None), keys

    def _part(self, index: int, rest: tuple[Any, ...]) -> Any:
        if self._first is None:
            return self._sample(index)[rest]
        return self._read(index)[rest]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """All of it (NumPy)."""
        if copy is False:
            raise ValueError("versions lie apart: one array of all of them is a copy")
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __dlpack__(self, **wishes: Any) -> Any:
        """All of it (DLPack), in main memory."""
        return self[:].__dlpack__(**wishes)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Main memory."""
        return (1, 0)

    def to_xarray(self, *dims: str) -> xarray.DataArray:
        """All of it as xarray's, with coordinates time, path and version along the first dimension.

        `dims` name the dimensions of a frame; those not named are dim_1, dim_2 ...
        """
        import xarray

        more = [f"dim_{number}" for number in range(len(dims) + 1, self.ndim)]
        return xarray.DataArray(
            self[:],
            dims=("time", *dims, *more),
            coords={
                "time": self.times,
                "path": ("time", [frame.path for frame in self.frames]),
                "version": ("time", [frame.version for frame in self.frames]),
            },
        )

"""A table over versions: a row for each, with what is in it as columns, as Arrow; or a question in SQL.

    store.table("daily/fat/128.json", since="-10d")
    store.sql("select avg(json_value) from ...", "daily/**")

`versions` is what a question is asked of: path, version, time, event, size of each version. Bytes are fetched by the functions
`text_of(path, version)` and `bytes_of(path, version)`, for the rows only that the question leaves: so what names a path or a
time opens nothing else.

Source: ML face, "LINQ query over versions".
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from triggers.handler.frames import Frame, Frames

__all__ = ["Table", "sql", "table"]

PLAIN = {"path", "version", "time", "event", "size"}


class Table:
    """An answer: `arrow` the rows; `scanned` versions looked at, `opened` versions read for it."""

    def __init__(self, arrow: pa.Table, scanned: int, opened: int) -> None:
        self.arrow = arrow
        self.scanned = scanned
        self.opened = opened

    def to_pandas(self) -> Any:
        """The rows as a pandas DataFrame."""
        return self.arrow.to_pandas()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Arrow's own hand-over: Polars, DuckDB and pandas take a table as it is."""
        return self.arrow.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return int(self.arrow.num_rows)


def table(frames: Frames, glob: str, since: int | None = None, until: int | None = None) -> Table:
    """Every version with what is in it: JSON, CSV and Parquet by the name's ending, in rows and columns.

    A JSON object is a row, an array of objects are several; of other files there is one row without columns of its own.

    Raises:
        ValueError: a file is not what its name says; the message names the version.
    """
    import pyarrow as pa

    found = frames.find(glob, since, until)
    pieces = []
    opened = 0
    for frame in found:
        kind = frame.path.rpartition(".")[2].lower()
        if kind not in _DECODERS:
            pieces.append(_plain([frame]))
            continue
        try:
            inner = _DECODERS[kind](frames.read(frame))
        except (ValueError, msgspec.DecodeError, pa.ArrowException) as error:
            raise ValueError(f"{frame.path}@v{frame.version}: {error}") from error
        opened += 1
        rows = _plain([frame] * inner.num_rows)
        for name, column in zip(inner.column_names, inner.columns, strict=True):
            rows = rows.append_column(f"{name}_" if name in PLAIN else name, column)
        pieces.append(rows)
    arrow = pa.concat_tables(pieces, promote_options="permissive") if pieces else _plain([])
    return Table(arrow, len(found), opened)


def sql(
    frames: Frames,
    query: str,
    glob: str,
    since: int | None = None,
    until: int | None = None,
    **parameters: Any,
) -> Table:
    """Ask `query` of `versions`; `$name` in it is a parameter. Runs in this process, by DuckDB.

    Raises:
        duckdb.Error: the question makes no sense, or a version could not be read.
    """
    import duckdb
    import pyarrow as pa
    from duckdb.func import FunctionNullHandling, PythonUDFType

    found = frames.find(glob, since, until)
    by_name = {(frame.path, frame.version): frame for frame in found}
    opened = 0

    # DuckDB looks at the annotations of its functions, and would want pyarrow in them at run time.
    def contents(paths: Any, numbers: Any) -> Iterator[memoryview | None]:
        nonlocal opened
        for path, number in zip(paths.to_pylist(), numbers.to_pylist(), strict=True):
            frame = by_name.get((path, number))
            opened += frame is not None
            yield None if frame is None else frames.read(frame)

    def content(paths: Any, numbers: Any) -> Any:
        return pa.array(
            [None if one is None else bytes(one) for one in contents(paths, numbers)], pa.binary()
        )

    def text(paths: Any, numbers: Any) -> Any:
        return pa.array(
            [None if one is None else str(one, "utf-8") for one in contents(paths, numbers)],
            pa.string(),
        )

    with duckdb.connect(config={"threads": 1, "autoinstall_known_extensions": False}) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("versions", _plain(found))
        for name, function, kind in (("bytes_of", content, "BLOB"), ("text_of", text, "VARCHAR")):
            connection.create_function(
                name,
                function,
                ["VARCHAR", "BIGINT"],
                kind,
                type=PythonUDFType.ARROW,
                null_handling=FunctionNullHandling.SPECIAL,
            )
        answer = connection.sql(query, params=parameters or None).to_arrow_table()
    return Table(answer, len(found), opened)


def _plain(frames: Sequence[Frame]) -> pa.Table:
    """What is known of versions without reading them."""
    import pyarrow as pa

    stamp = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "path": pa.array([frame.path for frame in frames], pa.string()),
            "version": pa.array([frame.version for frame in frames], pa.int64()),
            "time": pa.array([frame.timestamp for frame in frames], stamp),
            "event": pa.array([frame.event for frame in frames], stamp),
            "size": pa.array([frame.size for frame in frames], pa.int64()),
        }
    )


def _json(data: memoryview) -> pa.Table:
    import pyarrow as pa

    value = msgspec.json.decode(data)
    rows = value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        rows = [{"value": row} for row in rows]
    if not rows:
        return pa.table({})
    return pa.Table.from_struct_array(pa.array(rows))  # of all rows, not of the first alone


def _csv(data: memoryview) -> pa.Table:
    import pyarrow.csv

    return pyarrow.csv.read_csv(io.BytesIO(data))


def _parquet(data: memoryview) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet

    return pyarrow.parquet.read_table(pa.BufferReader(data))


_DECODERS = {"json": _json, "csv": _csv, "parquet": _parquet}

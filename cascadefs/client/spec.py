"""fsspec: `cascade://POOL/path`, so that pandas, pyarrow, DuckDB, Polars, zarr, xarray and Dask read and write the store.

    pandas.read_csv("cascade://lab/runs/7.csv@v12")
    pandas.read_csv("cascade://lab/runs/7.csv?at=2026-11-21T10:00")
    xarray.open_zarr("cascade://lab/field.zarr", storage_options={"at": "2026-11-21T10:00"})

POOL names a store: by the storage option `where` (see `cascadefs.connect`), else by a line ``NAME = "WHERE"`` in pools.toml of
the user's configuration (``$XDG_CONFIG_HOME/cascadefs``). Names with "@" mean the past as they do on a mount, and the option
`at` makes all that is read what it was at one instant; so does ``?at=`` behind a path, which is ``lab/.@t=INSTANT/...`` otherwise spelled.
An instant like "-10m" is one before each request, as on a mount; who wants a pin names one (`client(path).now()`). A file that is being read stays the
version it was when it was opened, whatever is written meanwhile, also when it is sent to another process. What is written becomes a version when it is closed.

A file system can be sent to other processes, and goes on in children of fork(2): each has a connection of its own.

Sources: fsspec, "Developing with fsspec"; SEMANTICS 2, 13.
"""

from __future__ import annotations

import datetime
import errno
import threading
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

import cascadefs
from cascadefs.client.place import resolve
from cascadefs.client.pools import check_there, pools, where_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascadefs.client import Client, Entry, Version, calls
    from cascadefs.client.client import Instant
    from cascadefs.client.place import Place

__all__ = ["CascadeFileSystem"]

BLOCK_BYTES = 4 * 1024 * 1024
"""Read at a time by default: a round trip costs less than a millisecond, a megabyte about one."""


class CascadeFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """See the module."""

    protocol = ("cascade",)
    root_marker = ""

    def __init__(self, where: str | None = None, at: Instant | None = None, **options: Any) -> None:
        """A store; connected to when it is first asked.

        Args:
            where: a mountpoint, a data directory or a cluster; None: as pools.toml says.
            at: the instant everything is read at; None: now.
            options: fsspec's own.
        """
        super().__init__(**options)
        self._where = where
        self._at = at
        self._connecting = threading.Lock()
        self._clients: dict[str, Client] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        path = str(super()._strip_protocol(path)).strip("/")
        # In the path, not in the options: so one file system reads any instants, and names that it gives back keep theirs.
        # Libraries put more names behind it.
        plain, asked, rest = path.partition("?at=")
        if not asked:
            return path
        pool, _, above = plain.partition("/")
        instant, _, below = rest.partition("/")
        names = (pool, f".@t={instant}", above.strip("/"), below)
        return "/".join(name for name in names if name)

    # --- where -------------------------------------------------------------------------------------------------------

    def client(self, path: str = "") -> Client:
        """The store of a path's pool."""
        where = self._where or where_of(path.partition("/")[0])
        with self._connecting:
            if where not in self._clients:
                check_there(where)
                self._clients[where] = cascadefs.connect(where)
            return self._clients[where]

    def close(self) -> None:
        """Hang up; the next call connects again."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    # --- reading -----------------------------------------------------------------------------------------------------

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """See fsspec; with `version` and `timestamp`."""
        path = self._strip_protocol(path)
        if "/" not in path:
            return {"name": path, "size": 0, "type": "directory"}
        place = resolve(self.client(path), path, self._at)
        entry = self.client(path).stat(place.path, version=place.version, at=place.at)
        return _details(path, entry)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """See fsspec. Names go on from the path as it was spelled."""
        path = self._strip_protocol(path)
        if not path:
            names = sorted(pools())
            return [self.info(name) for name in names] if detail else names
        place = resolve(self.client(path), path, self._at)
        client = self.client(path)
        try:
            entries: Sequence[Entry] = client.list(place.path, at=place.at)
        except NotADirectoryError:
            return [self.info(path)] if detail else [path]
        found = [_details(f"{path}/{entry.name}", entry) for entry in entries]
        return found if detail else [one["name"] for one in found]

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        """See fsspec."""
        path = self._strip_protocol(path)
        place = resolve(self.client(path), path, self._at)
        client = self.client(path)
        if (start or 0) < 0 or (end is not None and end < 0):
            size = client.stat(place.path, version=place.version, at=place.at).size
            start, end, _ = slice(start, end).indices(size)
        return client.get(
            place.path,
            version=place.version,
            at=place.at,
            offset=start or 0,
            length=None if end is None else max(end - (start or 0), 0),
        )

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **options: Any,
    ) -> list[Any]:
        """See fsspec; many ranges with one request."""
        starts = starts if isinstance(starts, list) else [starts] * len(paths)
        ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(paths) == len(starts) == len(ends):
            raise ValueError(f"{len(paths)} paths, {len(starts)} starts, {len(ends)} ends")
        found: list[Any] = []
        gets: dict[Client, list[tuple[int, calls.Get]]] = {}
        places: dict[str, Place | OSError] = {}
        for number, (path, start, end) in enumerate(zip(paths, starts, ends, strict=True)):
            found.append(None)
            path = self._strip_protocol(path)
            place = places[path] = places.get(path) or self._place_or_why(path)
            if isinstance(place, OSError):
                found[number] = place
            elif (start or 0) < 0 or (end or 0) < 0:
                found[number] = self._cat_or_why(path, start, end)
            else:
                client = self.client(path)
                get = client.span(place.path, place.version, place.at, start or 0, end)
                gets.setdefault(client, []).append((number, get))
        for client, asked in gets.items():
            answers = client.get_each([get for _, get in asked])
            for (number, _), answer in zip(asked, answers, strict=True):
                found[number] = answer
        for one in found:
            if isinstance(one, OSError) and on_error == "raise":
                raise one
        return found

    def cat(
        self,
        path: str | list[str],
        recursive: bool = False,
        on_error: str = "raise",
        **options: Any,
    ) -> Any:
        """See fsspec; many files with one request."""
        paths = self.expand_path(path, recursive=recursive)
        if isinstance(path, str) and paths == [self._strip_protocol(path)]:
            return self.cat_file(paths[0], **options)
        found = dict(zip(paths, self.cat_ranges(paths, None, None, on_error="return"), strict=True))
        for one in found.values():
            if isinstance(one, OSError) and on_error == "raise":
                raise one
        return {
            name: one
            for name, one in found.items()
            if on_error != "omit" or not isinstance(one, OSError)
        }

    def _place_or_why(self, path: str) -> Place | OSError:
        try:
            return resolve(self.client(path), path, self._at)
        except OSError as error:
            return error

    def _cat_or_why(self, path: str, start: int | None, end: int | None) -> bytes | OSError:
        try:
            return self.cat_file(path, start, end)
        except OSError as error:
            return error

    def du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **options: Any,
    ) -> Any:
        """See fsspec; of history nothing (`cascadefs du --history`). A request for each directory, none for each file."""
        found = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **options)
        sizes = {name: one["size"] for name, one in found.items()}
        return sum(sizes.values()) if total else sizes

    def modified(self, path: str) -> datetime.datetime:
        """When the version was committed."""
        return datetime.datetime.fromtimestamp(self.info(path)["timestamp"] / 1e6, datetime.UTC)

    def ukey(self, path: str) -> str:
        """What never means other bytes: the path and the version."""
        info = self.info(path)
        return f"{info['name']}@v{info.get('version', 0)}"

    def versions(self, path: str) -> Sequence[Version]:
        """All versions of a path, oldest first."""
        path = self._strip_protocol(path)
        return self.client(path).versions(resolve(self.client(path), path, self._at).path)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> _File:
        return _File(
            self,
            path,
            mode,
            block_size or BLOCK_BYTES,
            autocommit=autocommit,
            cache_options=cache_options,
            **options,
        )

    # --- writing -----------------------------------------------------------------------------------------------------

    def _writable(self, path: str) -> tuple[Client, str]:
        """The client and the path in the store, of something that is to be changed.

        Raises:
            OSError: EROFS of what is in the past.
        """
        path = self._strip_protocol(path)
        place = resolve(self.client(path), path, self._at)
        if place.version is not None or place.at is not None:
            raise OSError(errno.EROFS, f"{path}: the past cannot be changed")
        return self.client(path), place.path

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """See fsspec; mode "create" fails where there is something."""
        client, inside = self._writable(path)
        try:
            client.put(inside, value, expect=0 if mode == "create" else None)
        except cascadefs.Conflict:
            raise FileExistsError(errno.EEXIST, f"{path}: exists") from None

    def rm_file(self, path: str) -> None:
        """See fsspec; its history stays."""
        client, inside = self._writable(path)
        if not client.delete(inside):
            raise FileNotFoundError(errno.ENOENT, f"{path}: no such file")

    _rm = rm_file

    def rm(
        self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None
    ) -> None:
        """See fsspec. All goes at one instant."""
        batches: dict[int, tuple[Client, cascadefs.Batch]] = {}
        # The deepest first: a directory goes when it is empty.
        paths = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        for one in sorted(paths, key=lambda path: (-path.count("/"), path)):
            client, inside = self._writable(one)
            batch = batches.setdefault(id(client), (client, cascadefs.Batch()))[1]
            if not self.isdir(one):
                batch.delete(inside)
            elif recursive:
                batch.rmdir(inside)
        for client, batch in batches.values():
            client.commit(batch)

    def rmdir(self, path: str) -> None:
        """See fsspec."""
        client, inside = self._writable(path)
        client.rmdir(inside)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """See fsspec."""
        if self.isdir(path1):
            return
        self.pipe_file(path2, self.cat_file(path1))

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """Nothing: a directory comes to be with what is put into it."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing: as `mkdir`."""


class _File(AbstractBufferedFile):  # type: ignore[misc]
    """A file: one version, read in blocks; or a version in the making, held until it is closed."""

    def __init__(
        self, fs: CascadeFileSystem, path: str, mode: str, *args: Any, **options: Any
    ) -> None:
        path = fs._strip_protocol(path)
        self._place = resolve(fs.client(path), path, fs._at)
        if options.get("version"):
            self._place = self._place._replace(version=options["version"], at=None)
        self._client = fs.client(path)
        self._parts: list[bytes] = []
        if mode == "rb":
            place = self._place
            entry = self._client.stat(place.path, version=place.version, at=place.at)
            if entry.is_directory:
                raise IsADirectoryError(errno.EISDIR, f"{path}: is a directory")
            # From here on it is this version, by its number: that does not change. So it is for who gets this file sent.
            self._place = place._replace(version=entry.version or None, at=None)
            options["version"] = self._place.version
            options["size"] = entry.size
        else:
            fs._writable(path)
        super().__init__(fs, path, mode, *args, **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        if end <= start or not self.size:
            return b""
        return self._client.get(
            self._place.path, version=self._place.version, offset=start, length=end - start
        )

    def _initiate_upload(self) -> None:
        self._parts = []

    def _upload_chunk(self, final: bool = False) -> bool:
        self._parts.append(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """What was written becomes a version."""
        data = b"".join(self._parts)
        if self.mode == "ab":
            self._client.append(self._place.path, data)
        elif self.mode == "xb":
            try:
                self._client.put(self._place.path, data, expect=0)
            except cascadefs.Conflict:
                raise FileExistsError(errno.EEXIST, f"{self.path}: exists") from None
        else:
            self._client.put(self._place.path, data)
        self._parts = []

    def discard(self) -> None:
        """What was written is forgotten."""
        self._parts = []


def _details(path: str, entry: Entry) -> dict[str, Any]:
    return {
        "name": path,
        "size": 0 if entry.is_directory else entry.size,
        "type": "directory" if entry.is_directory else "file",
        "mode": entry.mode,
        "version": entry.version,
        "timestamp": entry.timestamp,
        "mtime": entry.timestamp / 1e6,
        "created": entry.timestamp / 1e6,
    }

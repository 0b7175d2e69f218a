"""A cut that is a dictionary: the dumb twin of the store for tests of runners. It notes what was read."""

from __future__ import annotations

import fnmatch

from triggers.run import Content, Event, Frame, Stat, check_whole


class DictCut:
    """Files by path, each a list of versions (bytes or None for a deletion), version n committed at timestamp n."""

    def __init__(self, files: dict[str, list[bytes | None]], timestamp: int = 1 << 60) -> None:
        self.files_ = files
        self.timestamp = timestamp
        self.reads: list[tuple[str, str]] = []
        self.forbidden: set[str] = set()

    def event(self, path: str, version: int = 1, **fields) -> Event:
        data = self.files_[path][version - 1]
        size = len(data or b"")
        event = Event(f"{path}@v{version}", path, path, version, version, size=size)
        return Event(**{**{f: getattr(event, f) for f in Event.__struct_fields__}, **fields})

    def content(self, path: str, version: int, span: tuple[int, int] | None) -> Content | None:
        data = self.files_[path][version - 1]
        if data is None:
            return None
        identity = (hash(path) & 0xFFFF_FFFF, version)
        if span is None:
            check_whole(path, version, len(data))
        parts = [memoryview(data).toreadonly()[slice(*span or (None,))]]
        return Content(path, version, version, len(data), parts, identity)

    def event_content(self, event: Event, *, span=None) -> Content | None:
        return None if event.kind == "delete" else self.content(event.path, event.version, span)

    def get(self, path: str, *, latest: bool = False, span=None) -> Content | None:
        self.reads.append(("latest" if latest else "get", path))
        if path in self.forbidden:
            raise PermissionError(f"{path}: not for this user")
        if path.endswith("/"):
            raise IsADirectoryError(f"{path} is a directory")
        versions = self.files_.get(path, [])
        last = len(versions) if latest else min(len(versions), self.timestamp)
        return self.content(path, last, span) if last else None

    def pull(self, path: str, indices: bytes, item_bytes: int, *, latest: bool = False):
        content = self.get(path, latest=latest)
        if content is None:
            return None
        data = bytes(content.parts[0])
        places = [
            int.from_bytes(indices[at : at + 8], "little") for at in range(0, len(indices), 8)
        ]
        found = b"".join(
            data[one * item_bytes : (one + 1) * item_bytes].ljust(item_bytes, b"\0")
            for one in places
        )
        return Content(
            path,
            content.version,
            content.timestamp,
            len(data),
            [memoryview(found)],
            content.identity,
        )

    def version(self, path: str, number: int, *, span=None) -> Content | None:
        versions = self.files_.get(path, [])
        there = 0 < number <= min(len(versions), self.timestamp)
        return self.content(path, number, span) if there else None

    def stat(self, path: str, *, latest: bool = False) -> Stat | None:
        found = self.get(path, latest=latest)
        if found is None:
            return None
        return Stat(path, found.version, found.timestamp, found.size, 0o644)

    def files(self, glob: str) -> list[str]:
        return sorted(p for p in self.files_ if fnmatch.fnmatch(p, glob) and self.get(p))

    def scan(self, glob, since, until, after, limit) -> list[Frame]:
        found = [
            Frame(stat.path, stat.version, stat.timestamp, stat.timestamp, stat.size)
            for path in self.files(glob)
            for stat in self.history(path, since=since, until=until)
        ]
        return [frame for frame in found if frame[:2] > after][:limit]

    def history(self, path, *, since=None, until=None, limit=None) -> list[Stat]:
        found = [
            Stat(path, n, n, len(data), 0o644)
            for n, data in enumerate(self.files_.get(path, []), 1)
            if data is not None and n <= self.timestamp and (since or 0) <= n <= (until or 1 << 60)
        ]
        return found[-limit:] if limit else found

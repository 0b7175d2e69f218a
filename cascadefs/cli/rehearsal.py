"""A rehearsal: a new script meets events that happened, and what it would write is held against what was written then.

Everything is read from the mount, by virtual paths: an event's bytes are `path@vN`, the cut is the tree of the root's
``.cascade/at/``. Nothing is written. What a run wrote then is found by what its versions say of themselves
(``user.cascade.from``).

Source: docs/TRIGGERS.md 14.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from cascadefs.cli.base import mount_of, provenance
from cascadefs.cli.complaint import Complaint
from triggers.binding import BadBinding, Binding, validate
from triggers.pattern import Pattern
from triggers.run import (
    Content,
    Event,
    Failed,
    Frame,
    LoadFailed,
    Put,
    PutIf,
    Run,
    Script,
    Stat,
    check_whole,
    timestamp_text,
)
from triggers.runner.inproc import InprocRunner
from triggers.testing import ManualClock
from triggers.vector import gathered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from triggers.run import Buffer, Done, Span

__all__ = ["Line", "rehearse"]

VERSIONS_LOOKED_AT = 1000
"""Of an output, newest first, for the one that a run wrote then."""


class Line(NamedTuple):
    """What became of one output of one event, or of the run."""

    event: str
    said: str
    is_same: bool


class MountCut:
    """A `triggers.run.Cut` by way of a mount, for one run, with the rights of whoever asks."""

    def __init__(self, base: Path, timestamp: int) -> None:
        root = mount_of(base)
        self._now = base
        self._then = root / ".cascade/at" / timestamp_text(timestamp) / base.relative_to(root)
        self._timestamp = timestamp

    def event_content(self, event: Event, *, span: Span | None = None) -> Content | None:
        """See `triggers.run.Cut`."""
        if event.kind == "delete":
            return None
        return self._content(event.path, f"@v{event.version}", None, span)

    def get(self, path: str, *, latest: bool = False, span: Span | None = None) -> Content | None:
        """See `triggers.run.Cut`."""
        return self._content(path, "", self._now if latest else self._then, span)

    def version(self, path: str, number: int, *, span: Span | None = None) -> Content | None:
        """See `triggers.run.Cut`."""
        found = self._content(path, f"@v{number}", None, span)
        return found if found is not None and found.timestamp <= self._timestamp else None

    def pull(
        self, path: str, indices: Buffer, item_bytes: int, *, latest: bool = False
    ) -> Content | None:
        """See `triggers.run.Cut`."""
        content = self.get(path, latest=latest)
        if content is None:
            return None
        data = content.parts[0]

        def read(ranges: Sequence[tuple[int, int]]) -> bytes:
            return b"".join(data[start:end] for start, end in ranges)

        numbers = gathered(indices, item_bytes, content.size, read)
        content.parts = [memoryview(numbers)]
        return content

    def stat(self, path: str, *, latest: bool = False) -> Stat | None:
        """See `triggers.run.Cut`."""
        return self._stat(path, (self._now if latest else self._then) / path)

    def files(self, glob: str) -> list[str]:
        """See `triggers.run.Cut`."""
        pattern = Pattern((glob,))
        found = []
        for directory, _, names in os.walk(self._then):
            for name in names:
                path = os.path.relpath(os.path.join(directory, name), self._then)
                if pattern.matches(path):
                    found.append(path)
        return sorted(found)

    def history(
        self,
        path: str,
        *,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> list[Stat]:
        """See `triggers.run.Cut`."""
        end = self._timestamp if until is None else min(until, self._timestamp)
        versions = (self._stat(path, one) for one in versions_of(self._now / path))
        found = [
            stat for stat in versions if stat is not None and (since or 0) <= stat.timestamp <= end
        ]
        return (found if limit is None else found[:limit])[::-1]

    def scan(
        self, glob: str, since: int | None, until: int | None, after: tuple[str, int], limit: int
    ) -> list[Frame]:
        """See `triggers.run.Cut`."""
        found = [
            self._frame(stat)
            for path in self.files(glob)
            if path >= after[0]
            for stat in self.history(path, since=since, until=until)
            if (path, stat.version) > after
        ]
        return found[:limit]

    def _frame(self, stat: Stat) -> Frame:
        event = _instant_us(self._now / f"{stat.path}@v{stat.version}", "event_time")
        return Frame(stat.path, stat.version, stat.timestamp, event, stat.size)

    def _content(
        self, path: str, suffix: str, top: Path | None, span: Span | None
    ) -> Content | None:
        where = (top or self._now) / f"{path}{suffix}"
        try:
            with where.open("rb") as file:
                stat = self._stat(path, where)
                assert stat is not None, "it is open"
                if span is None:
                    check_whole(path, stat.version, stat.size)
                first, end = span or (0, stat.size)
                file.seek(first)
                data = file.read(max(end - first, 0))
        except (FileNotFoundError, NotADirectoryError):
            return None
        identity = (where.stat().st_ino, stat.timestamp)
        return Content(path, stat.version, stat.timestamp, stat.size, [memoryview(data)], identity)

    def _stat(self, path: str, where: Path) -> Stat | None:
        try:
            found = where.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        mode = found.st_mode & 0o7777
        if where.is_dir():
            return Stat(path, 0, 0, 0, mode, is_directory=True)
        version = int(os.getxattr(where, "user.cascade.version"))
        return Stat(path, version, _instant_us(where, "commit_time"), found.st_size, mode)


def _instant_us(where: Path, name: str) -> int:
    text = os.getxattr(where, f"user.cascade.{name}").decode()
    return round(datetime.fromisoformat(text).timestamp() * 1e6)


def versions_of(path: Path) -> Iterator[Path]:
    """The versions of a name, newest first."""
    try:
        head = int(os.getxattr(path, "user.cascade.head"))
    except OSError:
        return
    for number in range(head, max(0, head - VERSIONS_LOOKED_AT), -1):
        yield path.with_name(f"{path.name}@v{number}")


def rehearse(script: Path, base: Path, lines: list[dict[str, Any]]) -> Iterator[Line]:
    """Run a script for events that happened below a directory.

    Args:
        script: a Python module; a `lib/` beside it can be imported.
        base: the directory that holds ``.cascade``, absolute.
        lines: of its ``events``; those of bindings with a handler of the same name count.

    Raises:
        Complaint: the script does not load, or none of the lines is an event for it.
    """
    code = _read(script)
    clock = ManualClock()
    runner = InprocRunner(clock.now_ns, clock.now_ns)
    try:
        tables = trio.run(runner.load, code)
        bindings = {table["handler"]: _binding(table, code.name) for table in tables}
    except (LoadFailed, BadBinding) as error:
        raise Complaint(f"{script}: {error}") from error
    wanted = [
        (line, bindings[handler])
        for line in lines
        if line.get("event") == "event"
        and (handler := line["binding"].partition(":")[2]) in bindings
    ]
    if not wanted:
        raise Complaint(f"{script}: none of these events is for {', '.join(map(str, bindings))}")
    for line, binding in wanted:
        yield from _rehearsed(runner, code, base, binding, line)


def _binding(table: dict[str, object], script: str) -> Binding:
    rest = {key: value for key, value in table.items() if key != "handler"}
    return validate(rest, script=script, handler=str(table["handler"]))


def _read(script: Path) -> Script:
    lib = script.parent / "lib"
    paths = [path for path in (sorted(lib.rglob("*")) if lib.is_dir() else []) if path.is_file()]
    try:
        files = {
            path.relative_to(script.parent).as_posix(): path.read_bytes()
            for path in [script, *paths]
            if "__pycache__" not in path.parts
        }
    except OSError as error:
        raise Complaint(f"{error.filename}: {error.strerror}") from error
    return Script("rehearsal", "", script.name, "module", files, os.getuid(), os.getgid())


def _rehearsed(
    runner: InprocRunner, code: Script, base: Path, binding: Binding, line: dict[str, Any]
) -> Iterator[Line]:
    event = _event(binding, line)
    name = f"{event.path}@v{event.version}"
    run = Run(
        event.id, code, binding.handler, binding.name, [event], event.timestamp,
        binding.batch > 1, binding.timeout_ms, emit=binding.emit, runtime=binding.runtime,
    )  # fmt: skip
    result = trio.run(runner.run, run, MountCut(base, event.timestamp))
    if isinstance(result, Failed):
        yield Line(name, f"failed: {result.message}", is_same=False)
        return
    told = False
    for path, data in _written(result):
        then = _then(base / path, name)
        said = "is new" if then is None else "same" if then == data else _difference(then, data)
        yield Line(name, f"{path}: {said}", is_same=said == "same")
        told = True
    if not told:
        yield Line(name, "nothing is written whole", is_same=True)


def _event(binding: Binding, line: dict[str, Any]) -> Event:
    path, place = line["path"], line["id"].rpartition("/")[2]
    timestamp, _, ordinal = place.partition(".")
    pattern = Pattern(binding.watch)
    groups = pattern.groups(path) if pattern.group_names and pattern.matches(path) else {}
    return Event(
        line["id"], path, path, line["version"], int(timestamp), line["kind"],
        groups=groups, root=line["id"], position=(int(timestamp), int(ordinal)),
    )  # fmt: skip


def _written(result: Done) -> Iterator[tuple[str, bytes]]:
    """What is put whole: what `append` and `add` make depends on what is there."""
    for effect in result.effects:
        if isinstance(effect, Put | PutIf):
            yield effect.path, bytes(effect.data)


def _then(path: Path, trigger: str) -> bytes | None:
    """What a run of the same event wrote there; None if none did."""
    for version in versions_of(path):
        known = provenance(version)
        if known is not None and trigger in known["triggers"]:
            return version.read_bytes()
    return None


def _difference(then: bytes, now: bytes) -> str:
    at = next((at for at, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), None)
    first = min(len(then), len(now)) if at is None else at
    return f"differs from byte {first} on; {len(now)} bytes, were {len(then)}"

"""What the calls of a program do: asked of a store, with the rights of one user.

Reads of the past and of one instant are those of a trigger's cut, writes those of a trigger's effects: the same rights,
the same refusals, one record. Whoever executes holds the store; nothing here waits.

Sources: SEMANTICS 4 (access then and now), 6 (conditions), "Programs".
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from cascadefs.client import calls
from cascadefs.client.reading import BYTES_MAX, Reading
from cascadefs.client.watching import Watching
from cascadefs.client.writing import Writing
from cascadefs.errnos import ERRNO, errno_of
from storage.errors import NotHere, Refused
from triggers.cut import parts_of
from triggers.effects import EffectRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from storage import record
    from storage.clock import Clock
    from storage.store import Store
    from triggers.access import Identity
    from triggers.run import Buffer

__all__ = ["Operations", "apart", "together"]

TOGETHER_MAX = 64
TOGETHER_BYTES_MAX = 64 * 1024
"""Of puts that share a record. Who reads one of them first verifies the bytes of all, and they leave the log together."""


class Operations:
    """See the module. For one user; made anew for each connection."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        who: Identity,
        reserved: Callable[[int, bytes], bool] = lambda _directory, _name: False,
        applied: Callable[[Sequence[record.Part]], None] = lambda _parts: None,
    ) -> None:
        """`reserved`: whether a name in a directory would be taken for history; `applied` is told what was changed."""
        self._store = store
        self._reading = reading = Reading(store, who)
        self._writing = Writing(store, clock, who, reading, reserved, applied)
        self._watching = Watching(store, who)

    def execute(
        self, call: calls.Call, buffers: Sequence[Buffer]
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        """Do what is asked. Buffers of a write are not kept; those of an answer are read-only and may be.

        Never raises for what was asked or for the world: that is a `Failed`.
        """
        try:
            return self._execute(call, buffers)
        except Exception as error:
            return _failed(error), ()

    def _write_each(self, call: calls.WriteEach, buffers: list[Buffer]) -> calls.Answer:
        results: list[calls.Written | calls.Failed | None] = []
        for one, data in apart(call, buffers):
            answer, _ = self.execute(one, data)
            assert isinstance(answer, calls.Written | calls.Failed)
            results.append(answer)
        return calls.WrittenEach(results)

    def _get_each(self, call: calls.GetEach) -> tuple[calls.Answer, Sequence[Buffer]]:
        """As many as one answer holds, and one in any case."""
        results: list[tuple[calls.Got | calls.Failed, int]] = []
        buffers: list[Buffer] = []
        room = BYTES_MAX
        for one in call.gets:
            answer, found = self.execute(one, ())
            assert isinstance(answer, calls.Got | calls.Failed)
            size = sum(len(buffer) for buffer in found)
            if results and size > room:
                break
            room -= size
            results.append((answer, len(found)))
            buffers.extend(found)
        return calls.GotEach(results), buffers

    def repeated(self, call: calls.Write) -> calls.Answer | None:
        """What became of a write that was done already; None if it was not."""
        try:
            return self._writing.repeated(call)
        except Exception as error:
            return _failed(error)

    def begin(
        self,
        call: calls.Write,
        buffers: Sequence[Buffer],
        done: Callable[[calls.Answer | None], None],
    ) -> None:
        """Have a write done and go on; `done` is told the answer, with the store held, perhaps before this returns.

        None: others came first; begin again. Buffers must not change before then. `done` must not raise.
        """

        def tell(answer: calls.Answer | Exception | None) -> None:
            done(_failed(answer) if isinstance(answer, Exception) else answer)

        try:
            self._writing.begin(call, list(buffers), tell)
        except Exception as error:
            tell(error)

    def begin_together(
        self,
        writes: Sequence[tuple[calls.Write, list[Buffer]]],
        done: Callable[[Sequence[calls.Written | calls.Failed] | None], None],
    ) -> bool:
        """Have writes that may share a record (`together`) done as one, and go on; False: each is to be begun alone.

        `done` is told the answers, as of `begin`; None: nothing was done, each is to be begun alone.
        """

        def tell(answers: Sequence[calls.Written] | Exception | None) -> None:
            if isinstance(answers, Exception):
                done([_failed(answers)] * len(writes))
            else:
                done(answers)

        try:
            return self._writing.begin_together(writes, tell)
        except (EffectRefused, Refused, OSError, ValueError):
            return False  # Which of them is refused, and why, is told when it is begun alone.

    def shard_of(self, path: str) -> int | None:
        """Where a file at a path would be, as far as that is known before missing directories are made; None: nowhere here."""
        try:
            return self._writing.shard_of(path)
        except (OSError, ValueError):
            return None

    def base_of(self, path: str) -> int:
        """The directory at a path.

        Raises:
            OSError: there is none, or the user may not go there.
            ValueError: it is no path.
        """
        self._reading.refresh(path)
        return self._reading.directory(parts_of(path) if path else [], None, path)[0]

    def _execute(
        self, call: calls.Call, buffers: Sequence[Buffer]
    ) -> tuple[calls.Answer, Sequence[Buffer]]:
        match call:
            case calls.Order():
                raise OSError(errno.EOPNOTSUPP, "here .cascade/ctl and status are for that")
            case calls.Send():
                raise OSError(errno.EOPNOTSUPP, "nothing is sent ahead to a store in this process")
            case calls.Get():
                return self._reading.get(call)
            case calls.Pull():
                return self._reading.pull(call, buffers)
            case calls.GetEach():
                return self._get_each(call)
            case calls.Write():
                return self._writing.write(call, list(buffers)), ()
            case calls.WriteEach():
                return self._write_each(call, list(buffers)), ()
            case calls.List():
                return self._reading.list(call), ()
            case calls.Match():
                return self._reading.match(call), ()
            case calls.Stat():
                return calls.Listed([self._reading.stat(call)], more=False), ()
            case calls.Versions():
                return self._reading.versions(call), ()
            case calls.Scan():
                return self._reading.scan(call), ()
            case calls.Watch():
                return self._watching.watch(call), ()
            case calls.Why():
                return self._reading.why(call), ()
            case calls.Instant():
                return calls.Now(self._store.now()), ()


_ERRNO_OF_KIND = {
    FileNotFoundError: errno.ENOENT,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    PermissionError: errno.EACCES,
}
"""Errors raised with a message alone carry no number."""


def _failed(error: Exception) -> calls.Failed:
    """What was refused, or failed, as an answer."""
    match error:
        case EffectRefused(reason=reason) | Refused(reason=reason):
            return calls.Failed(ERRNO[reason], str(error))
        case NotHere():
            return calls.Failed(errno.EREMOTE, str(error.strerror))
        case OSError():
            number = error.errno or _ERRNO_OF_KIND.get(type(error), errno.EIO)
            return calls.Failed(number, error.strerror or str(error))
        case ValueError():  # A path or a pattern that is none.
            return calls.Failed(errno.EINVAL, str(error))
        case _:
            return calls.Failed(errno_of(error), f"{type(error).__name__}: {error}")


def apart(
    call: calls.WriteEach, buffers: Sequence[Buffer]
) -> Iterator[tuple[calls.Write, list[Buffer]]]:
    """The writes of a `WriteEach` one by one, each with its buffers.

    Raises:
        ValueError: there are fewer buffers than parts that need one.
    """
    rest = iter(buffers)
    for index, part in enumerate(call.parts):
        data: list[Buffer] = []
        if isinstance(part, calls.Put | calls.Append | calls.Add):
            buffer = next(rest, None)
            if buffer is None:
                raise ValueError("a part is without its bytes")
            data.append(buffer)
        client = (call.client + index) % 2**64 if call.client else 0
        yield calls.Write([part], call.durable, client, call.number if client else 0), data


def together(
    writes: Sequence[tuple[calls.Write, list[Buffer]]], shard_of: Callable[[str], int | None]
) -> list[list[int]]:
    """Which of the writes of a `WriteEach` may share a record, as lists of places in it.

    Those are puts that ask for nothing but a file's next version, of different files of one shard, in order; any other write is alone.
    """
    groups: list[list[int]] = []
    growing: dict[int | None, _Group] = {}
    shards: dict[str, int | None] = {}
    for place, (call, data) in enumerate(writes):
        (part,) = call.parts
        size = sum(map(len, data))
        if not _is_plain(part) or size > TOGETHER_BYTES_MAX:
            groups.append([place])
            growing.clear()  # What comes later in the call has no earlier instant.
            continue
        above = part.path.rpartition("/")[0]
        if above not in shards:
            shards[above] = shard_of(part.path)
        group = growing.get(shards[above])
        if group is None or not group.has_room(part.path, size):
            group = growing[shards[above]] = _Group()
            groups.append(group.places)
        group.add(place, part.path, size)
    return groups


class _Group:
    """Writes that may share a record."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self._paths: set[str] = set()
        self._bytes = 0

    def has_room(self, path: str, size_bytes: int) -> bool:
        return (
            len(self.places) < TOGETHER_MAX
            and self._bytes + size_bytes <= TOGETHER_BYTES_MAX
            and path not in self._paths
        )

    def add(self, place: int, path: str, size_bytes: int) -> None:
        self.places.append(place)
        self._paths.add(path)
        self._bytes += size_bytes


def _is_plain(part: calls.Part) -> bool:
    """Whether a change is of one file alone, whatever it holds: what is asked of others is not refused with it."""
    return (
        isinstance(part, calls.Put)
        and part.expect is None
        and not part.upload
        and part.event is None
    )

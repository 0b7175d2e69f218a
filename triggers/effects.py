"""From what a run staged to the records that do it: all of one run become the parts of one `Finish`.

Effects are folded by path first, because a name changes once at one timestamp: a put and an append are one content, a
put and a delete nothing but the delete. Then each path is resolved in the tree as it is now, missing directories are
made, permissions asked, and bytes laid where they travel: in the record's own frame if all of them fit, else staged.

`append`, `add` and `put_if` mean the newest version: nothing can come between reading it here and the record, because
whoever plans holds the store. So `add` needs no comparison, and nobody loses an update.

Source: docs/TRIGGERS.md 5, 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from storage import record
from storage.attributes import DIRECTORY, REGULAR, TYPE_MASK, is_directory
from storage.errors import Reason
from storage.limits import FILE_BYTES_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX
from triggers.access import SEARCH, WRITE, Identity, may, may_remove
from triggers.cut import BadPath, parts_of
from triggers.run import Add, Append, Delete, Put, PutIf
from triggers.vector import Sum, windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.attributes import Attributes
    from storage.store import Store
    from triggers.run import Effect

__all__ = ["Conflict", "EffectRefused", "Plan", "plan"]

CONTROL = b".cascade"

EFFECTS_MAX = 20_000
"""Of one run: they are one record, and its metadata has a bound (`storage.limits.METADATA_BYTES_MAX`)."""

RANGES_MAX = 65_536
"""That additions of one run write in one file: as many extents of the record."""

PAGES_BYTES_MAX = 64 * 1024 * 1024
"""Of the pages that additions of one run write in one file, a few times over in memory; beyond that, `PAGES_FACTOR` times the
numbers added: neighbouring pages are one range, so numbers here and there in all of a large file are few ranges and many bytes."""

PAGES_FACTOR = 16

_SETGID = 0o2000


class EffectRefused(Exception):
    """An effect cannot be; the message names the path and why, `reason` is what it would be called at a mount."""

    reason = Reason.MALFORMED

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class Conflict(EffectRefused):
    """A `put_if` met another version than expected: the event is to be run again, at a newer cut."""

    reason = Reason.CONDITION_FAILED


class Plan(NamedTuple):
    """What a `Finish` needs."""

    records: list[record.Create | record.Unlink | record.Commit]
    payload: list[memoryview]
    conditions: list[tuple[int, bytes, int]]
    outputs: list[tuple[str, int]]
    """(path, version it will have); of a deletion the tombstone's."""

    guards: list[record.Expect]
    """What every record relies on. Where others propose too, these go in front: all happens as planned or nothing does."""


class _Folded:
    """What all effects on one path come to."""

    __slots__ = ("adds", "data", "deleted", "expect", "mode", "names", "sum", "tail")

    def __init__(self, names: list[bytes]) -> None:
        self.names = names
        self.data: list[memoryview] | None = (
            None  # the whole new content; None: what is there stays
        )
        self.tail: list[memoryview] = []  # behind what is there
        self.adds: list[Add] = []
        self.sum: Sum | None = None  # of all adds
        self.deleted = False
        self.expect: int | None = None
        self.mode = 0o644


def plan(
    store: Store,
    base: int,
    who: Identity,
    effects: list[Effect],
    now_ns: int,
    reserved: Callable[[int, bytes], bool] = lambda _directory, _name: False,
    shard: int | None = None,
) -> Plan:
    """The records for the effects of one run, in the tree as it is now. Large bytes are staged by this.

    Args:
        store: held by the caller until the records are proposed.
        base: the inode that paths are relative to.
        who: whose rights count, and who will own what is new.
        effects: in the order of the calls.
        now_ns: for modification times.
        reserved: whether a name in a directory would be taken for history.
        shard: where all of it has to live; None: wherever.

    Raises:
        Conflict: a `put_if` expects another version.
        EffectRefused: a path leads nowhere or out, or `who` may not.
    """
    if len(effects) > EFFECTS_MAX:
        raise EffectRefused(f"{len(effects)} effects in one run; {EFFECTS_MAX} are the most")
    folded = _fold(effects)
    planner = _Planner(store, base, who, now_ns, reserved, shard)
    planner.inline = sum(_size(one) for one in folded.values()) <= PAYLOAD_BYTES_MAX
    for path, one in folded.items():
        planner.apply(path, one)
    guards = [record.Expect(*entry, *head) for entry, head in planner.guards.items()]
    return Plan(planner.records, planner.payload, planner.conditions, planner.outputs, guards)


def _fold(effects: list[Effect]) -> dict[str, _Folded]:
    folded: dict[str, _Folded] = {}
    for effect in effects:
        try:
            names = parts_of(effect.path)
        except BadPath as error:
            raise EffectRefused(str(error)) from None
        if CONTROL in names:
            raise EffectRefused(f"{effect.path}: .cascade is not for scripts to change")
        if any(len(name) > NAME_BYTES_MAX for name in names):
            raise EffectRefused(
                f"{effect.path}: a name is longer than {NAME_BYTES_MAX} bytes", Reason.NAME_TOO_LONG
            )
        one = folded.setdefault(effect.path, _Folded(names))
        match effect:
            case Put() | PutIf():
                one.data, one.tail, one.adds, one.deleted = [_view(effect.data)], [], [], False
                if isinstance(effect, Put):
                    one.mode = effect.mode & 0o777
                elif one.expect is None:
                    one.expect = effect.expect
            case Append():
                if one.deleted:
                    one.data, one.deleted = [], False
                (one.tail if one.data is None else one.data).append(_view(effect.data))
            case Delete():
                one.data, one.tail, one.adds, one.deleted = None, [], [], True
            case Add():
                if one.deleted:
                    one.data, one.deleted = [], False
                one.adds.append(effect)
    for path, one in folded.items():
        if one.adds:
            try:
                one.sum = Sum(one.adds)
            except ValueError as error:
                raise EffectRefused(f"{path}: {error}") from None
            except ImportError:
                raise EffectRefused(
                    f"{path}: add needs NumPy where the store is: pip install 'cascadefs[arrays]'",
                    Reason.UNSUPPORTED,
                ) from None
    return folded


def _view(data: bytes | bytearray | memoryview) -> memoryview:
    return memoryview(data).cast("B")


def _size(one: _Folded) -> int:
    return (
        sum(map(len, one.data or []))
        + sum(map(len, one.tail))
        + (sum(end - start for start, end in one.sum.ranges(FILE_BYTES_MAX)) if one.sum else 0)
    )


class _Planner:
    def __init__(
        self,
        store: Store,
        base: int,
        who: Identity,
        now_ns: int,
        reserved: Callable[[int, bytes], bool],
        shard: int | None,
    ) -> None:
        self._store = store
        self._shard = shard
        self._base = base
        self._who = who
        self._now_ns = now_ns
        self._reserved = reserved
        self._made: dict[tuple[int, bytes], int] = {}  # directories of this plan
        self._files: set[tuple[int, bytes]] = set()  # files of this plan
        self._payload_bytes = 0
        self._growth_bytes = 0
        self._nearest = base  # the deepest directory of the path at hand that exists already
        self._found: dict[tuple[bytes, ...], tuple[int, Attributes]] = {}  # directories there are
        self.inline = True
        self.records: list[record.Create | record.Unlink | record.Commit] = []
        self.payload: list[memoryview] = []
        self.conditions: list[tuple[int, bytes, int]] = []
        self.outputs: list[tuple[str, int]] = []
        self.guards: dict[tuple[int, bytes], tuple[int, int]] = {}

    def apply(self, path: str, one: _Folded) -> None:
        """Append the records of one path."""
        *above, name = one.names
        found = self._directory(path, above, make=not one.deleted)
        if found is None:
            return  # to delete what is not there is done
        directory, attributes = found
        home = self._store.shard_of(directory)
        if self._shard not in (None, home):
            raise EffectRefused(
                f"{path}: lives in shard {home}, and the run is in shard {self._shard}: what a run does is one record of one "
                f"shard; write below a directory that lives in shard {self._shard} (getfattr -n user.cascade.shard)",
                Reason.CROSS_SHARD,
            )
        if (directory, name) in self._made:
            raise EffectRefused(f"{path}: a file and a directory in one run")
        self._files.add((directory, name))
        binding = self._store.binding(directory, name) if attributes is not None else None
        file = self._store.attributes(binding.inode) if binding is not None else None
        if binding is not None and file is not None:
            number = binding.version_of(file.content)
        else:
            number = self._store.head(directory, name)
        if attributes is not None:
            self.guards[directory, name] = (number, binding.inode if binding is not None else 0)
        if one.expect is not None:
            present = number if binding is not None else 0
            if present != one.expect:
                raise Conflict(f"{path}: is at version {present}, expected was {one.expect}")
            self.conditions.append((directory, name, one.expect))
        if file is not None and file.mode & TYPE_MASK != REGULAR:
            raise EffectRefused(
                f"{path}: not a regular file",
                Reason.IS_A_DIRECTORY if is_directory(file.mode) else None,
            )
        if one.deleted:
            if file is None:
                return
            assert attributes is not None
            if not may_remove(self._who, attributes, file):
                raise EffectRefused(
                    f"{path}: user {self._who.uid} may not remove it", Reason.DENIED
                )
            self.records.append(record.Unlink(directory, name))
            self.outputs.append((path, number + 1))
            return
        if file is None or binding is None:
            inode = self._create(path, directory, attributes, name, REGULAR | one.mode)
        else:
            inode = binding.inode
            if not may(self._who, file, WRITE):
                raise EffectRefused(f"{path}: user {self._who.uid} may not write it", Reason.DENIED)
        self._commit(path, inode, file, one)
        self.outputs.append((path, number + 1))

    def _commit(self, path: str, inode: int, file: Attributes | None, one: _Folded) -> None:
        before = file.size if file is not None else 0
        keep: int | None = None
        extents: list[record.Extent] = []
        size = before
        if one.data is not None:
            keep, size = 0, 0
            size = self._lay(inode, one.data, size, extents)
        size = self._lay(inode, one.tail, size, extents)
        if one.sum is not None:
            if one.data is not None or one.tail:
                raise EffectRefused(f"{path}: add and put of one path in one run; choose one")
            size = max(size, one.sum.size_bytes)
            self._add(path, inode, file, one.sum, size, extents)
        if size > FILE_BYTES_MAX:
            raise EffectRefused(f"{path}: larger than a file can be", Reason.TOO_LARGE)
        self._check_room(path, size - before)
        self.records.append(record.Commit(inode, size, keep, extents, self._now_ns, self._now_ns))

    def _check_room(self, path: str, growth_bytes: int) -> None:
        """Refuse what a quota has no room for; all growth of the run counts against each quota it meets."""
        self._growth_bytes += growth_bytes
        quotas = self._store.quotas
        room = quotas.room(self._nearest) if growth_bytes > 0 and quotas.some else None
        if room is not None and self._growth_bytes > room:
            raise EffectRefused(f"{path}: over quota, {room} bytes are left", Reason.OVER_QUOTA)

    def _lay(
        self, inode: int, data: list[memoryview], at: int, extents: list[record.Extent]
    ) -> int:
        """Put bytes behind `at`, in the frame or staged; where they end."""
        for view in data:
            if not len(view):
                continue
            if self.inline:
                extents.append((at, len(view), record.SELF, self._payload_bytes))
                self.payload.append(view)
                self._payload_bytes += len(view)
            else:
                extents.extend(self._store.stage(inode, at, view))
            at += len(view)
        return at

    def _add(
        self,
        path: str,
        inode: int,
        file: Attributes | None,
        added: Sum,
        size: int,
        extents: list[record.Extent],
    ) -> None:
        """Write the pages again that additions touch, of a file that then has `size` bytes."""
        ranges = added.ranges(size)
        if len(ranges) > RANGES_MAX:
            raise EffectRefused(
                f"{path}: add: numbers in {len(ranges)} places of the file at once; {RANGES_MAX} are the most"
            )
        written = sum(end - start for start, end in ranges)
        if written > max(PAGES_BYTES_MAX, PAGES_FACTOR * added.added_bytes):
            raise EffectRefused(
                f"{path}: add: numbers all over {written >> 20} MiB of the file at once; {PAGES_BYTES_MAX >> 20} are the most"
            )
        before = file.size if file is not None else 0
        there = [(start, min(end, before)) for start, end in ranges if start < before]
        held = b""
        if file is not None and there:
            held = self._store.read_ranges(inode, file, None, there)
        # What lies behind the end counts as zeros: only the last of the ranges that are there can be cut off by it.
        held = held.ljust(sum(end - start for start, end in ranges), b"\0")
        try:
            total = memoryview(added.applied(ranges, held))
        except OverflowError as error:
            raise EffectRefused(f"{path}: {error}") from None
        for start, end, parts in windows(ranges, PAYLOAD_BYTES_MAX):
            if self.inline:
                place, at = record.SELF, self._payload_bytes
                self.payload.append(total[start:end])
                self._payload_bytes += end - start
            else:
                ((_, _, place, at),) = self._store.stage(inode, 0, total[start:end])
            extents.extend((offset, length, place, at + done) for offset, length, done in parts)

    def _directory(
        self, path: str, names: list[bytes], *, make: bool
    ) -> tuple[int, Attributes | None] | None:
        """(inode, attributes; None for one of this plan) of a directory; made where missing, or None."""
        place = tuple(names)
        found = self._found.get(place)
        if found is not None:
            self._nearest = found[0]
            return found
        inode = self._nearest = self._base
        attributes = self._store.attributes(inode)
        if attributes is None or attributes.nlink == 0:
            raise EffectRefused(f"{path}: the directory that holds .cascade is gone", Reason.ABSENT)
        for name in names:
            if attributes is not None and not may(self._who, attributes, SEARCH):
                raise EffectRefused(f"{path}: user {self._who.uid} may not pass", Reason.DENIED)
            if (inode, name) in self._files:
                raise EffectRefused(f"{path}: a file and a directory in one run")
            known = self._made.get((inode, name))
            binding = (
                self._store.binding(inode, name)
                if known is None and attributes is not None
                else None
            )
            if known is not None:
                inode, attributes = known, None
            elif binding is not None:
                if not is_directory(binding.mode):
                    text = name.decode(errors="surrogateescape")
                    raise EffectRefused(
                        f"{path}: {text} is not a directory", Reason.NOT_A_DIRECTORY
                    )
                head = self._store.head(inode, name)
                self.guards[inode, name] = (head, binding.inode)
                inode, attributes = binding.inode, self._store.attributes(binding.inode)
                self._nearest = inode
            elif make:
                if attributes is not None:
                    self.guards[inode, name] = (self._store.head(inode, name), 0)
                made = self._create(path, inode, attributes, name, DIRECTORY | 0o755)
                self._made[inode, name] = made
                inode, attributes = made, None
            else:
                return None
        if attributes is not None:
            self._found[place] = inode, attributes
        return inode, attributes

    def _create(
        self, path: str, directory: int, attributes: Attributes | None, name: bytes, mode: int
    ) -> int:
        gid = self._who.gid
        if attributes is not None:
            if not may(self._who, attributes, WRITE | SEARCH):
                raise EffectRefused(f"{path}: user {self._who.uid} may not make it", Reason.DENIED)
            if attributes.mode & _SETGID:
                gid = attributes.gid
                mode |= _SETGID if is_directory(mode) else 0
        if self._reserved(directory, name):
            raise EffectRefused(f"{path}: that name means history")
        inode = self._store.allocate_inode(directory)
        self.records.append(record.Create(directory, name, inode, mode, self._who.uid, gid))
        return inode

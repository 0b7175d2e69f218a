"""Writing, for a program: files and directories, all at one instant or none, with the rights of one user.

What is asked is planned as the effects of a trigger's run are, and becomes one record. Source: SEMANTICS 6, 13.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from cascadefs.client import calls
from cascadefs.client.reading import there
from storage import record
from storage.attributes import DIRECTORY, is_directory
from storage.errors import Reason, Refused
from storage.namespace import ROOT
from triggers.access import SEARCH, WRITE, may, may_remove
from triggers.cut import parts_of
from triggers.effects import CONTROL, EffectRefused, Plan, plan
from triggers.run import Add, Append, Delete, Put, PutIf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cascadefs.client.reading import Reading
    from storage.clock import Clock
    from storage.namespace import Outcome
    from storage.store import Store
    from triggers.access import Identity
    from triggers.run import Buffer, Effect

__all__ = ["ATTEMPTS_MAX", "Writing"]

ATTEMPTS_MAX = 100
"""Of a write that others come before again and again; each time one of them got something done."""


_OVERTAKEN = (Reason.CONDITION_FAILED, Reason.EXISTS, Reason.ABSENT)
"""What a plan that was right in its tree meets in another: directories that it makes are there, or those it uses are gone."""


class _Attempt(NamedTuple):
    """One proposal of a write."""

    call: calls.Write
    made: Plan
    removed: list[record.Unlink]
    batch: record.Batch
    payload: list[memoryview]


class Writing:
    """See the module."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        who: Identity,
        reading: Reading,
        reserved: Callable[[int, bytes], bool],
        applied: Callable[[Sequence[record.Part]], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._who = who
        self._reading = reading
        self._reserved = reserved
        self._applied = applied

    def write(self, call: calls.Write, buffers: list[Buffer]) -> calls.Answer:
        """Make the changes, planned again as often as others come first; holding the store while that takes."""
        for _ in range(ATTEMPTS_MAX):
            attempt = self._attempt(call, buffers)
            if not isinstance(attempt, _Attempt):
                return attempt
            answer = self._answer(attempt, self._store.propose(attempt.batch, attempt.payload))
            if answer is not None:
                return answer
        raise Refused(Reason.CONDITION_FAILED)

    def repeated(self, call: calls.Write) -> calls.Answer | None:
        """The answer to a request that was done already; None if it was not."""
        for part in call.parts:
            self._reading.refresh(part.path)
        return self._repeated(call) if self._is_done(call) else None

    def begin(
        self,
        call: calls.Write,
        buffers: list[Buffer],
        done: Callable[[calls.Answer | Exception | None], None],
    ) -> None:
        """Propose the changes and go on; `done` is told the answer, or None: others came first, begin again."""
        attempt = self._attempt(call, buffers)
        if not isinstance(attempt, _Attempt):
            done(attempt)
            return

        def settle(outcome: Outcome | OSError) -> None:
            if isinstance(outcome, OSError):
                done(outcome)
                return
            try:
                done(self._answer(attempt, outcome))
            except Exception as error:
                done(error)

        self._store.begin(attempt.batch, attempt.payload, settle)

    def begin_together(
        self,
        writes: Sequence[tuple[calls.Write, list[Buffer]]],
        done: Callable[[Sequence[calls.Written] | Exception | None], None],
    ) -> bool:
        """Propose writes of one different file each as one record and go on, unless they cannot be one: False.

        `done` is told the answers; None: nothing was done. So what is refused of one, or done already, is asked alone again.

        Raises:
            EffectRefused, Refused, OSError, ValueError: one of them cannot be done in the tree as it is now; nothing was begun.
        """
        joined = calls.Write([part for call, _ in writes for part in call.parts])
        made, removed = self._planned(joined, [buffer for _, data in writes for buffer in data])
        assert not removed
        assert len(made.outputs) == len(writes)
        if len(self._homes(made, removed)) != 1:
            return False  # Directories that the first of them made are elsewhere.
        files = [part.inode for part in made.records if isinstance(part, record.Commit)]
        if len(set(files)) < len(files):
            return False  # Two names of one file, which would have two versions at one instant.
        once = [record.Once(call.client, call.number) for call, _ in writes if call.client]
        batch = record.Batch([*once, *self._guards(made, removed), *made.records])
        attempt = _Attempt(joined, made, removed, batch, made.payload)

        def settle(outcome: Outcome | OSError) -> None:
            if isinstance(outcome, OSError):
                done(outcome)
                return
            if outcome.reason is not None:
                done(None)
                return
            try:
                self._applied(made.records)
                written = self._written(attempt)
            except Exception as error:
                done(error)
            else:
                done([calls.Written([one], written.timestamp) for one in written.versions])

        self._store.begin(batch, made.payload, settle)
        return True

    def shard_of(self, path: str) -> int:
        """The shard of the deepest directory there is above a path.

        Raises:
            ValueError: it is no path.
        """
        return self._store.shard_of(self._home(path))

    def _attempt(self, call: calls.Write, buffers: list[Buffer]) -> _Attempt | calls.Answer:
        """What to propose, in the tree as it is now; the answer at once where there is nothing to change."""
        try:
            made, removed = self._planned(call, buffers)
            is_some = bool(made.records or removed)
        except (EffectRefused, OSError):
            is_some = False
        if not is_some:
            # Refused, or nothing to do, in the tree as this node knows it; what counts is what everybody has done, we included.
            for part in call.parts:
                self._reading.refresh(part.path)
            if self._is_done(call):
                return self._repeated(call)
            made, removed = self._planned(call, buffers)
            if not made.records and not removed:
                return calls.Written([], self._store.now())
        # In front: a request that was done is no conflict with what it did itself.
        once = [record.Once(call.client, call.number)] if call.client else []
        guards = self._guards(made, removed)
        events = _events(call.parts, made)
        batch = record.Batch([*once, *guards, *made.records, *events, *removed])
        return _Attempt(call, made, removed, batch, made.payload)

    def _planned(
        self, call: calls.Write, buffers: list[Buffer]
    ) -> tuple[Plan, list[record.Unlink]]:
        effects = _effects(call.parts, buffers)
        self._make_shard_roots(call.parts)
        made = plan(self._store, ROOT, self._who, effects, self._clock.now_ns(), self._reserved)
        return made, self._removed(call.parts)

    def _answer(self, attempt: _Attempt, outcome: Outcome) -> calls.Answer | None:
        """What became of an attempt; None where somebody else changed what the plan relies on: plan again.

        What the caller expects is looked at by the plan.
        """
        if outcome.reason is Reason.REPEATED:
            return self._repeated(attempt.call)
        if outcome.reason in _OVERTAKEN:
            return None
        if outcome.reason is not None:
            raise Refused(outcome.reason)
        self._applied([*attempt.made.records, *attempt.removed])
        return self._written(attempt)

    def _homes(self, made: Plan, removed: list[record.Unlink]) -> set[int]:
        """The shards that are changed."""
        homes = {self._store.shard_of(part.parent) for part in removed}
        for part in made.records:
            homes.add(
                self._store.shard_of(part.inode if isinstance(part, record.Commit) else part.parent)
            )
        return homes

    def _guards(self, made: Plan, removed: list[record.Unlink]) -> list[record.Expect]:
        """What the plan relies on in the shard it changes; what is on the way there in others is only looked at."""
        homes = self._homes(made, removed)
        return [guard for guard in made.guards if self._store.shard_of(guard.directory) in homes]

    def _make_shard_roots(self, parts: list[calls.Part]) -> None:
        """Make the missing directories that will live in another shard than the one above them: records of their own."""
        if len(self._store.shards) == 1:
            return
        for part in parts:
            if not isinstance(part, calls.Put | calls.Append | calls.Add):
                continue
            directory, attributes = ROOT, self._store.attributes(ROOT)
            for name in parts_of(part.path)[:-1]:
                binding = self._store.binding(directory, name)
                if binding is not None:
                    directory, attributes = binding.inode, self._store.attributes(binding.inode)
                    if attributes is None or not is_directory(attributes.mode):
                        break  # the plan says why not
                    continue
                inode = self._store.allocate_inode(directory, name, DIRECTORY)
                may_make = attributes is not None and may(self._who, attributes, WRITE | SEARCH)
                if self._store.shard_of(inode) == self._store.shard_of(directory) or not may_make:
                    break  # the plan makes it, or says why not
                create = record.Create(
                    directory, name, inode, DIRECTORY | 0o755, self._who.uid, self._who.gid
                )
                reason = self._store.propose(create).reason
                if reason is not None and reason is not Reason.EXISTS:
                    raise Refused(reason)
                self._applied([create])
                binding = self._store.binding(directory, name)
                if binding is None:
                    break
                directory, attributes = binding.inode, self._store.attributes(binding.inode)

    def _removed(self, parts: list[calls.Part]) -> list[record.Unlink]:
        """The directories that are to go."""
        records = []
        for part in parts:
            if not isinstance(part, calls.RemoveDirectory):
                continue
            *above, name = parts_of(part.path)
            try:
                parent, attributes = self._reading.directory(above, None, part.path)
            except FileNotFoundError:
                continue
            binding = self._store.binding(parent, name)
            if binding is None:
                continue
            row = there(self._store.attributes(binding.inode), part.path)
            if not is_directory(row.mode):
                raise NotADirectoryError(errno.ENOTDIR, f"{part.path}: not a directory")
            if not may_remove(self._who, attributes, row) or CONTROL in (*above, name):
                raise PermissionError(
                    errno.EACCES, f"{part.path}: user {self._who.uid} may not remove it"
                )
            records.append(record.Unlink(parent, name, directory=True))
        return records

    def _is_done(self, call: calls.Write) -> bool:
        """Whether this request, or a later one of its client, was done already."""
        if not call.client:
            return False
        return self._store.request_done(self._home_of(call), call.client)[0] >= call.number

    def _repeated(self, call: calls.Write) -> calls.Answer:
        """What became of a request that is asked again."""
        number, timestamp = self._store.request_done(self._home_of(call), call.client)
        if number != call.number:
            # Done, and others of this client after it: what number it got is not known any more.
            return calls.Written([(part.path, 0, 0) for part in call.parts], 0)
        versions = []
        for part in call.parts:
            stat = self._reading.cut(timestamp).stat(part.path)
            if isinstance(part, calls.RemoveDirectory):
                continue
            if stat is not None:
                versions.append((part.path, stat.version, stat.size))
            elif (tombstone := self._tombstone(part.path, timestamp)) is not None:
                versions.append((part.path, tombstone, 0))
        return calls.Written(versions, timestamp)

    def _home_of(self, call: calls.Write) -> int:
        """A directory of the shard that is changed."""
        return self._home(call.parts[0].path) if call.parts else ROOT

    def _home(self, path: str) -> int:
        """The deepest directory there is above a path."""
        directory = ROOT
        for name in parts_of(path)[:-1]:
            binding = self._store.binding(directory, name)
            row = self._store.attributes(binding.inode) if binding is not None else None
            if binding is None or row is None or not is_directory(row.mode):
                break
            directory = binding.inode
        return directory

    def _tombstone(self, path: str, timestamp: int) -> int | None:
        """The number under which a path was deleted at just this timestamp; None if it was not."""
        *above, name = parts_of(path)
        directory = ROOT
        for one in above:
            binding = self._store.binding_at(directory, one, timestamp)
            if binding is None:
                return None
            directory = binding.inode
        entry = self._store.entry_at(directory, name, timestamp)
        if entry is None or entry[2] is None or entry[0] != timestamp:
            return None
        return entry[2].number

    def _written(self, attempt: _Attempt) -> calls.Written:
        """What was just committed; nobody has changed the store since."""
        made = attempt.made
        sizes = [
            part.size if isinstance(part, record.Commit) else 0
            for part in made.records
            if not isinstance(part, record.Create)
        ]
        timestamp = self._changed_at([*made.records, *attempt.removed])
        versions = [(*one, size) for one, size in zip(made.outputs, sizes, strict=True)]
        return calls.Written(versions, timestamp)

    def _changed_at(self, records: Sequence[record.Create | record.Unlink | record.Commit]) -> int:
        """When what was made took effect. Asks nobody: this is told by whoever applies it."""
        for part in records:
            if isinstance(part, record.Commit):
                attributes = self._store.attributes(part.inode)
                if attributes is not None:
                    return attributes.content_timestamp
            elif (row := self._store.attributes_row(part.parent)) is not None:
                return row[0]
        return self._store.now()


def _events(parts: list[calls.Part], made: Plan) -> list[record.Event]:
    """When what the files tell of happened, of those that are told it of."""
    told = {
        part.path: part.event
        for part in parts
        if isinstance(part, calls.Put) and part.event is not None
    }
    if not told:
        return []
    changes = [part for part in made.records if not isinstance(part, record.Create)]
    return [
        record.Event(part.inode, told[path])
        for part, (path, _) in zip(changes, made.outputs, strict=True)
        if isinstance(part, record.Commit) and path in told
    ]


def _effects(parts: list[calls.Part], buffers: list[Buffer]) -> list[Effect]:
    """The parts with their buffers.

    Raises:
        ValueError: there are more or fewer buffers than parts that need one.
    """
    needed = sum(isinstance(part, calls.Put | calls.Append | calls.Add) for part in parts)
    if needed != len(buffers):
        raise ValueError(f"{needed} parts need bytes, and {len(buffers)} buffers came")
    rest = iter(buffers)
    effects: list[Effect] = []
    for part in parts:
        match part:
            case calls.Put(expect=None):
                effects.append(Put(part.path, next(rest), part.mode))
            case calls.Put(expect=int(expect)):
                effects.append(PutIf(part.path, next(rest), expect))
            case calls.Append():
                effects.append(Append(part.path, next(rest)))
            case calls.Delete():
                effects.append(Delete(part.path))
            case calls.Add(path, dtype, index, indices):
                data = memoryview(next(rest)).cast("B")
                if 8 * indices > len(data):
                    raise ValueError(f"{path}: {indices} indices do not fit {len(data)} bytes")
                places, delta = data[: 8 * indices], data[8 * indices :]
                effects.append(Add(path, index, delta, dtype, places))
            case calls.RemoveDirectory():
                pass  # behind all others
    return effects

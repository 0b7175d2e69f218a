"""Byte ranges until something gives: a few files, written, mapped, cut, punched, copied, synced, closed and killed.

The idea is that of the file system exercisers people have used for thirty years: random operations on one file against
an array of bytes, everything decided by one seed. What history adds: every commit is remembered whole, and after each
crash the present and three random old versions are compared, and which commits survived: all that were synced, and of
the rest a prefix in the order they were made.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.layer import Layer
    from tests.model.mount import MountDoor

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
PAGE = 4096
OLD_VERSIONS_CHECKED = 3
LINES_SHOWN = 60


@dataclass
class Tracked:
    """One file and what it should hold. `draft`: something was written that is no version yet."""

    path: str
    handle: object = None
    now: bytes = b""
    draft: bool = False
    begun: int = 0
    versions: list[bytes] = field(default_factory=list)


class Mismatch(AssertionError):
    """What is there is not what was written; the message has the seed and the operations before."""


class Exerciser:
    """See the module. `border`: sizes around its multiples are likely; `largest`: no file grows beyond it."""

    def __init__(
        self,
        door: Layer | MountDoor,
        seed: int,
        *,
        border: int,
        largest: int,
        files: int = 2,
        is_mount: bool = False,
        has_ranges: bool = True,
        operations_between_ends: int = 50,
    ) -> None:
        self.door = door
        self.seed = seed
        self.random = Random(seed)
        self.border = border
        self.largest = largest
        self.commits: list[tuple[Tracked, int]] = []
        self.synced = 0
        self.lines: deque[str] = deque(maxlen=LINES_SHOWN)
        self.done: Counter[str] = Counter()
        self._made: set[str] = set()
        self.files = [Tracked(f"f{number}") for number in range(files)]
        for file in self.files:
            self._open(file)
        everyday = {
            self.write: 8,
            self.read: 4,
            self.truncate: 3,
            self.copy: 3,
            self.sync: 2,
            self.close: 3,
            self.read_old: 2,
        }
        if has_ranges:
            everyday |= {self.punch: 2, self.zero: 1, self.make_room: 1}
        if is_mount:
            everyday |= {self.map: 4}
            ends = (self.kill, self.kill, self.restart)
        else:
            everyday |= {self.wait: 1}
            ends = (self.kill, self.restart, self.power_cut)
        self._everyday = [call for call, weight in everyday.items() for _ in range(weight)]
        self._ends = ends
        self._operations_between_ends = operations_between_ends

    # --- running -----------------------------------------------------------------------------------------------

    def run(self, operations: int) -> None:
        """So many random operations, and a look at everything."""
        for _ in range(operations):
            self.step()
        for file in self.files:
            self._check_now(file)
            for number in range(1, len(file.versions) + 1):
                self._check_version(file, number)

    def step(self) -> None:
        is_end = self.random.randrange(self._operations_between_ends) == 0
        call = self.random.choice(self._ends if is_end else self._everyday)
        self.done[call.__name__] += 1
        try:
            call()
        except Mismatch:
            raise
        except Exception as error:
            self.fail(f"{type(error).__name__}: {error}", error)

    def figures(self) -> str:
        """What was done without divergence."""
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.done.items()))
        versions = sum(len(file.versions) for file in self.files)
        return f"seed {self.seed}: {self.done.total()} operations ({kinds}), {versions} versions"

    def fail(self, what: str, cause: BaseException | None = None) -> None:
        done = self.done.total()
        lines = "\n".join(self.lines)
        raise Mismatch(f"seed {self.seed}, operation {done}: {what}\nthe last:\n{lines}") from cause

    def _compare(self, what: str, found: bytes, expected: bytes) -> None:
        if found == expected:
            return
        if len(found) != len(expected):
            self.fail(f"{what} has {len(found)} bytes, expected {len(expected)}")
        at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
        self.fail(
            f"{what} differs from byte {at} on: {found[at : at + 16]!r}, not {expected[at : at + 16]!r}"
        )

    # --- choosing ----------------------------------------------------------------------------------------------

    def _offset(self, file: Tracked) -> int:
        draw, size = self.random, len(file.now)
        near = draw.randrange(self.largest // self.border + 1) * self.border + draw.choice(
            (-1, 0, 1)
        )
        choices = (0, size, draw.randint(0, size), draw.randint(0, size), near)
        return min(max(0, draw.choice(choices)), self.largest - 1)

    def _length(self, offset: int) -> int:
        draw = self.random
        most = draw.choice((1, 10, self.border // 4, self.border, self.border + 1, 3 * self.border))
        return max(1, min(draw.randint(1, max(1, most)), self.largest - offset))

    def _lay(self, file: Tracked, offset: int, data: bytes) -> None:
        before = file.now.ljust(offset, b"\0")
        file.now = before[:offset] + data + before[offset + len(data) :]
        self._begin(file)

    def _begin(self, file: Tracked) -> None:
        if not file.draft:
            file.draft, file.begun = True, self.done.total()

    def _pick(self) -> Tracked:
        return self.random.choice(self.files)

    def _say(self, line: str) -> None:
        self.lines.append(line)

    # --- operations --------------------------------------------------------------------------------------------

    def write(self) -> None:
        file = self._pick()
        offset = self._offset(file)
        data = self.random.randbytes(self._length(offset))
        self._say(f"write({file.path}, {offset}, {len(data)})")
        self.door.write(file.handle, offset, data)
        self._lay(file, offset, data)

    def read(self) -> None:
        file = self._pick()
        offset = self._offset(file)
        length = self._length(offset)
        self._say(f"read({file.path}, {offset}, {length})")
        found = self.door.read(file.handle, offset, length)
        self._compare(f"{file.path} from {offset} on", found, file.now[offset : offset + length])

    def truncate(self) -> None:
        file = self._pick()
        size = self.random.choice((0, self._offset(file), self.random.randint(0, len(file.now))))
        self._say(f"truncate({file.path}, {size})")
        if self.random.random() < 0.5:
            self.door.ftruncate(file.handle, size)
        else:
            self.door.truncate(file.path, size)
        file.now = file.now[:size].ljust(size, b"\0")
        self._begin(file)

    def _allocate(self, name: str, mode: int) -> None:
        file = self._pick()
        offset = self._offset(file)
        length = self._length(offset)
        self._say(f"{name}({file.path}, {offset}, {length}, {mode})")
        self.door.allocate(file.handle, offset, length, mode)
        if not mode & KEEP_SIZE:
            file.now = file.now.ljust(offset + length, b"\0")
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            inside = max(0, min(length, len(file.now) - offset))
            file.now = file.now[:offset] + bytes(inside) + file.now[offset + inside :]
        self._begin(file)

    def punch(self) -> None:
        self._allocate("punch", PUNCH_HOLE | KEEP_SIZE)

    def zero(self) -> None:
        self._allocate("zero", ZERO_RANGE | self.random.choice((0, KEEP_SIZE)))

    def make_room(self) -> None:
        self._allocate("make_room", self.random.choice((0, KEEP_SIZE)))

    def copy(self) -> None:
        """Between files or inside one, or from a version that is past."""
        source, target = self._pick(), self._pick()
        at, offset = self._offset(source), self._offset(target)
        data, handle, name = source.now, source.handle, source.path
        if source.versions and self.random.random() < 0.3:
            number = self.random.randint(1, len(source.versions))
            name, data = f"{source.path}@v{number}", source.versions[number - 1]
            handle = self.door.open(name, os.O_RDONLY, 0)
        length = max(0, min(self._length(offset), len(data) - at))
        if handle is target.handle and at < offset + length and offset < at + length:
            return
        self._say(f"copy({name}, {at}, {target.path}, {offset}, {length})")
        done = self.door.copy(handle, at, target.handle, offset, length)
        if not (0 < done <= length or done == length == 0):
            self.fail(f"copied {done} of {length} bytes")
        if done:
            self._lay(target, offset, data[at : at + done])
        if handle is not source.handle:
            self.door.close(handle)

    def map(self) -> None:
        """Stores through a shared mapping, with msync(2) or without.

        Python's mapping has a duplicate of the descriptor, and closes it: a version.
        """
        file = self._pick()
        if not file.now:
            return
        start = self.random.randrange(len(file.now)) // PAGE * PAGE
        writes = []
        for _ in range(self.random.randint(1, 4)):
            offset = self.random.randrange(start, len(file.now))
            data = self.random.randbytes(self.random.randint(1, 9000))[: len(file.now) - offset]
            writes.append((offset, data))
        sync = self.random.random() < 0.5
        self._say(f"map({file.path}, {[(o, len(d)) for o, d in writes]}, sync={sync})")
        self.door.map_and_write(file.handle, start, writes, sync=sync)
        for offset, data in writes:
            self._lay(file, offset, data)
        self._committed(file)

    def read_old(self) -> None:
        file = self._pick()
        if file.versions:
            self._check_version(file, self.random.randint(1, len(file.versions)))

    # --- commits -----------------------------------------------------------------------------------------------

    def _committed(self, file: Tracked) -> None:
        if file.draft:
            file.draft = False
            file.versions.append(file.now)
            self.commits.append((file, len(file.versions)))

    def sync(self) -> None:
        file = self._pick()
        self._say(f"fsync({file.path})")
        self.door.fsync(file.handle)
        self._committed(file)
        self.synced = len(self.commits)

    def close(self) -> None:
        file = self._pick()
        self._say(f"close({file.path})")
        self.door.close(file.handle)
        self._committed(file)
        self._check_now(file)
        self._open(file)

    def wait(self) -> None:
        """Longer than a draft may stay one."""
        self._say("wait")
        self.door.wait(30)
        for file in self._in_order():
            self._committed(file)

    def _in_order(self) -> list[Tracked]:
        """The files, those with a draft in the order the drafts were begun: so they are committed."""
        return sorted(self.files, key=lambda file: file.begun)

    def _open(self, file: Tracked) -> None:
        file.handle = self.door.open(file.path, os.O_RDWR | os.O_CREAT, 0)
        if file.path not in self._made:
            self._made.add(file.path)
            self._begin(file)

    # --- ends --------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        self._end("restart", self.door.restart, loses_drafts=False)
        self.synced = len(self.commits)

    def kill(self) -> None:
        self._end("kill", self.door.kill, loses_drafts=True)

    def _end(self, name: str, end: Callable[[], None], *, loses_drafts: bool) -> None:
        self._say(name)
        end()
        for file in self._in_order():
            if loses_drafts and file.draft:
                file.draft, file.now = False, file.versions[-1] if file.versions else b""
            self._committed(file)
            self._after_the_end(file)

    def power_cut(self) -> None:
        seed = self.random.randrange(2**16)
        self._say(f"power_cut({seed})")
        self.door.power_cut(seed)
        survived = {file.path: self._head(file) for file in self.files}
        kept = [number <= survived[file.path] for file, number in self.commits]
        count = sum(kept)
        if count < self.synced:
            self.fail(f"{self.synced - count} commits that were synced are gone")
        if False in kept[:count]:
            self.fail(f"the commits that survived are no prefix: {kept[self.synced :]}")
        del self.commits[count:]
        for file in self.files:
            del file.versions[survived[file.path] :]
            file.draft, file.now = False, file.versions[-1] if file.versions else b""
            self._after_the_end(file)

    def _head(self, file: Tracked) -> int:
        try:
            return int(self.door.getxattr(file.path, "user.cascade.head"))
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOENT):
                raise
            if error.errno == errno.ENOENT:
                self._made.discard(file.path)
            return 0

    def _after_the_end(self, file: Tracked) -> None:
        if self._head(file) != len(file.versions):
            self.fail(f"{file.path} has {self._head(file)} versions, expected {len(file.versions)}")
        if file.path in self._made:
            self._check_now(file)
        numbers = range(1, len(file.versions) + 1)
        for number in self.random.sample(numbers, min(len(numbers), OLD_VERSIONS_CHECKED)):
            self._check_version(file, number)
        with contextlib.suppress(OSError):
            self.door.cat(f"{file.path}@v{len(file.versions) + 1}")
            self.fail(f"{file.path} has a version nobody made")
        self._open(file)

    def _check_now(self, file: Tracked) -> None:
        self._compare(file.path, self.door.cat(file.path), file.now)

    def _check_version(self, file: Tracked, number: int) -> None:
        name = f"{file.path}@v{number}"
        self._compare(name, self.door.cat(name), file.versions[number - 1])

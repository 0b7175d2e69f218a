"""The product and the reference side by side: every call is made on both, and what they answer is compared.

A `Door` is the product as a program sees it: the file system layer in this process (`layer`) or a mount (`mount`). A
call that the reference refuses must fail with one of its errnos, and every other one must succeed. After each step the
live trees are equal. `look_back` compares random pasts: versions, a directory at an instant in one of its spellings, a
log, what is deleted, a label; `finish` compares all that is left of history. What is random there comes from the seed
that the step names, so a sequence of calls always does the same.

Every line of the transcript is the call that makes it: a failing sequence can be pasted into a test (`test_found`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import traceback
from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, ClassVar, NamedTuple, NoReturn, Protocol

from tests.model.reference import (
    DIRECTORY,
    FILE,
    LINK,
    ROOT,
    Gone,
    Look,
    Reference,
    Refusal,
    Spec,
    Version,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AUTOCOMMIT_S = 5.5
MOMENTS_AT_THE_END = 12

FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY,
    "rw": os.O_RDWR,
    "creat": os.O_CREAT,
    "excl": os.O_EXCL,
    "trunc": os.O_TRUNC,
    "append": os.O_APPEND,
}


DONE: Counter[tuple[str, str]] = Counter()
"""How often each call was made, and with what result, by all pairs of this process."""


class Divergence(AssertionError):
    """The product and the reference do not agree; the message is the sequence and what differs."""


class Seen(NamedTuple):
    """One entry as the product shows it."""

    number: int
    look: Look
    size: int


class Door(Protocol):
    """The product. Calls raise OSError as a program gets it; handles are whatever the door likes."""

    prefix: str
    """The path of the reference's root inside the store, with a slash behind unless it is the root."""

    has_exact_times: bool
    """Whether the times of commits are theirs, and not some instant before the next one."""

    def open(self, path: str, flags: int, process: int) -> object: ...
    def picture(self, path: str) -> dict[str, Seen]: ...
    def cat(self, path: str) -> bytes: ...
    def ls(self, path: str) -> list[str]: ...
    def getxattr(self, path: str, name: str) -> bytes: ...
    def commit_times(self) -> list[int]:
        """Timestamps of the commits since the last call, ascending; the last one may be any instant behind them."""

    def clock_us(self) -> int: ...
    def now(self) -> int:
        """An instant after the last commit and before the next."""


def epoch(time_us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)


def canonical(time_us: int) -> str:
    """CANON of SEMANTICS 2."""
    return epoch(time_us).strftime("%Y%m%dT%H%M%S.%fZ")


class Pair:
    """See the module."""

    failed_lines: ClassVar[list[str]] = []
    """The transcript of the pair that failed last."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.reference = Reference()
        self.lines: list[str] = []
        self.steps = 0
        self.random = Random(0)
        self.files: dict[int, object] = {}
        self.bytes_written = 0
        self.agrees = True
        # What the product calls each inode and each version, and must call it for ever.
        self.numbers: dict[int, int] = {}
        self.version_numbers: dict[tuple[int, str, int], int] = {}
        self._learn_times(0)

    # --- one step ----------------------------------------------------------------------------------------------

    def fail(self, what: str) -> NoReturn:
        self.agrees = False
        Pair.failed_lines = list(self.lines)
        raise Divergence("\n".join(["", *self.lines, "", what]))

    def both(self, line: str, expect: Callable[[], object], do: Callable[[], object]) -> object:
        """Make a call on both; the product's answer, or None where both refused."""
        self.lines.append(line)
        before, started_us = len(self.reference.moments), self.door.clock_us()
        refusal = error = answer = None
        try:
            expect()
        except Refusal as refused:
            refusal = refused
        try:
            answer = do()
        except OSError as raised:
            error = errno.errorcode.get(raised.errno or 0, "?").replace("ENOTSUP", "EOPNOTSUPP")
        except Exception as trouble:
            self.fail(f"{type(trouble).__name__}: {trouble}\n{traceback.format_exc()}")
        if error is not None or refusal is not None:
            self.lines[-1] += f"  # {error or 'done'}"
        if refusal is None and error is not None:
            self.fail(f"refused with {error}; it should have been done")
        if refusal is not None and error not in refusal.errnos:
            self.fail(f"{error or 'done'}; it should have been refused with {refusal}")
        DONE[line.partition("(")[0].removeprefix("w."), error or "done"] += 1
        for moment in self.reference.moments[before:]:
            moment.started = started_us
        self._learn_times(before)
        self.check()
        return answer

    def _learn_times(self, before: int) -> None:
        """Give the moments of this step their times."""
        times = self.door.commit_times()
        new = self.reference.moments[before:]
        if len(times) == len(new):
            for moment, time in zip(new, times, strict=True):
                moment.time = time
        elif new:
            new[-1].time = self.door.now()

    def check(self) -> None:
        """The present, and now and then a past."""
        self.steps += 1
        with self._transcript():
            self.check_live()

    @contextlib.contextmanager
    def _transcript(self) -> Iterator[None]:
        """What goes wrong inside says after which calls."""
        try:
            yield
        except Divergence:
            raise
        except Exception:
            self.fail(traceback.format_exc())

    # --- calls on names ----------------------------------------------------------------------------------------

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        self.both(
            f"w.mkdir({path!r}, 0o{mode:o})",
            lambda: self.reference.mkdir(path, mode),
            lambda: self.door.mkdir(path, mode),
        )

    def mknod(self, path: str) -> None:
        self.both(
            f"w.mknod({path!r})",
            lambda: self.reference.mknod(path, 0o644),
            lambda: self.door.mknod(path),
        )

    def symlink(self, target: str, path: str) -> None:
        self.both(
            f"w.symlink({target!r}, {path!r})",
            lambda: self.reference.symlink(target, path),
            lambda: self.door.symlink(target, path),
        )

    def link(self, old: str, new: str) -> None:
        self.both(
            f"w.link({old!r}, {new!r})",
            lambda: self.reference.link(old, new),
            lambda: self.door.link(old, new),
        )

    def unlink(self, path: str) -> None:
        self.both(
            f"w.unlink({path!r})",
            lambda: self.reference.unlink(path),
            lambda: self.door.unlink(path),
        )

    def rmdir(self, path: str) -> None:
        self.both(
            f"w.rmdir({path!r})", lambda: self.reference.rmdir(path), lambda: self.door.rmdir(path)
        )

    def rename(self, old: str, new: str, flags: str = "") -> None:
        noreplace, exchange = flags == "noreplace", flags == "exchange"
        self.both(
            f"w.rename({old!r}, {new!r}, {flags!r})",
            lambda: self.reference.rename(old, new, noreplace=noreplace, exchange=exchange),
            lambda: self.door.rename(old, new, noreplace + 2 * exchange),
        )

    # --- calls on metadata -------------------------------------------------------------------------------------

    def truncate(self, path: str, size: int) -> None:
        self.both(
            f"w.truncate({path!r}, {size})",
            lambda: self.reference.truncate(path, size),
            lambda: self.door.truncate(path, size),
        )

    def chmod(self, path: str, mode: int) -> None:
        self.both(
            f"w.chmod({path!r}, 0o{mode:o})",
            lambda: self.reference.chmod(path, mode),
            lambda: self.door.chmod(path, mode),
        )

    def utime(self, path: str, mtime_ns: int) -> None:
        self.both(
            f"w.utime({path!r}, {mtime_ns})",
            lambda: self.reference.utime(path, mtime_ns),
            lambda: self.door.utime(path, mtime_ns),
        )

    def setxattr(self, path: str, name: str, value: bytes, flags: str = "") -> None:
        create, replace = flags == "create", flags == "replace"
        self.both(
            f"w.setxattr({path!r}, {name!r}, {value!r}, {flags!r})",
            lambda: self.reference.setxattr(path, name, value, create=create, replace=replace),
            lambda: self.door.setxattr(path, name, value, create + 2 * replace),
        )

    def removexattr(self, path: str, name: str) -> None:
        self.both(
            f"w.removexattr({path!r}, {name!r})",
            lambda: self.reference.removexattr(path, name),
            lambda: self.door.removexattr(path, name),
        )

    def restore(self, path: str, kind: str, value: int | str) -> None:
        """Of files; what restoring a directory does to the numbers of all that is in it is not modelled."""
        spec = self._spec(kind, value)
        if spec is None or self._is_directory(path):
            return
        text = self.spell("", spec)[1:]
        self.both(
            f"w.restore({path!r}, {kind!r}, {value!r})",
            lambda: self.reference.restore(path, spec),
            lambda: self.door.setxattr(path, "user.cascade.restore", text.encode(), 0),
        )

    def _is_directory(self, path: str) -> bool:
        try:
            return self.reference.inodes[self.reference.walk(path)].kind == DIRECTORY
        except Refusal:
            return False

    def label(self, path: str, label: str) -> None:
        if self._is_known(path):
            self.both(
                f"w.label({path!r}, {label!r})",
                lambda: self.reference.label(path, label),
                lambda: self.door.mkdir(f"{path}@tag-{label}", 0o755),
            )

    def unlabel(self, path: str, label: str) -> None:
        if self._is_known(path):
            self.both(
                f"w.unlabel({path!r}, {label!r})",
                lambda: self.reference.unlabel(path, label),
                lambda: self.door.rmdir(f"{path}@tag-{label}"),
            )

    def _is_known(self, path: str) -> bool:
        """Whether a spec of the path is history here; elsewhere it would be a plain name."""
        try:
            return self.reference.known(*self.reference.parent(path))
        except Refusal:
            return False

    # --- changes of the past, which are all refused ----------------------------------------------------------------

    def forge(self, call: str, path: str, kind: str, value: int | str) -> None:
        """Try to change what `path@spec` shows, or to make it where it shows nothing (SEMANTICS 5)."""
        spec = self._spec(kind, value)
        if spec is None or not self._is_known(path):
            return
        there = self._kind_then(path, spec)
        if there == LINK and call in ("creat", "write", "chmod", "truncate"):
            return  # they follow it, into the present
        name = self.spell(path, spec)
        makes = call in ("creat", "mkdir", "symlink", "rename")
        expected = {"EROFS"} if there else {"EINVAL"} if makes else {"ENOENT"}
        if makes and there:
            expected |= {"EEXIST", "EINVAL"}
        if call in ("unlink", "rmdir", "rename", "truncate", "creat", "write"):
            expected |= {"EISDIR", "ENOTDIR"} if there else set()
        if call in ("mkdir", "rmdir") and spec.kind == "tag":
            return  # that is how labels are made and dropped

        def refuse() -> None:
            raise Refusal(*expected)

        calls = {
            "creat": lambda: self.door.open(name, os.O_WRONLY | os.O_CREAT, 0),
            "write": lambda: self.door.open(name, os.O_RDWR, 0),
            "mkdir": lambda: self.door.mkdir(name, 0o755),
            "symlink": lambda: self.door.symlink("a", name),
            "rename": lambda: self.door.rename("a", name, 0),
            "unlink": lambda: self.door.unlink(name),
            "rmdir": lambda: self.door.rmdir(name),
            "chmod": lambda: self.door.chmod(name, 0o600),
            "truncate": lambda: self.door.truncate(name, 1),
        }
        if call == "rename":
            try:
                self.reference.walk("a", follow=False)
            except Refusal:
                expected = {"ENOENT", "EINVAL", "EROFS"}
        self.both(f"w.forge({call!r}, {path!r}, {kind!r}, {value!r})", refuse, calls[call])

    def _kind_then(self, path: str, spec: Spec) -> str | None:
        """What `path@spec` is; None if nothing."""
        try:
            moment, number = self.reference.past(path, spec)
        except Refusal:
            return None
        return self.reference.moments[moment].looks[number].kind

    # --- calls on open files -----------------------------------------------------------------------------------

    def open(self, fd: int, path: str, flags: str, process: int = 0) -> bool:
        """Open a file as `fd`; whether it is."""
        words = flags.split()
        wanted = 0
        for word in words:
            wanted |= FLAGS[word]

        def expect() -> None:
            self.reference.handles[fd] = self.reference.open(
                path,
                reads="w" not in words,
                writes="r" not in words,
                **{word: True for word in words if word not in ("r", "w", "rw")},
            )
            self.reference.handles[fd].process = process

        def do() -> None:
            self.files[fd] = self.door.open(path, wanted, process)

        who = f", process={process}" if process else ""
        self.both(f"w.open({fd}, {path!r}, {flags!r}{who})", expect, do)
        return fd in self.files

    def open_past(self, fd: int, path: str, kind: str, value: int | str) -> bool:
        """Open a file of the past as `fd`; whether it is."""
        spec = self._spec(kind, value)
        if spec is None or self._kind_then(path, spec) == LINK:
            return False  # a link of the past leads to the present

        def expect() -> None:
            self.reference.handles[fd] = self.reference.open_past(path, spec)

        def do() -> None:
            self.files[fd] = self.door.open(self.spell(path, spec), os.O_RDONLY, 0)

        self.both(f"w.open_past({fd}, {path!r}, {kind!r}, {value!r})", expect, do)
        return fd in self.files

    def close(self, fd: int) -> None:
        handle, file = self.reference.handles.pop(fd), self.files.pop(fd)
        self.both(
            f"w.close({fd})", lambda: self.reference.close(handle), lambda: self.door.close(file)
        )

    def close_duplicate(self, fd: int) -> None:
        handle, file = self.reference.handles[fd], self.files[fd]
        self.both(
            f"w.close_duplicate({fd})",
            lambda: self.reference.flush(handle),
            lambda: self.door.close_duplicate(file),
        )

    def fsync(self, fd: int) -> None:
        handle, file = self.reference.handles[fd], self.files[fd]
        self.both(
            f"w.fsync({fd})", lambda: self.reference.fsync(handle), lambda: self.door.fsync(file)
        )

    def read(self, fd: int, offset: int, length: int) -> None:
        handle, file = self.reference.handles[fd], self.files[fd]
        self.lines.append(f"w.read({fd}, {offset}, {length})")
        self.steps += 1
        got = self.door.read(file, offset, length)
        expected = self.reference.read(handle, offset, length)
        if got != expected:
            self.fail(f"read {got!r}\nexpected {expected!r}")

    def some_bytes(self, length: int) -> bytes:
        """Bytes that were never written before, and tell where they are from."""
        start, self.bytes_written = self.bytes_written, self.bytes_written + length
        words = range(start // 8, (start + length) // 8 + 2)
        return b"".join(b"%07d " % word for word in words)[start % 8 :][:length]

    def write(self, fd: int, offset: int, length: int) -> None:
        handle, file = self.reference.handles[fd], self.files[fd]
        data = self.some_bytes(length)
        self.both(
            f"w.write({fd}, {offset}, {length})",
            lambda: self.reference.write(handle, offset, data),
            lambda: self.door.write(file, offset, data),
        )

    def ftruncate(self, fd: int, size: int) -> None:
        handle, file = self.reference.handles[fd], self.files[fd]
        self.both(
            f"w.ftruncate({fd}, {size})",
            lambda: self.reference.ftruncate(handle, size),
            lambda: self.door.ftruncate(file, size),
        )

    def allocate(self, fd: int, offset: int, length: int, how: str = "") -> None:
        """`how`: "" for room, "keep", "zero", "zero keep" or "punch"."""
        handle, file = self.reference.handles[fd], self.files[fd]
        zero, keep = "zero" in how or how == "punch", "keep" in how or how == "punch"
        mode = keep + 2 * (how == "punch") + 16 * ("zero" in how)
        self.both(
            f"w.allocate({fd}, {offset}, {length}, {how!r})",
            lambda: self.reference.allocate(handle, offset, length, zero=zero, keep_size=keep),
            lambda: self.door.allocate(file, offset, length, mode),
        )

    def copy(self, source: int, source_offset: int, target: int, offset: int, length: int) -> None:
        """copy_file_range(2); the product may do less than asked, but something if there is something."""
        read, write = self.reference.handles[source], self.reference.handles[target]
        files = self.files[source], self.files[target]
        length = min(length, max(0, len(self.reference.bytes_of(read)) - source_offset))
        apart = source_offset + length <= offset or offset + length <= source_offset
        if read.inode == write.inode and read.frozen is None and not apart:
            return
        done = 0

        def do() -> None:
            nonlocal done
            done = self.door.copy(files[0], source_offset, files[1], offset, length)

        def expect() -> None:
            do()
            self.reference.copy(read, source_offset, write, offset, done)

        line = f"w.copy({source}, {source_offset}, {target}, {offset}, {length})"
        self.both(line, expect, lambda: None)
        if not (1 <= done <= length or done == length == 0):
            self.fail(f"copied {done} of {length} bytes")

    def check_holes(self, fd: int) -> None:
        """SEEK_DATA and SEEK_HOLE: what is said to be a hole reads as zeros, and the stretches cover the file."""
        data = self.reference.bytes_of(self.reference.handles[fd])
        self.lines.append(f"w.check_holes({fd})")
        at = 0
        while at < len(data):
            start = self.door.seek(self.files[fd], at, data=True)
            if any(data[at : len(data) if start is None else start]):
                self.fail(f"bytes from {at} to {start} are no hole")
            if start is None:
                break
            end = self.door.seek(self.files[fd], start, data=False)
            if end is None or not start < end <= len(data):
                self.fail(f"data from {start} ends at {end}")
            at = end

    # --- time, ends --------------------------------------------------------------------------------------------

    def wait(self, seconds: int) -> None:
        """Time passes, and somebody keeps house."""

        def expect() -> None:
            self.reference.clock_s += seconds
            self.reference.autocommit(AUTOCOMMIT_S)

        self.both(f"w.wait({seconds})", expect, lambda: self.door.wait(seconds))

    def _end(self, line: str, expect: Callable[[], None], do: Callable[[], None]) -> None:
        self.files.clear()
        self.both(line, expect, do)

    def restart(self) -> None:
        """A clean stop, and a start."""
        self._end("w.restart()", self.reference.stop, self.door.restart)

    def kill(self) -> None:
        """The process dies: what is committed stays, synced or not, and drafts are lost."""
        last = len(self.reference.moments) - 1
        self._end("w.kill()", lambda: self.reference.fall_back(last), self.door.kill)

    def power_cut(self, seed: int) -> None:
        """The machine dies: what is synced stays, and of the rest a prefix, in order."""
        self.lines.append(f"w.power_cut({seed})")
        self.files.clear()
        DONE["power_cut", "done"] += 1
        survived = self.door.power_cut(seed)
        moments = self.reference.moments
        known = [i for i, m in enumerate(moments) if m.time is not None and m.time <= survived]
        moment = known[-1] if known else 0
        if moment < self.reference.synced:
            self.fail(f"{self.reference.synced - moment} commits that were synced are gone")
        self.lines[-1] += f"  # {len(moments) - 1 - moment} commits lost"
        self.reference.fall_back(moment)
        self.numbers = {
            ours: number
            for ours, number in self.numbers.items()
            if any(ours in m.looks for m in self.reference.moments)
        }
        self.version_numbers.clear()
        self.door.commit_times()
        self.check()

    # --- comparing ---------------------------------------------------------------------------------------------

    def _expected(
        self, tree: dict[int, dict[str, int]], number: int, at: str = ""
    ) -> Iterator[tuple[str, int]]:
        yield at, number
        for name, child in tree.get(number, {}).items():
            yield from self._expected(tree, child, f"{at}/{name}" if at else name)

    def _compare(self, what: str, expected: dict[str, Look], seen: dict[str, Seen]) -> None:
        if expected.keys() != seen.keys():
            self.fail(
                f"{what}: missing {sorted(expected.keys() - seen.keys())}, "
                f"too many {sorted(seen.keys() - expected.keys())}"
            )
        for path, look in expected.items():
            found = seen[path]
            shown = found.look._replace(
                mtime=look.mtime if look.mtime is None else found.look.mtime
            )
            if shown != look:
                self.fail(f"{what}: {path or '.'} is\n{shown}\nexpected\n{look}")
            if look.kind != DIRECTORY and found.size != len(look.data):
                self.fail(f"{what}: {path} has size {found.size}, expected {len(look.data)}")

    @staticmethod
    def figures() -> str:
        """What was done so far in this process, of all kinds."""
        done = sum(count for (_, word), count in DONE.items() if word == "done")
        refused = sum(DONE.values()) - done
        return f"{sum(DONE.values())} calls ({refused} refused)"

    def check_live(self) -> None:
        """The present: every name, and what is behind it."""
        reference = self.reference
        expected = dict(self._expected(reference.trees, ROOT))
        seen = self.door.picture("")
        looks = {path: reference.look(number, now=True) for path, number in expected.items()}
        self._compare("now", looks, seen)
        for path, number in expected.items():
            known = self.numbers.setdefault(number, seen[path].number)
            if known != seen[path].number:
                self.fail(f"{path} has the number {seen[path].number}; it was {known}")
        if len(set(self.numbers.values())) != len(self.numbers):
            self.fail("two files had the same number")

    def check_moment(self, moment: int, path: str, number: int) -> None:
        """The tree below `path`, as of a moment, is `number` as it was then."""
        then = self.reference.moments[moment]
        expected = dict(self._expected(then.trees, number))
        looks = {name: then.looks[inode] for name, inode in expected.items()}
        try:
            seen = self.door.picture(path)
        except OSError as error:
            self.fail(f"{path}: {error}; expected {sorted(expected)}")
        self._compare(path, looks, seen)

    def check_absent(self, path: str) -> None:
        try:
            self.door.picture(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            self.fail(f"{path}: {error}; expected ENOENT")
        self.fail(f"{path} is there; expected ENOENT")

    def check_spec(self, path: str, spec: Spec) -> Seen | None:
        """What `path@spec` shows."""
        name = self.spell(path, spec)
        try:
            moment, number = self.reference.past(path, spec)
        except Refusal:
            self.check_absent(name)
            return None
        self.check_moment(moment, name, number)
        return self.door.picture(name)[""]

    def _spec(self, kind: str, value: int | str) -> Spec | None:
        """A spec from what a step has drawn: for "at", the number of a moment counted around."""
        if kind != "at":
            return Spec(kind, value)
        moment = int(value) % len(self.reference.moments)
        return Spec("at", moment) if self.reference.moments[moment].time is not None else None

    def spell(self, path: str, spec: Spec) -> str:
        """`path@spec`, in one of the spellings."""
        if spec.kind == "at":
            time_us = self.reference.moments[spec.value].time
            assert time_us is not None
            choices = (f"t={time_us:016d}", canonical(time_us), f"t={epoch(time_us).isoformat()}")
            text = choices[self.steps % 3]
        elif spec.kind == "tag":
            text = f"{'tag=' if self.steps % 2 else 'tag-'}{spec.value}"
        elif spec.kind == "deleted":
            text = "deleted"
        else:
            text = f"{spec.kind}{spec.value}"
        stem, dot, extension = path.rpartition(".")
        if (
            dot
            and "/" not in extension
            and stem
            and extension
            and self.steps % 2
            and "." not in text
        ):
            return f"{stem}@{text}.{extension}"
        return f"{path}@{text}"

    # --- pasts -------------------------------------------------------------------------------------------------

    def look_back(self, seed: int) -> None:
        """Some pasts, chosen by chance."""
        self.random = Random(seed)
        self.lines.append(f"w.look_back({seed})")
        self.steps += 1
        with self._transcript():
            for check in self.random.sample(self._pasts(), 3):
                check()

    def _pasts(self) -> list[Callable[[], None]]:
        return [
            self._check_some_version,
            self._check_some_version,
            self._check_some_moment,
            self._check_some_moment,
            self._check_some_deleted,
            self._check_some_label,
            self._check_some_instants,
            self._check_some_minutes_ago,
            self._check_some_inode,
        ]

    def live_paths(self, *, files: bool) -> list[str]:
        """Every name there is, or every one of a file."""
        reached = self._expected(self.reference.trees, ROOT)
        kinds = {n: inode.kind for n, inode in self.reference.inodes.items()}
        return [path for path, n in reached if path and (kinds[n] == FILE or not files)]

    def _live_directories(self) -> list[tuple[str, int]]:
        reached = self._expected(self.reference.trees, ROOT)
        return [(path, n) for path, n in reached if self.reference.inodes[n].kind == DIRECTORY]

    def _entries(self) -> list[tuple[str, int, str]]:
        """Every (path, directory, name) that has history, below the directories that are there now."""
        return [
            (f"{path}/{name}" if path else name, directory, name)
            for path, directory in self._live_directories()
            for (of, name), history in self.reference.histories.items()
            if of == directory and history
        ]

    def _check_some_version(self) -> None:
        entries = self._entries()
        if entries:
            self.check_versions(*self.random.choice(entries))

    def check_versions(self, path: str, directory: int, name: str) -> None:
        """Every number of a name, and its log."""
        history = self.reference.histories[directory, name]
        last = self.reference.last(directory, name)
        is_directory = last is not None and self.reference.inodes[last].kind == DIRECTORY
        there = []
        for number, version in enumerate(history, 1):
            seen = self.check_spec(path, Spec("v", number))
            if isinstance(version, Gone):
                continue
            there.append(number)
            assert seen is not None
            if seen.look.kind == FILE:
                key = (directory, name, number)
                if self.version_numbers.setdefault(key, seen.number) != seen.number:
                    self.fail(f"{path}@v{number} has another st_ino than before")
        self.check_absent(f"{path}@v{len(history) + 1}")
        self.check_absent(f"{path}@v0")
        self.check_spec(path, Spec("v-", self.random.randrange(len(history) + 1)))
        if is_directory:
            return
        stem, dot, extension = name.rpartition(".")
        extension = f".{extension}" if stem and dot else ""
        listed = sorted(self.door.ls(f"{path}@@"))
        if listed != sorted(f"v{number}{extension}" for number in there):
            self.fail(f"{path}@@ lists {listed}; expected the versions {there}")
        self._check_log(path, history)
        if name in self.reference.trees[directory]:
            self._check_answers(path, history, directory, name)

    def _check_log(self, path: str, history: list[Version | Gone]) -> None:
        lines = [json.loads(line) for line in self.door.cat(f"{path}@@/.log").splitlines()]
        expected = [self._log_line(number, history) for number in range(len(history), 0, -1)]
        shown = [
            {key: line.get(key) for key in want}
            for line, want in zip(lines, expected, strict=False)
        ]
        if len(lines) != len(expected) or shown != expected:
            self.fail(f"the log of {path} is\n{shown}\nexpected\n{expected}")

    def _log_line(self, number: int, history: list[Version | Gone]) -> dict[str, object]:
        version, moments = history[number - 1], self.reference.moments
        time = moments[version.when].time
        line: dict[str, object] = {"version": number}
        if time is not None and self.door.has_exact_times:
            line["timestamp"] = time
        if isinstance(version, Gone):
            moved = version.moved_to
            line |= {"kind": "moved" if moved else "delete", "same": False}
            return line | {"moved_to": self._reached(moved)}
        look = moments[version.when].looks[version.inode]
        before = history[number - 2] if number > 1 else None
        same = False
        if isinstance(before, Version):
            earlier = moments[before.when].looks[before.inode]
            same = look.kind == earlier.kind == FILE and look.data == earlier.data
        return line | {
            "kind": version.kind,
            "size": len(look.data),
            "same": same,
            "moved_from": self._reached(version.origin),
            "moved_to": None,
        }

    def _reached(self, place: tuple[int, str] | None) -> str | None:
        path = self.reference.path_of(*place) if place is not None else None
        return None if path is None else self.door.prefix + path

    def _check_answers(
        self, path: str, history: list[Version | Gone], directory: int, name: str
    ) -> None:
        """user.cascade.version and head of a live name."""
        number = self.reference.trees[directory][name]
        if self.reference.inodes[number].kind == LINK or len(self.reference.names(number)) > 1:
            return  # of several names they speak of the one last looked up (SEMANTICS 10)
        shown = len(history) if self.reference.inodes[number].commits else None
        for attribute, expected in (("version", shown), ("head", len(history))):
            try:
                answer = int(self.door.getxattr(path, f"user.cascade.{attribute}"))
            except OSError:
                answer = None
            if answer != expected:
                self.fail(f"user.cascade.{attribute} of {path} is {answer}; expected {expected}")

    def _check_some_moment(self) -> None:
        moments = [i for i, m in enumerate(self.reference.moments) if m.time is not None]
        self.check_all_of(self.random.choice(moments))

    def check_all_of(self, moment: int) -> None:
        """The whole tree at a moment, below one of the directories that are there now."""
        time_us = self.reference.moments[moment].time
        assert time_us is not None
        path, number = self.random.choice(self._live_directories())
        spelled = [self.spell(f"{path}/." if path else ".", Spec("at", moment))]
        if path:
            spelled.append(f"{path}@@/{canonical(time_us)}")
        else:
            spelled.append(f".@@/{canonical(time_us)}")
        if number in self.reference.moments[moment].looks:
            self.check_moment(moment, self.random.choice(spelled), number)
        else:
            self.check_absent(spelled[0])
        root = f".cascade/at/{canonical(time_us)}/{self.door.prefix}"
        if self.door.prefix == "" and self.random.random() < 0.3:
            self.check_moment(moment, root, ROOT)

    def _check_some_deleted(self) -> None:
        path, directory = self.random.choice(self._live_directories())
        self.check_deleted(path, directory)

    def check_deleted(self, path: str, directory: int) -> None:
        """`.@deleted/` of a directory, and each name in it."""
        below = f"{path}/" if path else ""
        expected = {}
        for of, name in self.reference.histories:
            if of == directory:
                try:
                    expected[name] = self.reference.deleted(directory, name)
                except Refusal:
                    continue
        listed = self.door.ls(f"{below}.@deleted")
        if sorted(listed) != sorted(expected):
            self.fail(f"{below}.@deleted lists {listed}; expected {sorted(expected)}")
        for name, (moment, number) in expected.items():
            shown = (f"{below}.@deleted/{name}", f"{below}{name}@deleted")
            self.check_moment(moment, self.random.choice(shown), number)

    def _check_some_label(self) -> None:
        if self.reference.labels:
            self.check_label(*self.random.choice(sorted(self.reference.labels)))

    def check_label(self, number: int, label: str) -> None:
        """A label, by the name of its directory and in the listing of its instants."""
        moment = self.reference.labels[number, label]
        for path, live in self._live_directories():
            if live == number:
                self.check_moment(moment, f"{path or '.'}@tag-{label}", number)
                name = f"{path}@@/tag-{label}" if path else f".@@/tag-{label}"
                self.check_moment(moment, name, number)
                labels = self.door.getxattr(path or ".", "user.cascade.labels").decode().split()
                expected = sorted(name for of, name in self.reference.labels if of == number)
                if sorted(labels) != expected:
                    self.fail(f"labels of {path} are {labels}; expected {expected}")

    def _check_some_instants(self) -> None:
        """`dir@@/`: every instant listed is there to visit, and every commit below is listed."""
        path, number = self.random.choice(self._live_directories())
        listing = f"{path}@@" if path else ".@@"
        listed = self.door.ls(listing)
        tags = sorted(f"tag-{name}" for of, name in self.reference.labels if of == number)
        if sorted(name for name in listed if name.startswith("tag-")) != tags:
            self.fail(f"{listing} lists {listed}; expected the labels {tags}")
        by_name = {
            canonical(m.time): i for i, m in enumerate(self.reference.moments) if m.time is not None
        }
        instants = [name for name in listed if not name.startswith("tag-")]
        known = [name for name in map(_padded, instants) if name in by_name]
        if known:
            moment = by_name[self.random.choice(known)]
            time_us = self.reference.moments[moment].time
            self.check_moment(moment, f"{listing}/{canonical(time_us)}", number)

    def _check_some_minutes_ago(self) -> None:
        """`@-K`: where a moment is certain to be the newest at that whole second."""
        seconds = self.random.randrange(1, 40)
        time_us = (self.door.clock_us() - seconds * 10**6) // 10**6 * 10**6
        moments = self.reference.moments
        before = [i for i, m in enumerate(moments) if m.time is not None and m.time <= time_us]
        if not before or any(m.started <= time_us for m in moments[before[-1] + 1 :]):
            return
        self.check_moment(before[-1], f".@-{seconds}s", ROOT)

    def _check_some_inode(self) -> None:
        """`.cascade/by-id`: content by number, whatever its names are."""
        files = [n for n, i in self.reference.inodes.items() if i.commits and n in self.numbers]
        if not files:
            return
        number = self.random.choice(files)
        commits = self.reference.inodes[number].commits
        which = self.random.randrange(len(commits))
        moment = commits[which]
        if self.reference.inodes[number].kind == FILE:
            path = f".cascade/by-id/{self.numbers[number]}"
            shown = self.door.cat_absolute(f"{path}/v{which + 1}")
            expected = self.reference.moments[moment].looks[number].data
            if shown != expected:
                self.fail(f"{path}/v{which + 1} is {shown!r}\nexpected {expected!r}")

    def finish(self) -> None:
        """Everything that can be asked of the whole history."""
        self.lines.append("w.finish()")
        self.random = Random(self.steps)
        with self._transcript():
            for entry in self._entries():
                self.check_versions(*entry)
            for path, directory in self._live_directories():
                self.check_deleted(path, directory)
            for number, label in self.reference.labels:
                self.check_label(number, label)
            moments = [i for i, m in enumerate(self.reference.moments) if m.time is not None]
            for moment in self.random.sample(moments, min(len(moments), MOMENTS_AT_THE_END)):
                self.check_all_of(moment)


def _padded(name: str) -> str:
    """A canonical time with all six digits of its microseconds."""
    whole, dot, fraction = name.removesuffix("Z").partition(".")
    return f"{whole}.{fraction.ljust(6, '0') if dot else '000000'}Z"

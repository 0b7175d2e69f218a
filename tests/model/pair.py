"""The product and the reference side by side: every call is made on both, and what they answer is compared.

A `Door` is the product as a program sees it: the file system layer in this process (`layer`) or a mount (`mount`). A
call that the reference refuses must fail with one of its errnos, and every other one must succeed. After each step the
live trees are equal. `look_back` compares random pasts: versions, a directory at an instant in one of its spellings, a
log, what is deleted, a label; `finish` compares all that is left of history. What is random there comes from the seed
that the step names, so a sequence of calls always does the same.

Every line of the transcript is the call that makes it: a failing sequence can be pasted into a test (`test_found`).
"""

from __future__ import annotations

import errno
import os
import traceback
from collections import Counter
from typing import TYPE_CHECKING

from tests.model.comparison import Comparison
from tests.model.reference import DIRECTORY, LINK, Refusal, Spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.comparison import Door

AUTOCOMMIT_S = 5.5
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


class Pair(Comparison):
    """See the module."""

    def __init__(self, door: Door) -> None:
        super().__init__(door)
        self.files: dict[int, object] = {}
        self.bytes_written = 0
        self._learn_times(0)

    # --- one step ----------------------------------------------------------------------------------------------

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

    @staticmethod
    def figures() -> str:
        """What was done so far in this process, of all kinds."""
        done = sum(count for (_, word), count in DONE.items() if word == "done")
        refused = sum(DONE.values()) - done
        return f"{sum(DONE.values())} calls ({refused} refused)"

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

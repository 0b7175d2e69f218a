"""What is done to product and reference: random calls, drawn by Hypothesis.

The names are few, so that calls meet: files where directories are wanted, renames over each other, links that
lead nowhere. A rule whose handle is not there takes another one; so shrinking drops steps and the rest still mean
something.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model.comparison import Comparison, Divergence
from tests.model.shrink import smallest

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.model.pair import Pair
    from tests.model.reference import Handle

NAMES = ["a", "b.txt", "d", "e"]
PATHS = [
    *NAMES,
    *(f"d/{name}" for name in NAMES),
    *(f"e/{name}" for name in ("a", "d")),
    "d/e/a",
    "d/d/b.txt",
]
TARGETS = ["a", "d", "d/a", "e", "nowhere", "b.txt"]
OPENINGS = [
    "r",
    "rw",
    "w append",
    "rw creat",
    "rw creat",
    "w creat trunc",
    "rw trunc",
    "rw creat excl",
    "rw creat append",
    "w creat excl trunc",
]
MODES = [0o644, 0o600, 0o755, 0o400, 0o777]
HANDLES_MAX = 5
LABELS = ["one", "two"]

path = st.sampled_from(PATHS)
bound = st.one_of(path, st.integers(0, 20), st.integers(0, 20))
"""A path, or the number of one that is there."""
place = st.sampled_from([0, 0, 1, 5, 40, 63, 64, 65, 100, 128, 200, 300])
width = st.sampled_from([1, 3, 20, 48, 63, 64, 70, 130, 200])
which = st.integers(0, HANDLES_MAX - 1)
past = st.one_of(
    st.tuples(st.just("v"), st.integers(1, 6)),
    st.tuples(st.just("v-"), st.integers(0, 3)),
    st.tuples(st.just("at"), st.integers(0, 200)),
)


def has_handles(machine: Machine) -> bool:
    return bool(machine.w.reference.handles)


def is_here(handle: Handle) -> bool:
    """Open for a file of the present, in this process."""
    return handle.frozen is None and handle.process == 0


def run(machine: type[Machine], *, examples: int, steps: int) -> None:
    """Run so many sequences of so many steps; of one that fails, the smallest part is told."""
    Comparison.failed_lines = []
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                phases=(Phase.reuse, Phase.generate),
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Exception as error:
        if not Comparison.failed_lines:
            raise
        raise Divergence(smallest(list(Comparison.failed_lines), machine.make_pair)) from error


class Machine(RuleBasedStateMachine):
    """Rules over a `Pair`; a subclass says through which door."""

    w: Pair
    ends_max = 4
    cuts_power = True
    has_ranges = True

    @staticmethod
    def make_pair() -> AbstractContextManager[Pair]:
        """A pair of an empty tree, and its end."""
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.context = contextlib.ExitStack()
        self.w = self.context.enter_context(self.make_pair())
        self.next_fd = 0
        self.ends_left = self.ends_max
        for name in ("d", "e", "d/e"):
            self.w.mkdir(name)
        for name, length in (("a", 100), ("d/b.txt", 10)):
            self.put(name, length)
            fd = self.fresh()
            self.w.open(fd, name, "rw")
            self.w.write(fd, 0, 5)

    def at(self, path: str | int, *, file: bool = False) -> str:
        """A path as drawn; a number stands for one that is there, of a file if asked."""
        if isinstance(path, str):
            return path
        paths = self.w.live_paths(files=file) or self.w.live_paths(files=False) or ["a"]
        return paths[path % len(paths)]

    def teardown(self) -> None:
        if hasattr(self, "w"):
            with self.context:
                if self.w.agrees:
                    if (
                        self.w.steps % 2
                    ):  # drafts are looked at too, but then the tree is not turned back
                        for fd, handle in list(self.w.reference.handles.items()):
                            if handle.frozen is None:
                                self.w.fsync(fd)
                    self.w.finish()

    # --- names -------------------------------------------------------------------------------------------------

    @rule(path=path, mode=st.sampled_from(MODES))
    def mkdir(self, path, mode):
        self.w.mkdir(path, mode | 0o700)

    @rule(path=path)
    def mknod(self, path):
        self.w.mknod(path)

    @rule(path=path, to=st.sampled_from(TARGETS))
    def symlink(self, path, to):
        self.w.symlink(to, path)

    @rule(old=bound, new=path)
    def link(self, old, new):
        old = self.at(old, file=True)
        self.w.link(old, new)

    @rule(path=bound)
    def unlink(self, path):
        path = self.at(path, file=True)
        self.w.unlink(path)

    @rule(path=bound)
    def rmdir(self, path):
        path = self.at(path)
        self.w.rmdir(path)

    @rule(
        old=bound, new=bound, flags=st.sampled_from(["", "", "noreplace", "exchange", "exchange"])
    )
    def rename(self, old, new, flags):
        old, new = self.at(old), self.at(new)
        self.w.rename(old, new, flags)

    @rule(path=path, length=width)
    def save(self, path, length):
        """As editors do: write beside, rename over."""
        fd = self.fresh()
        if self.w.open(fd, "new", "w creat trunc"):
            self.w.write(fd, 0, length)
            self.w.close(fd)
            self.w.rename("new", path)

    @rule(path=bound, length=width)
    def put(self, path, length):
        path = self.at(path, file=True)
        fd = self.fresh()
        if self.w.open(fd, path, "w creat trunc"):
            self.w.write(fd, 0, length)
            self.w.close(fd)

    # --- metadata ----------------------------------------------------------------------------------------------

    @rule(path=bound, size=place)
    def truncate(self, path, size):
        path = self.at(path, file=True)
        self.w.truncate(path, size)

    @rule(path=bound, mode=st.sampled_from(MODES))
    def chmod(self, path, mode):
        path = self.at(path)
        self.w.chmod(path, mode)

    @rule(path=bound, mtime_ns=st.sampled_from([0, 10**18 + 1, -5 * 10**8]))
    def utime(self, path, mtime_ns):
        path = self.at(path)
        self.w.utime(path, mtime_ns)

    @rule(
        path=bound,
        name=st.sampled_from(["user.k", "user.l"]),
        value=st.sampled_from([b"", b"one", b"\0\xff"]),
        flags=st.sampled_from(["", "", "create", "replace"]),
    )
    def setxattr(self, path, name, value, flags):
        path = self.at(path)
        self.w.setxattr(path, name, value, flags)

    @rule(path=bound, name=st.sampled_from(["user.k", "user.l"]))
    def removexattr(self, path, name):
        path = self.at(path)
        self.w.removexattr(path, name)

    # --- history -----------------------------------------------------------------------------------------------

    @rule(path=bound, spec=past)
    def restore(self, path, spec):
        path = self.at(path, file=True)
        self.w.restore(path, *spec)

    @rule(
        path=st.sampled_from([".", "d", "d", "e", "d/.", "d/e", "a"]), label=st.sampled_from(LABELS)
    )
    def label(self, path, label):
        self.w.label(path, label)

    @rule(path=st.sampled_from([".", "d", "e"]), label=st.sampled_from(LABELS))
    def unlabel(self, path, label):
        self.w.unlabel(path, label)

    @rule(
        call=st.sampled_from(
            ["creat", "write", "mkdir", "symlink", "rename", "unlink", "rmdir", "chmod", "truncate"]
        ),
        path=bound,
        spec=past,
    )
    def forge(self, call, path, spec):
        path = self.at(path, file=True)
        self.w.forge(call, path, *spec)

    # --- open files --------------------------------------------------------------------------------------------

    def fresh(self) -> int:
        self.next_fd += 1
        return self.next_fd

    def some(self, which: int, allowed) -> int | None:
        """One of the handles that may do something."""
        fds = [fd for fd, handle in self.w.reference.handles.items() if allowed(handle)]
        return fds[which % len(fds)] if fds else None

    @precondition(lambda self: len(self.w.reference.handles) < HANDLES_MAX)
    @rule(path=bound, flags=st.sampled_from(OPENINGS), process=st.integers(0, 1))
    def open(self, path, flags, process):
        path = self.at(path, file=True)
        self.w.open(self.fresh(), path, flags, process)

    @precondition(lambda self: len(self.w.reference.handles) < HANDLES_MAX)
    @rule(
        number=st.integers(0, 20), flags=st.sampled_from(["rw", "rw", "r", "w append", "rw trunc"])
    )
    def open_file(self, number, flags):
        self.w.open(self.fresh(), self.at(number, file=True), flags)

    @precondition(lambda self: len(self.w.reference.handles) < 2)
    @rule(number=st.integers(0, 20), length=width)
    def open_and_write(self, number, length):
        fd = self.fresh()
        if self.w.open(fd, self.at(number, file=True), "rw"):
            self.w.write(fd, 0, length)

    @precondition(lambda self: len(self.w.reference.handles) < HANDLES_MAX)
    @rule(path=bound, spec=past)
    def open_past(self, path, spec):
        path = self.at(path, file=True)
        self.w.open_past(self.fresh(), path, *spec)

    def on_a_handle(self, which, allowed, call, *arguments):
        fd = self.some(which, allowed)
        if fd is not None:
            call(fd, *arguments)

    @precondition(has_handles)
    @rule(which=which, offset=place, length=width)
    def read(self, which, offset, length):
        self.on_a_handle(which, lambda h: h.reads, self.w.read, offset, length)

    @precondition(has_handles)
    @rule(which=which, offset=place, length=width)
    def write(self, which, offset, length):
        self.on_a_handle(which, lambda h: h.writes, self.w.write, offset, length)

    @precondition(has_handles)
    @rule(which=which, offset=place, length=width)
    def write_and_close(self, which, offset, length):
        fd = self.some(which, lambda h: h.writes)
        if fd is not None:
            self.w.write(fd, offset, length)
            self.w.close(fd)

    @precondition(has_handles)
    @rule(which=which, offset=place, length=width)
    def write_and_fsync(self, which, offset, length):
        fd = self.some(which, lambda h: h.writes)
        if fd is not None:
            self.w.write(fd, offset, length)
            self.w.fsync(fd)

    @precondition(has_handles)
    @rule(which=which, size=place)
    def ftruncate(self, which, size):
        self.on_a_handle(which, lambda h: h.writes, self.w.ftruncate, size)

    @precondition(has_handles)
    @rule(
        which=which,
        offset=place,
        length=width,
        how=st.sampled_from(["", "keep", "zero", "zero keep", "punch", "punch"]),
    )
    def allocate(self, which, offset, length, how):
        if self.has_ranges:
            self.on_a_handle(which, is_here, self.w.allocate, offset, length, how)

    @precondition(has_handles)
    @rule(source=which, at=place, sink=which, offset=place, length=width)
    def copy(self, source, at, sink, offset, length):
        reader = self.some(source, lambda h: h.reads and h.process == 0)
        writer = self.some(sink, lambda h: h.writes and not h.appends and h.process == 0)
        if reader is not None and writer is not None:
            self.w.copy(reader, at, writer, offset, length)

    @precondition(has_handles)
    @rule(which=which)
    def holes(self, which):
        self.on_a_handle(which, lambda h: h.reads, self.w.check_holes)

    @precondition(has_handles)
    @rule(which=which)
    def fsync(self, which):
        self.on_a_handle(which, lambda h: h.frozen is None, self.w.fsync)

    @precondition(has_handles)
    @rule(which=which)
    def close_duplicate(self, which):
        self.on_a_handle(which, lambda h: True, self.w.close_duplicate)

    @precondition(has_handles)
    @rule(which=which)
    def close(self, which):
        self.on_a_handle(which, lambda h: True, self.w.close)

    # --- pasts -------------------------------------------------------------------------------------------------

    @rule(seed=st.integers(0, 2**16))
    def look_back(self, seed):
        self.w.look_back(seed)

    @rule(seed=st.integers(0, 2**16))
    def look_back_again(self, seed):
        self.w.look_back(seed)

    # --- ends --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.ends_left)
    @rule(
        how=st.sampled_from(["power_cut", "restart", "kill"]),
        seed=st.integers(0, 1000),
        before=st.sampled_from(["nothing", "write", "fsync"]),
    )
    def end_it(self, how, seed, before):
        """The end of the process or the machine, more often than not in the middle of something."""
        self.ends_left -= 1
        fd = self.some(seed, lambda h: h.writes)
        if fd is not None and before != "nothing":
            self.w.write(fd, 0, 5)
            if before == "fsync":
                self.w.fsync(fd)
        if how == "power_cut" and self.cuts_power:
            self.w.power_cut(seed)
        elif how == "restart":
            self.w.restart()
        else:
            self.w.kill()

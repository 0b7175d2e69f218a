"""What the product shows, held against the reference: the present, and any past.

`Comparison` knows how to look at both sides through a `Door`; what is done to them is `pair`'s. What is looked at by
chance is chosen by a generator that is seeded by the step, so a sequence of calls always does the same.
"""

from __future__ import annotations

import contextlib
import errno
import json
import traceback
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

MOMENTS_AT_THE_END = 12
RESTORED_AT_THE_END = 3


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
    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None: ...
    def pauses(self) -> list[Callable[[], None]]:
        """How to wait for what the kernel is still being told, each once."""

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


class Comparison:
    """See the module. `lines` are the calls made; `steps` counts them."""

    failed_lines: ClassVar[list[str]] = []
    """The calls of whichever failed last."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.reference = Reference()
        self.lines: list[str] = []
        self.steps = 0
        self.random = Random(0)
        self.agrees = True
        # What the product calls each inode and each version, and must call it for ever.
        self.numbers: dict[int, int] = {}
        self.version_numbers: dict[tuple[int, str, int], int] = {}

    def fail(self, what: str) -> NoReturn:
        self.agrees = False
        Comparison.failed_lines = list(self.lines)
        raise Divergence("\n".join(["", *self.lines, "", what]))

    @contextlib.contextmanager
    def _transcript(self) -> Iterator[None]:
        """What goes wrong inside says after which calls."""
        try:
            yield
        except Divergence:
            raise
        except Exception:
            self.fail(traceback.format_exc())

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
        """Everything that can be asked of the whole history; nothing can be done after it."""
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
            self._turn_back()

    def _check_soon(self, moment: int) -> None:
        """As `check_moment` of the root; the kernel may see a name that a restore took for as long as it is told of it."""
        for pause in self.door.pauses():
            try:
                return self.check_moment(moment, "", ROOT)
            except Divergence:
                self.agrees = True
                pause()
        self.check_moment(moment, "", ROOT)

    def _turn_back(self) -> None:
        """The whole tree becomes what it was, at some moments, and then again what it is (SEMANTICS 7).

        What a restore does to the numbers of every name is not modelled, so this comes last. What is there keeps its
        st_ino, wherever it is moved to, and no past is touched.
        """
        moments = self.reference.moments
        inodes = self.reference.inodes.items()
        if any(inode.draft is not None and self.reference.names(n) for n, inode in inodes):
            return  # they become versions first; then what is now is no moment that is known
        times = [i for i, m in enumerate(moments) if m.time is not None]
        chosen = self.random.sample(times, min(len(times), RESTORED_AT_THE_END))
        now = self.reference.trees
        live = {child for tree in now.values() for child in tree.values()}
        for turn, moment in enumerate([*chosen, len(moments) - 1]):
            time_us = moments[moment].time
            if time_us is None:
                continue
            self.lines.append(f"# the root is set back to moment {moment}")
            self.door.setxattr("", "user.cascade.restore", f"t={time_us:016d}".encode(), 0)
            self._check_soon(moment)
            seen = self.door.picture("")
            for path, number in self._expected(moments[moment].trees, ROOT):
                if turn == 0 and number in live and seen[path].number != self.numbers[number]:
                    self.fail(f"{path} was there under another name, and has another st_ino")
        for moment in chosen:
            self.check_moment(moment, self.spell(".", Spec("at", moment)), ROOT)


def _padded(name: str) -> str:
    """A canonical time with all six digits of its microseconds."""
    whole, dot, fraction = name.removesuffix("Z").partition(".")
    return f"{whole}.{fraction.ljust(6, '0') if dot else '000000'}Z"

"""One pass over every name's history: which versions are let go (SEMANTICS 7).

A pass is a walk over the entries in the order of their rows, deleted ones and those of deleted directories too. It can
stop after any version and go on in another step, and holds nothing of the table in between. What it decides is said in
`Prune` and `Drop` records, so every holder of the log lets go of the same; a *dry* pass decides and says nothing.

An inode that had several names is judged over its content's whole life by the rules of all of them: it goes only where
all let it go.

Costs some 15 us for a version whose directory has a policy, nothing for names in directories without one.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from storage import record
from storage.attributes import REGULAR, is_directory
from storage.limits import NAME_BYTES_MAX, PRUNED_CONTENTS_MAX
from storage.namespace import KEPT
from storage.namespace.keys import U64
from storage.retention.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.attributes import Attributes
    from storage.binding import Binding
    from storage.namespace import Namespace, Version
    from storage.retention.policy import Policy

__all__ = ["Tally", "Thinning", "ranges_of"]

RANKED_MAX: Final = 256
"""Versions of another name looked through to see whether its `min` keeps one; beyond, it is kept."""

PRUNED: Final = "pruned"
EPHEMERAL: Final = "ephemeral"


class Tally(NamedTuple):
    """So many versions, and the bytes of their contents; what versions share counts for each."""

    versions: int
    bytes: int


class Thinning:
    """One pass. `tallies` says how many versions each line of the policies keeps, and how many go."""

    def __init__(
        self,
        namespace: Namespace,
        propose: Callable[[record.Record], object] | None,
        *,
        now: int,
        pinned: Callable[[], set[tuple[int, int]]],
        wanted_since: Callable[[], int | None] = lambda: None,
        pressed: bool = False,
        rules: Callable[[], Rules] | None = None,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            namespace: whose history.
            propose: records a change; None for a dry pass.
            now: the time the policies are asked at, in microseconds.
            pinned: the contents that somebody has open: (inode, content commit).
            wanted_since: from which timestamp on somebody is still to read history; None: nobody.
            pressed: the disk is full: keep only what `min`, labels and holds keep.
            rules: looks afresh at what protects history, if more than `namespace` says something about that.
        """
        self._namespace = namespace
        self._look = rules or (lambda: Rules(namespace))
        self._propose = propose
        self._now = now
        self._pinned = pinned
        self._wanted_since = wanted_since
        self._wanted: int | None = None
        self._pressed = pressed
        self.rules = self._look()
        self._open: set[tuple[int, int]] = set()
        self._walk = self._entries()
        self.tallies: dict[str, Tally] = {}
        self.chosen: set[tuple[int, int]] = set()
        """What a dry pass would have let go, for budgets to be counted without it: (inode, content)."""

    def refresh(self) -> None:
        """The store may have changed: look afresh at what protects history."""
        self.rules = self._look()
        self._open = self._pinned()
        self._wanted = self._wanted_since()

    def step(self, versions_max: int) -> bool:
        """Look at so many versions; False at the end of the pass."""
        self.refresh()
        looked = sum(1 for _ in islice(self._walk, versions_max))
        return looked == versions_max

    def _entries(self) -> Iterator[None]:
        after = b""
        while (key := self._namespace.next_entry(after)) is not None:
            yield
            directory, name = U64.unpack_from(key)[0], key[8:-1]
            if self.rules.policy(directory) is None or self.rules.is_held(directory):
                after = U64.pack(directory) + b"\xff" * (NAME_BYTES_MAX + 1)
                continue
            after = key
            if not self._drop_ephemeral(directory, name):
                yield from self._versions(directory, name)

    # --- versions ----------------------------------------------------------------------------------------------

    def _versions(self, directory: int, name: bytes) -> Iterator[None]:
        """Judge the versions of one name, newest first."""
        chosen: dict[int, list[int]] = {}
        rank, end = 0, None
        exists = self._namespace.binding(directory, name) is not None
        for number in range(self._namespace.head(directory, name), 0, -1):
            yield
            version = self._namespace.version(directory, name, number)
            if version is None:
                continue  # Forgotten since, with its name.
            until, end = end, version.timestamp
            binding = version.binding
            if binding is None or binding.mode != REGULAR:
                continue
            content = binding.base + number - binding.first
            if self._namespace.content_state(binding.inode, content) != KEPT:
                continue
            why = self._why_kept(directory, version, content, until, rank, exists)
            self._count(why or PRUNED, binding.inode, version.timestamp)
            if why is not None:
                rank += 1
                continue
            contents = chosen.setdefault(binding.inode, [])
            contents.append(content)
            if len(contents) == PRUNED_CONTENTS_MAX:
                self._prune(binding.inode, chosen.pop(binding.inode))
        for inode, contents in chosen.items():
            self._prune(inode, contents)

    def _why_kept(
        self,
        directory: int,
        version: Version,
        content: int,
        end: int | None,
        rank: int,
        exists: bool,
    ) -> str | None:
        """What keeps a version that held until `end`; None if nothing does."""
        assert version.binding is not None
        inode = version.binding.inode
        attributes = self._namespace.attributes(inode)
        if attributes is None or end is None:
            return "head"
        if attributes.nlink and content == attributes.content:
            return "head"
        if (inode, content) in self._open:
            return "open"
        if self._wanted is not None and end > self._wanted:
            return "wanted"
        if self.rules.is_held(inode):
            return "hold"
        names = self._namespace.names(inode)
        if len(names) == 1:
            return self._why_kept_there(directory, version.timestamp, end, rank, exists)
        life = self._life(inode, attributes, content)
        own = self._why_kept_there(directory, life[0], life[1], rank, exists)
        if own is not None:
            return own
        for other, name in names:
            rank_there = self._rank(other, name, inode, content, life)
            there = self._namespace.binding(other, name) is not None
            why = self._why_kept_there(other, life[0], life[1], rank_there, there)
            if why is not None:
                return why
        return None

    def _why_kept_there(
        self, directory: int, start: int, end: int, rank: int, exists: bool
    ) -> str | None:
        if self.rules.is_labelled(directory, start, end):
            return "label"
        policy = self.rules.policy(directory)
        if policy is None:
            return "no policy"
        if self.rules.is_held(directory):
            return "hold"
        if self._pressed:
            return "min" if rank < policy.versions_min else None
        return policy.why_kept(self._now, start, end, rank, exists=exists)

    def spares(self, inode: int, attributes: Attributes, content: int) -> bool:
        """Whether a content stays however little room there is: head, open, to be read, held, labelled, a `min`'s."""
        if attributes.nlink and content == attributes.content:
            return True
        if (inode, content) in self._open or self.rules.is_held(inode):
            return True
        life = self._life(inode, attributes, content)
        if self._wanted is not None and life[1] > self._wanted:
            return True
        return any(
            self.rules.is_held(directory)
            or self.rules.is_labelled(directory, *life)
            or self._is_among_min(directory, name, inode, content, life)
            for directory, name in self._namespace.names(inode)
        )

    def _is_among_min(
        self, directory: int, name: bytes, inode: int, content: int, life: tuple[int, int]
    ) -> bool:
        policy = self.rules.policy(directory)
        if policy is None or not policy.versions_min:
            return False
        if self._namespace.binding(directory, name) is None:
            return False
        return self._rank(directory, name, inode, content, life) < policy.versions_min

    def _life(self, inode: int, attributes: Attributes, content: int) -> tuple[int, int]:
        """From when to when a content was the newest of its inode, which had a name."""
        start = self._namespace.content_timestamp(inode, content)
        assert start is not None, "a version has a content"
        end = self._namespace.content_timestamp(inode, content + 1)
        if end is None:
            row = self._namespace.attributes_row(inode)
            assert row is not None, "an inode that was just looked at exists"
            assert not attributes.nlink, "the newest content of a file with a name is not asked for"
            end = row[0]
        return start, max(end, start + 1)

    def _rank(
        self, directory: int, name: bytes, inode: int, content: int, life: tuple[int, int]
    ) -> int:
        """How many newer versions of a name are kept; as many as matter to its policy, or 0 if that is not known."""
        policy = self.rules.policy(directory)
        if policy is None:
            return 0
        for moment in (life[1] - 1, life[0]):
            binding = self._namespace.binding_at(directory, name, moment)
            if binding is not None and binding.inode == inode:
                break
        else:
            return policy.versions_min  # Not this name's at either end: its `min` is for what is.
        number, rank = binding.version_of(content), 0
        head = self._namespace.head(directory, name)
        for newer in range(head, max(number, head - RANKED_MAX), -1):
            if rank >= policy.versions_min:
                break
            version = self._namespace.version(directory, name, newer)
            if version is not None and version.binding is not None:
                found = version.binding
                at = found.base + newer - found.first
                rank += self._namespace.content_state(found.inode, at) == KEPT
        return rank

    def _count(self, line: str, inode: int, timestamp: int) -> None:
        found = self._namespace.attributes_at(inode, timestamp)
        before = self.tallies.get(line, Tally(0, 0))
        stored = found[1].stored if found is not None else 0
        self.tallies[line] = Tally(before.versions + 1, before.bytes + stored)

    def _prune(self, inode: int, contents: list[int]) -> None:
        if self._propose is not None:
            self._propose(record.Prune(inode, ranges_of(contents)))
        elif self._namespace.has_budgets():
            self.chosen.update((inode, content) for content in contents)

    # --- names that came and went ------------------------------------------------------------------------------

    def _drop_ephemeral(self, directory: int, name: bytes) -> bool:
        """Forget a name that was there once, and not for long; whether it was."""
        policy = self.rules.policy(directory)
        if policy is None or not policy.ephemeral_us:
            return False
        life = self._namespace.only_life(directory, name)
        if life is None or is_directory(life[2].mode) or not self._was_ephemeral(policy, life):
            return False
        start, end, binding = life
        inode = binding.inode
        if any(of == inode for of, _ in self._open) or self.rules.is_held(inode):
            return False
        if self._wanted is not None and end > self._wanted:
            return False
        if self.rules.is_labelled(directory, start, end):
            return False
        attributes = self._namespace.attributes(inode)
        alone = attributes is not None and not attributes.nlink
        alone = alone and self._namespace.names(inode) == [(directory, name)]
        self._count(EPHEMERAL, inode if alone else 0, end - 1)
        if self._propose is not None:
            self._propose(record.Drop(directory, name, [inode] if alone else []))
        return True

    def _was_ephemeral(self, policy: Policy, life: tuple[int, int, Binding]) -> bool:
        start, end, _ = life
        return end - start <= policy.ephemeral_us and end < self._now - policy.ephemeral_us


def ranges_of(contents: list[int]) -> list[tuple[int, int]]:
    """The same numbers as ranges, both ends included, ascending."""
    found: list[tuple[int, int]] = []
    for content in sorted(contents):
        if found and found[-1][1] == content - 1:
            found[-1] = (found[-1][0], content)
        else:
            found.append((content, content))
    return found

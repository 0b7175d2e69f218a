"""How much history may be held below a directory: counting it, and letting go of the oldest beyond (SEMANTICS 12).

A directory with `user.cascade.history_budget` has a *ledger* while a round is made: the bytes that only past contents
of the files below show, each counted once, where it was shown last. A file counts where its newest name is, or was.
Over the budget, the oldest contents go first, whatever a policy would keep, until what is left fits. What `Thinning.spares`
stays.

What the file itself shows now, brought back from history, is not history; what other files share of it, is.

A content all of which the file has now, too, is not let go: that would win nothing. So of a file that only ever grew
everything is kept. What a content shares with an older one that stays (a label's) is found out in the next round only:
this one takes those bytes for won.

Theory. Rows of a chunk are runs of contents that show the same pieces. From the newest row to the oldest, a piece that
a row has and the next newer does not was last shown by the row's last content: there its bytes are counted. The row
in which it first appears says which contents have to go for these bytes to be free.

A round is a walk over all inodes, in steps; measured (2 shared cores), it costs 6 us for an inode that is below no budget,
25 to 40 us for a content of one that is, as much again for one that goes.
"""

from __future__ import annotations

from bisect import bisect_left
from heapq import heappop, heappush, heappushpop
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from storage import record
from storage.attributes import REGULAR, TYPE_MASK
from storage.limits import PRUNED_CONTENTS_MAX
from storage.namespace import KEPT
from storage.namespace.frames import bytes_by_address
from storage.namespace.keys import BUDGET_XATTR, CHUNK_KEY, U64
from storage.namespace.quotas import limit_of
from storage.retention.thinning import ranges_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet

    from storage.attributes import Attributes
    from storage.mvcc import Row
    from storage.namespace import Namespace
    from storage.retention.thinning import Thinning

__all__ = ["BUDGET", "Budgets"]

BUDGET: Final = "budget"
"""The line of the report."""

CANDIDATES_MAX: Final = 10_000
"""Contents one ledger lets go of in a round, 2 MB of memory; where there are more another round follows at once."""

PAGE_ROWS: Final = 4
"""Rows looked at where a version would be: a step of 32 takes 1 to 5 ms."""


class _Candidate(NamedTuple):
    """A content that may go. Ordered by age."""

    timestamp: int
    inode: int
    content: int
    bytes: int
    accounts: tuple[int, ...]


class _Ledger:
    """What one directory's budget is, what is held below, and the oldest of what may go."""

    def __init__(self, limit: int, depth: int) -> None:
        self.limit = limit
        self.depth = depth
        self.held = 0
        self.is_cut_short = False
        # Negated ages, so that the youngest is the first to make room for an older one.
        self._oldest: list[tuple[int, int, int, _Candidate]] = []

    def wants(self, timestamp: int) -> bool:
        """Whether a candidate of that age would be among the oldest."""
        if len(self._oldest) < CANDIDATES_MAX:
            return True
        self.is_cut_short = True
        return -self._oldest[0][0] > timestamp

    def offer(self, one: _Candidate) -> None:
        """Take a candidate that is wanted."""
        item = (-one.timestamp, one.inode, one.content, one)
        if len(self._oldest) < CANDIDATES_MAX:
            heappush(self._oldest, item)
        else:
            heappushpop(self._oldest, item)

    def oldest(self) -> list[_Candidate]:
        """The candidates, youngest first; there are none afterwards."""
        return [heappop(self._oldest)[3] for _ in range(len(self._oldest))]


class Budgets:
    """One round. `tally` says what goes: (versions, bytes); `held` what is left, where anything is, below which directory."""

    def __init__(
        self,
        namespace: Namespace,
        propose: Callable[[record.Record], object] | None,
        thinning: Thinning,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            namespace: whose history.
            propose: records a change; None for a dry round.
            thinning: the pass before, which has let go of what the policies let go; it says what stays.
        """
        self._namespace = namespace
        self._propose = propose
        self._thinning = thinning
        self._ledgers: dict[int, _Ledger] = {}
        self._walk = self._round()
        self.tally = (0, 0)
        self.held: dict[int, int] | None = None
        """None until the round has come to its end."""
        self.is_cut_short = False
        """Whether there was more to let go of than one round can."""

    def step(self, count_max: int) -> bool:
        """Go on for so many versions or the like; False at the end of the round."""
        self._thinning.refresh()
        return sum(1 for _ in islice(self._walk, count_max)) == count_max

    def _round(self) -> Iterator[None]:
        if not self._namespace.has_budgets():
            self.held = {}
            return
        after = b""
        while (key := self._namespace.next_inode(after)) is not None:
            yield
            after, inode = key, U64.unpack(key)[0]
            attributes = self._namespace.attributes(inode)
            if attributes is None or attributes.mode & TYPE_MASK != REGULAR:
                continue
            if attributes.content > bool(attributes.nlink):
                accounts = self._thinning.rules.budgets(attributes.parent)
                if accounts:
                    yield from self._count(inode, attributes, accounts)
        yield from self._settle()

    # --- counting ------------------------------------------------------------------------------------------------

    def _count(
        self, inode: int, attributes: Attributes, accounts: tuple[int, ...]
    ) -> Iterator[None]:
        """Count one file's history, and offer what of it may go."""
        history = _History(self._namespace, inode, attributes, self._thinning.chosen)
        yield from history.count()
        ledgers = [self._ledger(directory, len(accounts)) for directory in accounts]
        for ledger in ledgers:
            ledger.held += history.held
        for timestamp, content, bytes_held, is_useful in history.contents():
            yield
            if not is_useful:
                continue
            wanted = [ledger for ledger in ledgers if ledger.wants(timestamp)]
            if wanted and not self._stays(inode, content):
                one = _Candidate(timestamp, inode, content, bytes_held, accounts)
                for ledger in wanted:
                    ledger.offer(one)

    def _ledger(self, directory: int, depth: int) -> _Ledger:
        found = self._ledgers.get(directory)
        if found is None:
            limit = limit_of(self._namespace.xattr(directory, BUDGET_XATTR) or b"")
            # Without a limit it was taken away during the round: nothing goes for it.
            found = self._ledgers[directory] = _Ledger(2**63 if limit is None else limit, depth)
        return found

    def _stays(self, inode: int, content: int) -> bool:
        attributes = self._namespace.attributes(inode)
        if attributes is None or self._namespace.content_state(inode, content) != KEPT:
            return True
        return self._thinning.spares(inode, attributes, content)

    # --- letting go ------------------------------------------------------------------------------------------------

    def _settle(self) -> Iterator[None]:
        """Decide, the innermost budgets first: what goes for one is gone for those above."""
        chosen: dict[int, set[int]] = {}
        inner_first = sorted(self._ledgers.values(), key=lambda ledger: -ledger.depth)
        for ledger in inner_first:
            candidates = ledger.oldest()
            while ledger.held > ledger.limit and candidates:
                yield
                one = candidates.pop()
                contents = chosen.setdefault(one.inode, set())
                # Looked at again: since it was offered a label or a reader may have come.
                if one.content in contents or self._stays(one.inode, one.content):
                    continue
                contents.add(one.content)
                self.tally = (self.tally[0] + 1, self.tally[1] + one.bytes)
                for directory in one.accounts:
                    self._ledgers[directory].held -= one.bytes
            self.is_cut_short |= ledger.held > ledger.limit and ledger.is_cut_short
        for inode, contents in chosen.items():
            ordered = sorted(contents)
            for start in range(0, len(ordered), PRUNED_CONTENTS_MAX):
                yield
                self._prune(inode, ordered[start : start + PRUNED_CONTENTS_MAX])
        self.held = {directory: ledger.held for directory, ledger in self._ledgers.items()}

    def _prune(self, inode: int, contents: list[int]) -> None:
        """Record it, less what has begun to stay since it was decided."""
        going = [content for content in contents if not self._stays(inode, content)]
        if going and self._propose is not None:
            self._propose(record.Prune(inode, ranges_of(going)))


class _Shown:
    """The kept contents of one generation of a file, oldest first, and what of each only history holds."""

    def __init__(self) -> None:
        self.timestamps: list[int] = []
        self.contents: list[int] = []
        self.held: dict[int, int] = {}
        """Bytes by place: those the content there was the last to show."""
        self.marks: dict[int, int] = {}
        """+1 where a run begins of contents that have to go for some bytes to be free, -1 behind where it ends."""

    def add(self, timestamp: int, content: int) -> None:
        self.timestamps.append(timestamp)
        self.contents.append(content)

    def mark(self, first: int, last: int) -> None:
        self.marks[first] = self.marks.get(first, 0) + 1
        self.marks[last + 1] = self.marks.get(last + 1, 0) - 1


class _History:
    """What one file's history holds."""

    def __init__(
        self,
        namespace: Namespace,
        inode: int,
        attributes: Attributes,
        gone: set[tuple[int, int]],
    ) -> None:
        """Nothing is looked at yet; `gone` is what a dry pass would have let go."""
        self._namespace = namespace
        self._inode = inode
        self._attributes = attributes
        self._gone = gone
        self._generations: dict[int, _Shown] = {}
        # What the file holds now, and whatever comes after: not history.
        self._live = attributes.generation if attributes.nlink else None
        self._now: set[int] = set()
        self.held = 0

    def count(self) -> Iterator[None]:
        """Look at every row of every chunk."""
        yield from self._list_contents()
        yield from self._look_at_now()
        yield from self._look_at_chunks()

    def _list_contents(self) -> Iterator[None]:
        """Note which contents are kept."""
        newest, after = self._attributes.content, 0
        contents = self._namespace.contents
        while page := list(islice(contents(self._inode, after, newest), PAGE_ROWS)):
            for content, timestamp, state, generation in page:
                if state == KEPT:
                    self._note(content, timestamp, generation)
            yield
            after = page[-1][0]
        if self._namespace.content_state(self._inode, newest) == KEPT:
            self._note(newest, self._attributes.content_timestamp, self._attributes.generation)

    def _note(self, content: int, timestamp: int, generation: int) -> None:
        if (self._inode, content) not in self._gone:
            self._generations.setdefault(generation, _Shown()).add(timestamp, content)

    def _look_at_now(self) -> Iterator[None]:
        """Note what the file shows now, if an older generation may show it, too: a restore shares bytes."""
        if self._live is None or self._generations.keys() <= {self._live}:
            return
        after = -1
        chunks = self._namespace.chunks
        while page := list(islice(chunks(self._inode, self._live, None, after), PAGE_ROWS)):
            yield
            after = page[-1][0]
            self._now.update(address for _, pieces in page for _, _, address, _ in pieces)

    def _look_at_chunks(self) -> Iterator[None]:
        namespace = self._namespace
        after = b""
        while (key := namespace.next_chunk(self._inode, after)) is not None:
            after = key
            generation = CHUNK_KEY.unpack(key)[1]
            shown = self._generations.get(generation)
            if shown is None:
                yield
                continue
            is_live = generation == self._live
            chunk = _Chunk(shown, frozenset() if is_live else self._now, is_live=is_live)
            before: int | None = None
            while True:
                rows = list(islice(namespace.chunk_history(key, before), PAGE_ROWS))
                for row in rows:
                    self.held += chunk.look_at(row)
                yield
                if len(rows) < PAGE_ROWS:
                    break
                before = rows[-1].timestamp
            chunk.end()

    def contents(self) -> Iterator[tuple[int, int, int, bool]]:
        """(timestamp, content, bytes held, whether it has to go for any bytes to be free), oldest first."""
        for _, shown in sorted(self._generations.items()):
            runs = 0
            for place, content in enumerate(shown.contents):
                runs += shown.marks.get(place, 0)
                yield shown.timestamps[place], content, shown.held.get(place, 0), runs > 0


class _Chunk:
    """One chunk's rows, from the newest to the oldest."""

    def __init__(self, shown: _Shown, now: AbstractSet[int], *, is_live: bool) -> None:
        """Args:
        shown: the contents that may show it.
        now: frames that the file shows now by another generation.
        is_live: whether the newest of the contents is what the file holds now.
        """
        self._shown = shown
        self._now = now
        self._is_live = is_live
        self._until: int | None = None
        self._newer: dict[int, int] = {}
        self._newer_first = 0
        self._ended: dict[
            int, int
        ] = {}  # Frames with bytes that history alone shows -> by whom last.

    def look_at(self, row: Row) -> int:
        """The next row; how many bytes of it only history shows."""
        timestamps = self._shown.timestamps
        first = bisect_left(timestamps, row.timestamp)
        end = len(timestamps) if self._until is None else bisect_left(timestamps, self._until)
        self._until = row.timestamp
        if first >= end:
            return 0  # Nobody sees it: it waits for the sweep, or is newer than what is counted.
        pieces = bytes_by_address(row.value)
        for address in self._ended.keys() - pieces.keys():
            self._shown.mark(self._newer_first, self._ended.pop(address))
        found = 0
        if not (self._is_live and end == len(timestamps)):
            for address, length in pieces.items():
                over = length - self._newer.get(address, 0)
                if over > 0 and address not in self._now:
                    found += over
                    self._ended.setdefault(address, end - 1)
            if found:
                self._shown.held[end - 1] = self._shown.held.get(end - 1, 0) + found
        self._newer, self._newer_first = pieces, first
        return found

    def end(self) -> None:
        """There are no older rows."""
        for last in self._ended.values():
            self._shown.mark(self._newer_first, last)
        self._ended.clear()

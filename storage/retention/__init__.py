"""Letting history go: by policy, in small steps beside everything else (SEMANTICS 7).

Four kinds of work follow each other. `thinning` decides which versions go by the policies and records it; `budgets` which
go because history holds too much. The namespace's sweep drops the rows that only those showed, and finds frames of the
log nobody refers to any more. `cleaning` rewrites the segments that hold many of those. Each step is short; what is left to do is in the table, so a step may be the last.

`policy` is the grammar and the meaning of a directory's policy, `rules` what protects a directory's history.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from storage import record
from storage.retention.budgets import BUDGET, Budgets
from storage.retention.cleaning import Bounds, Cleaning, Job
from storage.retention.policy import MalformedPolicy, parse
from storage.retention.rules import HOLD, RETENTION, Rules, Sayings
from storage.retention.thinning import Tally, Thinning

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.clock import Clock
    from storage.distant import DistantLog
    from storage.log import Log
    from storage.namespace import Outcome
    from storage.shard import Shard
    from storage.volatile import VolatileLog

__all__ = [
    "HOLD",
    "RETENTION",
    "Bounds",
    "Job",
    "MalformedPolicy",
    "Retention",
    "Rules",
    "Sayings",
    "Tally",
    "parse",
]

PASS_INTERVAL_US: Final = 60_000_000
"""From the end of a pass to the next: boundaries are minutes apart at least."""

PRESSED_INTERVAL_US: Final = 5_000_000
"""From one pass to the next while the disk is full, and as long as that wins anything."""

STEP_VERSIONS_MAX: Final = 32
"""Versions judged in a step: 1 to 2 ms."""

STEP_ROWS_MAX: Final = 128
"""Rows swept in a step: 1 to 2 ms, if all are dropped."""


class _Pass(NamedTuple):
    """A pass under way, and why."""

    thinning: Thinning
    budgets: Budgets
    dry: bool
    asked: bool
    pressed: bool


class Retention:
    """The housekeeping of one shard's history.

    Whoever has files open sets `pinned` (the contents open there) and `in_use` (the frames its drafts refer to; None:
    nobody knows);
    whoever follows the commits sets `wanted_since` (from when on history is still to be read); whoever has the disk
    sets `is_full` (is there little room left?).
    """

    def __init__(
        self,
        shard: Shard,
        clock: Clock,
        *,
        sayings: Sayings | None = None,
        propose: Callable[[record.Record], object] | None = None,
    ) -> None:
        """Nothing is done before `step` or `run`.

        Args:
            shard: whose history.
            clock: the wall clock.
            sayings: where policies, holds and labels are said, if not in this shard alone. Budgets always are of the shard.
            propose: records a change, if not `Shard.propose`.
        """
        self._shard = shard
        self._clock = clock
        self._sayings: Sayings = sayings or shard.namespace
        self._propose = propose
        self.pinned: Callable[[], set[tuple[int, int]]] = set
        self.in_use: Callable[[], set[int]] | None = None
        self.wanted_since: Callable[[], int | None] = lambda: None
        self.is_full: Callable[[], bool] = lambda: False
        self.cleaning = Cleaning(shard)
        self._pass: _Pass | None = None
        self._asked: deque[bool] = deque()
        self._asked_count = self._done_count = 0
        # What was asked for is done but for the segments that are worth it.
        self._is_thorough = False
        self._is_pressed = False
        self._last_us = self._last_pressed_us = 0
        self._patience_us = PRESSED_INTERVAL_US
        self._passes = 0
        self._report: dict[str, Tally] = {}
        self._held: dict[int, int] | None = None
        self.trouble = ""
        """Why the last step failed, in words; nothing if it did not. Whoever takes the steps says so."""
        self.failures = 0
        """Steps that failed."""

    # --- work, a little at a time --------------------------------------------------------------------------------

    def step(self, *, decides: bool = True) -> bool:
        """Do a little of what is due; False when nothing is left for now but segments to write again (`choose`).

        Args:
            decides: whether it is for this holder of the shard to say what goes. If not, a pass under way ends, and only what
                others have let go of is swept.

        Raises:
            OSError: the log could not take a record; nothing is lost, a later step goes on.
        """
        if self._shard.sweep(STEP_ROWS_MAX):
            return True
        if not decides:
            self._pass = None
            return False
        if self._pass is None:
            self._pass = self._begin()
        if self._pass is None:
            return False
        if self._pass.thinning.step(STEP_VERSIONS_MAX):
            return True
        # What the policies let go is swept by now, or not counted all the same.
        if not self._pass.budgets.step(STEP_VERSIONS_MAX):
            self._end(self._pass)
            self._pass = None
        return True

    def choose(self) -> Job | None:
        """A segment of the log worth writing again: `cleaning.run` it on a worker thread, then `cleaning.finish`.

        For `step` to have nothing more to do, and this to answer None, is to be done with all that was asked for.
        """
        job = self.cleaning.choose(
            self.in_use, pressed=self._is_pressed, thorough=self._is_thorough
        )
        if job is None:
            self._is_pressed = False
            if self._is_thorough:
                self._is_thorough = False
                self._done_count += 1
        return job

    def ask(self, *, dry: bool) -> None:
        """Let there be a pass soon; a dry one changes nothing. `status` says when it is done."""
        self._asked.append(dry)
        self._asked_count += 1

    @property
    def log(self) -> Log | VolatileLog | DistantLog:
        """Of the shard this is about."""
        return self._shard.log

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able. `lines` is what the last pass asked for, or any, found."""
        return {
            "asked": self._asked_count,
            "done": self._done_count,
            "passes": self._passes,
            "busy": self._pass is not None,
            "failures": self.failures,
            "trouble": self.trouble,
            "lines": {line: tally._asdict() for line, tally in sorted(self._report.items())},
            "history_held_bytes": self._held or {},
            "pruned_versions": self._shard.namespace.counters.pruned_contents,
            "segments_condensed": self.cleaning.segments,
            "bytes_won": self.cleaning.bytes_won,
            "bytes_written": self.cleaning.bytes_written,
        }

    def _begin(self) -> _Pass | None:
        if self._is_thorough:
            return None  # One after the other.
        now = self._now_us()
        if self._asked:
            dry = self._asked.popleft()
            return self._new_pass(dry=dry, asked=True)
        if not self._sayings.has_policies():
            return None
        if now - self._last_pressed_us >= self._patience_us and self.is_full():
            self._last_pressed_us = now
            return self._new_pass(pressed=True)
        if now - self._last_us >= PASS_INTERVAL_US:
            return self._new_pass()
        return None

    def _new_pass(self, *, dry: bool = False, asked: bool = False, pressed: bool = False) -> _Pass:
        thinning = self._thinning(dry=dry, pressed=pressed)
        return _Pass(thinning, self._budgets(thinning, dry=dry), dry, asked=asked, pressed=pressed)

    def _end(self, ended: _Pass) -> None:
        self._passes += 1
        self._report = self._tallies(ended.thinning, ended.budgets)
        if not ended.dry:
            self._note_held(ended.budgets)
            # Where there was more to let go of than a round can, the next follows at once.
            self._last_us = 0 if ended.budgets.is_cut_short else self._now_us()
        if ended.pressed:
            self._is_pressed = True
            won = "pruned" in self._report
            self._patience_us = PRESSED_INTERVAL_US if won else PASS_INTERVAL_US
        if ended.asked:
            if ended.dry:
                self._done_count += 1
            else:
                self._is_thorough = True

    def _thinning(self, *, dry: bool, pressed: bool) -> Thinning:
        return Thinning(
            self._shard.namespace,
            None if dry else self._propose or self._shard.propose,
            now=self._now_us(),
            pinned=self.pinned,
            wanted_since=self.wanted_since,
            pressed=pressed,
            rules=self._rules,
        )

    def _rules(self) -> Rules:
        return Rules(self._sayings, self._shard.namespace)

    def _budgets(self, thinning: Thinning, *, dry: bool) -> Budgets:
        propose = None if dry else self._propose or self._shard.propose
        return Budgets(self._shard.namespace, propose, thinning)

    def _note_held(self, budgets: Budgets) -> None:
        if (
            budgets.held is not None
        ):  # Else the log refused a record, and the next round counts again.
            self._held = budgets.held

    @staticmethod
    def _tallies(thinning: Thinning, budgets: Budgets) -> dict[str, Tally]:
        over = {BUDGET: Tally(*budgets.tally)} if budgets.tally[0] else {}
        return thinning.tallies | over

    def _now_us(self) -> int:
        return self._clock.now_ns() // 1000

    # --- all at once ---------------------------------------------------------------------------------------------

    def run(self, *, dry: bool = False, pressed: bool = False) -> dict[str, Tally]:
        """A whole pass and the sweep behind it, in this thread; how many versions each line of the policies keeps.

        Args:
            dry: change nothing.
            pressed: keep only what `min`, labels and holds keep.
        """
        thinning = self._thinning(dry=dry, pressed=pressed)
        budgets = self._budgets(thinning, dry=dry)
        while thinning.step(STEP_VERSIONS_MAX) or budgets.step(STEP_VERSIONS_MAX):
            pass
        if not dry:
            self._note_held(budgets)
        while not dry and self._shard.sweep(STEP_ROWS_MAX):
            pass
        return self._tallies(thinning, budgets)

    def clean(self, *, pressed: bool = False) -> None:
        """Write again every segment that is worth it, in this thread.

        Raises:
            OSError: the disk refused; what was done is done.
        """
        while (
            job := self.cleaning.choose(self.in_use, pressed=pressed, thorough=True)
        ) is not None:
            self.cleaning.finish(job, self.cleaning.run(job))

    # --- questions and purge ---------------------------------------------------------------------------------------

    def keeps_instant(self, directory: int, timestamp: int) -> bool:
        """Whether a directory can be asked for as of a timestamp: it is exact then (SEMANTICS 7)."""
        rules = self._rules()
        policy = rules.policy(directory)
        if policy is None or policy.keeps_instant(self._now_us(), timestamp):
            return True
        return rules.is_held(directory) or timestamp in rules.labelled(directory)

    def instants(self, directory: int, commits: list[int], count_max: int) -> list[int]:
        """What a directory can be asked for: of these commits, newest first, those kept, and the policy's boundaries."""
        rules = self._rules()
        policy = rules.policy(directory)
        if policy is None or rules.is_held(directory):
            return commits
        now, labelled = self._now_us(), set(rules.labelled(directory))
        kept = {at for at in commits if at in labelled or policy.keeps_instant(now, at)}
        born = self._shard.namespace.attributes_at
        grid = {at for at in policy.instants(now, count_max) if born(directory, at) is not None}
        return sorted(kept | grid, reverse=True)[:count_max]

    def purge(self, inode: int, content: int) -> Outcome:
        """Let go of one content because somebody asked for it by name; whether they may is theirs to know.

        Raises:
            OSError: the log could not take the record.
        """
        return self._shard.propose(record.Prune(inode, [(content, content)], purged=True))

    def history_bytes(self, directory: int) -> int | None:
        """What history holds below a directory with a budget, as the last pass left it; None if there was none yet."""
        return self._held.get(directory, 0) if self._held is not None else None

    def is_held(self, inode: int) -> bool:
        """Whether a hold is on a file or directory, or above."""
        return self._rules().is_held(inode)

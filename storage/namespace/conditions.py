"""What a change may be made to depend on: an entry's head (SEMANTICS 6).

An `Expect`, or a `Still` (content that a proposer has looked at), is the first part of a `Batch`, and a batch ends at the first part that is refused: so what follows it takes
effect if the entry is as expected, and nothing does if it is not, on every replica alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.errors import Reason
from storage.namespace.outcome import DONE, REFUSED, Outcome

if TYPE_CHECKING:
    from storage.namespace.questions import Questions
    from storage.record import Expect, Still

__all__ = ["Conditions"]


class Conditions:
    """Applies the records that change nothing."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def expect(self, _timestamp: int, _address: int, record: Expect) -> Outcome:
        """Apply the record: CONDITION_FAILED unless the entry is as expected."""
        return DONE if self.holds(record) else REFUSED[Reason.CONDITION_FAILED]

    def still(self, _timestamp: int, _address: int, record: Still) -> Outcome:
        """Apply the record: CONDITION_FAILED unless that is the newest content."""
        attributes = self._questions.attributes(record.inode)
        if attributes is not None and attributes.content == record.content:
            return DONE
        return REFUSED[Reason.CONDITION_FAILED]

    def holds(self, record: Expect) -> bool:
        """Whether the entry is as expected now.

        The inode counts as well as the number: a file that was never closed has no version yet, so one that is renamed
        over another leaves the head as it was.
        """
        questions = self._questions
        binding = questions.binding(record.directory, record.name)
        if binding is None:
            head = questions.head(record.directory, record.name)
            return not record.inode and record.version in (0, head)
        return binding.inode == record.inode and questions.number_of(binding) == record.version

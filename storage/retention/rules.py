"""What protects the history of a directory, and what lets it go: policies, labels and holds, looked up once and kept.

A `Rules` is good for one step of a pass, during which nothing else changes the store: it remembers what it found for
every directory it was asked about.

Sources: SEMANTICS 7.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from storage.namespace import ROOT
from storage.namespace.keys import BUDGET_XATTR, POLICY_XATTR
from storage.namespace.quotas import limit_of
from storage.retention.policy import MalformedPolicy, Policy, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.attributes import Attributes

__all__ = ["HOLD", "RETENTION", "Rules", "Sayings"]

RETENTION: Final = POLICY_XATTR
"""The extended attribute of a directory that is its policy."""

HOLD: Final = b"user.cascade.hold"
"""The extended attribute of a file or directory at and below which nothing is let go; its value says why."""


class Sayings(Protocol):
    """Where rules are said: a `Namespace`, or those of all shards as one."""

    def attributes(self, inode: int) -> Attributes | None:
        """See `Namespace`, as the next."""
        ...

    def attributes_at(self, inode: int, timestamp: int) -> tuple[int, Attributes] | None: ...  # noqa: D102
    def xattr(self, inode: int, name: bytes) -> bytes | None: ...  # noqa: D102
    def all_labels(self) -> Iterator[tuple[int, bytes, int]]: ...  # noqa: D102
    def has_policies(self) -> bool: ...  # noqa: D102


class Rules:
    """The rules of one store as they are now."""

    def __init__(self, namespace: Sayings, budgets: Sayings | None = None) -> None:
        """Nothing is looked up yet.

        Args:
            namespace: where policies, holds and labels are said.
            budgets: where budgets are, if that is less.
        """
        self._namespace = namespace
        self._budgets_of = budgets or namespace
        self._policies: dict[int, Policy | None] = {}
        self._budgets: dict[int, tuple[int, ...]] = {}
        self._held: dict[int, bool] = {}
        self._labelled: dict[int, list[int]] = {}
        self._labels: list[tuple[int, int]] | None = None

    def policy(self, directory: int) -> Policy | None:
        """The policy of the nearest directory above, itself included, that has one; None: everything is kept."""
        passed, at = [], directory
        found: Policy | None = None
        while at and at not in self._policies:
            passed.append(at)
            text = self._namespace.xattr(at, RETENTION)
            if text is not None:
                # One that was set before there was a check: nothing is lost by a text nobody understands.
                with suppress(MalformedPolicy):
                    found = parse(text)
                break
            at = _above(self._namespace, at)
        else:
            found = self._policies.get(at)
        self._policies.update(dict.fromkeys(passed, found))
        return found

    def budgets(self, directory: int) -> tuple[int, ...]:
        """The directories with a history budget at and above a directory, the nearest first."""
        passed, at = [], directory
        while at and at not in self._budgets:
            passed.append(at)
            at = _above(self._budgets_of, at)
        found = self._budgets.get(at, ())
        for inode in reversed(passed):
            text = self._budgets_of.xattr(inode, BUDGET_XATTR)
            if text is not None and limit_of(text) is not None:
                found = (inode, *found)
            self._budgets[inode] = found
        return found

    def is_held(self, inode: int) -> bool:
        """Whether a file or directory, or a directory above, has a hold."""
        passed, at = [], inode
        held = False
        while not held and at and at not in self._held:
            passed.append(at)
            held = self._namespace.xattr(at, HOLD) is not None
            at = _above(self._namespace, at)
        held = held or self._held.get(at, False)
        self._held.update(dict.fromkeys(passed, held))
        return held

    def is_labelled(self, directory: int, start: int, end: int) -> bool:
        """Whether a label names an instant in [start, end) of a directory that had this one in or below it then."""
        instants = self.labelled(directory)
        return bisect_left(instants, start) < bisect_left(instants, end)

    def labelled(self, directory: int) -> list[int]:
        """The instants, ascending, at which a label shows a directory."""
        found = self._labelled.get(directory)
        if found is None:
            if self._labels is None:
                self._labels = [(of, at) for of, _, at in self._namespace.all_labels()]
            found = sorted({at for of, at in self._labels if self._was_below(directory, of, at)})
            self._labelled[directory] = found
        return found

    def _was_below(self, directory: int, above: int, timestamp: int) -> bool:
        while directory != above:
            then = self._namespace.attributes_at(directory, timestamp)
            if then is None or directory == ROOT or not then[1].parent:
                return False
            directory = then[1].parent
        return True


def _above(namespace: Sayings, inode: int) -> int:
    attributes = namespace.attributes(inode)
    return attributes.parent if attributes is not None and inode != ROOT else 0

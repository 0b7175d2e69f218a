"""What a checker raises."""

from __future__ import annotations

__all__ = ["Violation"]


class Violation(AssertionError):
    """Something that must hold did not.

    Attributes:
        checker: Which of the checkers found it.
    """

    def __init__(self, checker: str, what: str) -> None:
        super().__init__(f"{checker}: {what}")
        self.checker = checker

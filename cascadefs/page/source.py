"""What a page looks at: one store, as one user sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from cascadefs.client import Client

__all__ = ["Refused", "Source"]


class Refused(Exception):
    """A command was not done; the message is for people."""


class Source(Protocol):
    """Calls may block, and come from several threads."""

    @property
    def name(self) -> str:
        """What people call the store."""
        ...

    @property
    def user(self) -> str:
        """Whose eyes the page sees with, for people."""
        ...

    @property
    def client(self) -> Client:
        """Speaks for that user; whoever made it closes it."""
        ...

    def status(self) -> dict[str, Any]:
        """How all is: `pools`, `shards` and `nodes` as `board` has them, `triggers` as `.cascade/status` does.

        Raises:
            OSError: nobody could be asked.
        """
        ...

    def command(self, base: str, line: str) -> None:
        """Tell the scripts of a directory something (`triggers.operator`).

        Args:
            base: path from the root of the store.
            line: one line of words.

        Raises:
            Refused: it was not done.
        """
        ...

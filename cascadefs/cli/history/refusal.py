"""A refusal on its way to the person who asked: what, why, and what to do instead.

Every command ends in one of three ways: it did what it says, it was refused (one line on stderr, status 1, or 2 where
1 means something else, as for `diff`), or it was called wrongly (status 2, said by typer).
"""

from __future__ import annotations

import errno
import functools
import os
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Refusal", "printable", "refusing", "saying"]

P = ParamSpec("P")
R = TypeVar("R")

# What an errno means where no command knows better: why, and a remedy or nothing (SEMANTICS 5).
_SAYINGS: dict[int, tuple[str, str]] = {
    errno.ENOENT: ("no such file or directory", ""),
    errno.EACCES: ("permission denied, now or then", ""),
    errno.EPERM: ("only the owner or root may do that", ""),
    errno.EIDRM: (
        "its content was removed by retention or purge",
        "`cascadefs log` shows what is still there",
    ),
    errno.EAGAIN: ("that time is not stable yet", "ask again in a moment"),
    errno.EROFS: ("read-only, as all history is, or a mount with --ro", "name a path of now"),
    errno.EINVAL: ("not a history name", "see `cascadefs log` for the names there are"),
    errno.EISDIR: ("it is a directory", "`cascadefs ls` lists it"),
    errno.ENOTDIR: ("part of it is not a directory", ""),
}


class Refusal(Complaint):
    """Something asked for cannot be. Printed as `cascadefs: thing: why; remedy`."""

    def __init__(self, thing: bytes | str, why: str, remedy: str = "") -> None:
        self.thing = printable(thing)
        self.why = why
        self.remedy = remedy
        super().__init__(f"{self.thing}: {why}" + (f"; {remedy}" if remedy else ""))


def printable(name: bytes | str) -> str:
    """`name` for a person's eyes: what is not text or would steer the terminal is escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def saying(path: bytes | str, error: OSError) -> Refusal:
    """What `error` on `path` means, as far as its errno tells."""
    why, remedy = _SAYINGS.get(error.errno or 0, (error.strerror or str(error), ""))
    return Refusal(path, why[:1].lower() + why[1:], remedy)


def refusing(status: int = 1) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a command end with `status` and one line on stderr where it raises `Refusal` or `OSError`."""

    def decorate(command: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return command(*args, **kwargs)
            except Refusal as error:
                refusal = error
            except OSError as error:
                if error.errno == errno.EPIPE:  # The reader has enough; click knows what to do.
                    raise
                named = isinstance(error.filename, bytes | str)
                refusal = saying(error.filename if named else "a file", error)
            typer.echo(f"cascadefs: {refusal}", err=True)
            raise typer.Exit(status)

        return run

    return decorate

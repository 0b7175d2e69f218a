"""What is restored from, and how the history of the file that gets it calls the same content."""

from __future__ import annotations

import os

from cascadefs.cli.history.tree import join
from cascadefs.vpath import format_at, format_time, format_version

__all__ = ["Source"]


class Source:
    """A tree, or a file, of the past."""

    def __init__(self, path: bytes, *, version: int | None = None, at: int | None = None) -> None:
        """`path` shows it; `version` or `at` say how the history of its own name calls it."""
        self.path = path
        self._version = version
        self._at = at

    def absolute(self, path: bytes) -> bytes:
        """The path, for system calls, of a path in the tree."""
        return join(self.path, path) if path else self.path

    def spec_for(self, target: bytes, path: bytes) -> bytes | None:
        """How the history of `target` calls the content at `path`; None where it is not known to have it.

        The same version has one inode number by whatever path (SEMANTICS 4). So a directory that was made anew, or
        another one that took the name since, is not mistaken for the one of then.
        """
        directory, name = os.path.split(target)
        if self._version is not None and not path:
            spec, spelled = b"v%d" % self._version, format_version(name, self._version)
        elif self._at is not None:
            spec, spelled = format_time(self._at), format_at(name, self._at)
        else:
            return None
        try:
            theirs = os.lstat(join(directory, spelled))
            ours = os.lstat(self.absolute(path))
        except OSError:
            return None
        same = (theirs.st_ino, theirs.st_dev) == (ours.st_ino, ours.st_dev)
        return spec if same else None

"""The bytes of files: whether two are the same, and whether they are text."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

from cascadefs.cli.history.change import Facet
from cascadefs.cli.history.moment import attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascadefs.cli.history.tree import DiskTree, Node

__all__ = ["TEXT_BYTES_MAX", "Inspection", "is_same", "text_lines", "unified", "xattrs"]

BLOCK_BYTES = 1 << 20

TEXT_BYTES_MAX = 8 << 20
"""Larger files are compared but not shown line by line: difflib takes quadratic time where little is alike."""

NO_NEWLINE = b"\\ No newline at end of file\n"


class Inspection:
    """Reads what stat(2) cannot decide about one path in two trees; an `Inspect` (`change`)."""

    def __init__(self, old: DiskTree, new: DiskTree) -> None:
        self._old = old
        self._new = new

    def __call__(self, old_path: bytes, path: bytes, node: Node) -> Facet:
        """CONTENT and XATTRS, as far as they differ.

        Raises:
            OSError: one of the two could not be read.
        """
        old, new = self._old.absolute(old_path), self._new.absolute(path)
        facets = Facet.NONE
        if node.is_file and not is_same(old, new):
            facets |= Facet.CONTENT
        if xattrs(old, follow=False) != xattrs(new, follow=False):
            facets |= Facet.XATTRS
        return facets


def is_same(a: bytes, b: bytes) -> bool:
    """Whether two files have the same bytes.

    One commit of one inode is known without reading. The mtime has to agree as well, because what is written and not
    committed yet shows in it and not in the commit time.
    """
    status_a, status_b = os.stat(a), os.stat(b)
    if status_a.st_size != status_b.st_size:
        return False
    if (status_a.st_ino, status_a.st_dev) == (status_b.st_ino, status_b.st_dev):
        return True
    commit = _commit(a) if status_a.st_mtime_ns == status_b.st_mtime_ns else None
    if commit is not None and status_a.st_dev == status_b.st_dev and commit == _commit(b):
        return True
    with open(a, "rb", buffering=0) as file_a, open(b, "rb", buffering=0) as file_b:
        while True:
            block_a, block_b = file_a.read(BLOCK_BYTES), file_b.read(BLOCK_BYTES)
            if block_a != block_b:
                return False
            if not block_a:
                return True


def xattrs(path: bytes, *, follow: bool) -> dict[str, bytes]:
    """The extended attributes that users set; those in which the mount answers are not listed by it."""
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError:  # Not every file system, and no symbolic link, has any.
        return {}
    return {
        name: os.getxattr(path, name, follow_symlinks=follow)
        for name in names
        if name.startswith("user.")
    }


def text_lines(path: bytes) -> list[bytes] | None:
    """The lines of a text file, with their ends; None if it is binary or too large to show."""
    if os.stat(path).st_size > TEXT_BYTES_MAX:
        return None
    with open(path, "rb") as file:
        content = file.read()
    return None if b"\0" in content else content.splitlines(keepends=True)


def unified(
    old: list[bytes], new: list[bytes], old_title: bytes, new_title: bytes
) -> Iterator[bytes]:
    """The unified diff of two texts, as patch(1) reads it."""
    for line in difflib.diff_bytes(
        difflib.unified_diff, old, new, old_title, new_title, lineterm=b"\n"
    ):
        yield line if line.endswith(b"\n") else line + b"\n" + NO_NEWLINE


def _commit(path: bytes) -> tuple[bytes, bytes] | None:
    inode, commit_time = attribute(path, "fid"), attribute(path, "commit_time")
    return None if inode is None or commit_time is None else (inode, commit_time)

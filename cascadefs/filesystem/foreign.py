"""What the kernel must forget when somebody changed the store without its doing: a trigger, a program, another mount."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["stale_by"]


def stale_by(records: Iterable[record.Record | record.Part]) -> Iterator[tuple[int, bytes | None]]:
    """(parent, name) of each entry that means something else, (inode, None) where attributes or pages are old."""
    for part in records:
        match part:
            case (
                record.Create(parent=parent, name=name)
                | record.Unlink(parent=parent, name=name)
                | record.Detach(parent=parent, name=name)
            ):
                yield parent, name
                yield parent, None
            case record.Link(parent=parent, name=name, inode=inode):
                yield parent, name
                yield parent, None
                yield inode, None
            case record.Rename(parent, name, new_parent, new_name):
                for entry in ((parent, name), (new_parent, new_name)):
                    yield entry
                    yield entry[0], None
            case (
                record.Commit(inode=inode)
                | record.SetAttributes(inode=inode)
                | record.SetXattr(inode=inode)
                | record.Close(inode=inode)
            ):
                yield inode, None
            case _:
                pass

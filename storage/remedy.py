"""What can be mended in a data directory without losing anything that is whole.

Mended are: the description, from the log; headers and ends of segments, as recovery does; the index, from the log. Not
mended is what only a copy has: payloads that are not what was written, records that are gone. Of a log that is damaged
in the middle, the records before the damage are kept only where the operator says so, and the rest moves aside.

Sources: FORMAT, "Recovery cases"; fsck(8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import opening
from storage.errors import Unusable
from storage.inspection import Inspection, inspect, superblock_from_log
from storage.limits import SEGMENT_BYTES
from storage.superblock import Superblock

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from storage.clock import Clock
    from storage.disk import Disk
    from storage.index import Index

__all__ = ["mend"]


def mend(
    disk: Disk,
    index: Index,
    found: Inspection,
    clock: Clock,
    random: Random,
    *,
    boot_id: str,
    recover: bool,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[str], Inspection]:
    """Mend what was found; what was done, a sentence each, and what is found now.

    The data directory must be the caller's alone. Afterwards the store is as after a clean stop.

    Args:
        disk: the data directory.
        index: its index.
        found: what `inspect` says of it.
        clock: for opening; nothing is recorded.
        random: likewise.
        boot_id: of this boot.
        recover: the operator's word, for a log that is damaged in the middle.
        progress: of building the index, as `LocalStore.open`.

    Raises:
        Unusable: the log cannot be mended as asked; the message says what can be done.
        OSError: the disk refused.
    """
    done: list[str] = []
    if any(damage.where == "description" for damage in found.damage):
        made = superblock_from_log(disk)
        if made is None:
            raise Unusable(
                f"{disk}: the log says nothing of its store; put the files back from a copy"
            )
        Superblock.write(made, disk)
        done.append("wrote cascadefs.json again, as the log has it")
    if found.index_is_damaged:
        index.renew().close()
        done.append("threw the index away")
    opened = opening.open_for_writing(
        disk,
        index,
        clock,
        random,
        boot_id=boot_id,
        owner=(0, 0),
        recover=recover,
        segment_bytes=SEGMENT_BYTES,
        progress=progress,
    )
    done.extend(opened.findings)
    if opened.shard.close(keep=True):
        opening.mark_clean(disk)
    return done, inspect(disk, index, boot_id=boot_id)

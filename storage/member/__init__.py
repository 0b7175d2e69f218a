"""A shard's replica on a node, and who follows it.

Rooms: `member` (drives the core over log and peers), `note` (what is kept beside the log), `tail` (the newest records in
memory, and cursors), `memory` (the log of a volatile shard), `releasing` (what it lets go), `proposals` (on their way in), `filling` (old frames for who lags), `line` (a face of this node), `subscription` (an observer elsewhere).
"""

from __future__ import annotations

from storage.member.line import Line
from storage.member.member import Member
from storage.member.memory import MemoryLog
from storage.member.note import MemoryNote, NoteFile
from storage.member.releasing import Releasing
from storage.member.subscription import Subscription

__all__ = ["Line", "Member", "MemoryLog", "MemoryNote", "NoteFile", "Releasing", "Subscription"]

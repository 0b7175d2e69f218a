"""The log of one replica on a disk that lies as disks do, and the note beside it.

A model of what `storage.log` gives after its recovery, frames instead of bytes: what was written is there after the end of the
process; after a power cut, what was synced and, of the changes since, the first few, the last of them torn and so
gone. What `storage.log` itself makes of torn and lost sectors is shown by tests/simulation.
"""

from __future__ import annotations

from random import Random

from storage.replication.messages import RECORD_KIND, Frame
from storage.replication.ready import Holdings, Note
from storage.sequencer import open_envelope

__all__ = ["DiskFull", "Platter"]


class DiskFull(Exception):
    """It takes no more."""


class Platter:
    """See the module.

    Attributes:
        frames: As the kernel has them: index 1 first.
        note: Likewise; None if there never was one.
        capacity_frames: None for a disk with room.
        applied: The state machine beside it has applied so much.
        written: By index the frames that were ever here: what a member may acknowledge in memory.
        synced: Likewise those that were on the platter: what it may acknowledge as durable.
    """

    def __init__(self, durable: bool) -> None:
        self.written: dict[int, Frame] = {}
        self.synced: dict[int, Frame] = {}
        self.applied = 0
        self.frames: list[Frame] = []
        self.note: Note | None = None
        self.capacity_frames: int | None = None
        self._platter: list[Frame] = []
        self._changes: list[
            Frame | int
        ] = []  # Since the last sync: frames appended, indices cut to.
        self._durable = durable
        self._noted: Note | None = None

    def append(self, frames: tuple[Frame, ...]) -> None:
        """Write frames at the end.

        Raises:
            DiskFull: None of them is in the log.
        """
        if (
            self.capacity_frames is not None
            and len(self.frames) + len(frames) > self.capacity_frames
        ):
            raise DiskFull
        for frame in frames:
            assert frame.index == len(self.frames) + 1
            self.frames.append(frame)
            self._changes.append(frame)
            self.written[frame.index] = frame

    def cut(self, index: int) -> None:
        """Drop what is above an index."""
        assert index <= len(self.frames)
        del self.frames[index:]
        self._changes.append(index)

    def begin_sync(self) -> int:
        """What a sync that begins now will have made durable: for `end_sync`."""
        return len(self._changes)

    def end_sync(self, changes: int) -> None:
        """A sync has ended; one sync at a time."""
        for change in self._changes[:changes]:
            if isinstance(change, int):
                del self._platter[change:]
            else:
                self._platter.append(change)
                self.synced[change.index] = change
        del self._changes[:changes]

    def keep(self, note: Note) -> None:
        """Write the note, all of it or nothing, as safely as the pool demands."""
        self.note = note
        if self._durable:
            self._noted = note

    def cut_power(self, random: Random) -> None:
        """What is not on the platter may be gone; without durability the note is nothing to go by any more."""
        self.end_sync(random.randrange(len(self._changes) + 1))
        self._changes.clear()
        last = self.frames[self.applied - 1] if self.applied else None
        self.frames = list(self._platter)
        self.note = self._noted if self._durable else None
        if self.frames[: self.applied][-1:] != [last]:
            self.applied = 0  # A table whose last record is not in the log is built again.

    def successor(self) -> Platter:
        """The empty disk that takes this one's place."""
        platter = Platter(self._durable)
        platter.written, platter.synced = self.written, self.synced
        return platter

    def held(self, frame: Frame) -> bool:
        """Whether a frame was ever here as safely as the pool demands."""
        return (self.synced if self._durable else self.written).get(frame.index) == frame

    def holdings(self, commit_index: int, note: Note) -> Holdings:
        """What a replica that starts has to know. Opening makes durable what it finds."""
        self.end_sync(len(self._changes))
        lineage: list[tuple[int, int]] = []
        requests: list[tuple[int, int, int]] = []
        for frame in self.frames:
            if not lineage or lineage[-1][0] != frame.epoch:
                lineage.append((frame.epoch, frame.index))
            if frame.index > commit_index and frame.kind == RECORD_KIND:
                client, number, _ = open_envelope(frame.kind, frame.metadata)
                requests.append((frame.index, client, number))
        return Holdings(
            last_index=len(self.frames),
            last_timestamp=self.frames[-1].timestamp if self.frames else 0,
            durable_index=len(self.frames),
            commit_index=commit_index,
            lineage=tuple(lineage),
            requests=tuple(requests),
            note=note,
        )

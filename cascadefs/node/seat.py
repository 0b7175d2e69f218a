"""A shard's place on this node: its directory, opened or made, and the `Member` that runs on it, again after it broke.

A directory without a log is a newcomer's: the log is made empty, and the note says that it lacks what is committed. Only who
makes a shard begins with a log that is whole by being empty. A log that is damaged where no power cut explains it keeps what
stands in front of the damage, the rest goes to quarantine, and the others fill it again: there is nothing for an
operator to decide as long as another member has it.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from storage.errors import Corruption, Unusable
from storage.log import Log
from storage.log.segments import Segments
from storage.member import Member, NoteFile
from storage.member.member import requests_behind
from storage.replication import Note, Options
from storage.sequencer import START

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.clock import Clock
    from storage.disk import Disk
    from storage.log import Recovery
    from storage.member.member import Post, Requests
    from storage.replication import Epoch
    from storage.sequencer import Place

__all__ = ["Ground", "Seat"]

REOPEN_S: Final = 1.0
REOPEN_S_MAX: Final = 30.0
"""Between two attempts to begin again on a log that broke, at first and at most."""

_log = logging.getLogger("cascadefs.node")


class Ground(NamedTuple):
    """What all seats of a node have in common."""

    node: str
    identity: int
    segment_bytes: int
    boot_id: bytes
    clock: Clock
    steady_ns: Callable[[], int]
    post: Post
    lease_until_ns: Callable[[], int | None]
    has_room: Callable[[], bool]


class Seat:
    """See the module. In the thread of the network's loop."""

    def __init__(
        self,
        ground: Ground,
        shard: int,
        disk: Disk,
        options: Options,
        place: Place,
        applied: Callable[[], int],
        last_number: Callable[[int], int],
    ) -> None:
        """Nothing is opened before `open`.

        Args:
            ground: of the node.
            shard: its number.
            disk: its directory.
            options: of its pool.
            place: the last record the face here has applied, as its table says.
            applied: its index, later.
            last_number: see `Member`.
        """
        self.shard = shard
        self.options = options
        self.member: Member | None = None
        self._ground = ground
        self._disk = disk
        self._place = place
        self._applied = applied
        self._last_number = last_number

    async def open(self, epoch: Epoch | None, *, makes: bool) -> Member:
        """Open or make the log and the replica on it.

        Args:
            epoch: the newest the authority has.
            makes: nobody has this shard yet, and this node is to make it.

        Raises:
            Unusable: what lies in the directory is something else's.
            OSError: the disk refused.
        """
        log, notes, requests = await trio.to_thread.run_sync(self._open_through, None, epoch)
        ground = self._ground
        applied = self._place.index if log.recovery.resumed else 0
        note = Note(0, True) if makes and notes.found is None and not log.last_index else None
        if note is not None:
            await trio.to_thread.run_sync(lambda: notes.keep(note, durable=True))
        self.member = Member(
            self.shard,
            ground.node,
            log,
            notes,
            epoch,
            ground.clock,
            ground.steady_ns,
            ground.post,
            options=self.options,
            note=note,
            applied=applied,
            requests=requests,
            last_number=self._last_number,
        )
        self.member.lease_until_ns = ground.lease_until_ns
        return self.member

    def _open_through(
        self, applied: int | None, epoch: Epoch | None
    ) -> tuple[Log, NoteFile, Requests]:
        """Open it and look through what is behind the last record applied (None: as far as that is this log's).

        On a worker thread. What is damaged where nobody has to look at a start shows only then.
        """
        place = self._place
        while True:
            log, notes = self._open(place)
            try:
                # A segment begun for a record that was never written ends again: the next one goes where it fits.
                log.truncate_after(log.last_index)
                _check_epoch(self.shard, log.epochs(), epoch)  # Found once, and then kept.
                known = place.index if log.recovery.resumed else 0
                return log, notes, requests_behind(log, known if applied is None else applied)
            except Corruption as error:
                _given_back(log, notes)
                if place == START or epoch is None or epoch.members == (self._ground.node,):
                    raise  # Nobody else has it: that is for an operator.
                _log.error("shard %d: %s", self.shard, error)
                place = START  # All of it is looked at, and what is in front of the damage kept.
            except (OSError, Unusable):
                _given_back(log, notes)
                raise

    def _open(self, place: Place) -> tuple[Log, NoteFile]:
        notes = NoteFile(self._disk, self._ground.boot_id)
        try:
            return self._open_beside(notes, place), notes
        except BaseException:
            notes.close()
            raise

    def _open_beside(self, notes: NoteFile, place: Place) -> Log:
        disk, ground = self._disk, self._ground
        if not Segments(disk).numbers():
            if notes.found is not None:
                # The log is gone and what it had acknowledged with it.
                notes.keep(Note(notes.found.bound_us, False), durable=True)
            return Log.create(
                disk,
                ground.identity,
                shard=self.shard,
                epoch=0,
                segment_bytes=ground.segment_bytes,
            )
        try:
            log = self._open_log(notes, place, keep_prefix=False)
        except Unusable as error:
            _log.error("shard %d: %s", self.shard, error)
            log = self._open_log(notes, place, keep_prefix=True)
        for sentence in log.recovery.sentences:
            _log.warning("shard %d: recovery: %s", self.shard, sentence)
        return log

    def _open_log(self, notes: NoteFile, place: Place, *, keep_prefix: bool) -> Log:
        def distrust(found: Recovery) -> None:
            # Before the log is cut: a crash behind that would leave one that looks whole, and a note that says so.
            if found.durable_lost or found.broken:
                bound_us = notes.found.bound_us if notes.found else 0
                notes.keep(Note(bound_us, False), durable=True)

        return Log.open(
            self._disk,
            self._ground.identity,
            from_address=place.address or None,
            expected_index=place.index,
            checksum=place.checksum,
            keep_prefix=keep_prefix,
            found=distrust,
        )

    async def run(self, epoch: Callable[[], Epoch | None]) -> None:
        """Serve until cancelled, and begin again when the log broke and there is room."""
        member = self.member
        assert member is not None
        pause_s = REOPEN_S
        try:
            while True:
                started_s = trio.current_time()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(member.run)
                    await member.wait_failure()
                    if trio.current_time() - started_s > REOPEN_S_MAX:
                        pause_s = REOPEN_S
                    await trio.sleep(pause_s)  # noqa: TID251  # As above; the others hear of it meanwhile.
                    while not self._ground.has_room():  # noqa: ASYNC110  # Nobody tells.
                        await trio.sleep(pause_s)  # noqa: TID251  # As above.
                    nursery.cancel_scope.cancel()
                pause_s = min(2 * pause_s, REOPEN_S_MAX)
                await self._reopen(member, epoch)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_closed, member)

    async def _reopen(self, member: Member, epoch: Callable[[], Epoch | None]) -> None:
        async with member.rewriting:
            await self._exchange(member, epoch)

    async def _exchange(self, member: Member, epoch: Callable[[], Epoch | None]) -> None:
        await trio.to_thread.run_sync(_closed, member)
        try:
            applied = self._applied()
            log, notes, requests = await trio.to_thread.run_sync(
                self._open_through, applied, epoch()
            )
        except (OSError, Unusable, Corruption) as error:
            _log.error("shard %d: cannot begin again: %s", self.shard, error)
            return
        member.reopen(log, notes, epoch(), applied, requests)
        _log.info("shard %d: begins again at record %d", self.shard, log.last_index)


def _check_epoch(shard: int, epochs: Sequence[tuple[int, int]], epoch: Epoch | None) -> None:
    """See that the authority knows of the log's newest epoch: who led an older one again would lead it with other records.

    Raises:
        Unusable: it does not.
    """
    number, last = epoch.number if epoch is not None else 0, epochs[-1][1] if epochs else 0
    if last > number:
        raise Unusable(
            f"the log has records of epoch {last}, and etcd knows {f'of {number}' if number else 'of none'}: it was restored "
            "from an older copy; bring it up to what nodes hold with `cascadefs cluster recover-authority`"
        )


def _given_back(log: Log, notes: NoteFile) -> None:
    notes.close()
    with contextlib.suppress(OSError):
        log.close()


def _closed(member: Member) -> None:
    try:
        member.close()
    except OSError as error:
        _log.error("shard %d: closing: %s", member.shard, error)

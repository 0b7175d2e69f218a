"""What a mount may change whose certificate names users: what these users could, going by owners and modes. Not what it may read.

Theory of operation. A mount proposes records that say who owns what is made; nothing in them proves it. So a node asks its own
table who owns what a record touches, and lets it pass if that is somebody whom the mount may speak for, or whoever the modes let write. That is wider than
what each of these users alone may do, for who among them asks is for the mount's kernel to say; and never as wide as all of the tree: nothing
belongs to others, or is changed for them, that they have not opened themselves. A script runs as its owner, and one that others may write
runs not at all: so through such a mount scripts come to run as its own users only.

What may not be is replaced by a record that is always refused (`record.Denied`), in the same place of the client's order: the mount
learns of it as of any refusal, and nothing that others on it have under way is lost.

A record about what the table does not know yet waits until all has been applied that was in the log when it came. Asking costs a
change of threads for each message; mounts without such a certificate do not come here.
"""

from __future__ import annotations

import logging
import stat
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from cascadefs.node.bounds import fits
from storage import record, wire
from storage.namespace import RENAME_EXCHANGE, ROOT, shard_of
from storage.namespace.quotas import QUOTA_XATTR
from storage.retention import HOLD
from storage.transport import EVERYBODY, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cascadefs.node.faces import Faces
    from storage.attributes import Attributes
    from storage.cluster.face import Face
    from storage.member import Member
    from storage.transport import Identity, IdMap

    Propose = Callable[[wire.Propose, list[memoryview]], None]

__all__ = ["Judge", "Unknown", "Ward", "ward_of"]

DENIED: Final = record.encode(record.Denied())

APPLIED_S: Final = 1.0
APPLIED_LOOK_S: Final = 0.002
"""How long the table may take to be as far as the log is, and between two looks. Later the mount asks again by itself."""

_HARMLESS: Final = (record.Write, record.Reserve, record.Expect, record.Still, record.Once)
"""Change nothing that anybody sees."""


_log = logging.getLogger("cascadefs.node")


class Unknown(Exception):
    """The table does not know this inode yet, or it never was."""


class Owned(msgspec.Struct, frozen=True):
    """Whose something is, and who else may write it."""

    uid: int
    gid: int
    mode: int


def ward_of(peer: Identity, faces: Faces | None) -> Ward | None:
    """What looks after a peer; None: it may do everything, or proposes nothing."""
    if peer.role is not Role.MOUNT or faces is None:
        return None
    if (peer.uids, peer.gids) == (EVERYBODY, EVERYBODY):
        return None
    return Ward(peer, faces)


class Ward:
    """See the module. In the network's loop."""

    def __init__(self, peer: Identity, faces: Faces) -> None:
        """For the proposals of one peer."""
        self._peer = peer
        self._faces = faces
        self._has_told = False

    async def pass_on(
        self, message: wire.Propose, parts: list[memoryview], member: Member, propose: Propose
    ) -> None:
        """Propose what may be, in order, with what may not replaced; the rest is dropped if the table lags, and comes again.

        Args:
            message: what the mount proposes.
            parts: its payloads.
            member: whom it is proposed to.
            propose: does it; several times, with a piece each.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError, RecursionError: it is no record.
        """
        records = [record.decode(metadata) for _, _, metadata in message.proposals]
        payloads = iter(parts)
        passed = [
            (proposal, next(payloads) if proposal[1] else None) for proposal in message.proposals
        ]
        at, is_caught_up = 0, False
        while at < len(records):
            may = await self._judge(records[at:])
            if not may and is_caught_up:
                # Nobody has made it; whoever will, it is not to be foreseen whose it is then.
                may = [False]
            if may:
                end = at + len(may)
                propose(*_piece(message, passed[at:end], may))
                at, is_caught_up = end, False
                self._tell(may)
            elif not await self._caught_up(message.shard, member):
                return
            else:
                is_caught_up = True

    def _tell(self, may: list[bool]) -> None:
        if not all(may) and not self._has_told:
            self._has_told = True
            _log.warning("%s is refused changes that are not for its users to make", self._peer)

    async def _judge(self, records: list[record.Record]) -> list[bool]:
        """Whether each may be, as far as the table knows what it is about."""
        if all(isinstance(one, _HARMLESS) and fits(one) for one in records):
            return [True] * len(records)
        return await trio.to_thread.run_sync(self._judge_held, records)

    def _judge_held(self, records: list[record.Record]) -> list[bool]:
        found = []
        with self._faces.exclusive() as faces:
            table = Table(faces)
            for one in records:
                try:
                    judge = Judge(self._peer.uids, self._peer.gids, table)
                    found.append(fits(one) and judge.may(one))
                except Unknown:
                    break
        return found

    async def _caught_up(self, shard: int, member: Member) -> bool:
        member.pump()  # What came before this is in the log then.
        target = member.log.last_index
        with trio.move_on_after(APPLIED_S):
            while True:
                face = self._faces.face(shard)
                if face is not None and face.applied_index >= target:
                    return True
                await trio.sleep(APPLIED_LOOK_S)  # noqa: TID251  # What is applied is told to nobody here.
        return False


def _piece(
    message: wire.Propose,
    passed: list[tuple[tuple[int, int, bytes], memoryview | None]],
    may: list[bool],
) -> tuple[wire.Propose, list[memoryview]]:
    proposals, parts = [], []
    for (proposal, part), is_good in zip(passed, may, strict=True):
        proposals.append(proposal if is_good else (proposal[0], 0, DENIED))
        if is_good and part is not None:
            parts.append(part)
    return msgspec.structs.replace(message, proposals=proposals), parts


def _is_together(one: record.Create) -> bool:
    """Whether what is made lives where its name is."""
    return shard_of(one.inode) == shard_of(one.parent)


class Table:
    """What the shards that are here know. Whoever asks holds the faces."""

    def __init__(self, faces: Mapping[int, Face]) -> None:
        self._faces = faces

    def attributes(self, inode: int) -> Attributes | None:
        """Of an inode; None if it is not known."""
        face = self._faces.get(shard_of(inode))
        return face.namespace.attributes(inode) if face is not None else None

    def named(self, directory: int, name: bytes) -> int | None:
        """Which inode a name means; None: none."""
        face = self._faces.get(shard_of(directory))
        binding = face.namespace.binding(directory, name) if face is not None else None
        return binding.inode if binding is not None else None

    def next_inode(self, inode: int) -> int:
        """The least number of an inode's shard that was not given out yet; one too great where the shard is not here."""
        face = self._faces.get(shard_of(inode))
        return face.namespace.counters.next_inode if face is not None else inode + 1

    def end_address(self, inode: int) -> int:
        """Where the last record of an inode's shard stands that is applied."""
        face = self._faces.get(shard_of(inode))
        return face.applied_address if face is not None else 0

    def stub(self, directory: int, inode: int) -> Attributes | None:
        """What a directory's shard knows of one that lives elsewhere; None if it has no name of it."""
        face = self._faces.get(shard_of(directory))
        return face.namespace.attributes(inode) if face is not None else None

    def has_xattr(self, inode: int, name: bytes) -> bool:
        """Whether an inode has an extended attribute; not, where it is not known."""
        face = self._faces.get(shard_of(inode))
        return face is not None and face.namespace.xattr(inode, name) is not None


class Judge:
    """Whether a record may be, by what a table knows; what a part of it makes, those behind may touch."""

    def __init__(self, uids: IdMap, gids: IdMap, table: Table) -> None:
        """For whom the mount may speak, as numbers here, and who owns what."""
        self._uids = uids
        self._gids = gids
        self._table = table
        self._made: dict[int, Owned] = {}

    def may(self, one: record.Record | record.Part) -> bool:
        """Whether this may be.

        Raises:
            Unknown: it touches what is not known.
        """
        match one:
            case record.Write() | record.Reserve() | record.Expect() | record.Still():
                return True
            case record.Once():
                return True
            case record.Batch(records=records):
                return all(self.may(part) for part in records)
            case record.Create():
                return self._may_make(one) and self._may_hang(one)
            case record.CreateUnnamed():
                return self._may_make(one)
            case record.Link():
                return self._may_write(one.parent) and self._may_write(one.inode)
            case record.Unlink() | record.Detach():
                return self._may_unbind(one.parent, one.name)
            case record.Rename():
                return (
                    self._may_unbind(one.parent, one.name)
                    and self._may_unbind(one.new_parent, one.new_name, must_be=False)
                    and self._may_move(one)
                )
            case record.SetAttributes():
                return self._may_set(one)
            case record.SetXattr():
                return self._may_say(one)
            case record.Commit(inode=inode, extents=extents):
                if any(address > self._table.end_address(inode) for _, _, address, _ in extents):
                    raise Unknown  # Who named what is written there later could have it let go.
                return self._may_write(inode)
            case record.Event():
                return self._may_write(one.inode)
            case record.Prune():
                return self._owns(one.inode) and not self._is_held(one.inode)
            case record.Close():
                return self._owns(one.inode)
            case record.Drop():
                # Of names of the past only nodes let go; of a file that never had one whoever made it.
                return not one.directory and all(map(self._is_nameless, one.inodes))
            case record.Label() | record.Unlabel():
                return self._may_write(one.directory)
            case record.Rearm():
                return self._owns(one.base)
            case _:
                return False  # Runs of scripts are nodes' own affair.

    def _may_make(self, one: record.Create | record.CreateUnnamed) -> bool:
        if not (self._is_user(one.uid) and self._is_group(one.gid, one)):
            return False
        if stat.S_ISCHR(one.mode) or stat.S_ISBLK(one.mode):
            return self._is_user(0)
        is_stub = isinstance(one, record.Create) and one.name and not _is_together(one)
        if not is_stub and one.inode >= self._table.next_inode(one.inode):
            raise Unknown  # Not set aside by anybody; a number at the shard's end would use up all others.
        if self._table.attributes(one.inode) is None:  # Else it is refused when it is applied.
            self._made[one.inode] = Owned(one.uid, one.gid, one.mode)
        return True

    def _may_hang(self, one: record.Create) -> bool:
        """Whether what is made may be where it is said to be. Of shard roots what is known here counts, for it is made elsewhere."""
        if not one.name:
            if self._table.attributes(one.parent) is None or self._may_write(one.parent):
                return True
            stub = self._table.stub(one.parent, one.inode)  # It is made again.
            return stub is not None and stub.nlink > 0 and stub.parent == one.parent
        if not self._may_write(one.parent):
            return False
        if _is_together(one):
            return True
        return self._table.attributes(one.inode) is None or self._owns(one.inode)

    def _may_say(self, one: record.SetXattr) -> bool:
        """Whether an extended attribute may be set: as a kernel and a mount would allow."""
        if one.name == QUOTA_XATTR:  # Against the owner.
            return self._is_user(0) or self._owns(ROOT)
        if one.name.startswith(b"user.cascade."):
            return self._owns(one.inode)
        ends = one.name == b"security.capability" and one.value is None  # As with each write.
        if one.name.startswith(b"user.") or ends:
            return self._may_write(one.inode)
        return self._is_user(0) and self._owns(one.inode)

    def _may_move(self, one: record.Rename) -> bool:
        """Whether directories may get another one above them: whoever may write them (rename(2))."""
        if one.parent == one.new_parent:
            return True
        places = [(one.parent, one.name)]
        if one.flags & RENAME_EXCHANGE:
            places.append((one.new_parent, one.new_name))
        for directory, name in places:
            inode = self._table.named(directory, name)
            if inode is None:
                raise Unknown
            found = self._table.attributes(inode) or self._table.stub(directory, inode)
            if found is None:
                raise Unknown
            owned = Owned(found.uid, found.gid, found.mode)
            if self._is_dir(owned) and not self._is_writable(owned):
                return False
        return True

    def _is_nameless(self, inode: int) -> bool:
        found = self._table.attributes(inode)
        return self._owns(inode) and found is not None and found.never_had_a_name

    def _is_held(self, inode: int) -> bool:
        """Whether a hold is on a file or above it."""
        at = inode
        while at:
            if self._table.has_xattr(at, HOLD):
                return True
            found = self._table.attributes(at)
            if found is None:
                raise Unknown
            at = found.parent if at != ROOT else 0
        return False

    def _may_set(self, one: record.SetAttributes) -> bool:
        if one.mode is None and one.uid is None and one.gid is None:
            return self._may_write(one.inode)
        owned = self._owned(one.inode)
        if not self._owns(one.inode):
            # Whoever writes a file ends its set-user-id and set-group-id bits.
            ends = one.mode is not None and owned.mode & 0o7777 & ~0o6000 == one.mode & ~0o6000
            is_less = ends and not (one.mode or 0) & ~owned.mode
            is_mode = one.uid is None and one.gid is None and not self._is_dir(owned)
            return is_less and is_mode and self._is_writable(owned)
        gid = owned.gid if one.gid is None else one.gid
        mode = owned.mode if one.mode is None else one.mode
        if one.uid is not None and not self._is_user(one.uid):
            return False
        if self._among(self._gids, gid):
            return True
        # A file of another group may stay of it, but not come to be, nor act for it.
        return one.gid in (None, owned.gid) and not (
            mode & stat.S_ISGID and not self._is_dir(owned)
        )

    @staticmethod
    def _is_dir(owned: Owned) -> bool:
        return stat.S_ISDIR(owned.mode)

    def _may_unbind(self, directory: int, name: bytes, *, must_be: bool = True) -> bool:
        """Whether a name may come to mean something else, or nothing, there; `must_be`: it is to mean something."""
        if not self._may_write(directory):
            return False
        if not self._owned(directory).mode & stat.S_ISVTX or self._owns(directory):
            return True
        inode = self._table.named(directory, name)
        if inode is None and must_be:
            raise Unknown  # What is on its way there may be another's.
        return inode is None or self._owns(inode)

    def _may_write(self, inode: int) -> bool:
        return self._is_writable(self._owned(inode))

    def _is_writable(self, owned: Owned) -> bool:
        return (
            self._is_user(owned.uid)
            or bool(owned.mode & stat.S_IWOTH)
            or bool(owned.mode & stat.S_IWGRP and self._among(self._gids, owned.gid))
        )

    def _owns(self, inode: int) -> bool:
        return self._is_user(self._owned(inode).uid)

    def _owned(self, inode: int) -> Owned:
        found = self._table.attributes(inode)
        if found is not None:
            return Owned(found.uid, found.gid, found.mode)
        if inode not in self._made:
            raise Unknown
        return self._made[inode]

    def _is_user(self, uid: int) -> bool:
        return self._among(self._uids, uid)

    def _is_group(self, gid: int, one: record.Create | record.CreateUnnamed) -> bool:
        """A directory with the set-group-ID bit gives its group to what is made in it."""
        if self._among(self._gids, gid):
            return True
        if not isinstance(one, record.Create) or not one.name:
            return False
        parent = self._owned(one.parent)
        inherits = parent.gid == gid and bool(parent.mode & stat.S_ISGID)
        return inherits and (stat.S_ISDIR(one.mode) or not one.mode & stat.S_ISGID)

    @staticmethod
    def _among(ids: IdMap, number: int) -> bool:
        return any(0 <= number - r.target < r.count for r in ids.ranges)

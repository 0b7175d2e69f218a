"""The inodes the kernel knows: who refers to them, what stat(2) shows of them, and what was written to them since.

What every call needs and no call owns: `Names`, `Files`, `Directories` and `Xattrs` are made around one `Inodes`. One
thread at a time, like all of them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from cascadefs.filesystem.draft import Draft
from cascadefs.filesystem.interface import SEARCH, Caller, FilesystemOptions, Stat, may
from cascadefs.filesystem.node import Live, Node, NodeTable, Past
from storage import record
from storage.attributes import REGULAR, TYPE_MASK
from storage.errors import Reason, Refused
from storage.limits import RECORD_INODE_MAX
from storage.namespace import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cascadefs.filesystem.claims import Claim
    from cascadefs.filesystem.conditional import Conditional
    from cascadefs.filesystem.files import OpenFile
    from storage.attributes import Attributes
    from storage.clock import Clock
    from storage.store import Store

__all__ = ["Inodes"]

REFUSED_AGAIN_NS: Final = 60 * 10**9
"""After a draft was refused (as one of a mount that may not change the file) nobody tries again unasked for so long: each time leaves its bytes in the log."""


class Inodes:
    """See the module.

    `nodes` are those somebody refers to, `drafts` the ones with unsaved writes, `offered` the entry that readdir gave
    last: (node, (directory, name)).
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        options: FilesystemOptions,
        invalidations: list[tuple[int, bytes | None]],
    ) -> None:
        self._invalidations = invalidations
        self._store = store
        self._clock = clock
        self._options = options
        self.nodes = NodeTable()
        self.drafts: dict[int, Live] = {}
        self.offered: tuple[int, tuple[int, bytes]] | None = None
        self.versions_committed = 0
        self.unseen: set[int] = set()
        """Nodes that other mounts have changed since the kernel last asked for their attributes."""
        self.ends_elsewhere: set[int] = set()
        """Nodes whose end may be elsewhere than the kernel believes: it has not asked since others changed them."""
        self.changed_beside: dict[int, int] = {}
        """Nodes that other mounts have changed since somebody here was last granted a lock of them; a number of the change."""
        self.names_go_beside = False
        """Whether programs or scripts have removed names: the kernel may ask for a file by one that is gone."""
        self.on_moved: Callable[[int], None] = lambda number: None
        """Told of a node whose unsaved bytes lie elsewhere from now on than the kernel may have read them. Must not wait."""
        self._has_others = store.has_others
        self._unnamed: set[int] = set()
        """Made without a name, got none, and nobody has them open: to be dropped."""

    def node(self, number: int) -> Node:
        """The node of a number, made for a live inode; ABSENT is raised if there is none."""
        node = self.nodes.get(number)
        if node is not None:
            return node
        if number < RECORD_INODE_MAX and self._store.attributes(number) is not None:
            return self.nodes.live(number)
        raise Refused(Reason.ABSENT)

    def check_has_name(self, live: Live) -> None:
        """Refuse (MOVED: the kernel asks again) to open what nobody has open and has no name: it was found by one that is gone."""
        if not self.names_go_beside or live.handles:
            return
        attributes = self._store.attributes(live.number)
        if attributes is None or attributes.nlink == 0:
            raise Refused(Reason.MOVED)

    def live(self, number: int) -> Live:
        """The live node a change is asked for."""
        node = self.node(number)
        if type(node) is not Live:
            raise Refused(Reason.PAST_IS_READ_ONLY)
        if self._options.read_only:
            raise Refused(Reason.READ_ONLY)
        return node

    def remember(self, number: int) -> None:
        """The kernel holds one more reference to a node (the readdir entry given last, which it took)."""
        if number < RECORD_INODE_MAX:
            live = self.nodes.live(number)
            live.lookups += 1
            if self.offered is not None and self.offered[0] == number:
                live.alias = self.offered[1]
        else:
            self.node(number).lookups += 1

    def forget(self, number: int, count: int) -> None:
        """The kernel gave back references."""
        node = self.nodes.get(number)
        if node is None:
            return
        node.lookups -= count
        assert node.lookups >= 0, "the kernel gives back no more than it took"
        self.drop_if_unused(node)

    def drop_if_unused(self, node: Node) -> None:
        """Forget a node without references, handles and draft; without names, too, a volatile store drops it."""
        if node.lookups > 0 or node.handles or node.number == ROOT:
            return
        if type(node) is Live:
            if node.draft is not None:
                return
            attributes = self._store.attributes(node.number)
            if attributes is not None and attributes.nlink == 0:
                self._store.forget(node.number)
                if attributes.never_had_a_name:
                    self._unnamed.add(node.number)
        self.nodes.drop(node)
        self.unseen.discard(node.number)
        self.ends_elsewhere.discard(node.number)
        self.changed_beside.pop(node.number, None)

    def referenced(self, live: Live) -> Stat:
        """The attributes, for a reply by which the kernel takes one more reference."""
        live.lookups += 1
        return self.live_stat(live)

    def after_unlink(self, inode: int) -> None:
        """A name of the inode went."""
        node = self.nodes.get(inode)
        if type(node) is Live:
            self._forget_alias(node)
            self.discard_if_dead(node)
            self.drop_if_unused(node)

    def _forget_alias(self, live: Live) -> None:
        """If the name that went is the one last looked up, speak of one that is left: the kernel need not ask again."""
        attributes = self._store.attributes(live.number)
        if attributes is None or attributes.nlink == 0 or live.alias is None:
            return
        binding = self._store.binding(*live.alias)
        if binding is None or binding.inode != live.number:
            live.alias = next(iter(self._store.names_at(live.number)), None)

    def discard_if_dead(self, live: Live) -> None:
        """The bytes of a file without names and handles are nobody's: they become no version."""
        if live.handles or live.draft is None:
            return
        attributes = self._store.attributes(live.number)
        if attributes is None or attributes.nlink == 0:
            live.draft = None
            self.drafts.pop(live.number, None)

    def getattr(self, number: int) -> Stat:
        """The attributes of a node."""
        return self.stat(self.node(number))

    def stat(self, node: Node) -> Stat:
        """The attributes of any node."""
        if type(node) is Live:
            return self.live_stat(node)
        return node.stat()

    def live_stat(self, live: Live) -> Stat:
        """The attributes of an inode as every process sees them, its draft included."""
        attributes = self._store.attributes(live.number)
        if attributes is None:
            raise Refused(Reason.ABSENT)
        stat = Stat.of(live.number, attributes)
        if live.draft is not None:
            live.draft.show(stat, attributes)
        if self.unseen:
            self.unseen.discard(live.number)
        if self.ends_elsewhere:
            self.ends_elsewhere.discard(live.number)
        return stat

    def birth_ns(self, number: int) -> int | None:
        """When a node came to be, where that is known: for a file, the commit of its first content."""
        node = self.node(number)
        if not isinstance(node, Live | Past):
            return None
        inode = node.inode if isinstance(node, Past) else number
        timestamp = self._store.content_timestamp(inode, 1)
        return timestamp * 1000 if timestamp is not None else None

    def is_narrower_now(self, node: Past) -> bool:
        """Whether the live object denies somebody what it allowed then, so every access must be asked anew."""
        live = self._store.attributes(node.inode)
        if live is None or live.nlink == 0:
            return False
        then = node.attributes
        lost = then.mode & ~live.mode & 0o777
        return bool(lost) or live.uid != then.uid or live.gid != then.gid

    def check_now(self, node: Past, caller: Caller, want: int) -> None:
        """Refuse what is not allowed now: the object, if it still exists, and every directory above it.

        One that is gone stays as closed as it was last: removing what was closed does not open its past.
        """
        if caller.uid == 0:
            return
        attributes = self._store.attributes(node.inode)
        if attributes is None:
            return
        if attributes.nlink and not may(attributes, caller, want):
            raise Refused(Reason.DENIED)
        inode = attributes.parent
        while inode:
            attributes = self._store.attributes(inode)
            if attributes is None:
                return
            if not may(attributes, caller, SEARCH):
                raise Refused(Reason.DENIED)
            inode = attributes.parent

    def propose(self, proposal: record.Record) -> None:
        """Record a change, and raise the reason if it is refused.

        Others may have the file system until it is decided, and change what the caller has looked at.
        """
        reason = self._store.propose(proposal).reason
        if reason is not None:
            raise Refused(reason)

    def draft(self, live: Live, *, new: bool = False) -> Draft:
        """The draft of an inode, to be changed, begun if there is none; that of a `new` one is as old as the inode."""
        self.wait_saved(live)
        draft = live.draft
        if draft is None:
            attributes = self._store.attributes(live.number)
            if attributes is None:
                raise Refused(Reason.ABSENT)
            if attributes.mode & TYPE_MASK != REGULAR:
                raise Refused(Reason.MALFORMED)
            behind = (attributes.content, attributes.size) if self._has_others else None
            draft = live.draft = Draft(attributes.size, self._clock.now_ns(), behind)
            if new:
                draft.mtime_ns = draft.changed_ns = attributes.ctime_ns
            self.drafts[live.number] = live
        return draft

    def wait_saved(self, node: Live | Conditional) -> None:
        """If the draft is on its way, let others have the file system until that has ended."""
        if node.is_busy:
            self._store.wait(lambda: not node.is_busy)

    @contextlib.contextmanager
    def alone(self, node: Live | Conditional) -> Iterator[None]:
        """Whoever waits in here lets others have the file system, but nobody but the caller begins, changes or saves this draft."""
        self.wait_saved(node)
        node.is_busy = True
        try:
            yield
        finally:
            node.is_busy = False
            self._store.tell()
            if type(node) is Live:
                self.follow(node)  # Others may have appended meanwhile.

    def follow(self, live: Live) -> None:
        """Others may have changed the content: what was appended to it and is not committed goes behind it."""
        if live.is_busy:
            return  # When that has come, or was refused, it is looked at again (`alone`).
        if live.draft is not None and live.draft.behind is not None:
            attributes = self._store.attributes(live.number)
            if attributes is not None and live.draft.follow(attributes):
                self.on_moved(live.number)

    def size_of(self, live: Live) -> int:
        """The size of a file, with what was written and is not committed.

        Raises:
            Refused: ABSENT.
        """
        if live.draft is not None:
            return live.draft.size
        attributes = self._store.attributes(live.number)
        if attributes is None:
            raise Refused(Reason.ABSENT)
        return attributes.size

    def check_room(self, live: Live, size: int) -> None:
        """Refuse (OVER_QUOTA) a file's growth to a size that a quota above it has no room for (SEMANTICS 12).

        What other files have grown by and nobody has closed yet is not counted.
        """
        quotas = self._store.quotas
        if quotas.some and (attributes := self._store.attributes(live.number)) is not None:
            room = quotas.room(attributes.parent) if attributes.nlink else None
            if room is not None and size - attributes.size > room:
                raise Refused(Reason.OVER_QUOTA)

    def commit(self, live: Live, link: record.Link | None = None) -> None:
        """Make the draft, if there is one, the next version, unless the file has no name left (then only its handles see it).

        `link` is the first name of a file made without one: name and content come to be in one record. What was only
        appended is behind what others have committed meanwhile, each time they were quicker.

        Raises:
            Refused: CONDITION_FAILED, and the draft is dropped; or as the record, and it stays.
            OSError: the log could not take it; the draft stays.
        """
        if not self._has_others:
            self._commit(live, link)
            return
        try:
            with self.alone(live):
                self._commit(live, link)
        finally:
            self.discard_if_dead(live)  # Its last name or handle may have gone meanwhile.

    def _commit(self, live: Live, link: record.Link | None) -> None:
        draft = live.draft
        if draft is None:
            return
        claim = live.claim
        if claim is not None and not self._store.holds(claim.expect):
            self._drop_claimed(live)
            raise Refused(Reason.CONDITION_FAILED)
        attributes = self._store.attributes(live.number)
        if link is None and attributes is not None and attributes.nlink == 0:
            self.discard_if_dead(live)
            return
        if link is None and claim is None and draft.behind is not None:
            reason = self._append(live, draft)
        else:
            before = () if link is None and claim is None else _parts(link, claim)
            reason = self._propose_draft(live, draft, attributes, before)
        if reason is not None:
            if reason is Reason.CONDITION_FAILED and live.claim is not None:
                self._drop_claimed(live)
            raise Refused(reason)
        if live.draft is draft:  # Else its last name and handle went meanwhile.
            live.draft = None
            del self.drafts[live.number]
        self.versions_committed += 1
        if claim is not None:
            # Its own version from now on, which others may have followed already.
            expect, number = claim.expect, claim.expect.version + 1
            claim.expect = record.Expect(expect.directory, expect.name, number, live.number)

    def _append(self, live: Live, draft: Draft) -> Reason | None:
        """Commit what was appended behind the newest content, whichever that is when the record comes to its turn."""
        while True:
            attributes = self._store.attributes(live.number)
            if attributes is None:
                return Reason.ABSENT
            if draft.follow(attributes):
                self.on_moved(live.number)
            still = record.Still(live.number, attributes.content)
            reason = self._propose_draft(live, draft, attributes, (still,))
            if reason is not Reason.CONDITION_FAILED:
                return reason

    def _propose_draft(
        self,
        live: Live,
        draft: Draft,
        attributes: Attributes | None,
        before: Sequence[record.Part],
    ) -> Reason | None:
        return self._store.commit(
            live.number,
            draft.dirty,
            draft.size,
            draft.keep,
            draft.mtime_ns,
            draft.changed_ns,
            before=before,
            after=()
            if live.event_us is None and draft.touched_ns is None
            else self._event(live, draft, attributes),
        ).reason

    # --- conditions and event time -----------------------------------------------------------------------------

    def check_claim(self, live: Live, file: OpenFile | None) -> None:
        """Somebody is about to change the content, through a handle or otherwise: no other handle keeps its claim.

        Raises:
            Refused: CONDITION_FAILED if this handle has lost its own.
        """
        if file is not None and file.lost:
            raise Refused(Reason.CONDITION_FAILED)
        if live.claim is not None and live.claim.file is not file:
            self.end_claim(live)

    def end_claim(self, live: Live) -> None:
        """What was written on a condition, and is not on its way, is dropped; the kernel forgets its pages."""
        self.wait_saved(live)
        if live.claim is not None:
            self._drop_claimed(live)

    def _drop_claimed(self, live: Live) -> None:
        assert live.claim is not None
        live.claim.file.lost = True
        live.claim = None
        if live.draft is not None:
            live.draft = None
            del self.drafts[live.number]
        self._invalidations.append((live.number, None))

    def _event(
        self, live: Live, draft: Draft, attributes: Attributes | None
    ) -> tuple[record.Event, ...]:
        directory = attributes.parent if attributes is not None else 0
        event_us = self.event_time(directory, draft, live.event_us)
        return () if event_us is None else (record.Event(live.number, event_us),)

    def event_time(self, directory: int, draft: Draft, said: int | None) -> int | None:
        """When a draft's content happened (SEMANTICS 3): as was said, or its mtime where the directory says so."""
        if said is not None or draft.touched_ns is None or draft.touched_ns != draft.mtime_ns:
            return said
        while directory:
            value = self._store.xattr(directory, b"user.cascade.event_time")
            if value is not None:
                return draft.touched_ns // 1000 if value == b"mtime" else None
            attributes = self._store.attributes(directory)
            directory = attributes.parent if attributes is not None else 0
        return None

    def housekeep(self, now_ns: int) -> None:
        """About once a second: files kept open become versions, the index is published.

        Raises:
            Exception: as `save`.
        """
        try:
            self.save(now_ns)
        finally:
            self._store.publish()

    def unsaved(self, now_ns: int | None = None) -> set[int]:
        """The shards in which there is something for `save` to do."""
        due = [number for number, live in self.drafts.items() if self._is_due(live, now_ns)]
        return {self._store.shard_of(number) for number in [*due, *self._unnamed]}

    def refused(self, now_ns: int) -> set[int]:
        """The shards in which drafts were refused, and are not to be tried again by now."""
        return {
            self._store.shard_of(number)
            for number, live in self.drafts.items()
            if live.draft is not None and now_ns < live.draft.refused_until_ns
        }

    def save(self, now_ns: int | None = None, shard: int | None = None) -> None:
        """Make drafts versions: those that are due for it by now; None: all, the daemon is about to stop. Of one shard, or of all.

        Whatever becomes of one, all others are tried. One that was refused is tried again by its next fsync or close, which says so,
        and here after `REFUSED_AGAIN_NS`.

        Raises:
            Exception: what the first of those that could not be saved raised, whatever it was; they stay drafts.
        """
        failure: Exception | None = None
        for live in list(self.drafts.values()):
            if shard is not None and self._store.shard_of(live.number) != shard:
                continue
            if self._is_due(live, now_ns):
                error = self._try_commit(live, now_ns)
                failure = failure or error
                self.drop_if_unused(live)
        for number in list(self._unnamed):
            if shard is None or self._store.shard_of(number) == shard:
                try:
                    self._drop_unnamed(number)
                except Exception as error:
                    failure = failure or error
        if failure is not None:
            raise failure

    def _is_due(self, live: Live, now_ns: int | None) -> bool:
        draft = live.draft
        if draft is None:
            return False
        if now_ns is None:
            return True
        if live.claim is not None or now_ns < draft.refused_until_ns:
            return False
        return now_ns - draft.since_ns >= int(self._options.autocommit_s * 1e9)

    def _try_commit(self, live: Live, now_ns: int | None) -> Exception | None:
        """Commit a draft nobody waits for; what it raised, unless its handle is told: that of a condition."""
        draft = live.draft
        try:
            self.commit(live)
        except Refused as refusal:
            if refusal.reason is Reason.CONDITION_FAILED:
                return None
            if draft is not None and now_ns is not None:
                draft.refused_until_ns = now_ns + REFUSED_AGAIN_NS
            return self._about(live, refusal)
        except Exception as error:
            # Whatever it is: a bug about one file, too, is no reason to lose another.
            return self._about(live, error)
        return None

    def _about(self, live: Live, error: Exception) -> Exception:
        """Have an error that is told to nobody else say which file it is about."""
        if not hasattr(error, "__notes__"):
            _, name = live.alias or (0, b"")
            error.add_note(f"saving inode {live.number}, {name.decode(errors='backslashreplace')}")
        return error

    def _drop_unnamed(self, number: int) -> None:
        if self._store.attributes(number) is not None:  # a volatile store has dropped it already
            self.propose(record.Drop(0, b"", [number]))
        self._unnamed.discard(number)


def _parts(link: record.Link | None, claim: Claim | None) -> list[record.Part]:
    parts: list[record.Part] = [] if claim is None else [claim.expect]
    return parts if link is None else [*parts, link]

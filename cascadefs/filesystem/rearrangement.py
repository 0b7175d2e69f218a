"""From a directory as it is to what it was: the records that do it, in an order in which each of them can be done.

Theory of operation. Both trees are read whole, as places, (directory, name), and what is there, an inode. An inode that
is in both keeps being itself and moves to where it was. Places are filled as soon as they are free, or held by something
that has no place any more; then what has no place is removed, from the leaves up; and so on, until nothing is left to
do. Where things wait for each other in a circle, two of them are exchanged, or one waits under a name of its own. The
records are played on a copy of the places as they are decided, so what can be done here can be done there.

Nothing is changed here. Raises `Refused(DENIED)` where the caller could not do by hand what is decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadefs.filesystem.answers import PREFIX
from cascadefs.filesystem.interface import READ, SEARCH, WRITE, Caller, may
from storage import record
from storage.attributes import REGULAR, TYPE_MASK, is_directory
from storage.errors import Reason, Refused
from storage.limits import CHUNK_BYTES
from storage.namespace import RENAME_EXCHANGE

if TYPE_CHECKING:
    from cascadefs.filesystem.history import History
    from cascadefs.filesystem.inodes import Inodes
    from cascadefs.filesystem.node import Past
    from storage.attributes import Attributes
    from storage.store import Store

__all__ = ["Rearrangement"]

Place = tuple[int, bytes]

_STICKY, _SET_GROUP_ID, _SET_ID = 0o1000, 0o2000, 0o6000


class Rearrangement:
    """One restore.

    After `parts`, `moved` are inodes with a new place, `unlinked` those that lost one, `stale` what the kernel must forget.
    """

    def __init__(
        self, store: Store, inodes: Inodes, history: History, caller: Caller, now_ns: int
    ) -> None:
        self._store = store
        self._inodes = inodes
        self._history = history
        self._caller = caller
        self._now_ns = now_ns
        self._parts: list[record.Part] = []
        # As it is, and becomes while records are decided.
        self._here: dict[Place, int] = {}
        self._places: dict[int, set[Place]] = {}
        self._children: dict[int, int] = {}
        # As it was. Which inode is now what one of then was, and the other way round; and those made for it.
        self._then: dict[int, Past] = {}
        self._wanted: dict[Place, int] = {}
        self._homes: dict[int, list[Place]] = {}
        self._actual: dict[int, int] = {}
        self._stands: dict[int, int] = {}
        self._made: set[int] = set()
        self._touched: set[int] = set()
        self._top = 0
        self._aside: set[Place] = set()
        self.moved: dict[int, Place] = {}
        self.unlinked: list[int] = []
        self.stale: list[tuple[int, bytes | None]] = []

    def parts(self, top: Past) -> list[record.Part]:
        """The records that make a directory what it was."""
        self._top = top.inode
        self._read_now(top.inode)
        self._read_then(top)
        for inode in self._then:
            if inode in self._places:
                self._let_stand(inode, inode)
        waiting = list(self._wanted)
        while True:
            waiting = self._fill(waiting)
            removed = self._remove()
            if not waiting:
                if not removed:
                    break
            elif not removed:
                self._untangle(waiting)
        for inode, node in self._then.items():
            self._settle(inode, node)
        self.stale += [(inode, None) for inode in self._actual.values()]
        return self._parts

    # --- reading -----------------------------------------------------------------------------------------------

    def _read_now(self, top: int) -> None:
        self._places[top] = {(0, b"")}
        pending = [top]
        while pending:
            directory = pending.pop()
            for name, binding in self._store.children(directory):
                self._put((directory, name), binding.inode)
                if is_directory(binding.mode):
                    pending.append(binding.inode)

    def _read_then(self, top: Past) -> None:
        self._then[top.inode] = top
        pending = [top]
        while pending:
            directory = pending.pop()
            for name, node in self._history.children(directory, b""):
                self._want((directory.inode, name), node)
                if node.is_directory:
                    pending.append(node)

    def _want(self, place: Place, node: Past) -> None:
        want = READ | SEARCH if node.is_directory else READ
        is_file = node.attributes.mode & TYPE_MASK == REGULAR
        if is_file and self._store.content_state(node.inode, node.attributes.content):
            raise Refused(Reason.PRUNED)
        if is_file or node.is_directory:
            self._allow(may(node.attributes, self._caller, want))
            self._inodes.check_now(node, self._caller, want)
        self._then[node.inode] = node
        self._wanted[place] = node.inode
        self._homes.setdefault(node.inode, []).append(place)

    # --- deciding ----------------------------------------------------------------------------------------------

    def _fill(self, waiting: list[Place]) -> list[Place]:
        """Fill what can be filled, again and again; what is left."""
        while True:
            left = [place for place in waiting if not self._try(place)]
            if len(left) == len(waiting):
                return left
            waiting = left

    def _try(self, wanted: Place) -> bool:
        """Put into a place of then what was there; False if that must wait."""
        directory, name = wanted
        parent = self._actual.get(directory)
        if parent is None:
            return False
        place = (parent, name)
        inode = self._wanted[wanted]
        node = self._then[inode]
        actual, holder = self._actual.get(inode), self._here.get(place)
        if actual is not None and holder == actual:
            return True
        if holder is not None:
            if actual is None and self._may_become(holder, node):
                self._let_stand(inode, holder)
                return True
            if not self._is_free_to_go(holder, place):
                return False
        if actual is None:
            if holder is not None:
                self._unlink(place)
            self._make(place, inode, node)
            return True
        return self._bring(actual, place, node)

    def _may_become(self, holder: int, node: Past) -> bool:
        """Whether a file that came later is to have the content of the one that was: as after an atomic save."""
        if holder in self._stands or node.attributes.mode & TYPE_MASK != REGULAR:
            return False
        attributes = self._attributes(holder)
        return attributes.mode & TYPE_MASK == REGULAR and attributes.nlink == 1

    def _is_free_to_go(self, holder: int, place: Place) -> bool:
        """Whether what holds a place that is not its own can be removed from it."""
        if place in self._targets(holder):
            return False
        if is_directory(self._attributes(holder).mode):
            return not self._children.get(holder) and holder not in self._stands
        return len(self._places[holder]) > 1 or holder not in self._stands

    def _targets(self, actual: int) -> set[Place]:
        """Where an inode is to be, as far as the directories are there."""
        return {
            (self._actual[directory], name)
            for directory, name in self._homes.get(self._stands.get(actual, 0), ())
            if directory in self._actual
        }

    def _bring(self, inode: int, place: Place, node: Past) -> bool:
        """Move or link something that is there to a place of its own."""
        spare = sorted(self._places[inode] - self._targets(inode))
        holder = self._here.get(place)
        if node.is_directory:
            if not spare or self._lies_below(place[0], inode):
                return False
            if holder is not None:
                self._unlink(place)
        elif holder is not None and (not spare or is_directory(self._attributes(holder).mode)):
            self._unlink(place)
            holder = None
        self._touch(place)
        if not spare:
            self._parts.append(record.Link(*place, inode))
        else:
            self._touch(spare[0], inode)
            self._parts.append(record.Rename(*spare[0], *place))
            self._take(spare[0])
            if self._here.get(place) is not None:
                self.unlinked.append(self._here[place])
                self._take(place)
        self._put(place, inode)
        self.moved[inode] = place
        return True

    def _lies_below(self, directory: int, top: int) -> bool:
        while directory != top:
            above = next(iter(self._places.get(directory, ())), (0, b""))[0]
            if not above:
                return False
            directory = above
        return True

    def _remove(self) -> bool:
        """Remove what has no place any more, from the leaves up; whether there was anything."""
        surplus = [
            place for place, inode in self._here.items() if place not in self._targets(inode)
        ]
        count = len(self._parts)
        while True:
            left = [place for place in reversed(surplus) if not self._try_remove(place)]
            if len(left) == len(surplus):
                return len(self._parts) > count
            surplus = left[::-1]

    def _try_remove(self, place: Place) -> bool:
        holder = self._here[place]
        if not self._is_free_to_go(holder, place):
            return False
        self._unlink(place)
        return True

    def _untangle(self, waiting: list[Place]) -> None:
        """Things wait for each other: exchange two of them, or let one wait under a name of its own."""
        movable = [place for place in waiting if self._spare(place)]
        if not any(map(self._exchange, movable)):
            self._set_aside(
                next(place for place in movable if self._spare(place)[0] not in self._aside)
            )

    def _spare(self, wanted: Place) -> list[Place]:
        """The places that what waits for `wanted` has and shall not keep."""
        actual = self._actual.get(self._wanted[wanted])
        return [] if actual is None else sorted(self._places[actual] - self._targets(actual))

    def _exchange(self, wanted: Place) -> bool:
        """Exchange what waits with what holds its place, if both are to stay; whether that could be done."""
        parent = self._actual.get(wanted[0])
        if parent is None:
            return False
        place, spare = (parent, wanted[1]), self._spare(wanted)[0]
        inode, holder = self._here[spare], self._here.get(place)
        if holder is None or self._lies_below(parent, inode) or self._lies_below(spare[0], holder):
            return False
        self._touch(place, holder)
        self._touch(spare, inode)
        self._parts.append(record.Rename(*spare, *place, RENAME_EXCHANGE))
        for at, what in ((spare, holder), (place, inode)):
            self._take(at)
            self.moved[what] = at
        self._put(spare, holder)
        self._put(place, inode)
        return True

    def _set_aside(self, wanted: Place) -> None:
        """Move what waits out of the way of others."""
        spare = self._spare(wanted)[0]
        inode = self._here[spare]
        aside = (self._top, b".cascadefs-restore-%x" % inode)
        self._touch(aside)
        self._touch(spare, inode)
        self._parts.append(record.Rename(*spare, *aside))
        self._take(spare)
        self._put(aside, inode)
        self._aside.add(aside)

    # --- records -----------------------------------------------------------------------------------------------

    def _make(self, place: Place, inode: int, node: Past) -> None:
        self._touch(place)
        then = node.attributes
        self._allow_owner(then.uid, then.gid)
        made = self._store.allocate_inode(place[0])
        target = self._store.target(inode) or b""
        owner = then.mode, then.uid, then.gid
        self._parts.append(record.Create(*place, made, *owner, then.rdev, target))
        self._let_stand(inode, made)
        self._made.add(made)
        self._put(place, made)

    def _unlink(self, place: Place) -> None:
        inode = self._here[place]
        self._touch(place, inode)
        directory = is_directory(self._attributes(inode).mode)
        self._parts.append(record.Unlink(*place, directory))
        self.unlinked.append(inode)
        self._take(place)

    def _settle(self, inode: int, node: Past) -> None:
        """Content, extended attributes, mode, owner and mtime, as far as they are others."""
        actual, then = self._actual[inode], node.attributes
        now = None if actual in self._made else self._attributes(actual)
        is_file = then.mode & TYPE_MASK == REGULAR
        is_written = is_file and (now is None or not self._is_same(actual, now, inode, node))
        if is_written:
            self._commit(actual, node, now)
        self._settle_xattrs(actual, inode, node, now)
        mode, uid, gid = then.mode & 0o7777, then.uid, then.gid
        if now is not None:
            if is_written or now.mode & 0o7777 != mode:
                self._allow_set_id(now.uid, mode, gid)
            same = (now.mode & 0o7777, now.uid, now.gid, now.mtime_ns) == (
                mode,
                uid,
                gid,
                then.mtime_ns,
            )
            if same and actual not in self._touched:
                return
            self._allow(self._caller.uid in (0, now.uid))
            if (now.uid, now.gid) != (uid, gid):
                self._allow_owner(uid, gid)
        self._parts.append(record.SetAttributes(actual, mode, uid, gid, None, then.mtime_ns))

    def _is_same(self, actual: int, now: Attributes, inode: int, node: Past) -> bool:
        """Whether a file has the very bytes of then: the same content, or the same pieces of the log."""
        then = node.attributes
        if actual == inode and now.content == then.content:
            return True
        return now.size == then.size and list(self._store.chunks(actual, now.generation)) == list(
            self._store.chunks(inode, then.generation, node.timestamp)
        )

    def _commit(self, actual: int, node: Past, now: Attributes | None) -> None:
        if now is not None:
            self._allow_write(now)
        size = node.attributes.size
        extents: list[record.Extent] = []
        chunks = self._store.chunks(node.inode, node.attributes.generation, node.timestamp)
        for chunk, pieces in chunks:
            for start, length, address, offset in pieces:
                at = chunk * CHUNK_BYTES + start
                if at < size:
                    extents.append((at, min(length, size - at), address, offset))
        mtime_ns = node.attributes.mtime_ns
        self._parts.append(record.Commit(actual, size, 0, extents, mtime_ns, self._now_ns))

    def _settle_xattrs(
        self, actual: int, inode: int, node: Past, attributes: Attributes | None
    ) -> None:
        at = node.timestamp
        then = {name: self._store.xattr(inode, name, at) for name in self._store.xattrs(inode, at)}
        names = [] if attributes is None else self._store.xattrs(actual)
        now = {name: self._store.xattr(actual, name) for name in names}
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name) and not name.startswith(PREFIX):
                self._allow(self._caller.uid == 0 or name.startswith(b"user."))
                if attributes is not None:
                    self._allow_write(attributes)
                self._parts.append(record.SetXattr(actual, name, then.get(name)))

    # --- the copy, and who may -----------------------------------------------------------------------------------

    def _let_stand(self, then: int, now: int) -> None:
        self._actual[then] = now
        self._stands[now] = then

    def _put(self, place: Place, inode: int) -> None:
        self._here[place] = inode
        self._children[place[0]] = self._children.get(place[0], 0) + 1
        self._places.setdefault(inode, set()).add(place)

    def _take(self, place: Place) -> None:
        self._places[self._here.pop(place)].discard(place)
        self._children[place[0]] -= 1

    def _attributes(self, inode: int) -> Attributes:
        """As it is, or will be of what is made."""
        attributes = self._store.attributes(inode)
        return attributes if attributes is not None else self._then[self._stands[inode]].attributes

    def _touch(self, place: Place, inode: int = 0) -> None:
        """A name is about to change: whether the caller may, and what the kernel must forget."""
        directory = place[0]
        self.stale += [place, (directory, None)]
        self._touched.add(directory)
        if inode:
            self.stale.append((inode, None))
        if self._caller.uid == 0 or directory in self._made:
            return
        attributes = self._attributes(directory)
        self._allow(may(attributes, self._caller, WRITE | SEARCH))
        if attributes.mode & _STICKY and inode:
            owners = (attributes.uid, self._attributes(inode).uid)
            self._allow(self._caller.uid in owners)

    def _allow_owner(self, uid: int, gid: int) -> None:
        caller = self._caller
        own = caller.uid == uid and (caller.gid == gid or gid in caller.groups())
        self._allow(caller.uid == 0 or own)

    def _allow_write(self, attributes: Attributes) -> None:
        """Content and extended attributes: whoever may write, and the owner, who can let himself."""
        self._allow(self._caller.uid in (0, attributes.uid) or may(attributes, self._caller, WRITE))

    def _allow_set_id(self, owner: int, mode: int, gid: int) -> None:
        """Set-id bits that by hand would end, or not come to be (`privileges`)."""
        if mode & _SET_ID:
            self._allow_owner(owner, gid if mode & _SET_GROUP_ID else self._caller.gid)

    @staticmethod
    def _allow(allowed: bool) -> None:
        if not allowed:
            raise Refused(Reason.DENIED)

"""Names: looking them up, making, removing and moving them; those with "@" go through `history`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadefs.filesystem.interface import FOREVER_S, SEARCH, Caller, Stat
from cascadefs.filesystem.node import Listing, Live, Node, Past, Pointer
from storage import record
from storage.attributes import DIRECTORY, REGULAR, SYMLINK, TYPE_MASK, is_directory
from storage.errors import Reason, Refused
from storage.limits import NAME_BYTES_MAX, RECORD_INODE_MAX, SYMLINK_BYTES_MAX
from storage.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, ROOT

if TYPE_CHECKING:
    from cascadefs.filesystem.control import Control
    from cascadefs.filesystem.history import History
    from cascadefs.filesystem.inodes import Inodes
    from storage.store import Store

__all__ = ["Names"]


class Names:
    """See the module; the calls are those of POSIX, on a directory's number and a name."""

    def __init__(
        self,
        inodes: Inodes,
        store: Store,
        history: History,
        control: Control,
        control_name: bytes,
    ) -> None:
        self._inodes = inodes
        self._store = store
        self._history = history
        self._control = control
        self._control_name = control_name
        self._absence_may_end = False

    def lookup(self, parent: int, name: bytes, caller: Caller) -> Stat:
        """Find a name in a directory; the kernel holds one more reference to what is found.

        Raises:
            Refused: ABSENT, and for history names the reasons of SEMANTICS 5.
        """
        self._absence_may_end = b"@" in name
        if parent < RECORD_INODE_MAX:
            binding = self._store.binding(parent, name)
            if binding is None and b"@" not in name and self._store.refresh(parent):
                binding = self._store.binding(parent, name)  # Others may have made it just now.
            if binding is not None:
                live = self._inodes.nodes.live(binding.inode)
                live.lookups += 1
                live.alias = (parent, name)
                return self._shown(live)
            try:
                node, timeout_s = self._lookup_special(parent, name)
            except Refused as refusal:
                is_known = refusal.reason is not Reason.ABSENT or b"@" not in name
                if is_known or not self._store.refresh(parent):
                    raise
                self._wait_saved(parent, name)
                node, timeout_s = self._lookup_special(parent, name)
        else:
            node, timeout_s = self._lookup_child(self._inodes.node(parent), name, caller)
        node = self._inodes.nodes.intern(node, parent, name)
        node.lookups += 1
        stat = self._inodes.stat(node)
        stat.entry_timeout_s = min(stat.entry_timeout_s, timeout_s)
        if isinstance(node, Past) and self._inodes.is_narrower_now(node):
            stat.entry_timeout_s = stat.attribute_timeout_s = 0.0
        return stat

    def _shown(self, live: Live) -> Stat:
        """What a name leads to, which may be a directory in a shard that is behind here; the kernel refers to it."""
        try:
            try:
                return self._inodes.live_stat(live)
            except Refused:
                if not self._store.refresh(live.number):
                    raise
                return self._inodes.live_stat(live)
        except (Refused, OSError):
            self._inodes.forget(live.number, 1)  # It is not told of it.
            raise

    def _wait_saved(self, parent: int, name: bytes) -> None:
        """A version that is asked for may be on its way: nobody waits for the end of a file that was only made or cut."""
        binding = self._store.binding(parent, name[: name.rindex(b"@")])
        node = self._inodes.nodes.get(binding.inode) if binding is not None else None
        if type(node) is Live:
            self._inodes.wait_saved(node)

    def _lookup_special(self, parent: int, name: bytes) -> tuple[Node, float]:
        if name == self._control_name and parent == ROOT:
            return self._control.root(), 0.0 if self._control.scripts is not None else FOREVER_S
        if b"@" in name:
            return self._history.resolve(parent, name)
        if (
            name in self._control.served
            and (node := self._control.within(parent, name)) is not None
        ):
            self._absence_may_end = True
            return node, 0.0
        raise Refused(Reason.ABSENT if len(name) <= NAME_BYTES_MAX else Reason.NAME_TOO_LONG)

    def _lookup_child(self, parent: Node, name: bytes, caller: Caller) -> tuple[Node, float]:
        if isinstance(parent, Past):
            if not parent.is_directory:
                raise Refused(Reason.NOT_A_DIRECTORY)
            self._inodes.check_now(parent, caller, SEARCH)
            return self._history.child(parent, name), FOREVER_S
        if not isinstance(parent, Listing):
            raise Refused(Reason.NOT_A_DIRECTORY)
        try:
            node = parent.lookup(name)
        finally:  # Others may have looked for names meanwhile.
            self._absence_may_end = True
        if node is None:
            raise Refused(Reason.ABSENT)
        return node, parent.children_timeout_s if isinstance(node, Past) else 0.0

    def negative_timeout_s(self, name: bytes) -> float:
        """How long the kernel may remember that the name just looked up in vain does not exist.

        History comes to be without the kernel's doing: names with "@", and what made-up directories show.
        """
        return 0.0 if self._absence_may_end or b"@" in name else FOREVER_S

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Stat:
        """Make a node of any type but directory; a regular one starts with an empty version."""
        live = self.make(parent, name, mode & ~caller.umask, caller, rdev=rdev)
        if mode & TYPE_MASK == REGULAR:
            self._inodes.draft(live, new=True)
            self._inodes.commit(live)
            # Others may have removed the name meanwhile, and nobody knew the node.
            live = self._inodes.nodes.live(live.number)
        return self._inodes.referenced(live)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Stat:
        """Make a directory; `mkdir dir@tag-L` names this moment of a directory instead (SEMANTICS 7)."""
        label = self._label_of(parent, name)
        if label is not None:
            return self._make_label(parent, name, *label, caller)
        mode = DIRECTORY | mode & 0o7777 & ~caller.umask
        return self._inodes.referenced(self.make(parent, name, mode, caller))

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Stat:
        """Make a symbolic link."""
        if len(target) > SYMLINK_BYTES_MAX:
            raise Refused(Reason.NAME_TOO_LONG)
        return self._inodes.referenced(
            self.make(parent, name, SYMLINK | 0o777, caller, target=target)
        )

    def readlink(self, number: int) -> bytes:
        """The target of a symbolic link, as text, now as then."""
        node = self._inodes.node(number)
        if isinstance(node, Pointer):
            return node.target
        inode = node.inode if isinstance(node, Past) else node.number
        target = self._store.target(inode)
        if target is None:
            raise Refused(Reason.MALFORMED)
        return target

    def link(self, number: int, new_parent: int, new_name: bytes, caller: Caller) -> Stat:
        """Give a file one more name."""
        del caller
        live = self._inodes.live(number)
        self._inodes.live(new_parent)
        self.check_new_name(new_parent, new_name)
        proposal = record.Link(new_parent, new_name, number)
        self._inodes.wait_saved(live)  # Perhaps by its first name.
        attributes = self._store.attributes(number)
        if attributes is not None and attributes.never_had_a_name:
            self._inodes.draft(live)
            self._inodes.commit(live, proposal)
        else:
            self._inodes.propose(proposal)
        live.alias = (new_parent, new_name)
        return self._inodes.referenced(live)

    def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        """Remove a name that is not a directory's; open handles keep the file."""
        del caller
        if parent >= RECORD_INODE_MAX and self._remove_made(parent, name, directory=False):
            return
        binding = self._bound(parent, name)
        self._inodes.propose(record.Unlink(parent, name))
        self._inodes.after_unlink(binding)

    def rmdir(self, parent: int, name: bytes, caller: Caller) -> None:
        """Remove an empty directory, or a label (`rmdir dir@tag-L`)."""
        if parent >= RECORD_INODE_MAX and self._remove_made(parent, name, directory=True):
            return
        self._inodes.live(parent)
        label = self._label_of(parent, name)
        if label is not None:
            inode = self._history.directory_named(parent, label[0])
            self._check_owner(inode, caller)
            self._inodes.propose(record.Unlabel(inode, label[1]))
            return
        binding = self._bound(parent, name)
        self._inodes.propose(record.Unlink(parent, name, directory=True))
        self._inodes.after_unlink(binding)

    def _remove_made(self, parent: int, name: bytes, *, directory: bool) -> bool:
        """Remove a name from a made-up directory; False where that is not possible."""
        node = self._inodes.node(parent)
        if not isinstance(node, Listing) or node.remove is None:
            return False
        node.remove(name, directory)
        return True

    def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        caller: Caller,
    ) -> None:
        """Move a name (rename(2), with NOREPLACE and EXCHANGE): one record, nobody sees neither or both."""
        del caller
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise Refused(Reason.MALFORMED)
        inode = self._bound(parent, name)
        self._inodes.live(new_parent)
        target = self._store.binding(new_parent, new_name)
        if target is None:
            self.check_new_name(new_parent, new_name)
        self._inodes.propose(record.Rename(parent, name, new_parent, new_name, flags))
        moved = self._inodes.nodes.get(inode)
        if type(moved) is Live:
            moved.alias = (new_parent, new_name)
        if target is None or target.inode == inode:
            return
        if flags & RENAME_EXCHANGE:
            exchanged = self._inodes.nodes.get(target.inode)
            if type(exchanged) is Live:
                exchanged.alias = (parent, name)
        else:
            self._inodes.after_unlink(target.inode)

    def _bound(self, parent: int, name: bytes) -> int:
        """The live inode a name means, for a change of the name."""
        self._inodes.live(parent)
        binding = self._store.binding(parent, name)
        if binding is None:
            special = name == self._control_name or b"@" in name
            if special and self._is_special(parent, name):
                raise Refused(Reason.PAST_IS_READ_ONLY)
            raise Refused(Reason.ABSENT)
        return binding.inode

    def _is_special(self, parent: int, name: bytes) -> bool:
        if name == self._control_name:
            return parent == ROOT
        return self._is_historic(parent, name)

    def _is_historic(self, parent: int, name: bytes) -> bool:
        return b"@" in name and self._history.is_reserved(parent, name)

    def _label_of(self, parent: int, name: bytes) -> tuple[bytes, bytes] | None:
        """(base, label) where `name` spells a label in this directory and is no name of its own."""
        label = self._history.label_of(name)
        if label is None or not self._is_historic(parent, name):
            return None
        return label if self._store.binding(parent, name) is None else None

    def check_new_name(self, parent: int, name: bytes, *, directory: bool = False) -> None:
        """Refuse a name that nothing may be made with here; `directory`: a directory is to be made."""
        if len(name) > NAME_BYTES_MAX:
            raise Refused(Reason.NAME_TOO_LONG)
        if name == self._control_name and not (directory and self._control.scripts is not None):
            raise Refused(Reason.NOT_PERMITTED)
        if name in self._control.served and self._control.base_of(parent) is not None:
            raise Refused(Reason.NOT_PERMITTED)
        if b"@" in name and self._history.is_reserved(parent, name):
            raise Refused(Reason.MALFORMED)

    def make(
        self,
        parent: int,
        name: bytes,
        mode: int,
        caller: Caller,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Live:
        """Give a new inode its first name."""
        self._inodes.live(parent)
        self.check_new_name(parent, name, directory=is_directory(mode))
        gid, mode = self.inherited(parent, mode, caller)
        inode = self._store.allocate_inode(parent, name, mode)
        self._inodes.propose(
            record.Create(parent, name, inode, mode, caller.uid, gid, rdev, target)
        )
        live = self._inodes.nodes.live(inode)
        live.alias = (parent, name)
        return live

    def make_unnamed(self, parent: int, mode: int, caller: Caller) -> Live:
        """A regular file that nobody finds until it is linked (O_TMPFILE), as if made in this directory."""
        self._inodes.live(parent)
        gid, mode = self.inherited(parent, mode, caller)
        inode = self._store.allocate_inode(parent)
        self._inodes.propose(record.CreateUnnamed(inode, mode, caller.uid, gid))
        return self._inodes.nodes.live(inode)

    def inherited(self, parent: int, mode: int, caller: Caller) -> tuple[int, int]:
        """Group and mode of what is made in a directory.

        POSIX leaves it open; Linux: the group of a set-group-id directory is inherited.
        """
        directory = self._store.attributes(parent)
        if directory is None or not directory.nlink:
            raise Refused(Reason.ABSENT)
        if not directory.mode & 0o2000:
            return caller.gid, mode
        return directory.gid, mode | 0o2000 if is_directory(mode) else mode

    def _check_owner(self, inode: int, caller: Caller) -> None:
        """Labels decide what history is kept, so they are the owner's, whatever else may be done to names here."""
        attributes = self._store.attributes(inode)
        if attributes is not None and caller.uid not in (0, attributes.uid):
            raise Refused(Reason.NOT_PERMITTED)

    def _make_label(
        self, parent: int, name: bytes, base: bytes, label: bytes, caller: Caller
    ) -> Stat:
        self._inodes.live(parent)
        inode = self._history.directory_named(parent, base)
        attributes = self._store.attributes(inode)
        if attributes is not None and not is_directory(attributes.mode):
            raise Refused(Reason.NOT_A_DIRECTORY)
        self._check_owner(inode, caller)
        now = self._store.now()
        self._inodes.propose(record.Label(inode, label, now))
        node = self._inodes.nodes.intern(
            self._history.past(inode, now, (parent, base, None)), parent, name
        )
        node.lookups += 1
        stat = self._inodes.stat(node)
        stat.entry_timeout_s = 0.0
        return stat

"""Extended attributes: stored for users, answered from history, and the one that restores a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascadefs import vpath
from cascadefs.filesystem.answers import EVENT_TIME, IF_VERSION, PREFIX, STORED, Answers
from cascadefs.filesystem.claims import Claims, version_of
from cascadefs.filesystem.conditional import Conditional
from cascadefs.filesystem.files import OpenFile
from cascadefs.filesystem.interface import READ, Caller
from cascadefs.filesystem.node import Live, Node, Past
from cascadefs.filesystem.restoring import Restoring
from cascadefs.filesystem.retention import KEPT
from storage import record
from storage.attributes import is_directory
from storage.errors import Reason, Refused
from storage.limits import RECORD_INODE_MAX, XATTR_VALUE_BYTES_MAX

if TYPE_CHECKING:
    from cascadefs.filesystem.conditional import Conditionals
    from cascadefs.filesystem.files import Files
    from cascadefs.filesystem.history import History
    from cascadefs.filesystem.inodes import Inodes
    from cascadefs.filesystem.privileges import Privileges
    from cascadefs.filesystem.retention import Keeping
    from storage.clock import Clock
    from storage.store import Store

__all__ = ["Xattrs"]


class Xattrs:
    """See the module. `invalidations` gathers what the kernel must forget after a restore."""

    def __init__(
        self,
        inodes: Inodes,
        files: Files,
        privileges: Privileges,
        conditionals: Conditionals,
        store: Store,
        clock: Clock,
        history: History,
        keeping: Keeping,
        invalidations: list[tuple[int, bytes | None]],
    ) -> None:
        self._inodes = inodes
        self._files = files
        self._conditionals = conditionals
        self._claims = Claims(inodes, store)
        self._restoring = Restoring(inodes, privileges, store, clock, history, invalidations)
        self._store = store
        self._clock = clock
        self._history = history
        self._keeping = keeping
        self._answers = Answers(store, history)
        self._invalidations = invalidations

    def getxattr(self, number: int, name: bytes, caller: Caller) -> bytes:
        """One extended attribute; `user.cascade.*` tells of history (SEMANTICS 10).

        ACLs and SELinux contexts are "not supported", not "absent": `ls -l` then stops asking every file for them.
        """
        _check_kept(name)
        node = self._inodes.node(number)
        if isinstance(node, Past) and name.startswith(b"user."):
            self._inodes.check_now(node, caller, READ)
        if name == IF_VERSION:
            return self._expected(node)
        if isinstance(node, Conditional) and node.expect.inode:
            # As the file itself would answer, reached by its own name.
            live = Live(node.expect.inode)
            live.alias = (node.expect.directory, node.expect.name)
            node, number = live, live.number
        if name.startswith(PREFIX) and not self._is_stored(node, name):
            if isinstance(node, Live | Past) and name.removeprefix(PREFIX) in KEPT:
                return self._keeping.answer(node, name.removeprefix(PREFIX))
            return self._answers.get(node, name)
        if type(node) is Live:
            value = self._store.xattr(number, name)
        elif isinstance(node, Past):
            value = self._store.xattr(node.inode, name, node.timestamp)
        else:
            value = None
        if value is None:
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        return value

    def listxattr(self, number: int, caller: Caller) -> list[bytes]:
        """The names of the stored attributes, ours not among them: `cp -a` must not carry them off.

        Those of `trusted.` are told to root only (xattr(7)): the kernel keeps others from their values, not from their names.
        """
        node = self._inodes.node(number)
        names: list[bytes] = []
        if type(node) is Live:
            names = self._store.xattrs(number)
        elif isinstance(node, Past):
            names = self._store.xattrs(node.inode, node.timestamp)
        hidden = (PREFIX,) if caller.uid == 0 else (PREFIX, b"trusted.")
        return [name for name in names if not name.startswith(hidden)]

    def setxattr(self, number: int, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        """Set an attribute. ACLs and SELinux contexts are refused rather than kept unenforced."""
        node = self._inodes.nodes.get(number)
        if isinstance(node, Conditional):
            self._set_conditional(node, name, value, flags, caller)
            return
        if self._keeping.say(number, name, value, flags, caller):
            return
        live = self._inodes.live(number)
        if name == PREFIX + b"restore":
            self._restoring.restore(live, value, caller)
            return
        if name == IF_VERSION:
            file = self._files.writer(live, caller)
            assert isinstance(file, OpenFile)
            self._claims.set(live, file, version_of(value))
            return
        if name == EVENT_TIME:
            if not self._is_stored(live, name):
                self._files.writer(live, caller)
                live.event_us = self._event_time(value)
                return
            if value != b"mtime":
                raise Refused(Reason.MALFORMED)
        _check_kept(name)
        if name.startswith(PREFIX) and not self._is_stored(live, name):
            raise Refused(Reason.UNSUPPORTED)
        if len(value) > XATTR_VALUE_BYTES_MAX:
            raise Refused(Reason.ARGUMENT_TOO_LARGE)
        self._inodes.propose(record.SetXattr(number, name, value, flags))

    def removexattr(self, number: int, name: bytes, caller: Caller) -> None:
        """Remove an attribute. Without `if_version` a handle gives up what it wrote on that condition."""
        node = self._inodes.nodes.get(number)
        if isinstance(node, Conditional) and name == IF_VERSION:
            self._conditionals.give_up(node)
            return
        if self._keeping.say(number, name, None, 0, caller):
            return
        live = self._inodes.live(number)
        if name == IF_VERSION:
            file = self._files.writer(live, caller)
            assert isinstance(file, OpenFile)
            self._claims.give_up(live, file)
            return
        _check_kept(name)
        if name.startswith(PREFIX) and not self._is_stored(live, name):
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        self._inodes.propose(record.SetXattr(number, name, None))

    def _is_stored(self, node: Node, name: bytes) -> bool:
        """Whether one of ours is a setting of this node, kept like any other attribute."""
        if name != EVENT_TIME:
            return name in STORED
        inode = node.inode if isinstance(node, Past) else node.number
        attributes = self._store.attributes(inode) if inode < RECORD_INODE_MAX else None
        return attributes is not None and is_directory(attributes.mode)

    def _expected(self, node: Node) -> bytes:
        """The version that the next commit of a file depends on."""
        expect = None
        if isinstance(node, Conditional) and not node.lost:
            expect = node.expect
        elif type(node) is Live and node.claim is not None:
            expect = node.claim.expect
        if expect is None:
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        return b"%d" % expect.version

    def _set_conditional(
        self, node: Conditional, name: bytes, value: bytes, flags: int, caller: Caller
    ) -> None:
        """What is said of what one writer writes; what else there is, of the file."""
        if name == EVENT_TIME:
            node.event_us = self._event_time(value)
        elif name.startswith(PREFIX) or not node.expect.inode:
            raise Refused(Reason.UNSUPPORTED)
        else:
            self.setxattr(node.expect.inode, name, value, flags, caller)

    def _event_time(self, value: bytes) -> int:
        """The instant that somebody says something happened: any T of the grammar, and UTC where it says no zone."""
        try:
            return self._history.timestamp(vpath.parse_time(value))
        except ValueError as error:
            raise Refused(Reason.MALFORMED) from error


_SPACES = (b"user.", b"trusted.", b"security.")


def _check_kept(name: bytes) -> None:
    """Refuse what no file system keeps (xattr(7)), and what the kernel would have to enforce, and nobody here would.

    Raises:
        Refused: UNSUPPORTED for ACLs, SELinux contexts and names of no name space; MALFORMED for a name space alone.
    """
    if not name.startswith(_SPACES) or name == b"security.selinux":
        raise Refused(Reason.UNSUPPORTED)
    if name in _SPACES:
        raise Refused(Reason.MALFORMED)

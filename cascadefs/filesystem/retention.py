"""What a mount says about keeping history: settings, purge, what is open, and what of the past is gone (SEMANTICS 7).

Deciding and letting go is `storage.retention`; here is who may say so, by which attributes, and what a name of the past
answers when its content is no more: EIDRM, so that it does not look as if it had never been.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cascadefs import vpath
from cascadefs.filesystem.conditional import OpenConditional
from cascadefs.filesystem.files import OpenFile
from cascadefs.filesystem.node import Live, Past
from storage import record
from storage.attributes import REGULAR, TYPE_MASK, is_directory
from storage.errors import Reason, Refused
from storage.limits import SHARDS_MAX
from storage.namespace import ROOT
from storage.namespace.keys import BUDGET_XATTR, HOME_XATTR
from storage.namespace.quotas import QUOTA_XATTR, limit_of
from storage.retention import HOLD, RETENTION, MalformedPolicy, parse

if TYPE_CHECKING:
    from cascadefs.filesystem.files import Files
    from cascadefs.filesystem.history import History
    from cascadefs.filesystem.inodes import Inodes
    from cascadefs.filesystem.interface import Caller
    from storage.attributes import Attributes
    from storage.store import Store

__all__ = ["KEPT", "Keeping"]

PURGE: Final = b"user.cascade.purge"
"""Set on a directory to `NAME@vN`: that version's content is let go."""

COLLECT: Final = b"user.cascade.gc"
"""Set on the root to `dry` or `now`: a pass is made; `.cascade/status` says what it found."""

KEPT: Final = frozenset({b"pruned", b"history_versions", b"history_bytes", b"live_bytes"})
"""The answers this gives, less their prefix."""

LABEL: Final = b"user.cascade.label"
"""Set on a directory to `LABEL` or `LABEL=T`; with `!` before it a label that is there moves."""

AT_NAMES: Final = b"user.cascade.at_names"
"""Set on a directory to `literal`: names with "@" are ordinary below it, and history is not seen there."""

SETTINGS: Final = frozenset({RETENTION, HOLD, QUOTA_XATTR, BUDGET_XATTR, AT_NAMES, HOME_XATTR})


class Keeping:
    """See the module. `invalidations` gathers what the kernel must forget after a purge."""

    def __init__(
        self,
        inodes: Inodes,
        files: Files,
        store: Store,
        history: History,
        invalidations: list[tuple[int, bytes | None]],
    ) -> None:
        self._inodes = inodes
        self._files = files
        self._store = store
        self._history = history
        self._invalidations = invalidations
        store.retention.pinned = self.pinned
        store.retention.in_use = self.in_use

    # --- what must stay ----------------------------------------------------------------------------------------

    def pinned(self) -> set[tuple[int, int]]:
        """The contents somebody has open: (inode, content commit)."""
        found = set()
        for file in self._files.opened.values():
            if isinstance(file, OpenConditional):
                found.add((file.node.expect.inode, file.node.attributes.content))
            if not isinstance(file, OpenFile):
                continue
            node = file.node
            if isinstance(node, Past):
                found.add((node.inode, node.attributes.content))
            elif (attributes := self._store.attributes(node.number)) is not None:
                found.add((node.number, attributes.content))
        return found

    def in_use(self) -> set[int]:
        """The frames of the log that unsaved writes refer to."""
        files = self._files.opened.values()
        drafts = [live.draft for live in self._inodes.drafts.values()]
        drafts += [file.node.draft for file in files if isinstance(file, OpenConditional)]
        return {
            span.address
            for draft in drafts
            if draft is not None
            for span in draft.dirty
            if span.data is None
        }

    # --- what is said ------------------------------------------------------------------------------------------

    def say(
        self, number: int, name: bytes, value: bytes | None, flags: int, caller: Caller
    ) -> bool:
        """Set or remove (None) one of the attributes this is about; False for any other.

        Raises:
            Refused: NOT_PERMITTED unless owner or root, for these decide what is lost; MALFORMED for a value that is
                none; NOT_A_DIRECTORY where only directories have it; and as `_purge`.
        """
        if name not in SETTINGS and (value is None or name not in (PURGE, COLLECT, LABEL)):
            return False
        live = self._inodes.live(number)
        attributes = self._store.attributes(live.number)
        assert attributes is not None, "a live node has an inode"
        if name != HOLD and not is_directory(attributes.mode):
            raise Refused(Reason.NOT_A_DIRECTORY)
        if name == PURGE:
            assert value is not None
            self._purge(live, value, caller)
            return True
        if caller.uid not in (0, self._whose(name, attributes)):
            raise Refused(Reason.NOT_PERMITTED)
        if name == COLLECT:
            self._collect(live, value)
            return True
        if name == LABEL:
            assert value is not None
            self._label(live, value)
            return True
        if value is not None:
            _check(name, value)
        self._inodes.propose(record.SetXattr(number, name, value, flags))
        return True

    def _whose(self, name: bytes, attributes: Attributes) -> int:
        """Who may set an attribute, beside root: the owner; of quotas, which are against the owner, the root's."""
        if name != QUOTA_XATTR:
            return attributes.uid
        root = self._store.attributes(ROOT)
        assert root is not None, "there is a root"
        return root.uid

    def _collect(self, live: Live, value: bytes | None) -> None:
        if live.number != ROOT or value not in (b"dry", b"now"):
            raise Refused(Reason.MALFORMED)
        self._store.retention.ask(dry=value == b"dry")

    def _label(self, directory: Live, value: bytes) -> None:
        """Name an instant: `LABEL` this one, `LABEL=T` another, `!LABEL` whatever it named before.

        Raises:
            Refused: MALFORMED for what is no label or no time; EXISTS where the label is there and is not to move; ABSENT
                where there was no directory then; PRUNED where it is not exact any more.
        """
        move = value.startswith(b"!")
        label, _, text = value.removeprefix(b"!").partition(b"=")
        named = vpath.parse(b".@tag=" + label)
        if not isinstance(named, vpath.Historic) or named.spec != vpath.Tag(label):
            raise Refused(Reason.MALFORMED)
        timestamp = self._store.now()
        if text:
            try:
                timestamp = self._history.timestamp(vpath.parse_time(text))
            except ValueError as error:
                raise Refused(Reason.MALFORMED) from error
        node = self._history.at(directory.number, timestamp)
        self._inodes.propose(record.Label(node.inode, label, timestamp, move))

    def _purge(self, directory: Live, spelled: bytes, caller: Caller) -> None:
        """Let go of one version by name.

        Raises:
            Refused: ABSENT if there is none; PRUNED if it is gone already; IS_NEWEST if it is what the file holds now;
                NOT_PERMITTED for anybody but the owner and root; HELD below a hold.
        """
        parsed = vpath.parse(spelled)
        if not isinstance(parsed, vpath.Historic) or not isinstance(parsed.spec, vpath.Version):
            raise Refused(Reason.MALFORMED)
        node = self._history.version(directory.number, parsed.base, parsed.spec.number)
        inode, content = node.inode, node.attributes.content
        if node.attributes.mode & TYPE_MASK != REGULAR:
            raise Refused(Reason.MALFORMED)
        now = self._store.attributes(inode)
        owners = {node.attributes.uid} | ({now.uid} if now is not None else set())
        if caller.uid and owners != {caller.uid}:
            raise Refused(Reason.NOT_PERMITTED)
        if self._store.retention.is_held(directory.number) or self._store.retention.is_held(inode):
            raise Refused(Reason.HELD)
        live = self._inodes.nodes.get(inode)
        is_open = live is not None and live.handles > 0  # Without a name, and open still.
        if now is not None and content == now.content and (now.nlink or is_open):
            raise Refused(Reason.IS_NEWEST)
        outcome = self._store.retention.purge(inode, content)
        if outcome.reason is not None:
            raise Refused(outcome.reason)
        for other in self._inodes.nodes.items():
            if not isinstance(other, Past) or other.inode != inode:
                continue
            if other.attributes.content == content:
                self._invalidations.append((other.number, None))

    # --- what is answered --------------------------------------------------------------------------------------

    def answer(self, node: Live | Past, name: bytes) -> bytes:
        """One of `KEPT`: bytes are counted once however many versions share them.

        Raises:
            Refused: NO_SUCH_ATTRIBUTE where it says nothing about this node.
        """
        if name == b"live_bytes":
            return b"%d" % self._live_bytes(node)
        if name == b"history_bytes" and isinstance(node, Live) and is_directory(self._mode(node)):
            return b"%d" % self._history_bytes(node.number)
        alias = node.alias
        if alias is None or self._mode(node) & TYPE_MASK != REGULAR:
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        directory, base = alias[0], alias[1]
        kept, bytes_kept, gone = 0, 0, 0
        seen = self._frames(node) if name == b"history_bytes" else set()
        for number in range(self._store.head(directory, base) - 1, 0, -1):
            version = self._store.version(directory, base, number)
            if version is None or version.binding is None:
                continue
            inode = version.binding.inode
            content = version.binding.base + number - version.binding.first
            if self._store.content_state(inode, content):
                gone += 1
                continue
            kept += 1
            if name == b"history_bytes":
                then = self._store.attributes_at(inode, version.timestamp)
                assert then is not None, "a version has attributes"
                for _, pieces in self._store.chunks(inode, then[1].generation, version.timestamp):
                    for _, length, address, offset in pieces:
                        if (address, offset) not in seen:
                            seen.add((address, offset))
                            bytes_kept += length
        return b"%d" % {b"pruned": gone, b"history_versions": kept}.get(name, bytes_kept)

    def _history_bytes(self, directory: int) -> int:
        """Of a directory that has a history budget, what is held against that, as the last pass left it."""
        held = self._store.retention.history_bytes(directory)
        if held is None or self._store.xattr(directory, BUDGET_XATTR) is None:
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        return held

    def _frames(self, node: Live | Past) -> set[tuple[int, int]]:
        """Where the pieces of what a file holds now are: history shares them."""
        if isinstance(node, Past):
            return set()
        attributes = self._store.attributes(node.number)
        assert attributes is not None, "a live node has an inode"
        chunks = self._store.chunks(node.number, attributes.generation)
        return {(address, offset) for _, pieces in chunks for _, _, address, offset in pieces}

    def _mode(self, node: Live | Past) -> int:
        if isinstance(node, Past):
            return node.attributes.mode
        attributes = self._store.attributes(node.number)
        return attributes.mode if attributes is not None else 0

    def _live_bytes(self, node: Live | Past) -> int:
        """Of a file its bytes without holes; of a directory that has a quota, what is used of that."""
        if not is_directory(self._mode(node)):
            if isinstance(node, Past):
                return node.attributes.stored
            attributes = self._store.attributes(node.number)
            return attributes.stored if attributes is not None else 0
        quotas = self._store.quotas
        if isinstance(node, Past) or node.number not in quotas.accounts(node.number):
            raise Refused(Reason.NO_SUCH_ATTRIBUTE)
        return quotas.account(node.number)[0]


def _check(name: bytes, value: bytes) -> None:
    """Refuse a value that says nothing."""
    if name == HOLD and not value:
        raise Refused(Reason.MALFORMED)
    if name in (QUOTA_XATTR, BUDGET_XATTR) and limit_of(value) is None:
        raise Refused(Reason.MALFORMED)
    if name == HOME_XATTR and not (value.isdigit() and int(value) < SHARDS_MAX):
        raise Refused(Reason.MALFORMED)
    if name == RETENTION:
        try:
            parse(value)
        except MalformedPolicy as error:
            raise Refused(Reason.MALFORMED) from error

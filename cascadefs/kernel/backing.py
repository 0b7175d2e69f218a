"""Versions the kernel reads without us: FUSE passthrough of what never changes.

Theory of operation. A file of the past above a threshold is copied, once, into memory of the kernel's own (memfd), and
its opens are answered with the id of that memory: reads, mappings and page faults then go there, at native speed and with
no request. Copies are kept while they fit `KEPT_BYTES_MAX`, the least recently opened go first.

Not at the first open. What is read once, front to back, comes from the mapped log faster than by way of a copy, and is then
in the page cache, which serves it as well as a copy would, in memory that can be evicted. A copy is made where that does
not help: for an open with O_DIRECT, and where the kernel has asked for the bytes of a version `AGAIN` times over.

The kernel's rule: as long as a node has an open in one mode (passthrough with this id, or cached), another open of it in
another mode fails with EIO. So the first open of a node decides, and all others follow until the last is closed; opens
that come while the copy is made wait for it. Node ids of the past name one version for ever, so nothing needs revoking.

Heads are left alone, on purpose. A head's pages may be written by anybody at any time and every reader must see that at
once (SEMANTICS 0); a passthrough reader would see its own copy. Versions by node id with ESTALE for writers
would make that snapshot semantics: `tail -f` on a head opened so would not see what is appended.

Takes CAP_SYS_ADMIN in the first user namespace. Without it there is no passthrough: reads of 64 KiB and more are then
answered with slices of the mapped log, uncopied.

Held by the door's lock, but for copying, which takes it for each block.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import queue
import struct
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from cascadefs.filesystem import Filesystem

__all__ = ["Backing"]

WORTH_BYTES_MIN: Final = 1024 * 1024
"""Below, one READ brings it all, and the page cache keeps it."""

WORTH_BYTES_MAX: Final = 64 * 1024 * 1024
"""Above, whoever opens it would wait long (about 1 s/GiB, more if the log is not in memory) and may want little of it."""

AGAIN: Final = 2
"""How often the kernel has asked for as many bytes as a version has before the next open makes a copy."""

DEMANDS_MAX: Final = 1024
"""Versions of which is known how often they were asked for."""

KEPT_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of copies, in memory that cannot be evicted."""

BLOCK_BYTES: Final = 1024 * 1024

_OPEN: Final = 0x4010E501  # _IOW(229, 1, struct fuse_backing_map)
_CLOSE: Final = 0x4004E502  # _IOW(229, 2, uint32_t)

_log = logging.getLogger(__name__)


class _OpenNode:
    """A node with opens: all in passthrough with `backing`, or all cached (0). `waiting` while that is not decided.

    `asked_bytes` were asked of us since its first open, `key` names its bytes.
    """

    __slots__ = ("asked_bytes", "backing", "key", "opens", "waiting")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.asked_bytes = 0
        self.backing = 0
        self.opens = 0
        self.waiting: list[Callable[[int], None]] | None = []


class Backing:
    """See the module. Disabled until `enable`."""

    def __init__(self, filesystem: Filesystem, lock: threading.Lock) -> None:
        self._filesystem = filesystem
        self._lock = lock
        self._device = -1
        self._refused = False
        self._nodes: dict[int, _OpenNode] = {}
        self._node_of: dict[int, int] = {}
        self._kept: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        self._asked: OrderedDict[Hashable, int] = OrderedDict()
        self._kept_bytes = 0
        self._jobs: queue.SimpleQueue[tuple[int, int, Hashable, int]] = queue.SimpleQueue()
        self.opens = 0
        """Answered with passthrough so far."""

    @property
    def enabled(self) -> bool:
        """Whether the kernel has agreed to passthrough."""
        return self._device >= 0

    def enable(self, device: int) -> None:
        """The kernel has agreed to passthrough on this device."""
        self._device = device
        threading.Thread(target=self._run, name="cascadefs-backing", daemon=True).start()

    def status(self) -> dict[str, object]:
        """Figures, JSON-able."""
        return {
            "enabled": self.enabled and not self._refused,
            "opens": self.opens,
            "kept": len(self._kept),
            "kept_bytes": self._kept_bytes,
        }

    def open(
        self, node: int, handle: int, answer: Callable[[int], None], *, direct: bool = False
    ) -> bool:
        """Decide how a handle that was just opened is read.

        Args:
            node: its node.
            handle: of the file system.
            answer: called, now or later, with the backing id; 0 for an ordinary open.
            direct: reads are to pass by the page cache (O_DIRECT).

        Returns:
            False if this file is none of ours: `answer` is not called.
        """
        known = self._nodes.get(node)
        if known is None:
            named = None if self._refused else self._filesystem.immutable(handle)
            if named is None or not WORTH_BYTES_MIN <= named[1] <= WORTH_BYTES_MAX:
                return False
            known = self._nodes[node] = _OpenNode(named[0])
            self._begin(node, known, handle, named[1], direct=direct)
        known.opens += 1
        self._node_of[handle] = node
        if known.waiting is not None:
            known.waiting.append(answer)
        else:
            self._answer(known, answer)
        return True

    def _answer(self, known: _OpenNode, answer: Callable[[int], None]) -> None:
        self.opens += 1 if known.backing else 0
        answer(known.backing)

    def _begin(self, node: int, known: _OpenNode, handle: int, size: int, *, direct: bool) -> None:
        key = known.key
        copy = self._kept.get(key)
        if copy is not None:
            self._kept.move_to_end(key)
            known.backing = self._register(copy[0])
        elif direct or self._asked.get(key, 0) >= AGAIN * size:
            self._jobs.put((node, handle, key, size))
            return
        known.waiting = None

    def asked(self, node: int, length_bytes: int) -> None:
        """So much of a node is read through us."""
        known = self._nodes.get(node)
        if known is not None:
            known.asked_bytes += length_bytes

    def release(self, handle: int) -> None:
        """A handle is closed."""
        node = self._node_of.pop(handle, None)
        if node is None:
            return
        known = self._nodes[node]
        known.opens -= 1
        if not known.opens:
            del self._nodes[node]
            self._remember(known)
            if known.backing:
                fcntl.ioctl(self._device, _CLOSE, struct.pack("=I", known.backing))

    def _remember(self, known: _OpenNode) -> None:
        self._asked[known.key] = self._asked.get(known.key, 0) + known.asked_bytes
        self._asked.move_to_end(known.key)
        if len(self._asked) > DEMANDS_MAX:
            self._asked.popitem(last=False)

    def _register(self, copy: int) -> int:
        """The id of a file for the kernel; 0, and no more of this, if we may not."""
        # A mutable argument, or Python hides what ioctl(2) returns: the id.
        asked = bytearray(struct.pack("=iIQ", copy, 0, 0))
        try:
            return int(fcntl.ioctl(self._device, _OPEN, asked))
        except OSError as error:
            _log.warning("no passthrough: %s", error.strerror)
            self._refused = error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY)
            return 0

    # --- copying, in a thread of its own -----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            node, handle, key, size = self._jobs.get()
            copy = self._copy(handle, size)
            with self._lock:
                known = self._nodes[node]
                if copy is not None:
                    known.backing = self._register(copy)
                    self._keep(key, copy, size)
                waiting, known.waiting = known.waiting, None
                assert waiting is not None
                for answer in waiting:
                    self._answer(known, answer)

    def _copy(self, handle: int, size: int) -> int | None:
        """The bytes of a version in a memfd; None if they cannot be read whole, or there is no room."""
        copy = os.memfd_create("cascadefs-version", os.MFD_CLOEXEC)
        try:
            for offset in range(0, size, BLOCK_BYTES):
                with self._lock:
                    data = self._filesystem.read(handle, offset, BLOCK_BYTES)
                view = memoryview(data)
                while view:
                    view = view[os.write(copy, view) :]
            if os.fstat(copy).st_size == size:
                return copy
        except Exception as error:
            # Whoever reads it will be told by his own READ.
            _log.warning("a version is not handed to the kernel: %s", error)
        os.close(copy)
        return None

    def _keep(self, key: Hashable, copy: int, size: int) -> None:
        if key in self._kept:  # copied for another node meanwhile
            os.close(copy)  # the kernel holds what it was given
            return
        self._kept[key] = (copy, size)
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES_MAX:
            _, (dropped, dropped_bytes) = self._kept.popitem(last=False)
            os.close(dropped)
            self._kept_bytes -= dropped_bytes

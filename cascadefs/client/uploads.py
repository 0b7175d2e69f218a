"""What programs send ahead of a write that no message holds: kept in files without names until the write asks for it.

They lie on the disk of the data directory, which the write takes as much of once more; having no names, they end with the process,
however that ends.

A client sends a file's bytes in order and then the write, which names the upload in place of the bytes. What it sent to a
node that it cannot reach any more is not here: the write is refused, and the client sends all of it again. So nothing here has to outlive the process.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from triggers.run import Buffer

__all__ = ["Uploads"]

UPLOADS_MAX: Final = 256
"""At a time, of all users; beyond that, of who has the most, the one that has waited longest goes; it is sent again if it is
still wanted."""

IDLE_SECONDS: Final = 600.0
"""Between two looks for uploads that nobody has touched: what a client that is gone has left is on the disk for twice as long."""


@dataclass(slots=True)
class _Upload:
    file: BinaryIO
    length: int = 0
    is_idle: bool = False
    """Not touched since the last look."""
    is_taken: bool = False
    """Being written: its bytes must not change any more, for they have been checksummed perhaps."""


class Uploads:
    """See the module. Any thread."""

    def __init__(self, directory: Path) -> None:
        """The files are made on the disk of this directory."""
        self._directory = directory
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[int, int], _Upload] = (
            OrderedDict()
        )  # The one touched last is last.
        self._timer: threading.Timer | None = None

    def receive(self, uid: int, number: int, offset: int, parts: Sequence[Buffer]) -> int:
        """Keep the next bytes of a user's upload; how many there are now.

        Raises:
            OSError: ENOBUFS, if what should be in front of them is not here; ENOSPC, if the disk would not hold all uploads twice;
                as the disk says. Nothing of the upload stays then.
        """
        with self._lock:
            upload = self._open.get((uid, number))
            if upload is None:
                if offset:
                    raise OSError(errno.ENOBUFS, "what was sent ahead is not here")
                upload = self._begin(uid, number)
            if offset > upload.length or upload.is_taken:
                raise OSError(errno.ENOBUFS, "a part of what was sent ahead is not here")
            self._open.move_to_end((uid, number))
            upload.is_idle = False
            try:
                self._check_room(sum(map(len, parts)))
                upload.file.seek(offset)
                for part in parts:
                    upload.file.write(part)
                upload.file.flush()
            except OSError:
                self._forget((uid, number))
                raise
            upload.length = max(upload.length, upload.file.tell())
            return upload.length

    def take(self, uid: int, number: int, length: int) -> memoryview | None:
        """All of an upload, read-only; None if it is not here, whole. It stays until `drop`."""
        with self._lock:
            upload = self._open.get((uid, number))
            if upload is None or upload.length != length:
                return None
            upload.is_taken = True
            if not length:
                return memoryview(b"")
            return memoryview(mmap.mmap(upload.file.fileno(), length, access=mmap.ACCESS_READ))

    def drop(self, uid: int, number: int) -> None:
        """It is not wanted any more; views of it stay good."""
        with self._lock:
            self._forget((uid, number))

    def sweep(self) -> None:
        """Drop what nobody has touched since the last time."""
        with self._lock:
            for key, upload in list(self._open.items()):
                if upload.is_idle:
                    self._forget(key)
                upload.is_idle = True
            self._timer = None
            self._look_later()

    def close(self) -> None:
        """Drop all of them."""
        with self._lock:
            for key in list(self._open):
                self._forget(key)

    def _check_room(self, more_bytes: int) -> None:
        """What is kept here has to fit into the log beside it, which has others to serve, too."""
        found = os.statvfs(self._directory)
        free_bytes = found.f_bavail * found.f_frsize - more_bytes
        kept_bytes = sum(upload.length for upload in self._open.values()) + more_bytes
        if kept_bytes > free_bytes:
            raise OSError(
                errno.ENOSPC,
                f"no space left: writes of {kept_bytes} bytes are on their way, and the disk of"
                f" {self._directory} has {max(free_bytes, 0)} more",
            )

    def _begin(self, uid: int, number: int) -> _Upload:
        if len(self._open) >= UPLOADS_MAX:
            counts = Counter(uid for uid, _ in self._open)
            most = max(counts.values())
            self._forget(next(key for key in self._open if counts[key[0]] == most))
        file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  until `drop`
        upload = _Upload(cast("BinaryIO", file))
        self._open[uid, number] = upload
        self._look_later()
        return upload

    def _forget(self, key: tuple[int, int]) -> None:
        upload = self._open.pop(key, None)
        if upload is not None:
            with contextlib.suppress(OSError):  # What the disk had no room for is tried once more.
                upload.file.close()
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        if self._open and self._timer is None:
            self._timer = threading.Timer(IDLE_SECONDS, self.sweep)
            self._timer.daemon = True
            self._timer.start()

"""What programs send ahead of a write that no message holds: kept in files without names until the write asks for it.

A client sends a file's bytes in order and then the write, which names the upload in place of the bytes. What it sent to a
node that it cannot reach any more is not here: the write is refused, and the client sends all of it again. So nothing here has to outlive the process.
"""

from __future__ import annotations

import errno
import mmap
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triggers.run import Buffer

__all__ = ["Uploads"]

UPLOADS_MAX: Final = 256
"""At a time, of all users; beyond that the one that has waited longest goes, and is sent again if it is still wanted."""


@dataclass(slots=True)
class _Upload:
    file: BinaryIO
    length: int


class Uploads:
    """See the module. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[int, int], _Upload] = (
            OrderedDict()
        )  # The one touched last is last.

    def receive(self, uid: int, number: int, offset: int, parts: Sequence[Buffer]) -> int:
        """Keep the next bytes of a user's upload; how many there are now.

        Raises:
            OSError: ENOBUFS, if what should be in front of them is not here; as the disk says.
        """
        with self._lock:
            upload = self._open.get((uid, number))
            if upload is None:
                if offset:
                    raise OSError(errno.ENOBUFS, "what was sent ahead is not here")
                upload = self._begin(uid, number)
            if offset > upload.length:
                raise OSError(errno.ENOBUFS, "a part of what was sent ahead is not here")
            self._open.move_to_end((uid, number))
            upload.file.seek(offset)
            for part in parts:
                upload.file.write(part)
            upload.file.flush()
            upload.length = max(upload.length, upload.file.tell())
            return upload.length

    def take(self, uid: int, number: int, length: int) -> memoryview | None:
        """All of an upload, read-only; None if it is not here, whole. It stays until `drop`."""
        with self._lock:
            upload = self._open.get((uid, number))
            if upload is None or upload.length != length:
                return None
            return memoryview(mmap.mmap(upload.file.fileno(), length, access=mmap.ACCESS_READ))

    def drop(self, uid: int, number: int) -> None:
        """It is not wanted any more; views of it stay good."""
        with self._lock:
            upload = self._open.pop((uid, number), None)
            if upload is not None:
                upload.file.close()

    def close(self) -> None:
        """Drop all of them."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].file.close()

    def _begin(self, uid: int, number: int) -> _Upload:
        if len(self._open) >= UPLOADS_MAX:
            self._open.popitem(last=False)[1].file.close()
        upload = _Upload(cast("BinaryIO", tempfile.TemporaryFile()), 0)  # noqa: SIM115  until `drop`
        self._open[uid, number] = upload
        return upload

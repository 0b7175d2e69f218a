"""The data directory as a whole: what store it is, which format, and who has it open (FORMAT, "Data directory").

``cascadefs.json`` is written once, when the store is made; ``lock`` is locked (flock(2)) while a daemon has the
directory open and holds its process id, so a second one can say whom to ask.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

import msgspec

from storage.errors import Unusable

if TYPE_CHECKING:
    from pathlib import Path

    from storage.disk import Disk

__all__ = ["FORMAT_VERSION", "DirectoryLock", "Superblock"]

FORMAT_VERSION = 1
"""Of the whole data directory: log, index and this file."""

_FILE = "cascadefs.json"
_FILE_BYTES_MAX = 64 * 1024


class Superblock(msgspec.Struct, frozen=True):
    """What is fixed for the life of a store. `identity` is 64 random bits in hexadecimal."""

    format: int
    identity: str
    segment_bytes: int

    @property
    def identity_number(self) -> int:
        """The identity as the number that seeds every checksum of the log."""
        return int(self.identity, 16)

    @classmethod
    def load(cls, disk: Disk) -> Superblock | None:
        """Read it; None where there is no store yet.

        Raises:
            Unusable: it is not readable, or of a format this version does not know.
        """
        try:
            file = disk.open(_FILE, write=False)
        except FileNotFoundError:
            return None
        text = file.pread(_FILE_BYTES_MAX, 0)
        file.close()
        try:
            version = msgspec.json.decode(text).get("format")
            if version != FORMAT_VERSION:
                raise Unusable(
                    f"{disk}: the store has format version {version}, this program knows "
                    f"{FORMAT_VERSION}; use the cascadefs version that made it"
                )
            found = msgspec.json.decode(text, type=cls)
            if not 0 <= found.identity_number < 2**64:
                raise ValueError("the identity is not 64 bits")
            return found
        except (msgspec.DecodeError, AttributeError, ValueError, RecursionError) as error:
            raise Unusable(
                f"{disk}/{_FILE}: not a store description ({error}); make it again from the log with: "
                f"cascadefs repair {disk}; or restore the file from a copy, it holds three fields that never change"
            ) from error

    def write(self, disk: Disk) -> None:
        """Write it so that a crash leaves the whole file or none."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"
        file = disk.open(_FILE + ".new", create=True)
        file.truncate(0)
        if file.pwritev([text], 0) != len(text):
            raise OSError(errno.ENOSPC, f"no space for {_FILE}")
        file.fdatasync()
        file.close()
        disk.rename(_FILE + ".new", _FILE)
        disk.sync_directory(".")


class DirectoryLock:
    """Exclusive use of a data directory; the kernel lets go when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Take it.

        Raises:
            Unusable: another process has it; the message names its process id.
        """
        self._path = directory / "lock"
        while True:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
                os.close(self._descriptor)
                raise Unusable(
                    f"{directory}: in use by process {holder or 'unknown'}; unmount that one first "
                    f"(cascadefs umount), or mount another data directory"
                ) from error
            if self._is_current():
                break
            # The one before us let go between our open and our lock: what we locked has no name any more.
            os.close(self._descriptor)
        os.ftruncate(self._descriptor, 0)
        with contextlib.suppress(
            OSError
        ):  # Only for the message; a full disk must not keep the store shut.
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    @staticmethod
    def check(directory: Path) -> None:
        """Only see that nobody has it; leaves nothing behind.

        Raises:
            Unusable: as on taking it.
        """
        try:
            descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        _lock(descriptor, fcntl.LOCK_SH, directory)
        os.close(descriptor)

    def _is_current(self) -> bool:
        """Whether the file that is locked is still the one others will find."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        held = os.fstat(self._descriptor)
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)

    def release(self) -> None:
        """Give it back and leave no file behind."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _lock(descriptor: int, how: int, directory: Path) -> None:
    """Lock, or close the descriptor and say who has it."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Unusable(
            f"{directory}: in use by process {holder}; unmount that one first "
            f"(cascadefs umount), or mount another data directory"
        ) from error

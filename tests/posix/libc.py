"""Calls that Python's os module has not, or not with every argument. They raise OSError as those of os do."""

from __future__ import annotations

import ctypes
import os
import struct

libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2

STATX_BTIME = 0x800
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def renameat2(source: str, target: str, flags: int) -> None:
    _checked(
        libc.renameat2(
            AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)
        )
    )


def utimensat(
    path: str | None,
    atime: tuple[int, int],
    mtime: tuple[int, int],
    flags: int = 0,
    at: int = AT_FDCWD,
) -> None:
    """Times as (seconds, nanoseconds), the latter also UTIME_NOW and UTIME_OMIT; without a path of the file `at`."""
    times = (Timespec * 2)(Timespec(*atime), Timespec(*mtime))
    if path is None:
        _checked(libc.futimens(at, times))
    else:
        _checked(libc.utimensat(at, os.fsencode(path), times, flags))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    _checked(libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def mknod(path: str, mode: int, device: int = 0) -> None:
    """mknod(2) with any type bits, those that mean nothing too."""
    _checked(libc.mknod(os.fsencode(path), ctypes.c_uint(mode), ctypes.c_ulong(device)))


def linkat(source: str, target: str, flags: int, at: int = AT_FDCWD) -> None:
    _checked(libc.linkat(at, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags))


def setxattr(path: str, name: bytes, value: bytes, flags: int = 0) -> None:
    """setxattr(2), not following a symbolic link."""
    _checked(libc.lsetxattr(os.fsencode(path), name, value, ctypes.c_size_t(len(value)), flags))


def getxattr(path: str, name: bytes, room_bytes: int) -> int:
    """getxattr(2) with a buffer of a size: what it returns."""
    libc.lgetxattr.restype = ctypes.c_ssize_t
    buffer = ctypes.create_string_buffer(max(room_bytes, 1))
    return _checked(libc.lgetxattr(os.fsencode(path), name, buffer, ctypes.c_size_t(room_bytes)))


def listxattr(path: str, room_bytes: int) -> int:
    """listxattr(2) with a buffer of a size: what it returns."""
    libc.llistxattr.restype = ctypes.c_ssize_t
    buffer = ctypes.create_string_buffer(max(room_bytes, 1))
    return _checked(libc.llistxattr(os.fsencode(path), buffer, ctypes.c_size_t(room_bytes)))


def copy_file_range(
    source: int, source_at: int | None, target: int, target_at: int | None, length: int, flags: int
) -> int:
    libc.copy_file_range.restype = ctypes.c_ssize_t
    places = [
        ctypes.byref(ctypes.c_long(at)) if at is not None else None for at in (source_at, target_at)
    ]
    return _checked(
        libc.copy_file_range(
            source, places[0], target, places[1], ctypes.c_size_t(length), ctypes.c_uint(flags)
        )
    )


def birth_ns(path: str) -> int | None:
    """When a file came to be, by statx(2), where that is known."""
    buffer = ctypes.create_string_buffer(256)
    _checked(libc.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, STATX_BTIME, buffer))
    (mask,) = struct.unpack_from("I", buffer.raw, 0)
    seconds, nanoseconds = struct.unpack_from("qI", buffer.raw, 80)
    return seconds * 10**9 + nanoseconds if mask & STATX_BTIME else None


def mount_memory(path: str) -> None:
    """Mount a small tmpfs."""
    _checked(libc.mount(b"posix", os.fsencode(path), b"tmpfs", ctypes.c_ulong(0), b"size=64k"))


def unmount(path: str) -> None:
    _checked(libc.umount2(os.fsencode(path), 0))


# --- Directory streams ------------------------------------------------------------------------------------------------


class Entry(ctypes.Structure):
    _fields_ = (
        ("number", ctypes.c_ulong),
        ("offset", ctypes.c_long),
        ("length", ctypes.c_ushort),
        ("kind", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    )


libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Entry)
libc.readdir.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long
libc.telldir.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
libc.rewinddir.argtypes = [ctypes.c_void_p]
libc.closedir.argtypes = [ctypes.c_void_p]


class DirectoryStream:
    """opendir(3) and what goes with it."""

    def __init__(self, path: str) -> None:
        self._stream = libc.opendir(os.fsencode(path))
        if not self._stream:
            raise OSError(ctypes.get_errno(), "opendir")

    def read(self) -> tuple[bytes, int, int] | None:
        """The next entry: (name, inode number, type); None at the end."""
        entry = libc.readdir(self._stream)
        if not entry:
            return None
        return entry.contents.name, entry.contents.number, entry.contents.kind

    def rest(self) -> list[bytes]:
        """The names from here on, sorted."""
        names = []
        while (entry := self.read()) is not None:
            names.append(entry[0])
        return sorted(names)

    def tell(self) -> int:
        return libc.telldir(self._stream)

    def seek(self, place: int) -> None:
        libc.seekdir(self._stream, place)

    def rewind(self) -> None:
        libc.rewinddir(self._stream)

    def close(self) -> None:
        libc.closedir(self._stream)


# --- File handles -----------------------------------------------------------------------------------------------------


class FileHandle(ctypes.Structure):
    _fields_ = (
        ("bytes", ctypes.c_uint),
        ("kind", ctypes.c_int),
        ("handle", ctypes.c_ubyte * 128),
    )


def name_to_handle_at(path: str) -> FileHandle:
    handle = FileHandle(bytes=128)
    mount = ctypes.c_int()
    _checked(
        libc.name_to_handle_at(
            AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0
        )
    )
    return handle


def open_by_handle_at(mount: int, handle: FileHandle, flags: int) -> int:
    """`mount`: a descriptor of anything in the file system."""
    return _checked(libc.open_by_handle_at(mount, ctypes.byref(handle), flags))

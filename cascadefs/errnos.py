"""Reason -> errno: what a refusal is called outside, for every door and the command line (SEMANTICS 5).

One table, complete (a test holds it against `Reason`). What is no refusal is a failure of the world, and `errno_of`
says how much of it the caller may be told: an errno that would *mean* something else at the door must not get there.

Sources: POSIX.1-2017 XSH "ERRORS" of each call, Linux man pages 2, and fs/fuse of the kernel for what an errno in a
reply makes it do.
"""

from __future__ import annotations

import errno
from typing import Final

from storage.errors import Reason, Refused

__all__ = ["DISK_ERRNOS", "ERRNO", "errno_of"]

ERRNO: Final[dict[Reason, int]] = {
    Reason.ABSENT: errno.ENOENT,
    Reason.EXISTS: errno.EEXIST,
    Reason.NOT_A_DIRECTORY: errno.ENOTDIR,
    # unlink of a directory may be EPERM in POSIX; Linux says EISDIR, and rm(1) looks for it.
    Reason.IS_A_DIRECTORY: errno.EISDIR,
    # POSIX allows EEXIST as well; every Linux file system says ENOTEMPTY.
    Reason.NOT_EMPTY: errno.ENOTEMPTY,
    Reason.NAME_TOO_LONG: errno.ENAMETOOLONG,
    Reason.MALFORMED: errno.EINVAL,
    # Not EACCES: no chmod would help. CephFS, btrfs, restic and borg say the same of a snapshot.
    Reason.PAST_IS_READ_ONLY: errno.EROFS,
    Reason.READ_ONLY: errno.EROFS,
    # "Identifier removed": there was one. ENOENT would say that there never was.
    Reason.PRUNED: errno.EIDRM,
    Reason.IS_NEWEST: errno.EBUSY,
    # As for an immutable file: nobody may, whoever they are.
    Reason.HELD: errno.EPERM,
    Reason.OVER_QUOTA: errno.EDQUOT,
    # As of project quotas on XFS: mv(1) then copies.
    Reason.CROSS_QUOTA: errno.EXDEV,
    Reason.TOO_MANY_ENTRIES: errno.E2BIG,
    # The kernel looks the name up once more, asking us this time (VFS: ESTALE from an open).
    Reason.MOVED: errno.ESTALE,
    Reason.NOT_STABLE_YET: errno.EAGAIN,
    # Seen by nobody: whoever asks twice is told what became of it the first time.
    Reason.REPEATED: errno.EALREADY,
    # The kernel looks the name up once more and asks again before a program sees it.
    Reason.CONDITION_FAILED: errno.ESTALE,
    # EPERM is about who one is, EACCES about permission bits: POSIX keeps them apart, and so do `chmod` and `open`.
    Reason.NOT_PERMITTED: errno.EPERM,
    Reason.DENIED: errno.EACCES,
    Reason.CROSS_SHARD: errno.EXDEV,
    Reason.TOO_MANY_LINKS: errno.EMLINK,
    Reason.TOO_LARGE: errno.EFBIG,
    # What setxattr(2) says of a value above the kernel's own limit. ENOSPC would send people to look at their disk.
    Reason.ARGUMENT_TOO_LARGE: errno.E2BIG,
    Reason.NO_SUCH_ATTRIBUTE: errno.ENODATA,
    Reason.ATTRIBUTE_EXISTS: errno.EEXIST,
    # Never ENOSYS: the kernel takes that for "no such request, for ever" and answers some of them itself.
    Reason.UNSUPPORTED: errno.EOPNOTSUPP,
    Reason.BAD_HANDLE: errno.EBADF,
    Reason.DAMAGED: errno.EIO,
}

DISK_ERRNOS: Final = frozenset(
    {
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EROFS,
    }
)
"""What an `OSError` of the data directory may say to a program as it is: each means to it what it means to us.

Everything else becomes EIO. A log segment that is gone is no missing file (ENOENT), a data directory on NFS that was
replaced no stale handle (ESTALE: the kernel would ask again, for ever), a call our disk does not know no request that
the kernel need not send again (ENOSYS: it would take every later fsync for done).
"""


def errno_of(error: BaseException) -> int:
    """The errno to answer with when handling a request raised `error`; EIO for what is a bug or damage."""
    if isinstance(error, Refused):
        return ERRNO[error.reason]
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return error.errno
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    return errno.EIO

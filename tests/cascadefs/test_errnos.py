"""The table from Reason to errno is complete, and no errno leaves the door that means something else outside.

Method: hold the table against the enumeration and against what the kernel does with an errno (fs/fuse/dev.c).
"""

from __future__ import annotations

import errno

import pytest

from cascadefs.errnos import DISK_ERRNOS, ERRNO, errno_of
from storage.errors import Corruption, Reason, Refused

KERNEL_ERRNO_MAX = 511  # fuse_dev_do_write refuses a reply with more


def test_every_reason_has_an_errno():
    assert set(ERRNO) == set(Reason)


@pytest.mark.parametrize("number", sorted({*ERRNO.values(), *DISK_ERRNOS}))
def test_the_kernel_takes_every_errno_as_it_is(number):
    assert 0 < number <= KERNEL_ERRNO_MAX
    # These make the kernel stop asking, ask again at once, or wait for a signal that never came.
    assert number not in {errno.ENOSYS, errno.EINTR, errno.ENOTCONN}


@pytest.mark.parametrize(
    ("reason", "number"),
    [  # SEMANTICS 5, row by row
        (Reason.ABSENT, errno.ENOENT),
        (Reason.MALFORMED, errno.EINVAL),
        (Reason.PRUNED, errno.EIDRM),
        (Reason.NOT_STABLE_YET, errno.EAGAIN),
        (Reason.PAST_IS_READ_ONLY, errno.EROFS),
        (Reason.NOT_A_DIRECTORY, errno.ENOTDIR),
        (Reason.CONDITION_FAILED, errno.ESTALE),
        (Reason.EXISTS, errno.EEXIST),
        (Reason.DENIED, errno.EACCES),
        (Reason.CROSS_SHARD, errno.EXDEV),
    ],
)
def test_the_rows_of_semantics(reason, number):
    assert errno_of(Refused(reason)) == number


@pytest.mark.parametrize("number", sorted(DISK_ERRNOS))
def test_what_the_disk_says_of_itself_passes(number):
    assert errno_of(OSError(number, "")) == number


@pytest.mark.parametrize(
    "number", [errno.ENOENT, errno.ENOSYS, errno.ESTALE, errno.EINTR, errno.EBADF, None, 0, 600]
)
def test_what_would_mean_something_else_does_not(number):
    assert errno_of(OSError(number, "")) == errno.EIO


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (Corruption("shard 0"), errno.EIO),
        (AssertionError(), errno.EIO),
        (ZeroDivisionError(), errno.EIO),
        (MemoryError(), errno.ENOMEM),
    ],
)
def test_bugs_and_damage_are_eio(error, number):
    assert errno_of(error) == number

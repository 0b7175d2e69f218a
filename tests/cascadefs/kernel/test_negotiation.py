"""What is agreed on: never more than the kernel offers, never what would break a promise."""

from __future__ import annotations

import struct

import pytest

from cascadefs.kernel.negotiation import InitFlag, TooOld, negotiate

EVERYTHING = 2**64 - 1


def init(major=7, minor=45, flags=EVERYTHING):
    return struct.pack(
        "=IIIII44x", major, minor, 131072, flags & 0xFFFFFFFF, flags >> 32 & 0xFFFFFFFF
    )


def test_of_everything_offered_only_what_is_wanted_is_taken():
    agreement, reply = negotiate(init(minor=99), passthrough=True)
    assert agreement is not None
    assert agreement.minor == 45
    assert agreement.passthrough
    major, minor, ahead, low, background, _, write, grain, pages = struct.unpack_from(
        "=IIIIHHIIH", reply
    )
    assert (major, minor, ahead, write, grain, pages) == (7, 45, 131072, 1 << 20, 1, 256)
    assert background == 64
    writeback, acl, no_opendir, no_open, posix_locks, flock = (
        1 << bit for bit in (16, 20, 24, 17, 1, 10)
    )
    assert not low & (writeback | acl | no_opendir | no_open | posix_locks | flock)
    assert struct.unpack_from("=I", reply, 32)[0] == 1 << 37 - 32
    assert struct.unpack_from("=I", reply, 36)[0] == 1, "the stacking depth that passthrough needs"
    assert len(reply) == 64


def test_what_is_not_offered_is_not_taken():
    agreement, reply = negotiate(init(flags=0), passthrough=True)
    assert agreement is not None
    assert agreement.flags == 0
    assert struct.unpack_from("=I", reply, 12)[0] == 0
    without_extension, _ = negotiate(init(flags=EVERYTHING & ~(1 << 30)), passthrough=True)
    assert without_extension is not None
    assert not without_extension.passthrough, "the upper flags mean nothing then"


def test_passthrough_is_taken_only_where_it_can_be_used():
    agreement, reply = negotiate(init(), passthrough=False)
    assert agreement is not None
    assert not agreement.passthrough
    assert struct.unpack_from("=II", reply, 32) == (0, 0)


def test_locks_are_taken_only_where_they_are_not_the_kernels_own():
    agreement, reply = negotiate(init(), passthrough=False, locks=True)
    assert agreement is not None
    assert struct.unpack_from("=I", reply, 12)[0] & (1 << 1 | 1 << 10) == (1 << 1 | 1 << 10)


def test_a_newer_major_is_answered_with_ours_and_greets_again():
    agreement, reply = negotiate(init(major=8), passthrough=False)
    assert agreement is None
    assert struct.unpack_from("=I", reply)[0] == 7


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (6, 99)])
def test_an_old_kernel_is_refused(major, minor):
    with pytest.raises(TooOld, match=rf"{major}\.{minor}"):
        negotiate(init(major=major, minor=minor), passthrough=False)


def test_an_agreement_can_be_read():
    agreement, _ = negotiate(init(flags=int(InitFlag.MAX_PAGES)), passthrough=False)
    assert agreement is not None
    assert agreement.describe() == {"protocol": "7.45", "capabilities": ["max_pages"]}

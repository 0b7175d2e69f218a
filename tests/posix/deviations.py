"""Every way in which a mount does not behave as ext4 does, each with its reason; docs/SEMANTICS.md tells users of them.

A deviation must be there: one that is gone fails its test, so this list stays as short as it can be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KERNEL, PYFUSE3 = ("kernel",), ("pyfuse3",)
BOTH = KERNEL + PYFUSE3


@dataclass(frozen=True)
class Deviation:
    """`case` and `keys` are regular expressions, of the whole; `ours` is what is seen instead (None: anything)."""

    doors: tuple[str, ...]
    case: str
    keys: str
    ours: object
    reason: str

    def is_about(self, case: object) -> bool:
        return re.fullmatch(self.case, str(case)) is not None

    def covers(self, key: str) -> bool:
        return re.fullmatch(self.keys, key) is not None

    def allows(self, value: object) -> bool:
        return self.ours is None or value == self.ours


WRITTEN = r"(write|pwrite beyond|fallocate|copy_file_range)"

NO_HOOK = "pyfuse3 has no hook for it"

DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        BOTH,
        r"times\.of_reading",
        r"read .*",
        "",
        "reading does not move atime, as with `noatime`: a read is no change to remember",
    ),
    Deviation(
        BOTH,
        r"times\.setting",
        r"(back )?-2147483648\.(?!000000000).*|(back )?15032385535\..*",
        None,
        "times are kept from 1677 to 2262, to the nanosecond; ext4 keeps 1901 to 2446",
    ),
    Deviation(
        BOTH,
        r"times\.of_every_call",
        r"setxattr to the same",
        ["ok", "ctime", ""],
        "setting an attribute to what it is moves ctime, as on xfs and btrfs",
    ),
    Deviation(
        BOTH,
        r"opening\.offsets",
        r"seek 0 9223372036854775807",
        "9223372036854775807",
        "a position behind every possible file is refused when something is read or written there",
    ),
    Deviation(
        BOTH,
        r"opening\.truncating_a_program",
        r"emptied",
        True,
        "the kernel asks us to open and empty the file before it finds that it may not",
    ),
    Deviation(
        BOTH,
        r"renaming\.whiteouts",
        r"(root|owner)",
        "EINVAL",
        "RENAME_WHITEOUT is for overlayfs, which does not take a FUSE mount as its upper layer",
    ),
    Deviation(
        BOTH,
        r"renaming\.whiteouts",
        r"(root|owner) left",
        None,
        "refused, so nothing has changed",
    ),
    Deviation(
        BOTH,
        r"xattrs\.values_beyond_a_block",
        r".*",
        None,
        "values have Linux's own limit of 64 KiB; ext4 keeps a block of 4 KiB in all",
    ),
    Deviation(
        BOTH,
        r"xattrs\.acls",
        r".*",
        "ENOTSUP",
        "ACLs that are kept and not enforced would lie",
    ),
    Deviation(BOTH, r"xattrs\.inode_flags", r".*", "ENOTTY", "there are no inode flags"),
    Deviation(
        KERNEL,
        r"set_id\.clearing",
        r"chown of nothing of (6777|4777|2777|6666|6776) by (member|mate|other)"
        r"|chown of nothing of 2767 by other",
        None,
        "chown(2) of neither owner nor group reaches us as the kernel's announcement of a write"
        " does: it is granted to everybody, and changes nothing",
    ),
    Deviation(
        PYFUSE3,
        r"set_id\.clearing",
        r"chown of nothing of 2767 by other",
        "ok 2767",
        "the same, where the kernel itself sees no bit to clear",
    ),
    Deviation(
        PYFUSE3,
        r"set_id\.clearing",
        rf"{WRITTEN} of 6666 by (owner|other)|{WRITTEN} of 2767 by other",
        None,
        "pyfuse3 does not tell who writes, and the kernel leaves the set-group-id bit of a file"
        " that its group may not execute to us",
    ),
    Deviation(
        PYFUSE3,
        r"making\.temporary",
        r"made|exclusively|named|not to be named",
        "ENOTSUP",
        f"O_TMPFILE: {NO_HOOK}",
    ),
    Deviation(
        PYFUSE3,
        r"sizes\.fallocate",
        r"(keep size|plain|punch|zero|zero, keep size) \d+\+\d+",
        ["ENOTSUP", "", 76500, "0b03f1517b1910c5"],
        f"fallocate(2): {NO_HOOK}",
    ),
    Deviation(
        BOTH,
        r"sizes\.fallocate",
        r"(collapse|insert) .*",
        ["ENOTSUP", "", 76500, "0b03f1517b1910c5"],
        "fallocate(2) that moves bytes: not made, and rare",
    ),
    Deviation(
        KERNEL,
        r"times\.births",
        r"file",
        [False, True, True, True, True],
        "a file is born with its first version, which may be after its name was made",
    ),
    Deviation(PYFUSE3, r"times\.births", r".*", None, f"statx(2): {NO_HOOK}"),
    Deviation(
        KERNEL,
        r"sizes\.punched",
        r".*",
        None,
        "a hole punched inside a version is kept as zeros, which count as data and as room",
    ),
    Deviation(PYFUSE3, r"sizes\.punched", r".*", None, f"fallocate(2): {NO_HOOK}"),
    Deviation(
        PYFUSE3,
        r"sizes\.posix_fallocate",
        r"(10|5000): 0\+(1|10)",
        ["ok", ""],
        "the C library writes a byte to each block instead, where there is none",
    ),
    Deviation(
        PYFUSE3,
        r"times\.of_every_call",
        r"fallocate what is there",
        ["ok", "", ""],
        "the same",
    ),
    Deviation(
        PYFUSE3,
        r"sizes\.holes",
        r"(one|two|a|cut).*|seek 3 26214[49]|seek 4 (0|5|262144|262149)",
        None,
        f"SEEK_HOLE: {NO_HOOK}, so all is data",
    ),
    Deviation(
        PYFUSE3,
        r"xattrs\.flags",
        r"(value |removed )?3 False",
        None,
        "XATTR_CREATE and XATTR_REPLACE at once: pyfuse3 sees to the flags, and heeds the first",
    ),
)

"""POSIX semantics in plain types over the Store: live files, drafts, and the past by name.

`posix` is the door's counterpart, `history` the rules of names with "@", `node` what names lead to, `draft` what is
written but no version yet, `xattrs` and `control` what is answered rather than stored.
"""

from cascadefs.filesystem.interface import (
    Caller,
    Changes,
    FilesystemOptions,
    Opened,
    Stat,
    Usage,
)
from cascadefs.filesystem.posix import Filesystem

__all__ = ["Caller", "Changes", "Filesystem", "FilesystemOptions", "Opened", "Stat", "Usage"]

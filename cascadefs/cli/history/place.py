"""Where a path is on a mount, whose history it asks for, and how that history is spelled (SEMANTICS 2).

A path on the command line is cut at the first component that is not simply there now: one with a specification, or
one whose directory lives but which itself is gone. What stands before is a living directory, and what stands behind
lies below a history component. So `data/sub@v3` is (`data/`, `sub`, v3), and `data/gone/x.csv` with `-t T` can be
answered as `data/gone@T/x.csv`.

Paths keep the spelling they came with, so that what is printed works where it was asked. A literal entry wins over
history: it is told by having a history of its own (`icon@2x.png@@/.log`), which no virtual name has.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from cascadefs.cli.history.refusal import Refusal
from cascadefs.vpath import (
    Deleted,
    Historic,
    Malformed,
    Spec,
    Time,
    Version,
    Versions,
    format_at,
    format_version,
    parse,
)

__all__ = ["Place", "has_log", "locate", "mount_root"]

_LISTED_VERSION_MATCH = re.compile(rb"v(0|[1-9]\d{0,18})(?:\.[^/]*)?").fullmatch


@dataclass(frozen=True, slots=True)
class Place:
    """A name in a living directory of a mount, what is asked of its history, and what lies below it."""

    root: bytes  # The mount's root: absolute, no link in it.
    directory: bytes  # As spelled: empty, or ending in "/". It exists.
    name: bytes  # One component; b"." is the directory itself.
    rest: bytes = b""  # Below a history component, or below a name that is gone.
    spec: Spec | None = None  # None: the name as it is now.
    spelled: bytes = b""  # Invariant: what stands for name in the path, or empty without spec.

    @property
    def path(self) -> bytes:
        """The path that is asked for."""
        return self.live if self.spec is None else self._below(self.spelled)

    @property
    def live(self) -> bytes:
        """The same thing now, whatever that is."""
        if self.name == b"." and not self.rest:
            return self.directory.rstrip(b"/") or (b"/" if self.directory else b".")
        return self._below(self.name)

    @property
    def log(self) -> bytes:
        """The file that tells the name's history."""
        return self.directory + self.name + b"@@/.log"

    @property
    def inside(self) -> Place:
        """The living directory at this place, as the one whose names are meant."""
        if self.name == b"." and not self.rest:
            return Place(self.root, self.directory, b".")
        return Place(self.root, self.live + b"/", b".")

    def at(self, timestamp: int) -> Place:
        """The name then, spelled canonically."""
        return replace(self, spec=Time(timestamp), spelled=format_at(self.name, timestamp))

    def version(self, number: int) -> Place:
        """A version of the name, spelled canonically."""
        return replace(self, spec=Version(number), spelled=format_version(self.name, number))

    def now(self) -> Place:
        """The name without a specification."""
        return replace(self, spec=None, spelled=b"")

    def elsewhere(self, relative: bytes) -> Place:
        """The place of a path relative to the root, spelled in the way this one is.

        For paths out of a log: they need not exist any more.
        """
        directory, name = os.path.split(os.path.join(self.root, relative))
        if directory == os.path.realpath(self.directory or b"."):
            return Place(self.root, self.directory, name)
        if not self.directory.startswith(b"/"):
            directory = os.path.relpath(directory)
        return Place(self.root, b"" if directory == b"." else directory.rstrip(b"/") + b"/", name)

    def _below(self, component: bytes) -> bytes:
        return self.directory + component + (b"/" + self.rest if self.rest else b"")


def locate(path: bytes) -> Place:
    """Where `path` is.

    Raises:
        Refusal: it is not on a mount, or asks for history in words that are none.
        OSError: something on the way could not be looked at.
    """
    if not path:
        raise Refusal("''", "an empty path names nothing")
    directory, name, historic, rest = _cut(path)
    if historic is None and not rest and name != b"." and (name == b".." or _is_root(path)):
        directory, name = path.rstrip(b"/") + b"/", b"."
    root = mount_root(os.path.realpath(directory or b"."))
    if root is None:
        if os.path.islink(path.rstrip(b"/")):  # A link that leads from outside into a mount.
            return locate(os.path.realpath(path))
        why = "not on a cascadefs mount"
        raise Refusal(path, why, "`findmnt -t fuse.cascadefs` lists the mounts")
    if historic is None:
        return Place(root, directory, name, rest)
    return _listed(Place(root, directory, historic.base, rest, historic.spec, spelled=name))


def mount_root(directory: bytes) -> bytes | None:
    """The root of the mount that `directory`, absolute and without links, is on; None if it is on none."""
    device = os.stat(directory).st_dev
    while not _is_root(directory):
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent
    return directory if os.stat(directory).st_dev == device else None


def has_log(directory: bytes, name: bytes) -> bool:
    """Whether `name` has a history in `directory`, be it there now or not."""
    return os.path.lexists(directory + name + b"@@/.log")


def _is_root(path: bytes) -> bool:
    return os.path.lexists(os.path.join(path, b".cascade", b"status"))


def _cut(path: bytes) -> tuple[bytes, bytes, Historic | None, bytes]:
    """The living directory, the component after it, what that asks for, and the rest of `path`."""
    directory = b"/" if path.startswith(b"/") else b""
    components = [component for component in path.split(b"/") if component]
    for place, component in enumerate(components):
        rest = b"/".join(components[place + 1 :])
        here = directory + component
        historic = _historic(directory, component)
        if historic is not None or (rest and not os.path.isdir(here)):
            return directory, component, historic, rest
        is_name = component not in (b".", b"..")
        if not rest and is_name and not (path.endswith(b"/") and os.path.islink(here)):
            return directory, component, None, b""
        if component != b"." or rest:
            directory = here + b"/"
    return directory, b".", None, b""


def _historic(directory: bytes, component: bytes) -> Historic | None:
    """What `component` of a living directory asks of whose history; None if it is an ordinary name there."""
    found = parse(component)
    if found is None or has_log(directory, component) or not has_log(directory, found.base):
        return None
    if isinstance(found, Malformed):
        raise Refusal(directory + component, found.why, "times look like 20261121T100000Z or -10m")
    return found


def _listed(place: Place) -> Place:
    """`place`, where it is a name in one of the listings (`x@@/v3.csv`, `.@deleted/x`), as that name itself."""
    first, _, rest = place.rest.partition(b"/")
    if not first:
        return place
    if isinstance(place.spec, Deleted):
        directory = place.directory + (b"" if place.name == b"." else place.name + b"/")
        spelled = b".@deleted/" + first
        return replace(place, directory=directory, name=first, rest=rest, spelled=spelled)
    if not isinstance(place.spec, Versions):
        return place
    if match := _LISTED_VERSION_MATCH(first):
        return replace(place, rest=rest).version(int(match[1]))
    found = parse(b"x@" + first)
    if isinstance(found, Historic) and isinstance(found.spec, Time):
        return replace(place, rest=rest).at(found.spec.timestamp)
    return place

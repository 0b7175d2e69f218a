"""One attribute of a directory or file on a mount: read, write, remove, and find where it comes from."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from cascadefs.cli.history.place import locate
from cascadefs.cli.history.refusal import Refusal, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cascadefs.cli.history.place import Place

__all__ = ["PREFIX", "explaining", "living", "nearest", "value_of"]

PREFIX = b"user.cascade."


def living(path: str) -> Place:
    """Where a path of now is on a mount.

    Raises:
        Refusal: it is not on a mount, or of the past.
    """
    place = locate(os.fsencode(path))
    if place.spec is not None or place.rest:
        raise Refusal(place.path, "it is of the past", "name a path of now")
    return place


def value_of(path: bytes, name: bytes) -> bytes | None:
    """An attribute of ours; None if it is not set or says nothing here."""
    try:
        return os.getxattr(path, PREFIX + name, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def nearest(place: Place, name: bytes) -> tuple[bytes, bytes] | None:
    """(path, value) of the nearest of a path and the directories above it, up to the mount's root, that has an attribute."""
    root = os.path.realpath(place.root)
    at = os.path.realpath(place.live)
    while True:
        value = value_of(at, name)
        if value is not None:
            return at, value
        if at == root or at == os.path.dirname(at):
            return None
        at = os.path.dirname(at)


@contextlib.contextmanager
def explaining(path: bytes, sayings: Mapping[int, tuple[str, str]]) -> Iterator[None]:
    """Turn an OSError of the block into what its errno means here: why, and a remedy or nothing."""
    try:
        yield
    except OSError as error:
        said = sayings.get(error.errno or 0)
        if said is None:
            raise
        why, remedy = said
        raise Refusal(printable(path), why, remedy) from error

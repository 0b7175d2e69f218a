"""What the commands lay in directories: configurations, and the credentials that go with them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from pathlib import Path

    from cascadefs.configuration import Cluster, Mount, Node
    from storage.membership.values import Certificate
    from storage.transport import Identity
    from storage.transport.certificates import Authority

T = TypeVar("T", "Cluster", "Node", "Mount")

__all__ = ["checked", "issue", "lay", "now_ns"]


def now_ns() -> int:
    """Certificates are dated by the machine's own clock."""
    import time

    return time.time_ns()  # noqa: TID251  # at the edge, see above


def checked(path: Path, configuration: T) -> None:
    """See that what is about to be written would be read.

    Raises:
        Complaint: it would not.
    """
    from cascadefs.configuration import check
    from storage.errors import Unusable

    try:
        check(path, configuration)
    except Unusable as error:
        raise Complaint(str(error)) from error


def lay(path: Path, configuration: Cluster | Node | Mount) -> None:
    """Write a configuration in place of one that may be there, whole or not at all."""
    from cascadefs.configuration import spell

    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.write_text(spell(configuration))
        os.replace(new, path)
    except OSError as error:
        raise Complaint(f"{path}: {error.strerror}; choose another directory") from error


def issue(authority: Authority, identity: Identity, directory: Path) -> Certificate:
    """Make a certificate, and lay it in a directory with its key and the authority's certificate; how it is listed."""
    from storage.membership.values import Certificate
    from storage.transport.identity import spell

    try:
        now = now_ns()
        issued = authority.issue(identity, now_ns=now)
        authority.install(issued, directory)
        return Certificate(issued.serial, spell(identity), now // 1000, issued.expires_s * 10**6)
    except OSError as error:
        raise Complaint(f"{directory}: {error.strerror}; choose another directory") from error
    except ValueError as error:
        raise Complaint(str(error)) from error

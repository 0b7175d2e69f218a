"""`cascadefs ls [-l] [-t WHEN] PATH`: a directory's names, now or then."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadefs.cli.history.absence import explaining
from cascadefs.cli.history.commands.options import AsJson, When, at_when, present, report
from cascadefs.cli.history.moment import canonical, pinned
from cascadefs.cli.history.place import Place, locate
from cascadefs.cli.history.refusal import refusing
from cascadefs.cli.history.report import Column
from cascadefs.cli.history.tree import CONTROL, Node, join, node_at, type_name
from cascadefs.vpath import Versions

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ls"]

_LONG = [
    Column("mode"),
    Column("links", right=True),
    Column("owner"),
    Column("group"),
    Column("size", right=True),
    Column("modified"),
    Column("name"),
]


@refusing()
def ls(
    path: Annotated[str, typer.Argument(metavar="PATH[@SPEC]")] = ".",
    when: When = None,
    long: Annotated[
        bool, typer.Option("-l", "--long", help="With mode, owner, size, time.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List a directory, as it is or as it was."""
    moment = present()
    place = pinned(at_when(locate(os.fsencode(path)), when, moment), moment)
    out = report(as_json=as_json)
    with explaining(place):
        if long or as_json:
            out.table(
                _LONG,
                ((_cells(place, *found), _document(place, *found)) for found in _nodes(place)),
            )
        else:
            out.table([Column("name")], (([name], {}) for name in _names(place) or [place.path]))


def _names(place: Place) -> list[bytes] | None:
    """The names in the directory that is asked for; None if it is none."""
    top = os.lstat(place.path)
    if not stat.S_ISDIR(top.st_mode):
        return None
    names = [name for name in os.listdir(place.path) if name != CONTROL]
    if isinstance(place.spec, Versions):
        return sorted(names, key=_listed_order)
    return sorted(names)


def _listed_order(name: bytes) -> tuple[int, bytes]:
    """Versions by number, v2 before v10; instants by time, a whole second before its fractions."""
    return (len(name), name) if name.startswith(b"v") else (0, name.removesuffix(b"Z"))


def _nodes(place: Place) -> Iterator[tuple[bytes, Node]]:
    names = _names(place)
    if names is None:
        node = node_at(place.path)
        if node is not None:
            yield b"", node
        return
    for name in names:
        node = node_at(join(place.path, name))
        if node is not None:  # It may have gone since it was listed.
            yield name, node


def _cells(place: Place, name: bytes, node: Node) -> list[bytes | str]:
    shown = (name or place.path) + (b" -> " + node.target if node.is_symlink else b"")
    return [
        stat.filemode(node.mode),
        str(node.nlink),
        _user(node.uid),
        _group(node.gid),
        str(node.size),
        _modified(node),
        shown,
    ]


def _document(place: Place, name: bytes, node: Node) -> dict[str, Any]:
    return {
        "name": name or os.path.basename(place.path),
        "path": join(place.path, name),
        "type": type_name(node),
        "mode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
        "links": node.nlink,
        "size": node.size,
        "modified": _modified(node),
        "mtime_ns": node.mtime_ns,
        "inode": node.number,
        "target": node.target if node.is_symlink else None,
    }


def _modified(node: Node) -> str:
    try:
        return canonical(node.mtime_ns // 1000)
    except ValueError:  # An mtime may be set to years that have no name.
        return f"@{node.mtime_ns // 1_000_000_000}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)

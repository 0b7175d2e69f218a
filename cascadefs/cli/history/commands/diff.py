"""`cascadefs diff A B`: what differs between two paths, or between a path then and now.

Like diff(1) it ends with 0 for nothing, 1 for something, 2 for trouble.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadefs.cli.history.absence import explained, explaining
from cascadefs.cli.history.change import Change, Facet, Sign, changes, with_renames
from cascadefs.cli.history.commands.options import AsJson, When, at_when, present, report
from cascadefs.cli.history.content import Inspection, is_same, text_lines, unified
from cascadefs.cli.history.moment import Moment, pinned
from cascadefs.cli.history.place import Place, locate
from cascadefs.cli.history.progress import progress
from cascadefs.cli.history.refusal import refusing
from cascadefs.cli.history.tree import DiskTree, Node, join, node_at, type_name
from cascadefs.vpath import Tag, Version, VersionBack

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from cascadefs.cli.history.report import Report

__all__ = ["diff"]

_DIFFERENT = 1
_TROUBLE = 2

# A directory's mtime tells only that something below it changed; a file's, that it was written or touched.
_TOLD = ~Facet.MTIME


@refusing(status=_TROUBLE)
def diff(
    a: Annotated[str, typer.Argument(metavar="A[@SPEC]")],
    b: Annotated[str | None, typer.Argument(metavar="B[@SPEC]")] = None,
    when: When = None,
    content: Annotated[
        bool,
        typer.Option(
            "--content", "-u", help="Of directories: also the lines of changed text files."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare A with B; A as of WHEN with A now; or A@SPEC with A now.

    Directories: + added, - removed, M changed, R renamed. Two text files: a unified diff.
    """
    old, new = _sides(a, b, when, present())
    out = report(as_json=as_json)
    old_top, new_top = _tops(old, new, both=b is not None)
    if old_top is not None and new_top is not None and old_top.is_file and new_top.is_file:
        with explaining(old), explaining(new):
            found = _show_files(out, old, new, old_top, new_top)
    else:
        with progress("comparing") as step:
            trees = DiskTree(old.path, step), DiskTree(new.path, step)
            listed = _compared(old, new, *trees)
        for change in listed:
            out.change(
                change.sign.value, _text(old, new, change), _document(old, new, change, trees)
            )
            if content and not as_json and _is_file_change(change):
                out.patch(
                    _patch(trees[0].absolute(_old_path(change)), trees[1].absolute(change.path))
                )
        found = bool(listed)
    if found:
        raise typer.Exit(_DIFFERENT)


def _sides(a: str, b: str | None, when: str | None, moment: Moment) -> tuple[Place, Place]:
    """What is compared with what, older first where one of them is now."""
    old = at_when(locate(os.fsencode(a)), when, moment)
    if b is not None:
        if when is not None:
            raise typer.BadParameter("-t compares A then with A now; for two paths give PATH@SPEC")
        return pinned(old, moment), pinned(locate(os.fsencode(b)), moment)
    if old.spec is None:
        raise typer.BadParameter("compare it with what? give a second path, A@SPEC or -t WHEN")
    return pinned(old, moment), old.now()


def _tops(old: Place, new: Place, *, both: bool) -> tuple[Node | None, Node | None]:
    """What is there on both sides. Then or now one of them may be missing, of two given paths, a version or a label none."""
    nodes = node_at(old.path), node_at(new.path)
    for place, node in zip((old, new), nodes, strict=True):
        is_named = isinstance(place.spec, Version | VersionBack | Tag)
        if node is None and (both or is_named or nodes == (None, None)):
            raise explained(place, FileNotFoundError(2, os.strerror(2)))
    return nodes


def _show_files(out: Report, old: Place, new: Place, old_top: Node, new_top: Node) -> bool:
    """Print how two files differ; whether they do. Modes count where both are one name."""
    facets = Facet.NONE if is_same(old.path, new.path) else Facet.CONTENT
    one_name = (old.root, old.live) == (new.root, new.live)
    if one_name and old_top.permissions != new_top.permissions:
        facets |= Facet.MODE
    patch = list(_patch(old.path, new.path)) if Facet.CONTENT in facets else []
    if out.as_json and facets:
        document = {
            "change": Sign.CHANGED.value,
            "path": new.live,
            "changed": facets.words,
            "old": old.path,
            "new": new.path,
            "diff": b"".join(patch) or None,
        }
        out.lines([out.encoded(document)])
    elif facets:
        if Facet.MODE in facets:
            out.lines([b"old mode %o" % old_top.mode, b"new mode %o" % new_top.mode])
        out.patch(patch)
    return bool(facets)


def _patch(old: bytes, new: bytes) -> Iterator[bytes]:
    old_lines, new_lines = text_lines(old), text_lines(new)
    if old_lines is None or new_lines is None:
        yield b"Files %s and %s differ\n" % (old, new)
    else:
        yield from unified(old_lines, new_lines, old, new)


def _compared(old: Place, new: Place, old_tree: DiskTree, new_tree: DiskTree) -> list[Change]:
    inspect = Inspection(old_tree, new_tree)

    def identify(change: Change) -> Hashable | None:
        added = change.sign is Sign.ADDED
        tree, node = (new_tree, change.new) if added else (old_tree, change.old)
        assert node is not None
        return tree.identity(change.path, node)

    try:
        found = list(changes(old_tree, new_tree, inspect))
    except OSError as error:
        if error.filename is None:
            raise explained(old, error) from error
        raise
    if old.root == new.root:  # Elsewhere the same number is another inode.
        found = with_renames(found, identify, inspect)
    return [change for change in found if change.sign is not Sign.CHANGED or change.facets & _TOLD]


def _is_file_change(change: Change) -> bool:
    node = change.new
    return (
        change.sign is Sign.CHANGED
        and Facet.CONTENT in change.facets
        and node is not None
        and node.is_file
    )


def _old_path(change: Change) -> bytes:
    return change.path if change.origin is None else change.origin


def _text(old: Place, new: Place, change: Change) -> bytes:
    """The paths as they are, or were, called without a specification."""
    if change.sign is Sign.REMOVED:
        return join(old.live, change.path)
    shown = join(new.live, change.path)
    if change.sign is Sign.RENAMED:
        return join(old.live, _old_path(change)) + b" -> " + shown
    return shown


def _document(
    old: Place, new: Place, change: Change, trees: tuple[DiskTree, DiskTree]
) -> dict[str, Any]:
    node = change.new or change.old
    assert node is not None
    is_added, is_removed = change.sign is Sign.ADDED, change.sign is Sign.REMOVED
    return {
        "change": change.sign.value,
        "path": join(old.live if is_removed else new.live, change.path),
        "from": join(old.live, _old_path(change)) if change.sign is Sign.RENAMED else None,
        "type": type_name(node),
        "changed": (change.facets & _TOLD).words,
        "old": None if is_added else trees[0].absolute(_old_path(change)),
        "new": None if is_removed else trees[1].absolute(change.path),
    }

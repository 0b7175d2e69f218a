"""`cascadefs restore PATH[@SPEC] [-t WHEN]`: bring back what was, as new versions; history is never rewound."""

from __future__ import annotations

import errno
import itertools
import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadefs.cli.history.absence import explained, explaining
from cascadefs.cli.history.change import Change, Facet, Sign, changes, with_renames
from cascadefs.cli.history.commands.options import AsJson, When, at_when, present, report
from cascadefs.cli.history.content import Inspection
from cascadefs.cli.history.ended import ended
from cascadefs.cli.history.logged import LoggedInstant, read_log
from cascadefs.cli.history.moment import Moment, attribute, canonical, pinned, resolved
from cascadefs.cli.history.place import Place, locate, mount_root
from cascadefs.cli.history.plan import Action, Step, plan
from cascadefs.cli.history.progress import progress
from cascadefs.cli.history.refusal import Refusal, printable, refusing, saying
from cascadefs.cli.history.restoration import Restoration
from cascadefs.cli.history.source import Source
from cascadefs.cli.history.tree import DiskTree, Node, join, node_at
from cascadefs.vpath import Deleted, Time, Version, Versions, format_time

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from cascadefs.cli.history.report import Report

__all__ = ["restore"]

# After these, the next step would fail as well.
_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOTCONN})

# What one commit cannot do and several may: too much of it, or not all of it is the caller's to change.
_NOT_AT_ONCE = frozenset({errno.E2BIG, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP})

_SIGHT_SECONDS, _SIGHT_TRIES_MAX = 0.002, 500

_BURST_US = 1_000_000
"""Removals that follow each other faster than this are taken for one `rm -r`."""


@refusing()
def restore(
    path: Annotated[str, typer.Argument(metavar="PATH[@SPEC]")],
    when: When = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="TARGET", help="Put it there; nothing there is removed."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be done.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a file, or a directory with all in it, what it was: as new versions, with modes, owners and times.

    A directory also loses what came later (that stays in its history), and changes at one time. A deleted name needs no
    SPEC: it comes back as it was last. Prints + for what comes back, M for what changes, - for what goes, R for what is
    renamed back. Undo it by restoring the time before.

    Example: cascadefs restore data -t 'yesterday 10:00' --dry-run
    """
    moment = present()
    source, node = _source(pinned(at_when(locate(os.fsencode(path)), when, moment), moment), moment)
    target = source.live if to is None else _target(source, node, os.fsencode(to))
    out = report(as_json=as_json)
    steps = _planned(source, target, remove=to is None)
    if dry_run:
        for step in steps:
            _show(out, target, step, done=False)
        return
    if to is None and node.is_directory and steps and _restored_at_once(source, target):
        _await(target, steps)
        for step in steps:
            _show(out, target, step, done=True)
        return
    if _restored(source, target, steps, out):
        raise typer.Exit(1)


def _source(place: Place, moment: Moment) -> tuple[Place, Node]:
    """What is to come back, as the past of the name it comes back to."""
    if place.spec is None and os.path.lexists(place.live):
        raise typer.BadParameter("it is there now; say which state of it: PATH@vN, or -t WHEN")
    if isinstance(place.spec, Versions):
        raise typer.BadParameter("that is a listing; name one version of it")
    is_last = place.spec is None or isinstance(place.spec, Deleted)
    with explaining(place):
        if is_last and place.rest:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if is_last:
            place = ended(place.now(), moment.now_us).place
        node = node_at(place.path)
    if node is None:
        raise explained(place, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    if is_last and node.is_directory and not os.listdir(place.path):
        raise _was_empty(place)
    return place, node


def _was_empty(place: Place) -> Refusal:
    """A directory removed by `rm -r` ends empty; say when it last was not, as far as its log can tell."""
    removals = [line.timestamp for line in read_log(place.log) if isinstance(line, LoggedInstant)]
    first: int | None = None
    for later, earlier in itertools.pairwise(removals):
        if later - earlier > _BURST_US:
            first = later
            break
    name = printable(place.live)
    remedy = f"choose a time from `cascadefs log {name}` and say -t WHEN"
    if first is not None:
        remedy = f"before that: `cascadefs restore {name} -t {canonical(first - 1)} --dry-run`"
    return Refusal(place.live, "it was empty when it was removed", remedy)


def _target(source: Place, node: Node, to: bytes) -> bytes:
    if not node.is_directory and os.path.isdir(to):
        return join(to, os.path.basename(source.live))
    return to.rstrip(b"/") or b"/"


def _planned(source: Place, target: bytes, *, remove: bool) -> list[Step]:
    """The steps from what is at `target` to what `source` was.

    Raises:
        Refusal: there is no room for it, or bytes without history would be lost.
    """
    parent = os.path.dirname(target) or b"."
    if not os.path.isdir(parent):
        remedy = "restore that first, or say --to TARGET"
        raise Refusal(target, f"its directory {printable(parent)} is not there now", remedy)
    with explaining(source), progress("comparing") as step:
        now, then = DiskTree(target, step), DiskTree(source.path, step)
        found = _compared(now, then, renames=remove)
    steps = plan(found, then_links=then.links, now_links=now.links, remove=remove)
    if mount_root(os.path.realpath(parent)) is None and any(map(_loses, steps)):
        why = "it is there and not on a mount that would remember it"
        raise Refusal(target, why, "name a target that does not exist")
    return steps


def _compared(now: DiskTree, then: DiskTree, *, renames: bool) -> list[Change]:
    inspection = Inspection(now, then)

    def inspect(now_path: bytes, then_path: bytes, node: Node) -> Facet:
        try:
            return inspection(now_path, then_path, node)
        except OSError:  # Doing it will say why, and what else can be restored will be.
            return Facet.CONTENT

    def identify(change: Change) -> Hashable | None:
        added = change.sign is Sign.ADDED
        tree, node = (then, change.new) if added else (now, change.old)
        assert node is not None
        return tree.identity(change.path, node)

    found = list(changes(now, then, inspect))
    return with_renames(found, identify, inspect) if renames else found


def _loses(step: Step) -> bool:
    if step.action in (Action.CHANGE, Action.REPLACE):
        return Facet.CONTENT in step.facets
    return step.action is Action.REMOVE


def _restored_at_once(source: Place, target: bytes) -> bool:
    """Let the mount do all of it in one commit; False where that cannot be, and step by step it may.

    Only if the directory of now is the one of then; another one that took its name has another history.
    """
    inode = attribute(source.path, "fid")
    timestamp = resolved(source.path)
    if timestamp is None or inode is None or inode != attribute(target, "fid"):
        return False
    try:
        os.setxattr(target, "user.cascade.restore", format_time(timestamp))
    except OSError as error:
        if error.errno not in _NOT_AT_ONCE:
            raise
        why = f"not in one commit: {saying(target, error).why}; step by step instead"
        typer.echo(f"cascadefs: {Refusal(target, why)}", err=True)
        return False
    return True


def _await(target: bytes, steps: Sequence[Step]) -> None:
    """Wait until the kernel has forgotten what it remembers of names from before, so that what is printed can be seen."""
    waiting = list(steps)
    for _ in range(_SIGHT_TRIES_MAX):
        waiting = [step for step in waiting if not _is_seen(target, step)]
        if not waiting:
            return
        time.sleep(_SIGHT_SECONDS)


def _is_seen(target: bytes, step: Step) -> bool:
    node = node_at(join(target, step.path))
    match step.action:
        case Action.REMOVE:
            return node is None
        case Action.MAKE | Action.LINK | Action.MOVE:
            return node is not None
        case Action.CHANGE | Action.REPLACE:
            return node is not None and (step.node is None or node.mtime_ns == step.node.mtime_ns)
        case Action.SETTLE:
            return True


def _restored(source: Place, target: bytes, steps: Sequence[Step], out: Report) -> bool:
    """Do the steps; whether any failed. What came later stays if not everything could be brought back."""
    version = source.spec.number if isinstance(source.spec, Version) and not source.rest else None
    at = source.spec.timestamp if isinstance(source.spec, Time) else None
    restoration = Restoration(Source(source.path, version=version, at=at), target)
    failed = 0
    with progress("restoring", total=len(steps)) as advance:
        for step in steps:
            advance()
            if failed and step.action is Action.REMOVE:
                continue
            try:
                restoration.do(step)
            except OSError as error:
                failed += 1
                typer.echo(f"cascadefs: {saying(restoration.absolute(step.path), error)}", err=True)
                if error.errno in _HOPELESS:
                    break
            else:
                _show(out, target, step, done=True)
    if failed:
        remedy = "put that right and restore again; what is restored stays"
        typer.echo(f"cascadefs: {Refusal(target, f'{failed} of it failed', remedy)}", err=True)
    if restoration.unsettled:
        why = f"{restoration.unsettled} kept the owner or mode of now; only root or the owner may change them"
        typer.echo(f"cascadefs: {Refusal(target, why)}", err=True)
    return failed > 0


def _show(out: Report, target: bytes, step: Step, *, done: bool) -> None:
    if step.sign is None:
        return
    path = join(target, step.path)
    origin = None
    text = path
    if step.action is Action.MOVE and step.origin is not None:
        origin = join(target, step.origin)
        text = origin + b" -> " + path
    document: dict[str, Any] = {
        "change": step.sign.value,
        "path": path,
        "from": origin,
        "changed": step.facets.words,
        "done": done,
    }
    out.change(step.sign.value, text, document)

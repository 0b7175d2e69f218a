"""`cascadefs put [--if VERSION] PATH`: what comes in becomes the next version, perhaps on condition of the last one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cascadefs.cli.history.commands.options import AsJson, present, report
from cascadefs.cli.history.content import BLOCK_BYTES
from cascadefs.cli.history.moment import attribute, canonical
from cascadefs.cli.history.place import Place, locate
from cascadefs.cli.history.refusal import Refusal, printable, refusing
from cascadefs.vpath import format_condition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

__all__ = ["put"]

_IF_VERSION = "user.cascade.if_version"

KEPT_BYTES = 64 * 1024 * 1024
"""Of what comes, in memory; more is on the disk of TMPDIR meanwhile."""


@refusing()
def put(
    path: Annotated[str, typer.Argument(metavar="PATH")],
    condition: Annotated[
        str | None,
        typer.Option(
            "--if",
            metavar="VERSION",
            help="Only if this is its last version: v12. v0: only if there is no such file.",
        ),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option(
            "--event-time", metavar="WHEN", help="When what it tells of happened (local time)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write standard input to PATH: one version, on the disk when this ends. Prints the path of that version.

    Nothing is written before all of it is there, so nothing is if this is interrupted. With --if nobody sees anything before the
    version is whole, and nothing at all is written if somebody else was first (exit status 1).

    Example: cascadefs cat cfg.yaml@v12 | sed s/a/b/ | cascadefs put --if v12 cfg.yaml
    """
    place = locate(os.fsencode(path))
    if place.spec is not None or place.rest:
        raise Refusal(place.path, "history cannot be written", "name a file of now, and use --if")
    version = None if condition is None else _version(condition)
    event_us = None if event is None else present().of_event(event)
    with _whole(sys.stdin.buffer) as source, _undisturbed():
        number = _write(place, version, event_us, source)
    out = report(as_json=as_json)
    made = place.version(number)
    if as_json:
        out.lines([out.encoded({"path": made.path, "version": number})])
    else:
        out.lines([made.path])


@contextlib.contextmanager
def _whole(source: BinaryIO) -> Iterator[BinaryIO]:
    """All that comes, once it has come: what is open for writing becomes a version, however this ends.

    Raises:
        Refusal: there is no room for it.
    """
    with tempfile.SpooledTemporaryFile(KEPT_BYTES) as kept:
        try:
            shutil.copyfileobj(source, kept, BLOCK_BYTES)
        except OSError as error:
            remedy = "name another directory in TMPDIR, or write the file itself"
            raise Refusal(tempfile.gettempdir(), error.strerror or str(error), remedy) from error
        kept.seek(0)
        yield cast("BinaryIO", kept)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Whoever interrupts is too late."""
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        while signal.sigtimedwait(signals, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _version(text: str) -> int:
    digits = text.removeprefix("v")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        raise typer.BadParameter(f"{text!r} is no version; say v12, or v0 for none")
    return int(digits)


def _write(place: Place, version: int | None, event_us: int | None, source: BinaryIO) -> int:
    """Write what comes; the number of the version that it became."""
    name = place.name if version is None else format_condition(place.name, version)
    path = place.directory + name
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise _lost(place, version, error) from error
    try:
        try:
            _copy(file, event_us, source)
        except BaseException:
            if version is not None:  # Its close would make a version of what has come so far.
                os.removexattr(file, _IF_VERSION)
            raise
        os.fsync(file)
        # On condition, that is the version just made; otherwise the newest, which is it unless somebody was fast.
        told = os.getxattr(file, _IF_VERSION if version is not None else "user.cascade.head")
    except OSError as error:
        raise _lost(place, version, error) from error
    finally:
        _close(file)
    return int(told)


def _copy(file: int, event_us: int | None, source: BinaryIO) -> None:
    if event_us is not None:
        os.setxattr(file, "user.cascade.event_time", canonical(event_us).encode("ascii"))
    os.ftruncate(file, 0)
    while block := source.read(BLOCK_BYTES):
        view = memoryview(block)
        while view:
            view = view[os.write(file, view) :]


def _close(file: int) -> None:
    try:
        os.close(file)
    except OSError as error:
        if error.errno != errno.ESTALE:  # Said already, by fsync or on giving up.
            raise


def _lost(place: Place, version: int | None, error: OSError) -> Refusal | OSError:
    """What an error of writing means; `error` itself where it is about no condition."""
    if version is None or error.errno != errno.ESTALE:
        error.filename = error.filename or place.path
        return error
    head = attribute(place.live, "head")
    name = printable(place.live)
    if head is None:
        return Refusal(place.live, f"it is not at v{version}: there is no such file", "use --if v0")
    if version == 0:
        return Refusal(place.live, "it is there already", f"use --if v{int(head)}")
    why = f"its last version is v{int(head)} and not v{version}; nothing was written"
    return Refusal(place.live, why, f"see `cascadefs diff {name}@v{version} {name}`")

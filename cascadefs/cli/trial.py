"""A trial: a script meets files that are in memory only, and what it would write is listed.

A Python script runs in this process, an executable as on a mount: in bubblewrap, as a process of its own.

Source: docs/TRIGGERS.md 14.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeAlias

import trio

from cascadefs.cli.complaint import Complaint
from cascadefs.machine import SystemClock
from triggers import header
from triggers.engine import Options
from triggers.runner.pool import Settings, open_pool
from triggers.testing import Cascade

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from triggers.run import Runner

__all__ = ["tried"]

Part: TypeAlias = tuple[str, bytes, int]
"""Of what belongs to a script: its path in ``watch/``, its bytes and its mode."""


def tried(script: Path, files: Sequence[tuple[str, bytes]]) -> Cascade:
    """A store in memory in which a script has run for files that were written in this order.

    Args:
        script: a Python module, or an executable with a header or a side-car; a ``lib/`` beside it goes along.
        files: paths and what is written there; a path may come again.

    Raises:
        Complaint: the script cannot be read, or does not become active.
    """
    try:
        parts = {path.relative_to(script.parent).as_posix(): path for path in _parts(script)}
        is_module = script.suffix == ".py" and not _says_what_to_watch(script)
        found = [(name, path.read_bytes(), path.stat().st_mode) for name, path in parts.items()]
    except OSError as error:
        raise Complaint(f"{error.filename or script}: {error.strerror}") from error
    cascade = trio.run(_try_module if is_module else _try_executable, found, files)
    for name, problem in cascade.problems.items():
        raise Complaint(f"{name}: {problem}")
    return cascade


async def _try_module(parts: list[Part], files: Sequence[tuple[str, bytes]]) -> Cascade:
    cascade = Cascade()
    await _run(cascade, parts, files)
    return cascade


async def _try_executable(parts: list[Part], files: Sequence[tuple[str, bytes]]) -> Cascade:
    settings = Settings(allow_root=True)  # whoever types this may run it anyway
    async with open_pool(settings, SystemClock().now_ns, time.monotonic_ns) as pool:

        def runner(_clock: object) -> Runner:
            return pool

        cascade = Cascade(uid=os.getuid(), options=Options(workers=1, node="test"), runner=runner)
        await _run(cascade, parts, files)
        return cascade


async def _run(cascade: Cascade, parts: list[Part], files: Sequence[tuple[str, bytes]]) -> None:
    for name, content, mode in parts:
        cascade.put(f".cascade/watch/{name}", content, mode=mode & 0o755)
    await cascade.run_until_idle()
    if cascade.problems:
        return
    for path, content in files:
        cascade.put(path, content)
        await cascade.run_until_idle()


def _parts(script: Path) -> list[Path]:
    """What belongs to a script, itself last: ``lib/``, and its side-cars."""
    lib = script.parent / "lib"
    found = [path for path in (sorted(lib.rglob("*")) if lib.is_dir() else []) if path.is_file()]
    found = [path for path in found if "__pycache__" not in path.parts]
    return [*found, *_sidecars(script), script]


def _sidecars(script: Path) -> list[Path]:
    names = {script.with_name(f"{script.name}.toml"), script.with_suffix(".toml")}
    return [path for path in sorted(names) if path.is_file()]


def _says_what_to_watch(script: Path) -> bool:
    """Whether a header or a side-car does; a Python file is an executable then."""
    try:
        return bool(_sidecars(script) or header.read(script.read_bytes()))
    except header.BadHeader:
        return True  # and will be complained of

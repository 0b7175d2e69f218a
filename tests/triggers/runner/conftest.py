"""A pool of real worker processes for the length of a test, and scripts for it."""

from __future__ import annotations

import os
import textwrap
import time
from pathlib import Path

import pytest

from triggers.run import Run, Script
from triggers.runner.pool import Settings, open_pool

NOBODY = 65534 if os.getuid() == 0 else os.getuid()
"""A user without rights; whoever runs the tests, where that is not root."""


def script(source: str, id: str = "v1", kind: str = "module", **lib: str) -> Script:
    name = "s.py" if kind == "module" else "s.sh"
    files = {name: textwrap.dedent(source).lstrip("\n").encode()}
    files |= {f"lib/{stem}.py": text.encode() for stem, text in lib.items()}
    group = os.getgid() if os.getuid() == NOBODY else NOBODY
    return Script(id, "", name, kind, files, NOBODY, group)


def run_of(script: Script, handler: str | None, *events, id: str = "r~1", **fields) -> Run:
    fields = {"timeout_ms": 30_000, "emit": None} | fields
    last = max(event.timestamp for event in events)
    return Run(id, script, handler, f"s.{handler}", list(events), last, **fields)


def members(group: int) -> set[int]:
    """Processes of a group that are alive."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != b"Z":
                found.add(int(entry.name))
    return found


@pytest.fixture
def settings():
    return Settings(workers_max=4, memory_bytes=512 << 20)


@pytest.fixture
async def pool(settings):
    async with open_pool(settings, time.time_ns, time.monotonic_ns) as pool:
        yield pool

"""A control group for each process, where an administrator has delegated a directory for them (cgroups(7), version 2).

It bounds what rlimits cannot: memory and processes of all that a script starts, together, root's too; and its kill
reaches everything, whatever it did to its process group. The directory must hold no process of its own, or its
controllers cannot be handed down.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triggers.worker.message import Limits

__all__ = ["Cgroups", "enter"]

CONTROLLERS = ("memory", "pids")


class Cgroups:
    """Groups below one delegated directory; with an empty path there are none, and every call does nothing."""

    def __init__(self, parent: str) -> None:
        self.problems: list[str] = []
        self._parent = parent
        self._groups: dict[int, str] = {}
        self._emptied: list[str] = []
        """Killed, and perhaps not yet empty: removed when they are."""
        if parent:
            self._prepare()

    def make(self, number: int, limits: Limits) -> str:
        """A group with bounds; "" if groups are not made here.

        Raises:
            OSError: it cannot be made.
        """
        if not self._parent:
            return ""
        group = f"{self._parent}/{os.getpid()}-{number}"
        os.mkdir(group)
        bounds = {
            "memory.max": limits.memory_bytes,
            "memory.swap.max": 0,
            "memory.oom.group": 1,
            "pids.max": limits.processes,
        }
        for name, value in bounds.items():
            with suppress(FileNotFoundError, PermissionError):  # said in `problems`
                _write(f"{group}/{name}", value)
        return group

    def hold(self, pid: int, group: str) -> None:
        """Remember whose group it is."""
        if group:
            self._groups[pid] = group

    def kill(self, pid: int) -> None:
        """Kill everything in the group of a process."""
        group = self._groups.get(pid)
        if group is not None:
            with suppress(OSError):
                _write(f"{group}/cgroup.kill", 1)

    def release(self, pid: int) -> bool:
        """Kill and remove the group of a process that has ended; whether its memory had run out."""
        self.kill(pid)
        group = self._groups.pop(pid, None)
        if group is None:
            return False
        ran_out = _counts(f"{group}/memory.events").get("oom_kill", 0) > 0
        self._emptied.append(group)
        self.clean()
        return ran_out

    def clean(self) -> None:
        """Remove the groups that are empty by now."""
        left = []
        for group in self._emptied:
            try:
                os.rmdir(group)
            except FileNotFoundError:
                pass
            except OSError:
                left.append(group)
        self._emptied = left

    def _prepare(self) -> None:
        try:
            with open(f"{self._parent}/cgroup.controllers") as file:
                there = file.read().split()
            wanted = [name for name in CONTROLLERS if name in there]
            if wanted:
                text = " ".join(f"+{name}" for name in wanted)
                _write(f"{self._parent}/cgroup.subtree_control", text)
        except OSError as error:
            self.problems.append(f"control group {self._parent}: {error.strerror}; none is used")
            self._parent = ""
            return
        missing = [name for name in CONTROLLERS if name not in there]
        if missing:
            self.problems.append(
                f"control group {self._parent}: {' and '.join(missing)} not delegated; it only kills"
            )


def enter(group: str) -> None:
    """Move this process into a group.

    Raises:
        OSError: it may not.
    """
    if group:
        _write(f"{group}/cgroup.procs", 0)


def _write(path: str, value: object) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _counts(path: str) -> dict[str, int]:
    try:
        with open(path) as file:
            return {name: int(count) for name, count in (line.split() for line in file)}
    except OSError:
        return {}

"""What an administrator decides about workers, and how they are."""

from __future__ import annotations

import os

import msgspec

__all__ = ["Settings", "State"]

MEMORY_BYTES = 2 << 30
"""Of a process whose binding says nothing, on top of what it starts with."""


class Settings(msgspec.Struct, frozen=True):
    """What an administrator decides."""

    workers_max: int = max(16, 4 * (os.cpu_count() or 1))
    """Processes of the node, executables included. More than run at a time: those that wait are warm, and cost little."""

    allow_root: bool = False
    """Whether scripts of root's are run."""

    allow_inproc: bool = False
    """Whether `sandbox = "inproc"` is obeyed; who may say so is the caller's check."""

    memory_bytes: int = MEMORY_BYTES
    cgroup: str = ""
    """A directory of control groups (version 2) delegated for workers; empty: rlimits alone bound them."""

    mountpoint: str = ""
    """Where the store is mounted whose scripts these are; empty: it is not, here."""

    open_files: int = 256
    processes: int = 64


class State(msgspec.Struct, frozen=True):
    """For `.cascade/status`: what confines scripts here, what does not, and what there is."""

    landlock: int
    """Version of the interface; 0: none, or not known before the first script."""

    seccomp: bool
    bubblewrap: bool
    problems: list[str]
    workers: int
    forks: int
    copies: int
    copied_bytes: int
    bounds: str = ""
    """What memory and the number of processes are bounded of."""

    memory: dict[str, int] = {}
    """By script version: bytes resident in its workers, what they share with each other counted in each."""

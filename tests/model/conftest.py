"""Mounts for the model, made as the mounted tests make theirs."""

from tests.mounted.conftest import door, make_mount, mount, shared_mount

__all__ = ["door", "make_mount", "mount", "shared_mount"]

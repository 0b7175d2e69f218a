"""Mounts for the model, made as the mounted tests make theirs."""

from tests.mounted.conftest import make_mount, mount, shared_mount

__all__ = ["make_mount", "mount", "shared_mount"]

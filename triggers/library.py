"""Scripts as the store holds them: what lies in a `watch/` directory at a timestamp, and what of it may be run.

A script's version is a hash over its own bytes and everything in `lib/`, so a change in either is a new version. Read
at a timestamp, hence the very bytes again whenever an event needs the version that was active when it happened.

Sources: docs/TRIGGERS.md 1, 2, 10, 12; sshd(8) on files that others can write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import xxhash

from storage.attributes import REGULAR, TYPE_MASK, is_directory
from storage.limits import CHUNK_BYTES
from triggers import header
from triggers.run import LoadFailed, Script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.attributes import Attributes
    from storage.store import Store

__all__ = ["CONTROL", "WATCH", "Found", "Library"]

CONTROL, WATCH, LIB = b".cascade", b"watch", b"lib"

SCRIPT_BYTES_MAX = 64 * 1024 * 1024
"""Of one script with its `lib/`."""

LIB_FILES_MAX = 10_000
_OTHERS_WRITE = 0o022


class Found(NamedTuple):
    """A script, ready to be asked what it watches."""

    script: Script
    tables: list[dict[str, object]] | None
    """Its header's or side-car's; None for a module, which says so itself when it is loaded."""


class Library:
    """The scripts of a store."""

    def __init__(self, store: Store, may_run_as: Callable[[int], str | None]) -> None:
        """`may_run_as` says why nothing may run as a user; None if it may."""
        self._store = store
        self._may_run_as = may_run_as

    def watch_directory(self, base: int, timestamp: int) -> int | None:
        """The inode of a base's `.cascade/watch/`."""
        inode = base
        for name in (CONTROL, WATCH):
            binding = self._store.binding_at(inode, name, timestamp)
            if binding is None or not is_directory(binding.mode):
                return None
            inode = binding.inode
        return inode

    def names(self, base: int, timestamp: int) -> list[bytes]:
        """The scripts there are: regular files that are no side-car, nobody's backup and not hidden."""
        watch = self.watch_directory(base, timestamp)
        if watch is None:
            return []
        return [
            name
            for name, binding in self._store.children_at(watch, timestamp)
            if binding.mode & TYPE_MASK == REGULAR
            and not name.startswith((b".", b"#"))
            and not name.endswith((b"~", b".toml", b".swp", b".tmp", b".md", b".txt"))
            and self._row(binding.inode, timestamp).content
        ]

    def find(self, base: int, base_path: str, name: bytes, timestamp: int) -> Found:
        """A script as of a timestamp.

        Raises:
            LoadFailed: it is not there, others may write it, nobody may run as its owner, or it has no bindings.
        """
        watch = self.watch_directory(base, timestamp)
        binding = self._store.binding_at(watch, name, timestamp) if watch is not None else None
        if watch is None or binding is None:
            raise LoadFailed("it is gone")
        attributes = self._row(binding.inode, timestamp)
        self._check_trust(base, watch, attributes, timestamp)
        text = name.decode(errors="surrogateescape")
        source = self._read(binding.inode, attributes, timestamp)
        files = {text: source}
        files.update(self._lib(watch, timestamp))
        sidecar = self._sidecar(watch, name, timestamp)
        try:
            tables = header.read_sidecar(sidecar) if sidecar is not None else header.read(source)
        except header.BadHeader as error:
            raise LoadFailed(str(error)) from error
        module = text.endswith(".py") and not tables
        if not module and not tables:
            raise LoadFailed(
                f"it says nowhere what to watch; add a header (# /// script ... # ///) or {text}.toml"
            )
        if not module and not attributes.mode & 0o100:
            raise LoadFailed(f"it is not executable; say chmod u+x {text}")
        digest = _digest(files, sidecar, attributes)
        script = Script(
            digest, base_path, text, "module" if module else "executable", files,
            attributes.uid, attributes.gid,
        )  # fmt: skip
        return Found(script, None if module else tables)

    def _check_trust(self, base: int, watch: int, script: Attributes, timestamp: int) -> None:
        why = self._may_run_as(script.uid)
        if why is not None:
            raise LoadFailed(why)
        control = self._store.binding_at(base, CONTROL, timestamp)
        assert control is not None, "watch/ was found below it"
        folders = [self._row(inode, timestamp) for inode in (control.inode, watch)]
        for what, attributes in zip(("it", ".cascade", "watch"), (script, *folders), strict=True):
            if attributes.mode & _OTHERS_WRITE:
                raise LoadFailed(f"others can write {what}; say chmod go-w")
        if any(folder.uid not in (0, script.uid) for folder in folders):
            raise LoadFailed(
                "another user owns the folder it is in; scripts are their owner's word"
            )

    def _lib(self, watch: int, timestamp: int) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        total = 0
        for path, inode in self._files_below(watch, LIB, timestamp):
            attributes = self._row(inode, timestamp)
            total += attributes.size
            if total > SCRIPT_BYTES_MAX or len(found) >= LIB_FILES_MAX:
                raise LoadFailed(
                    f"lib/ is larger than {SCRIPT_BYTES_MAX >> 20} MiB or {LIB_FILES_MAX} files"
                )
            if attributes.mode & _OTHERS_WRITE:
                raise LoadFailed(f"others can write {path}; say chmod go-w")
            found[path] = self._read(inode, attributes, timestamp)
        return found

    def _files_below(
        self, directory: int, name: bytes, timestamp: int
    ) -> Iterator[tuple[str, int]]:
        binding = self._store.binding_at(directory, name, timestamp)
        if binding is None:
            return
        stack = [(binding.inode, name, binding.mode)]
        while stack:
            inode, path, mode = stack.pop()
            if is_directory(mode):
                stack.extend(
                    (child.inode, path + b"/" + own, child.mode)
                    for own, child in self._store.children_at(inode, timestamp)
                    if own != b"__pycache__"
                )
            elif mode & TYPE_MASK == REGULAR:
                yield path.decode(errors="surrogateescape"), inode

    def _sidecar(self, watch: int, name: bytes, timestamp: int) -> bytes | None:
        for own in (name + b".toml", name.rpartition(b".")[0] + b".toml"):
            binding = self._store.binding_at(watch, own, timestamp) if own != b".toml" else None
            if binding is not None and binding.mode & TYPE_MASK == REGULAR:
                attributes = self._row(binding.inode, timestamp)
                if attributes.mode & _OTHERS_WRITE:
                    raise LoadFailed("others can write its side-car; say chmod go-w")
                return self._read(binding.inode, attributes, timestamp)
        return None

    def _row(self, inode: int, timestamp: int) -> Attributes:
        row = self._store.attributes_at(inode, timestamp)
        assert row is not None, "a bound inode exists"
        return row[1]

    def _read(self, inode: int, attributes: Attributes, timestamp: int) -> bytes:
        if attributes.size > SCRIPT_BYTES_MAX:
            raise LoadFailed(f"it is larger than {SCRIPT_BYTES_MAX >> 20} MiB")
        return b"".join(
            bytes(self._store.read(inode, attributes, timestamp, offset, CHUNK_BYTES))
            for offset in range(0, attributes.size, CHUNK_BYTES)
        )


def _digest(files: dict[str, bytes], sidecar: bytes | None, attributes: Attributes) -> str:
    """The same code, run as the same user, the same id."""
    digest = xxhash.xxh3_128()
    digest.update(f"{attributes.uid}:{attributes.gid}\0".encode())
    for path, data in sorted([*files.items(), ("", sidecar or b"")]):
        digest.update(f"{path}\0{len(data)}\0".encode(errors="surrogateescape"))
        digest.update(data)
    return digest.hexdigest()

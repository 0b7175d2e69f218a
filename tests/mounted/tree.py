"""Photographs of trees, to compare a tree on the mount with one on another file system."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Entry", "copy_sample", "make_zoo", "photograph", "sample"]


@dataclass(frozen=True)
class Entry:
    """All that a backup program would keep of a file. Directories have no size and no links: those differ by nature."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int
    content: str
    device: int
    links: tuple[bytes, ...]
    xattrs: tuple[tuple[str, bytes], ...]


def photograph(root: Path) -> dict[bytes, Entry]:
    """Every entry below (and not) `root` by its path."""
    top = os.fsencode(root)
    found: dict[bytes, os.stat_result] = {}
    names: dict[int, list[bytes]] = {}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, top)
            found[relative] = status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode):
                names.setdefault(status.st_ino, []).append(relative)
    return {
        path: _entry(os.path.join(top, path), status, names.get(status.st_ino, []))
        for path, status in found.items()
    }


def _entry(path: bytes, status: os.stat_result, links: list[bytes]) -> Entry:
    is_directory = stat.S_ISDIR(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        content = os.fsdecode(os.readlink(path))
    else:
        content = ""
    assert is_directory or status.st_nlink == len(links), (path, status.st_nlink, links)
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    return Entry(
        status.st_mode,
        (status.st_uid, status.st_gid),
        status.st_mtime_ns,
        0 if is_directory else status.st_size,
        content,
        status.st_rdev,
        tuple(sorted(links)) if len(links) > 1 else (),
        tuple(sorted(xattrs.items())),
    )


def differences(left: dict[bytes, Entry], right: dict[bytes, Entry]) -> list[str]:
    """A line for each entry that is not the same on both sides."""
    lines = []
    for path in sorted(left.keys() | right.keys()):
        if left.get(path) != right.get(path):
            lines.append(f"{path!r}:\n  {left.get(path)}\n  {right.get(path)}")
    return lines


def _skipped(name: str) -> bool:
    return name in ("site-packages", "__pycache__") or name.startswith("config-")


def sample(wanted: Callable[[str], bool] = lambda path: True) -> Iterator[tuple[Path, Path]]:
    """(source, relative path) of Python's own library and of an installed package, without what is compiled."""
    library = Path(sysconfig.get_path("stdlib"))
    package = Path(sysconfig.get_path("purelib")) / "pip"
    for root, prefix in ((library, Path("lib")), (package, Path("lib/site-packages/pip"))):
        for directory, directories, files in os.walk(root):
            directories[:] = sorted(name for name in directories if not _skipped(name))
            for name in sorted(files):
                relative = prefix / os.path.relpath(os.path.join(directory, name), root)
                if wanted(str(relative)):
                    yield Path(directory, name), relative


def copy_sample(target: Path, wanted: Callable[[str], bool] = lambda path: True) -> int:
    """Copy the sample, links as what they point to; how many files."""
    count = 0
    for source, relative in sample(wanted):
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(source.read_bytes())
        os.chmod(place, source.stat().st_mode & 0o777)
        count += 1
    return count


def make_zoo(root: Path) -> None:
    """A small tree with one of everything that archives get wrong."""
    root.mkdir()
    deep = root / "a directory" / "below" / "below that"
    deep.mkdir(parents=True)
    (root / "empty").touch()
    (root / "empty directory").mkdir(mode=0o1777)
    (root / "bytes").write_bytes(bytes(range(256)) * 1000)
    for name in (
        b"\xff\xfe not UTF-8",
        b"line\nend",
        b" blank ",
        b"-rf",
        "ä€😀".encode(),
        b"n" * 255,
    ):
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(name)
    (deep / "one").write_text("shared\n")
    os.link(deep / "one", root / "two")
    os.link(deep / "one", deep / "three")
    os.symlink("bytes", root / "link")
    os.symlink("bytes", root / "link of two names")
    os.link(root / "link of two names", root / "other name", follow_symlinks=False)
    os.symlink("nowhere/at all", root / "dangling")
    os.symlink("loop", root / "loop")
    os.symlink("x" * 4000, root / "long link")
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(root / "socket", stat.S_IFSOCK | 0o755)
    with open(root / "holes", "wb") as file:
        file.seek(300_000)
        file.write(b"island")
        file.truncate(5_000_000)
    for number, mode in enumerate((0o000, 0o400, 0o755, 0o4755, 0o2755, 0o6777)):
        file = root / f"mode {number}"
        file.write_bytes(b"m")
        os.chown(file, 1000 + number, 2000 + number)
        os.chmod(file, mode)
    os.setxattr(root / "bytes", "user.colour", b"red")
    os.setxattr(root / "bytes", "user.empty", b"")
    os.setxattr(deep, "user.bytes", bytes(range(1, 256)) * 8)
    os.setxattr(root / "bytes", "trusted.secret", b"\0\1\2")
    moment = 1_234_567_890_123_456_789
    for number, path in enumerate(sorted(root.rglob("*"), key=lambda p: (-len(p.parts), bytes(p)))):
        os.utime(path, ns=(moment, moment + number * 1_000_000_007), follow_symlinks=False)
    os.utime(root / "empty", ns=(0, 0))
    os.utime(root / "mode 2", ns=(1, 1))
    os.utime(root / "mode 1", ns=(-1_500_000_000, -1_500_000_000))  # before 1970

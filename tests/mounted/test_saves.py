"""How programs save: every idiom leaves the new text under the name, and every save before it as a version of the name.

Each `save` makes the system calls of a program as strace showed them (vim 9, Jupyter, emacs, glib, sed, LibreOffice);
none of them is needed here.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.program import Actor, run

pytestmark = pytest.mark.mounted


@pytest.fixture
def place(shared_mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own on the mount of the whole run."""
    path = shared_mount.path / request.node.name
    path.mkdir()
    return path


def write(
    path: Path, text: str, flags: int = os.O_TRUNC, mode: int = 0o644, *, sync: bool = False
) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, mode)
    os.write(descriptor, text.encode())
    if sync:
        os.fsync(descriptor)
    os.close(descriptor)


def vim_by_rename(path: Path, text: str) -> None:
    """:w with backupcopy=no: try whether a file can be made, move the old one away, write the name anew."""
    probe = path.with_name("4913")
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o100644))
    os.chown(probe, 0, 0)
    os.unlink(probe)
    backup = path.with_name(path.name + "~")
    if path.exists():
        os.rename(path, backup)
    write(path, text, sync=True)
    os.chmod(path, 0o644)
    if backup.exists():
        os.unlink(backup)


def vim_in_place(path: Path, text: str) -> None:
    """:w with backupcopy=yes, beside its swap file: copy to the backup, truncate, write, fsync, close."""
    swap, backup = path.with_name(f".{path.name}.swp"), path.with_name(path.name + "~")
    descriptor = os.open(swap, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    os.write(descriptor, b"b0VIM 9.0" + bytes(4087))
    os.pwrite(descriptor, text.encode(), 4096)
    os.fsync(descriptor)
    if path.exists():
        shutil.copyfile(path, backup)
    write(path, text, sync=True)
    os.close(descriptor)
    os.unlink(swap)


def jupyter(path: Path, text: str) -> None:
    """The server's atomic_writing: a copy aside in case it fails, write through the name, remove the copy."""
    aside = path.with_name(".~" + path.name)
    if path.exists():
        shutil.copy2(path, aside)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.unlink(missing_ok=True)
    checkpoints = path.parent / ".ipynb_checkpoints"
    checkpoints.mkdir(exist_ok=True)
    shutil.copy2(path, checkpoints / f"{path.stem}-checkpoint{path.suffix}")


def emacs(path: Path, text: str) -> None:
    """A lock link that points nowhere, with an "@" in it; a backup by rename the first time; write; unlock."""
    lock = path.with_name(".#" + path.name)
    os.symlink("user@host.example.1234:1700000000", lock)
    if path.exists() and not path.with_name(path.name + "~").exists():
        os.rename(path, path.with_name(path.name + "~"))
    write(path, text, sync=True)
    os.unlink(lock)


def rename_over(path: Path, text: str) -> None:
    """glib, KDE, VS Code's and most programs' way: a temporary file beside it, fsync, rename over the name."""
    descriptor, temporary = tempfile.mkstemp(prefix=".goutputstream-", dir=path.parent)
    with open(descriptor, "w") as file:
        file.write(text)
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.rename(temporary, path)


def rename_over_unsynced(path: Path, text: str) -> None:
    """Scripts: write the temporary file, close it, mv."""
    write(path.with_name("new"), text)
    os.replace(path.with_name("new"), path)


def link_backup(path: Path, text: str) -> None:
    """gedit of old, nano -B: the backup is a hard link to the old file, the new one is renamed over the name."""
    backup = path.with_name(path.name + ".bak")
    backup.unlink(missing_ok=True)
    if path.exists():
        os.link(path, backup)
    write(path.with_name("#tmp#"), text)
    os.rename(path.with_name("#tmp#"), path)


def libreoffice(path: Path, text: str) -> None:
    """A lock file, a temporary file in the same directory, moved over the document; the lock is removed."""
    lock = path.with_name(f".~lock.{path.name}#")
    write(lock, ",user,host,01.01.2026 00:00,file:///;", os.O_EXCL)
    write(path.with_name("lu1234.tmp"), text)
    os.rename(path.with_name("lu1234.tmp"), path)
    os.unlink(lock)


def in_place(path: Path, text: str) -> None:
    """nano, VS Code, echo >: truncate and write."""
    write(path, text)


def delete_and_write(path: Path, text: str) -> None:
    """Compilers and archivers: unlink, then make it anew."""
    path.unlink(missing_ok=True)
    write(path, text, os.O_EXCL)


def shell(path: Path, text: str) -> None:
    """echo text > file in a shell, which opens, duplicates and closes before it writes."""
    run("sh", "-c", 'printf "%s" "$0" > "$1"', text, path)


IDIOMS = [
    *(vim_by_rename, vim_in_place, jupyter, emacs, rename_over, rename_over_unsynced),
    *(link_backup, libreoffice, in_place, delete_and_write, shell),
]


def versions(path: Path) -> list[str]:
    """What each version that can be opened holds, oldest first."""
    listing = path.with_name(path.name + "@@")
    names = sorted(os.listdir(listing), key=lambda name: int(name[1:].split(".")[0]))
    return [(listing / name).read_text() for name in names]


@pytest.mark.parametrize("save", IDIOMS)
def test_every_save_is_a_version_of_the_name(
    place: Path, save: Callable[[Path, str], None]
) -> None:
    """Five saves of one document by one program: five contents in the name's history, in order, no other ones."""
    path = place / "notes.txt"
    texts = [f"draft {number}\n" * number for number in range(1, 6)]
    for text in texts:
        save(path, text)
        assert path.read_text() == text
    assert versions(path) == texts
    leftovers = {name for name in os.listdir(place) if name != "notes.txt"}
    assert leftovers <= {"notes.txt~", "notes.txt.bak", ".ipynb_checkpoints"}
    number = len(os.listdir(place / "notes.txt@@"))
    assert number == 5
    first = min(os.listdir(place / "notes.txt@@"), key=lambda name: int(name[1:].split(".")[0]))
    shutil.copyfile(place / "notes.txt@@" / first, path)  # restore
    assert path.read_text() == texts[0]
    assert versions(path) == [*texts, texts[0]]


def test_saves_of_different_programs_follow_one_another(place: Path) -> None:
    """A file edited by all of them in turn keeps one history; its times and permissions are the last saver's."""
    path = place / "notes.txt"
    texts = []
    for number, save in enumerate(IDIOMS * 2):
        texts.append(f"{number} {save.__name__}\n")
        save(path, texts[-1])
    assert versions(path) == texts


def test_a_notebook_is_saved_while_its_kernel_reads_it(place: Path) -> None:
    """JSON of growing size, written in place and by rename: the reader that polls sees whole ones after each save."""
    path = place / "Untitled.ipynb"
    with Actor(place) as kernel:
        for number in range(10):
            notebook = {"cells": [{"source": "x" * 1000}] * number * 20, "nbformat": 4}
            (jupyter if number % 2 else rename_over)(path, json.dumps(notebook))
            kernel.do("import json")
            assert kernel.ask("len(json.load(open('Untitled.ipynb'))['cells'])") == number * 20
    assert [len(json.loads(text)["cells"]) for text in versions(path)] == [
        n * 20 for n in range(10)
    ]


def test_stream_editors(place: Path) -> None:
    """sed -i, sed -i.bak, patch's and sort -o's way: the line is changed, the old file is a version."""
    path = place / "f.txt"
    path.write_text("b one\na two\n")
    run("sed", "-i", "s/one/1/", path)
    run("sed", "-i.bak", "s/two/2/", path)
    run("sort", "-o", path, path)
    assert path.read_text() == "a 2\nb 1\n"
    assert (place / "f.txt.bak").read_text() == "b 1\na two\n"
    assert versions(path) == ["b one\na two\n", "b 1\na two\n", "b 1\na 2\n", "a 2\nb 1\n"]
    run("sh", "-c", "echo more >> f.txt", cwd=place)
    assert versions(path)[-1] == "a 2\nb 1\nmore\n"
    assert len(versions(path)) == 5

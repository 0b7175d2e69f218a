"""rename(2) and renameat2(2): everything over everything with every flag; what moves, what is replaced, whose times."""

from __future__ import annotations

import os
import stat

from tests.posix import libc
from tests.posix.caller import EVERYBODY, OWNER, ROOT, acting
from tests.posix.observation import Observation, links, make, moved, outcome, read, shape, write

KINDS = ("absent", "file", "directory", "full", "symlink", "fifo", "socket")

FLAGS = {
    "plain": 0,
    "noreplace": libc.RENAME_NOREPLACE,
    "exchange": libc.RENAME_EXCHANGE,
    "both": libc.RENAME_NOREPLACE | libc.RENAME_EXCHANGE,
    "unknown": 0x40,
}


def _tree() -> list[str]:
    return sorted(
        f"{os.path.join(where, name)} {shape(os.path.join(where, name))}"
        for where, directories, files in os.walk(".")
        for name in directories + files
    )


def everything_over_everything(see: Observation) -> None:
    for word, flag in FLAGS.items():
        for across in (False, True):
            for source in KINDS:
                for target in KINDS:
                    stage = f"{word} {'across' if across else 'inside'} {source} over {target}"
                    os.mkdir(stage)
                    os.chdir(stage)
                    os.mkdir("from")
                    os.mkdir("to")
                    to = "to" if across else "from"
                    make(source, "from/source")
                    make(target, f"{to}/target")
                    see.call(stage, libc.renameat2, "from/source", f"{to}/target", flag)
                    see(f"left by {stage}", _tree())
                    see(f"links after {stage}", [links("from"), links("to"), links(".")])
                    os.chdir("..")


def times(see: Observation) -> None:
    for word in ("plain", "noreplace", "exchange"):
        for across in (False, True):
            for source in ("file", "directory", "symlink", "fifo"):
                for target in ("absent", source):
                    stage = f"{word} {across} {source} {target}"
                    os.mkdir(stage)
                    os.chdir(stage)
                    os.mkdir("from")
                    os.mkdir("to")
                    to = "to" if across else "from"
                    make(source, "from/source")
                    make(target, f"{to}/target")
                    descriptor = os.open("from/source", os.O_PATH | os.O_NOFOLLOW)
                    replaced = os.open(
                        f"{to}/target" if target != "absent" else ".", os.O_PATH | os.O_NOFOLLOW
                    )
                    seen = moved(
                        lambda t=to, w=word: libc.renameat2("from/source", f"{t}/target", FLAGS[w]),
                        "from",
                        "to",
                        descriptor,
                        replaced,
                    )
                    see(stage, list(seen.values()))
                    see(f"replaced by {stage}", shape(replaced))
                    os.close(descriptor)
                    os.close(replaced)
                    os.chdir("..")


def names_of_one_file(see: Observation) -> None:
    """Two names of one file: nothing happens, and EXCHANGE and NOREPLACE say so or refuse."""
    for word, flag in FLAGS.items():
        os.mkdir(word)
        os.chdir(word)
        write("a")
        os.link("a", "b")
        os.mkdir("d")
        os.link("a", "d/c")
        see(f"{word}", moved(lambda f=flag: libc.renameat2("a", "b", f), "a", "b", "."))
        see(f"{word} across", moved(lambda f=flag: libc.renameat2("a", "d/c", f), ".", "d"))
        see(f"{word} itself", moved(lambda f=flag: libc.renameat2("b", "b", f), "."))
        see(f"{word} a directory itself", moved(lambda f=flag: libc.renameat2("d", "d", f), "."))
        see(f"left by {word}", _tree())
        os.chdir("..")


def into_itself(see: Observation) -> None:
    os.makedirs("a/b/c")
    os.mkdir("z")
    for word, flag in FLAGS.items():
        for source, target in (
            ("a", "a/x"),
            ("a", "a/b/x"),
            ("a", "a/b/c"),
            ("a/b", "a"),
            ("a/b/c", "a"),
            ("a/b", "a/b/c"),
            ("a", "a/."),
            ("a", "a/.."),
            ("a/.", "y"),
            ("a/..", "y"),
            (".", "y"),
            ("a", "."),
            ("a", ".."),
        ):
            see.call(f"{word} {source} to {target}", libc.renameat2, source, target, flag)
    see("left", _tree())


def with_slashes(see: Observation) -> None:
    for source in ("file", "directory", "symlink"):
        for a, b in (("", "/"), ("/", ""), ("/", "/")):
            for target in ("absent", "file", "directory"):
                stage = f"{source}{a} {target}{b}".replace("/", "|")
                os.mkdir(stage)
                os.chdir(stage)
                make(source, "s")
                make(target, "t")
                see.call(stage, os.rename, f"s{a}", f"t{b}")
                see(f"left by {stage}", _tree())
                os.chdir("..")


def content_and_identity(see: Observation) -> None:
    """A moved file is the same file; a replaced one lives on in its descriptors."""
    write("a", b"A")
    write("b", b"B")
    number = os.stat("a").st_ino
    old = os.open("b", os.O_RDWR)
    os.rename("a", "b")
    see("same inode", os.stat("b").st_ino == number)
    see("content", repr(read("b")))
    see("replaced", shape(old))
    see("its content", repr(os.pread(old, 10, 0)))
    see.call("written to", os.write, old, b"still")
    see("not in the new one", repr(read("b")))
    write("c", b"C")
    libc.renameat2("b", "c", libc.RENAME_EXCHANGE)
    see("exchanged", [repr(read("b")), repr(read("c"))])
    see("inode went along", os.stat("c").st_ino == number)
    os.mkdir("d")
    write("d/inside", b"I")
    here = os.open("d", os.O_RDONLY)
    os.rename("d", "e")
    see("by a descriptor", os.listdir(here))
    see("by its name", repr(read("e/inside")))
    see.call("by its old name", read, "d/inside")
    os.fchdir(here)
    see("getcwd", os.path.basename(os.getcwd()))


def cycles(see: Observation) -> None:
    """Exchanging directories with what lies below them, or beside."""
    os.makedirs("a/b/c")
    os.makedirs("x/y")
    for source, target in (
        ("a", "a/b"),
        ("a/b", "a"),
        ("a/b/c", "a"),
        ("a/b", "x"),
        ("x", "a/b"),
        ("a", "x/y"),
    ):
        see.call(f"{source} {target}", libc.renameat2, source, target, libc.RENAME_EXCHANGE)
        see(f"after {source} {target}", _tree())


def whiteouts(see: Observation) -> None:
    """RENAME_WHITEOUT leaves a device 0:0 behind, which overlayfs reads as "deleted"."""
    os.chmod(".", 0o777)
    for caller in (ROOT, OWNER):
        path = f"file {caller.name}"
        write(path)
        os.chown(path, caller.uid, caller.gid)
        with acting(caller):
            see.call(f"{caller.name}", libc.renameat2, path, f"{path} moved", libc.RENAME_WHITEOUT)
        see(f"{caller.name} left", shape(path))
    os.mknod("whiteout", stat.S_IFCHR | 0o600, 0)
    see("one by hand", shape("whiteout"))


def by_everybody(see: Observation) -> None:
    os.chmod(".", 0o777)
    for caller in EVERYBODY:
        for word, flag in FLAGS.items():
            path = f"{caller.name} {word}"
            write(path)
            write(f"{path} target")
            with acting(caller):
                see.call(f"{path} fresh", libc.renameat2, path, f"{path} new", flag)
                see.call(f"{path} over", libc.renameat2, path, f"{path} target", flag)
            see(f"{path} is", [outcome(read, path), outcome(read, f"{path} target")])

"""Every call that takes a path, with every kind of path that leads nowhere, or oddly, for every caller."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.posix import libc
from tests.posix.caller import EVERYBODY, OWNER, ROOT, acting
from tests.posix.observation import Observation, make, opened, outcome, shape, write

LONG = "n" * 255
NOW = (0, libc.UTIME_NOW)

CALLS: dict[str, Callable[[str], object]] = {
    "lstat": lambda path: os.lstat(path) and None,
    "stat": lambda path: os.stat(path) and None,
    "access": lambda path: os.access(path, os.R_OK),
    "chmod": lambda path: os.chmod(path, 0o755),
    "chown": lambda path: os.chown(path, OWNER.uid, OWNER.gid),
    "lchown": lambda path: os.lchown(path, OWNER.uid, OWNER.gid),
    "utimensat": lambda path: libc.utimensat(path, NOW, NOW),
    "lutimensat": lambda path: libc.utimensat(path, NOW, NOW, libc.AT_SYMLINK_NOFOLLOW),
    "truncate": lambda path: os.truncate(path, 3),
    "open": lambda path: opened(path, os.O_RDONLY | os.O_NONBLOCK),
    "open for writing": lambda path: opened(path, os.O_WRONLY | os.O_NONBLOCK),
    "creat": lambda path: opened(path, os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK),
    "creat exclusively": lambda path: opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "open nofollow": lambda path: opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK),
    "open directory": lambda path: opened(path, os.O_RDONLY | os.O_DIRECTORY),
    "open path": lambda path: opened(path, os.O_PATH),
    "listdir": lambda path: sorted(os.listdir(path)),
    "chdir": lambda path: _chdir(path),
    "readlink": os.readlink,
    "statvfs": lambda path: os.statvfs(path).f_namemax,
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "symlink": lambda path: os.symlink("target", path),
    "link": lambda path: os.link("/" + path if path.startswith("/") else "source", path),
    "link from": lambda path: os.link(path, "target", follow_symlinks=False),
    "rename": lambda path: os.rename("source", path),
    "rename from": lambda path: os.rename(path, "target"),
    "rename noreplace": lambda path: libc.renameat2("source", path, libc.RENAME_NOREPLACE),
    "exchange": lambda path: libc.renameat2("source", path, libc.RENAME_EXCHANGE),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "getxattr": lambda path: os.getxattr(path, "user.absent"),
    "listxattr": os.listxattr,
    "setxattr": lambda path: os.setxattr(path, "user.some", b"value"),
    "removexattr": lambda path: os.removexattr(path, "user.absent"),
    "name_to_handle_at": lambda path: libc.name_to_handle_at(path) and None,
}

PATHS = {
    "absent": "absent",
    "below absent": "absent/x",
    "empty": "",
    "file": "file",
    "file with a slash": "file/",
    "below file": "file/x",
    "below fifo": "fifo/x",
    "dot of file": "file/.",
    "dots of file": "file/..",
    "directory": "directory",
    "directory with a slash": "directory/",
    "directory with slashes": "directory///",
    "absent with a slash": "absent/",
    "dot": ".",
    "dots": "..",
    "dot of directory": "directory/.",
    "dots of directory": "directory/..",
    "full directory": "full",
    "255 bytes": LONG,
    "256 bytes": LONG + "n",
    "below 256 bytes": LONG + "n/x",
    "path of 4095 bytes": "./" * 2045 + "xxxxx",
    "path of 4096 bytes": "./" * 2046 + "xxxx",
    "path of 5000 bytes": "./" * 2500,
    "file by 4095 bytes": "./" * 2045 + "/file",
    "loop": "loop",
    "below loop": "loop/x",
    "two links in a circle": "circle",
    "dangling link": "dangling",
    "below dangling link": "dangling/x",
    "dangling link with a slash": "dangling/",
    "link to file": "to file",
    "link to file with a slash": "to file/",
    "link to directory": "to directory",
    "link to directory with a slash": "to directory/",
    "below link to directory": "to directory/x",
    "fifo": "fifo",
    "in a closed directory": "closed/x",
    "absent in a closed directory": "closed/absent",
    "below a file of a closed directory": "closed/x/y",
    "in a directory to read": "readable/x",
    "absent in a directory to read": "readable/absent",
    "in a directory to enter": "enterable/x",
    "absent in a directory to enter": "enterable/absent",
}
assert len(PATHS["path of 4095 bytes"]) < 4096 <= len(PATHS["path of 4096 bytes"])


def _chdir(path: str) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path)
        os.fchdir(here)
    finally:
        os.close(here)


def _stage(where: str) -> None:
    """Everything the paths speak of, in a new directory that everybody may write to."""
    os.mkdir(where)
    os.chmod(where, 0o777)
    os.chdir(where)
    write("source")
    write("file")
    os.mkdir("directory")
    make("full", "full")
    os.mkfifo("fifo")
    os.symlink("loop", "loop")
    os.symlink("elsewhere in the circle", "circle")
    os.symlink("circle", "elsewhere in the circle")
    os.symlink("nowhere", "dangling")
    os.symlink("file", "to file")
    os.symlink("directory", "to directory")
    for name, mode in (("closed", 0o700), ("readable", 0o744), ("enterable", 0o711)):
        os.mkdir(name)
        write(f"{name}/x")
        os.chmod(name, mode)
    os.chdir("..")


def _summary(where: str) -> str:
    """What a call may have left behind."""
    return " ".join(sorted(name for name in os.listdir(where) if len(name) < 100))


def _walk(see: Observation, names: list[str]) -> None:
    # Few calls change the stage: a new one after every call that did anything costs more than it shows.
    for name in names:
        call = CALLS[name]
        for number, caller in enumerate(EVERYBODY):
            stage = f"{name} {number}".replace(" ", "-")
            _stage(stage)
            fresh = _summary(stage)
            for key, path in PATHS.items():
                os.chdir(stage)
                with acting(caller):
                    result = outcome(call, path)
                os.chdir("..")
                see(f"{name} {key}, {caller.name}", result)
                left = _summary(stage)
                if left != fresh:
                    see(f"left by {name} {key}, {caller.name}", left)
                    stage += "+"
                    _stage(stage)


def looking(see: Observation) -> None:
    _walk(see, ["lstat", "stat", "access", "readlink", "statvfs", "name_to_handle_at"])


def opening(see: Observation) -> None:
    _walk(see, [name for name in CALLS if name.startswith(("open", "creat"))])


def entering(see: Observation) -> None:
    _walk(see, ["listdir", "chdir"])


def changing(see: Observation) -> None:
    _walk(
        see,
        ["chmod", "chown", "lchown", "utimensat", "lutimensat", "truncate"],
    )


def attributes(see: Observation) -> None:
    _walk(see, ["getxattr", "listxattr", "setxattr", "removexattr"])


def making(see: Observation) -> None:
    _walk(see, ["mkdir", "mkfifo", "symlink", "link", "link from"])


def moving(see: Observation) -> None:
    _walk(see, ["rename", "rename from", "rename noreplace", "exchange"])


def removing(see: Observation) -> None:
    _walk(see, ["unlink", "rmdir"])


def names(see: Observation) -> None:
    """Every byte but NUL and the slash, 255 of them, not text; found again, listed, renamed, removed."""
    top = b"."
    every = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    some = {
        every,
        b"\xff" * 255,
        b"\xed\xa0\x80",
        b" ",
        b"...",
        b"-",
        b"\n",
        b"\\",
        b"\xf0\x9f\x98\x80" * 63,
    }
    some |= {bytes([byte]) + b"x" for byte in every}
    for name in some:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    see("all are listed", set(os.listdir(top)) == some)
    for name in sorted(some):
        key = repr(name)
        see.call(f"again {key}", os.mkdir, name)
        see.call(f"renamed {key}", os.rename, name, b"moved")
        see.call(f"and back {key}", os.rename, b"moved", name)
        see.call(f"removed {key}", os.unlink, name)
    see("none is left", os.listdir(top))
    for length in (254, 255, 256, 257, 1000):
        for call in (os.mkdir, os.mkfifo, os.lstat, os.unlink):
            see.call(
                f"{call.__name__} of {length} bytes",
                lambda c=call, n=length: c(b"\xfe" * n) and None,
            )


def depth(see: Observation) -> None:
    """Directories beyond PATH_MAX, reached step by step; their absolute path is too long for getcwd(3)'s kernel half."""
    steps = 40
    for _ in range(steps):
        os.mkdir(LONG)
        os.chdir(LONG)
    write("leaf", b"deep")
    see("at the bottom", shape("leaf"))
    see.call("getcwd", lambda: os.getcwd() and None)
    see.call("back by a long path", os.stat, "/".join([".."] * 1400))
    for _ in range(steps):
        os.chdir("..")
    see("at the top again", sorted(map(len, os.listdir("."))))
    for length in (4094, 4095, 4096, 4097):
        path = ("./" * 2100)[: length - 1] + "."
        see.call(f"stat by {length} bytes", lambda p=path: os.stat(p) and None)
    component = f"{LONG}/" * 15
    for extra in range(250, 258):
        see.call(f"mkdir below 15 long names, {extra} bytes", os.mkdir, component + "x" * extra)


def root_and_dots(see: Observation) -> None:
    """`.` and `..` lead where they should, also after a directory moved."""

    def same(a: str, b: str) -> bool:
        return os.path.samestat(os.stat(a), os.stat(b))

    os.makedirs("a/b/c")
    os.mkdir("z")
    see("a/b/..", same("a/b/..", "a"))
    see("a/b/.", same("a/b/.", "a/b"))
    os.rename("a/b", "z/b")
    see("z/b/..", same("z/b/..", "z"))
    see("z/b/c/../..", same("z/b/c/../..", "z"))
    here = os.open("z/b/c", os.O_RDONLY)
    os.rename("z/b/c", "c")
    see(".. by a descriptor", os.path.samestat(os.stat("..", dir_fd=here), os.stat(".")))
    os.rmdir("c")
    see.call(".. of a removed directory", lambda: os.stat("..", dir_fd=here) and None)
    see.call("into a removed directory", os.mkdir, "x", dir_fd=here)
    see.call("a file in a removed directory", opened, f"/proc/self/fd/{here}/x", os.O_CREAT)
    see("a removed directory lists", outcome(os.listdir, here))
    see("a removed directory shows", shape(here))
    os.fchdir(here)
    see.call("getcwd in a removed directory", os.getcwd)
    see.call("mkdir in it", os.mkdir, "x")
    see.call("symlink in it", os.symlink, "x", "y")
    see.call("mkfifo in it", os.mkfifo, "x")
    see.call("stat of its dot", lambda: os.stat(".") and None)
    see.call("link into it", os.link, "/proc/self/exe", "x")


def elsewhere(see: Observation) -> None:
    """Across file systems: EXDEV, whatever else is wrong."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        write("file")
        write(f"{other}/file")
        os.mkdir("directory")
        for caller in (ROOT, OWNER):
            with acting(caller):
                see.call(f"link, {caller.name}", os.link, "file", f"{other}/new")
                see.call(f"rename, {caller.name}", os.rename, "file", f"{other}/new")
                see.call(f"rename over, {caller.name}", os.rename, "file", f"{other}/file")
                see.call(f"rename a directory, {caller.name}", os.rename, "directory", f"{other}/d")
                see.call(f"rename in, {caller.name}", os.rename, f"{other}/file", "new")
                see.call(
                    f"exchange, {caller.name}",
                    libc.renameat2,
                    "file",
                    f"{other}/file",
                    libc.RENAME_EXCHANGE,
                )

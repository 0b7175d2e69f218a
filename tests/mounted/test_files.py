"""What programs expect of files, names and links, asked of the mount in the ways that break file systems."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import threading
import time
from pathlib import Path

import pytest

from tests.mounted.program import Actor, end, finish, run, start, start_python

pytestmark = pytest.mark.mounted


@pytest.fixture
def place(shared_mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own on the mount of the whole run."""
    path = shared_mount.path / request.node.name
    path.mkdir()
    return path


def refused(number: int):
    return pytest.raises(OSError, match=os.strerror(number).replace("(", r"\(").replace(")", r"\)"))


# --- Names --------------------------------------------------------------------------------------------------------


def test_names_of_every_kind_of_bytes(place: Path) -> None:
    """255 bytes, every byte but NUL and slash, not UTF-8, blanks, dashes, "@" of mail addresses and npm packages."""
    top = os.fsencode(place)
    every = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    names = {
        every,
        *(bytes([byte]) + b"x" for byte in range(1, 256) if byte != ord("/")),
        *(b"n" * 255, b" ", b"...", b"-", b"--", b"\\", b"\n", b"\xed\xa0\x80"),
        *(
            b"a@b.com",
            b"react@18.2.0",
            b"icon@2x.png",
            b"@types",
            b"@",
            b"@@x",
            b"getty@tty1.service",
        ),
        *(
            b"python@3.12",
            b"mod@v1.2.3",
            b"x@v12",
            b"y@2024",
        ),  # without history of x and y: plain names
    }
    for name in names:
        with open(os.path.join(top, name), "wb") as file:
            file.write(name)
    assert set(os.listdir(top)) == names
    for name in names:
        with open(os.path.join(top, name), "rb") as file:
            assert file.read() == name
    with refused(errno.ENAMETOOLONG):
        os.mkdir(place / ("n" * 256))
    with refused(errno.ENAMETOOLONG):
        os.stat(place / ("n" * 256))
    with refused(errno.ENOENT):
        os.stat(place / ("n" * 254))
    for name in names:
        os.rename(os.path.join(top, name), os.path.join(top, b"renamed"))
        os.unlink(os.path.join(top, b"renamed"))
    assert os.listdir(top) == []


def test_deep_paths(place: Path) -> None:
    """Hundreds of directories deep, past PATH_MAX; removed by rm -r."""
    depth = 120
    here = os.open(place, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 50, dir_fd=here)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    with open(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=here), "w") as file:
        file.write("deep")
    os.close(here)
    with Actor(place) as other:
        other.do(f"for _ in range({depth}): os.chdir('d' * 50)")
        assert other.ask("open('leaf').read()") == "deep"
        with refused(errno.ENAMETOOLONG):
            other.ask("os.stat('/'.join(['..'] * 1500))")
    run("rm", "-r", place / ("d" * 50))
    assert os.listdir(place) == []


def test_exactly_one_creator_wins(place: Path) -> None:
    """Lock files: eight processes race with O_EXCL, mkdir, link and symlink; each race has one winner."""
    script = """
        import os, sys
        who, won = sys.argv[1], []
        open(f"own.{who}", "w").close()
        ways = [
            lambda n: os.close(os.open(f"file.{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
            lambda n: os.mkdir(f"dir.{n}"),
            lambda n: os.link(f"own.{who}", f"link.{n}"),
            lambda n: os.symlink(who, f"symlink.{n}"),
            lambda n: os.mkfifo(f"fifo.{n}"),
        ]
        for n in range(100):
            try:
                ways[n % len(ways)](n)
                won.append(n)
            except FileExistsError:
                pass
        print(*won)
    """
    winners = finish([start_python(script, str(who), cwd=place) for who in range(8)])
    won = [int(number) for line in winners for number in line.split()]
    assert sorted(won) == list(range(100))


def test_a_storm_of_renames_while_the_directory_is_listed(place: Path) -> None:
    """Every look shows each of 200 files under one of its two names at least once, whatever is renamed meanwhile."""
    for number in range(200):
        (place / f"{number:03}.a").touch()
    script = """
        import os, itertools, sys
        print("on")
        for turn in itertools.count():
            if os.path.exists("stop"):
                break
            old, new = (".a", ".b") if turn % 2 == 0 else (".b", ".a")
            for number in range(int(sys.argv[1]), 200, 2):
                os.rename(f"{number:03}{old}", f"{number:03}{new}")
    """
    storm = [start_python(script, str(which), cwd=place) for which in (0, 1)]
    for process in storm:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
    for look in range(60):
        names = os.listdir(place) if look % 2 else run("ls", "-U", place).split()
        assert len(names) == len(set(names)), "a name is listed twice"
        # POSIX leaves open whether a file renamed meanwhile is seen under either name, but not that others are missed.
        assert all(name[:3].isdigit() for name in names)
        target = place / "000.x"
        for name in ("000.a", "000.b"):
            if (place / name).exists():
                assert not target.exists()
    (place / "stop").touch()
    finish(storm)
    (place / "stop").unlink()
    assert sorted(name[:3] for name in os.listdir(place)) == [
        f"{number:03}" for number in range(200)
    ]


def test_a_name_renamed_over_again_and_again_always_exists(place: Path) -> None:
    """A configuration replaced by rename 500 times: who opens it meanwhile always finds a whole one."""
    path = place / "config"
    path.write_text("0" * 1000)
    script = """
        import os
        print("on")
        for turn in range(1, 500):
            with open("new", "w") as file:
                file.write(str(turn % 10) * 1000)
            os.replace("new", "config")
    """
    replacing = start_python(script, cwd=place)
    looks = 0
    while replacing.poll() is None:
        text = path.read_text()
        assert len(text) == 1000
        assert text == text[0] * 1000
        assert path.exists()
        looks += 1
    finish([replacing])
    assert looks > 5


def test_rename_in_all_its_forms(place: Path) -> None:
    """Over a file, over an empty directory, into itself, across directories, with NOREPLACE and EXCHANGE."""
    run("sh", "-c", "mkdir -p a/b c e; echo 1 > a/f; echo 2 > c/f; echo 3 > g", cwd=place)
    os.rename(place / "a/f", place / "c/f")
    assert (place / "c/f").read_text() == "1\n"
    os.rename(place / "a", place / "e")
    assert os.listdir(place / "e") == ["b"]
    assert os.stat(place / "e").st_nlink == 3
    with refused(errno.ENOTEMPTY):
        os.rename(place / "c", place / "e")
    with refused(errno.EINVAL):
        os.rename(place / "e", place / "e/b/x")
    with refused(errno.EISDIR):
        os.rename(place / "g", place / "e")
    with refused(errno.ENOTDIR):
        os.rename(place / "e", place / "g")
    with refused(errno.ENOENT):
        os.rename(place / "absent", place / "g")
    os.link(place / "g", place / "h")
    os.rename(place / "g", place / "h")  # two names of one file: nothing happens
    assert (place / "g").exists()
    script = (
        "import ctypes, sys; l = ctypes.CDLL(None, use_errno=True);"
        "r = l.renameat2(-100, sys.argv[1].encode(), -100, sys.argv[2].encode(), int(sys.argv[3]));"
        "print(0 if r == 0 else ctypes.get_errno())"
    )

    def renameat2(source: str, target: str, flags: int) -> int:
        return int(finish([start_python(script, source, target, str(flags), cwd=place)])[0])

    assert renameat2("g", "c/f", 1) == errno.EEXIST
    assert renameat2("g", "fresh", 1) == 0
    assert renameat2("fresh", "e", 2) == 0
    assert (place / "e").read_text() == "3\n"
    assert os.listdir(place / "fresh") == ["b"]
    assert renameat2("absent", "e", 2) == errno.ENOENT
    assert (place / "fresh/..").stat().st_ino == place.stat().st_ino


# --- Links --------------------------------------------------------------------------------------------------------


def test_symlinks_and_loops(place: Path) -> None:
    """A link to itself, two to each other, a chain of forty, to a directory, of 4,095 bytes: ELOOP or the target."""
    os.symlink("self", place / "self")
    os.symlink("right", place / "left")
    os.symlink("left", place / "right")
    for name in ("self", "left"):
        with refused(errno.ELOOP):
            (place / name).read_text()
    (place / "0").write_text("end")
    for number in range(1, 50):
        os.symlink(str(number - 1), place / str(number))
    assert (place / "40").read_text() == "end"
    with refused(errno.ELOOP):
        (place / "41").read_text()
    (place / "d").mkdir()
    os.symlink("d", place / "to d")
    (place / "to d/file").write_text("x")
    assert (place / "d/file").exists()
    os.symlink("x" * 4095, place / "longest")
    assert os.readlink(place / "longest") == "x" * 4095
    assert os.lstat(place / "longest").st_size == 4095
    with refused(errno.ELOOP):
        os.open(place / "to d", os.O_RDONLY | os.O_NOFOLLOW)
    run("ln", "-sfn", "elsewhere", place / "to d")
    assert os.readlink(place / "to d") == "elsewhere"


def test_hard_links_are_one_file(place: Path) -> None:
    """Written through one name, read through another; link counts and ctime move; the last unlink ends it."""
    (place / "a").write_text("one")
    before = os.stat(place / "a")
    os.link(place / "a", place / "b")
    (place / "d").mkdir()
    os.link(place / "b", place / "d/c")
    after = os.stat(place / "a")
    assert after.st_nlink == 3
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns
    assert os.path.samefile(place / "a", place / "d/c")
    (place / "d/c").write_text("two")
    assert (place / "a").read_text() == (place / "b").read_text() == "two"
    os.unlink(place / "a")
    os.chmod(place / "b", 0o600)
    assert stat.S_IMODE(os.stat(place / "d/c").st_mode) == 0o600
    assert os.stat(place / "d/c").st_nlink == 2
    os.rename(place / "b", place / "e")
    assert (place / "d/c").read_text() == "two"
    with refused(errno.EPERM):
        os.link(place / "d", place / "no")


def test_unlinked_files_stay_with_who_has_them_open(place: Path) -> None:
    """tempfile's way: unlink, then write, read, truncate, map, stat, and lend to a child by /proc; gone at the last close."""
    descriptor = os.open(place / "f", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"before ")
    other = os.open(place / "f", os.O_RDONLY)
    os.unlink(place / "f")
    assert os.listdir(place) == []
    os.write(descriptor, b"after")
    assert os.pread(other, 100, 0) == b"before after"
    status = os.fstat(other)
    assert (status.st_nlink, status.st_size) == (0, 12)
    (place / "f").write_text("another file of that name")
    assert os.pread(other, 100, 0) == b"before after"
    os.fchmod(descriptor, 0o640)
    assert stat.S_IMODE(os.fstat(other).st_mode) == 0o640
    os.write(descriptor, b"x" * 3_000_000)
    os.fsync(descriptor)
    os.ftruncate(descriptor, 6)
    assert os.pread(other, 100, 0) == b"before"
    assert Path(f"/proc/self/fd/{other}").read_bytes() == b"before"
    os.close(descriptor)
    time.sleep(0.1)
    assert os.pread(other, 100, 0) == b"before"
    os.close(other)
    assert (place / "f").read_text() == "another file of that name"


def test_a_removed_directory_that_is_somebodys_working_directory(place: Path) -> None:
    """rmdir of another process's working directory: nothing can be made there, and the process can leave."""
    (place / "d").mkdir()
    with Actor(place / "d") as inside:
        os.rmdir(place / "d")
        with refused(errno.ENOENT):
            inside.do("open('new', 'w')")
        assert inside.ask("os.listdir('.')") == []
        inside.do("os.chdir('/')")


# --- Attributes ---------------------------------------------------------------------------------------------------


def test_times_move_as_posix_says(place: Path) -> None:
    """mtime on write and truncate, ctime on every change, directory times on every entry; nanoseconds are kept."""
    path = place / "f"

    def changed(action, path: Path = path) -> str:
        before = path.stat()
        time.sleep(0.02)
        action()
        after = path.stat()
        moved = [
            n
            for n in ("mtime", "ctime")
            if getattr(after, f"st_{n}_ns") > getattr(before, f"st_{n}_ns")
        ]
        return " ".join(moved)

    path.write_text("x")
    assert changed(lambda: path.write_text("y")) == "mtime ctime"
    assert changed(lambda: os.truncate(path, 100)) == "mtime ctime"
    assert changed(lambda: path.chmod(0o600)) == "ctime"
    assert changed(lambda: os.chown(path, 5, 6)) == "ctime"
    assert changed(lambda: os.setxattr(path, "user.a", b"1")) == "ctime"
    assert changed(lambda: os.link(path, place / "g")) == "ctime"
    assert changed(lambda: os.rename(place / "g", place / "h")) == "ctime"
    assert changed(lambda: os.unlink(place / "h")) == "ctime"
    assert changed(path.read_text) == ""
    for action in (
        lambda: (place / "new").touch(),
        lambda: os.rename(place / "new", place / "newer"),
        lambda: (place / "newer").unlink(),
        lambda: (place / "d").mkdir(),
        lambda: (place / "d").rmdir(),
    ):
        assert changed(action, place) == "mtime ctime"
    os.utime(path, ns=(123_456_789_987_654_321, 1_111_111_111_222_222_222))
    status = path.stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (
        123_456_789_987_654_321,
        1_111_111_111_222_222_222,
    )
    run("touch", "-d", "2262-04-11 12:00:00.5", path)
    assert path.stat().st_mtime_ns % 1_000_000_000 == 500_000_000
    with open(path, "r+b") as file:
        file.write(b"z")
        file.flush()
        os.utime(file.fileno(), ns=(1, 2))
    assert path.stat().st_mtime_ns == 2, (
        "times set on an open file survive its close (cp -p, tar, rsync)"
    )


def test_permissions_are_enforced(make_mount) -> None:
    """Modes decide for other users: read, write, search, sticky directories, set-id bits that a write clears."""
    place = make_mount("-o", "allow_other").path
    secret, public = place / "secret", place / "public"
    secret.mkdir(0o700)
    (secret / "f").write_text("s")
    public.mkdir()
    public.chmod(0o1777)
    (public / "f").write_text("p")
    (public / "f").chmod(0o644)
    script = """
        import os, sys
        os.setgroups([]); os.setgid(4242); os.setuid(4242)
        def attempt(action):
            try:
                action()
                return 0
            except OSError as error:
                return error.errno
        print(
            attempt(lambda: open("secret/f")), attempt(lambda: os.listdir("secret")),
            attempt(lambda: open("public/f", "r+")), attempt(lambda: open("public/f").read()),
            attempt(lambda: os.unlink("public/f")), attempt(lambda: os.chmod("public/f", 0o777)),
            attempt(lambda: open("public/own", "w").write("own")), attempt(lambda: os.rename("public/own", "public/own2")),
            attempt(lambda: os.chown("public/own2", 0, 0)), attempt(lambda: open("new", "w")),
        )
    """
    said = finish([start_python(script, cwd=place)])[0].split()
    acces, perm = str(errno.EACCES), str(errno.EPERM)
    assert said == [acces, acces, acces, "0", perm, perm, "0", "0", perm, acces]
    status = (public / "own2").stat()
    assert (status.st_uid, status.st_gid) == (4242, 4242)
    (public / "own2").chmod(0o6755)
    run(
        "setpriv",
        "--reuid=4242",
        "--regid=4242",
        "--clear-groups",
        "sh",
        "-c",
        "echo x >> public/own2",
        cwd=place,
    )
    assert stat.S_IMODE((public / "own2").stat().st_mode) & 0o6000 == 0
    shared = place / "shared"
    shared.mkdir()
    os.chown(shared, 0, 777)
    shared.chmod(0o2775)
    (shared / "f").touch()
    (shared / "d").mkdir()
    assert (shared / "f").stat().st_gid == (shared / "d").stat().st_gid == 777
    assert (shared / "d").stat().st_mode & stat.S_ISGID


def test_extended_attributes(place: Path) -> None:
    """setfattr and getfattr: create, replace, list, remove, empty and 64 KiB values, on files, directories and links."""
    path = place / "f"
    path.touch()
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    with refused(errno.EEXIST):
        os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)
    with refused(errno.ENODATA):
        os.setxattr(path, "user.b", b"2", os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.a") == b""
    os.setxattr(path, "user.big", bytes(range(256)) * 256)
    assert os.getxattr(path, "user.big") == bytes(range(256)) * 256
    os.setxattr(path, "user." + "n" * 250, b"long name")
    assert sorted(os.listxattr(path)) == ["user.a", "user.big", "user." + "n" * 250]
    os.removexattr(path, "user.big")
    with refused(errno.ENODATA):
        os.getxattr(path, "user.big")
    with refused(errno.ENODATA):
        os.removexattr(path, "user.big")
    os.setxattr(place, "user.directory", b"d")
    os.symlink("f", place / "link")
    os.setxattr(place / "link", "trusted.link", b"l", follow_symlinks=False)
    assert os.listxattr(place / "link", follow_symlinks=False) == ["trusted.link"]
    for number in range(200):
        os.setxattr(path, f"user.many{number}", str(number).encode())
    said = run("getfattr", "-d", "--absolute-names", path)
    assert said.count("user.many") == 200
    run("setfattr", "-n", "user.text", "-v", "words", path)
    assert os.getxattr(path, "user.text") == b"words"
    entries = (
        (0x01, 7),
        (0x02, 6),
        (0x04, 5),
        (0x10, 7),
        (0x20, 0),
    )  # a named user among them, so no mode bits say it
    access_list = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, mode, 0) for tag, mode in entries
    )
    with refused(errno.EOPNOTSUPP):
        os.setxattr(path, "system.posix_acl_access", access_list)


def test_files_of_other_kinds(place: Path) -> None:
    """A FIFO that carries bytes, a Unix socket that is connected to, device nodes that are what they say."""
    os.mkfifo(place / "fifo")
    reader = start("cat", "fifo", cwd=place)
    with open(place / "fifo", "w") as fifo:
        fifo.write("through the pipe")
    assert finish([reader]) == ["through the pipe"]
    os.chdir(place)  # a socket's path is 108 bytes at most
    server = socket.socket(socket.AF_UNIX)
    client = socket.socket(socket.AF_UNIX)
    try:
        server.bind("socket")
        server.listen()
        client.connect("socket")
        accepted, _ = server.accept()
        client.send(b"hello")
        assert accepted.recv(10) == b"hello"
        accepted.close()
        assert stat.S_ISSOCK(os.lstat("socket").st_mode)
        with socket.socket(socket.AF_UNIX) as second, refused(errno.EADDRINUSE):
            second.bind("socket")
    finally:
        client.close()
        server.close()
        os.chdir("/")
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(place / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    assert os.stat(place / "null").st_rdev == os.makedev(1, 3)
    assert os.stat(place / "disk").st_rdev == os.makedev(259, 70_000)
    assert stat.S_ISBLK(os.stat(place / "disk").st_mode)
    assert sorted(os.listdir(place)) == ["disk", "fifo", "null", "socket"]


# --- Locks and waiting ----------------------------------------------------------------------------------------------


def test_locks_between_processes(place: Path) -> None:
    """flock and fcntl: exclusive and shared, byte ranges, one kind beside the other, released by death."""
    (place / "f").touch()
    with open(place / "f", "r+") as file, Actor(place) as other:
        other.do("f = open('f', 'r+')")
        for lock, free in ((fcntl.flock, fcntl.LOCK_UN), (fcntl.lockf, fcntl.LOCK_UN)):
            name = lock.__name__
            lock(file, fcntl.LOCK_EX)
            with refused(errno.EAGAIN):
                other.do(f"fcntl.{name}(f, fcntl.LOCK_EX | fcntl.LOCK_NB)")
            lock(file, free)
            other.do(f"fcntl.{name}(f, fcntl.LOCK_SH | fcntl.LOCK_NB)")
            lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with refused(errno.EAGAIN):
                other.do(f"fcntl.{name}(f, fcntl.LOCK_EX | fcntl.LOCK_NB)")
            lock(file, free)
            other.do(f"fcntl.{name}(f, fcntl.LOCK_UN)")
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        other.do("fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)")
        with refused(errno.EAGAIN):
            other.do("fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 9)")
        other.do("fcntl.flock(f, fcntl.LOCK_EX)")
    with open(place / "f", "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the other one is dead
        fcntl.lockf(file, fcntl.LOCK_EX)


def test_a_counter_under_flock(place: Path) -> None:
    """The shell's `flock file command`: four processes add one to a number 25 times each."""
    (place / "counter").write_text("0")
    script = (
        "for n in $(seq 25); do flock lock sh -c 'echo $(($(cat counter) + 1)) > counter'; done"
    )
    finish([start("sh", "-c", script, cwd=place) for _ in range(4)])
    assert (place / "counter").read_text() == "100\n"


def test_synchronous_writes(place: Path) -> None:
    """O_SYNC, O_DSYNC, fsync of files and directories, sync -f and syncfs return, and the bytes are there."""
    for number, flag in enumerate((os.O_SYNC, os.O_DSYNC)):
        descriptor = os.open(place / str(number), os.O_WRONLY | os.O_CREAT | flag)
        for _ in range(3):
            os.write(descriptor, b"x" * 5000)
        os.close(descriptor)
        assert (place / str(number)).stat().st_size == 15000
    directory = os.open(place, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    run("sync", "-f", place)
    run("sync", place / "0")
    run(
        "dd",
        "if=/dev/zero",
        f"of={place}/dd",
        "bs=4k",
        "count=5",
        "oflag=sync",
        "conv=fsync",
        "status=none",
    )


def test_a_slow_fsync_does_not_stop_the_others(place: Path) -> None:
    """While one process syncs megabytes again and again, others list, read and write without waiting for it."""
    script = """
        import os
        f = os.open("big", os.O_WRONLY | os.O_CREAT)
        print("on")
        while not os.path.exists("stop"):
            os.pwrite(f, b"x" * 4_000_000, 0)
            os.fsync(f)
    """
    syncing = start_python(script, cwd=place)
    assert syncing.stdout is not None
    assert syncing.stdout.readline() == "on\n"
    slowest = 0.0
    for number in range(100):
        begin = time.monotonic()
        (place / f"{number}").write_text("x")
        assert (place / f"{number}").read_text() == "x"
        slowest = max(slowest, time.monotonic() - begin)
    (place / "stop").touch()
    finish([syncing])
    assert slowest < 5.0


def test_threads_of_one_process_hammer_one_directory(place: Path) -> None:
    """Eight threads create, write, rename, read and unlink 60 files each at once; each finds its own bytes."""
    failures: list[BaseException] = []

    def work(who: int) -> None:
        try:
            for number in range(60):
                path = place / f"{who}.{number}"
                path.write_bytes(bytes([who]) * (number * 100))
                os.rename(path, place / f"{who}.{number}.done")
                assert (place / f"{who}.{number}.done").read_bytes() == bytes([who]) * (
                    number * 100
                )
                if number % 2:
                    os.unlink(place / f"{who}.{number}.done")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(os.listdir(place)) == 8 * 30


@pytest.mark.parametrize("door", ["pyfuse3"])
def test_what_pyfuse3_cannot_do_is_refused_and_programs_cope(make_mount) -> None:
    """O_TMPFILE and fallocate are refused with the errno programs fall back on; SEEK_HOLE finds one extent."""
    place = make_mount().path
    with refused(errno.EOPNOTSUPP):
        os.open(place, os.O_TMPFILE | os.O_RDWR)
    descriptor = os.open(place / "f", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, 100_000)  # the C library writes instead
    assert os.fstat(descriptor).st_size == 100_000
    assert os.lseek(descriptor, 0, os.SEEK_DATA) == 0
    assert os.lseek(descriptor, 0, os.SEEK_HOLE) == 100_000
    os.close(descriptor)
    run("fallocate", "-l", "1000", place / "g", expect=1)


def test_an_interrupted_program_leaves_the_mount_alive(place: Path) -> None:
    """kill -9 of programs in the middle of reads, writes, listings and locks: the mount answers as before."""
    (place / "f").write_bytes(b"x" * 2_000_000)
    scripts = (
        "while :; do cat f > /dev/null; done",
        "while :; do ls -lR . > /dev/null; done",
        "dd if=/dev/zero of=zero bs=1M status=none",
        "while :; do flock f true; echo x > new; mv new old; done",
    )
    for _ in range(2):
        running = [start("sh", "-c", script, cwd=place) for script in scripts]
        time.sleep(0.4)
        for process in running:
            end(process)
        (place / "zero").unlink(missing_ok=True)
        assert (place / "f").read_bytes() == b"x" * 2_000_000
    assert {"f", "old"} <= set(os.listdir(place))

"""A program that locks files: by lines from its input, one answer each; or `locker.py KIND TIMES FILE`, which adds one under a lock."""

import fcntl
import os
import signal
import sqlite3
import struct
import sys
from pathlib import Path

OFD_SETLK, OFD_SETLKW = 37, 38
FLOCK = "hhqqi4x"
MODES = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX, "free": fcntl.LOCK_UN}
TYPES = {"shared": fcntl.F_RDLCK, "exclusive": fcntl.F_WRLCK, "free": fcntl.F_UNLCK}


def lock(kind, file, mode, *, now=False, start=0, length=0):
    if kind == "ofd":
        asked = struct.pack(FLOCK, TYPES[mode], os.SEEK_SET, start, length, 0)
        fcntl.fcntl(file, OFD_SETLK if now else OFD_SETLKW, asked)
    else:
        how = MODES[mode] | (fcntl.LOCK_NB if now else 0)
        if kind == "flock":
            fcntl.flock(file, how)
        else:
            fcntl.lockf(file, how, length, start)


class Interrupted(Exception):
    pass


def interrupt(number, frame):
    raise Interrupted


def obey(file, word, *rest):
    if word == "open":
        return os.open(rest[0], os.O_RDWR | os.O_CREAT), "done"
    if word == "close":
        os.close(file)
    elif word == "touch":
        os.close(os.open(f"/proc/self/fd/{file}", os.O_RDONLY))
    elif word == "who":
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, int(rest[0]), int(rest[1]), 0)
        kind, _, start, length, process = struct.unpack(
            FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked)
        )
        return file, f"{kind} {start} {length} {process}"
    elif word == "read":
        return file, os.pread(file, 1000, 0).decode()
    elif word == "write":
        data = "".join(rest).encode()
        os.pwrite(file, data, 0)
        os.ftruncate(file, len(data))
    elif word == "alarm":
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            lock(rest[0], file, "exclusive")
        except Interrupted:
            return file, "interrupted"
    else:
        mode, *more = rest
        now = more[:1] == ["now"]
        start, length = map(int, more[now:] or (0, 0))
        lock(word, file, mode, now=now, start=start, length=length)
    return file, "done"


def serve():
    file = -1
    for line in sys.stdin:
        try:
            file, said = obey(file, *line.split())
        except OSError as error:
            said = f"errno {error.errno}"
        print(said, flush=True)


def add_filelock(path, times):
    from filelock import FileLock

    for _ in range(times):
        with FileLock(f"{path}.lock", poll_interval=0.01):
            number = int(Path(path).read_text())
            with open(path, "w") as file:
                file.write(str(number + 1))


def add_sqlite(path, times):
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    for _ in range(times):
        database.execute("begin immediate")
        database.execute("update numbers set number = number + 1, who = ?", (os.getpid(),))
        database.execute("commit")
    database.close()


def add(kind, path, times):
    if kind in ("filelock", "sqlite"):
        {"filelock": add_filelock, "sqlite": add_sqlite}[kind](path, times)
        return
    file = os.open(path, os.O_RDWR)
    for _ in range(times):
        lock(kind, file, "exclusive")
        number = int(os.pread(file, 100, 0))
        os.pwrite(file, str(number + 1).encode(), 0)
        lock(kind, file, "free")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        add(sys.argv[1], sys.argv[3], int(sys.argv[2]))
    else:
        serve()

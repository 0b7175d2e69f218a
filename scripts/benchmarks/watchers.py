"""Who else calls code after a change: watchers of files, a log of messages, a key-value store; each as its own program.

A peer is asked to `put` a name, and says by `seen` what arrived: (name, CLOCK_MONOTONIC in ns at the handler's first
line), in order. Its consumer is always a process of its own, so a figure holds a wake-up and a hand-over, and for incron
the start of a program, which is what it does. Settings are the fastest that each offers, not its defaults: watchman
settles for 1 ms instead of 20, watchfiles steps by 1 ms without its 1.6 s of debouncing.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ALL", "Etcd", "Incron", "Redis", "Watcher", "Watchfiles", "Watchman"]

START_SECONDS_MAX = 20.0

WATCHFILES = """
import sys, time, os, watchfiles
print("ready", flush=True)
for changes in watchfiles.watch(sys.argv[1], step=1, debounce=1, recursive=False):
    now = time.monotonic_ns()
    for kind, path in changes:
        print(os.path.basename(path), now, flush=True)
"""

WATCHMAN = """
import sys, time, pywatchman
client = pywatchman.client(sockpath=sys.argv[2], timeout=60)
root = client.query("watch", sys.argv[1])["watch"]
clock = client.query("clock", root)["clock"]
client.query("subscribe", root, "bench", {"fields": ["name"], "since": clock})
print("ready", flush=True)
while True:
    try:
        client.receive()
    except pywatchman.SocketTimeout:
        continue
    now = time.monotonic_ns()
    for update in client.getSubscription("bench") or ():
        for name in update.get("files", ()):
            print(name, now, flush=True)
"""

REDIS = """
import sys, time, redis
store = redis.Redis(unix_socket_path=sys.argv[1])
store.ping()
print("ready", flush=True)
last = "0"
while True:
    for _, entries in store.xread({"bench": last}, block=0):
        now = time.monotonic_ns()
        for last, fields in entries:
            print(fields[b"name"].decode(), now, flush=True)
"""

ETCD = """
import sys, time, json, base64, http.client
client = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
span = {"key": base64.b64encode(b"bench/").decode(), "range_end": base64.b64encode(b"bench0").decode()}
client.request("POST", "/v3/watch", json.dumps({"create_request": span}))
stream = client.getresponse()
json.loads(stream.readline())
print("ready", flush=True)
for line in stream:
    now = time.monotonic_ns()
    for event in json.loads(line)["result"].get("events", ()):
        print(base64.b64decode(event["kv"]["key"]).decode()[6:], now, flush=True)
"""

# The least a program can do; `date` would cost a second start.
INCRON = """#include <stdio.h>
#include <time.h>
#include <fcntl.h>
#include <unistd.h>
int main(int count, char **words) {
    struct timespec now;
    char line[512];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int size = snprintf(line, sizeof line, "%s %lld\\n", words[2], now.tv_sec * 1000000000LL + now.tv_nsec);
    return write(open(words[1], O_WRONLY), line, size) != size;
}
"""


class Watcher:
    """One peer. `start`, any number of `put` and `seen`, `stop`."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """Programs, and Python modules with a leading "."."""

    can_sync: ClassVar[bool] = True
    """Whether a put can be made to be on the disk when it returns."""

    def __init__(self, directory: Path) -> None:
        """Everything lies below `directory`."""
        self.directory = directory
        self.files = directory / "files"
        self.files.mkdir(parents=True)
        self._consumer: subprocess.Popen[bytes] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._left = b""

    @classmethod
    def missing(cls) -> list[str]:
        """What is not installed."""
        return [
            name.lstrip(".")
            for name in cls.needs
            if (find_spec(name[1:]) if name[0] == "." else shutil.which(name)) is None
        ]

    def start(self) -> None:
        """Be ready for the first put."""

    def put(self, name: str, data: bytes = b"x", *, sync: bool = False) -> None:
        """One change: a file written from its start, unless the peer has no files. With `sync` it is on the disk then."""
        with open(self.files / name, "wb", buffering=0) as file:
            file.write(data)
            if sync:
                os.fsync(file.fileno())

    def seen(self, count: int, wait_s: float) -> list[tuple[str, int]]:
        """The next `count` calls of the handler, fewer if nothing more comes for `wait_s`."""
        assert self._consumer is not None
        assert self._consumer.stdout is not None
        fd = self._consumer.stdout.fileno()
        os.set_blocking(fd, False)
        return self.read(lambda: os.read(fd, 65536), count, wait_s)

    def read(self, more: Callable[[], bytes], count: int, wait_s: float) -> list[tuple[str, int]]:
        """Lines of calls from wherever they come from."""
        found: list[tuple[str, int]] = []
        end = time.perf_counter() + wait_s
        while len(found) < count and time.perf_counter() < end:
            line, newline, rest = self._left.partition(b"\n")
            if newline:
                name, _, at_ns = line.decode().rpartition(" ")
                found.append((name, int(at_ns)))
                self._left = rest
                end = time.perf_counter() + wait_s
                continue
            with contextlib.suppress(BlockingIOError):
                if data := more():
                    self._left += data
                    continue
            time.sleep(0.0005)
        return found

    def stop(self) -> None:
        """End everything."""
        for process in reversed([*self._processes, *filter(None, [self._consumer])]):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _consume(self, program: str, *arguments: str) -> None:
        command = [sys.executable, "-c", program, *arguments]
        self._consumer = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._consumer.stdout is not None
        if self._consumer.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{self.name}: the consumer does not start")

    def _serve(self, *command: str, **options: object) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
        self._processes.append(subprocess.Popen(command, **quiet))  # type: ignore[call-overload]


class Watchfiles(Watcher):
    """inotify by the Rust library `notify`."""

    name = "watchfiles"
    needs = (".watchfiles",)

    def start(self) -> None:
        """See `Watcher`."""
        self._consume(WATCHFILES, str(self.files))
        time.sleep(0.3)  # it says nothing when its watch is set


class Watchman(Watcher):
    """inotify behind a server with subscriptions."""

    name = "watchman"
    needs = ("watchman", ".pywatchman")

    def start(self) -> None:
        """See `Watcher`."""
        (self.files / ".watchmanconfig").write_text(json.dumps({"settle": 1}))
        where = str(self.directory / "socket")
        state, log = str(self.directory / "state"), str(self.directory / "log")
        self._serve(
            "watchman", "--foreground", f"--sockname={where}", f"--statefile={state}", f"--logfile={log}"
        )  # fmt: skip
        _wait_for(Path(where))
        self._consume(WATCHMAN, str(self.files), where)


class Incron(Watcher):
    """inotify behind a daemon that starts a program for each event."""

    name = "incron"
    needs = ("incrond", "gcc")

    def start(self) -> None:
        """See `Watcher`."""
        (self.directory / "handler.c").write_text(INCRON)
        handler = self.directory / "handler"
        subprocess.run(["gcc", "-O2", "-o", handler, self.directory / "handler.c"], check=True)
        pipe, tables = self.directory / "pipe", self.directory / "tables"
        os.mkfifo(pipe)
        tables.mkdir()
        (tables / "bench").write_text(f"{self.files} IN_CLOSE_WRITE {handler} {pipe} $#\n")
        settings = self.directory / "incron.conf"
        users = self.directory / "users"
        users.mkdir()
        settings.write_text(
            f"system_table_dir = {tables}\nuser_table_dir = {users}\n"
            f"lockfile_dir = {self.directory}\nlockfile_name = bench\n"
        )
        self._consumer = subprocess.Popen(
            ["sh", "-c", f"exec 3<>{pipe}; exec cat {pipe}"], stdout=subprocess.PIPE
        )
        self._serve("incrond", "-n", "-f", str(settings))
        time.sleep(0.5)  # it says nothing when its tables are read


class Redis(Watcher):
    """A stream in memory: XADD, XREAD BLOCK."""

    name = "Redis stream"
    needs = ("redis-server", ".redis")
    can_sync = False

    def start(self) -> None:
        """See `Watcher`."""
        import redis

        where = self.directory / "socket"
        self._serve(
            "redis-server", "--port", "0", "--unixsocket", str(where), "--save", "", "--dir", str(self.directory)
        )  # fmt: skip
        _wait_for(where)
        self._store = redis.Redis(unix_socket_path=str(where))
        self._consume(REDIS, str(where))

    def put(self, name: str, data: bytes = b"x", *, sync: bool = False) -> None:
        """See `Watcher`."""
        assert not sync, "it is in memory only"
        self._store.xadd("bench", {"name": name, "data": data})


class Etcd(Watcher):
    """A replicated store, here one member, with a watch; by HTTP. Every put is on the disk."""

    name = "etcd watch"
    needs = ("etcd",)

    def start(self) -> None:
        """See `Watcher`."""
        client, peer = _free_port(), _free_port()
        ours, others = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self._serve(
            "etcd", "--data-dir", str(self.directory / "data"), "--listen-client-urls", ours,
            "--advertise-client-urls", ours, "--listen-peer-urls", others,
            "--initial-advertise-peer-urls", others, "--initial-cluster", f"default={others}",
            env=os.environ | {"ETCD_UNSUPPORTED_ARCH": "arm64"},
        )  # fmt: skip
        self._client = http.client.HTTPConnection("127.0.0.1", client)
        end = time.perf_counter() + START_SECONDS_MAX
        while True:
            try:
                self.put("first")
                break
            except (OSError, http.client.HTTPException):
                self._client.close()
                if time.perf_counter() > end:
                    raise
                time.sleep(0.1)
        self._consume(ETCD, str(client))

    def put(self, name: str, data: bytes = b"x", *, sync: bool = False) -> None:
        """See `Watcher`. Synced, asked or not."""
        key = base64.b64encode(f"bench/{name}".encode()).decode()
        body = json.dumps({"key": key, "value": base64.b64encode(data).decode()})
        self._client.request("POST", "/v3/kv/put", body)
        self._client.getresponse().read()


ALL: tuple[type[Watcher], ...] = (Watchfiles, Watchman, Incron, Redis, Etcd)


def _wait_for(path: Path) -> None:
    end = time.perf_counter() + START_SECONDS_MAX
    while not path.exists():
        if time.perf_counter() > end:
            raise RuntimeError(f"{path.name} does not appear")
        time.sleep(0.01)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

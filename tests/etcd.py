"""A real etcd for tests: one member or several, on free ports of the loopback, in a directory of its own.

Members can be killed, stopped cleanly, frozen (SIGSTOP: connections stay, nothing answers) and started again with their data. An
etcd that could not take its ports, because somebody was quicker, is started again on others.

    with Etcd(directory) as etcd:
        etcd.endpoints          # ["http://127.0.0.1:34567"]
        etcd.kill(); etcd.start()
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

START_ATTEMPTS = 5
START_S = 20
PROGRAM = "etcd"


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Member:
    """One process of etcd."""

    def __init__(
        self, name: str, directory: Path, scheme: str, host: str, options: list[str]
    ) -> None:
        self.name = name
        self.host = host
        self.directory = directory
        self.scheme = scheme
        self.options = options
        self.client_port, self.peer_port = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://{self.host}:{self.client_port}"

    @property
    def peer(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    def start(self, initial: str) -> None:
        assert self.process is None, f"etcd {self.name} runs already"
        command = [
            PROGRAM,
            f"--name={self.name}",
            f"--data-dir={self.directory / self.name}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={self.peer}",
            f"--initial-advertise-peer-urls={self.peer}",
            f"--initial-cluster={initial}",
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--logger=zap",
            *self.options,
        ]
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )

    def signal(self, number: int) -> None:
        assert self.process is not None, f"etcd {self.name} does not run"
        self.process.send_signal(number)

    def end(self, number: int) -> None:
        """Send a signal and wait for the end; one that does not run is fine."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=START_S)
            self.process = None

    def log(self) -> str:
        return (self.directory / f"{self.name}.log").read_text(errors="replace")


class Etcd:
    """An etcd of some members, running while the context lasts."""

    def __init__(
        self,
        directory: Path,
        *,
        members: int = 1,
        tls: tuple[Path, Path, Path] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        """`tls`: the files of an authority, a certificate and its key; then clients must show a certificate of it.

        `host`: an address of this machine that clients reach it at.
        """
        self.directory = directory
        self._host = host
        self._scheme, self._options = "http", []
        if tls is not None:
            authority, certificate, key = tls
            self._scheme = "https"
            self._options = [
                f"--cert-file={certificate}",
                f"--key-file={key}",
                f"--trusted-ca-file={authority}",
                "--client-cert-auth",
            ]
        self._names = [f"etcd{number}" for number in range(members)]
        self.members: list[Member] = []

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def __enter__(self) -> Etcd:
        for attempt in range(START_ATTEMPTS):
            directory = self.directory / f"attempt{attempt}"
            directory.mkdir(parents=True)
            self.members = [
                Member(name, directory, self._scheme, self._host, self._options)
                for name in self._names
            ]
            try:
                self.start()
            except OSError:
                self.kill()
                continue
            return self
        raise RuntimeError(f"etcd does not start:\n{self.members[0].log()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            if member.process is not None:
                member.signal(signal.SIGCONT)
        self.kill()

    def start(self, *which: int) -> None:
        """Start members (all that do not run, if none is named), with the data they have; waits until they answer."""
        initial = ",".join(f"{member.name}={member.peer}" for member in self.members)
        named = [self.members[at] for at in which] or [
            member for member in self.members if member.process is None
        ]
        for member in named:
            member.start(initial)
        for member in named:
            self._wait_answer(member)

    def _wait_answer(self, member: Member) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            assert member.process is not None
            if member.process.poll() is not None:
                raise OSError(f"etcd {member.name} ended:\n{member.log()[-2000:]}")
            try:
                with socket.create_connection((member.host, member.client_port), timeout=1):
                    pass
            except OSError:
                time.sleep(0.05)
                continue
            if self._scheme == "https" or self._healthy(member):
                return
            time.sleep(0.05)
        raise OSError(f"etcd {member.name} does not answer:\n{member.log()[-2000:]}")

    def _healthy(self, member: Member) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{member.endpoint}/health", timeout=1) as answer:
                return b'"true"' in answer.read()
        except (OSError, urllib.error.URLError):
            return False

    def _each(self, which: tuple[int, ...]) -> list[Member]:
        return [self.members[at] for at in which] or self.members

    def kill(self, *which: int) -> None:
        """End members (all, if none is named) as kill -9 does."""
        for member in self._each(which):
            member.end(signal.SIGKILL)

    def stop(self, *which: int) -> None:
        """End members as an operator does."""
        for member in self._each(which):
            member.end(signal.SIGTERM)

    def freeze(self, *which: int) -> None:
        """Members neither answer nor break their connections."""
        for member in self._each(which):
            member.signal(signal.SIGSTOP)

    def thaw(self, *which: int) -> None:
        """Frozen members go on."""
        for member in self._each(which):
            member.signal(signal.SIGCONT)

    def call(self, path: str, body: bytes) -> bytes:
        """One call of the JSON gateway, for what the product never asks (compaction); http only."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(f"{self.endpoints[0]}{path}", data=body, method="POST")
        with direct.open(request, timeout=START_S) as answer:
            return bytes(answer.read())

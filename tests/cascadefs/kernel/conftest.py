"""A kernel for a test: the other end of a socket pair that keeps message borders, as the device does."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading

import pytest
import trio

from cascadefs.filesystem import Filesystem, FilesystemOptions
from cascadefs.kernel.door import Door
from cascadefs.kernel.protocol import REPLY_HEADER, REQUEST_HEADER, Opcode
from storage.store import LocalStore

ANSWER_SECONDS = 10.0
PID = os.getpid()


class Clock:
    """Goes on by a microsecond each time it is looked at."""

    def __init__(self) -> None:
        self._now_ns = 1_795_255_200 * 10**9

    def now_ns(self) -> int:
        self._now_ns += 1000
        return self._now_ns


class Kernel:
    """Sends requests and reads what comes back, in any order."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(ANSWER_SECONDS)
        self.device = theirs.detach()
        self._unique = 0
        self._answers: dict[int, tuple[int, bytes]] = {}
        self.notifications: list[tuple[int, bytes]] = []

    def send(
        self, opcode: int, node: int, body: bytes = b"", *, uid: int = 0, pid: int = PID
    ) -> int:
        self._unique += 2
        length = REQUEST_HEADER.size + len(body)
        header = REQUEST_HEADER.pack(length, opcode, self._unique, node, uid, 0, pid, 0, 0)
        self.socket.send(header + body)
        return self._unique

    def receive(self, unique: int) -> tuple[int, bytes]:
        """(error, body) of the answer to a request."""
        while unique not in self._answers:
            self._take(self.socket.recv(2**21))
        return self._answers.pop(unique)

    def _take(self, message: bytes) -> None:
        length, error, unique = REPLY_HEADER.unpack_from(message)
        assert length == len(message)
        body = message[REPLY_HEADER.size :]
        if unique:
            assert unique not in self._answers, "answered twice"
            self._answers[unique] = (error, body)
        else:
            self.notifications.append((error, body))

    def ask(self, opcode: int, node: int, body: bytes = b"", **who: int) -> bytes:
        """The answer to a request that must succeed."""
        error, answer = self.receive(self.send(opcode, node, body, **who))
        assert error == 0, f"{Opcode(opcode).name}: {os.strerror(-error)}"
        return answer

    def refusal(self, opcode: int, node: int, body: bytes = b"", **who: int) -> int:
        """The errno of the answer to a request that must fail."""
        error, answer = self.receive(self.send(opcode, node, body, **who))
        assert error < 0
        assert answer == b""
        return -error

    def is_silent(self) -> bool:
        """Whether nothing comes back for a little while."""
        self.socket.settimeout(0.05)
        try:
            self._take(self.socket.recv(2**21))
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(ANSWER_SECONDS)
        return False

    def greet(self) -> bytes:
        body = struct.pack("=IIIII44x", 7, 45, 131072, 0xFFFFFFFF, 0xFFFFFFFF)
        return self.ask(Opcode.INIT, 0, body)

    def hang_up(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def served(door: Door, kernel: Kernel):
    """The door, serving in a thread of its own until the kernel hangs up."""
    door.attach(kernel.device)
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            trio.run(door.serve)
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        kernel.greet()
        yield
    finally:
        kernel.hang_up()
        thread.join(ANSWER_SECONDS)
        assert ended == [None]
        door.unmount(mounted=False)


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def store(tmp_path):
    opened = LocalStore.open(
        tmp_path / "data", Clock(), random.Random(1), boot_id="boot", segment_bytes=2**24
    )
    yield opened
    opened.close()


@pytest.fixture
def filesystem(store):
    return Filesystem(store, Clock(), FilesystemOptions())


@pytest.fixture
def door(filesystem, store, kernel):
    """A door on a fresh store, greeted."""
    door = Door(filesystem, lambda: None)
    with served(door, kernel):
        yield door

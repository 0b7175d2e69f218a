"""A worker's questions: any number on their way, answered in order, and nothing of them is left behind.

Method: a thread is the daemon, and answers when the test lets it.
"""

from __future__ import annotations

import os
import threading

import pytest

from triggers.worker.channel import Channel, pair
from triggers.worker.message import (
    Answer,
    Ask,
    Cancel,
    FromWorker,
    NotLoaded,
    Place,
    ToWorker,
    WireContent,
)
from triggers.worker.remote import Desk, RemoteCut
from triggers.worker.sealed import seal

LONG = 100_000


class Daemon(threading.Thread):
    """Answers each question with the path asked for, or in memory if that begins with `long`."""

    def __init__(self, end) -> None:
        super().__init__(daemon=True)
        self.channel = Channel(end, FromWorker)
        self.may_answer = threading.Semaphore(0)
        self.asked = threading.Semaphore(0)
        self.seen: list[str] = []

    def run(self) -> None:
        while True:
            message, _ = self.channel.receive()
            if not isinstance(message, Ask):
                return
            self.seen.append(message.path)
            self.asked.release()
            self.may_answer.acquire()
            if message.path == "forbidden":
                self.channel.send(Answer(error=("PermissionError", "not for you")))
                continue
            data = message.path.encode()
            fds = []
            if message.path.startswith("long"):
                fds = [seal([data * LONG])]
                data = Place(0, len(data) * LONG)
            self.channel.send(Answer(content=WireContent(message.path, 1, 1, 0, (1, 1), data)), fds)
            for fd in fds:
                os.close(fd)


@pytest.fixture
def daemon():
    ours, theirs = pair()
    daemon = Daemon(theirs)
    daemon.desk = Desk(Channel(ours, ToWorker))
    daemon.cut = RemoteCut(daemon.desk, "r", None)
    daemon.start()
    yield daemon
    for _ in range(1000):
        daemon.may_answer.release()
    Channel(ours, ToWorker).send(NotLoaded("", ""))  # no question: the end
    daemon.join(20)
    assert not daemon.is_alive()
    ours.close()
    theirs.close()


def test_the_next_are_read_while_one_computes(daemon):
    begun = [daemon.cut.begin_get(f"p/{number}") for number in range(3)]
    for _ in range(3):  # nobody waits here for an answer, and all are asked
        daemon.may_answer.release()
        assert daemon.asked.acquire(timeout=20)
    assert daemon.seen == ["p/0", "p/1", "p/2"]
    assert [bytes(one.take().parts[0]) for one in begun] == [b"p/0", b"p/1", b"p/2"]


def test_a_question_in_between_gets_its_own_answer(daemon):
    for _ in range(4):
        daemon.may_answer.release()
    first, second = (daemon.cut.begin_get(path) for path in ("a", "forbidden"))
    assert bytes(daemon.cut.get("b").parts[0]) == b"b"
    third = daemon.cut.begin_get("c")
    assert bytes(third.take().parts[0]) == b"c"
    with pytest.raises(PermissionError, match="not for you"):
        second.take()
    assert bytes(first.take().parts[0]) == b"a"


def test_more_than_two_sockets_hold_do_not_stop_each_other(daemon):
    for _ in range(1000):
        daemon.may_answer.release()
    begun = [daemon.cut.begin_get(f"long/{number}") for number in range(300)]
    for number, one in enumerate(begun):
        assert bytes(one.take().parts[0][:9]) == f"long/{number}long/"[:9].encode()


def test_what_nobody_wants_any_more_is_closed_when_it_comes(daemon):
    open_before = len(os.listdir("/proc/self/fd"))
    early, late = daemon.cut.begin_get("long/1"), daemon.cut.begin_get("long/2")
    early.abandon()
    daemon.may_answer.release()
    daemon.may_answer.release()
    daemon.may_answer.release()
    assert bytes(daemon.cut.get("x").parts[0]) == b"x"  # both answers came in front of it
    late.abandon()
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_the_next_message_is_no_answer_to_what_was_abandoned(daemon):
    daemon.cut.begin_get("long/1").abandon()
    daemon.may_answer.release()
    assert daemon.asked.acquire(timeout=20)
    daemon.channel.send(Cancel("r"))
    assert daemon.desk.next()[0] == Cancel("r")

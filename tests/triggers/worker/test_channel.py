"""Goal: messages of any size arrive whole, content as memory that nobody can change. Method: both ends in this process."""

from __future__ import annotations

import gc
import mmap
import os
import socket

import msgspec
import pytest

from triggers.run import Add, Append, Delete, Put, PutIf
from triggers.worker.channel import MESSAGE_BYTES_MAX, Channel, Closed, pair
from triggers.worker.message import (
    INLINE_BYTES_MAX,
    Answer,
    Ask,
    Finished,
    FromWorker,
    Place,
    ToWorker,
    WireEffect,
    decode_effects,
    encode_effects,
)
from triggers.worker.sealed import NotSealed, map_sealed, seal


@pytest.fixture
def ends():
    daemon, worker = pair()
    with daemon, worker:
        daemon.setblocking(False)
        yield Channel(daemon, FromWorker), Channel(worker, ToWorker)


@pytest.fixture
def fds():
    """Descriptors to close, and a check that no others stay open."""
    gc.collect()  # what earlier tests left is not closed in the middle of this one
    before = len(os.listdir("/proc/self/fd"))
    held: list[int] = []
    yield held
    for fd in held:
        os.close(fd)
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("count", [0, 10, 100_000])
def test_a_message_of_any_size_arrives_whole(fds, ends, count):
    daemon, worker = ends
    answer = Answer(paths=[f"frames/{number:06}" for number in range(count)])
    daemon.send(answer)
    assert worker.receive() == (answer, [])


@pytest.mark.parametrize("count", [1, 100_000])
def test_names_that_are_no_utf_8_arrive_as_they_are(fds, ends, count):
    daemon, worker = ends
    paths = ["in/a\udc80\udcffb", "ä"] * count
    fd = seal([b"x"])
    worker.send(
        Finished(
            "r", "", effects=[WireEffect("put", paths[0], b"\x80")], states={paths[0]: b"\xff"}
        )
    )
    message, _ = daemon.receive()
    assert message.effects == [WireEffect("put", paths[0], b"\x80")]
    assert message.states == {paths[0]: b"\xff"}
    daemon.send(Answer(paths=paths), [fd])
    os.close(fd)
    message, received = worker.receive()
    fds += received
    assert message == Answer(paths=paths)
    assert bytes(map_sealed(received[0])) == b"x"


def test_descriptors_come_along_and_are_the_receivers(fds, ends):
    daemon, worker = ends
    for count in (1, 100_000):
        fd = seal([b"abc", b"", b"def"])
        daemon.send(Answer(paths=["x"] * count), [fd])
        os.close(fd)
        message, received = worker.receive()
        fds += received
        assert len(message.paths) == count
        assert bytes(map_sealed(received[0])) == b"abcdef"


def test_nothing_there_and_nobody_there_are_told_apart(ends):
    daemon, worker = ends
    with pytest.raises(BlockingIOError):
        daemon.receive()
    worker.close()
    with pytest.raises(Closed):
        daemon.receive()
    with pytest.raises(Closed):
        daemon.send(Answer())


@pytest.mark.parametrize(
    "datagram",
    [b"D", b"D\xc1", b"Dgarbage", b"M", b"X", b"D" + msgspec.msgpack.encode({"type": "Load"})],
)
def test_what_is_no_message_is_refused_and_leaves_no_descriptor(fds, ends, datagram):
    daemon, worker = ends
    fd = seal([b"x"])
    socket.send_fds(worker.socket, [datagram], [fd] if datagram != b"M" else [])
    os.close(fd)
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        daemon.receive()


def test_nobody_can_change_sealed_memory(fds):
    fd = seal([bytes(10_000)])
    fds.append(fd)
    for change in (
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.ftruncate(fd, 0),
        lambda: os.ftruncate(fd, 20_000),
        lambda: mmap.mmap(fd, 10_000, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    ):
        with pytest.raises(PermissionError):
            change()
    view = map_sealed(fd)
    with pytest.raises(TypeError):
        view[0] = 1


def test_memory_that_could_change_is_not_mapped(fds, tmp_path):
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    fds += [loose, file]
    for fd in fds:
        with pytest.raises(NotSealed):
            map_sealed(fd)


def test_a_long_message_in_memory_that_could_change_is_refused(fds, ends):
    daemon, worker = ends
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    fds.append(loose)
    os.write(loose, msgspec.msgpack.encode(Ask("r", "get")))
    socket.send_fds(worker.socket, [b"M"], [loose])
    with pytest.raises(NotSealed):
        daemon.receive()


def test_a_message_that_would_fill_the_receivers_memory_is_refused(fds, ends):
    daemon, worker = ends
    fd = seal([bytes(MESSAGE_BYTES_MAX), b"x"])
    socket.send_fds(worker.socket, [b"M"], [fd])
    os.close(fd)
    with pytest.raises(ValueError, match="longer than any"):
        daemon.receive()


EFFECTS = [
    Put("a", b"short", 0o600),
    Put("b", bytes(INLINE_BYTES_MAX)),
    PutIf("c", memoryview(b"z" * 20_000), 7),
    Append("d", b"y" * 15_000),
    Add("e", 3, bytes(8), "float64"),
    Delete("f"),
]


def test_effects_beyond_what_a_message_holds_share_one_memory_and_come_back_equal(fds):
    wired, parts = encode_effects(EFFECTS)
    assert [len(part) for part in parts] == [INLINE_BYTES_MAX, 15_000]
    fds.append(seal(parts))
    message = msgspec.msgpack.decode(
        msgspec.msgpack.encode(Finished("r", "", effects=wired)), type=FromWorker
    )
    assert decode_effects(message.effects, map_sealed(fds[0])) == EFFECTS


@pytest.mark.parametrize(
    "wire",
    [
        WireEffect("put", "a", Place(0, 11)),
        WireEffect("put", "a", Place(-1, 3)),
        WireEffect("put", "a", Place(8, -2)),
        WireEffect("format", "a"),
    ],
)
def test_effects_that_no_worker_of_ours_would_send_are_refused(wire):
    with pytest.raises(ValueError, match="a: "):
        decode_effects([wire], memoryview(bytes(10)))

"""The door answers a kernel: requests in, replies out, and nothing takes it down.

Method: a real file system behind the door, and a socket pair in the place of the device (`conftest.Kernel`), so requests
are bytes and may come in any order, from anybody.
"""

from __future__ import annotations

import errno
import os
import random
import select
import stat
import struct
import subprocess
import sys
import threading

import pytest

from cascadefs.filesystem.served import OpenStream
from cascadefs.kernel.negotiation import MAX_WRITE_BYTES
from cascadefs.kernel.protocol import NO_ENTRY, OPCODES_MAX, Opcode, OpenFlag
from storage.errors import Corruption
from tests.cascadefs.kernel.conftest import PID
from triggers.chronicle import Chronicle

ROOT = 1
EMPTY = b""


def entry_node(entry: bytes) -> int:
    return struct.unpack_from("=Q", entry)[0]


def create(kernel, name: bytes, flags: int = os.O_RDWR) -> tuple[int, int]:
    """(node, handle)"""
    body = struct.pack("=IIII", flags | os.O_CREAT, 0o644, 0, 0) + name + b"\0"
    answer = kernel.ask(Opcode.CREATE, ROOT, body)
    assert len(answer) == 128 + 16
    return entry_node(answer), struct.unpack_from("=Q", answer, 128)[0]


def opened(kernel, node: int, flags: int = os.O_RDONLY) -> tuple[int, int]:
    """(handle, how)"""
    handle, how, _ = struct.unpack(
        "=QII", kernel.ask(Opcode.OPEN, node, struct.pack("=II", flags, 0))
    )
    return handle, how


def write_body(handle: int, offset: int, data: bytes, how: int = 0) -> bytes:
    return struct.pack("=QQIIQII", handle, offset, len(data), how, 0, 0, 0) + data


def write(kernel, handle: int, offset: int, data: bytes, **who: int) -> None:
    answer = kernel.ask(Opcode.WRITE, 0, write_body(handle, offset, data), **who)
    assert struct.unpack("=II", answer) == (len(data), 0)


def read(kernel, handle: int, offset: int = 0, length: int = 1 << 20) -> bytes:
    return kernel.ask(Opcode.READ, 0, struct.pack("=QQIIQII", handle, offset, length, 0, 0, 0, 0))


def flush(kernel, handle: int, **who: int) -> None:
    kernel.ask(Opcode.FLUSH, 0, struct.pack("=QIIQ", handle, 0, 0, 0), **who)


def release(kernel, handle: int) -> None:
    kernel.ask(Opcode.RELEASE, 0, struct.pack("=QIIQ", handle, 0, 0, 0))


def lookup(kernel, name: bytes, parent: int = ROOT) -> bytes:
    return kernel.ask(Opcode.LOOKUP, parent, name + b"\0")


# --- Files ----------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_becomes_a_version(door, kernel):
    node, handle = create(kernel, b"f")
    write(kernel, handle, 0, b"hello")
    assert read(kernel, handle) == b"hello"
    flush(kernel, handle)
    release(kernel, handle)
    assert entry_node(lookup(kernel, b"f")) == node
    past = entry_node(lookup(kernel, b"f@v1"))
    assert past != node
    handle, how = opened(kernel, past)
    assert how == OpenFlag.KEEP_CACHE | OpenFlag.NOFLUSH
    assert read(kernel, handle, 1, 3) == b"ell"
    release(kernel, handle)


def test_large_requests_and_replies(door, kernel):
    # A socket takes less at once than the device: its limit is the kernel's own buffer.
    size = 100_000
    data = random.Random(1).randbytes(size)
    _, handle = create(kernel, b"big")
    write(kernel, handle, 0, data)
    assert read(kernel, handle) == data
    assert size < MAX_WRITE_BYTES


def test_an_absent_name_may_be_remembered_but_not_where_history_could_be(door, kernel):
    absent = lookup(kernel, b"nothing")
    assert entry_node(absent) == 0
    assert struct.unpack_from("=Q", absent, 16)[0] > 10**6
    assert kernel.refusal(Opcode.LOOKUP, ROOT, b"nothing@v1\0") == errno.ENOENT


def test_names_are_moved_with_and_without_flags(door, kernel):
    for name in (b"a", b"b"):
        _, handle = create(kernel, name)
        release(kernel, handle)
    plain = struct.pack("=Q", ROOT) + b"a\0c\0"
    kernel.ask(Opcode.RENAME, ROOT, plain)
    no_replace = struct.pack("=QII", ROOT, 1, 0) + b"b\0c\0"
    assert kernel.refusal(Opcode.RENAME2, ROOT, no_replace) == errno.EEXIST
    exchange = struct.pack("=QII", ROOT, 2, 0) + b"b\0c\0"
    b, c = entry_node(lookup(kernel, b"b")), entry_node(lookup(kernel, b"c"))
    kernel.ask(Opcode.RENAME2, ROOT, exchange)
    assert (entry_node(lookup(kernel, b"b")), entry_node(lookup(kernel, b"c"))) == (c, b)


def test_links_and_directories(door, kernel):
    kernel.ask(Opcode.SYMLINK, ROOT, b"link\0some/where\0")
    link = entry_node(lookup(kernel, b"link"))
    assert kernel.ask(Opcode.READLINK, link) == b"some/where"
    kernel.ask(Opcode.MKDIR, ROOT, struct.pack("=II", 0o755, 0o22) + b"d\0")
    kernel.ask(Opcode.LINK, ROOT, struct.pack("=Q", link) + b"again\0")
    assert entry_node(lookup(kernel, b"again")) == link
    kernel.ask(Opcode.MKNOD, ROOT, struct.pack("=IIII", stat.S_IFIFO | 0o600, 0, 0, 0) + b"pipe\0")
    for name in (b"link", b"again", b"pipe"):
        kernel.ask(Opcode.UNLINK, ROOT, name + b"\0")
    kernel.ask(Opcode.RMDIR, ROOT, b"d\0")
    assert kernel.refusal(Opcode.RMDIR, ROOT, b"d\0") == errno.ENOENT


def test_extended_attributes_with_flags_and_sizes(door, kernel):
    node, _ = create(kernel, b"f")

    def set_body(value: bytes, flags: int) -> bytes:
        return struct.pack("=II", len(value), flags) + b"user.k\0" + value

    kernel.ask(Opcode.SETXATTR, node, set_body(b"v\0w", 1))
    assert kernel.refusal(Opcode.SETXATTR, node, set_body(b"x", 1)) == errno.EEXIST
    sized = struct.pack("=II", 0, 0) + b"user.k\0"
    assert struct.unpack("=II", kernel.ask(Opcode.GETXATTR, node, sized)) == (3, 0)
    small = struct.pack("=II", 2, 0) + b"user.k\0"
    assert kernel.refusal(Opcode.GETXATTR, node, small) == errno.ERANGE
    roomy = struct.pack("=II", 99, 0) + b"user.k\0"
    assert kernel.ask(Opcode.GETXATTR, node, roomy) == b"v\0w"
    assert kernel.ask(Opcode.LISTXATTR, node, struct.pack("=II", 99, 0)) == b"user.k\0"
    kernel.ask(Opcode.REMOVEXATTR, node, b"user.k\0")
    assert kernel.refusal(Opcode.GETXATTR, node, roomy) == errno.ENODATA


def test_attributes_change_by_field(door, kernel):
    node, handle = create(kernel, b"f")
    mode_and_size = struct.pack(
        "=IIQQQqqqIIIIIIII", 1 | 8 | 64, 0, handle, 9, *[0] * 7, 0o600, 0, 5, 6, 0
    )
    answer = kernel.ask(Opcode.SETATTR, node, mode_and_size)
    size, mode, uid = (
        struct.unpack_from("=Q", answer, 16 + 8)[0],
        struct.unpack_from("=I", answer, 16 + 60)[0],
        struct.unpack_from("=I", answer, 16 + 68)[0],
    )
    assert (size, mode, uid) == (9, stat.S_IFREG | 0o600, 0)
    assert kernel.ask(Opcode.GETATTR, node, struct.pack("=IIQ", 0, 0, 0))[16:] == answer[16:]
    assert len(kernel.ask(Opcode.STATX, node, struct.pack("=IIQII", 0, 0, 0, 0, 0xFFF))) == 288
    assert len(kernel.ask(Opcode.STATFS, ROOT)) == 80


# --- Directories ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [Opcode.READDIR, Opcode.READDIRPLUS])
@pytest.mark.parametrize("room_bytes", [400, 4096])
def test_a_listing_is_whole_in_pieces_of_any_size(door, kernel, filesystem, opcode, room_bytes):
    names = [b"n%d" % number for number in range(40)]
    for name in names:
        node, handle = create(kernel, name)
        release(kernel, handle)
        kernel.send(Opcode.FORGET, node, struct.pack("=Q", 1))
    handle, how, _ = struct.unpack(
        "=QII", kernel.ask(Opcode.OPENDIR, ROOT, struct.pack("=II", 0, 0))
    )
    assert how == OpenFlag.CACHE_DIR | OpenFlag.KEEP_CACHE
    found, references = [], []
    offset = 0
    while True:
        body = struct.pack("=QQIIQII", handle, offset, room_bytes, 0, 0, 0, 0)
        data = kernel.ask(opcode, ROOT, body)
        assert len(data) <= room_bytes
        if not data:
            break
        while data:
            if opcode is Opcode.READDIRPLUS:
                if node := entry_node(data):
                    references.append(node)
                data = data[len(NO_ENTRY) :]
            _, offset, length, _ = struct.unpack_from("=QQII", data)
            found.append(data[24 : 24 + length])
            data = data[24 + length + -length % 8 :]
    assert sorted(found) == sorted([b".", b"..", *names])
    assert len(references) == (40 if opcode is Opcode.READDIRPLUS else 0)
    before = filesystem.status()["nodes"]
    pairs = b"".join(struct.pack("=QQ", node, 1) for node in references)
    kernel.send(Opcode.BATCH_FORGET, 0, struct.pack("=II", len(references), 0) + pairs)
    kernel.ask(Opcode.RELEASEDIR, ROOT, struct.pack("=QIIQ", handle, 0, 0, 0))
    assert before - filesystem.status()["nodes"] == len(references)


# --- Versions and whose close it is -----------------------------------------------------------------------------------


def head(kernel, node: int) -> int:
    """The newest version; 0 before the first."""
    body = struct.pack("=II", 99, 0) + b"user.cascade.head\0"
    error, answer = kernel.receive(kernel.send(Opcode.GETXATTR, node, body))
    return int(answer) if error != -errno.ENODATA else 0


def test_a_close_in_a_child_that_wrote_nothing_ends_no_session(door, kernel):
    node, handle = create(kernel, b"f")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        write(kernel, handle, 0, b"half")
        flush(kernel, handle, pid=child.pid)
        assert head(kernel, node) == 0
        write(kernel, handle, 4, b" done")
        flush(kernel, handle)
        assert head(kernel, node) == 1
        child.communicate(b"\n")


def test_a_close_in_another_thread_of_the_writer_commits(door, kernel):
    node, handle = create(kernel, b"f")
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    write(kernel, handle, 0, b"x", pid=thread.native_id)
    flush(kernel, handle, pid=PID)
    go.set()
    thread.join()
    assert head(kernel, node) == 1


def test_a_writer_that_is_gone_is_given_the_benefit_of_the_doubt(door, kernel):
    node, handle = create(kernel, b"f")
    write(kernel, handle, 0, b"x", pid=2**22 - 1)
    flush(kernel, handle)
    assert head(kernel, node) == 1


# --- What waits -------------------------------------------------------------------------------------------------------


def test_fsync_is_answered_later_and_others_are_served_meanwhile(door, kernel, store, monkeypatch):
    _, handle = create(kernel, b"f")
    write(kernel, handle, 0, b"x")
    slow = threading.Event()
    log = store._shard.log
    sync = log.sync
    monkeypatch.setattr(log, "sync", lambda: (slow.wait(10), sync())[1])
    waiting = kernel.send(Opcode.FSYNC, 0, struct.pack("=QII", handle, 0, 0))
    kernel.send(Opcode.INTERRUPT, 0, struct.pack("=Q", waiting))
    assert read(kernel, handle) == b"x"
    assert kernel.is_silent()
    slow.set()
    assert kernel.receive(waiting) == (0, EMPTY)
    assert not store.unsynced()


def test_a_synchronous_write_is_on_the_disk_when_it_returns(door, kernel, store):
    _, handle = create(kernel, b"f", os.O_WRONLY | os.O_DSYNC)
    write(kernel, handle, 0, b"x")
    assert not store.unsynced()


# --- Trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "answer"),
    [
        (KeyError("a bug"), errno.EIO),
        (Corruption("shard 0"), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.ENOENT, "a segment is gone"), errno.EIO),
    ],
)
def test_trouble_is_one_errno_and_one_line(
    door, kernel, filesystem, monkeypatch, caplog, trouble, answer
):
    def fail(*_: object) -> None:
        raise trouble

    monkeypatch.setattr(filesystem, "getattr", fail)
    body = struct.pack("=IIQ", 0, 0, 0)
    assert kernel.refusal(Opcode.GETATTR, ROOT, body) == answer
    assert kernel.refusal(Opcode.GETATTR, ROOT, body) == answer
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("getattr: ")
    assert door.status()["errors"] == {errno.errorcode[answer]: 2}
    assert len(kernel.ask(Opcode.STATFS, ROOT)) == 80


def test_a_request_cut_short_is_a_bug_not_an_end(door, kernel, caplog):
    assert kernel.refusal(Opcode.READ, 0, b"xx") == errno.EIO
    assert (
        kernel.refusal(Opcode.READ, 0, struct.pack("=QQIIQII", 999, 0, 1, 0, 0, 0, 0)) == errno.EIO
    )
    kernel.send(Opcode.FORGET, 12345, struct.pack("=Q", 1))
    kernel.send(Opcode.FORGET, ROOT, b"")
    assert len(kernel.ask(Opcode.STATFS, ROOT)) == 80


def test_what_is_not_known_is_said_so_once_and_for_all(door, kernel):
    for opcode in (Opcode.SETLK, OPCODES_MAX - 1, OPCODES_MAX + 7):
        assert kernel.refusal(opcode, ROOT, bytes(64)) == errno.ENOSYS
    assert kernel.refusal(Opcode.IOCTL, ROOT, bytes(64)) == errno.ENOTTY


def test_whoever_polls_is_answered_and_told_to_look_again(door, kernel, filesystem):
    """A made-up stream, because the ones there are need triggers: what is opened is put in the place of a file."""
    _, handle = create(kernel, b"f")
    always = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
    ask = struct.Struct("=QQII")
    answer = kernel.ask(Opcode.POLL, 0, ask.pack(handle, 7, 1, select.POLLIN))
    assert struct.unpack("=II", answer) == (always, 0)
    chronicle = Chronicle(100)
    filesystem.files.opened[handle] = OpenStream(chronicle)
    for schedule in (0, 1):
        answer = kernel.ask(Opcode.POLL, 0, ask.pack(handle, 8, schedule, select.POLLIN))
        assert struct.unpack("=II", answer) == (0, 0)
    assert kernel.notifications == []
    chronicle.append(b"x\n")
    chronicle.append(b"y\n")
    answer = kernel.ask(Opcode.POLL, 0, ask.pack(handle, 9, 0, select.POLLIN))
    assert struct.unpack("=II", answer) == (always, 0)
    while not kernel.notifications:  # a thread's work
        kernel.is_silent()
    assert kernel.notifications == [(1, struct.pack("=Q", 8))]
    assert read(kernel, handle) == b"x\ny\n"
    release(kernel, handle)
    chronicle.append(b"z\n")


def test_requests_are_counted_by_name(door, kernel):
    for _ in range(3):
        lookup(kernel, b"nothing")
    status = door.status()
    assert status["door"] == "kernel"
    assert status["protocol"] == "7.45"
    assert status["requests"] == {"init": 1, "lookup": 3}


def test_what_history_changed_by_itself_the_kernel_is_told(door, kernel):
    node, handle = create(kernel, b"f")
    for text in (b"one", b"two"):
        write(kernel, handle, 0, text)
        flush(kernel, handle)
    value = b"v1"
    body = struct.pack("=II", len(value), 0) + b"user.cascade.restore\0" + value
    kernel.ask(Opcode.SETXATTR, node, body)
    assert read(kernel, handle) == b"one"
    while not kernel.notifications:
        kernel.is_silent()
    code, said = kernel.notifications[0]
    assert (code, struct.unpack_from("=Q", said)[0]) == (2, node)


def test_many_at_once_get_their_own_answers(door, kernel):
    handles = [create(kernel, b"f%d" % number)[1] for number in range(8)]
    for number, handle in enumerate(handles):
        write(kernel, handle, 0, b"%d" % number * 100)
    waiting = [
        (kernel.send(Opcode.READ, 0, struct.pack("=QQIIQII", handle, 0, 100, 0, 0, 0, 0)), number)
        for _ in range(20)
        for number, handle in enumerate(handles)
    ]
    for unique, number in reversed(waiting):
        assert kernel.receive(unique) == (0, b"%d" % number * 100)


def test_changes_are_published_by_another_thread_than_the_readers(door, kernel, store):
    for number in range(100):
        body = struct.pack("=II", 0o755, 0) + b"d%d\0" % number
        assert kernel.receive(kernel.send(Opcode.MKDIR, ROOT, body))[0] == 0
    with door.exclusive():
        assert store._shard._unpublished >= 100
        store.publish()
        assert store._shard._unpublished == 0
    assert (
        kernel.receive(kernel.send(Opcode.MKDIR, ROOT, struct.pack("=II", 0o755, 0) + b"e\0"))[0]
        == 0
    )

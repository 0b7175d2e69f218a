"""Calls of programs over a connection: the same answers, through breaks and restarts, as one user and no other."""

import errno
import multiprocessing
import os
import random
import threading
from types import SimpleNamespace

import msgspec
import pytest
import trio

from cascadefs.client import Batch, Client, Conflict, calls
from cascadefs.client.operations import Operations, apart
from cascadefs.client.remote import SILENT_SECONDS, Remote, _Question
from cascadefs.client.service import user_of
from cascadefs.client.uploads import Uploads
from storage import record, wire
from storage.namespace import ROOT
from storage.transport import EVERYBODY, Broken, Identity, IdMap, IdRange, Role
from storage.transport.tcp import TcpTransport
from tests.cascadefs.conftest import Server, user


def test_every_call_goes_over_a_connection(connect, server):
    client = connect()
    token = client.look("**", "")[1]
    first = client.put("d/a", "one")
    client.append("d/a", "two")
    with client.batch() as batch:
        batch.put("d/b", b"x" * 700_000)
        batch.delete("d/a")
    assert client.get("d/a", version=1) == b"one"
    assert client.get("d/a", version=2) == b"onetwo"
    assert client.get("d/b") == b"x" * 700_000
    assert [entry.name for entry in client.list("d")] == ["b"]
    assert client.glob("**", at=first.timestamp) == ["d/a"]
    assert [version.number for version in client.versions("d/a")] == [1, 2]
    assert [c.path for c in client.look("**", token)[0]] == ["d/a", "d/a", "d/b", "d/a"]
    with pytest.raises(Conflict):
        client.put("d/b", "x", expect=9)
    with pytest.raises(FileNotFoundError):
        client.get("nothing")
    assert client.put("durable", "x", durable=True).number == 1
    assert len(server.applied) >= 6


def test_a_write_whose_answer_was_lost_is_answered_and_not_repeated(connect, server):
    client = connect()
    client.append("log", "a")
    server.mute = 3
    version = client.append("log", "b")
    assert server.executed == 1 + 4
    assert (version.number, version.size) == (2, 2)
    assert client.get("log") == b"ab"


LARGE = random.Random(7).randbytes(20_000_000)
PIECES = 3
"""That it is sent in, ahead of the write."""


def test_what_no_message_holds_is_sent_ahead(connect, server):
    client = connect()
    assert client.put("d/large", LARGE).size == len(LARGE)
    assert server.executed == PIECES + 1
    assert client.append("d/large", LARGE).number == 2
    versions = client.put_many({"d/a": b"small", "d/b": LARGE, "d/c": b"small"})
    assert [(version.number, version.size) for version in versions] == [
        (1, 5), (1, len(LARGE)), (1, 5),
    ]  # fmt: skip
    with client.batch() as batch:
        batch.put("d/a", "x")
        batch.put("d/b", LARGE[1:])
        batch.put("d/c", LARGE[2:])
    assert (
        b"".join(
            client.get("d/large", offset=at, length=2**24) for at in range(0, 40_000_000, 2**24)
        )
        == 2 * LARGE
    )
    assert client.get("d/a") == b"x"
    assert client.get("d/b", offset=0, length=100) == LARGE[1:101]
    assert client.get("d/c", offset=19_999_000) == LARGE[19_999_002:]
    with pytest.raises(Conflict):
        client.put("d/a", LARGE, expect=1)


@pytest.mark.parametrize("lost", range(1, PIECES + 2))
def test_a_large_write_goes_on_through_a_break_and_is_done_once(connect, server, lost):
    client = connect()
    server.swallow = lost
    assert client.put("f", LARGE).number == 1
    assert server.executed == PIECES + 2
    assert client.get("f", offset=19_000_000) == LARGE[19_000_000:]
    assert client.put("f", "x").number == 2


def test_what_was_sent_ahead_to_a_node_that_is_gone_is_sent_again(connect, server, monkeypatch):
    client = connect()
    received = Uploads.receive
    lose = [
        2,
        4,
        7,
    ]  # Of all pieces: the second begins again, and so on; the third time all of them arrive.

    def receive(self, *arguments):
        lose[:] = [number - 1 for number in lose]
        if 0 in lose:
            self.close()
        return received(self, *arguments)

    monkeypatch.setattr(Uploads, "receive", receive)
    assert client.put("f", LARGE).number == 1
    assert client.get("f", offset=19_000_000) == LARGE[19_000_000:]
    monkeypatch.setattr(Uploads, "take", lambda *arguments: None)
    with pytest.raises(OSError, match="sent ahead") as caught:
        client.put("f", LARGE)
    assert caught.value.errno == errno.ENOBUFS


def test_a_batch_of_many_files_is_one_message_and_of_too_many_is_refused(connect):
    client = connect()
    with client.batch() as batch:
        for number in range(1500):
            batch.put(f"d/{number}", b"")
    assert len(client.list("d")) == 1500
    for many, data in ((70_000, b""), (300, bytes(60_000))):
        batch = Batch()
        for number in range(many):
            batch.put(f"e/{number}", data)
        with pytest.raises(OSError, match="make several batches") as refused:
            client.commit(batch)
        assert refused.value.errno == errno.E2BIG
    with pytest.raises(FileNotFoundError):
        client.stat("e")


def test_uploads_are_each_users_own_and_bounded(monkeypatch, tmp_path):
    uploads = Uploads(tmp_path)
    assert uploads.receive(1, 5, 0, [b"ab", b"c"]) == 3
    assert uploads.receive(1, 5, 0, [b"abc"]) == 3  # Again.
    with pytest.raises(OSError, match="not here"):
        uploads.receive(1, 5, 4, [b"e"])
    with pytest.raises(OSError, match="not here"):
        uploads.receive(2, 5, 3, [b"d"])
    assert uploads.take(2, 5, 3) is None
    assert uploads.take(1, 5, 2) is None
    view = uploads.take(1, 5, 3)
    monkeypatch.setattr("cascadefs.client.uploads.UPLOADS_MAX", 2)
    uploads.receive(1, 6, 0, [b"x"])
    uploads.receive(1, 7, 0, [b"x"])
    assert uploads.take(1, 5, 3) is None
    assert view == b"abc"
    uploads.drop(1, 6)
    uploads.close()


def test_who_writes_what_was_sent_ahead_has_time_for_it(connect, monkeypatch):
    client = connect()
    asked, remote = [], client._executor
    send = Remote._send

    def note(self, request, question):
        asked.append(question.patience_s)
        send(self, request, question)

    monkeypatch.setattr(Remote, "_send", note)
    client.put("f", LARGE)
    assert asked.pop() == SILENT_SECONDS + len(LARGE) / 50_000_000
    assert set(asked) == {SILENT_SECONDS}
    client.close()
    late = _Question([b""], False, SILENT_SECONDS)
    remote._send(99, late)  # Asked while it closed.
    assert late.answer.get(timeout=20).errno == errno.ENOTCONN


def test_of_whom_there_are_most_uploads_one_goes(monkeypatch, tmp_path):
    monkeypatch.setattr("cascadefs.client.uploads.UPLOADS_MAX", 3)
    uploads = Uploads(tmp_path)
    uploads.receive(1, 1, 0, [b"x"])
    for number in range(5):
        uploads.receive(2, number, 0, [b"x"])
    assert uploads.take(1, 1, 1) == b"x"
    assert [number for number in range(5) if uploads.take(2, number, 1)] == [3, 4]
    uploads.close()


def test_what_is_being_written_does_not_change_any_more(tmp_path):
    uploads = Uploads(tmp_path)
    uploads.receive(1, 1, 0, [b"abc"])
    view = uploads.take(1, 1, 3)
    for offset in (0, 3):
        with pytest.raises(OSError, match="not here"):
            uploads.receive(1, 1, offset, [b"xyz"])
    assert view == b"abc" == uploads.take(1, 1, 3)
    uploads.receive(1, 2, 0, [])
    assert uploads.take(1, 2, 0) == b""
    uploads.close()


def test_uploads_of_clients_that_are_gone_go(monkeypatch, tmp_path):
    uploads = Uploads(tmp_path)
    uploads.receive(1, 1, 0, [b"abc"])
    uploads.receive(1, 2, 0, [b"abc"])
    uploads.sweep()
    uploads.receive(1, 2, 3, [b"d"])
    uploads.sweep()
    assert uploads.take(1, 1, 3) is None
    assert uploads.take(1, 2, 4) == b"abcd"
    uploads.sweep()
    assert uploads.take(1, 2, 4) is None
    monkeypatch.setattr(
        "cascadefs.client.uploads.tempfile.TemporaryFile",
        lambda dir: open("/dev/full", "r+b"),  # noqa: SIM115
    )
    with pytest.raises(OSError, match="No space"):
        uploads.receive(1, 3, 0, [b"abc"])
    assert uploads.take(1, 3, 0) is None, "nothing of it is kept"


def test_what_is_sent_ahead_leaves_room_for_its_write(monkeypatch, tmp_path):
    uploads = Uploads(tmp_path)
    room = SimpleNamespace(f_bavail=5, f_frsize=10)
    asked = []
    monkeypatch.setattr(
        "cascadefs.client.uploads.os.statvfs", lambda path: asked.append(path) or room
    )
    assert uploads.receive(1, 1, 0, [b"x" * 20]) == 20
    room.f_bavail = 2
    with pytest.raises(OSError, match=r"30 bytes are on their way, .* has 10 more") as refused:
        uploads.receive(2, 1, 0, [b"x" * 10])
    assert refused.value.errno == errno.ENOSPC
    assert set(asked) == {tmp_path}
    assert uploads.take(1, 1, 20) == b"x" * 20
    assert uploads.take(2, 1, 0) is None
    assert list(tmp_path.iterdir()) == [], "they have no names"
    uploads.close()


def test_a_condition_that_was_met_is_no_conflict_when_asked_again(connect, server):
    client = connect()
    client.put("d/a", "1", expect=0)
    for change, answer in (
        (lambda: client.put("d/a", "2", expect=1).number, 2),
        (lambda: client.put("d/b", "1", expect=0).number, 1),
        (lambda: client.delete("d/a"), True),
        (lambda: client.delete("d/a"), False),
    ):
        server.mute = 1
        before = server.executed
        assert change() == answer
        assert server.executed == before + 2
    with pytest.raises(Conflict):
        client.put("d/b", "2", expect=0)


def test_many_writes_whose_answer_was_lost_are_not_repeated(connect, server):
    client = connect()
    server.mute = 2
    versions = client.put_many({f"m/{number}": str(number) for number in range(10)})
    assert [version.number for version in versions] == [1] * 10
    assert [len(client.versions(f"m/{number}")) for number in range(10)] == [1] * 10
    versions = client.put_many({f"m/{number}": "next" for number in range(10)})
    assert [version.number for version in versions] == [2] * 10


def test_additions_of_many_whose_answers_were_lost_come_to_their_sum(connect, server):
    clients = [connect(uid=uid) for uid in range(4)]
    clients[0].put("w", bytes(4096), mode=0o666)

    def work(worker):
        draw = random.Random(worker)
        for step in range(1, 21):
            places = [draw.randrange(1024) for _ in range(10)]
            if step % 5 == 0:
                server.mute = 1
            key = (f"worker {worker}", step) if worker % 2 else None
            clients[worker].add("w", places, [1.0] * 10, key=key)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clients[0].pull("w", range(1024)).sum() == 4 * 20 * 10
    assert len(clients[0].versions("w")) == 1 + 4 * 20


def test_a_service_that_starts_again_is_a_pause(connect, server):
    client = connect()
    client.put("a", "1")
    server.stop()
    again = threading.Timer(0.3, server.start)
    again.start()
    assert client.get("a") == b"1"
    again.join()
    assert client.put("a", "2").number == 2


def test_nobody_there_is_said_after_a_while(connect, server):
    client = connect(patience_s=0.2)
    server.stop()
    with pytest.raises(TimeoutError, match="nobody answers"):
        client.get("a")
    server.start()
    assert client.list() == ()


def test_closed_while_asking(connect, server):
    client = connect()
    client.list()
    server.stop()
    caught = []

    def ask():
        with pytest.raises(OSError) as info:  # noqa: PT011  its errno is looked at below
            client.get("a")
        caught.append(info.value)

    asking = threading.Thread(target=ask)
    asking.start()
    client.close()
    asking.join(20)
    assert caught[0].errno == errno.ENOTCONN
    server.start()


def test_several_threads_write_at_once(connect, server):
    client = connect()

    def work(name):
        for _ in range(20):
            client.append("log", name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(client.get("log").decode()) == sorted("abc" * 20)
    assert server.store.head(1, b"log") == 60


def _work(client, name, queue):
    queue.put([client.append("log", name).number for _ in range(10)])


def test_children_of_a_fork_have_connections_of_their_own(connect, server):
    """Used before and while they run; each write of each process is made once, and none is answered to another."""
    client = connect(draw=random.SystemRandom())
    client.put("log", "")
    parents = {wire_number(client)}
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_work, args=(client, name, queue)) for name in "abc"]
    for child in children:
        child.start()
    own = [client.append("log", "p").number for _ in range(10)]
    found = [number for _ in children for number in queue.get(timeout=60)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert sorted(own + found) == list(range(2, 42))
    assert sorted(client.get("log").decode()) == sorted("abcp" * 10)
    assert {wire_number(client)} == parents


def wire_number(client):
    """What the service knows a client's writes by."""
    return client._executor._client


def test_many_files_with_one_question(connect, server, monkeypatch):
    client = connect()
    client.put_many({f"m/{number}": str(number) for number in range(100)})
    then = client.now()
    client.put_many({f"m/{number}": "new" for number in range(100)})
    paths = [f"m/{number}" for number in range(100)]
    before = server.executed
    assert client.get_many(paths, at=then) == [str(number).encode() for number in range(100)]
    assert client.get_many(paths) == [b"new"] * 100
    assert server.executed == before + 4
    # What one answer does not hold is asked for again.
    monkeypatch.setattr("cascadefs.client.reading.BYTES_MAX", 1000)
    monkeypatch.setattr("cascadefs.client.operations.BYTES_MAX", 1000)
    data = random.Random(1).randbytes(4500)
    client.put("big", data)
    monkeypatch.setattr("cascadefs.client.client.BLOCK_BYTES", 1000)
    assert client.get_many(["m/1", "big", "m/2"]) == [b"new", data, b"new"]
    with pytest.raises(FileNotFoundError, match="nothing"):
        client.get_many(["m/1", "nothing"])
    assert client.get_many([]) == []


def test_a_file_of_many_that_is_on_another_node_is_asked_for_alone(connect, server):
    client = connect()
    client.put_many({"a": "1", "b": "2"})
    execute = client._executor.execute

    def elsewhere(call, buffers):
        answer, data = execute(call, buffers)
        if isinstance(call, calls.GetEach):
            failed = calls.Failed(errno.EREMOTE, "not here")
            answer, data = calls.GotEach([(failed, 0), answer.results[1]]), data[1:]
        return answer, data

    client._executor.execute = elsewhere
    assert client.get_many(["a", "b"]) == [b"1", b"2"]


def test_the_user_is_whom_the_identity_says(connect, server):
    root = connect()
    root.put("secret", "x", mode=0o600)
    if os.getuid() == 0:  # root is believed whom it speaks for
        alice = connect(1000)
        with pytest.raises(PermissionError):
            alice.get("secret")
        with pytest.raises(PermissionError):
            alice.put("mine", "x")
    some = Identity("test", Role.CLIENT, "x", IdMap((IdRange(5, 1005, 1),)), IdMap(
        (IdRange(6, 1006, 1), IdRange(100, 100, 50), IdRange(7, 7, 1))))  # fmt: skip
    assert user_of(some) == (1005, 1006, (1006, 7))
    assert user_of(Identity("test", Role.CLIENT, "x", IdMap(), IdMap())).uid == 65534
    assert user_of(Identity("test", Role.NODE, "x", EVERYBODY, EVERYBODY)).uid == 0


async def until_broken(connection):
    while True:
        await connection.receive()


async def test_what_is_no_call_ends_the_connection_and_nothing_else(server, connect):
    transport = TcpTransport(user(0), None, insecure_loopback=True)
    for data in (b"", b"garbage", b"".join(wire.encode(wire.Subscribe(0, 0, 0, 0)))):
        async with trio.open_nursery() as nursery:
            connection = await transport.connect(nursery, server.address, role=Role.NODE)
            await connection.send([data])
            with trio.fail_after(20), pytest.raises(Broken):
                await until_broken(connection)
            nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        connection = await transport.connect(nursery, server.address, role=Role.NODE)
        for arguments in (b"\x93\x01\x02\x03", b"\x92\x01\xa1\x85", b"\x91" * 2000 + b"\x01"):
            await connection.send(wire.encode(wire.Call(1, "call", arguments)))
            (data, *_) = await connection.receive()
            answer, _ = wire.decode(data)
            assert (answer.request, answer.errno) == (1, errno.EPROTO)
        nursery.cancel_scope.cancel()
    assert await trio.to_thread.run_sync(connect().list) == ()


def test_of_many_writes_asked_again_those_that_were_refused_are_done(store, clock):
    """Of a `WriteEach` the second was done and the first not when the answer was lost."""
    operations = Operations(store, clock, user_of(user(0)))
    call = calls.WriteEach([calls.Put("a"), calls.Put("b")], client=7, number=1)
    (_, _), (second, data) = apart(call, [b"1", b"2"])
    operations.execute(second, data)
    answer, _ = operations.execute(call, [b"1", b"2"])
    assert [one.versions[0][:2] for one in answer.results] == [("a", 1), ("b", 1)]
    for path, held in (("a", b"1"), ("b", b"2")):
        assert b"".join(operations.execute(calls.Get(path), ())[1]) == held


def test_parts_without_their_bytes_are_refused(connect, server):
    client = connect()
    with pytest.raises(OSError, match="without its bytes"):
        client._execute(calls.WriteEach([calls.Put("a"), calls.Put("b")]), [b"1"])
    assert not list(client.list(""))


@pytest.mark.parametrize("field", [{"client": -1}, {"number": -1}])
def test_numbers_that_fit_no_row_are_no_call(field):
    for kind in (calls.Write, calls.WriteEach):
        with pytest.raises(msgspec.DecodeError):
            calls.decode_call(calls.encode(kind([calls.Put("a")], **field)))
    with pytest.raises(msgspec.DecodeError):
        calls.decode_call(calls.encode(calls.Write([calls.Put("a", 2**40)])))


@pytest.fixture
def two(server, store, clock, tmp_path):
    """Two services of one store, and a client that knows of both."""
    other = Server(tmp_path / "other", store, clock)
    other.lock = server.lock
    other.start()
    transport = TcpTransport(user(0), None, insecure_loopback=True)
    remote = Remote(transport, [server.address, other.address], random.Random(0))
    client = Client(remote, clock)
    yield server, other, client
    client.close()
    other.stop()


def test_a_program_dials_the_node_that_leads(two):
    server, other, client = two
    server.leader = other.leader = [other.address]
    client.put("a", "1")
    assert (server.executed, other.executed) == (0, 1)
    # It ends, and nobody knows yet that another leads: its place is not asked for again.
    other.mute = 1
    client.put("a", "2")
    assert (server.executed, other.executed) == (1, 2)
    assert [one.number for one in client.versions("a")] == [1, 2]


@pytest.mark.parametrize("leader", ["unix:/nowhere", "unknown", "own"])
def test_a_leader_that_cannot_be_reached_is_nobodys_delay(two, leader):
    server, other, client = two
    if leader == "unknown":
        other.stop()
    server.leader = [{"unknown": other.address, "own": server.address}.get(leader, leader)]
    client.put("a", "1")
    assert server.executed == 1
    if leader == "unknown":
        other.start()


def test_a_name_that_a_connection_cannot_tell_of_is_named(connect, store):
    client = connect()
    client.put("d/a", b"x")
    directory = store.binding(ROOT, b"d").inode
    inode = store.allocate_inode(directory, b"\xff", 0o100644)
    store.propose(record.Create(directory, b"\xff", inode, 0o100644, 0, 0))
    with pytest.raises(OSError, match="no UTF-8") as refused:
        client.list("d")
    assert refused.value.errno == errno.EILSEQ
    assert client.get("d/a") == b"x"

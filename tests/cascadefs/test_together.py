"""Goal: puts asked with one `put_many` share records, and nobody could tell but by their timestamps.

Method: what may share is a pure question; the rest is asked of a service over a connection, and the records of its store
are counted. What is refused of one is asked for among others that are not; who comes between does so inside of `begin`.
"""

import errno

from cascadefs.client import calls
from cascadefs.client.operations import TOGETHER_BYTES_MAX, TOGETHER_MAX, apart, together
from storage import record
from storage.namespace import ROOT
from triggers.change import changes


def grouped(parts, sizes, shard_of=lambda path: 0):
    return together(list(apart(calls.WriteEach(parts), [bytes(size) for size in sizes])), shard_of)


def test_what_may_share_a_record():
    def puts(count):
        return [calls.Put(f"d/{number}") for number in range(count)]

    assert grouped(puts(3), [1, 2, 0]) == [[0, 1, 2]]
    most = grouped(puts(TOGETHER_MAX + 1), [1] * (TOGETHER_MAX + 1))
    assert [len(group) for group in most] == [TOGETHER_MAX, 1]
    half = TOGETHER_BYTES_MAX // 2
    assert grouped(puts(3), [half, half, 1]) == [[0, 1], [2]]
    assert grouped(puts(3), [1, TOGETHER_BYTES_MAX + 1, 1]) == [[0], [1], [2]]
    # A name twice is two versions of it.
    assert grouped([calls.Put("a"), calls.Put("b"), calls.Put("a")], [1, 1, 1]) == [[0, 1], [2]]
    # Whoever asks for more than a next version is alone, and what comes behind it is behind it.
    for alone in (calls.Put("x", expect=1), calls.Put("x", event=5), calls.Append("x")):
        assert grouped([calls.Put("a"), alone, calls.Put("b")], [1, 1, 1]) == [[0], [1], [2]]
    # Of several shards each has its own.
    shards = {"p/1": 0, "q/1": 1, "p/2": 0, "q/2": 1}
    assert grouped([calls.Put(path) for path in shards], [1] * 4, shards.get) == [[0, 2], [1, 3]]


def written(program, paths, **options):
    call = calls.WriteEach([calls.Put(path) for path in paths], **options)
    answer, _ = program._executor.execute(call, [path.encode() for path in paths])
    return answer.results


def test_many_small_files_are_few_records(connect, store):
    client = connect()
    client.put("d/x", "")
    before = store.status()["records"]
    versions = client.put_many({f"d/{number}": bytes(4096) for number in range(64)})
    assert store.status()["records"] == before + 4
    assert len({version.timestamp for version in versions}) == 4
    # A script is told of each.
    told = []
    for one in list(store.committed())[-4:]:
        found = changes(store, one.timestamp, one.record)
        told += [(change.name, change.version) for change in found]
    assert told == [(str(number).encode(), 1) for number in range(64)]


def test_what_is_refused_of_one_is_refused_of_that_one(connect, store):
    client = connect()
    client.put("file", "x")
    client.put("theirs/kept", "x", mode=0o600)
    store.propose(record.SetAttributes(store.binding(ROOT, b"theirs").inode, mode=0o777))
    alice = connect(1000)
    paths = ["theirs/a", "file/b", "theirs/kept", "theirs/../c", "theirs/d"]
    results = written(alice, paths)
    assert [getattr(one, "errno", 0) for one in results] == [
        0, errno.ENOTDIR, errno.EACCES, errno.EINVAL, 0,
    ]  # fmt: skip
    assert alice.get("theirs/d") == b"theirs/d"
    assert client.get("theirs/kept") == b"x"


def test_two_names_of_a_file_are_two_versions_of_it(connect, store):
    client = connect()
    client.put_many({"d/a": "1", "d/c": "1"})
    directory = store.binding(ROOT, b"d").inode
    store.propose(record.Link(directory, b"b", store.binding(directory, b"a").inode))
    files = {"d/a": "first", "d/b": "second", "d/c": "2"}
    versions = client.put_many(files)
    assert len({version.timestamp for version in versions}) == 3
    for version in versions:
        assert client.get(version.path, version=version.number).decode() == files[version.path]


def test_who_comes_between_is_met_by_each_alone(connect, store, monkeypatch):
    client = connect()
    client.put_many({"d/a": "1", "d/b": "1"})
    begin = store.begin
    seen = []

    def late(proposal, payload, done):
        seen.append(len(proposal.records))
        if len(seen) == 1:
            inode = store.binding(store.binding(ROOT, b"d").inode, b"b").inode
            store.propose(record.Commit(inode, 0, 0, [], 0, 0))
        begin(proposal, payload, done)

    monkeypatch.setattr(store, "begin", late)
    versions = client.put_many({"d/a": "2", "d/b": "3"})
    assert [version.number for version in versions] == [2, 3]
    assert len(seen) == 3
    assert len(client.versions("d/a")) == 2


def test_what_was_done_of_a_call_is_not_done_again(connect, store):
    client = connect()
    paths = [f"d/{number}" for number in range(5)]
    client._executor.execute(calls.Write([calls.Put(paths[2])], client=902, number=1), [b"first"])
    for _ in range(2):
        results = written(client, paths, client=900, number=1)
        assert [one.versions for one in results] == [
            [(path, 1, len(b"d/0"))] if path != paths[2] else [(path, 1, 5)] for path in paths
        ]
    assert [len(client.versions(path)) for path in paths] == [1] * 5
    assert client.get(paths[2]) == b"first"


def test_a_failure_of_the_store_is_told_of_all(connect, store, monkeypatch):
    client = connect()
    client.put_many({"d/a": "1", "d/b": "1"})
    full = OSError(errno.ENOSPC, "no room")
    monkeypatch.setattr(store, "begin", lambda proposal, payload, done: done(full))
    results = written(client, ["d/a", "d/b"])
    assert [one.errno for one in results] == [errno.ENOSPC] * 2
    monkeypatch.undo()
    assert [client.get(path) for path in ("d/a", "d/b")] == [b"1", b"1"]

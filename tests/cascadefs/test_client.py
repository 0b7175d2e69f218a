"""The store for programs (SEMANTICS, "Programs"): every call, on a store in this process and over a connection."""

import datetime
import errno
import os
import random

import pytest
import trio

import cascadefs
from cascadefs.client import Batch, Client, Conflict, calls
from cascadefs.client.operations import Operations
from storage import record
from storage.attributes import DIRECTORY
from storage.errors import Unusable
from storage.namespace import ROOT
from storage.store import LocalStore
from triggers.access import Identity
from triggers.testing import ManualClock


class _As:
    """Executes as one user of a store that several share."""

    def __init__(self, store: LocalStore, clock: ManualClock, uid: int) -> None:
        self.operations = Operations(store, clock, Identity(uid, uid))
        self.execute = self.operations.execute

    def close(self) -> None:
        pass


@pytest.fixture
def here(store, clock):
    """A client in this thread, for tests in which others come between."""
    return Client(_As(store, clock, 0), clock)


@pytest.fixture(params=["here", "connect"])
def client(request):
    found = request.getfixturevalue(request.param)
    return found() if request.param == "connect" else found


def test_versions_by_number_and_by_time(client):
    first = client.put("run/a.txt", "one")
    second = client.put("run/a.txt", b"two!")
    assert (first.number, second.number, second.size) == (1, 2, 4)
    assert client.get("run/a.txt") == b"two!"
    assert client.get("run/a.txt", version=1) == b"one"
    assert client.get("run/a.txt", at=first.timestamp) == b"one"
    assert client.get("run/a.txt", at=second.timestamp - 1) == b"one"
    assert client.versions("run/a.txt") == [first, second]
    assert client.versions("run/a.txt", since=second.timestamp) == [second]
    assert client.versions("run/a.txt", until=second.timestamp - 1) == [first]
    assert client.versions("run/a.txt", limit=1) == [second]
    assert client.versions("run/a.txt", first=1, last=1) == [first]
    assert client.versions("run/a.txt", first=2, last=9) == [second]
    assert client.versions("run/a.txt", first=3) == []
    assert client.versions("run/a.txt", last=2, limit=1) == [second]


def test_an_instant_may_be_a_datetime_or_text(client, clock):
    version = client.put("a", "one")
    clock.value_ns += 3600 * 10**9
    client.put("a", "two")
    then = datetime.datetime.fromtimestamp(version.timestamp / 1e6 + 1, datetime.UTC)
    assert client.get("a", at=then) == b"one"
    assert client.get("a", at=then.replace(tzinfo=None)) == b"one"
    assert client.get("a", at=then.strftime("%Y-%m-%dT%H:%M:%S")) == b"one"
    assert client.get("a", at="-30m") == b"one"
    with pytest.raises(ValueError, match="not a time"):
        client.get("a", at="soonish")


def test_late_data_finds_its_place_by_event_time(client):
    """SEMANTICS 3: by when things happened, in whatever order they were told of; and as it was known at a time."""
    at = {hour: f"2026-01-01T{hour:02}:00" for hour in range(24)}
    client.put("sensor", "at 8", event=at[8])
    tenth = client.put(
        "sensor", "at 10", event=datetime.datetime(2026, 1, 1, 10, tzinfo=datetime.UTC)
    )
    late = client.put("sensor", "at 9, late", event=at[9])
    with client.batch() as batch:
        batch.put("other", "said nothing")
        batch.put("sensor", "corrected", event=at[10])
    said = {
        (hour, known): client.get("sensor", event=at[hour], at=known)
        for hour in (8, 9, 10, 23)
        for known in (None, late.timestamp, tenth.timestamp)
    }
    assert said == {
        (8, None): b"at 8", (8, late.timestamp): b"at 8", (8, tenth.timestamp): b"at 8",
        (9, None): b"at 9, late", (9, late.timestamp): b"at 9, late", (9, tenth.timestamp): b"at 8",
        (10, None): b"corrected", (10, late.timestamp): b"at 10", (10, tenth.timestamp): b"at 10",
        (23, None): b"corrected", (23, late.timestamp): b"at 10", (23, tenth.timestamp): b"at 10",
    }  # fmt: skip
    assert client.get("sensor") == b"corrected"
    assert client.stat("sensor", event=at[9]).version == late.number
    events = client.table("*").arrow.column("event").to_pylist()
    assert [(one.day, one.hour) for one in events[1:]] == [(1, 8), (1, 10), (1, 9), (1, 10)]
    with pytest.raises(FileNotFoundError):
        client.get("sensor", event=at[7])
    client.delete("sensor")
    with pytest.raises(FileNotFoundError):
        client.get("sensor", event="now")
    assert client.get("sensor", event=at[9]) == b"at 9, late"
    with pytest.raises(ValueError, match="a version or an event time"):
        client.get("sensor", version=1, event=at[8])
    with pytest.raises(ValueError, match="not a time"):
        client.put("sensor", "x", event="soonish")


def test_a_part_of_a_file(client):
    data = random.Random(1).randbytes(700_000)
    client.put("big", data)
    assert client.get("big") == data
    assert client.get("big", offset=250_000, length=300_000) == data[250_000:550_000]
    assert client.get("big", offset=699_990, length=100) == data[699_990:]
    assert client.get("big", offset=800_000) == b""


def test_a_file_longer_than_a_block_is_one_version(client, monkeypatch):
    monkeypatch.setattr("cascadefs.client.client.BLOCK_BYTES", 1000)
    data = random.Random(2).randbytes(4500)
    client.put("long", data)
    content = client.read("long")
    assert (bytes(content.data), content.version.number) == (data, 1)
    assert client.get("long", offset=900, length=2500) == data[900:3400]


def test_a_condition_lets_one_of_two_writers_win(client):
    client.put("a", "one", expect=0)
    client.put("a", "two", expect=1)
    with pytest.raises(Conflict) as caught:
        client.put("a", "three", expect=1)
    assert caught.value.errno == errno.ESTALE
    with pytest.raises(Conflict):
        client.put("a", "again", expect=0)
    assert client.get("a") == b"two"
    client.delete("a")
    assert client.put("a", "new life", expect=0).number == 4


def test_a_batch_happens_at_one_instant_or_not_at_all(client):
    client.put("a", "1")
    with client.batch() as batch:
        batch.put("a", "2")
        batch.put("b/c", "3")
        batch.append("log", "line\n")
    stamps = {client.versions(path)[-1].timestamp for path in ("a", "b/c", "log")}
    assert len(stamps) == 1
    before = stamps.pop() - 1
    assert client.get("a", at=before) == b"1"
    with pytest.raises(FileNotFoundError):
        client.get("log", at=before)
    losing = Batch()
    losing.put("a", "never")
    losing.put("b/c", "never", expect=7)
    with pytest.raises(Conflict):
        client.commit(losing)
    assert (client.get("a"), client.get("b/c")) == (b"2", b"3")


def test_many_files_each_for_itself(client):
    files = {f"m/{number:03}": bytes([number]) * (number + 1) for number in range(150)}
    versions = client.put_many(files)
    assert [version.path for version in versions] == list(files)
    times = [version.timestamp for version in versions]
    assert times == sorted(times)
    token = client.look("m/*", "")[1]
    assert {version.number for version in versions} == {1}
    assert all(client.get(path) == data for path, data in files.items())
    again = client.put_many(dict.fromkeys(files, "again"))
    assert {version.number for version in again} == {2}
    found, _ = client.look("m/*", token)
    assert [(one.path, one.version, one.timestamp) for one in found] == [
        (version.path, 2, version.timestamp) for version in again
    ]
    assert all(
        client.get(path, at=one.timestamp) == b"again"
        for path, one in zip(files, again, strict=True)
    )
    assert all(
        client.get(path, at=one.timestamp) == files[path]
        for path, one in zip(files, versions, strict=True)
    )
    with pytest.raises(NotADirectoryError):
        client.put_many({"n/1": "x", "m/000/1": "x"})
    assert client.get("n/1") == b"x"


def test_a_block_that_raises_changes_nothing(client):
    def broken():
        with client.batch() as batch:
            batch.put("a", "1")
            raise RuntimeError("of the program's own")

    with pytest.raises(RuntimeError, match="own"):
        broken()
    assert client.list() == ()


def test_append_and_delete(client):
    assert client.append("log", "a").number == 1
    assert client.append("log", "b").size == 2
    assert client.get("log") == b"ab"
    assert client.delete("log") is True
    assert client.delete("log") is False
    with pytest.raises(FileNotFoundError):
        client.get("log")
    assert client.get("log", version=2) == b"ab"


def test_a_tree_goes_at_one_instant(client):
    client.put("d/e/a", "1")
    client.put("d/b", "2")
    with pytest.raises(OSError, match="not empty"):
        client.rmdir("d")
    before = client.now()
    with client.batch() as batch:
        batch.rmdir("d/e/nothing")
        for path in ("d/b", "d/e/a"):
            batch.delete(path)
        batch.rmdir("d/e")
        batch.rmdir("d")
    assert client.list() == ()
    assert client.glob("**", at=before) == ["d/b", "d/e/a"]
    client.rmdir("d")
    client.put("d", "a file now")
    with pytest.raises(NotADirectoryError):
        client.rmdir("d")


def test_a_directory_now_and_then(client, monkeypatch):
    version = client.put("d/a", "1")
    client.put("d/b", "22")
    client.put("d/e/f", "3")
    assert [(e.name, e.is_directory, e.version, e.size) for e in client.list("d")] == [
        ("a", False, 1, 1), ("b", False, 1, 2), ("e", True, 0, 0),
    ]  # fmt: skip
    assert [entry.name for entry in client.list("d", at=version.timestamp)] == ["a"]
    assert client.glob("d/**") == ["d/a", "d/b", "d/e/f"]
    assert client.glob("d/**", at=version.timestamp) == ["d/a"]
    with pytest.raises(NotADirectoryError):
        client.list("d/a")
    with pytest.raises(FileNotFoundError):
        client.list("nothing")


def test_what_a_path_is_and_was(client):
    version = client.put("d/a", "1")
    client.put("d/a", "22")
    assert (client.stat("d").is_directory, client.stat("").is_directory) == (True, True)
    assert (client.stat("d/a").version, client.stat("d/a").size) == (2, 2)
    assert client.stat("d/a", version=1).size == 1
    assert client.stat("d/a", at=version.timestamp).version == 1
    for gone in (
        lambda: client.stat("d/b"),
        lambda: client.stat("d/a", version=3),
        lambda: client.stat("d", at=version.timestamp - 1),
        lambda: client.stat("", at=1),
    ):
        with pytest.raises(FileNotFoundError):
            gone()
    with pytest.raises(NotADirectoryError):
        client.stat("d/a/x")


def test_a_long_directory_comes_in_pieces(client, store, clock):
    for number in range(25):
        client.put(f"d/{number:02}", "x")
    operations = Operations(store, clock, Identity(0, 0))
    answer, _ = operations.execute(calls.List("d", None, "", 10), ())
    assert isinstance(answer, calls.Listed)
    assert (len(answer.entries), answer.more) == (10, True)
    assert len(client.list("d")) == 25


def test_a_watch_goes_on_where_it_was_left(client):
    token = next(iter([client.look("**", "")[1]]))
    client.put("in/a", "1")
    with client.batch() as batch:
        batch.put("in/b", "2")
        batch.put("out/c", "3")
        batch.put("in/d", "4")
    client.delete("in/a")
    seen = list(client.watch("in/*", after=token, timeout_s=0.05))
    assert [(c.path, c.kind, c.version) for c in seen] == [
        ("in/a", "write", 1), ("in/b", "write", 1), ("in/d", "write", 1), ("in/a", "delete", 2),
    ]  # fmt: skip
    for index, change in enumerate(seen):
        rest = list(client.watch("in/*", after=change.token, timeout_s=0.05))
        assert rest == seen[index + 1 :], f"behind {change.token}"


def test_a_watch_looks_at_nothing_twice(client, store, monkeypatch):
    for number in range(50):
        client.put(f"in/{number}", "x")
    _, token = client.look("**", "")
    looked = []
    committed = store.committed

    def counted(*args):
        for one in committed(*args):
            looked.append(one)
            yield one

    monkeypatch.setattr(store, "committed", counted)
    client.look("**", token)
    assert len(looked) == 1  # the last one, whose changes may not all have been told


def test_a_token_that_is_none(client):
    with pytest.raises(OSError, match="not a token"):
        client.look("**", "yesterday")


def test_rights_are_those_of_the_user(client, store, clock):
    client.put("open/a", "1")
    client.put("closed/secret", "2", mode=0o600)
    alice = Client(_As(store, clock, 1000), clock)
    assert alice.get("open/a") == b"1"
    for refused in (
        lambda: alice.get("closed/secret"),
        lambda: alice.get("closed/secret", version=1),
        lambda: alice.get("closed/secret", at=client.now()),
        lambda: alice.get("closed/secret", event="now"),
        lambda: alice.pull("closed/secret", [0], dtype="uint8"),
        lambda: alice.why("closed/secret"),
        lambda: alice.versions("closed/secret"),
        lambda: alice.table("closed/*"),
        lambda: alice.tensor("closed/*"),
        lambda: alice.put("closed/secret", "x"),
        lambda: alice.put("open/new", "x"),
        lambda: alice.append("closed/secret", "x"),
        lambda: alice.delete("closed/secret"),
    ):
        with pytest.raises(PermissionError):
            refused()
    assert client.get("closed/secret") == b"2"


def test_a_closed_directory_is_closed_to_lists_globs_and_watches(client, store, clock):
    client.put("d/inner/a", "1")
    inode = store.binding(1, b"d").inode
    store.propose(record.SetAttributes(inode, mode=0o700))
    alice = Client(_As(store, clock, 1000), clock)
    with pytest.raises(PermissionError):
        alice.list("d")
    with pytest.raises(PermissionError):
        alice.list("d/inner")
    with pytest.raises(PermissionError):
        alice.stat("d/inner/a")
    assert alice.stat("d").is_directory
    assert alice.glob("**") == []
    _, token = alice.look("**", "")
    client.put("d/inner/b", "2")
    client.put("plain", "3")
    assert [change.path for change in alice.look("**", token)[0]] == ["plain"]


def _readings(reader, path, at):
    """Every way to what a file is or was, and what it says."""
    return {
        "newest": lambda: reader.get(path),
        "number": lambda: reader.get(path, version=1),
        "instant": lambda: reader.get(path, at=at),
        "event": lambda: reader.get(path, event="now"),
        "many": lambda: reader.get_many([path])[0],
        "numbers": lambda: reader.pull(path, [0], dtype="uint8").tobytes(),
        "versions": lambda: reader.versions(path) and b"x",
    }


def _refused(ways):
    refused = set()
    for name, way in ways.items():
        try:
            assert way() == b"x"
        except PermissionError:
            refused.add(name)
    return refused


def test_what_is_on_the_way_has_to_be_open_then_and_now(client, store, clock):
    client.put("shut/open/a", "x")
    client.put("late/a", "x")
    client.put("soon/a", "x", mode=0o600)
    at = client.now()
    alice = Client(_As(store, clock, 1000), clock)

    def chmod(path, mode):
        parent, _, name = path.rpartition("/")
        above = store.binding(1, parent.encode()).inode if parent else 1
        inode = store.binding(above, name.encode()).inode
        store.propose(record.SetAttributes(inode, mode=mode))

    ways = set(_readings(alice, "", at))
    assert _refused(_readings(alice, "shut/open/a", at)) == set()
    chmod("shut", 0o700)
    chmod("late/a", 0o600)  # open when it was written
    chmod("soon/a", 0o644)  # closed when it was written
    assert _refused(_readings(alice, "shut/open/a", at)) == ways
    assert _refused(_readings(alice, "late/a", at)) == ways
    assert _refused(_readings(alice, "soon/a", at)) == {"number", "instant", "event", "versions"}
    assert _refused(_readings(client, "shut/open/a", at)) == set()
    for mode, may_list in ((0o755, True), (0o711, False), (0o744, False)):
        chmod("soon", mode)
        for when in (None, client.now()):
            if may_list:
                assert [one.name for one in alice.list("soon", at=when)] == ["a"]
            else:
                with pytest.raises(PermissionError):
                    alice.list("soon", at=when)
    with pytest.raises(PermissionError):
        alice.get("soon/a")  # names may be read there, and nothing be passed to
    chmod("soon", 0o711)
    assert alice.get("soon/a") == b"x"


def test_what_cannot_be_says_why(client):
    client.put("a", "1")
    for wrong, kind in (
        (lambda: client.put("a/b", "x"), NotADirectoryError),
        (lambda: client.put("../a", "x"), OSError),
        (lambda: client.put("/a", "x"), OSError),
        (lambda: client.put("x" * 256, "x"), OSError),
        (lambda: client.put(".cascade/watch/s.py", "x"), OSError),
        (lambda: client.get("a", at=2**62), FileNotFoundError),
        (lambda: client.get("a", version=2), FileNotFoundError),
        (lambda: client.get("a", version=-1), FileNotFoundError),
        (lambda: client.glob("re:("), OSError),
    ):
        with pytest.raises(kind) as caught:
            wrong()
        assert caught.value.errno
        assert str(caught.value)


def test_a_name_that_means_history_is_not_made(tmp_path):
    with cascadefs.connect(tmp_path / "data") as client:
        client.put("a", "1")
        with pytest.raises(OSError, match="history"):
            client.put("a@v1", "forged")


def test_a_request_asked_again_is_answered_and_not_done_again(store, clock):
    operations = Operations(store, clock, Identity(0, 0))

    def ask(number, *parts):
        buffers = [b"x" * number for part in parts if not isinstance(part, calls.Delete)]
        return operations.execute(calls.Write(list(parts), False, 7, number), buffers)[0]

    first = ask(1, calls.Append("log"), calls.Put("d/a"))
    assert ask(1, calls.Append("log"), calls.Put("d/a")) == first
    second = ask(2, calls.Append("log"), calls.Delete("d/a"))
    assert second.versions == [("log", 2, 3), ("d/a", 2, 0)]
    assert ask(2, calls.Append("log"), calls.Delete("d/a")).versions[0] == ("log", 2, 3)
    assert store.head(1, b"log") == 2
    assert ask(1, calls.Append("log")).versions == [("log", 0, 0)]
    # What was refused was not done: it may be asked again.
    condition = calls.Put("new", 0o644, 5)
    assert isinstance(ask(3, condition), calls.Failed)
    assert ask(3, calls.Put("new")).versions == [("new", 1, 3)]


def test_a_write_is_planned_again_when_others_come_before_it(here, store, monkeypatch):
    here.put("log", "a")
    here.put("d/x", "1")
    propose, others = store.propose, ["b", "c"]

    def raced(proposal, payload=()):
        if others:
            text = others.pop()
            monkeypatch.setattr(store, "propose", propose)
            here.append("log", text)
            here.put("d/new", text)
            monkeypatch.setattr(store, "propose", raced)
        return propose(proposal, payload)

    monkeypatch.setattr(store, "propose", raced)
    batch = Batch()
    batch.append("log", "!")
    batch.put("d/new", "mine")
    versions = here.commit(batch)
    assert here.get("log") == b"acb!"
    assert [version.number for version in versions] == [4, 3]


def test_a_batch_beaten_to_one_of_its_names_leaves_no_half(here, store, monkeypatch):
    here.put("a", "1")
    propose = store.propose

    def raced(proposal, payload=()):
        monkeypatch.setattr(store, "propose", propose)
        here.put("b", "theirs")
        return propose(proposal, payload)

    monkeypatch.setattr(store, "propose", raced)
    batch = Batch()
    batch.put("a", "2")
    batch.put("b", "ours", expect=0)
    with pytest.raises(Conflict):
        here.commit(batch)
    assert (here.get("a"), here.get("b")) == (b"1", b"theirs")


def test_an_empty_directory_is_a_mistake_and_made_no_store(tmp_path):
    """Such as a mountpoint that nobody has mounted."""
    with pytest.raises(Unusable, match="mount it first"):
        cascadefs.connect(tmp_path)
    assert not os.listdir(tmp_path)


def test_a_directory_of_ones_own(tmp_path):
    with cascadefs.connect(tmp_path / "data") as client:
        version = client.put("a/b", "kept", durable=True)
        with pytest.raises(Unusable):
            cascadefs.connect(tmp_path / "data")
    with cascadefs.connect(str(tmp_path / "data")) as client:
        assert client.read("a/b").version == version
        assert client.list("a")[0].mode == 0o644
    assert os.listdir(tmp_path) == ["data"]


async def test_under_trio(tmp_path):
    async with await cascadefs.connect_trio(tmp_path / "data") as client:
        token = ""
        seen = []

        async def follow(task_status=trio.TASK_STATUS_IGNORED):
            async with trio.open_nursery() as inner:
                changes = client.watch("in/*", after=token)
                task_status.started()
                async for change in changes:
                    seen.append(change.path)
                    if len(seen) == 2:
                        inner.cancel_scope.cancel()
                        break
                await changes.aclose()

        first = await client.put("in/0", "x")
        token = f"{first.timestamp}.1.0"
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(follow)
                await client.put("in/a", "1")
                await client.put("out/b", "2")
                await client.append("in/c", "3")
        assert seen == ["in/a", "in/c"]
        assert await client.get("in/a", version=1) == b"1"
        assert [entry.name for entry in await client.list("in")] == ["0", "a", "c"]
        assert await client.glob("in/?") == ["in/0", "in/a", "in/c"]
        assert len(await client.versions("in/c")) == 1
        assert await client.delete("in/a")
        assert await client.now() > first.timestamp


def test_a_directory_is_listed_in_parts(client, store):
    control = store.allocate_inode(ROOT)
    store.propose(record.Create(ROOT, b".cascade", control, DIRECTORY | 0o755, 0, 0))
    with client.batch() as batch:
        for number in range(5):
            batch.put(f"{number}", b"")
            batch.put(f".cascade{number}", b"")
    names = [entry.name for entry in client.list()]
    assert len(names) == 10
    for limit in (1, 2, 3, 10):
        found = [""]
        while part := client.list(after=found[-1], limit=limit):
            found += [entry.name for entry in part]
        assert found[1:] == names
    assert client.list(limit=0) == ()


def test_the_future_is_absent_as_on_a_mount(client, store, monkeypatch):
    now = client.put("f", "one").timestamp
    for at in (now + 10_000_000, 2**60, "2900-01-01"):
        for ask in (client.get, client.stat):
            with pytest.raises(FileNotFoundError, match=r"@t=.*: is in the future"):
                ask("f", at=at)
        with pytest.raises(FileNotFoundError, match="is in the future"):
            client.list(at=at)
    monkeypatch.setattr(store, "has_others", True)  # and their clocks may be ahead
    with pytest.raises(BlockingIOError):
        client.get("f", at=store.now() + 1_000_000)
    with pytest.raises(FileNotFoundError):
        client.get("f", at=now + 10_000_000)

"""SEMANTICS 14: whoever waits for a shard that does not answer keeps nobody waiting who asks about another, or about what is here.

Method: a mount asked by several threads, as the kernel asks one, over shards in memory, of which one has no leader for a while. Each
call in turn waits for that one; what is asked meanwhile is counted, and no time is asserted but a generous limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading

import pytest
import trio

from cascadefs.filesystem import Changes
from cascadefs.filesystem.draft import DRAFT_MEMORY_BYTES_MAX
from cascadefs.housekeeping import Housekeeping
from cascadefs.vpath import format_time
from storage.cluster.turns import Turns
from storage.errors import Reason, Refused
from storage.namespace import REFUSED
from storage.record import Unlink
from storage.sequencer import SUBMITTED_BYTES_MAX, SUBMITTED_MAX
from tests.semantics.conftest import FakeClock, Tree
from tests.storage.cluster.orders import make_orders

LIMIT_S = 30
HELD = 1
"""The shard that has no leader; names that end with this digit live there."""


class Mount:
    """A mount asked by several threads; who waits lets go of it."""

    def __init__(self) -> None:
        self.orders = make_orders(3, FakeClock())
        self.tree = Tree.on(self.orders, FakeClock())
        self.lock = threading.Lock()
        self.turns = Turns(self.lock, always=True)
        self.threads: list[threading.Thread] = []
        self.failures: list[Exception] = []

    @property
    def held(self):
        """What was handed over to the held shard and has not come by."""
        return self.orders[HELD]._faces[0].pending

    def pause(self) -> None:
        """From now on several threads ask, and wait. The leader has told how far it is: what waits is the change itself."""
        self.tree.store.share(self.turns)
        order = self.orders[HELD]
        order._faces[0].certain_index = lambda: len(order.records)
        order.pause()

    def resume(self) -> None:
        del self.orders[HELD]._faces[0].certain_index
        self.orders[HELD].resume()

    def call(self, call, *arguments):
        assert self.lock.acquire(timeout=LIMIT_S), "somebody holds the mount and waits"
        try:
            return call(*arguments)
        finally:
            self.lock.release()

    def begin(self, call, *arguments) -> None:
        def run() -> None:
            try:
                self.call(call, *arguments)
            except Exception as error:
                self.failures.append(error)

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def wait(self, resting: int) -> None:
        until(lambda: self.turns.resting == resting or self.failures)
        assert not self.failures

    def end(self) -> None:
        for thread in self.threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()
        self.tree.store.turns = None
        for face in self.tree.store.faces.values():
            face.turns = None


def until(condition) -> None:
    for _ in range(LIMIT_S * 1000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"not within {LIMIT_S} s")


@pytest.fixture
def mount():
    made = Mount()
    yield made
    made.tree.close_all()


def tree_of(tree: Tree) -> dict:
    """Something of everything in the held shard, and open files."""
    tree.mkdir("d1")
    tree.mkdir("d2")
    tree.mkdir("d1/empty")
    for text in ("one", "two"):
        tree.put("d1/f", text)
        tree.put("d2/f", text)
    then = tree.now()
    tree.put("d1/f", "three")
    tree.put("d1/g", "x")
    tree.put("d1/set", "x")
    tree.chmod("d1/set", 0o4755)
    tree.setxattr("d1/f", "user.mine", "x")
    tree.mkdir("d1/.@tag-before")
    tree.stat("d1")
    unnamed = tree.open_unnamed("d1")
    tree.write(unnamed, b"unnamed")
    dirty, punched, large, gathered, synced, claimed, claim_given_up = (
        tree.open("d1/" + tree_made(tree, name), os.O_RDWR) for name in "abcdeij"
    )
    tree.write(dirty, b"dirty")
    tree.write(synced, b"dirty")
    for place in range(0, DRAFT_MEMORY_BYTES_MAX - 1000, 1000):
        tree.write(gathered, bytes(1000), place)
    for file in (claimed, claim_given_up):
        tree.fs.setxattr(file.number, b"user.cascade.if_version", b"1", 0, tree.caller)
        tree.write(file, b"on condition")
    conditional = tree.open("d1/g@if=v1", os.O_RDWR)
    tree.write(conditional, b"on condition")
    reading = tree.open("d2/f")
    kept = tree.open("d1/f@v1")
    return {
        "then": then, "unnamed": unnamed, "dirty": dirty, "punched": punched, "large": large, "kept": kept,
        "gathered": gathered, "synced": synced, "claimed": claimed, "conditional": conditional,
        "given up": claim_given_up, "reading": reading,
    }  # fmt: skip


def tree_made(tree: Tree, name: str) -> str:
    tree.put(f"d1/{name}", "0123456789" * 1000)
    return name


CALLS = {
    "mkdir": lambda t, m: t.mkdir("d1/made"),
    "mkdir of a shard root": lambda t, m: t.mkdir("made1"),
    "rmdir": lambda t, m: t.rmdir("d1/empty"),
    "mknod": lambda t, m: t.mknod("d1/made", 0o100644),
    "mkfifo": lambda t, m: t.mknod("d1/made", 0o010644),
    "symlink": lambda t, m: t.symlink("f", "d1/made"),
    "create": lambda t, m: t.open("d1/made", os.O_CREAT | os.O_WRONLY),
    "link": lambda t, m: t.link("d1/f", "d1/made"),
    "link of what had no name": lambda t, m: t.link_open(m["unnamed"], "d1/made"),
    "create without a name": lambda t, m: [t.open_unnamed("d1") for _ in range(300)],
    "unlink": lambda t, m: t.unlink("d1/f"),
    "rename": lambda t, m: t.rename("d1/f", "d1/made"),
    "rename over": lambda t, m: t.rename("d1/f", "d1/g"),
    "chmod": lambda t, m: t.chmod("d1/f", 0o600),
    "chown": lambda t, m: t.chown("d1/f", 1, 1),
    "utimens": lambda t, m: t.utime("d1/f", 1),
    "truncate": lambda t, m: t.truncate("d1/f", 1),
    "open that ends set-id bits": lambda t, m: t.fs.end_set_id(t.stat("d1/set").number, t.caller),
    "setxattr": lambda t, m: t.setxattr("d1/f", "user.other", "x"),
    "removexattr": lambda t, m: t.removexattr("d1/f", "user.mine"),
    "policy": lambda t, m: t.setxattr("d1", "user.cascade.retention", "all:1h"),
    "label": lambda t, m: t.setxattr("d1", "user.cascade.label", f"then={m['then']}"),
    "remove a label": lambda t, m: t.rmdir("d1/.@tag-before"),
    "purge": lambda t, m: t.setxattr("d1", "user.cascade.purge", "f@v1"),
    "restore a file": lambda t, m: t.setxattr("d1/f", "user.cascade.restore", "v1"),
    "restore a directory": lambda t, m: t.setxattr("d1", "user.cascade.restore", m["then"]),
    "close": lambda t, m: t.close(m["dirty"]),
    "fsync": lambda t, m: t.fs.save(m["synced"].handle),
    "large write": lambda t, m: t.write(m["large"], bytes(100_000), 0),
    "write of more than is gathered": lambda t, m: t.write(m["gathered"], b"x" * 2000),
    "punch a hole": lambda t, m: t.fs.ranges.allocate(m["punched"].handle, 1000, 100, 3),
    "copy a range": lambda t, m: t.fs.ranges.copy(
        m["gathered"].handle, 0, m["punched"].handle, 0, DRAFT_MEMORY_BYTES_MAX
    ),
    "close on condition": lambda t, m: t.close(m["claimed"]),
    "close on condition by name": lambda t, m: t.close(m["conditional"]),
    "create on condition": lambda t, m: t.put("d1/made@if=v0", "x"),
    "housekeeping": lambda t, m: (t.wait(10), t.keep_house()),
    "an instant": lambda t, m: t.getxattr("d2", "user.cascade.stable_time"),
    "a directory as of a moment ago": lambda t, m: t.ls(
        f"d2/.@{format_time(t.clock.time_ns // 1000 - 1000).decode()}"
    ),
    "another's claim is ended": lambda t, m: t.fs.inodes.end_claim(
        t.fs.inodes.live(m["given up"].number)
    ) or t.close(m["dirty"]),
    "read of what is elsewhere": lambda t, m: t.read(m["kept"]),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_each_call_lets_others_have_the_mount_while_it_waits(mount, call) -> None:
    tree = mount.tree
    made = mount.call(tree_of, tree)
    face = tree.store.faces[HELD]
    log, answers = face.log.read, threading.Event()

    def fetch(*asked):
        def wait():
            assert answers.wait(LIMIT_S)
            return log(*asked)

        return mount.turns.apart(wait)  # As `Link` does for a mount.

    if call.startswith("read"):
        face.log.read = fetch
    # What asks for a frontier is refused by a shard that does not answer in so long.
    tree.store._frontier_s = LIMIT_S
    tree.clock.time_ns += 10**9
    mount.pause()
    mount.begin(CALLS[call], tree, made)
    mount.wait(resting=1)
    for number in range(5):
        assert mount.call(tree.stat, "d1/set").size == 1, "what is known here"
        mount.call(tree.put, "d2/f", f"meanwhile {number}")
        assert mount.call(tree.read, made["reading"]) == b"meanwhile %d" % number
        mount.call(tree.chmod, "d2/f", 0o600 + number)
        mount.call(tree.mkdir, f"d2/made {number}.")
    assert mount.threads[0].is_alive(), "it waits still"
    mount.resume()
    answers.set()
    mount.end()
    assert not mount.failures
    face.log.read = log
    assert mount.call(tree.cat, "d2/f") == b"meanwhile 4"


def test_two_who_make_the_same_name_while_its_shard_is_away_make_it_once(mount) -> None:
    tree = mount.tree
    mount.call(tree.mkdir, "d1")
    mount.pause()
    number = mount.call(tree.stat, "d1").number
    made = []

    def make() -> None:
        made.append(tree.fs.create(number, b"f", 0o644, os.O_EXCL | os.O_WRONLY, tree.caller))

    for _ in range(2):
        mount.begin(make)
    until(lambda: mount.turns.resting == 2)
    mount.resume()
    mount.end()
    (refusal,) = mount.failures
    assert refusal.reason is Reason.EXISTS
    ((opened, stat),) = made
    tree.fs.flush(opened.handle)
    tree.fs.release(opened.handle)
    tree.fs.forget(stat.number, 1)
    assert tree.versions("d1/f") == ["v1"]


def test_a_name_that_is_removed_and_made_again_while_its_shard_is_away_is_the_new_one(
    mount,
) -> None:
    tree = mount.tree
    mount.call(tree.mkdir, "d1")
    mount.call(tree.put, "d1/f", "old")
    mount.call(tree.put, "d1/g", "replaces it")
    parent = mount.call(tree.stat, "d1").number
    mount.pause()
    mount.begin(tree.fs.unlink, parent, b"f", tree.caller)
    until(lambda: len(mount.held) == 1)
    mount.begin(tree.fs.rename, parent, b"g", parent, b"f", 0, tree.caller)
    until(lambda: len(mount.held) == 2)
    mount.begin(tree.fs.unlink, parent, b"g", tree.caller)
    until(lambda: len(mount.held) == 3)
    mount.resume()
    mount.end()
    (refusal,) = mount.failures
    assert refusal.reason is Reason.ABSENT, "it had moved before"
    assert tree.cat("d1/f") == b"replaces it"
    assert tree.ls("d1") == ["f"]


def test_nothing_comes_into_a_directory_that_is_being_removed(mount) -> None:
    tree = mount.tree
    for path in ("d1", "d1/e"):
        mount.call(tree.mkdir, path)
    above, number = (mount.call(tree.stat, path).number for path in ("d1", "d1/e"))
    mount.call(tree.fs.remember, number)
    mount.pause()
    mount.begin(tree.fs.rmdir, above, b"e", tree.caller)
    until(lambda: len(mount.held) == 1)
    mount.begin(tree.fs.mkdir, number, b"late", 0o755, tree.caller)
    mount.wait(resting=2)
    mount.resume()
    mount.end()
    (refusal,) = mount.failures
    assert refusal.reason is Reason.ABSENT
    tree.fs.forget(number, 1)
    assert tree.ls("d1") == []


def test_a_time_that_is_set_while_its_shard_is_away_is_not_that_of_what_is_written_then(
    mount,
) -> None:
    tree = mount.tree
    mount.call(tree.mkdir, "d1")
    mount.call(tree.put, "d1/f", "x")
    file = mount.call(tree.open, "d1/f", os.O_RDWR)
    mount.call(tree.write, file, b"first")
    mount.pause()
    mount.begin(tree.fs.setattr, file.number, Changes(mtime_ns=5), None, tree.caller)
    until(lambda: len(mount.held) == 1)
    mount.begin(tree.fs.flush, file.handle)
    mount.wait(resting=2)
    assert len(mount.held) == 1, "what is saved has the time that was set before"
    mount.resume()
    mount.end()
    assert not mount.failures
    assert tree.stat("d1/f").mtime_ns == 5
    mount.call(tree.write, file, b"second")
    assert tree.stat("d1/f").mtime_ns == tree.clock.time_ns
    tree.close(file)


def test_a_hole_is_in_what_is_saved_though_its_shard_was_away_when_it_was_made(mount) -> None:
    tree = mount.tree
    mount.call(tree.mkdir, "d1")
    mount.call(tree.put, "d1/f", "0123456789")
    first, second = (mount.call(tree.open, "d1/f", os.O_RDWR) for _ in range(2))
    mount.call(tree.write, second, b"AB")
    mount.pause()
    mount.begin(tree.fs.ranges.allocate, first.handle, 1, 3, 3)
    until(lambda: len(mount.held) == 1)
    mount.begin(tree.fs.flush, second.handle)
    mount.wait(resting=2)
    assert len(mount.held) == 1, "what is being changed is not saved"
    mount.resume()
    mount.end()
    assert not mount.failures
    tree.close(first)
    tree.close(second)
    assert tree.cat("d1/f@v2") == b"A\0\0\x00456789"


def test_a_directory_is_restored_though_another_changes_it_meanwhile(mount) -> None:
    tree = mount.tree
    other = Tree.on(mount.orders, tree.clock)
    tree.mkdir("d1")
    tree.put("d1/f", "then")
    then = tree.now()
    tree.wait(1)
    tree.rename("d1/f", "d1/moved")
    other.follow()
    mount.orders[HELD].meanwhile = lambda: other.rename("d1/moved", "d1/again")
    mount.call(tree.setxattr, "d1", "user.cascade.restore", then)
    assert tree.ls("d1") == ["f"]
    other.follow()
    assert other.cat("d1/f") == b"then"
    other.close_all()


def test_a_dead_draft_is_kept_by_nobody(mount) -> None:
    tree = mount.tree
    mount.call(tree.mkdir, "d1")
    for name in ("closed", "replaced"):
        mount.call(tree.put, f"d1/{name}", "x")
    mount.call(tree.put, "d1/over", "y")
    closed, replaced = (
        mount.call(tree.open, f"d1/{name}", os.O_WRONLY) for name in ("closed", "replaced")
    )
    parent = mount.call(tree.stat, "d1").number
    for file in (closed, replaced):
        mount.call(tree.write, file, b"nobody's")
    mount.pause()
    mount.begin(tree.fs.unlink, parent, b"closed", tree.caller)
    mount.begin(tree.fs.rename, parent, b"over", parent, b"replaced", 0, tree.caller)
    until(lambda: len(mount.held) == 2)
    for file in (closed, replaced):
        # The names go first, and the last handle while the version that is nobody's is on its way.
        mount.begin(tree.fs.flush, file.handle)
        mount.begin(tree.fs.release, file.handle)
    mount.wait(resting=6)
    mount.resume()
    mount.end()
    assert {getattr(failure, "reason", None) for failure in mount.failures} <= {Reason.ABSENT}
    for file in (closed, replaced):
        tree.fs.forget(file.number, 1)
    assert tree.fs.inodes.drafts == {}
    assert tree.fs.status()["open_files"] == 0
    assert tree.fs.status()["nodes"] == 2, (
        "the root, and the directory that was asked for by number"
    )


def test_a_draft_whose_last_name_went_unheard_is_let_go_by_who_keeps_house(mount) -> None:
    tree = mount.tree
    mount.call(tree.mkdir, "d1")
    mount.call(tree.put, "d1/f", "x")
    file = mount.call(tree.open, "d1/f", os.O_WRONLY)
    mount.call(tree.write, file, b"y")
    mount.orders[HELD].is_full = True
    with pytest.raises(OSError, match="full"):
        mount.call(tree.fs.flush, file.handle)
    with pytest.raises(OSError, match="full"):
        mount.call(tree.fs.release, file.handle)
    mount.call(tree.fs.forget, file.number, 1)
    assert len(tree.fs.inodes.drafts) == 1, "it is not lost, and tried again"
    parent = mount.call(tree.stat, "d1").number
    assert mount.call(tree.store.propose, Unlink(parent, b"f")).reason is None
    tree.wait(10)
    mount.call(tree.keep_house)
    assert tree.fs.inodes.drafts == {}
    assert tree.fs.status()["nodes"] == 1


def test_one_bad_file_keeps_no_other_from_being_saved(make_tree, monkeypatch) -> None:
    tree = make_tree()
    tree.put("bad", "")
    tree.put("good", "")
    bad, good = (tree.open(name, os.O_WRONLY) for name in ("bad", "good"))
    asked, commit = [], tree.store.commit

    def refuse(inode, *arguments, **options):
        if inode != bad.number:
            return commit(inode, *arguments, **options)
        asked.append(inode)
        return REFUSED[Reason.NOT_PERMITTED]

    monkeypatch.setattr(tree.store, "commit", refuse)
    tree.write(bad, b"refused")
    tree.write(good, b"saved")
    tree.wait(10)
    with pytest.raises(Refused) as caught:
        tree.keep_house()
    assert caught.value.reason is Reason.NOT_PERMITTED
    assert caught.value.__notes__ == [f"saving inode {bad.number}, bad"]
    assert tree.cat("good@v2") == b"saved"
    for _ in range(20):
        tree.wait(1)
        tree.keep_house()
    assert len(asked) == 1, "it is not tried again and again, each time with its bytes"
    assert tree.fs.inodes.refused(tree.clock.time_ns) == {0}
    for told in (tree.fsync, tree.close_duplicate):
        with pytest.raises(Refused):
            told(bad)
    monkeypatch.undo()
    tree.close(bad)
    tree.close(good)
    assert tree.cat("bad@v2") == b"refused"
    assert tree.fs.inodes.refused(tree.clock.time_ns) == set()


def test_a_shard_that_is_away_keeps_no_other_from_being_saved(mount) -> None:
    tree = mount.tree
    files = []
    for shard in range(3):
        mount.call(tree.mkdir, f"d{shard}")
        mount.call(tree.put, f"d{shard}/f", "")
        files.append(mount.call(tree.open, f"d{shard}/f", os.O_WRONLY))
        mount.call(tree.write, files[-1], b"saved")
    tree.wait(10)
    mount.pause()
    assert mount.call(tree.fs.inodes.unsaved, tree.clock.time_ns) == {0, 1, 2}
    mount.begin(tree.fs.inodes.save, tree.clock.time_ns, HELD)
    mount.wait(resting=1)
    for shard in (0, 2):
        mount.call(tree.fs.inodes.save, tree.clock.time_ns, shard)
        assert mount.call(tree.cat, f"d{shard}/f@v2") == b"saved"
    assert mount.call(tree.fs.inodes.unsaved) == {HELD}
    mount.resume()
    mount.end()
    assert not mount.failures
    for file in files:
        tree.close(file)
    assert tree.cat("d1/f@v2") == b"saved"


def keeping(mount: Mount) -> Housekeeping:
    @contextlib.contextmanager
    def exclusive():
        assert mount.lock.acquire(timeout=LIMIT_S)
        try:
            yield
        finally:
            mount.lock.release()

    tree = mount.tree
    return Housekeeping(tree.fs, tree.store, tree.clock, exclusive, may_wait=True)


def test_who_keeps_house_saves_each_shard_apart(mount, monkeypatch, caplog) -> None:
    tree, housekeeping = mount.tree, keeping(mount)
    files = {}
    for shard in range(3):
        tree.mkdir(f"d{shard}")
        for name in ("f", "g"):
            tree.put(f"d{shard}/{name}", "")
            files[shard, name] = tree.open(f"d{shard}/{name}", os.O_WRONLY)
            tree.write(files[shard, name], b"saved")
    commit = tree.store.commit

    def refuse(inode, *arguments, **options):
        if inode == files[2, "f"].number:
            return REFUSED[Reason.NOT_PERMITTED]
        return commit(inode, *arguments, **options)

    monkeypatch.setattr(tree.store, "commit", refuse)

    async def saved(path, number) -> None:
        def is_there() -> bool:
            return mount.call(tree.errno, "cat", f"{path}@v{number}") is None

        await trio.to_thread.run_sync(until, is_there)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in (2, 3):
                tree.wait(10)
                await housekeeping.look(nursery)
                await saved("d0/f", number)
                await saved("d2/g", number)
                for shard in (0, 2):
                    mount.call(tree.write, files[shard, "fg"[shard // 2]], b"more")
            assert housekeeping.trouble == f"Refused: {Reason.NOT_PERMITTED.value}"
            mount.resume()
            await saved("d1/f", 2)
            monkeypatch.undo()
            tree.wait(60)
            await housekeeping.look(nursery)
            await saved("d2/f", 2)
        async with trio.open_nursery() as nursery:
            await housekeeping.look(nursery)
        assert housekeeping.trouble is None
        mount.call(tree.write, files[1, "f"], b"last")
        await housekeeping.save_all()
        assert mount.call(tree.errno, "cat", "d1/f@v3") is None

    mount.pause()
    trio.run(main)
    mount.end()
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 1, "once"
    assert "d2" not in said[0].getMessage()
    for file in files.values():
        tree.close(file)


def test_who_ends_saves_all_that_can_be_saved_and_says_that_not_all_is(mount) -> None:
    tree, housekeeping = mount.tree, keeping(mount)
    files = {}
    for shard in range(3):
        tree.mkdir(f"d{shard}")
        files[shard] = tree.open(f"d{shard}/f", os.O_CREAT | os.O_WRONLY)
        tree.write(files[shard], b"saved")
    mount.pause()

    def give_up() -> None:
        until(lambda: mount.call(tree.fs.unsaved) == {HELD})
        mount.orders[HELD]._faces[0].close()

    giving_up = threading.Thread(target=give_up)
    giving_up.start()
    with pytest.raises(OSError, match="closed"):
        trio.run(housekeeping.save_all)
    giving_up.join()
    mount.end()
    assert [tree.errno("cat", f"d{shard}/f@v1") for shard in (0, 2)] == [None, None]
    tree.fs.inodes.drafts.clear()  # Nobody can save it any more.


def test_what_is_on_its_way_is_bounded_for_all_together(mount) -> None:
    tree, callers = mount.tree, 8
    mount.call(tree.mkdir, "d1")
    files = []
    for number in range(callers):
        mount.call(tree.put, f"d1/f{number}.", "")
        files.append(mount.call(tree.open, f"d1/f{number}.", os.O_WRONLY))
    data = bytes(SUBMITTED_BYTES_MAX // 4)
    mount.pause()
    for file in files:
        mount.begin(tree.write, file, data)
    mount.wait(resting=callers)
    assert 0 < len(mount.held) <= SUBMITTED_MAX
    waiting = sum(len(part) for _, _, payload, _ in mount.held for part in payload)
    assert SUBMITTED_BYTES_MAX // 2 < waiting <= SUBMITTED_BYTES_MAX
    mount.resume()
    mount.end()
    assert not mount.failures
    for file in files:
        tree.close(file)
    assert {tree.stat(f"d1/f{number}.").size for number in range(callers)} == {len(data)}
    assert tree.store.faces[HELD]._under_way_bytes == 0


def test_what_is_given_up_is_on_its_way_no_more(mount) -> None:
    tree = mount.tree
    mount.call(tree.mkdir, "d1")
    mount.call(tree.put, "d1/f", "")
    file = mount.call(tree.open, "d1/f", os.O_WRONLY)
    mount.orders[HELD].is_full = True
    for _ in range(3):
        with pytest.raises(OSError, match="full") as caught:
            mount.call(tree.write, file, bytes(SUBMITTED_BYTES_MAX // 2))
        assert caught.value.errno == errno.ENOSPC
    assert tree.store.faces[HELD]._under_way == {}
    mount.orders[HELD].is_full = False
    mount.call(tree.write, file, b"x")
    mount.call(tree.close, file)


CHANGES_WITHOUT_A_CLAIM = {
    "write": lambda tree, file: tree.write(file, b"mine"),
    "truncate": lambda tree, file: tree.fs.setattr(
        file.number, Changes(size=4), file.handle, tree.caller
    ),
    "open that truncates": lambda tree, file: tree.fs.open(
        file.number, os.O_WRONLY | os.O_TRUNC, tree.caller
    ),
    "restore": lambda tree, file: tree.fs.setxattr(
        file.number, b"user.cascade.restore", b"v1", 0, tree.caller
    ),
    "make a hole": lambda tree, file: tree.fs.ranges.allocate(file.handle, 0, 1, 3),
}


@pytest.mark.parametrize("change", CHANGES_WITHOUT_A_CLAIM)
def test_who_changes_a_file_ends_a_claim_that_began_while_he_waited(mount, change) -> None:
    tree = mount.tree
    mount.call(tree.mkdir, "d1")
    mount.call(tree.put, "d1/f", "x")
    saved, writing, claiming = (mount.call(tree.open, "d1/f", os.O_RDWR) for _ in range(3))
    mount.call(tree.write, saved, b"y")

    def save_and_claim() -> None:
        tree.fs.flush(saved.handle)
        tree.fs.setxattr(claiming.number, b"user.cascade.if_version", b"2", 0, tree.caller)

    mount.pause()
    mount.begin(save_and_claim)
    until(lambda: len(mount.held) == 1)
    mount.begin(CHANGES_WITHOUT_A_CLAIM[change], tree, writing)
    mount.wait(resting=2)
    mount.resume()
    mount.end()
    assert not mount.failures
    with pytest.raises(OSError, match="condition") as caught:
        tree.write(claiming, b"of version 2")
    assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("condition", ["by handle", "by name", "that there is none"])
def test_a_condition_goes_on_with_ones_own_version_though_others_were_quick(
    mount, condition, monkeypatch
) -> None:
    tree = mount.tree
    tree.mkdir("d1")
    tree.put("d1/f", "1")
    if condition == "that there is none":
        tree.unlink("d1/f")
        file = tree.open("d1/f@if=v0", os.O_CREAT | os.O_WRONLY)
    else:
        file = tree.open("d1/f" + "@if=v1" * (condition == "by name"), os.O_WRONLY)
        if condition == "by handle":
            tree.setxattr("d1/f", "user.cascade.if_version", "1")
    other, commit = Tree.on(mount.orders, tree.clock), tree.store.commit

    def slowly(*arguments, **options):
        outcome = commit(*arguments, **options)
        other.follow()
        other.put("d1/f", "of another")
        tree.store.catch_up()
        return outcome

    tree.write(file, b"mine")
    monkeypatch.setattr(tree.store, "commit", slowly)
    tree.fs.save(file.handle)
    monkeypatch.undo()
    tree.write(file, b"behind what I have not seen")
    with pytest.raises(Refused, match="condition"):
        tree.fs.save(file.handle)
    assert tree.cat("d1/f") == b"of another"
    other.close_all()
    tree.fs.release(file.handle)


def test_two_first_names_of_a_file_make_one_version(mount) -> None:
    tree = mount.tree
    mount.call(tree.mkdir, "d1")
    unnamed = mount.call(tree.open_unnamed, "d1")
    mount.call(tree.write, unnamed, b"x")
    mount.pause()
    for name in ("d1/f", "d1/g"):
        mount.begin(tree.link_open, unnamed, name)
        until(lambda: len(mount.held) == 1)
    mount.wait(resting=2)
    mount.resume()
    mount.end()
    assert not mount.failures
    assert tree.stat("d1/f").nlink == 2
    assert tree.versions("d1/f") == ["v1"]
    tree.close(unnamed)


def test_a_node_whose_name_others_remove_while_it_is_made_is_counted(mount, monkeypatch) -> None:
    tree = mount.tree
    tree.mkdir("d1")
    parent = tree.stat("d1").number
    other, commit = Tree.on(mount.orders, tree.clock), tree.store.commit

    def slowly(*arguments, **options):
        other.follow()
        other.unlink("d1/made")
        tree.store.catch_up()
        tree.fs.others.take()
        return commit(*arguments, **options)

    monkeypatch.setattr(tree.store, "commit", slowly)
    made = tree.fs.mknod(parent, b"made", 0o100644, 0, tree.caller)
    assert tree.fs.getattr(made.number).nlink == 0
    tree.fs.forget(made.number, 1)
    other.close_all()


def test_what_others_append_while_an_append_is_on_its_way_is_not_written_over(
    mount, monkeypatch
) -> None:
    tree = mount.tree
    tree.mkdir("d1")
    tree.put("d1/f", "base")
    other, stage = Tree.on(mount.orders, tree.clock), tree.store.stage
    appending = tree.open("d1/f", os.O_WRONLY | os.O_APPEND)
    writing = tree.open("d1/f", os.O_WRONLY)

    def slowly(*arguments):
        staged = stage(*arguments)
        other.follow()
        file = other.open("d1/f", os.O_WRONLY | os.O_APPEND)
        other.write(file, b"other")
        other.close(file)
        tree.store.catch_up()
        tree.fs.others.take()
        return staged

    monkeypatch.setattr(tree.store, "stage", slowly)
    tree.write(appending, b"m" * 100_000)
    tree.write(writing, b"B", 0)
    assert tree.stat("d1/f").size == 9 + 100_000
    tree.close(appending)
    tree.close(writing)
    assert tree.cat("d1/f") == b"Baseother" + b"m" * 100_000
    other.close_all()

"""SEMANTICS 8: a whole directory at an instant, equal to what it was, while the present goes on.

Method: random operations on a tree and on a dumb twin (a dict of paths), which is copied at random moments; later, and
between further operations, the tree at each such moment is compared with the copy, recursively, by several paths.
"""

from __future__ import annotations

import random
import stat as modes

import pytest

NAMES = ["a", "b", "c.csv", "d@2x.png", "é"]


class Twin:
    """Paths to what is there: ("dir", mode), ("file", mode, content number in `contents`) or ("link", target)."""

    def __init__(self):
        self.entries = {}

    def directories(self):
        return ["", *(path for path, entry in self.entries.items() if entry[0] == "dir")]

    def below(self, path):
        return [other for other in self.entries if other.startswith(path + "/")]

    def move(self, old, new):
        for path in [old, *self.below(old)]:
            self.entries[new + path[len(old) :]] = self.entries.pop(path)

    def copy(self):
        return {path: (entry[0], *entry[1:]) for path, entry in self.entries.items()}


class Player:
    """Does the same to the tree and to the twin. Files are values, so hard links are not played here."""

    def __init__(self, tree, seed):
        self.tree = tree
        self.twin = Twin()
        self.random = random.Random(seed)

    def free(self):
        path = f"{self.random.choice(self.twin.directories())}/{self.random.choice(NAMES)}".strip(
            "/"
        )
        return None if path in self.twin.entries else path

    def some(self, *kinds):
        found = [path for path, entry in self.twin.entries.items() if entry[0] in kinds]
        return self.random.choice(found) if found else None

    def step(self):
        self.tree.wait(self.random.choice((0, 0, 0.1, 5)))
        getattr(self, self.random.choice([n for n in dir(self) if n.startswith("do_")]))()

    def do_make_directory(self):
        if path := self.free():
            self.tree.mkdir(path)
            self.twin.entries[path] = ("dir", 0o755)

    def do_write(self):
        path = self.some("file") if self.random.random() < 0.6 else self.free()
        if path:
            mode = self.twin.entries[path][1] if path in self.twin.entries else 0o644
            content = b"%d " % self.random.randrange(10**6) * self.random.choice((0, 1, 50, 20_000))
            self.tree.put(path, content)
            self.twin.entries[path] = ("file", mode, content)

    do_write_again = do_write

    def do_append(self):
        if path := self.some("file"):
            kind, mode, content = self.twin.entries[path]
            self.tree.append(path, b"more")
            self.twin.entries[path] = (kind, mode, content + b"more")

    def do_link(self):
        if path := self.free():
            self.tree.symlink("a/../b", path)
            self.twin.entries[path] = ("link", b"a/../b")

    def do_chmod(self):
        if path := self.some("file", "dir"):
            mode = self.random.choice((0o600, 0o644, 0o755, 0o777))
            self.tree.chmod(path, mode)
            kind, _, *rest = self.twin.entries[path]
            self.twin.entries[path] = (kind, mode, *rest)

    def do_remove(self):
        path = self.some("file", "link", "dir")
        if path is None or self.twin.below(path):
            return
        (self.tree.rmdir if self.twin.entries[path][0] == "dir" else self.tree.unlink)(path)
        del self.twin.entries[path]

    def do_rename(self):
        old, new = self.some("file", "link", "dir"), self.free()
        if old and new and not (new + "/").startswith(old + "/"):
            self.tree.rename(old, new)
            self.twin.move(old, new)

    def do_rename_over(self):
        old, new = self.some("file"), self.some("file", "link")
        if old and new and old != new:
            self.tree.rename(old, new)
            self.twin.entries[new] = self.twin.entries.pop(old)


def photograph(tree, top):
    """The twin's view of what a directory shows."""
    found = {}

    def visit(path, shown):
        for name in tree.ls(f"{top}/{path}" if path else top):
            below = f"{path}/{name}".strip("/")
            stat = tree.stat(f"{top}/{below}")
            if modes.S_ISDIR(stat.mode):
                found[shown + below] = ("dir", stat.mode & 0o777)
                visit(below, shown)
            elif modes.S_ISLNK(stat.mode):
                found[below] = ("link", tree.readlink(f"{top}/{below}"))
            else:
                found[below] = ("file", stat.mode & 0o777, tree.cat(f"{top}/{below}"))

    visit("", "")
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_directory_then_is_what_it_was_while_writes_go_on(tree, seed):
    tree.mkdir("top")
    with_top = Player(_Below(tree, "top"), seed)
    moments = []
    for number in range(160):
        with_top.step()
        if number % 8 == 7:
            moments.append((tree.now(), with_top.twin.copy()))
        if moments and number % 16 == 15:
            moment, expected = with_top.random.choice(moments)
            assert photograph(tree, f"top@{moment}") == expected, (seed, moment)
    for moment, expected in moments:
        paths = (f"top@{moment}", f".@{moment}/top", f".cascade/at/{moment}/top", f"top/.@{moment}")
        for path in with_top.random.sample(paths, 2):
            assert photograph(tree, path) == expected, (seed, path)
    assert photograph(tree, "top") == with_top.twin.entries
    assert photograph(tree, "top@t=now") == with_top.twin.entries


class _Below:
    """A tree as seen from a directory of it."""

    def __init__(self, tree, top):
        self._tree, self._top = tree, top

    def wait(self, seconds):
        self._tree.wait(seconds)

    def symlink(self, target, path):
        self._tree.symlink(target, f"{self._top}/{path}")

    def rename(self, old, new):
        self._tree.rename(f"{self._top}/{old}", f"{self._top}/{new}")

    def __getattr__(self, call):
        def on_path(path, *arguments):
            return getattr(self._tree, call)(f"{self._top}/{path}", *arguments)

        return on_path


@pytest.mark.parametrize("seed", range(3))
def test_every_instant_a_directory_lists_can_be_visited(tree, seed):
    tree.mkdir("top")
    player = Player(_Below(tree, "top"), 100 + seed)
    for _ in range(60):
        player.step()
    names = tree.ls("top@@")
    assert names
    for name in names:
        assert photograph(tree, f"top@@/{name}") == photograph(tree, f"top@{name}")


@pytest.mark.parametrize("seed", range(3))
def test_history_is_never_in_a_listing(tree, seed):
    player = Player(tree, 200 + seed)
    for _ in range(120):
        player.step()
        if player.random.random() < 0.1:
            directory = player.some("dir")
            label = f"{directory}@tag-l{player.random.randrange(10**6)}"
            if directory:
                tree.mkdir(label)
    moment = tree.now()
    for directory in player.twin.directories():
        prefix = f"{directory}/" if directory else ""
        own = {
            path[len(prefix) :]
            for path in player.twin.entries
            if path.startswith(prefix) and "/" not in path[len(prefix) :]
        }
        assert set(tree.ls(directory)) == own
        assert set(tree.ls(f"{prefix}.@{moment}")) == own


def test_a_cut_is_consistent_across_directories(tree):
    tree.mkdir("a")
    tree.mkdir("b")
    tree.put("a/f", "x")
    moments = []
    for number in range(20):
        old, new = ("a/f", "b/f") if number % 2 == 0 else ("b/f", "a/f")
        tree.rename(old, new)
        moments.append(tree.now())
    for number, moment in enumerate(moments):
        seen = [tree.exists(f".@{moment}/{name}/f") for name in ("a", "b")]
        assert seen == [number % 2 == 1, number % 2 == 0]


def test_drafts_are_not_in_the_past_before_their_commit(tree):
    tree.mkdir("d")
    file = tree.open("d/f", 0o101)
    tree.write(file, b"draft")
    moment = tree.now()
    tree.close(file)
    assert tree.cat(f"d@{moment}/f") == b""  # The name was made; nothing was committed.
    assert tree.cat("d@t=now/f") == b"draft"


def test_stable_time_is_final(tree):
    tree.put("f", "one")
    stable = tree.cascade("f", "stable_time")
    tree.put("f", "two")
    assert tree.cat(f"f@{stable}") == b"one"
    assert tree.cascade("f", "stable_time") > stable


def test_the_future_is_absent(tree):
    tree.put("f", "one")
    assert tree.errno("stat", ".@t=2026-11-21T10:00:01") == "ENOENT"
    tree.wait(1)
    assert tree.cat(".@t=2026-11-21T10:00:01/f") == b"one"


def test_a_large_directory_is_read_in_parts_and_each_entry_once(tree):
    tree.mkdir("d")
    for number in range(300):
        tree.mknod(f"d/{number:03}", 0o100644)
    moment = tree.now()
    expected = [f"{number:03}" for number in range(300)]
    assert tree.ls("d") == tree.ls(f"d@{moment}") == expected
    changes = iter(range(300))

    def change():
        number = next(changes)
        tree.unlink(f"d/{number:03}")
        tree.put(f"d/new{number}", "")

    names = tree.ls(f"d@{moment}", between=change)
    assert names == expected
    tree.clock.time_ns += 1
    survivors = {name for name in expected if tree.exists(f"d/{name}")}
    names = tree.ls("d", between=change)
    assert len(names) == len(set(names))
    assert {name for name in survivors if tree.exists(f"d/{name}")} <= set(names)


def test_a_place_in_a_listing_outlives_a_rewind(tree):
    tree.mkdir("d")
    for number in range(40):
        tree.mknod(f"d/{number:02}", 0o100644)
    for path in (b"d", b"d@t=now"):
        with tree._walk(path, follow=False) as stat:
            fs = tree.fs
            handle = fs.opendir(stat.number, tree.caller)
            places = {name: behind for name, _, behind in fs.readdir(handle, 0)}
            next(iter(fs.readdir(handle, 0)))  # rewinddir(), and one entry read
            name, _, _ = next(iter(fs.readdir(handle, places[b"29"])))
            assert name == b"30"
            assert list(fs.readdir(handle, places[b"39"])) == []
            fs.releasedir(handle)


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_place_is_good_in_any_handle_after_any_removal(tree, forgotten):
    """The kernel gives one handle an offset from another's listing, whose entries are gone by now."""
    tree.mkdir("d")
    tree.setxattr("d", "user.cascade.retention", "all:1s;ephemeral=60s")
    for number in range(40):
        tree.mknod(f"d/{number:02}", 0o100644)
    with tree._walk(b"d", follow=False) as stat:
        fs = tree.fs
        first = fs.opendir(stat.number, tree.caller)
        place = {name: behind for name, _, behind in fs.readdir(first, 0)}[b"19"]
        for number in range(20):
            tree.unlink(f"d/{number:02}")
        if forgotten:
            tree.wait(120)
            tree.store.retention.run()
            assert tree.ls("d/.@deleted") == []
        second = fs.opendir(stat.number, tree.caller)
        rest = [name for name, _, _ in fs.readdir(second, place)]
        assert rest == [b"%02d" % number for number in range(20, 40)]
        fs.releasedir(first)
        fs.releasedir(second)

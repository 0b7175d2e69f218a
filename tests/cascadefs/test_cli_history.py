"""Goal: the history commands name, compare and restore the right things, and say plainly what they cannot do.

Method: comparing and planning on trees in a dict, against a twin that does the steps one by one and may stop after any;
the commands on an ordinary directory laid out as a mount shows itself (`cfg.yaml@@/.log`, `cfg@v1.yaml`, `data@T/`),
which is all they ever look at. What only a mount can show is in tests/mounted/test_cli_history.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import io
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cascadefs.cli import history
from cascadefs.cli.history import change, clock, content, moment, plan, progress, restoration
from cascadefs.cli.history.change import Facet, Sign, changes, with_renames
from cascadefs.cli.history.commands import options
from cascadefs.cli.history.moment import Moment
from cascadefs.cli.history.place import Place, locate
from cascadefs.cli.history.plan import Action, Step
from cascadefs.cli.history.refusal import Refusal, printable, saying
from cascadefs.cli.history.source import Source
from cascadefs.cli.history.tree import DiskTree, Node, join

# The name in the package is the command; this is its module.
deleted = sys.modules["cascadefs.cli.history.commands.deleted"]

UTC = datetime.UTC
SECOND = 1_000_000
T10 = 1_795_255_200 * SECOND  # 2026-11-21T10:00:00Z
NOW = T10 + 3600 * SECOND


def canon(timestamp: int) -> str:
    when = datetime.datetime.fromtimestamp(0, UTC) + datetime.timedelta(microseconds=timestamp)
    text = when.strftime("%Y%m%dT%H%M%S.%f").rstrip("0").rstrip(".")
    return f"{text}Z"


# --- trees in a dict ------------------------------------------------------------------------------------------------

FILE, DIRECTORY, LINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK


class DictTree:
    """A `Tree` over {path: Node}, the top included."""

    def __init__(self, nodes):
        self.nodes = nodes

    def top(self):
        return self.nodes.get(b"")

    def entries(self, directory):
        inside = {path: node for path, node in self.nodes.items() if path}
        return {
            path.rpartition(b"/")[2]: node
            for path, node in inside.items()
            if path.rpartition(b"/")[0] == directory
        }

    @property
    def links(self):
        found: dict[int, list[bytes]] = {}
        for path, node in self.nodes.items():
            if node.nlink > 1:
                found.setdefault(node.number, []).append(path)
        return found


def directory(number=0, mode=0o755, **fields):
    return Node(DIRECTORY | mode, number=number, **fields)


def file(number=0, size=0, mode=0o644, **fields):
    return Node(FILE | mode, number=number, size=size, **fields)


def tree(**nodes):
    """{path: Node}; "_" is "/" in a path."""
    named = {name.replace("_", "/").encode(): node for name, node in nodes.items()}
    return DictTree({b"": directory(1), **named})


def by_size(_old, _new, _node):
    """In these trees, content is the size, which stat(2) tells."""
    return Facet.NONE


def by_number(found):
    return (found.new or found.old).number or None


def said(found):
    return [
        f"{c.sign.value} {c.origin.decode() + ' -> ' if c.sign is Sign.RENAMED else ''}{c.path.decode()}"
        for c in found
        if c.sign is not Sign.CHANGED or c.facets & ~Facet.MTIME
    ]


def compared(old, new):
    # Here a number stays with a thing, as no st_ino does between now and then; another device says so.
    new = DictTree({p: dataclasses.replace(node, device=1) for p, node in new.nodes.items()})
    return with_renames(list(changes(old, new, by_size)), by_number, by_size)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (tree(a=file(2)), tree(a=file(2)), []),
        (tree(a=file(2, 1)), tree(a=file(2, 2)), ["M a"]),
        (tree(a=file(2, mode=0o600)), tree(a=file(2, mode=0o644)), ["M a"]),
        (tree(a=file(2, uid=1)), tree(a=file(2)), ["M a"]),
        (tree(a=file(2, mtime_ns=1)), tree(a=file(2, mtime_ns=2)), []),
        (tree(a=file(2)), tree(), ["- a"]),
        (tree(), tree(a=file(2)), ["+ a"]),
        (tree(a=file(2)), tree(a=directory(2), a_b=file(3)), ["- a", "+ a", "+ a/b"]),
        (tree(a=file(2)), tree(b=file(2)), ["R a -> b"]),
        (tree(a=file(2, 1)), tree(b=file(2, 2)), ["R a -> b", "M b"]),
        (tree(a=file(2), b=file(3)), tree(b=file(2)), ["- a"]),  # b is a name in both
        (tree(a=directory(2), a_x=file(3)), tree(b=directory(2), b_x=file(3)), ["R a -> b"]),
        (
            tree(a=directory(2), a_x=file(3), a_y=file(4)),
            tree(b=directory(2), b_x=file(3, 9), b_z=file(4), b_n=file(5)),
            ["R a -> b", "+ b/n", "M b/x", "R a/y -> b/z"],
        ),
        (  # Two names of one file are no rename.
            tree(a=file(2, nlink=2), b=file(2, nlink=2)),
            tree(c=file(2)),
            ["- a", "- b", "+ c"],
        ),
        (  # Out of a directory that becomes a file: it has to be free first.
            tree(a=directory(2), a_x=file(3)),
            tree(a=file(4), b=file(3)),
            ["- a", "+ a", "- a/x", "+ b"],
        ),
    ],
)
def test_what_changed_is_said_as_zfs_says_it(old, new, lines):
    assert said(compared(old, new)) == lines


def test_changes_come_in_the_order_of_names_with_directories_first():
    new = tree(a=directory(2), a_z=file(3), b=directory(4), b_a=file(5), A=file(6))
    assert said(changes(tree(), new, by_size)) == ["+ A", "+ a", "+ a/z", "+ b", "+ b/a"]


def test_nothing_is_read_where_stat_decides():
    asked = []

    def inspect(_old, new, _node):
        asked.append(new)
        return Facet.CONTENT

    old = tree(same=file(2, 5, mtime_ns=1, ctime_ns=7), unsure=file(3, 5, mtime_ns=1, ctime_ns=7))
    new = tree(same=file(9, 5, mtime_ns=1, ctime_ns=7), unsure=file(9, 5, mtime_ns=1, ctime_ns=8))
    assert said(changes(old, new, inspect)) == ["M unsure"]
    assert asked == [b"unsure"]


def test_a_single_file_is_a_tree():
    found = compared(DictTree({b"": file(2, 1)}), DictTree({b"": file(2, 2)}))
    assert [(c.sign, c.path, c.facets) for c in found] == [(Sign.CHANGED, b"", Facet.CONTENT)]
    assert said(changes(DictTree({}), DictTree({b"": file(2)}), by_size)) == ["+ "]


# --- plans, against a twin ------------------------------------------------------------------------------------------


class Twin:
    """Does steps to a tree in a dict, and notices those that a file system would refuse."""

    def __init__(self, now, then):
        self.nodes = dict(now.nodes)
        self.then = then.nodes

    def do(self, step):
        path, parent = step.path, step.path.rpartition(b"/")[0]
        if path and step.action is not Action.SETTLE:
            assert self.nodes[parent].is_directory, step
        match step.action:
            case Action.MAKE:
                assert path not in self.nodes, step
                made = step.node
                self.nodes[path] = (
                    dataclasses.replace(made, mode=DIRECTORY | 0o700) if made.is_directory else made
                )
            case Action.LINK:
                assert path not in self.nodes, step
                self.nodes[path] = self.nodes[step.origin]
            case Action.MOVE:
                assert path not in self.nodes, step
                assert step.origin in self.nodes, step
                self.nodes = {
                    path + name[len(step.origin) :]
                    if self._is_at(name, step.origin)
                    else name: node
                    for name, node in self.nodes.items()
                }
            case Action.CHANGE | Action.REPLACE:
                assert self.nodes[path].type == step.node.type, step
                self.nodes[path] = step.node
            case Action.REMOVE:
                assert not [name for name in self.nodes if name.startswith(path + b"/")], step
                del self.nodes[path]
            case Action.SETTLE:
                node = step.node or self.then.get(path)
                if node is not None and node.is_directory:
                    assert self.nodes[path].is_directory, step
                    self.nodes[path] = node

    @staticmethod
    def _is_at(name, top):
        return name == top or name.startswith(top + b"/")

    def state(self):
        return {path: (node.mode, node.size) for path, node in self.nodes.items()}


def planned(now, then, **more):
    found = compared(now, then)
    return plan.plan(found, then_links=then.links, now_links=now.links, **more)


names = st.sampled_from([b"a", b"b", b"c"])
operations = st.lists(
    st.tuples(
        st.sampled_from(["file", "directory", "remove", "rename", "edit", "mode"]),
        st.lists(names, min_size=1, max_size=3).map(b"/".join),
        st.lists(names, min_size=1, max_size=3).map(b"/".join),
    ),
    max_size=14,
)


def operated(start, some, first_number):
    """A tree after operations, of which those that make no sense do nothing."""
    nodes = dict(start.nodes)
    for number, (what, path, other) in enumerate(some, start=first_number):
        parent = nodes.get(path.rpartition(b"/")[0])
        other_parent = nodes.get(other.rpartition(b"/")[0])
        if what in ("file", "directory"):
            if path not in nodes and parent is not None and parent.is_directory:
                nodes[path] = file(number, number) if what == "file" else directory(number)
        elif path not in nodes:
            continue
        elif what == "remove":
            nodes = {n: node for n, node in nodes.items() if not Twin._is_at(n, path)}
        elif what == "rename":
            if other_parent and other_parent.is_directory and not Twin._is_at(other, path):
                if other in nodes:
                    continue
                nodes = {
                    other + n[len(path) :] if Twin._is_at(n, path) else n: node
                    for n, node in nodes.items()
                }
        elif what == "edit" and nodes[path].is_file:
            nodes[path] = dataclasses.replace(nodes[path], size=number)
        elif what == "mode":
            nodes[path] = dataclasses.replace(
                nodes[path], mode=nodes[path].type | 0o700 ^ number % 8
            )
    return DictTree(nodes)


@pytest.mark.slow
@given(operations, operations, st.integers(0, 40))
def test_a_plan_leads_from_now_to_then_also_when_it_is_cut_off(before, after, stop):
    then = operated(tree(), before, 2)
    now = operated(then, after, 100)
    steps = planned(now, then)
    twin = Twin(now, then)
    for step in steps[:stop]:
        twin.do(step)
    rest = planned(DictTree(twin.nodes), then)
    for step in rest:
        twin.do(step)
    assert twin.state() == {path: (node.mode, node.size) for path, node in then.nodes.items()}
    assert not planned(DictTree(twin.nodes), then)


@pytest.mark.slow
@given(operations, operations)
def test_nothing_is_removed_before_everything_is_back(before, after):
    then = operated(tree(), before, 2)
    now = operated(then, after, 100)
    steps = planned(now, then)
    in_the_way = {path for path in then.nodes if path in now.nodes}
    started = False
    for step in steps:
        is_removal = step.action is Action.REMOVE
        top = next(
            (
                p
                for p in in_the_way
                if Twin._is_at(step.path, p) and p and then.nodes[p].type != now.nodes[p].type
            ),
            None,
        )
        if is_removal and top is None:
            started = True
        assert not started or step.action in (Action.REMOVE, Action.SETTLE)


def test_without_removing_only_what_is_in_the_way_goes():
    now = tree(later=file(2), a=directory(3), a_x=file(4))
    then = tree(a=file(5))
    steps = planned(now, then, remove=False)
    assert [(s.action, s.path) for s in steps if s.sign] == [
        (Action.REMOVE, b"a/x"),
        (Action.REMOVE, b"a"),
        (Action.MAKE, b"a"),
    ]


def test_names_of_one_file_come_back_as_names_of_one_file():
    then = tree(a=file(2, 1, nlink=3), b=file(2, 1, nlink=3), c=file(2, 1, nlink=3))
    now = tree(b=file(2, 1))
    steps = [(s.action, s.path, s.origin) for s in planned(now, then) if s.sign]
    assert steps == [(Action.MAKE, b"a", None), (Action.LINK, b"c", b"a")]


def test_a_file_with_several_names_is_restored_once():
    then = tree(a=file(2, 1, nlink=2), b=file(2, 1, nlink=2))
    now = tree(a=file(3, 9, nlink=2), b=file(3, 9, nlink=2))
    assert [(s.action, s.path) for s in planned(now, then) if s.sign] == [(Action.CHANGE, b"a")]


def test_a_name_that_was_another_file_is_parted_from_it():
    then = tree(a=file(2, 1), b=file(3, 2))
    now = tree(a=file(4, 9, nlink=2), b=file(4, 9, nlink=2))
    assert [(s.action, s.path) for s in planned(now, then) if s.sign] == [
        (Action.REPLACE, b"a"),
        (Action.REPLACE, b"b"),
    ]


def test_what_came_later_into_a_moved_directory_goes_where_that_is_by_then():
    now = tree(a=directory(2), a_x=file(3), a_later=file(4))
    then = tree(b=directory(2), b_x=file(3))
    assert [(s.action, s.path) for s in planned(now, then) if s.sign] == [
        (Action.MOVE, b"b"),
        (Action.REMOVE, b"b/later"),
    ]


def test_directories_get_their_attributes_last_and_innermost_first():
    then = tree(a=directory(2), a_b=directory(3), a_b_x=file(4))
    steps = planned(tree(), then)
    settled = [s.path for s in steps if s.action is Action.SETTLE]
    assert settled == [b"a/b", b"a", b""]
    assert [s.action for s in steps[-3:]] == [Action.SETTLE] * 3


# --- doing it, in ordinary directories ------------------------------------------------------------------------------


def no_share(_path, _spec):
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def fill(top: Path, **files):
    for name, value in files.items():
        path = top / name.replace("__", ".").replace("_", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    return top


def photograph(top: Path):
    """Everything that a restoration has to bring back."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        what = (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        )
        # Of a link only the target; of everything the time.
        mode = 0 if path.is_symlink() else status.st_mode
        found[str(path.relative_to(top))] = (
            stat.S_IFMT(status.st_mode),
            mode,
            what,
            status.st_mtime_ns,
        )
    return found


def sample(top: Path) -> Path:
    fill(top, a="1", sub_b="22", sub_deep_c="333", d_x="4")
    (top / "link").symlink_to("a")
    os.mkfifo(top / "pipe")
    os.link(top / "a", top / "again")
    (top / "a").chmod(0o640)
    (top / "sub").chmod(0o750)
    with open(top / "sparse", "wb") as sparse:
        sparse.seek(3 << 20)
        sparse.write(b"end")
    for number, path in enumerate([*top.rglob("*"), top]):
        os.utime(path, ns=(10**18 + number, 10**18 + number), follow_symlinks=False)
    return top


def spoil(top: Path) -> None:
    (top / "a").write_text("changed")
    shutil.rmtree(top / "sub")
    (top / "sub").write_text("a file now")
    (top / "d/x").unlink()
    (top / "d/x").mkdir()
    (top / "d/x/later").write_text("later")
    (top / "link").unlink()
    (top / "link").symlink_to("elsewhere")
    (top / "pipe").unlink()
    (top / "sparse").unlink()
    (top / "later").mkdir()
    (top / "later/file").write_text("later")
    (top / "d").chmod(0o700)


def steps_between(now: Path, then: Path):
    trees = DiskTree(os.fsencode(now)), DiskTree(os.fsencode(then))
    found = list(changes(*trees, content.Inspection(*trees)))
    return plan.plan(found, then_links=trees[1].links, now_links=trees[0].links)


def restored(now: Path, then: Path, stop: int | None = None):
    steps = steps_between(now, then)
    doing = restoration.Restoration(Source(os.fsencode(then)), os.fsencode(now), share=no_share)
    for step in steps[:stop]:
        doing.do(step)
    return steps


def test_everything_comes_back(tmp_path):
    then, now = sample(tmp_path / "then"), sample(tmp_path / "now")
    os.utime(now / "again", ns=(1, 1))
    spoil(now)
    restored(now, then)
    assert photograph(now) == photograph(then)
    assert (now / "a").stat().st_ino == (now / "again").stat().st_ino
    assert (now / "sparse").stat().st_blocks < 2048
    assert not steps_between(now, then)


@pytest.mark.slow
def test_it_may_stop_after_any_step(tmp_path):
    then = sample(tmp_path / "then")
    first = sample(tmp_path / "now")
    spoil(first)
    count = len(steps_between(first, then))
    assert count > 15
    for stop in range(count):
        now = sample(tmp_path / f"now{stop}")
        spoil(now)
        restored(now, then, stop)
        restored(now, then)
        assert photograph(now) == photograph(then), stop


def test_what_a_cut_off_copy_left_does_not_stay(tmp_path):
    then, now = fill(tmp_path / "then", a="1"), fill(tmp_path / "now", a="2")
    left = now / f".cascadefs-restore-{(then / 'a').stat().st_ino:x}"
    left.write_text("half")
    restored(now, then)
    assert photograph(now)["a"] == photograph(then)["a"]
    assert not left.exists()


def test_a_copy_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    then, now = fill(tmp_path / "then", a="1"), fill(tmp_path / "now", a="22")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(restoration, "_copy_bytes", full)
    with pytest.raises(OSError, match="No space"):
        restored(now, then)
    assert [path.name for path in now.iterdir()] == ["a"]
    assert (now / "a").read_text() == "22"


@contextlib.contextmanager
def as_somebody():
    """A directory whose owner is not root, and be him."""
    top = Path(tempfile.mkdtemp())
    try:
        top.chmod(0o755)
        somebody = os.geteuid() or 65534
        os.chown(top, somebody, -1)
        me = os.geteuid()
        os.seteuid(somebody)
        try:
            yield top
        finally:
            os.seteuid(me)
    finally:
        shutil.rmtree(top)


def test_read_only_directories_and_files_of_ones_own_are_no_obstacle():
    with as_somebody() as top:
        then, now = (
            fill(top / "then", d_a="1", d_gone="2"),
            fill(top / "now", d_a="changed", d_new=""),
        )
        for each in then, now:
            (each / "d/a").chmod(0o444)
            (each / "d").chmod(0o555)
        restored(now, then)
        assert photograph(now)["d/a"] == photograph(then)["d/a"]
        assert photograph(now).keys() == photograph(then).keys()
        assert stat.S_IMODE((now / "d").stat().st_mode) == 0o555
        for each in then, now:
            (each / "d").chmod(0o755)


def test_what_only_root_may_set_is_counted_and_set_uid_is_dropped():
    with as_somebody() as top:
        then, now = fill(top / "then", a="1"), fill(top / "now", a="2")
        (then / "a").chmod(0o4755)
        found = os.lstat(then / "a")
        step = Step(
            Action.CHANGE, b"a", Node(found.st_mode, uid=0, gid=found.st_gid), facets=Facet.CONTENT
        )
        doing = restoration.Restoration(Source(os.fsencode(then)), os.fsencode(now), share=no_share)
        doing.do(step)
        assert doing.unsettled == 1
        assert (now / "a").read_text() == "1"
        assert stat.S_IMODE((now / "a").stat().st_mode) == 0o755


def test_a_mode_goes_to_no_other_file_that_took_the_name(tmp_path):
    then, now = fill(tmp_path / "then", a="1"), fill(tmp_path / "now", victim="2")
    (now / "victim").chmod(0o600)
    (now / "a").symlink_to("victim")
    (then / "a").chmod(0o755)
    doing = restoration.Restoration(Source(os.fsencode(then)), os.fsencode(now), share=no_share)
    node = Node((then / "a").stat().st_mode, mtime_ns=5)
    with pytest.raises(OSError, match="Stale"):
        doing.do(Step(Action.CHANGE, b"a", node, facets=Facet.MODE))
    assert stat.S_IMODE((now / "victim").stat().st_mode) == 0o600


def test_content_is_shared_only_where_the_name_itself_has_it(tmp_path):
    asked = []
    now = fill(tmp_path / "now", a="2", b="2")
    (tmp_path / "now@20261121T100000Z").mkdir()
    then = fill(tmp_path / "now@20261121T100000Z", a="1", b="1")
    os.link(then / "a", now / "a@20261121T100000Z")  # The same thing by another path,
    (now / "b@20261121T100000Z").write_text("3")  # and another thing that has the name.
    source = Source(os.fsencode(then), at=T10)
    doing = restoration.Restoration(
        source, os.fsencode(now), share=lambda path, spec: asked.append((path, spec))
    )
    for name in (b"a", b"b"):
        node = Node(FILE | 0o644, mtime_ns=5)
        doing.do(Step(Action.CHANGE, name, node, facets=Facet.CONTENT))
    assert asked == [(os.fsencode(now / "a"), b"20261121T100000Z")]
    assert (now / "b").read_text() == "1"


# --- a directory laid out like a mount ------------------------------------------------------------------------------


@dataclasses.dataclass
class Layout:
    """Makes what a mount shows of its history."""

    path: Path

    def log(self, name, *lines):
        folder = self.path / f"{name}@@"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".log").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def version(self, number, kind="write", *, at=None, size: int | None = 1, **more):
        timestamp = T10 + number * SECOND if at is None else at
        line = {"version": number, "timestamp": timestamp, "time": canon(timestamp), "kind": kind}
        if kind not in ("delete", "moved"):
            line |= {"size": size, "mode": 33188, "uid": 0, "gid": 0, "mtime_ns": 0, "inode": 7}
        return line | {"moved_from": None, "moved_to": None, "same": False} | more

    def write(self, name, text):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def layout(tmp_path, monkeypatch):
    made = Layout(tmp_path / "mnt")
    made.write(".cascade/status", '{"mountpoint": "mnt"}')
    made.write("cfg.yaml", "a: 3\nb: 1\n")
    made.write("cfg@v1.yaml", "a: 1\nb: 1\n")
    made.write("cfg@v3.yaml", "a: 3\nb: 1\n")
    made.log(
        "cfg.yaml",
        made.version(3),
        made.version(2, same=True),
        made.version(1, "create"),
    )
    made.log("gone.txt", made.version(3, "delete"), made.version(2, size=4), made.version(1))
    made.write("gone@v2.txt", "last")
    made.write(".@deleted/gone.txt", "last")
    made.log(".")
    made.log("data", {"timestamp": T10, "time": canon(T10)})
    made.write("data/kept", "same")
    made.write("data/changed", "now")
    made.write("data/later", "later")
    made.write(f"data@{canon(T10)}/kept", "same")
    os.utime(made.path / "data/kept", ns=(1, 1))
    os.utime(made.path / f"data@{canon(T10)}/kept", ns=(1, 1))
    made.write(f"data@{canon(T10)}/changed", "then")
    made.write(f"data@{canon(T10)}/missing", "missing")
    monkeypatch.chdir(made.path)
    monkeypatch.setattr(options, "now_us", lambda: NOW)
    monkeypatch.setattr(options, "LocalZone", lambda: UTC)

    def setxattr(path, name, value, flags=0, *, follow_symlinks=True):
        assert name == "user.cascade.restore"
        no_share(path, value)

    monkeypatch.setattr(restoration.os, "setxattr", setxattr)
    return made


def cascadefs(*arguments, expect=0):
    app = typer.Typer()
    history.register(app)
    done = CliRunner().invoke(app, [os.fsdecode(a) for a in arguments])
    assert done.exit_code == expect, (done.output, done.exception)
    return done


def output(*arguments, expect=0):
    return os.fsdecode(cascadefs(*arguments, expect=expect).stdout_bytes)


def objects(*arguments, expect=0):
    return [json.loads(line) for line in output(*arguments, "--json", expect=expect).splitlines()]


def refusal(*arguments, expect=1):
    done = cascadefs(*arguments, expect=expect)
    assert done.stdout == ""
    assert done.stderr.startswith("cascadefs: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("cascadefs: ").rstrip("\n")


def test_log_shows_versions_by_names_that_open_them(layout):
    assert output("log", "cfg.yaml").splitlines() == [
        "cfg@v3.yaml  20261121T100003Z  1  write",
        "cfg@v1.yaml  20261121T100001Z  1  create",
    ]
    for line in output("log", "cfg.yaml").splitlines():
        assert (layout.path / line.split()[0]).exists()
    assert [row["version"] for row in objects("log", "--all", "cfg.yaml")] == [3, 2, 1]
    assert [row["version"] for row in objects("log", "-n", "1", "cfg.yaml")] == [3]
    assert objects("log", "-n", "1", "cfg.yaml")[0] == {
        "path": "cfg@v3.yaml",
        "version": 3,
        "time": "20261121T100003Z",
        "timestamp": T10 + 3 * SECOND,
        "kind": "write",
        "size": 1,
        "mode": 33188,
        "uid": 0,
        "gid": 0,
        "mtime_ns": 0,
        "inode": 7,
        "moved_from": None,
        "moved_to": None,
        "same": False,
        "gone": None,
    }


def test_log_keeps_the_spelling_of_the_path(layout, monkeypatch):
    assert output("log", layout.path / "cfg.yaml").startswith(f"{layout.path}/cfg@v3.yaml ")
    assert output("log", "./data/../cfg.yaml").startswith("./data/../cfg@v3.yaml ")
    monkeypatch.chdir(layout.path.parent)
    assert output("log", "mnt/cfg.yaml").startswith("mnt/cfg@v3.yaml ")


def test_log_of_a_deleted_name(layout):
    assert output("log", "gone.txt").splitlines()[0] == "gone@v3.txt  20261121T100003Z  -  delete"
    assert [row["path"] for row in objects("log", "gone.txt")] == [
        None,
        "gone@v2.txt",
        "gone@v1.txt",
    ]
    assert [row["version"] for row in objects("log", "--deleted", "gone.txt")] == [3]
    assert [row["version"] for row in objects("log", "--deleted", ".")] == [3]


def test_log_of_a_directory_is_its_instants(layout):
    path = f"data@{canon(T10)}"
    assert output("log", "data").split() == [path, canon(T10)]
    assert objects("log", "data/") == [{"path": path, "time": canon(T10), "timestamp": T10}]


def test_log_follows_renames_both_ways_round(layout):
    """a, moved to b, moved back to a, moved to b again; tmp names in between are used again and again."""
    seconds = [T10 + n * SECOND for n in range(10)]
    moved = {"kind": "moved", "moved_to": "b"}
    layout.write("b", "")
    layout.log(
        "b",
        layout.version(3, "move", at=seconds[7], moved_from="a"),
        layout.version(2, "moved", at=seconds[5], moved_to="a"),
        layout.version(1, "move", at=seconds[3], moved_from="a"),
    )
    layout.log(
        "a",
        layout.version(7, "create", at=seconds[9]),
        layout.version(6, at=seconds[7], **moved),
        layout.version(5, "move", at=seconds[5], moved_from="b"),
        layout.version(4, at=seconds[3], **moved),
        layout.version(3, "create", at=seconds[2]),
        layout.version(2, "delete", at=seconds[1]),
        layout.version(1, "create", at=seconds[0]),
    )
    followed = [(row["path"], row["kind"]) for row in objects("log", "--follow", "b")]
    assert followed == [
        ("b@v3", "move"),
        ("a@v5", "move"),
        (None, "moved"),
        ("b@v1", "move"),
        ("a@v3", "create"),
    ]
    assert "move from a" in output("log", "b")
    assert "moved to a" in output("log", "b")


def test_log_follows_into_another_directory_and_says_where_it_cannot(layout, monkeypatch):
    layout.write("data/new", "")
    layout.log("data/new", layout.version(1, "move", at=T10 + 9, moved_from="old dir/x"))
    done = cascadefs("log", "--follow", "data/new")
    assert done.stdout.startswith("data/new@v1")
    assert "old dir/x: what it was before cannot be reached any more" in done.stderr
    layout.log(
        "old dir/x", layout.version(2, "moved", at=T10 + 9), layout.version(1, "create", at=T10)
    )
    assert [row["path"] for row in objects("log", "--follow", "data/new")][1] == "old dir/x@v1"
    monkeypatch.chdir(layout.path / "data")
    assert [row["path"] for row in objects("log", "--follow", "new")][1] == "../old dir/x@v1"


def test_at_prints_a_path_that_stays(layout):
    then = f"data@{canon(T10)}"
    assert output("at", "2026-11-21T10:00", "data") == f"{then}\n"
    assert output("at", "1 hour ago", "data/") == f"{then}\n"
    assert output("at", "-1h", "data") == f"{then}\n"
    assert objects("at", "today 10:00", "data") == [
        {"path": then, "time": canon(T10), "timestamp": T10}
    ]
    now = f"data@{canon(NOW)}"
    (layout.path / now).mkdir()
    assert output("at", "now", "data") == f"{now}\n"


def test_at_the_root_uses_the_directorys_own_name(layout, monkeypatch):
    (layout.path / f".@{canon(T10)}").mkdir()
    assert output("at", "-1h") == f".@{canon(T10)}\n"
    assert output("at", "-1h", layout.path) == f"{layout.path}/.@{canon(T10)}\n"
    assert output("at", "-1h", f"{layout.path}/") == f"{layout.path}/.@{canon(T10)}\n"
    monkeypatch.chdir(layout.path / "data")
    assert output("at", "-1h", "..") == f"../.@{canon(T10)}\n"


def test_ls_and_cat_then_and_now(layout):
    assert output("ls", "data").split() == ["changed", "kept", "later"]
    assert output("ls", "-t", "1 hour ago", "data").split() == ["changed", "kept", "missing"]
    assert output("ls", f"data@{canon(T10)}").split() == ["changed", "kept", "missing"]
    assert output("ls", "cfg.yaml").split() == ["cfg.yaml"]
    long = output("ls", "-l", "-t", "-1h", "data").splitlines()
    assert [line.split()[-1] for line in long] == ["changed", "kept", "missing"]
    assert long[0].startswith("-rw")
    row = objects("ls", "-t", "-1h", "data")[0]
    assert (row["name"], row["path"]) == ("changed", f"data@{canon(T10)}/changed")
    assert (row["type"], row["size"], row["target"]) == ("file", 4, None)


def test_cat_gives_the_bytes(layout):
    assert output("cat", "cfg@v1.yaml") == "a: 1\nb: 1\n"
    layout.write(f"cfg@{canon(T10)}.yaml", "then")
    assert output("cat", "-t", "-1h", "cfg.yaml") == "then"
    (layout.path / "cfg@v1.yaml").write_bytes(b"\xff\0\r\n")
    assert cascadefs("cat", "cfg@v1.yaml").stdout_bytes == b"\xff\0\r\n"
    assert objects("cat", "cfg@v1.yaml") == [
        {"path": "cfg@v1.yaml", "size": 4, "base64": "/wANCg=="}
    ]
    assert objects("cat", "cfg@v3.yaml")[0]["text"] == "a: 3\nb: 1\n"


def test_ls_lists_versions_by_number_and_hides_control(layout):
    for number in (1, 2, 10):
        layout.write(f"cfg.yaml@@/v{number}.yaml", "")
    assert output("ls", "cfg.yaml@@").split() == [".log", "v1.yaml", "v2.yaml", "v10.yaml"]
    assert ".cascade" not in output("ls", ".").split()


def test_diff_of_two_versions_is_unified(layout):
    text = output("diff", "cfg@v1.yaml", "cfg@v3.yaml", expect=1)
    assert text.splitlines() == [
        "--- cfg@v1.yaml",
        "+++ cfg@v3.yaml",
        "@@ -1,2 +1,2 @@",
        "-a: 1",
        "+a: 3",
        " b: 1",
    ]
    assert output("diff", "cfg@v1.yaml", expect=1).splitlines()[1] == "+++ cfg.yaml"
    assert output("diff", "cfg@v3.yaml", "cfg.yaml") == ""
    (row,) = objects("diff", "cfg@v1.yaml", expect=1)
    assert (row["old"], row["new"], row["changed"]) == ("cfg@v1.yaml", "cfg.yaml", ["content"])
    assert row["diff"] == text.replace("cfg@v3.yaml", "cfg.yaml")


def test_diff_of_what_is_no_text_and_of_modes(layout):
    (layout.path / "cfg@v1.yaml").write_bytes(b"\0")
    assert output("diff", "cfg@v1.yaml", expect=1) == "Files cfg@v1.yaml and cfg.yaml differ\n"
    (layout.path / "cfg@v3.yaml").chmod(0o600)
    (layout.path / "cfg.yaml").chmod(0o644)
    assert output("diff", "cfg@v3.yaml", expect=1) == "old mode 100600\nnew mode 100644\n"
    layout.write("other", "a: 3\nb: 1\n")
    (layout.path / "other").chmod(0o600)
    assert output("diff", "cfg.yaml", "other") == ""


def test_diff_of_text_without_a_last_newline_can_be_applied(layout):
    layout.write("cfg@v1.yaml", "a")
    layout.write("cfg.yaml", "b")
    assert output("diff", "cfg@v1.yaml", expect=1).splitlines()[3:] == [
        "-a",
        "\\ No newline at end of file",
        "+b",
        "\\ No newline at end of file",
    ]


def test_diff_of_directories_says_what_came_went_and_changed(layout):
    lines = ["M data/changed", "+ data/later", "- data/missing"]
    assert output("diff", "data", "-t", "-1h", expect=1).splitlines() == lines
    assert output("diff", f"data@{canon(T10)}", expect=1).splitlines() == lines
    assert output("diff", f"data@{canon(T10)}", "data", expect=1).splitlines() == lines
    assert output("diff", "data", "data") == ""
    changed, later, missing = objects("diff", "data", "-t", "-1h", expect=1)
    assert changed == {
        "change": "M",
        "path": "data/changed",
        "from": None,
        "type": "file",
        "changed": ["content"],
        "old": f"data@{canon(T10)}/changed",
        "new": "data/changed",
    }
    assert (later["old"], later["new"]) == (None, "data/later")
    assert (missing["old"], missing["new"]) == (f"data@{canon(T10)}/missing", None)
    text = output("diff", "-u", "data", "-t", "-1h", expect=1).splitlines()
    assert text[:2] == ["M data/changed", f"--- data@{canon(T10)}/changed"]
    assert "-then" in text


def test_diff_with_what_was_not_there(layout):
    assert output("diff", "data/later", "-t", "-1h", expect=1) == "+ data/later\n"
    assert refusal("diff", "data/never", "-t", "-1h", expect=2).startswith("data/never")
    assert "no version 99" in refusal("diff", "cfg.yaml@v99", expect=2)


def test_restore_makes_a_file_what_it_was(layout):
    os.utime(layout.path / "cfg@v1.yaml", ns=(10**18, 10**18))
    (layout.path / "cfg@v1.yaml").chmod(0o600)
    assert output("restore", "cfg@v1.yaml", "--dry-run") == "M cfg.yaml\n"
    assert (layout.path / "cfg.yaml").read_text() == "a: 3\nb: 1\n"
    assert output("restore", "cfg@v1.yaml") == "M cfg.yaml\n"
    assert (layout.path / "cfg.yaml").read_text() == "a: 1\nb: 1\n"
    status = (layout.path / "cfg.yaml").stat()
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (10**18, 0o600)
    assert output("restore", "cfg@v1.yaml") == ""


def test_restore_brings_deleted_names_back(layout):
    assert output("restore", "gone.txt", "--dry-run") == "+ gone.txt\n"
    assert objects("restore", "gone.txt") == [
        {"change": "+", "path": "gone.txt", "from": None, "changed": [], "done": True}
    ]
    assert (layout.path / "gone.txt").read_text() == "last"


@pytest.mark.parametrize("path", ["gone@v2.txt", "gone.txt@@/v2.txt", ".@deleted/gone.txt"])
def test_restore_takes_every_name_of_a_version(layout, path):
    assert output("restore", path) == "+ gone.txt\n"
    assert (layout.path / "gone.txt").read_text() == "last"


def test_restore_of_a_directory(layout):
    lines = ["M data/changed", "+ data/missing", "- data/later"]
    assert output("restore", "data", "-t", "-1h", "--dry-run").splitlines() == lines
    assert output("restore", "data", "-t", "-1h").splitlines() == lines
    assert photograph(layout.path / "data") == photograph(layout.path / f"data@{canon(T10)}")
    assert output("restore", "data", "-t", "-1h") == ""


def test_restore_goes_elsewhere_and_removes_nothing_there(layout, tmp_path):
    then = f"data@{canon(T10)}"
    target = tmp_path / "copy"
    assert len(output("restore", then, "--to", target).splitlines()) == 4
    assert photograph(target) == photograph(layout.path / then)
    (target / "own").write_text("kept")
    (target / "missing").unlink()
    assert output("restore", then, "--to", target) == f"+ {target}/missing\n"
    assert (target / "own").exists()
    (target / "changed").write_text("would be lost")
    assert "not on a mount that would remember it" in refusal("restore", then, "--to", target)
    assert output("restore", "gone.txt", "--to", target) == f"+ {target}/gone.txt\n"


def test_restore_goes_on_after_a_failure_but_removes_nothing_then(layout, monkeypatch):
    make = restoration.Restoration._make

    def fail(self, step, path):
        if path.endswith(b"missing"):
            raise PermissionError(errno.EACCES, "Permission denied")
        make(self, step, path)

    monkeypatch.setattr(restoration.Restoration, "_make", fail)
    done = cascadefs("restore", "data", "-t", "-1h", expect=1)
    assert done.stdout == "M data/changed\n"
    assert done.stderr.splitlines() == [
        "cascadefs: data/missing: permission denied, now or then",
        "cascadefs: data: 1 of it failed; put that right and restore again; what is restored stays",
    ]
    assert (layout.path / "data/later").exists()


def test_deleted_lists_names_that_are_gone(layout, monkeypatch):
    assert output("deleted").split() == ["gone@v2.txt", "20261121T100003Z", "4", "delete"]
    layout.log("data/old", layout.version(2, "moved", moved_to="data/new"), layout.version(1))
    layout.write("data/.@deleted/old", "x")
    layout.write("data/sub/.@deleted/x", "x")
    layout.log("data/sub/x", layout.version(2, "delete"), layout.version(1))
    assert output("deleted", "data").split()[3:] == ["moved", "to", "data/new"]
    directories = deleted._directories  # A mount does not list its virtual ones.
    monkeypatch.setattr(
        deleted, "_directories", lambda path: [n for n in directories(path) if b"@" not in n]
    )
    rows = objects("deleted", "-r")
    assert [row["path"] for row in rows] == ["gone@v2.txt", "data/old@v1", "data/sub/x@v1"]
    assert rows[1]["moved_to"] == "data/new"
    assert rows[0] == {
        "name": "gone.txt",
        "path": "gone@v2.txt",
        "type": "file",
        "time": "20261121T100003Z",
        "timestamp": T10 + 3 * SECOND,
        "kind": "delete",
        "size": 4,
        "version": 2,
        "moved_to": None,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["log", "/"], "/: not on a cascadefs mount; `findmnt -t fuse.cascadefs` lists the mounts"),
        (["log", "nope"], "nope: no history: no such name was ever here"),
        (
            ["log", "cfg@v1.yaml"],
            "cfg@v1.yaml: a log is of a name as a whole; `cascadefs log cfg.yaml`",
        ),
        (["log", ""], "'': an empty path names nothing"),
        (
            ["cat", "cfg@v9.yaml"],
            "cfg@v9.yaml: no version 9; there are versions 1 to 3; see `cascadefs log cfg.yaml`",
        ),
        (
            ["cat", "gone@v3.txt"],
            "gone@v3.txt: version 3 is its removal and has no content; see `cascadefs log gone.txt`",
        ),
        (
            ["cat", "gone.txt"],
            "gone.txt: it is not there now; see `cascadefs log gone.txt`, or say when",
        ),
        (["cat", "data"], "data: it is a directory; `cascadefs ls` lists it"),
        (
            ["cat", "-t", "2026-11-21T10:00:09", "gone.txt"],
            "gone@20261121T100009Z.txt: not there at 20261121T100009Z: it was removed at 20261121T100003Z; "
            "see `cascadefs log gone.txt`",
        ),
        (
            ["cat", "-t", "2026-11-20", "gone.txt"],
            "gone@20261120T000000Z.txt: not there at 20261120T000000Z: its first version is of "
            "20261121T100001Z; see `cascadefs log gone.txt`",
        ),
        (
            ["cat", "cfg.yaml@t=2026-13"],
            "cfg.yaml@t=2026-13: month must be in 1..12; times look like 20261121T100000Z or -10m",
        ),
        (
            ["at", "2026-11-21T12:00", "data"],
            "time: '2026-11-21T12:00' is 20261121T120000Z, which is in the future; times without a zone are "
            "local; add Z for UTC",
        ),
        (
            ["at", "soon", "data"],
            "time: 'soon': not a time; say 'yesterday 10:00', '10 minutes ago', 2026-11-21T10:00 or now",
        ),
        (["at", "-99999999999w", "data"], "time: '-99999999999w': outside the years 1 to 9999"),
        (["ls", "data@tag-x"], "data@tag-x: no label x"),
        (["restore", "nope"], "nope: no history: no such name was ever here"),
        (
            ["restore", "gone@v2.txt", "--to", "no/x"],
            "no/x: its directory no is not there now; restore that first, or say --to TARGET",
        ),
        (
            ["deleted", "data@20261121T100000Z"],
            "data@20261121T100000Z: it is of the past; name a directory of now",
        ),
    ],
)
def test_refusals_name_the_thing_the_reason_and_the_remedy(layout, arguments, words):
    assert refusal(*arguments) == words


@pytest.mark.parametrize(
    "arguments",
    [
        ["restore", "cfg.yaml"],
        ["restore", "cfg.yaml@@"],
        ["diff", "cfg.yaml"],
        ["diff", "cfg.yaml", "data", "-t", "now"],
        ["cat", "cfg@v1.yaml", "-t", "now"],
        ["log"],
        ["log", "-n", "-1", "cfg.yaml"],
    ],
)
def test_calling_it_wrongly_is_another_status(layout, arguments):
    assert cascadefs(*arguments, expect=2).stdout == ""


def test_trouble_is_two_for_diff_since_one_means_different(layout):
    assert refusal("diff", "cfg@v1.yaml", "nope", expect=2).startswith("nope: ")


def test_names_with_an_at_are_names_unless_their_base_has_history(layout):
    layout.write("icon@2x.png", "plain")
    layout.write("a@v1", "a name, because there is no a")
    layout.log("icon@2x.png", layout.version(1))
    layout.log("a@v1", layout.version(1))
    assert output("cat", "a@v1") == "a name, because there is no a"
    assert output("log", "icon@2x.png").startswith("icon@2x@v1.png ")
    layout.log("a", layout.version(1))  # It came later: the literal name wins.
    assert output("log", "a@v1").startswith("a@v1@v1 ")


def test_names_need_not_be_text(layout):
    name = b"caf\xe9 \n.txt"
    with open(name, "wb") as made:
        made.write(b"x")
    os.mkdir(name + b"@@")
    with open(name + b"@@/.log", "w") as log:
        log.write(json.dumps(layout.version(1, moved_from="\udcff")) + "\n")
    assert cascadefs("log", name).stdout_bytes.startswith(b"caf\xe9 \n@v1.txt  2026")
    (row,) = objects("log", name)
    assert os.fsencode(row["path"]) == b"caf\xe9 \n@v1.txt"
    assert os.fsencode(row["moved_from"]) == b"\xff"
    assert printable(name) == "caf\\xe9 \\n.txt"


def test_a_link_from_outside_leads_in_and_one_inside_is_itself(layout, tmp_path):
    outside = tmp_path / "outside"
    outside.symlink_to(layout.path / "data")
    assert output("at", "-1h", outside) == f"{layout.path}/data@{canon(T10)}\n"
    (layout.path / "inside").symlink_to("data")
    layout.log("inside", layout.version(1, "create"))
    assert output("log", "inside").startswith("inside@v1 ")
    root = tmp_path / "root"
    root.symlink_to(layout.path)
    (layout.path / f".@{canon(T10)}").mkdir()
    assert output("at", "-1h", root) == f"{root}/.@{canon(T10)}\n"


def test_on_a_terminal_there_is_a_table_and_nothing_steers_it(layout, monkeypatch):
    monkeypatch.setattr(options, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    text = output("log", "cfg.yaml")
    assert text.split()[:4] == ["version", "time", "size", "kind"]
    assert "cfg@v3.yaml" in text
    layout.write("data/\x1b[31mred", "")
    assert "\x1b[31m" not in output("diff", "data", "-t", "-1h", expect=1)
    assert "-a: 1" in output("diff", "cfg@v1.yaml", expect=1)
    assert objects("log", "cfg.yaml")[0]["version"] == 3


# --- places and moments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "path_then"),
    [
        ("data", "data@T"),
        ("data/", "data@T"),
        ("data/kept", "data/kept@T"),
        ("cfg.yaml", "cfg@T.yaml"),
        (".", ".@T"),
        ("data/.", "data/.@T"),
        ("data/..", "data/../.@T"),
        ("./data", "./data@T"),
        ("no/such/file", "no@T/such/file"),
        ("data/no/file", "data/no@T/file"),
    ],
)
def test_the_path_of_then(layout, path, path_then):
    place = locate(path.encode())
    assert place.at(T10).path == path_then.replace("T", canon(T10), 1).encode()
    assert place.root == os.fsencode(layout.path)


def test_a_place_knows_what_is_asked_of_it(layout):
    place = locate(b"data@-10m/sub/x.txt")
    assert (place.directory, place.name, place.rest) == (b"", b"data", b"sub/x.txt")
    assert place.live == b"data/sub/x.txt"
    assert place.path == b"data@-10m/sub/x.txt"
    assert locate(b"data@@/20261121T100000Z/x").path == b"data@20261121T100000Z/x"
    assert locate(b"cfg.yaml@@/v2.yaml").path == b"cfg@v2.yaml"


def test_a_mount_inside_a_mount_is_not_the_outer_one(tmp_path, monkeypatch):
    (tmp_path / ".cascade").mkdir()
    (tmp_path / ".cascade/status").touch()
    (tmp_path / "inner").mkdir()
    real = os.stat

    def stat_of(path, *more, **named):
        found = real(path, *more, **named)
        if os.fsdecode(path).endswith("inner"):
            found = os.stat_result((*found[:2], found.st_dev + 1, *found[3:10]))
        return found

    monkeypatch.setattr("cascadefs.cli.history.place.os.stat", stat_of)
    with pytest.raises(Refusal, match="not on a cascadefs mount"):
        locate(os.fsencode(tmp_path / "inner/x"))


@pytest.fixture
def in_berlin(monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield clock.LocalZone()
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("when", "utc"),
    [
        ("yesterday 10:00", (2026, 10, 24, 8)),  # Summer time ended at 01:00 UTC on the 25th.
        ("today 10:00", (2026, 10, 25, 9)),
        ("2026-07-01T10:00", (2026, 7, 1, 8)),
        ("2026-10-25T02:30", (2026, 10, 25, 0, 30)),  # Twice; the first is meant.
        ("2026-03-29T02:30", (2026, 3, 29, 1, 30)),  # Skipped.
        ("2026-07-01T10:00Z", (2026, 7, 1, 10)),
        ("1 hour ago", (2026, 10, 25, 11)),
    ],
)
def test_what_people_type_is_local_time(in_berlin, when, utc):
    epoch = datetime.datetime.fromtimestamp(0, UTC)
    now = (datetime.datetime(2026, 10, 25, 12, tzinfo=UTC) - epoch) // datetime.timedelta(
        microseconds=1
    )
    expected = (datetime.datetime(*utc, tzinfo=UTC) - epoch) // datetime.timedelta(microseconds=1)
    place = Place(b"/", b"/", b"x")
    assert Moment(now, in_berlin).timestamp(when, place) == expected


def test_the_mounts_clock_decides_what_is_future_where_it_is_ahead(monkeypatch):
    ahead = {"resolved_time": canon(NOW + 9 * SECOND).encode()}
    monkeypatch.setattr(moment, "attribute", lambda path, name: ahead[name])
    place, here = Place(b"/", b"/", b"x"), Moment(NOW, UTC)
    assert here.timestamp("now", place) == NOW + 9 * SECOND
    assert here.timestamp(canon(NOW + 8 * SECOND), place) == NOW + 8 * SECOND
    with pytest.raises(Refusal, match="in the future"):
        here.timestamp(canon(NOW + 10 * SECOND), place)


def test_the_clock_is_the_machines(tmp_path):
    (tmp_path / "made").touch()
    made_us = (tmp_path / "made").stat().st_mtime_ns // 1000
    assert made_us - SECOND <= clock.now_us() <= made_us + 60 * SECOND


# --- the rest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            errno.EIDRM,
            "x: its content was removed by retention or purge; `cascadefs log` shows what is still there",
        ),
        (errno.EAGAIN, "x: that time is not stable yet; ask again in a moment"),
        (errno.EROFS, "x: read-only, as all history is, or a mount with --ro; name a path of now"),
        (errno.ENOSPC, "x: no space left on device"),
    ],
)
def test_an_errno_is_put_into_words(number, words):
    assert str(saying("x", OSError(number, os.strerror(number)))) == words


def test_a_reader_who_has_enough_is_no_refusal(layout, monkeypatch):
    from cascadefs.cli.history.report import Report

    def full(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(Report, "lines", full)
    assert cascadefs("log", "cfg.yaml", expect=1).stderr == ""


def test_progress_shows_only_on_a_terminal_and_after_a_while(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    for patience, shows in ((1000.0, False), (0.0, True)):
        terminal = Terminal()
        monkeypatch.setattr(progress.sys, "stderr", terminal)
        monkeypatch.setattr(progress, "PATIENCE_SECONDS", patience)
        with progress.progress("looking", total=2) as step:
            step()
            step()
        assert ("looking" in terminal.getvalue()) is shows
    plain = io.StringIO()
    monkeypatch.setattr(progress.sys, "stderr", plain)
    with progress.progress("looking") as step:
        step()
    assert plain.getvalue() == ""


def test_join_and_facets():
    assert join(b"", b"a") == b"a"
    assert join(b"a", b"") == b"a"
    assert join(b"a/", b"b") == join(b"a", b"b") == b"a/b"
    assert (Facet.CONTENT | Facet.MODE).words == ["content", "mode"]
    assert change.Facet.NONE.words == []

"""A file that was made without a name (O_TMPFILE) is seen when it gets one, whole, and once.

Method: what each record of the log changed, as triggers see it, on a tree without a kernel.
"""

from __future__ import annotations

from tests.semantics.conftest import Tree
from triggers.change import changes


def test_a_link_is_one_change_with_all_that_was_written(tmp_path) -> None:
    tree = Tree(tmp_path / "data")
    begin = tree.store.status()["last_commit_us"]
    file = tree.open_unnamed("")
    tree.write(file, b"hello")
    with tree._refusals():
        tree.fs.setxattr(file.number, b"user.a", b"b", 0, tree.caller)
    tree.link_open(file, "x")
    tree.link_open(file, "y")
    tree.write(file, b"more", 5)
    tree.close(file)
    seen = [
        [(change.kind, change.name, change.version, change.size) for change in found]
        for committed in tree.store.committed(0, begin)
        if (found := list(changes(tree.store, committed.timestamp, committed.record)))
    ]
    tree.store.close()
    assert seen == [
        [("write", b"x", 1, 5)],
        [("write", b"y", 1, 5)],
        [("write", b"x", 2, 9), ("write", b"y", 2, 9)],
    ]

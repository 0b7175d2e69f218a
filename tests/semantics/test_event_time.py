"""SEMANTICS 3: the second axis, when what a version tells of happened, as its writer says."""

from __future__ import annotations

import os

import pytest

from cascadefs.filesystem import Changes
from cascadefs.filesystem.interface import FOREVER_S

WRITE, CREATE = os.O_WRONLY, os.O_WRONLY | os.O_CREAT


def said(tree, path, content, event: str | None) -> None:
    """One write session, and what its writer says of it."""
    file = tree.open(path, CREATE | os.O_TRUNC)
    if event is not None:
        tell(tree, file, event)
    tree.write(file, content.encode())
    tree.close(file)


def tell(tree, file, event: str) -> None:
    tree.fs.setxattr(file.number, b"user.cascade.event_time", event.encode(), 0, tree.caller)


def observed(tree) -> None:
    """Four observations, of which the third came late and the fourth corrects the first."""
    tree.mkdir("d")
    said(tree, "d/f", "at 8", "2026-01-01T08:00")
    tree.wait(60)
    said(tree, "d/f", "at 10", "2026-01-01T10:00")
    tree.wait(60)
    said(tree, "d/f", "at 9", "2026-01-01T09:00")
    tree.wait(60)
    said(tree, "d/f", "at 8, corrected", "2026-01-01T08:00")


@pytest.mark.parametrize(
    ("when", "content"),
    [
        ("2026-01-01T08:00", b"at 8, corrected"),
        ("2026-01-01T08:59:59.999999", b"at 8, corrected"),
        ("2026-01-01T09:00", b"at 9"),
        ("2026-01-01T09:30", b"at 9"),
        ("2026-01-01T10:00", b"at 10"),
        ("2026-06", b"at 10"),
        ("now", b"at 10"),
        ("2030", b"at 10"),
    ],
)
def test_the_version_of_the_greatest_event_time_up_to_then(tree, when, content):
    observed(tree)
    assert tree.cat(f"d/f@e={when}") == content
    assert tree.cat(f"d@e={when}/f") == content


def test_before_the_first_event_there_is_nothing(tree):
    observed(tree)
    assert tree.errno("stat", "d/f@e=2026-01-01T07:59:59") == "ENOENT"
    assert tree.ls("d@e=2026-01-01T07:59:59") == []


def test_every_form_of_an_event_time(tree):
    observed(tree)
    for name in (
        "d/f@e=20260101T090000Z",
        "d/f@e20260101T090000Z",
        "d/f@e=2026-01-01T10:00+01:00",
        "d/f@e=1767258000",
    ):
        assert tree.cat(name) == b"at 9", name


def test_what_was_known_at_a_time_never_changes(tree):
    tree.mkdir("d")
    said(tree, "d/f", "first", "2026-01-01T08:00")
    known = tree.now()
    fixed = f"d/f@e=2026-02,t={known}"
    canonical = f"d/f@e20260201T000000Z,{known}"
    assert tree.cat(fixed) == tree.cat(canonical) == b"first"
    tree.wait(5)
    said(tree, "d/f", "corrected", "2026-01-01T08:00")
    said(tree, "d/f", "later", "2026-01-15")
    assert tree.cat("d/f@e=2026-02") == b"later"
    assert tree.cat("d/f@e=2026-01-10") == b"corrected"
    assert tree.cat(fixed) == tree.cat(canonical) == b"first"
    assert tree.cat(f"d@e=2026-02,t={known}/f") == b"first"
    assert tree.errno("stat", "d/f@e=2026-02,t=2026-11-20") == "ENOENT", "nothing was known"
    assert tree.errno("stat", "d/f@e=2026-02,t=2027") == "ENOENT", "the future is not known"


def test_absolute_on_both_axes_may_be_remembered_and_nothing_else(tree):
    observed(tree)
    known = tree.now()
    assert tree.timeout(f"d/f@e=2026-02,t={known}") == FOREVER_S
    assert tree.timeout(f"d@e=2026-02,t={known}/f") == FOREVER_S
    for name in ("d/f@e=2026-02", "d/f@e=2026-02,t=now", f"d/f@e=-1h,t={known}", "d@e=2026-02/f"):
        assert tree.timeout(name) == 0.0, name


def test_it_is_the_version_itself_by_another_path(tree):
    observed(tree)
    assert tree.stat("d/f@e=2026-01-01T09:30").number == tree.stat("d/f@v3").number
    assert tree.cascade("d/f@e=2026-01-01T09:30", "version") == "3"
    assert tree.cascade("d/f@e=2026-01-01T09:30", "canonical") == "f@v3"
    assert tree.errno("put", "d/f@e=2026-01-01T09:30", "x") == "EROFS"
    assert tree.errno("put", "d/f@e=2020", "x") == "EINVAL"


def test_without_a_word_it_is_the_time_of_the_commit(tree):
    tree.put("f", "one")
    tree.wait(60)
    between = tree.now()
    tree.wait(60)
    tree.put("f", "two")
    assert tree.cat(f"f@e={between}") == b"one"
    assert tree.cat("f@e=now") == b"two"
    assert tree.cascade("f@v1", "event_time") == tree.cascade("f@v1", "commit_time")
    assert tree.errno("stat", "f@e=2026-11-20") == "ENOENT"


def test_said_and_unsaid_times_are_one_axis(tree):
    tree.put("f", "unsaid")
    tree.wait(60)
    said(tree, "f", "of before", "2026-01-01")
    tree.wait(60)
    said(tree, "f", "of tomorrow", "2026-11-22T10:00")
    assert tree.cat("f@e=2026-06") == b"of before"
    assert tree.cat("f@e=2026-11-21T10:00:30") == b"unsaid"
    assert tree.cat("f@e=2026-11-23") == b"of tomorrow"


def test_the_attribute_tells_what_was_said(tree):
    observed(tree)
    said_of = [tree.cascade(f"d/f@v{n}", "event_time") for n in (1, 2, 3, 4)]
    assert said_of == [
        "20260101T080000Z",
        "20260101T100000Z",
        "20260101T090000Z",
        "20260101T080000Z",
    ]
    assert tree.cascade("d/f", "event_time") == "20260101T080000Z"


def test_a_removal_happens_when_it_is_committed(tree):
    observed(tree)
    tree.unlink("d/f")
    assert tree.errno("stat", "d/f@e=now") == "ENOENT"
    assert tree.ls("d@e=now") == []
    assert tree.cat("d/f@e=2026-02") == b"at 10", "it was there then"
    assert tree.ls("d@e=2026-02") == ["f"]


def test_a_directory_shows_what_had_happened(tree):
    observed(tree)
    tree.mkdir("d/sub")
    said(tree, "d/sub/g", "g", "2026-01-01T09:00")
    tree.put("d/today", "x")
    tree.symlink("f", "d/link")
    assert tree.ls("d@e=2026-01-01T08:30") == ["f", "sub"]
    assert tree.ls("d@e=2026-01-01T08:30/sub") == []
    assert tree.ls("d@e=2026-01-01T09:30/sub") == ["g"]
    assert tree.cat("d@e=2026-01-01T09:30/sub/g") == b"g"
    assert tree.ls("d@e=now") == ["f", "link", "sub", "today"]
    assert tree.cat(".@e=2026-01-01T09:30/d/sub/g") == b"g"
    assert tree.errno("put", "d@e=2026-02/new", "x") == "EROFS"


def test_a_removed_directory_shows_what_had_happened_before(tree):
    tree.mkdir("d")
    said(tree, "d/f", "f", "2026-01-01")
    tree.unlink("d/f")
    tree.rmdir("d")
    assert tree.errno("stat", "d@e=now") == "ENOENT"
    assert tree.cat("d@e=2026-02/f") == b"f"


def test_an_event_time_goes_along_with_the_content(tree):
    said(tree, "f.tmp", "one", "2026-01-01")
    tree.rename("f.tmp", "f")
    assert tree.cascade("f", "event_time") == "20260101T000000Z"
    assert tree.cat("f@e=2026-02") == b"one"
    tree.link("f", "g")
    assert tree.cat("g@e=2026-02") == b"one"
    said(tree, "f", "two", "2026-03-01")
    assert tree.cat("g@e=2026-04") == tree.cat("f@e=2026-04") == b"two"
    assert tree.cat("g@e=2026-02") == b"one"


def test_it_is_said_on_a_file_open_for_writing(tree):
    tree.put("f", "one")
    assert tree.errno("setxattr", "f", "user.cascade.event_time", "2026") == "EBADF"
    file = tree.open("f")
    with pytest.raises(Exception, match="not open for that"):
        tell(tree, file, "2026")
    tree.close(file)
    file = tree.open("f", WRITE)
    for bad in ("yesterday", "", "2026-13"):
        with pytest.raises(Exception, match="malformed"):
            tell(tree, file, bad)
    tree.close(file)
    assert tree.versions("f") == ["v1"]


def test_what_was_said_holds_until_the_file_is_closed(tree):
    file = tree.open("f", CREATE)
    tell(tree, file, "2026-01-01")
    tree.write(file, b"one")
    tree.fsync(file)
    tree.write(file, b"two")
    tree.close(file)
    tree.append("f", "three")
    assert tree.cascade("f@v1", "event_time") == tree.cascade("f@v2", "event_time")
    assert tree.cascade("f@v3", "event_time") == tree.cascade("f@v3", "commit_time")


def test_an_mtime_that_is_set_can_be_the_event_time(tree):
    tree.mkdir("d")
    tree.mkdir("d/sub")
    tree.setxattr("d", "user.cascade.event_time", "mtime")
    moment = 1_767_225_600 * 10**9  # 2026-01-01
    for path in ("d/sub/f", "outside"):
        file = tree.open(path, CREATE)
        tree.write(file, b"copied with its time")
        tree.fs.setattr(file.number, Changes(mtime_ns=moment), file.handle, tree.caller)
        tree.close(file)
    assert tree.cascade("d/sub/f", "event_time") == "20260101T000000Z"
    assert tree.cat("d/sub/f@e=2026-02") == b"copied with its time"
    assert tree.cascade("outside", "event_time") == tree.cascade("outside", "commit_time")
    assert tree.getxattr("d", "user.cascade.event_time") == b"mtime"
    assert tree.listxattr("d") == []
    assert tree.errno("setxattr", "d", "user.cascade.event_time", "ctime") == "EINVAL"
    tree.removexattr("d", "user.cascade.event_time")
    assert tree.errno("getxattr", "d", "user.cascade.event_time") == "ENODATA"


def test_a_write_after_the_mtime_was_set_moves_it_on(tree):
    tree.mkdir("d")
    tree.setxattr("d", "user.cascade.event_time", "mtime")
    file = tree.open("d/f", CREATE)
    tree.fs.setattr(file.number, Changes(mtime_ns=5), file.handle, tree.caller)
    tree.wait(1)
    tree.write(file, b"x")
    tree.close(file)
    assert tree.cascade("d/f", "event_time") == tree.cascade("d/f", "commit_time")


def test_event_time_and_condition_go_together(tree):
    tree.put("f", "one")
    file = tree.open("f@if=v1", WRITE | os.O_TRUNC)
    tell(tree, file, "2026-01-01")
    tree.write(file, b"two")
    tree.close(file)
    assert tree.cat("f@e=2026-02") == b"two"


@pytest.mark.local_store
def test_event_times_outlive_a_power_cut(tree, tmp_path):
    observed(tree)
    tree.store.publish()
    other = tree.after_power_cut(tmp_path / "other")
    assert other.cat("d/f@e=2026-01-01T09:30") == b"at 9"
    assert other.cascade("d/f@v3", "event_time") == "20260101T090000Z"
    other.close_all()


def test_a_session_without_an_event_time_is_recorded_as_before(tree):
    tree.put("f", "one")
    records = tree.records()
    file = tree.open("f", WRITE)
    tree.write(file, b"two")
    tree.close(file)
    assert tree.records() == records + 1

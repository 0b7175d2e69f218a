"""git on the mount: its object store is thousands of small files, renamed into place, packed, mapped and checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mounted.program import finish, run, start
from tests.mounted.tree import copy_sample, differences, photograph

pytestmark = pytest.mark.mounted


@pytest.fixture
def place(shared_mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own on the mount of the whole run."""
    path = shared_mount.path / request.node.name
    path.mkdir()
    return path


def git(repository: Path, *arguments: str | Path) -> str:
    return run("git", "-C", repository, *arguments)


@pytest.mark.slow
def test_a_repository_lives_on_the_mount(mount, tmp_path: Path) -> None:
    """git init, add, commit, status, branch, merge, gc, fsck; then clone it away and compare."""
    work = mount.path / "work"
    count = copy_sample(
        work, lambda path: "/asyncio/" in path or "/email/" in path or "/test/test_a" in path
    )
    assert count > 100
    git(work, "init", "-q", "-b", "main")
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "first")
    assert git(work, "status", "--porcelain") == ""
    git(work, "checkout", "-q", "-b", "side")
    for path in sorted((work / "lib/asyncio").glob("*.py")):
        path.write_text(path.read_text().replace("self", "this"))
    assert len(git(work, "status", "--porcelain").splitlines()) > 20
    git(work, "commit", "-q", "-a", "-m", "side")
    git(work, "checkout", "-q", "main")
    assert "self" in (work / "lib/asyncio/locks.py").read_text()
    (work / "lib/new.py").write_text("new = True\n")
    git(work, "mv", "lib/email", "lib/mail")
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "main goes on")
    git(work, "merge", "-q", "-m", "merged", "side")
    assert "self" not in (work / "lib/asyncio/locks.py").read_text()
    assert "files changed" in git(work, "diff", "--stat", "HEAD~2")
    git(work, "stash", "list")
    git(work, "gc", "-q", "--prune=now")
    git(work, "fsck", "--full", "--strict")
    assert git(work, "status", "--porcelain") == ""
    assert list((work / ".git/objects/pack").glob("*.pack"))

    git(tmp_path, "clone", "-q", "--no-local", work, tmp_path / "clone")
    run("diff", "-r", "-x", ".git", work, tmp_path / "clone")
    mount.remount()
    git(work, "fsck", "--full", "--strict")
    assert git(work, "status", "--porcelain") == ""
    git(work, "clone", "-q", work, mount.path / "local clone")  # hard links of the packs
    git(mount.path / "local clone", "fsck", "--full")


def test_two_committers_lose_nothing(place) -> None:
    """Two processes add commits to one branch at once: ref locks are O_EXCL and rename, and no commit is lost."""
    work = place / "work"
    git(place, "init", "-q", "-b", "main", "work")
    git(work, "commit", "-q", "--allow-empty", "-m", "root")
    script = """
        cd "$0" || exit 1
        for n in 1 2 3 4 5 6 7 8; do
            while :; do
                old=$(git rev-parse main) || exit 1
                blob=$(echo "$1 $n" | git hash-object -w --stdin) || exit 1
                tree=$(git ls-tree "$old" | { cat; printf '100644 blob %s\t%s\n' "$blob" "$1.$n"; } | git mktree) || exit 1
                new=$(git commit-tree "$tree" -p "$old" -m "$1 $n") || exit 1
                git update-ref refs/heads/main "$new" "$old" 2>/dev/null && break
            done
        done
    """
    finish([start("sh", "-c", script, work, who) for who in ("left", "right")])
    assert int(git(work, "rev-list", "--count", "main")) == 17
    assert len(git(work, "ls-tree", "--name-only", "main").split()) == 16
    git(work, "fsck", "--full", "--strict")


def test_a_past_work_tree_can_be_compared_with_git(place, tmp_path: Path) -> None:
    """What git checked out once is still in the directory's past, byte for byte, after a branch changed all of it."""
    work = place / "work"
    git(place, "init", "-q", "-b", "main", "work")
    for number in range(20):
        (work / f"{number}.txt").write_text(f"one {number}\n")
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "one")
    os.mkdir(place / "work@tag-one")
    for number in range(0, 20, 2):
        (work / f"{number}.txt").write_text(f"two {number}\n")
        (work / f"{number + 1}.txt").unlink()
    git(work, "commit", "-q", "-a", "-m", "two")
    past = place / "work@tag-one"
    assert git(past, "rev-list", "--count", "HEAD") == "1\n"
    git(tmp_path, "clone", "-q", "--no-local", past, tmp_path / "clone")
    assert (tmp_path / "clone/4.txt").read_text() == "one 4\n"
    git(work, "checkout", "-q", "HEAD~1")
    then = {path: e for path, e in photograph(past).items() if not path.startswith(b".git")}
    now = {path: e for path, e in photograph(work).items() if not path.startswith(b".git")}
    assert [line.split(":")[0] for line in differences(then, now)] != []  # the times are others
    run("diff", "-r", "-x", ".git", past, work)

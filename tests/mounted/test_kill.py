"""kill -9 of the daemon while programs write: what close(2), fsync(2) or rename(2) said was done is there afterwards.

Method: writers say on a pipe what they are about to do and that it returned. Of each name, what returned last must be
found after the next mount; what was under way may be found as before or as after, whole, and nothing else. So must
every earlier version that is still listed be one of the contents that were ever written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from random import Random

import pytest

from tests.mounted.conftest import cascadefs
from tests.mounted.program import end, start, start_python

pytestmark = [pytest.mark.mounted, pytest.mark.slow]

SEED = int(os.environ.get("CASCADEFS_SEED", "11"))
"""Of what is written and when the daemon dies; the moment itself is real, so a replay is only alike."""

ROUNDS = int(os.environ.get("CASCADEFS_KILL_ROUNDS", "5"))
"""How often the daemon is killed under load."""

_WRITER = """
    import hashlib, json, os, sys
    from random import Random
    random = Random(int(sys.argv[1]))
    sizes = (0, 10, 5000, 70_000, 400_000, 3_000_000)

    def say(*words):
        os.write(1, json.dumps(words).encode() + b"\\n")

    def digest(data):
        return hashlib.sha256(data).hexdigest()

    def save_in_place(name, data):
        with open(name, "wb") as file:
            file.write(data)

    def save_in_parts(name, data):
        f = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for at in range(0, len(data), 50_000):
            os.write(f, data[at : at + 50_000])
        os.close(f)

    def rename_over(name, data):
        with open("temporary", "wb") as file:
            file.write(data)
        os.rename("temporary", name)

    kept = {}
    def fsync_kept_open(name, data):
        if name not in kept:
            kept[name] = os.open(name, os.O_RDWR | os.O_CREAT)
        os.ftruncate(kept[name], len(data))
        os.pwrite(kept[name], data, 0)
        os.fsync(kept[name])

    try:
        for turn in range(100_000):
            way = random.choice((save_in_place, save_in_parts, rename_over, fsync_kept_open))
            name = f"{way.__name__}.{random.randrange(4)}"
            data = random.randbytes(random.choice(sizes))
            if random.random() < 0.1 and name not in kept and os.path.exists(name):
                say("begin", name, None)
                os.unlink(name)
            else:
                say("begin", name, digest(data))
                way(name, data)
            say("done")
    except OSError as error:
        say("over", error.errno)
        os._exit(0)
"""


EMPTY = hashlib.sha256(b"").hexdigest()


def digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


@pytest.mark.timeout(120 + 20 * ROUNDS, method="thread")
def test_what_was_promised_survives_the_daemons_death(mount, tmp_path: Path) -> None:
    """Three programs save files in four ways; the daemon is killed again and again at some moment; nothing promised is lost."""
    random = Random(SEED)
    states: list[dict[str, str | None]] = [{}, {}, {}]
    ever: list[set[str | None]] = [{None, EMPTY} for _ in states]
    for who in range(len(states)):
        (mount.path / str(who)).mkdir()
    total = 0
    for turn in range(ROUNDS):
        seeds = [str(SEED * 1000 + turn * 10 + who) for who in range(len(states))]
        writers = [
            start_python(_WRITER, seed, cwd=mount.path / str(who)) for who, seed in enumerate(seeds)
        ]
        time.sleep(0.5 + random.random())
        mount.kill()
        said = [process.communicate(timeout=30)[0] for process in writers]
        for process in writers:
            end(process)
        mount.mount()
        promised = 0
        for who, lines in enumerate(said):
            pending: tuple[str, str | None] | None = None
            # The last thing done, and what was there: a file that open(2) emptied, and nobody wrote, is a version when its last
            # descriptor is gone, of which the daemon hears after close(2) has returned (SEMANTICS 1).
            emptied: tuple[str, str | None] | None = None
            for line in lines.splitlines():
                match json.loads(line):
                    case ["begin", name, content]:
                        pending = (name, content)
                        ever[who].add(content)
                    case ["done"]:
                        assert pending is not None
                        was = states[who].get(pending[0])
                        by_open = pending[1] == EMPTY and pending[0].startswith("save_in_")
                        emptied = (pending[0], was) if by_open else None
                        states[who][pending[0]] = pending[1]
                        pending, promised = None, promised + 1
                    case ["over", number]:
                        assert number in (errno.ENOTCONN, errno.ECONNABORTED), os.strerror(number)
            directory = mount.path / str(who)
            for name, content in states[who].items():
                allowed = {content}
                if pending is not None and pending[0] == name:
                    allowed |= {
                        pending[1],
                        *([EMPTY] if content is None else []),
                    }  # made, and not yet closed
                if emptied is not None and emptied[0] == name:
                    allowed.add(emptied[1])
                found = digest(directory / name)
                assert found in allowed, f"seed {SEED}, turn {turn}: {who}/{name}"
                states[who][name] = found
            if pending is not None and pending[0] not in states[who]:
                found = digest(directory / pending[0])
                assert found in {None, pending[1], EMPTY}
                states[who][pending[0]] = found
            (directory / "temporary").unlink(missing_ok=True)
        assert promised > 10, "the writers came to nothing"
        total += promised
    for who, contents in enumerate(ever):
        for name in states[who]:
            listing = mount.path / str(who) / f"{name}@@"
            for version in os.listdir(listing):
                assert digest(listing / version) in contents, f"{who}/{name}@{version}"
    mount.remount()
    for who, state in enumerate(states):
        for name, content in state.items():
            assert digest(mount.path / str(who) / name) == content
    mount.umount()
    cascadefs("fsck", mount.data)
    print(f"figure: kill -9 under load: {ROUNDS} rounds, {total:,} saves that returned, none lost")


def test_the_tree_survives_a_death_in_the_middle_of_a_copy(mount, tmp_path: Path) -> None:
    """cp -r is cut short by the death; it is started again and all is well; removed files do not come back."""
    source = tmp_path / "source"
    source.mkdir()
    random = Random(3)
    for number in range(200):
        (source / f"{number:03}").write_bytes(random.randbytes(random.randint(0, 20_000)))
    (mount.path / "gone").mkdir()
    for number in range(50):
        (mount.path / "gone" / str(number)).write_text("x")
    shutil.rmtree(mount.path / "gone")
    copy = 'mkdir "$1"; for name in $(ls "$0"); do cp "$0/$name" "$1" || exit 1; done'
    copying = start("sh", "-c", copy, source, mount.path / "copy")
    while not (mount.path / "copy/060").exists():
        assert copying.poll() is None
        time.sleep(0.01)
    mount.kill()
    end(copying)
    mount.mount()
    assert os.listdir(mount.path) == ["copy"]
    copied = sorted(os.listdir(mount.path / "copy"))
    assert len(copied) >= 60
    assert copied == [f"{number:03}" for number in range(len(copied))]
    for name in copied[:-1]:
        assert (mount.path / "copy" / name).read_bytes() == (source / name).read_bytes()
    shutil.copytree(source, mount.path / "copy", dirs_exist_ok=True)
    for path in source.iterdir():
        assert (mount.path / "copy" / path.name).read_bytes() == path.read_bytes()


def test_unlinked_open_files_leave_nothing_behind(mount) -> None:
    """A temporary file that was open without a name when the daemon died is gone after the next mount."""
    descriptor = os.open(mount.path / "t", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"x" * 1_000_000)
    os.unlink(mount.path / "t")
    os.write(descriptor, b"y" * 1_000_000)
    before = mount.status()["store"]["live_inodes"]  # without it already
    mount.kill()
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)
    mount.mount()
    assert os.listdir(mount.path) == []
    assert mount.status()["store"]["live_inodes"] == before

"""Goal: on a mount, of those who write on the same condition exactly one wins, and the others are told (SEMANTICS 6).

Method: rounds of eight processes that start together on a barrier, each writing what only it could have written; the
winner of a round is the one that saw no error, and the file and its history must be its alone.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.mounted

PROCESSES = 8
ROUNDS = 6


def by_name(path: str, version: int, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    file = os.open(f"{path}@if=v{version}", flags)
    try:
        os.write(file, content)
    finally:
        os.close(file)


def by_handle(path: str, version: int, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.setxattr(file, "user.cascade.if_version", b"%d" % version)
        os.ftruncate(file, 0)
        os.write(file, content)
        os.fsync(file)
    finally:
        os.close(file)


def racer(write, path, content, barrier, results) -> None:
    for number in range(ROUNDS):
        version = int(os.getxattr(path, "user.cascade.head")) if os.path.exists(path) else 0
        barrier.wait()
        try:
            write(path, version, content(number))
        except OSError as error:
            results.put((number, None, error.errno))
        else:
            results.put((number, content(number), 0))
        barrier.wait()


def of_process(process: int):
    def content(number: int) -> bytes:
        return b"%d of %d\n" % (process, number) * (10 + 1000 * process)

    return content


@pytest.mark.parametrize("write", [by_name, by_handle])
def test_of_eight_processes_one_wins_each_round(mount, write):
    path = str(mount.path / "f")
    first = 0
    if write is by_handle:
        Path(path).write_bytes(b"")
        first = 1
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(PROCESSES), fork.SimpleQueue()
    started = [
        fork.Process(target=racer, args=(write, path, of_process(n), barrier, results))
        for n in range(PROCESSES)
    ]
    for process in started:
        process.start()
    told = [results.get() for _ in range(PROCESSES * ROUNDS)]
    for process in started:
        process.join(30)
    winners = {}
    for number, content, error in told:
        if content is None:
            assert error == errno.ESTALE, os.strerror(error)
        else:
            assert number not in winners, "two were told that they had won"
            winners[number] = content
    assert sorted(winners) == list(range(ROUNDS))
    history = [Path(f"{path}@v{first + n + 1}").read_bytes() for n in range(ROUNDS)]
    assert history == [winners[n] for n in range(ROUNDS)]
    assert Path(path).read_bytes() == history[-1]
    assert not os.path.exists(f"{path}@v{first + ROUNDS + 1}")


def test_python_and_the_kernel_agree_on_what_is_there(mount):
    path = mount.path / "cfg.yaml"
    assert not path.exists()  # And the kernel remembers that.
    with open(mount.path / "cfg@if=v0.yaml", "w") as file:
        file.write("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert os.listdir(mount.path) == ["cfg.yaml"]
    with open(mount.path / "cfg@if=v1.yaml", "r+") as file:
        assert file.read() == "one"
        file.write(", two")
        file.flush()
        assert os.fstat(file.fileno()).st_size == 8
        assert path.read_text() == "one"
    assert path.read_text() == "one, two"
    assert path.stat().st_size == 8
    file = open(mount.path / "cfg@if=v2.yaml", "w")  # noqa: SIM115  it is its close that is looked at
    file.write("lost")
    path.write_text("three")
    with pytest.raises(OSError, match="Stale file handle"):
        file.close()
    assert path.read_text() == "three"
    with pytest.raises(OSError, match="Stale file handle"):
        os.open(mount.path / "cfg@if=v0.yaml", os.O_WRONLY | os.O_CREAT)


def test_appending_on_a_condition(mount):
    (mount.path / "f").write_text("one\n")
    with open(mount.path / "f@if=v1", "a") as file:
        file.write("two\n")
        file.flush()
        assert os.fstat(file.fileno()).st_size == 8
        file.write("three\n")
    assert (mount.path / "f").read_text() == "one\ntwo\nthree\n"

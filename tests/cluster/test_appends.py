"""Goal: who appends to a file on one mount of a cluster loses nothing to who appends to it on another (SEMANTICS 14).

Method: three mounts, through both doors, each appends lines to the same files by ordinary system calls at the same time: opened for each
line, as a shell does, and kept open and saved by fsync. Each line is there once, whole.
"""

import collections
import os
import threading

import pytest

from cascadefs import configuration
from tests.cluster.processes import CLUSTER
from tests.cluster.test_mounts import Mount, eventually

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(120)]

LINES = 50


@pytest.fixture
def three(fleet, tmp_path):
    told = configuration.Mount(CLUSTER, tuple(fleet.address(name) for name in fleet.names))
    (fleet.directory / "m1" / "mount.toml").write_text(configuration.spell(told))
    doors = ("kernel", "kernel", "pyfuse3")
    made = [Mount(fleet, tmp_path / f"mount{n}", door) for n, door in enumerate(doors)]
    yield [mount.path for mount in made]
    for mount in made:
        assert mount.end() == 0, mount.log.read_text()
        assert "Traceback" not in mount.log.read_text()


def together(three, append):
    """Each mount appends at the same time; the lines that were to be there."""
    begun, failures = threading.Barrier(len(three)), []

    def work(name, path):
        begun.wait()
        try:
            append(name, path)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=each) for each in enumerate(three)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    return collections.Counter(line(name, n) for name in range(len(three)) for n in range(LINES))


def line(name, number):
    return f"mount {name} line {number} {'x' * (37 * number % 211)}"


def test_lines_that_three_mounts_append_are_all_there_once(three):
    directory = "appended"
    (three[0] / directory).mkdir()

    def shell(name, path):
        for number in range(LINES):
            with (path / directory / "log").open("a") as file:
                file.write(line(name, number) + "\n")

    expected = together(three, shell)
    for path in three:
        eventually(lambda path=path: os.stat(path / directory / "log").st_size > 0)
        assert collections.Counter((path / directory / "log").read_text().splitlines()) == expected
    assert len(os.listdir(three[0] / directory / "log@@")) == 3 * LINES, "a version for each close"

    def service(name, path):
        with (path / directory / "kept").open("ab", buffering=0) as file:
            for number in range(LINES):
                file.write((line(name, number) + "\n").encode())
                if number % 5 == 4:
                    os.fsync(file.fileno())

    expected = together(three, service)
    for path in three:
        assert collections.Counter((path / directory / "kept").read_text().splitlines()) == expected

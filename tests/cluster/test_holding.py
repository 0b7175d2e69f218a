"""Goal: on a mount a shard whose leader does not answer keeps nobody waiting but who asks about that shard.

Method: three nodes with one replica of each shard; the one that leads a shard is frozen, and programs wait in every system call there
is about it, each in a directory of its own (a directory is locked by the kernel). What others are answered meanwhile is counted.
"""

import os
import threading

import pytest

from cascadefs import configuration
from tests.cluster.fleet import Fleet
from tests.cluster.processes import CLUSTER
from tests.cluster.test_mounts import Mount, shard_of
from tests.etcd import Etcd

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(200)]

LIMIT_S = 60
ROUNDS = 20


@pytest.fixture
def fleet(tmp_path):
    names = ("n1", "n2", "n3")
    with (
        Etcd(tmp_path) as etcd,
        Fleet(tmp_path, etcd.endpoints, names, 3, replicas=1, durability="memory") as made,
    ):
        nodes = tuple(map(made.address, names))
        told = configuration.spell(configuration.Mount(cluster=CLUSTER, nodes=nodes))
        (tmp_path / "m1" / "mount.toml").write_text(told)
        made.start()
        made.wait(lambda: len(made.epochs()) == 3, "all shards are made")
        yield made


@pytest.fixture
def mount(fleet, tmp_path):
    made = Mount(fleet, tmp_path / "mount", "kernel")
    yield made
    fleet.thaw()
    assert made.end() == 0, made.log.read_text()
    assert "Traceback" not in made.log.read_text()


def write(path):
    (path / "f").write_text("written")


def replace(path):
    os.rename(path / "f", path / "g")


CALLS = {
    "read": lambda path: (path / "fetched").read_bytes(),
    "list": lambda path: os.listdir(path),
    "look up in vain": lambda path: os.path.exists(path / "nothing"),
    "write": write,
    "mkdir": lambda path: (path / "made").mkdir(),
    "mkfifo": lambda path: os.mkfifo(path / "made"),
    "symlink": lambda path: os.symlink("f", path / "made"),
    "link": lambda path: os.link(path / "f", path / "made"),
    "unlink": lambda path: os.unlink(path / "f"),
    "rmdir": lambda path: os.rmdir(path / "empty"),
    "rename": lambda path: os.rename(path / "f", path / "made"),
    "rename over": replace,
    "chmod": lambda path: os.chmod(path / "f", 0o600),
    "chown": lambda path: os.chown(path / "f", 1, 1),
    "utimens": lambda path: os.utime(path / "f", (1, 1)),
    "truncate": lambda path: os.truncate(path / "f", 1),
    "setxattr": lambda path: os.setxattr(path / "f", "user.mine", b"x"),
    "removexattr": lambda path: os.removexattr(path / "f", "user.kept"),
    "label": lambda path: (path / ".@tag-now").mkdir(),
    "restore": lambda path: os.setxattr(path / "f", "user.cascade.restore", b"v1"),
    "version": lambda path: os.getxattr(path / "f", "user.cascade.version"),
    "no name": lambda path: os.close(os.open(path, os.O_TMPFILE | os.O_RDWR)),
}  # fmt: skip


def test_calls_that_wait_for_one_leader_keep_nobody_else_waiting(fleet, mount):
    root = mount.path
    for number in range(9):
        (root / f"d{number}").mkdir()
    of_shard = {int(shard_of(root / name)): root / name for name in os.listdir(root)}
    leaders = {shard: epoch.leader for shard, epoch in fleet.epochs().items()}
    held, free = next(
        (one, other)
        for one in sorted(of_shard, reverse=True)
        for other in sorted(of_shard)
        if leaders[one] != leaders[other] and leaders[one] != leaders[0]
    )
    for name in CALLS:
        path = of_shard[held] / name
        (path / "empty").mkdir(parents=True)
        for text in ("one", "two"):
            (path / "f").write_text(text)
        (path / "g").write_text("x")
        os.setxattr(path / "f", "user.kept", b"x")
    where = of_shard[held].name
    with fleet.program() as store:
        store.put(f"{where}/read/fetched", "by a program: not known to the mount")
    while not (of_shard[held] / "read" / "fetched").exists():
        pass
    beside = of_shard[free] / "beside"
    beside.write_text("0")
    failures, answered = [], []

    def run(name):
        try:
            CALLS[name](of_shard[held] / name)
            answered.append(name)
        except OSError as error:
            failures.append((name, error))

    fleet.freeze(leaders[held])
    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in CALLS]
    for thread in threads:
        thread.start()
    for number in range(ROUNDS):
        beside.write_text(f"{number}")
        assert beside.read_text() == f"{number}"
        (of_shard[free] / f"made {number}").mkdir()
        os.chmod(beside, 0o600 + number)
        assert os.stat(of_shard[held] / "write" / "f").st_size >= 3, (
            "what the kernel or the mount know"
        )
        assert len(os.listdir(of_shard[free])) == 2 + number
        assert os.getxattr(beside, "user.cascade.version")
    assert not answered, "all of them wait still"
    assert not failures
    fleet.thaw()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    assert not failures
    assert sorted(answered) == sorted(CALLS)
    assert (of_shard[held] / "write" / "f").read_text() == "written"
    assert (of_shard[held] / "restore" / "f").read_text() == "one"

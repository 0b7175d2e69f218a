"""Goal: whoever owns a directory tells its scripts what to do wherever they run, by a mount or a program's mount.toml, and what was told outlives the leader.

Method: three `cascadefs serve` with triggers, a real etcd, two shards, a mount; one binding. Each test leaves the fleet well.
"""

from __future__ import annotations

import errno
import json
import os
import select
from types import SimpleNamespace

import msgspec
import pytest
from typer.testing import CliRunner

from cascadefs import configuration
from cascadefs.cli import app
from cascadefs.cli.complaint import Complaint
from cascadefs.client import calls
from cascadefs.node.desk import Desk
from cascadefs.node.programs import Programs
from storage.transport import Identity, IdMap, IdRange, Role
from tests.cluster.fleet import Fleet
from tests.cluster.processes import CLUSTER
from tests.cluster.test_mounts import Mount
from tests.cluster.test_triggers import bindings, farm_in, install, wait_for
from tests.etcd import Etcd

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(200)]

SCRIPT = """
import time
from cascadefs.triggers import watch

@watch("in/*", emit="out/")
def copy(event, ctx):
    if event.text() == "for ever":
        time.sleep(60)
    print("saw", event.path)
    ctx.emit(event.name, event.data.tobytes())
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    directory = tmp_path_factory.mktemp("orders")
    mode = "root" if os.geteuid() == 0 else "owner"
    with (
        Etcd(directory) as etcd,
        Fleet(
            directory, etcd.endpoints, shards=2, durability="memory", node={"triggers": mode}
        ) as fleet,
    ):
        nodes = tuple(f"127.0.0.1:{port}" for port in fleet.ports.values())
        told = configuration.spell(configuration.Mount(cluster=CLUSTER, nodes=nodes))
        (directory / "m1" / "mount.toml").write_text(told)
        fleet.start()
        fleet.wait_well()
        yield fleet


@pytest.fixture(scope="module")
def mount(fleet):
    made = Mount(fleet, fleet.directory / "mount", "kernel")
    yield made
    assert made.end() == 0, made.log.read_text()
    assert "Traceback" not in made.log.read_text()


@pytest.fixture(scope="module")
def farm(fleet, mount):
    farm = farm_in(mount, fleet, shard=1)
    (farm / "in").mkdir()
    install(farm, "copy.py", SCRIPT)
    wait_for(lambda: "copy.py:copy" in bindings(mount), "the script is not at work")
    return farm


def told(*words):
    done = CliRunner().invoke(app, ["trigger", *map(str, words)])
    assert done.exception is None, done.exception
    return done.output


def refused(*words):
    done = CliRunner().invoke(app, ["trigger", *map(str, words)])
    assert isinstance(done.exception, Complaint), done.output
    return str(done.exception)


def state(mount):
    return bindings(mount)["copy.py:copy"]


def test_a_pause_and_a_skip_outlive_the_leader_and_a_replay_runs_at_the_next(fleet, mount, farm):
    (farm / "in/a").write_text("1")
    wait_for((farm / "out/a").exists, "it does not run")
    told("pause", "copy.py:copy", "--in", farm)
    (farm / "in/b").write_text("2")
    (farm / "in/c").write_text("3")
    wait_for(lambda: state(mount)["pending"] == 2, "nothing waits")
    lines = [json.loads(line) for line in (farm / ".cascade/events").read_text().splitlines()]
    event = next(line["id"] for line in lines if line.get("path") == "in/b")
    told("skip", event, "--in", farm)
    events = (farm / ".cascade/events").open("rb", buffering=0)
    while events.read(1 << 20):
        pass
    leader = fleet.leader(1)
    fleet.kill(leader)
    wait_for(lambda: fleet.leader(1) != leader, "nobody leads")
    wait_for(lambda: state(mount)["pending"] == 1, "the next leader does not say")
    assert state(mount)["state"] == "paused"
    assert not (farm / "out/c").exists()
    mine = fleet.permit("root0")
    told("resume", f"{farm.name}/copy.py:copy", "--in", mine)
    wait_for((farm / "out/c").exists, "it does not go on")
    assert not (farm / "out/b").exists()
    with events:  # It goes on with what the next leader tells.
        assert select.select([events], [], [], 20)[0]
        assert b'"event":"done"' in events.read(1 << 20)
    told("replay", "copy.py:copy", "--from", "2000-01-01", "--in", mine / farm.name)
    wait_for((farm / "out/b").exists, "nothing is replayed")
    fleet.start(leader)
    fleet.wait_well()


def test_a_run_that_does_not_end_is_killed_and_its_dead_letter_done_again(fleet, mount, farm):
    mine = fleet.permit("root0")
    (farm / "in/long").write_text("for ever")

    def running():
        status = json.loads((farm / ".cascade/status.json").read_text())
        return [one["run"] for one in status["running"] if one["paths"] == ["in/long"]]

    wait_for(running, "it does not run")
    assert "copy.py:copy" in told("list", mine)
    assert "ended" in told("kill", running()[0], "--in", farm)
    wait_for(lambda: state(mount)["failed"], "nobody heard")
    (letter,) = os.listdir(farm / ".cascade/failed/copy.py:copy")
    (farm / "in/short").write_text("4")
    wait_for(lambda: "saw in/short" in (farm / ".cascade/log/copy.py:copy").read_text(), "no log")
    told("retry", f"copy.py:copy/{letter}", "--in", mine / farm.name)
    wait_for(running, "it does not run again")
    told("kill", running()[0], "--in", mine)
    wait_for(lambda: not running(), "it does not end")


def test_it_is_for_the_owner(fleet, farm):
    other = fleet.permit("user1000", 1000, 1000)
    assert "owner" in refused("pause", "copy.py:copy", "--in", other / farm.name)
    assert "owner" in refused("pause", "copy.py:copy", "--in", other)
    mine = fleet.permit("root0")
    assert "no binding" in refused("pause", "none.py", "--in", mine / farm.name)
    assert "no binding" in refused("pause", "none.py", "--in", farm)
    assert "no such" in refused("pause", "copy.py:copy", "--in", mine / "nowhere")


@pytest.mark.parametrize(("uid", "answer"), [(1000, errno.EOPNOTSUPP), (0, errno.EACCES)])
async def test_a_mount_for_some_users_tells_their_scripts_only(uid, answer):
    """Who may is passed on, here to a node that runs no scripts."""
    users = IdMap((IdRange(1000, 1000, 10),))
    peer = Identity(CLUSTER, Role.MOUNT, "m", users, users)

    class Programs:
        store = SimpleNamespace(shard_of=lambda inode: 0)

        async def asked(self, question, who):
            return 7, SimpleNamespace(uid=uid, gid=uid)

    live = {"n1": SimpleNamespace(runs=False)}
    view = SimpleNamespace(epochs={0: SimpleNamespace(leader="n1")}, live=live)
    desk = Desk(SimpleNamespace(authority=SimpleNamespace(view=view)), Programs(), lambda: None)
    for order in (calls.Order(7, "command", b"pause x"), calls.Order(7, "events")):
        told = await desk.of_mount(peer, order)
        assert isinstance(told, calls.Failed)
        assert told.errno == answer


async def test_a_mount_makes_no_calls_as_programs_do(tmp_path):
    programs = Programs(SimpleNamespace(), None, None, tmp_path)
    peer = Identity(CLUSTER, Role.MOUNT, "m")
    with pytest.raises(PermissionError):
        await programs.call(peer, msgspec.Raw(calls.encode(calls.Write([calls.Delete("x")]))), [])
    with pytest.raises(PermissionError):
        await programs.call(peer, msgspec.Raw(calls.encode(calls.Instant())), [])

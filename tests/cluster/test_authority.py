"""Goal: an etcd that was restored from an older copy is obeyed by nobody, neither by nodes that run nor by nodes that start, until an operator
brings it up to what the nodes hold; nothing is lost and nothing forks. And a certificate that was revoked is good for nothing, at once.

Method: three `cascadefs serve` over TLS, a real etcd, `etcdctl snapshot save` and `restore`, and the operator's own commands. Revocation comes
first: what was revoked before etcd went back has to stay so. Tests here build on one another, for a fleet takes seconds to bring up.
"""

import contextlib
import json
import os
import random
import shutil
import stat
import subprocess
import time

import pytest
import trio
from typer.testing import CliRunner

import cascadefs
from cascadefs import configuration
from cascadefs.cli import app
from cascadefs.cli.complaint import Complaint
from cascadefs.machine import SystemClock
from cascadefs.observer import ClusterSettings, Observer
from storage import record, wire
from storage.errors import Reason
from storage.membership.keys import key_of
from storage.namespace import ROOT
from storage.transport import Broken, Identity, IdMap, IdRange, Role, TcpTransport
from storage.transport.certificates import Credentials
from tests.cluster.fleet import CLUSTER, Fleet
from tests.cluster.world import Proposer
from tests.etcd import Etcd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A fleet of its own, with an operator's configuration."""
    directory = tmp_path_factory.mktemp("authority")
    with Etcd(directory) as etcd, Fleet(directory, etcd.endpoints, shards=2) as fleet:
        fleet.etcd = etcd
        fleet.signer.save(operators(fleet) / "authority")
        cluster = configuration.Cluster(CLUSTER, configuration.Etcd(tuple(etcd.endpoints)))
        (operators(fleet) / "cluster.toml").write_text(configuration.spell(cluster))
        root = IdMap((IdRange(0, 0, 1),))
        fleet._install(Identity(CLUSTER, Role.CLIENT, "operator", root, root), "operator")
        fleet.start()
        fleet.wait_well()
        yield fleet


def operators(fleet):
    directory = fleet.directory / "operator"
    (directory / "authority").mkdir(parents=True, exist_ok=True)
    return directory


def cluster(fleet, *words, status=0):
    """What a command of the operator's says."""
    done = CliRunner().invoke(app, ["cluster", *map(str, words), "--config", str(operators(fleet))])
    said = done.output
    if isinstance(done.exception, Complaint):  # `main` says it, and exits with its status.
        said += str(done.exception)
        assert done.exception.status == status, f"{words}: {said}"
    else:
        assert done.exit_code == status, f"{words}: {said} {done.exception!r}"
    return said


def listed(fleet):
    """The certificates, by name; the newest of each."""
    lines = cluster(fleet, "permits", "--json").splitlines()
    return {one["name"]: one for one in map(json.loads, lines)}


def shown(fleet, name):
    """The certificate of a node; None of one that nobody may speak with."""
    status = fleet.status(name)
    return status and status["certificate"]["serial"]


def transport_of(home):
    credentials = Credentials.load(home / "credentials", now_ns=time.time_ns())
    return TcpTransport(credentials.identity, credentials.contexts())


async def until_cut_off(transport, address, connected):
    """Connect, say so, and wait for the end; what the node said."""
    heard = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            connection = await transport.connect(nursery, address, role=Role.NODE)
            await connection.send(wire.encode(wire.Hello()))
            connected()
            with contextlib.suppress(Broken):
                while True:
                    for data in await connection.receive():
                        heard.append(wire.decode(data)[0])
            nursery.cancel_scope.cancel()
    return heard


def test_a_revoked_certificate_is_good_for_nothing_at_once(own):
    for name, options in (("desk", ["--mount"]), ("ingest", ["--uid", "0", "--gid", "0"])):
        home = own.directory / name
        cluster(own, "permit", name, home, *options)
        assert listed(own)[name]["is"] == "good"
        transport = transport_of(home)

        def revoke(name=name):
            cluster(own, "revoke", name, "--why", "lost in a train")

        async def watched(transport=transport, revoke=revoke):
            async with trio.open_nursery() as nursery:
                revoking = trio.Event()
                heard = []

                async def take_back():
                    await revoking.wait()
                    await trio.to_thread.run_sync(revoke)

                nursery.start_soon(take_back)
                heard += await until_cut_off(transport, own.address("n1"), revoking.set)
                return heard

        *_, last = trio.run(watched)
        assert isinstance(last, wire.Refusal)
        assert last.why.endswith("was revoked: lost in a train")
        for node in own.names:
            with pytest.raises(ExceptionGroup) as refused:
                trio.run(until_cut_off, transport, own.address(node), lambda: None)
            assert refused.group_contains(Broken, match=f"{name} was revoked: lost in a train")
        assert listed(own)[name]["is"].endswith("lost in a train")
    # Another one of the same name is another one.
    home = own.directory / "ingest"
    cluster(own, "permit", "ingest", home, "--uid", "0", "--gid", "0")
    with cascadefs.connect(home / "mount.toml") as store:
        assert store.put("again", "1").number == 1


def test_a_node_takes_up_its_renewed_certificate_and_the_old_one_is_revoked(own):
    node = own.directory / "n2"
    old = shown(own, "n2")
    pid = own.running["n2"].pid
    issued = own.directory / "renewed"
    cluster(own, "add", "n2", issued, "--listen", own.address("n2"))
    for file in ("identity.key", "identity.crt"):
        shutil.copy(issued / "credentials" / file, node / "credentials" / f"{file}.new")
        os.replace(node / "credentials" / f"{file}.new", node / "credentials" / file)
    new = listed(own)["n2"]["serial"]
    cluster(own, "revoke", old)
    own.wait(lambda: shown(own, "n2") == new, "n2 shows the new one")
    own.wait_well()
    assert own.running["n2"].pid == pid
    with own.program() as store:
        store.put("renewed", "1")


def test_a_mount_goes_on_with_another_certificate(own):
    home = own.directory / "keeper"
    cluster(own, "permit", "keeper", home, "--mount")
    with seen_as(own, home) as store:

        def write(number):
            file = record.Create(ROOT, b"k%d" % number, store.allocate_inode(), 0o100644, 0, 0)
            return store.propose(file).reason

        assert write(1) is None
        cluster(own, "permit", "keeper", home, "--mount")
        cluster(own, "revoke", "keeper", "--older")
        assert write(2) is None


def test_a_revoked_node_is_out_and_does_not_start(own):
    cluster(own, "revoke", shown(own, "n3"), "--why", "stolen")
    assert own.running.pop("n3").wait(20) == 1
    command = [*own.command("n3"), "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert (
        "node n3 was revoked: stolen; it serves nothing before another"
        in own.log("n3") + done.stderr
    )
    own._install(Identity(CLUSTER, Role.NODE, "n3"), "n3")
    own.start("n3")
    own.wait_well()


@contextlib.contextmanager
def seen_as(fleet, home):
    """The store as a mount sees it that has the certificate in a directory: it may propose what it likes."""
    observer = Observer(
        ClusterSettings(
            nodes=tuple(map(fleet.address, fleet.names)), credentials=home / "credentials"
        ),
        SystemClock(),
        random.Random(),
        steady_ns=time.monotonic_ns,
        boot_id="boot",
    )
    try:
        yield observer.open(lambda records, total: None)
    finally:
        observer.close()


def content(inode, data):
    """A change of a file's content."""
    return record.Commit(inode, len(data), 0, [(0, len(data), record.SELF, 0)], 1, 1), [data]


def test_a_mount_for_some_users_changes_nothing_of_others(own):
    cluster(own, "permit", "lab", own.directory / "lab", "--mount", "--uid", "1000-1999")
    with (
        seen_as(own, own.directory / "m1") as everybody,
        seen_as(own, own.directory / "lab") as lab,
    ):

        def make(store, name, mode, uid=0, parent=ROOT):
            inode = store.allocate_inode(parent, name, mode)
            outcome = store.propose(record.Create(parent, name, inode, mode, uid, uid))
            return inode, outcome.reason

        def made(*words, **options):
            inode, reason = make(everybody, *words, **options)
            assert reason is None
            return inode

        open_ = made(b"open", stat.S_IFDIR | 0o777)
        sticky = made(b"sticky", stat.S_IFDIR | 0o1777)
        tool = made(b"tool", stat.S_IFREG | 0o755)
        made(b"theirs", stat.S_IFREG | 0o666, parent=sticky)
        shared = made(b"shared", stat.S_IFREG | 0o666)
        assert everybody.propose(*content(tool, b"#!/bin/true")).reason is None
        assert all(lab.refresh(inode) for inode in (ROOT, open_, sticky))

        # What is its users', or open to all, it may change; a file just made, too.
        mine, reason = make(lab, b"mine", stat.S_IFREG | 0o755, 1000, open_)
        assert reason is None
        for one in (content(mine, b"1"), content(shared, b"1")):
            assert lab.propose(*one).reason is None
        new = lab.allocate_inode(open_, b"new")
        create = record.Create(open_, b"new", new, stat.S_IFREG | 0o4755, 1999, 1999)
        assert lab.propose(record.Batch([create, content(new, b"2")[0]]), [b"2"]).reason is None
        ours, reason = make(lab, b"ours", stat.S_IFDIR | 0o755, 1000, open_)
        assert reason is None
        moves = record.Rename(open_, b"new", ours, b"moved")
        assert lab.propose(moves).reason is None
        made(b"closed", stat.S_IFDIR | 0o755, parent=open_)
        brief, reason = make(lab, b"brief", stat.S_IFREG | 0o644, 1000, open_)
        assert reason is None
        assert lab.propose(record.Unlink(open_, b"brief")).reason is None
        nameless = lab.allocate_inode(open_)
        assert lab.propose(record.CreateUnnamed(nameless, stat.S_IFREG, 1000, 1000)).reason is None
        assert lab.propose(record.Drop(0, b"", [nameless])).reason is None
        # A hold above, by whose directory it is; and what it holds, of its users.
        held = made(b"held", stat.S_IFDIR | 0o777)
        assert (
            everybody.propose(record.SetXattr(held, b"user.cascade.hold", b"court")).reason is None
        )
        evidence, reason = make(lab, b"evidence", stat.S_IFREG | 0o644, 1000, held)
        assert reason is None
        for one in (content(evidence, b"1"), content(evidence, b"2")):
            assert lab.propose(*one).reason is None
        # A number that is taken makes no other file, nor is anybody's.
        root_s = made(b"root's", stat.S_IFREG | 0o755, parent=open_)
        for taken in (root_s, open_, mine):
            again = record.Create(open_, b"taken", taken, stat.S_IFREG | 0o755, 1000, 1000)
            assert lab.propose(again).reason is Reason.MALFORMED

        # What is not, it may not; whatever it says.
        last = (open_ // 2**40 + 1) * 2**40 - 1
        for one, *payload in (
            (record.Create(ROOT, b"x", lab.allocate_inode(), stat.S_IFREG | 0o644, 1000, 1000),),
            (record.Create(open_, b"x", lab.allocate_inode(open_), stat.S_IFREG | 0o4755, 0, 0),),
            (record.Create(open_, b"x", lab.allocate_inode(open_), stat.S_IFCHR, 1000, 1000, 5),),
            (record.SetAttributes(mine, uid=0),),
            (record.SetAttributes(tool, mode=0o777),),
            (record.SetAttributes(tool, uid=1000),),
            content(tool, b"mine now"),
            content(lab.allocate_inode(), b"not made by anybody"),
            (record.Batch([content(shared, b"")[0], record.SetAttributes(tool, mode=0o777)]),),
            (record.Link(ROOT, b"x", shared),),
            (record.Unlink(ROOT, b"tool"),),
            (record.Unlink(sticky, b"theirs"),),
            (record.Rename(ROOT, b"tool", ROOT, b"shared"),),
            (record.SetXattr(tool, b"user.x", b"1"),),
            (record.Prune(tool, [(1, 1)], purged=True),),
            (record.Adopt(2**40),),
            # Numbers nobody set aside; the last one would leave none for others.
            (record.Create(open_, b"x", last, stat.S_IFREG | 0o644, 1000, 1000),),
            (record.CreateUnnamed(last, stat.S_IFREG | 0o644, 1000, 1000),),
            (record.SetXattr(ours, b"user.cascade.quota", b"1T"),),
            (record.SetXattr(mine, b"security.capability", b"\1"),),
            (record.SetXattr(mine, b"trusted.x", b"1"),),
            (record.Drop(open_, b"brief", [brief]),),
            (record.Drop(0, b"", [brief]),),
            (record.Prune(evidence, [(1, 1)], purged=True),),
            (record.Rename(open_, b"closed", ours, b"closed"),),
            (record.Rename(ours, b"moved", open_, b"closed", 2),),
            (record.Unlink(sticky, b"soon there"),),
            # What no kernel asks for: it would fit no row, be in everybody's way, or be of bytes that others write later.
            (record.Commit(mine, -1, 0, [], 1, 1),),
            (record.SetAttributes(mine, mtime_ns=2**63),),
            (record.Link(open_, b"..", mine),),
            (record.Commit(mine, 3, 0, [(0, 3, 2**40, 0)], 1, 1),),
        ):
            assert lab.propose(one, *payload).reason is Reason.NOT_PERMITTED, one
        assert lab.propose(*content(mine, b"3")).reason is None
        assert everybody.refresh(open_)
        assert everybody.head(open_, b"mine") == 2
        assert everybody.refresh(ROOT)
        assert everybody.attributes(tool).uid == 0
        assert everybody.attributes(tool).mode & 0o7777 == 0o755
        assert everybody.head(ROOT, b"tool") == 1


def etcdctl(fleet, *words):
    endpoints = ["--endpoints", ",".join(fleet.etcd.endpoints)]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    subprocess.run(
        ["etcdctl", *endpoints, *map(str, words)],
        env=environment,
        capture_output=True,
        timeout=30,
        check=True,
    )


def restore(fleet, snapshot):
    """What an operator does who has lost etcd's disk: the same name and addresses, from the snapshot."""
    (member,) = fleet.etcd.members
    fleet.etcd.kill()
    shutil.rmtree(member.directory / member.name)
    etcdctl(
        fleet,
        *("snapshot", "restore", snapshot, "--name", member.name),
        *("--initial-cluster", f"{member.name}={member.peer}"),
        *("--initial-advertise-peer-urls", member.peer),
        *("--data-dir", member.directory / member.name),
    )
    fleet.etcd.start()


def test_a_restored_etcd_is_not_obeyed_before_it_knows_what_the_nodes_know(own):
    snapshot = own.directory / "snapshot.db"
    with own.program() as store:
        store.put("before", "1")
        etcdctl(own, "snapshot", "save", snapshot)
        # What the snapshot does not know: who leads, a permit taken back, and records of those epochs.
        home = own.directory / "late"
        cluster(own, "permit", "late", home, "--uid", "0", "--gid", "0")
        cluster(own, "revoke", "late")
        victim = own.leader(0)
        own.kill(victim)
        store.put("without", "2")
        own.start(victim)
        own.wait_well()
        epochs = own.epochs()
        restore(own, snapshot)
        older = own.epochs()
        assert older[0].epoch < epochs[0].epoch
        # Who runs goes on as it was; who starts waits, and leads nothing again.
        store.put("meanwhile", "3")
        own.wait(lambda: all("etcd went back" in own.log(n) for n in own.names), "all notice")
        own.kill(victim)
        said = cluster(own, "recover-authority", status=1)
        assert f"{victim} did not answer, and may know of a newer one" in said
        log_bytes = len(own.log(victim))
        ready = begin(own, victim)
        own.wait(lambda: "etcd went back" in own.log(victim)[log_bytes:], "it notices at its start")
        said = cluster(own, "status", status=1)
        assert f"node {victim}: etcd went back" in said
        assert own.epochs() == older
        assert "values put" in cluster(own, "recover-authority")
        with ready:
            assert ready.read() == b"ready\n"
        own.wait_well()
        store.put("after", "4")
        told = [store.get(name) for name in ("before", "without", "meanwhile", "after")]
        assert told == [b"1", b"2", b"3", b"4"]
    assert all(own.epochs()[shard].epoch >= epochs[shard].epoch for shard in epochs)
    assert listed(own)["late"]["is"].startswith("revoked")
    own.wait(lambda: all("it is obeyed again" in own.log(n) for n in own.names), "all obey")
    assert "nothing to recover" in cluster(own, "recover-authority", status=1)
    own.check_logs()


def begin(fleet, name):
    """Start a node without waiting for it; what it says when it is ready."""
    reading, writing = os.pipe()
    with (fleet.directory / name / "stderr").open("ab") as stderr:
        fleet.running[name] = subprocess.Popen(
            [*fleet.command(name), str(writing)],
            pass_fds=[writing],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
    os.close(writing)
    return open(reading, "rb")


def test_who_knows_nothing_of_newer_epochs_hears_of_them(in_world, caplog):
    """Only the node that was away obeys the older authority, and would lead an epoch that has been, beside those that are in it."""

    async def scenario(world):
        await world.start()
        await world.wait_members()
        away = next(name for name in world.nodes if name != world.epoch().leader)
        older = world.epoch()
        await world.kill(away)
        newer = await world.wait_members(*world.nodes)
        proposer = Proposer(world.leader())
        proposer.propose(5)
        await proposer.wait()
        world.authority._put(key_of(older), older)
        await world.start(away)
        with trio.move_on_after(60):
            while True:
                assert world.epoch() == older
                await trio.sleep(0.1)
        said = f"another node is in epoch {newer.epoch}, of which etcd knows nothing"
        assert said in caplog.text
        world.authority._put(key_of(newer), newer)
        await world.wait_members()
        await world.wait_same()

    in_world(scenario)

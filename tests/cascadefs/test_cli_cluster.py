"""`cascadefs cluster ...` against a real etcd, without any node.

Goal: what the commands write, in files and in etcd, is what nodes and mounts read; a mistake is said in words and changes nothing. Method:
the command line in this process; nodes are played by values put into etcd.
"""

from __future__ import annotations

import json
from itertools import count

import pytest
import trio
from typer.testing import CliRunner

from cascadefs.cli import app
from cascadefs.cli.cluster.files import now_ns
from cascadefs.cli.complaint import Complaint
from cascadefs.configuration import Cluster, Mount, Node, load
from storage.membership.gateway import Put
from storage.membership.http import open_gateway
from storage.membership.keys import encode, key_of
from storage.membership.tree import Tree
from storage.membership.values import Certificate, Epoch, Presence, Shard, Stranded
from storage.transport import EVERYBODY, Role
from storage.transport.certificates import Credentials
from tests.etcd import Etcd, free_ports

prefixes = count()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    with Etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


class Commands:
    """One cluster, or where one will be."""

    def __init__(self, etcd, directory):
        self.etcd = etcd
        self.directory = directory
        self.home = directory / "home"
        self.prefix = f"/cli{next(prefixes)}/"

    def __call__(self, *words, config=True):
        """Run a command; its output. Raises what it complains of."""
        given = ["cluster", *map(str, words), *(["-c", str(self.home)] if config else [])]
        result = CliRunner().invoke(app, given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.status = result.exit_code
        return result.output

    def init(self, *words, home=None):
        home = home or self.home
        where = ["--etcd", self.etcd.endpoints[0], "--prefix", self.prefix]
        return self("init", home, *where, *words, config=False)

    def put(self, *values):
        """What nodes would have done."""

        async def put():
            async with open_gateway(self.etcd.endpoints, self.prefix) as gateway:
                await gateway.transact([], [Put(key_of(value), encode(value)) for value in values])

        trio.run(put)

    @property
    def view(self):
        async def read():
            async with open_gateway(self.etcd.endpoints, self.prefix) as gateway:
                return await gateway.read()

        reading, tree = trio.run(read), Tree()
        tree.reset(reading.revision, reading.items)
        assert not tree.unreadable
        return tree.view


@pytest.fixture
def cluster(etcd, tmp_path):
    return Commands(etcd, tmp_path)


@pytest.fixture
def founded(cluster):
    cluster.init("--shards", "2", "--replicas", "2")
    return cluster


def refused(cluster, *words, **options):
    before = cluster.view
    with pytest.raises(Complaint) as told:
        cluster(*words, **options)
    assert cluster.view == before
    return str(told.value)


# --- founding ------------------------------------------------------------------------------------------------------


def test_init_founds_a_cluster(cluster):
    said = cluster.init(
        "--shards", "3", "--replicas", "3", "--replicas-min", "2", "--durability", "memory"
    )
    assert "3 shards" in said
    told = load(cluster.home / "cluster.toml", Cluster)
    view = cluster.view
    assert view.cluster.identity == told.cluster
    assert set(view.shards) == {0, 1, 2}
    (pool,) = view.pools.values()
    assert (pool.name, pool.path, pool.replicas, pool.replicas_min) == ("root", "/", 3, 2)
    assert pool.durability == "memory"
    assert (cluster.home / "authority/authority.key").stat().st_mode & 0o77 == 0
    who = Credentials.load(cluster.home / "credentials", now_ns=now_ns()).identity
    assert (who.cluster, who.role) == (told.cluster, Role.CLIENT)


def test_init_refuses_what_is_there_and_what_does_not_fit(founded, tmp_path):
    with pytest.raises(Complaint, match="is there already; use another directory"):
        founded.init()
    with pytest.raises(Complaint, match=r"holds cluster \w+ at /cli\d+/; choose another --prefix"):
        founded.init(home=tmp_path / "other")
    assert not (tmp_path / "other/cluster.toml").exists()
    assert not (tmp_path / "other/authority").exists()
    with pytest.raises(Complaint, match="2 replicas can never be 3; lower --replicas-min"):
        founded.init("--replicas", "2", "--replicas-min", "3", home=tmp_path / "third")
    with pytest.raises(Complaint, match="durability: invalid enum value 'tape'"):
        founded.init("--durability", "tape", home=tmp_path / "third")


def test_an_etcd_that_is_away_is_said_and_nothing_is_left_behind(tmp_path):
    (port,) = free_ports(1)
    words = ["cluster", "init", str(tmp_path / "home"), "--etcd", f"http://127.0.0.1:{port}"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, Complaint)
    assert result.exception.status == 2
    assert str(port) in str(result.exception)
    assert not (tmp_path / "home").exists()


# --- who may take part ---------------------------------------------------------------------------------------------


def test_add_writes_a_nodes_configuration_and_credentials_and_tells_etcd(founded, tmp_path):
    said = founded("add", "n1", tmp_path / "n1", "--listen", "127.0.0.1:7400", "--label", "ssd")
    assert f"cascadefs serve --config {tmp_path}/n1/node.toml" in said
    node = load(tmp_path / "n1/node.toml", Node)
    assert node.name == "n1"
    assert node.cluster == founded.view.cluster.identity
    assert node.etcd.prefix == founded.prefix
    assert node.data == str(tmp_path / "n1/data")
    who = Credentials.load(tmp_path / "n1/credentials", now_ns=now_ns()).identity
    assert (who.role, who.name) == (Role.NODE, "n1")
    known = founded.view.nodes["n1"]
    assert (known.addresses, known.labels, known.state) == (("127.0.0.1:7400",), ("ssd",), "active")


def test_add_says_how_the_node_reaches_others_and_whose_scripts_it_runs(founded, tmp_path):
    words = ["add", "n1", tmp_path / "n1", "--listen", "127.0.0.1:7400"]
    founded(*words, "--transport", "verbs", "--fallback", "tcp", "--device", "mlx5_0")
    told = load(tmp_path / "n1/node.toml", Node).transport
    assert (told.kind, told.fallback, told.device, told.gid) == ("verbs", "tcp", "mlx5_0", "")
    assert "transport.kind: 'pigeon' is none of 'tcp', 'verbs'" in refused(
        founded, *words, "--transport", "pigeon"
    )
    assert "transport.fallback: is for verbs" in refused(founded, *words, "--fallback", "tcp")
    founded(*words, "--triggers", "owner")
    assert load(tmp_path / "n1/node.toml", Node).triggers == "owner"
    assert "triggers: 'all' is none of 'off', 'owner', 'root'" in refused(
        founded, *words, "--triggers", "all"
    )


def test_add_again_changes_the_node_and_keeps_its_state(founded, tmp_path):
    founded("add", "n1", tmp_path / "n1", "--listen", "127.0.0.1:7400")
    first = (tmp_path / "n1/credentials/identity.crt").read_bytes()
    founded("drain", "n1")
    said = founded(
        "add", "n1", tmp_path / "n1", "--listen", "0.0.0.0:7400", "--advertise", "10.0.0.1:7400"
    )
    assert "changed" in said
    known = founded.view.nodes["n1"]
    assert (known.addresses, known.state) == (("10.0.0.1:7400",), "draining")
    assert (tmp_path / "n1/credentials/identity.crt").read_bytes() != first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Node One", "d", "--listen", "h:1"], "name: not of the form"),
        (["n1", "d", "--listen", "nowhere"], "listen: not of the form"),
        (["n1", "d", "--listen", "0.0.0.0:7400"], "advertise: is missing"),
        (["n1", "d", "--listen", "h:1", "--label", "a b"], "labels"),
        (["n1", "d", "--listen", "h:1", "--lease", "2"], "etcd.timeout_s"),
    ],
)
def test_a_node_that_cannot_be_is_refused(founded, words, said, tmp_path, monkeypatch):
    import re

    monkeypatch.chdir(tmp_path)
    assert re.search(said, refused(founded, "add", *words))
    assert not (tmp_path / "d").exists()


def test_permit_makes_mounts_and_programs(founded, tmp_path):
    assert "no node yet" in refused(founded, "permit", "desk", tmp_path / "desk", "--mount")
    founded("add", "n1", tmp_path / "n1", "--listen", "127.0.0.1:7400")
    founded("permit", "desk", tmp_path / "desk", "--mount")
    assert load(tmp_path / "desk/mount.toml", Mount).nodes == ("127.0.0.1:7400",)
    who = Credentials.load(tmp_path / "desk/credentials", now_ns=now_ns()).identity
    assert (who.role, who.uids) == (Role.MOUNT, EVERYBODY)
    founded("permit", "ingest", tmp_path / "ingest", "--uid", "1000-1001:5000", "--gid", "100")
    who = Credentials.load(tmp_path / "ingest/credentials", now_ns=now_ns()).identity
    assert who.role is Role.CLIENT
    assert [who.uids.translate(uid) for uid in (999, 1000, 1001, 1002)] == [None, 5000, 5001, None]
    assert who.gids.translate(0) is None


def test_permit_wants_to_know_for_whom(founded, tmp_path):
    for words in ([], ["--uid", "x"], ["--uid", "9-1"], ["--uid", "99999999999"]):
        founded("permit", "p", tmp_path / "p", *words)
        assert founded.status == 2
    assert not (tmp_path / "p").exists()


# --- nodes ---------------------------------------------------------------------------------------------------------


def alive(name, **more):
    return Presence(name, 1, (f"127.0.0.1:{7400 + int(name[1:])}",), **more)


@pytest.fixture
def peopled(founded, tmp_path):
    for number in (1, 2, 3):
        founded(
            "add", f"n{number}", tmp_path / f"n{number}", "--listen", f"127.0.0.1:{7400 + number}"
        )
    founded.put(
        Shard(0, "root", ("n1", "n2")),
        Shard(1, "root", ("n2", "n3")),
        Epoch(0, 4, "n1", ("n1", "n2")),
        Epoch(1, 2, "n2", ("n2", "n3")),
        *map(alive, ("n1", "n2", "n3")),
    )
    return founded


def gone(cluster, *keys):
    async def put():
        async with open_gateway(cluster.etcd.endpoints, cluster.prefix) as gateway:
            await gateway.transact([], [Put(key, None) for key in keys])

    trio.run(put)


def test_drain_and_undrain(peopled):
    assert "1 shard left" in peopled("drain", "n1")
    assert peopled.view.nodes["n1"].state == "draining"
    peopled("drain", "n1")
    peopled("undrain", "n1")
    assert peopled.view.nodes["n1"].state == "active"
    assert "there is none; there are n1, n2, n3" in refused(peopled, "drain", "n9")


def test_drain_waits_when_asked_until_nothing_is_left(peopled):
    peopled.put(Epoch(0, 5, "n2", ("n2",)))
    assert "holds nothing" in peopled("drain", "n1", "--wait")


def test_only_a_stopped_node_that_nobody_needs_is_removed(peopled):
    assert "is alive; drain it and stop it first" in refused(peopled, "remove", "n1")
    gone(peopled, "live/n1")
    assert "still holds shard 0; drain it first, or say --lost" in refused(peopled, "remove", "n1")
    peopled.put(Epoch(0, 5, "n1", ("n1",)))
    for words in ([], ["--lost"]):
        said = refused(peopled, "remove", "n1", *words)
        assert "is the only one that has shard 0" in said
    peopled.put(Epoch(0, 6, "n2", ("n1", "n2")))
    peopled("remove", "n1", "--lost")
    assert set(peopled.view.nodes) == {"n2", "n3"}


def test_recover_is_by_an_operator_who_says_what_may_be_lost(peopled):
    assert "n1 may lack what n2 had; say --lose" in refused(peopled, "recover", "0", "n1")
    assert "n3 is none of its members n1, n2" in refused(peopled, "recover", "0", "n3", "--lose")
    assert "has never begun" in refused(peopled, "recover", "9", "n1", "--lose")
    peopled("recover", "0", "n1", "--lose")
    assert peopled.view.epochs[0] == Epoch(0, 5, "n1", ("n1",), forced=True)
    gone(peopled, "live/n2")
    assert "is not alive" in refused(peopled, "recover", "1", "n2", "--lose")


# --- looking -------------------------------------------------------------------------------------------------------


def test_status_of_a_cluster_that_is_well(peopled):
    document = json.loads(peopled("status", "--json"))
    assert peopled.status == 0
    assert document["troubles"] == []
    assert [node["node"] for node in document["nodes"]] == ["n1", "n2", "n3"]
    assert document["nodes"][1]["leads"] == [1]
    assert document["nodes"][1]["holds"] == [0, 1]
    assert document["shards"][0]["leader"] == "n1"
    assert document["shards"][0]["lag"] is None  # nobody there to say
    text = peopled("status")
    assert "127.0.0.1:7402" in text
    assert "n1 n2" in text


@pytest.mark.parametrize(
    ("keys", "values", "said"),
    [
        (["live/n1"], [], "shard 0: without a leader: n1 is away"),
        (["live/n2"], [], "shard 0: waiting for n2"),
        (
            [],
            [Epoch(0, 5, "n1", ("n1",)), Shard(0, "root", ("n1", "n2"))],
            "shard 0: 1 of 2 members: n2 has not begun to be filled, n3 is not asked yet",
        ),
        (
            ["live/n2", "nodes/n3", "live/n3"],
            [Epoch(0, 5, "n1", ("n1",))],
            "shard 0: 1 of 2 members: n2 is away",
        ),
        (
            ["nodes/n2", "nodes/n3", "live/n2", "live/n3"],
            [Epoch(0, 5, "n1", ("n1",)), Epoch(1, 5, "n1", ("n1",))],
            "shard 0: 1 of 2 members: there are no more nodes; add one",
        ),
        ([], [Shard(1, "root", ("n1", "n2"))], "shard 1: moving to n1"),
        (["epochs/1"], [], "shard 1: not begun"),
        (["nodes/n3"], [], "node n3: is alive, but was removed or never added; stop it, or add it"),
        (["pools/root"], [], "shard 0: its pool root is not there"),
        (
            ["live/n1"],
            [Epoch(0, 4, "n2", ("n2", "n1")), alive("n2", stranded=(Stranded(0, 4, 0, 0),))],
            "shard 0: n2 has nothing of it; is the disk there? else start the others, or recover",
        ),
        (
            [],
            [alive("n2", stranded=(Stranded(0, 4, 4, 9),))],
            "shard 0: n2 lost something; waiting for one another",
        ),
    ],
)
def test_status_says_what_is_wrong(peopled, keys, values, said):
    gone(peopled, *(keys or ["none"]))
    if values:
        peopled.put(*values)
    assert said in peopled("status").splitlines()
    assert peopled.status == 1


def test_status_says_by_what_nodes_are_connected_and_who_fell_back(peopled, monkeypatch):
    async def figures(view, credentials):
        why = "reaches n2 by TCP: packets of 4096 bytes do not get through"
        return {
            "n1": {
                "links": {"n2": {"transport": "tcp"}, "n3": {"transport": "verbs"}},
                "transport": {"kind": "verbs", "troubles": [why]},
            }
        }

    monkeypatch.setattr("cascadefs.cli.cluster.figures.figures", figures)
    text = peopled("status")
    assert peopled.status == 1
    assert "1 tcp, 1 verbs" in text
    assert "node n1: reaches n2 by TCP: packets of 4096 bytes do not get through" in text
    document = json.loads(peopled("status", "--json"))
    (node,) = [node for node in document["nodes"] if node["node"] == "n1"]
    assert node["links"]["n3"]["transport"] == "verbs"


def test_status_says_who_does_not_obey_whose_certificate_ends_and_whose_clock_is_wrong(
    peopled, monkeypatch
):
    async def figures(view, credentials):
        now_us = now_ns() // 1000
        told = {name: {"time_us": now_us, "asked_us": now_us} for name in ("n1", "n2", "n3")}
        told["n1"]["authority_trouble"] = "etcd went back: from revision 9 to 5"
        for name, days in (("n1", 15), ("n2", 5), ("n3", -1)):
            told[name]["certificate"] = {"expires_s": now_us // 10**6 + days * 86400 + 60}
        told["n3"]["time_us"] += 3600 * 10**6
        return told

    monkeypatch.setattr("cascadefs.cli.cluster.figures.figures", figures)
    troubles = json.loads(peopled("status", "--json"))["troubles"]
    assert peopled.status == 1
    assert [one for one in troubles if one.startswith("node n")] == [
        "node n1: etcd went back: from revision 9 to 5",
        "node n2: its certificate expires in 5 days; renew it: cascadefs cluster add",
        "node n3: its certificate has expired; renew it: cascadefs cluster add",
        "node n3: its clock is 3600 s ahead of the others': set it (chrony)",
    ]


def test_permits_are_listed_and_revoked(founded, tmp_path):
    def is_(name):
        lines = founded("permits", "--json").splitlines()
        return [one["is"] for one in map(json.loads, lines) if one["name"] == name]

    founded("add", "n1", tmp_path / "n1", "--listen", "127.0.0.1:7400")
    founded("permit", "n1", tmp_path / "m", "--mount", "--uid", "1000-1999")
    assert "1000-1999" in founded("permits")
    assert "is the name of a mount and of a node; say --role" in refused(founded, "revoke", "n1")
    founded("revoke", "n1", "--role", "mount", "--why", "sold")
    assert sorted(state.partition(" ")[0] for state in is_("n1")) == ["good", "revoked"]
    founded("add", "n1", tmp_path / "again", "--listen", "127.0.0.1:7400")
    (first, second) = (
        Credentials.load(tmp_path / home / "credentials", now_ns=now_ns()).identity.serial
        for home in ("n1", "again")
    )
    said = founded("revoke", "n1", "--role", "node", "--older")
    assert first in said
    assert second not in said
    assert "nothing is left to revoke" in founded("revoke", first)
    assert "nothing is left to revoke" in founded("revoke", f"0{first.upper()}")
    founded("revoke", f"0{second.upper()}")
    assert is_("n1").count("good") == 0, "and it is still listed by its name"
    assert "no certificate of that name is listed" in refused(founded, "revoke", "desk")
    # One that nobody has listed, as openssl prints it.
    founded("revoke", "00ABCDEF0123456789")
    assert founded.view.certificates["abcdef0123456789"].revoked_us
    assert is_("operator") == ["good"]
    soon = (now_ns() + 3 * 86400 * 10**9 + 10**10) // 1000
    founded.put(Certificate("5", "cascadefs://c/mount/old?uid=0", 1, soon))
    assert "mount old: its certificate expires in 3 days; issue another" in founded("status")
    assert "leave :HERE away" in founded("permit", "x", tmp_path / "x", "--mount", "--uid", "1:2")


def test_status_by_a_nodes_own_configuration(peopled, tmp_path):
    result = CliRunner().invoke(app, ["cluster", "status", "-c", str(tmp_path / "n1/node.toml")])
    assert result.exit_code == 0, result.output


def test_another_clusters_etcd_is_noticed(founded, tmp_path):
    path = founded.home / "cluster.toml"
    path.write_text(path.read_text().replace(founded.view.cluster.identity, "c0ffee"))
    assert "and not c0ffee; is this the right etcd" in refused(founded, "status")
    path.write_text(path.read_text().replace(founded.prefix, "/elsewhere/"))
    assert "knows no cluster at this prefix" in refused(founded, "status")


def test_no_configuration_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CASCADEFS_CLUSTER", raising=False)
    result = CliRunner().invoke(app, ["cluster", "status"])
    assert "no cluster.toml here" in str(result.exception)


# --- pools ---------------------------------------------------------------------------------------------------------


def test_pools_are_made_changed_and_listed(founded):
    words = ["--shards", "3", "--affinity", r"run\d+", "--label", "gpu"]
    founded("pools", "create", "scratch", "/scratch/", *words)
    pool = founded.view.pools["scratch"]
    assert (pool.path, pool.affinity, pool.labels) == ("/scratch", r"run\d+", ("gpu",))
    assert {s.shard for s in founded.view.shards.values() if s.pool == "scratch"} == {2, 3, 4}
    founded(
        "pools",
        "set",
        "scratch",
        "--replicas",
        "3",
        "--replicas-min",
        "2",
        "--shards",
        "4",
        "--label",
        "",
    )
    pool = founded.view.pools["scratch"]
    assert (pool.replicas, pool.replicas_min, pool.labels) == (3, 2, ())
    assert founded.view.shards[5] == Shard(5, "scratch")
    listed = [json.loads(line) for line in founded("pools", "list", "--json").splitlines()]
    assert [(pool["name"], pool["shards"]) for pool in listed] == [
        ("root", [0, 1]),
        ("scratch", [2, 3, 4, 5]),
    ]
    result = CliRunner().invoke(app, ["cluster", "pools", "-c", str(founded.home)])
    assert "scratch" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "root", "/r"], "pool root: has / already"),
        (["create", "p", "/"], "pool root: has / already"),
        (["create", "P", "/p"], "pool P: name:"),
        (["create", "p", "p"], "pool p: path:"),
        (["create", "p", "/a/../b"], "is no plain path from the root"),
        (["create", "p", "/p", "--affinity", "("], "--affinity: missing"),
        (["create", "p", "/p", "--replicas-min", "2"], "1 replicas can never be 2"),
        (["set", "q", "--replicas", "2"], "pool q: there is none; there are root"),
        (["set", "root", "--shards", "1"], "pool root: has 2 shards"),
        (["set", "root", "--durability", "memory"], "its logs are for disk; make a new pool"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(founded, words, said):
    assert said in refused(founded, "pools", *words)

"""The page of a node and of a cluster: the same tree, whoever serves it, and how all shards are.

Method: two nodes with a page each on loopback, and scripts; and `cascadefs page` of a program's mount.toml, of the three nodes that
all tests share.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from cascadefs import configuration
from tests.cluster.fleet import Fleet
from tests.cluster.processes import CLUSTER
from tests.cluster.test_mounts import Mount
from tests.cluster.test_triggers import install
from tests.etcd import Etcd

pytestmark = [pytest.mark.mounted, pytest.mark.slow, pytest.mark.timeout(400)]


class Web:
    """Asks a page as somebody who has its token."""

    def __init__(self, url, token):
        self.url, self.token = url, token

    def open(self, target, body=None, **asked):
        question = "?" + urllib.parse.urlencode(asked) if asked else ""
        headers = {"Authorization": f"Bearer {self.token}", "X-Cascadefs": "1"}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(f"{self.url}{target}{question}", data, headers)
        return urllib.request.urlopen(request, timeout=30)

    def ask(self, question, **asked):
        with self.open(f"api/{question}", **asked) as answer:
            return json.load(answer)

    def board(self):
        """The first news of the feed."""
        with self.open("api/live") as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    return json.loads(line[6:])
        raise AssertionError("the feed ended")


def page_of(fleet, name):
    """The page of a node, as its log says where it is."""

    def found():
        lines = [line for line in fleet.log(name).splitlines() if "the page is at " in line]
        return lines[-1].partition("the page is at ")[2].strip() if lines else None

    url = fleet.wait(found, "page")
    token = (fleet.directory / name / "data/page.token").read_text().strip()
    return Web(url, token)


def check(web, path, versions, shards, members):
    """Whether a page shows the file with its past, and all shards well."""
    name = path.rpartition("/")[2]
    entries = web.ask("tree", path=path.rpartition("/")[0])["entries"]
    assert [(one["name"], one["version"]) for one in entries] == [(name, 2)]
    told = web.ask("tree", path=path.rpartition("/")[0], at=versions[0].timestamp)["entries"]
    assert [(one["name"], one["version"]) for one in told] == [(name, 1)]
    with web.open("raw", path=path, at=versions[0].timestamp) as answer:
        assert answer.read() == b"one"
    until = time.monotonic() + 60
    while (board := web.board())["shards"] and time.monotonic() < until:
        if all(shard["is"] == "well" and shard["records"] for shard in board["shards"]):
            break
        time.sleep(0.1)
    assert [pool["name"] for pool in board["pools"]] == ["main"]
    assert [shard["shard"] for shard in board["shards"]] == shards
    assert {len(shard["members"]) for shard in board["shards"]} == {members}
    assert {node["state"] for node in board["nodes"]} == {"alive"}


@pytest.fixture(scope="module")
def paged(tmp_path_factory):
    """Two nodes with a page each, and scripts."""
    directory = tmp_path_factory.mktemp("paged")
    mode = "root" if os.geteuid() == 0 else "owner"
    node = {"triggers": mode, "http": "127.0.0.1:0"}
    with (
        Etcd(directory) as etcd,
        Fleet(directory, etcd.endpoints, ("n1", "n2"), 1, node=node, durability="memory") as fleet,
    ):
        nodes = tuple(fleet.address(name) for name in fleet.names)
        told = configuration.spell(configuration.Mount(cluster=CLUSTER, nodes=nodes))
        (directory / "m1/mount.toml").write_text(told)
        fleet.start()
        fleet.wait_well()
        yield fleet


def test_every_node_shows_the_cluster_and_nobody_without_its_token(paged):
    with paged.program() as store:
        versions = [store.put("pages/note", text) for text in ("one", "two")]
    for name in paged.names:
        check(page_of(paged, name), "pages/note", versions, [0], 2)
    web = page_of(paged, "n2")
    web.token = page_of(paged, "n1").token
    with pytest.raises(urllib.error.HTTPError, match="401"):
        web.ask("about")


def test_a_program_has_a_page_of_the_cluster_with_its_own_rights(fleet):
    with fleet.program() as store:
        versions = [store.put("shown/note", text) for text in ("one", "two")]
        store.put("hidden", "secret", mode=0o600)
    told = fleet.permit("user1000", 1000, 1000)
    command = [*fleet.cascadefs, "page", told, "--http", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url, _, token = process.stdout.readline().strip().partition("?token=")
        web = Web(url, token)
        check(web, "shown/note", versions, [0, 1, 2, 3], 3)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            web.open("raw", path="hidden")
        with pytest.raises(urllib.error.HTTPError, match="409"):
            web.open("api/command", {"do": "kill", "base": "", "name": "x"})
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


SLOW = """
import time
from cascadefs.triggers import watch

@watch("in/*")
def slow(event, ctx):
    while True:
        time.sleep(1)
"""


def test_a_node_shows_the_scripts_of_the_shards_it_leads_and_ends_their_runs(paged, tmp_path):
    mount = Mount(paged, tmp_path / "mount", "kernel")
    try:
        farm = mount.path / "farm"
        (farm / "in").mkdir(parents=True)
        install(farm, "slow.py", SLOW)
        web = page_of(paged, paged.leader(0))
        paged.wait(lambda: web.board()["bindings"], "binding")
        (farm / "in/a").write_text("x")
        (run,) = paged.wait(lambda: web.board()["running"], "run")
        assert (run["base"], run["binding"], run["paths"]) == ("farm", "slow.py:slow", ["in/a"])
        told = {"do": "kill", "base": "farm", "name": run["run"]}
        for wrong in ({**told, "base": "elsewhere"}, {**told, "name": "no such run"}):
            with pytest.raises(urllib.error.HTTPError, match="409"):
                web.open("api/command", wrong)
        with web.open("api/command", told) as answer:
            assert json.load(answer) == {"done": 1}
        paged.wait(lambda: not web.board()["running"], "end of the run")
        web.open("api/command", {"do": "pause", "base": "farm", "name": "slow.py:slow"}).close()
        binding = paged.wait(
            lambda: next((b for b in web.board()["bindings"] if b["state"] == "paused"), None),
            "pause",
        )
        assert binding["failed"] == 1
    finally:
        assert mount.end() == 0, mount.log.read_text()

"""`scripts/cluster` and the operator's commands on the real cluster that it brings up.

Goal: one command gives a cluster that is well, the commands of OPERATIONS do there what they say, and ending the script leaves nothing behind.
Method: processes, etcd, certificates and command line as a person has them; waiting is by asking `cluster status`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

import cascadefs

ROOT = Path(__file__).resolve().parent.parent.parent
CASCADEFS = ROOT / ".venv/bin/cascadefs"
WAIT_S = 90


class Cluster:
    """The script, running."""

    def __init__(self, directory: Path, nodes: int) -> None:
        self.directory = directory
        self.output = directory / "said"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [ROOT / "scripts/cluster", str(nodes), "--directory", directory / "cluster"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.wait(lambda: "Ctrl-C ends" in self.said)

    @property
    def said(self) -> str:
        return self.output.read_text()

    def wait(self, condition) -> None:
        until = time.monotonic() + WAIT_S
        while not condition():
            assert self.process.poll() is None, f"the script ended:\n{self.said}"
            assert time.monotonic() < until, f"it does not come:\n{self.said}"
            time.sleep(0.2)

    def run(self, *words: str) -> str:
        command = [CASCADEFS, "cluster", *words, "-c", self.directory / "cluster/operator"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    def status(self) -> dict:
        return json.loads(self.run("status", "--json"))

    @contextlib.contextmanager
    def load(self):
        """A program that writes all the time; it has written something before, and is answered until the end."""
        home = self.directory / "program"
        self.run("permit", "load", str(home), "--uid", "0", "--gid", "0")
        over, written = threading.Event(), threading.Event()

        def write() -> None:
            with cascadefs.connect(home / "mount.toml") as store:
                while not over.is_set():
                    store.put_many({f"load{number}": bytes(256 * 1024) for number in range(8)})
                    written.set()

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            try:
                assert written.wait(WAIT_S)
                yield
            finally:
                over.set()
            writing.result()

    def pids(self) -> list[int]:
        """The processes of the script: whoever was started with a path in its directory."""
        mine = os.fsencode(self.directory / "cluster")
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes()
            except OSError:
                continue
            if mine in words and int(entry.parent.name) != self.process.pid:
                found.append(int(entry.parent.name))
        return found

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=WAIT_S)


def replicate(cluster, count):
    """Have every shard on so many nodes."""
    cluster.run("pools", "set", "root", "--replicas", str(count))
    cluster.wait(
        lambda: (
            not cluster.status()["troubles"]
            and all(len(shard["members"]) == count for shard in cluster.status()["shards"])
        )
    )


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path, 3)
    yield cluster
    if cluster.process.poll() is None:
        cluster.end()


@pytest.mark.slow
@pytest.mark.timeout(5 * WAIT_S)
def test_a_cluster_with_one_command_drained_killed_and_ended(cluster):
    status = cluster.status()
    assert status["troubles"] == []
    assert {node["state"] for node in status["nodes"]} == {"alive"}
    assert all(len(shard["members"]) == 3 and shard["lag"] == 0 for shard in status["shards"])

    # A shard of one replica moves while it is written to: in is taken who then leads, and out goes who has led.
    replicate(cluster, 1)
    before = {shard["shard"]: shard for shard in cluster.status()["shards"]}
    node = before[0]["leader"]
    with cluster.load():
        assert "holds nothing" in cluster.run("drain", node, "--wait")
    drained = cluster.status()
    assert all(node not in shard["members"] for shard in drained["shards"])
    assert drained["troubles"] == []
    for shard in drained["shards"]:
        was = before[shard["shard"]]
        moves = was["leader"] == node
        assert shard["epoch"] - was["epoch"] == (3 if moves else 0), (was, shard)
    cluster.run("undrain", node)
    replicate(cluster, 2)

    pid = int(re.search(r"kill node n2: +kill -9 (\d+)", cluster.said)[1])
    os.kill(pid, signal.SIGKILL)
    cluster.wait(
        lambda: all(
            shard["leader"] not in (None, "n2") and "n2" not in shard["members"]
            for shard in cluster.status()["shards"]
        )
    )

    cluster.end()
    assert cluster.pids() == []

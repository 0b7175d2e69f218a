"""What each of two guests on one wire does: in the first etcd, a node and a program that writes; in the second the other node.

    scripts/rdma-guest --guests 2 --memory 1024 -- .venv/bin/python -m tests.cluster.two_guests

The first says "both" when the second holds everything, too; then the second's plug is pulled. It says "alone" with what it found.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import tarfile
import time
from pathlib import Path

from cascadefs.configuration import Transport
from tests.cluster.fleet import Fleet
from tests.cluster.load import Load
from tests.etcd import Etcd

NAMES = ("n1", "n2")
FIRST, PORT = "10.9.0.1", 7300
DIRECTORY = Path("/tmp/guests")


class Machines:
    """Hosts as `tests.cluster.hosts` has them: one in each guest."""

    def address(self, name):
        return f"10.9.0.{name[1:]}"

    def transport(self, name):
        return Transport("verbs", timeout_exponent=16)

    def inside(self, name):
        return []


def give(directory):
    """Let the other guest have its node's directory."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(directory, arcname=".")
    with socket.create_server((FIRST, PORT)) as listening, listening.accept()[0] as connected:
        connected.sendall(packed.getvalue())


def take(directory):
    while True:
        try:
            connected = socket.create_connection((FIRST, PORT), timeout=10)
            break
        except OSError:
            time.sleep(0.1)
    with connected, connected.makefile("rb") as stream:
        packed = io.BytesIO(stream.read())
    with tarfile.open(fileobj=packed) as archive:
        archive.extractall(directory, filter="data")


def first():
    DIRECTORY.mkdir()
    with (
        Etcd(DIRECTORY, host=FIRST) as etcd,
        Fleet(DIRECTORY, etcd.endpoints, NAMES, 1, hosts=Machines(), durability="memory") as fleet,
    ):
        give(DIRECTORY / "n2")
        fleet.start("n1")

        def have_both():
            return set(fleet.epochs()[0].members) == set(NAMES)

        fleet.wait(lambda: 0 in fleet.epochs() and have_both(), "the other node is a member")
        load = Load(fleet, "guests", programs=1, directories=2)
        load.start()
        print("both", fleet.status("n1")["links"]["n2"]["transport"], flush=True)
        load.disturbed()
        fleet.wait(lambda: not have_both(), "it goes on without the other node")
        load.go_on()
        load.stop()
        with fleet.program() as store:
            print("alone", load.check(store), "acknowledged, 0 lost, 0 doubled", flush=True)
        (said,) = [line for line in fleet.log("n1").splitlines() if "not connected" in line][:1]
        print("log", said, flush=True)


def second():
    take(DIRECTORY)
    os.execv(sys.executable, [sys.executable, "-m", "cascadefs.cli", "serve", "-c", str(DIRECTORY)])


if __name__ == "__main__":
    first() if os.environ["RDMA_GUEST"] == "1" else second()

"""Hosts as `tests.cluster.hosts` has them, in the RDMA guest: node i is on a wire of its own, with device rxe<i> (scripts/rdma/network).

What nodes say to each other goes over their wires, by RDMA and by TCP; etcd and programs reach them beside these, as by a network for
administration. One way between two nodes is cut by a wrong hardware address: what is sent there arrives at nobody.

    with Wires(["n1", "n2", "n3"]) as wires:
        wires.cut("n1", "n2"); wires.lose("20%"); wires.unplug("n3"); wires.mend()
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from cascadefs.configuration import Transport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOBODY = "02:00:00:00:00:99"
ADMINISTRATION, TABLE = "10.8.0.1", "99"


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


class Wires:
    """See the module."""

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(names, 1)}
        self._cut: set[tuple[str, str]] = set()

    def __enter__(self) -> Wires:
        # Who dials without an address of a node's has that of the administration's network, and is answered there.
        run("ip", "address", "add", f"{ADMINISTRATION}/32", "dev", "lo")
        for name in self._numbers:
            route = ["local", self.address(name), "dev", "lo", "src", ADMINISTRATION]
            run("ip", "route", "add", *route, "table", TABLE)
        run("ip", "rule", "add", "pref", "25", "to", "10.9.0.0/24", "lookup", TABLE)
        return self

    def __exit__(self, *_: object) -> None:
        self.mend()
        run("ip", "rule", "del", "pref", "25")
        run("ip", "route", "flush", "table", TABLE)
        run("ip", "address", "del", f"{ADMINISTRATION}/32", "dev", "lo")

    def address(self, name: str) -> str:
        return f"10.9.0.{self._numbers[name]}"

    def device(self, name: str) -> str:
        return f"rxe{self._numbers[name]}"

    def transport(self, name: str) -> Transport:
        """By RDMA, with the patience of a machine that stands still at times: half a second."""
        return Transport("verbs", device=self.device(name), timeout_exponent=14, retry_count=6)

    def inside(self, name: str) -> list[str]:
        """All are in one network namespace."""
        del name
        return []

    def cut_way(self, source: str, target: str) -> None:
        """What `source` sends to `target` is lost; the other way goes on."""
        device = f"n{self._numbers[source]}"
        run("ip", "neigh", "replace", self.address(target), "lladdr", NOBODY, "dev", device)
        self._cut.add((source, target))

    def cut(self, one: str, other: str) -> None:
        """Nothing comes through between two nodes."""
        self.cut_way(one, other)
        self.cut_way(other, one)

    def mend(self) -> None:
        """All ways are open."""
        for source, target in self._cut:
            device = f"n{self._numbers[source]}"
            run("ip", "neigh", "del", self.address(target), "dev", device)
        self._cut.clear()

    @contextlib.contextmanager
    def losing(self, share: str) -> Iterator[None]:
        """Each packet between nodes is lost with this probability."""
        ports = [f"p{number}" for number in self._numbers.values()]
        for port in ports:
            run("tc", "qdisc", "add", "dev", port, "root", "netem", "loss", share)
        try:
            yield
        finally:
            for port in ports:
                run("tc", "qdisc", "del", "dev", port, "root")

    @contextlib.contextmanager
    def unplugged(self, name: str) -> Iterator[None]:
        """The cable of a node is out."""
        port = f"p{self._numbers[name]}"
        run("ip", "link", "set", port, "down")
        try:
            yield
        finally:
            run("ip", "link", "set", port, "up")

    def give_device(self, name: str) -> None:
        """A node has an RDMA device on its interface, whose own went away."""
        number = self._numbers[name]
        run("rdma", "link", "add", self.device(name), "type", "rxe", "netdev", f"n{number}")

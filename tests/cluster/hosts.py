"""Hosts with addresses of their own on this machine: network namespaces around a router, and links that can be cut one way.

Each host is a namespace with one interface; the router, a namespace too, forwards between them and to this machine, which
is the host named `HERE`. A way that is cut swallows packets: nobody hears that they are lost, as with a broken switch. That
needs no packet filter: the router has a blackhole rule for a pair of addresses (ip-rule(8)).

    with Hosts(["n1", "n2"]) as hosts:
        hosts.inside("n1")      # the words to put before a command
        hosts.address("n1")
        hosts.cut("n1", "n2"); hosts.cut_way("n1", "n2"); hosts.mend()
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = "here"


def ip(*words: str) -> None:
    """Run ip(8) for its effect."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip()}"


class Hosts:
    """See the module. Namespaces are named after this process, and go with the context."""

    def __init__(self, names: Sequence[str]) -> None:
        tag = f"cfs{os.getpid()}"
        self.router = f"{tag}-r"
        self._spaces = {name: f"{tag}-{name}" for name in names}
        self._network = f"10.{128 + os.getpid() % 100}"
        self._numbers = {name: number for number, name in enumerate([HERE, *names])}
        self._interface = f"{tag}"
        self._cut: set[tuple[str, str]] = set()

    def address(self, name: str) -> str:
        return f"{self._network}.{self._numbers[name]}.2"

    def transport(self, name: str) -> None:
        """How a node there reaches others: as it is when nothing is said."""

    def inside(self, name: str) -> list[str]:
        """What to put before a command that is to run on a host."""
        return ["ip", "netns", "exec", self._spaces[name]]

    def __enter__(self) -> Hosts:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _make(self) -> None:
        ip("netns", "add", self.router)
        ip("-n", self.router, "link", "set", "dev", "lo", "up")
        for name, number in self._numbers.items():
            port, gateway = f"port{number}", f"{self._network}.{number}.1"
            if name == HERE:
                interface, space = self._interface, []
            else:
                interface, space = "lan", ["-n", self._spaces[name]]
                ip("netns", "add", self._spaces[name])
                ip(*space, "link", "set", "dev", "lo", "up")
            made = f"{self._interface}x"
            ip("link", "add", made, "type", "veth", "peer", "name", port, "netns", self.router)
            if name == HERE:
                ip("link", "set", "dev", made, "name", interface)
            else:
                ip("link", "set", "dev", made, "netns", self._spaces[name], "name", interface)
            ip("-n", self.router, "addr", "add", f"{gateway}/24", "dev", port)
            ip("-n", self.router, "link", "set", "dev", port, "up")
            ip(*space, "addr", "add", f"{self.address(name)}/24", "dev", interface)
            ip(*space, "link", "set", "dev", interface, "up")
            ip(*space, "route", "add", f"{self._network}.0.0/16", "via", gateway)
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        subprocess.run(
            ["ip", "netns", "exec", self.router, "sh", "-c", forward], check=True, timeout=20
        )

    def _remove(self) -> None:
        # Interfaces go with their namespaces, and with one end of a pair the other.
        for space in (*self._spaces.values(), self.router):
            subprocess.run(
                ["ip", "netns", "del", space], capture_output=True, timeout=20, check=False
            )

    def cut_way(self, source: str, target: str) -> None:
        """What `source` sends to `target` is lost; the other way goes on."""
        if (source, target) not in self._cut:
            self._rule("add", source, target)
            self._cut.add((source, target))

    def cut(self, one: str, other: str) -> None:
        """Nothing comes through between two hosts."""
        self.cut_way(one, other)
        self.cut_way(other, one)

    def mend(self) -> None:
        """All ways are open."""
        for source, target in self._cut:
            self._rule("del", source, target)
        self._cut.clear()

    def _rule(self, what: str, source: str, target: str) -> None:
        ends = ["from", self.address(source), "to", self.address(target)]
        ip("-n", self.router, "rule", what, *ends, "blackhole")

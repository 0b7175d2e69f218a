"""Goal: links that are slow, that swallow, refuse or break in the middle of a message cost programs time, never a write, an error or a double.

Method: three `cascadefs serve`, each of which others, programs too, reach by a proxy only (`tests.cluster.proxy`); programs append and put with a condition
all the time, while the busiest of these are disturbed in one way after the other. Then everything is read back, and the logs are
compared to the byte.
"""

from __future__ import annotations

import contextlib
import time

import msgspec
import pytest

from tests.cluster.fleet import Fleet
from tests.cluster.load import Load
from tests.cluster.proxy import running_proxy
from tests.etcd import Etcd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LEASE_S = 2.0


class Proxied(Fleet):
    """A fleet whose nodes listen behind proxies, and say so."""

    def __init__(self, *args, **options):
        self.proxies = {}
        self._stack = contextlib.ExitStack()
        super().__init__(*args, **options)

    def address(self, name):
        if name not in self.proxies:
            target = f"127.0.0.1:{self.ports[name]}"
            self.proxies[name] = self._stack.enter_context(running_proxy(target))
        return self.proxies[name].address

    def settings(self, name):
        listen = f"127.0.0.1:{self.ports[name]}"
        return msgspec.structs.replace(
            super().settings(name), listen=listen, advertise=(self.address(name),)
        )

    def __exit__(self, *error):
        super().__exit__(*error)
        self._stack.close()


def slow(proxy):
    proxy.forth.delay_ms = proxy.back.delay_ms = 80
    proxy.forth.rate_bytes_s = 2_000_000


def torn(proxy):
    proxy.forth.cut_after_bytes, proxy.back.cut_after_bytes = 5_000, 3_000


def half_open(proxy):
    proxy.back.swallow = True


def refusing(proxy):
    proxy.refuse = True
    proxy.reset()


TROUBLES = (slow, torn, half_open, refusing)


@pytest.fixture
def fleet(tmp_path):
    with Etcd(tmp_path) as etcd, Proxied(tmp_path, etcd.endpoints, shards=2) as fleet:
        fleet.etcd = etcd
        fleet.start()
        fleet.wait_well()
        yield fleet


def test_links_that_do_what_networks_do(fleet):
    load = Load(fleet, "links", programs=2, directories=4)
    load.start()
    try:
        before = dict.fromkeys(fleet.names, 0)
        for trouble in TROUBLES:
            load.go_on()
            # Of two nodes one dials the other, so the link between them goes through one proxy: the one in use.
            passed = {name: fleet.proxies[name].forth.passed_bytes for name in fleet.names}
            busiest = max(fleet.names, key=lambda name: passed[name] - before[name])
            assert passed[busiest] > before[busiest], "nobody goes by a proxy"
            load.disturbed()
            trouble(fleet.proxies[busiest])
            time.sleep(0.75 * LEASE_S)
            load.go_on()
            fleet.proxies[busiest].mend()
            before = passed
        load.stop()
        fleet.wait_well()
        with fleet.program() as store:
            count = load.check(store)
        fleet.check_logs()
    finally:
        load.end()
    pauses = ", ".join(
        f"{trouble.__name__} {pause / LEASE_S:.1f}"
        for trouble, pause in zip(TROUBLES, load.pauses(), strict=True)
    )
    print(
        f"figure: links disturbed by a proxy: {count} writes acknowledged, 0 lost, 0 doubled; pauses in lease periods: {pauses}"
    )

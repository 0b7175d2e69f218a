"""Goal: programs at different nodes are programs of one store: what one has written every other reads, watches and cannot write twice.

Method: the fleet, and clients that know one node each.
"""

import contextlib
import random
import threading
import time

import pytest

from cascadefs.client import Client, Conflict
from cascadefs.client.remote import Remote
from storage.transport import Role, TcpTransport
from storage.transport.certificates import Credentials

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Clock:
    def now_ns(self):
        return time.time_ns()


def client_of(fleet, nodes, name="user0", role=Role.CLIENT, **options):
    """A client that knows these nodes alone."""
    home = fleet.permit(name, role=role).parent
    credentials = Credentials.load(home / "credentials", now_ns=time.time_ns())
    transport = TcpTransport(credentials.identity, credentials.contexts())
    addresses = [fleet.address(node) for node in nodes]
    return Client(Remote(transport, addresses, random.SystemRandom(), **options), Clock())


@pytest.fixture
def apart(fleet):
    """One client for each node."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(client_of(fleet, [name])) for name in fleet.names]


def test_what_is_written_at_one_node_is_read_at_every_other(apart):
    for number in range(60):
        writer = apart[number % 3]
        path = f"d{number % 4}/shared"
        version = writer.put(path, f"{number}")
        for reader in apart:
            assert reader.get(path) == b"%d" % number
            assert reader.stat(path).version == version.number
    assert all(len(reader.versions("d0/shared")) == 15 for reader in apart)
    assert len({tuple(entry.name for entry in reader.list("")) for reader in apart}) == 1


def test_one_of_many_writers_wins(apart):
    apart[0].put("race/one", "0")
    won = []

    def run(index):
        for _ in range(20):
            head = apart[index].stat("race/one").version
            with contextlib.suppress(Conflict):
                won.append(apart[index].put("race/one", f"{index}", expect=head).number)
            apart[index].append("race/log", f"{index}\n")

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == len(set(won))
    assert sorted(won) == list(range(2, len(won) + 2))
    assert sorted(apart[0].get("race/log").split()) == [b"0"] * 20 + [b"1"] * 20 + [b"2"] * 20


def test_additions_at_every_node_come_to_their_sum(apart):
    count = 1 << 16
    apart[0].put("model/w", bytes(4 * count))

    def run(index):
        draw = random.Random(index)
        for step in range(1, 16):
            places = [draw.randrange(count) for _ in range(400)]  # more than one frame holds
            for _ in range(2):  # as somebody who was not told does
                apart[index].add("model/w", places, [1.0] * 400, key=(f"worker {index}", step))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for reader in apart:
        assert reader.pull("model/w", range(count)).sum() == 3 * 15 * 400
    assert len(apart[0].versions("model/w")) == 1 + 3 * 15


def test_a_watch_of_all_shards_goes_on_at_another_node(fleet, apart):
    token = apart[0].look("w*/*", "")[1]
    written = [f"w{number % 4}/{number}" for number in range(40)]
    for number, path in enumerate(written):
        apart[number % 3].put(path, "x")
    seen = []
    for reader in apart:
        for change in reader.watch("w*/*", after=token):
            seen.append(change.path)
            token = change.token
            if len(seen) % 15 == 0 or len(seen) == len(written):
                break
    assert sorted(seen) == sorted(written)
    by_shard = [[path for path in seen if path.startswith(f"w{n}/")] for n in range(4)]
    assert by_shard == [[path for path in written if path.startswith(f"w{n}/")] for n in range(4)]


def test_many_writes_across_the_death_of_a_leader(fleet):
    with fleet.program() as store:
        store.put("many/0", "")
        files = {f"many/{number}": bytes([number % 256]) * 3000 for number in range(600)}
        shard = int(next(iter(fleet.statuses().values()))["shards"][0]["shard"])
        leader = fleet.leader(shard)
        killer = threading.Timer(0.2, fleet.kill, [leader])
        killer.start()
        store.put_many(files)
        killer.join()
        for name in fleet.names:
            if name not in fleet.running:
                fleet.start(name)
        assert all(store.get(path) == data for path, data in files.items())
        counts = [len(store.versions(path)) for path in files]
        assert counts == [2] + [1] * 599
    fleet.wait_well()


def test_a_certificate_that_is_not_a_programs_is_told_so(fleet):
    with (
        client_of(fleet, fleet.names, "a-mount", Role.MOUNT, patience_s=2.0) as store,
        pytest.raises(OSError, match=r"mount|program|role|allowed"),
    ):
        store.get("anything")

"""A real etcd that is killed, frozen, without a majority, or not an etcd at all.

Goal: end points fail over, watches and leases go on, nothing but `Unavailable` comes out. Method: processes of our own,
signals, and waiting for what must come (the test's time limit says how long at most).
"""

from __future__ import annotations

import datetime
import gc
import ipaddress
import ssl
import time
from contextlib import asynccontextmanager

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from storage.membership.contract import Change, Standing, Unavailable
from storage.membership.etcd import open_etcd
from storage.membership.gateway import Compacted
from storage.membership.http import open_gateway, tls_context
from storage.membership.values import Presence, Shard
from tests.etcd import Etcd, free_ports

ME = Presence("n1", 1, ("n1:1",))


@asynccontextmanager
async def opened(endpoints, prefix="/t/", timeout_s=0.5, tls=None):
    async with (
        open_gateway(endpoints, prefix, timeout_s=timeout_s, tls=tls) as gateway,
        open_etcd(gateway, time.monotonic_ns) as authority,
    ):
        yield authority, gateway


async def put(authority, number):
    """Make a shard, however often it takes."""
    while number not in authority.view.shards:
        try:
            await authority.change([Change(None, Shard(number, "root"))])
        except Unavailable:
            await trio.sleep(0.1)
            with trio.move_on_after(2):
                await authority.wait_view(authority.view.revision)


async def wait_for(authority, condition):
    while not condition(authority.view):
        await authority.wait_view(authority.view.revision)


def alive(lease):
    return lease.until_ns > time.monotonic_ns()


async def test_killed_and_started_again(tmp_path):
    with Etcd(tmp_path) as etcd:
        async with opened(etcd.endpoints) as (authority, _), authority.hold(ME, 10) as lease:
            await put(authority, 0)
            etcd.kill()
            assert await authority.wait_standing(Standing.REACHED) is Standing.AWAY
            assert authority.view.live == {"n1": ME}
            with pytest.raises(Unavailable):
                await authority.read()
            etcd.start()
            assert await authority.wait_standing(Standing.AWAY) is Standing.REACHED
            await put(authority, 1)
            async with opened(etcd.endpoints) as (other, _):
                await wait_for(other, lambda view: view.live == {"n1": ME})
                await put(other, 2)
                await wait_for(authority, lambda view: 2 in view.shards)
            assert alive(lease)


async def test_a_frozen_member_is_left_for_another(tmp_path):
    with Etcd(tmp_path, members=3) as etcd:
        async with opened(etcd.endpoints) as (authority, gateway), authority.hold(ME, 10) as lease:
            await put(authority, 0)
            assert gateway.endpoint == etcd.endpoints[0]
            etcd.freeze(0)
            await put(authority, 1)
            assert gateway.endpoint != etcd.endpoints[0]
            async with opened(etcd.endpoints[1:]) as (other, _):
                await put(other, 2)
                await wait_for(authority, lambda view: 2 in view.shards)  # the watch moved, too
                assert other.view.live == {"n1": ME}
            assert alive(lease)
            etcd.thaw(0)


async def test_without_a_majority_it_is_away(tmp_path):
    with Etcd(tmp_path, members=3) as etcd:
        async with opened(etcd.endpoints) as (authority, _):
            await put(authority, 0)
            etcd.kill(1, 2)
            assert await authority.wait_standing(Standing.REACHED) is Standing.AWAY
            with pytest.raises(Unavailable):
                await authority.change([Change(None, Shard(1, "root"))])
            etcd.start(1)
            assert await authority.wait_standing(Standing.AWAY) is Standing.REACHED
            await put(authority, 2)


async def test_a_watch_behind_a_compaction_says_so(tmp_path):
    with Etcd(tmp_path) as etcd:
        async with opened(etcd.endpoints) as (authority, gateway):
            for number in range(5):
                await put(authority, number)
            revision = authority.view.revision
            etcd.call("/v3/kv/compaction", b'{"revision":"%d","physical":true}' % revision)
            with pytest.raises(Compacted):
                await gateway.watch(1, lambda batch: None)
            batches = []
            async with trio.open_nursery() as nursery:

                def take(batch):
                    batches.append(batch)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(gateway.watch, revision, take)
                await put(authority, 9)
                await trio.sleep_forever()
            assert [event.key for batch in batches for event in batch.events] == ["shards/9"]


async def test_an_idle_watch_is_opened_anew_at_the_same_end_point_and_misses_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("storage.membership.http.WATCH_IDLE_S", 0.3)
    with Etcd(tmp_path, members=3) as etcd:
        async with (
            opened(etcd.endpoints) as (authority, gateway),
            opened(etcd.endpoints) as (other, _),
        ):
            for number in range(4):
                await put(other, number)
                await wait_for(authority, lambda view, number=number: number in view.shards)
                await trio.sleep(0.5)
            assert gateway.endpoint == etcd.endpoints[0]
            assert authority.standing is Standing.REACHED


async def test_nobody_there_is_unavailable():
    ports = free_ports(2)
    async with opened([f"http://127.0.0.1:{port}" for port in ports]) as (authority, _):
        assert await authority.wait_standing(Standing.UNKNOWN) is Standing.AWAY
        with pytest.raises(Unavailable) as told:
            await authority.change([Change(None, Shard(0, "root"))])
        assert not told.value.outcome_unknown
        for port in ports:
            assert str(port) in str(told.value)


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>no</html>",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b'HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n{"header":{"revision":"x"},"a":1',
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found",
    b'HTTP/1.1 503 No\r\nContent-Length: 39\r\n\r\n{"error":"no leader","code":14,"x":[1]}',
    b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
    b'HTTP/1.1 404 Not Found\r\nContent-Length: 30\r\n\r\n{"code":5,"message":"Not Found"}'[:-2],
    b'HTTP/1.1 404 Not Found\r\nContent-Length: 32\r\n\r\n{"code":5,"message":"Not Found"}',
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"",
]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_what_is_no_etcd_is_unavailable(answer):
    async def serve(stream):
        async with stream:
            await stream.receive_some(65536)
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        async with opened([f"http://127.0.0.1:{port}"]) as (authority, gateway):
            assert await authority.wait_standing(Standing.UNKNOWN) is Standing.AWAY
            with pytest.raises(Unavailable):
                await gateway.watch(1, lambda batch: None)
            with pytest.raises(Unavailable) as told:
                await authority.change([Change(None, Shard(0, "root"))])
            assert told.value.outcome_unknown
        nursery.cancel_scope.cancel()


# --- TLS -----------------------------------------------------------------------------------------------------------


def certificate(directory, name, signer=None):
    """Files of a certificate for 127.0.0.1 and its key, signed by another's or by itself as an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[0].subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
    )
    made = builder.sign(signer[1] if signer else key, hashes.SHA256())
    paths = directory / f"{name}.crt", directory / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return (made, key), paths


# httpcore leaves the socket of a TLS handshake that is cancelled to the garbage collector; collected here, where it was made.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_an_etcd_with_tls_that_asks_for_certificates(tmp_path):
    signer, (ca, _) = certificate(tmp_path, "authority")
    _, (server_file, server_key) = certificate(tmp_path, "server", signer)
    _, client = certificate(tmp_path, "client", signer)
    stranger, (other_ca, _) = certificate(tmp_path, "stranger")
    _, forged = certificate(tmp_path, "forged", stranger)
    with Etcd(tmp_path / "etcd", tls=(ca, server_file, server_key)) as etcd:
        async with opened(etcd.endpoints, timeout_s=5, tls=tls_context(ca, *client)) as (
            authority,
            _,
        ):
            await put(authority, 0)
            assert authority.standing is Standing.REACHED
        for context in (
            tls_context(ca, None, None),  # shows none
            tls_context(ca, *forged),  # shows one of another authority
            tls_context(other_ca, *client),  # does not trust etcd
            ssl.create_default_context(),
        ):
            async with opened(etcd.endpoints, timeout_s=5, tls=context) as (authority, _):
                with pytest.raises(Unavailable) as told:
                    await authority.read()
                assert etcd.endpoints[0] in str(told.value)
    gc.collect()

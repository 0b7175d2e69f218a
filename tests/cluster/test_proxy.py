"""The chaos proxy itself: each fault does what it says.

Goal: a test that fails through the proxy fails for what it switched. Method: a plain echo behind it, from a plain socket; the proxy
in a thread, as tests of whole processes use it (those of the transports use it in their own loop).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.cluster.proxy import ThreadProxy, running_proxy

PATIENCE_S = 0.1
"""How long is waited for what should not come; nothing here says how fast what should."""


def echo(connected: socket.socket) -> None:
    with connected:
        try:
            while data := connected.recv(65_536):
                connected.sendall(data)
        except OSError:
            return


@pytest.fixture
def proxy() -> Iterator[ThreadProxy]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connected, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=[connected], daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with running_proxy(f"127.0.0.1:{server.getsockname()[1]}") as running:
            yield running
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def dial(proxy: ThreadProxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def exchange(connected: socket.socket, data: bytes) -> bytes:
    connected.sendall(data)
    got = b""
    while len(got) < len(data):
        more = connected.recv(65_536)
        if not more:
            break
        got += more
    return got


def silent(connected: socket.socket) -> bool:
    connected.settimeout(PATIENCE_S)
    try:
        return connected.recv(1) is None
    except TimeoutError:
        return True
    finally:
        connected.settimeout(20)


def test_bytes_go_through(proxy):
    with dial(proxy) as one, dial(proxy) as other:
        data = bytes(range(256)) * 400
        assert exchange(one, data) == data
        assert exchange(other, b"x") == b"x"
        one.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""


@pytest.mark.parametrize("way", ["forth", "back"])
def test_swallowed_bytes_are_gone_and_their_connection_is_reset_when_mended(proxy, way):
    with dial(proxy) as one:
        assert exchange(one, b"a") == b"a"
        getattr(proxy, way).swallow = True
        one.sendall(b"lost")
        assert silent(one)
        proxy.mend()
        with pytest.raises(ConnectionResetError):
            exchange(one, b"b")
    with dial(proxy) as one:
        assert exchange(one, b"c") == b"c"


def test_stalled_and_delayed_bytes_come_later(proxy):
    with dial(proxy) as one:
        proxy.forth.stall = True
        one.sendall(b"late")
        assert silent(one)
        proxy.mend()
        assert exchange(one, b"") == b""
        assert one.recv(10) == b"late"
        proxy.back.delay_ms = 2000 * PATIENCE_S
        one.sendall(b"later")
        assert silent(one)
        assert one.recv(10) == b"later"


def test_a_rate_holds_bytes_back(proxy):
    with dial(proxy) as one:
        proxy.forth.rate_bytes_s = 1000
        one.sendall(bytes(int(3000 * PATIENCE_S)))
        assert silent(one)
        proxy.mend()
        assert one.recv(1) == b"\0"


def test_a_cut_lets_so_many_bytes_through(proxy):
    with dial(proxy) as one:
        proxy.back.cut_after_bytes = 5
        one.sendall(b"0123456789")
        assert one.recv(5, socket.MSG_WAITALL) == b"01234"
        with pytest.raises(ConnectionResetError):
            one.recv(1)


def test_reset_and_refuse(proxy):
    with dial(proxy) as one:
        assert exchange(one, b"a") == b"a"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            exchange(one, b"b")
    proxy.refuse = True
    with pytest.raises(ConnectionResetError), dial(proxy) as one:  # By either, as it comes.
        exchange(one, b"c")
    proxy.mend()
    with dial(proxy) as one:
        assert exchange(one, b"d") == b"d"

"""Who is at the other end of a connected socket, decided before anybody speaks to them.

Both sides say at once who they are and which versions they speak, then each says welcome or why not. With TLS the word of
the peer has to be that of its certificate; on a Unix socket that of the kernel; else it is taken as it is.

A stranger costs `GREETING_BYTES` and an identity of memory, whatever it sends; how long it may take is the caller's scope.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from storage.transport import carrier, identity
from storage.transport.contract import Identity, IdMap, IdRange, Role
from storage.transport.framing import (
    GOODBYE_BYTES_MAX,
    GREETING_BYTES,
    HEAD,
    LENGTH_MASK,
    Greeting,
    Kind,
    Malformed,
    control,
    goodbye,
)
from storage.transport.secure import SecureWire
from storage.transport.stream import PlainWire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from storage.transport.stream import Wire

__all__ = ["Met", "Stranger", "explain", "greet"]

SO_PEERGROUPS = 59
GROUPS_MAX = 256
"""What `socket.getsockopt` can take."""

FAREWELL_S = 0.5
"""How long a peer that is turned away has to read why."""

# X509_V_ERR_* of x509_vfy.h -> what it means for somebody who runs a cluster.
VERIFY_CODES = {
    9: "its certificate is not valid yet: compare the clocks of the two machines",
    10: "its certificate has expired: issue a new one",
    18: "its certificate is signed by itself, not by this cluster's authority",
    19: "its certificate is of another cluster's authority",
    20: "its certificate is of another cluster's authority",
    21: "its certificate is of another cluster's authority",
    26: "its certificate is not for that: a client's or mount's where a node's is needed",
}

# Alerts and errors of OpenSSL by name.
REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate: it needs one of this cluster",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate, and we showed none",
    "TLSV1_ALERT_UNKNOWN_CA": "it did not accept our certificate: the authority is another cluster's",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it did not accept our certificate: it has expired, issue a new one",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it did not accept our certificate: not valid there (compare the clocks)",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it did not accept our certificate: not for that use",
    "TLSV1_ALERT_DECRYPT_ERROR": "it did not accept our certificate: the authority is another cluster's",
    "UNSUPPORTED_PROTOCOL": "it speaks a TLS older than 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks a TLS older than 1.3",
}
ALERT = b"\x15\x03\x03\x00\x02\x02\x46" * 3
"""A fatal alert, protocol_version (RFC 8446, 6), for a peer that speaks no TLS: as long as a greeting, which knows it."""

NOT_TLS = "it does not speak TLS: give both sides certificates, or neither"


class Stranger(Exception):
    """The other end is not whom we speak with; the message says why and what to do."""


class Met(NamedTuple):
    """Who is there, and what both agreed on."""

    wire: Wire
    peer: Identity
    peer_silence_ms: int
    peer_offer: carrier.Offer
    carrier: str


def explain(error: ssl.SSLError) -> str:
    """What an error of TLS means, in words for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return VERIFY_CODES.get(error.verify_code, f"its certificate: {error.verify_message}")
    reason = error.reason or ""
    if reason in (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "HTTPS_PROXY_REQUEST",
        "UNEXPECTED_MESSAGE",
    ):
        return NOT_TLS
    return REASONS.get(reason, f"TLS: {reason or error}")


async def greet(
    connected: socket.socket,
    who: Identity,
    check: Callable[[Identity], str | None],
    *,
    tls: ssl.SSLContext | None,
    silence_ms: int,
    dialled: bool,
    offer: carrier.Offer = carrier.PLAIN,
) -> Met:
    """Learn who is there and tell who we are.

    The socket is ours from the call on: on any error, and cancelled, it is closed.

    Args:
        connected: A connected socket that does not block.
        who: Ourselves.
        check: Says what is wrong with a peer that is of our cluster, or None.
        tls: The context to speak TLS with; None for plain.
        silence_ms: How long we bear hearing nothing.
        dialled: Whether it was us who dialled.
        offer: What may carry messages between nodes.

    Raises:
        Stranger: The peer is not whom we want, or does not want us.
        OSError: The connection is lost.
    """
    wire: Wire = PlainWire(connected)
    try:
        certified: Identity | None = None
        if tls is not None and connected.family != socket.AF_UNIX:
            wire = secure = SecureWire(connected, tls, server_side=not dialled)
            await secure.handshake()
            certified = _certified(secure.certificate())
        met = await _exchange(wire, who, silence_ms, certified, check, offer, dialled=dialled)
    except ssl.SSLError as error:
        assert isinstance(wire, SecureWire)
        why = explain(error)
        try:
            await _alert(wire, why)
        finally:
            connected.close()
        raise Stranger(why) from error
    except BaseException:
        wire.socket.close()
        raise
    return met


def _certified(shown: Mapping[str, Any]) -> Identity:
    names = shown.get("subjectAltName", ())
    uris = [str(entry[1]) for entry in names if entry[0] == "URI"]
    if len(uris) != 1:
        raise Stranger("its certificate has no cascadefs identity in it")
    try:
        who = identity.parse(uris[0])
    except ValueError as error:
        raise Stranger(f"its certificate: {error}") from error
    return replace(who, serial=identity.serial(int(str(shown["serialNumber"]), 16)))


async def _exchange(
    wire: Wire,
    who: Identity,
    silence_ms: int,
    certified: Identity | None,
    check: Callable[[Identity], str | None],
    offer: carrier.Offer,
    *,
    dialled: bool,
) -> Met:
    await _write(wire, Greeting.of(who, silence_ms, offer).encode())
    carries: str | None = carrier.TCP
    try:
        head = await _read(wire, GREETING_BYTES)
        body = await _read(wire, Greeting.body_length(head))
        greeting, peer = Greeting.decode(head + body)
        objection = None
        if wire.socket.family == socket.AF_UNIX:
            peer = _credited(wire.socket, peer)
        if certified is not None and peer != certified:
            objection = f"it says it is {peer}, and its certificate is of {certified}"
        elif peer.cluster != who.cluster:
            objection = f"{peer} is of cluster {peer.cluster}, and this is cluster {who.cluster}"
        elif certified is not None:
            peer = certified  # the same, with its serial number
        objection = objection or check(peer)
        if objection is None and who.role is peer.role is Role.NODE:
            offers = (offer, greeting.offer) if dialled else (greeting.offer, offer)
            carries = carrier.agree(*offers)
            if carries is None:
                objection = _no_carrier(who, offer, peer, greeting.offer)
    except Malformed as error:
        objection = str(error)
    if objection is not None:
        await _turn_away(wire, goodbye(objection))
        raise Stranger(objection)
    await _write(wire, control(Kind.WELCOME))
    await _welcomed(wire)
    assert carries is not None
    return Met(wire, peer, greeting.silence_ms, greeting.offer, carries)


def _no_carrier(who: Identity, offer: carrier.Offer, peer: Identity, its: carrier.Offer) -> str:
    return (
        f"between nodes {who} has {' and '.join(offer)}, and {peer} {' and '.join(its)}: set the same kind in [transport] of both "
        f'node.toml, or fallback = "tcp" where there is more'
    )


async def _welcomed(wire: Wire) -> None:
    (word,) = HEAD.unpack(await _read(wire, HEAD.size))
    kind, length = word >> 28, word & LENGTH_MASK
    if kind == Kind.GOODBYE and length <= GOODBYE_BYTES_MAX:
        why = (await _read(wire, length)).decode(errors="replace")
        raise Stranger(f"it turned us away: {why}")
    if kind != Kind.WELCOME or length:
        raise Stranger("a damaged welcome")


def _credited(connected: socket.socket, said: Identity) -> Identity:
    """What the kernel lets a peer on a Unix socket say of itself."""
    size = struct.calcsize("3i")
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, gid = struct.unpack("3i", credentials)
    if uid in (0, os.geteuid()):
        return said
    try:
        groups = connected.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * GROUPS_MAX)
    except OSError as error:
        raise Stranger(f"user {uid} is in more than {GROUPS_MAX} groups") from error
    gids = {gid, *(g for (g,) in struct.iter_unpack("=I", groups))}
    return replace(
        said,
        role=Role.CLIENT,
        name=f"uid-{uid}",
        uids=IdMap((IdRange(uid, uid, 1),)),
        gids=IdMap(tuple(IdRange(g, g, 1) for g in sorted(gids))),
    )


async def _turn_away(wire: Wire, last: bytes) -> None:
    """Say the last, and stay until it had the time to read it: closing at once would reset the connection."""
    with trio.move_on_after(FAREWELL_S):
        try:
            await _write(wire, last)
            wire.socket.shutdown(socket.SHUT_WR)
            for _ in range(64):
                if not await _read_some(wire, memoryview(bytearray(4096))):
                    return
        except OSError:
            return


async def _alert(wire: SecureWire, why: str) -> None:
    """Say why there is no TLS: it has an alert for that, unless what came was none of its records."""
    with trio.move_on_after(FAREWELL_S), contextlib.suppress(OSError):
        await wire.flush()
    await _turn_away(PlainWire(wire.socket), ALERT if why == NOT_TLS else b"")


async def _read_some(wire: Wire, space: memoryview) -> int:
    while True:
        try:
            return wire.read_into(space)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(wire.socket)


async def _read(wire: Wire, length: int) -> bytes:
    data = bytearray(length)
    have = 0
    while have < length:
        count = await _read_some(wire, memoryview(data)[have:])
        if not count:
            raise ConnectionError("it hung up before it said who it is")
        have += count
    return bytes(data)


async def _write(wire: Wire, data: bytes) -> None:
    while data:
        try:
            data = data[wire.write([memoryview(data)]) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(wire.socket)

"""What nodes say of themselves: each is asked over its link, as the operator, for as long as a person likes to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import trio

from cascadefs.cli.cluster.files import now_ns
from cascadefs.node.recollection import Told
from storage import wire
from storage.errors import Unusable
from storage.membership.known import decode
from storage.membership.recovery import Witness
from storage.transport import Broken, Role, TcpTransport
from storage.transport.certificates import Credentials

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from storage.membership.values import View
    from storage.transport import Transport

__all__ = ["figures", "figures_at", "witnesses_at"]

ASKED_US = "asked_us"
"""Put to each answer: when it was true, by the clock here."""

ANSWER_S = 3.0
"""A node that says nothing for so long is shown as one."""


async def figures(view: View, credentials: Path | None) -> dict[str, dict[str, Any]]:
    """What each node answers to "status"; nodes that give no answer are left out.

    Those too that are not alive in etcd: they may be so for not obeying it.

    Nobody is asked where there are no credentials to show: figures are an extra.
    """
    if credentials is None:
        return {}
    try:
        ours = Credentials.load(credentials, now_ns=now_ns())
    except Unusable:
        return {}
    transport = TcpTransport(ours.identity, ours.contexts())
    found: dict[str, dict[str, Any]] = {}
    async with trio.open_nursery() as nursery:
        for name in {*view.nodes, *view.live}:
            at = view.live[name] if name in view.live else view.nodes[name]
            nursery.start_soon(_ask, transport, name, at.addresses, found)
    return found


async def figures_at(addresses: Sequence[str], credentials: Path) -> list[dict[str, Any]]:
    """The same of nodes at addresses, whatever they are called."""
    return await _at(addresses, credentials, "status")


async def _at(addresses: Sequence[str], credentials: Path, what: str) -> list[dict[str, Any]]:
    ours = Credentials.load(credentials, now_ns=now_ns())
    transport = TcpTransport(ours.identity, ours.contexts())
    found: dict[str, dict[str, Any]] = {}

    async def ask(address: str) -> None:
        with trio.move_on_after(ANSWER_S):
            try:
                async with trio.open_nursery() as nursery:
                    found[address] = await _answer(nursery, transport, address, None, what)
                    nursery.cancel_scope.cancel()
            except* (Broken, OSError, ValueError, IndexError, wire.Malformed, msgspec.MsgspecError):
                pass  # others may answer

    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(ask, address)
    return list(found.values())


async def witnesses_at(addresses: Sequence[str], credentials: Path) -> list[tuple[Witness, str]]:
    """What the nodes at addresses know of their authority, and why they do not obey it (empty: they do)."""
    found: list[tuple[Witness, str]] = []
    for answer in await _at(addresses, credentials, "authority"):
        try:
            told = msgspec.convert(answer, Told)
        except msgspec.ValidationError:
            continue  # a node of a version that knows no such question
        held = {int(shard): epoch for shard, epoch in told.held.items()}
        known, obeys = decode(told.known.encode()), not told.trouble
        found.append((Witness(told.node, known, held, obeys), told.trouble))
    return found


async def _ask(
    transport: Transport, name: str, addresses: Sequence[str], found: dict[str, dict[str, Any]]
) -> None:
    with trio.move_on_after(ANSWER_S):
        for address in addresses:
            try:
                async with trio.open_nursery() as nursery:
                    found[name] = await _answer(nursery, transport, address, name)
                    nursery.cancel_scope.cancel()
            except* (Broken, OSError, ValueError, IndexError, wire.Malformed, msgspec.MsgspecError):
                pass  # another address may do
            if name in found:
                return


async def _answer(
    nursery: trio.Nursery,
    transport: Transport,
    address: str,
    name: str | None,
    what: str = "status",
) -> dict[str, Any]:
    connection = await transport.connect(nursery, address, role=Role.NODE, name=name)
    async with connection:
        await connection.send(wire.encode(wire.Hello()))
        asked_us = now_ns() // 1000
        await connection.send(wire.encode(wire.Ask(1, what)))
        while True:
            for data in await connection.receive():
                message, parts = wire.decode(data)
                if isinstance(message, wire.Answer):
                    if message.errno:
                        raise Broken(message.why)
                    answer = dict(msgspec.json.decode(parts[0]))
                    answer[ASKED_US] = (asked_us + now_ns() // 1000) // 2
                    return answer

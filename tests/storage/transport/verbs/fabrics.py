"""Pairs of verbs transports for tests: which device each side has, and what the device says of its resources."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import subprocess
from collections import Counter
from contextlib import asynccontextmanager

import trio

from storage.transport import Role, TcpTransport
from storage.transport.verbs import Fabric
from storage.transport.verbs.device import device_names
from storage.transport.verbs.ring import RING_BYTES_MIN
from storage.transport.verbs.transport import VerbsTransport
from tests.storage.transport.kinds import node

LOOPBACK = "127.0.0.1:0"
PATIENT = {"ring_bytes": RING_BYTES_MIN, "retry_count": 6, "timeout_exponent": 16}
"""Small rings, and 1.9 s until a queue pair gives up: a guest on a busy machine stands still at times."""


def control(name: str) -> TcpTransport:
    return TcpTransport(node(name), None, insecure_loopback=True)


def transport(name: str, place: int, **fabric) -> VerbsTransport:
    """On the device at that place of the list, or the last: in the guest each can talk to the others only."""
    names = device_names()
    fabric = {"device": names[min(place, len(names) - 1)], **PATIENT} | fabric
    return VerbsTransport(control(name), Fabric(**fabric))


@asynccontextmanager
async def pair(near_fabric=None, far_fabric=None, places=(0, 1)):
    """(who dialled, who was dialled), connected; all is closed behind the test."""
    far_transport = transport("n1", places[0], **(far_fabric or {}))
    near_transport = transport("n2", places[1], **(near_fabric or {}))
    try:
        async with trio.open_nursery() as nursery:
            listener = await far_transport.listen(nursery, LOOPBACK)
            near = await near_transport.connect(nursery, listener.address, role=Role.NODE)
            yield near, await listener.accept()
            nursery.cancel_scope.cancel()
    finally:
        far_transport.close()
        near_transport.close()


def resources() -> Counter[str]:
    """Queue pairs, completion queues, memory regions and protection domains in use, and this process's descriptors by what they are."""
    gc.collect()
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found[re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{name}"))] += 1
    for device in json.loads(run("rdma", "-j", "resource", "show")):
        found.update({what: device[what] for what in ("pd", "cq", "qp", "mr", "ctx")})
    return found


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout

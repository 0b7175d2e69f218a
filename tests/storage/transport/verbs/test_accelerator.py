"""A message's end lands in the memory of an accelerator, the same whichever way it comes there.

Goal: where the card cannot reach that memory, the reason is told and the bytes come by way of the host; where it can, nobody here touches
them. Method: NumPy's memory stands for an accelerator's. What a card would register is registered as the host's; no accelerator was there.
"""

from __future__ import annotations

import os
import random

import pytest

from storage.transport.verbs.accelerator import CudaMemory
from tests.storage.transport.kinds import take
from tests.storage.transport.verbs.fabrics import pair

PAYLOAD = random.Random(5).randbytes(150_000)
HEAD = b"what it is"


class Array:
    """Memory of a pretended accelerator."""

    def __init__(self, exports=None):
        self.memory = bytearray(len(PAYLOAD))
        self.nbytes = len(PAYLOAD)
        self.exports = exports
        self.filled = 0

    def export(self):
        if self.exports is None:
            raise OSError("it has no dmabuf")
        return os.dup(self.exports), 0

    def fill(self, data):
        self.filled += len(data)
        self.memory[: len(data)] = data


async def fetched_into(array, prepare=lambda connection: None):
    """(head, target, copied bytes there)"""
    async with pair() as (near, far):
        prepare(far)
        target = far.aim(array)
        before = far.status()["copied_bytes"]
        await near.send([HEAD, PAYLOAD], bulk=True)
        (head,) = await take(far, 1)
        await near.send([b"next"])
        assert await take(far, 1) == [b"next"]
        return head, target, far.status()["copied_bytes"] - before


@pytest.mark.rdma
async def test_memory_that_cannot_be_exported_is_filled_by_way_of_the_host():
    array = Array()
    head, target, _ = await fetched_into(array)
    assert (head, bytes(array.memory)) == (HEAD, PAYLOAD)
    assert "it has no dmabuf" in target.why
    assert target.filled
    assert array.filled == len(PAYLOAD)


@pytest.mark.rdma
async def test_a_device_that_registers_no_such_memory_says_so():
    descriptor = os.memfd_create("no dmabuf")
    try:
        array = Array(descriptor)
        head, target, _ = await fetched_into(array)
    finally:
        os.close(descriptor)
    assert (head, bytes(array.memory)) == (HEAD, PAYLOAD)
    assert "does not register memory of an accelerator" in target.why


@pytest.mark.rdma
async def test_what_the_card_reaches_is_written_by_it_alone():
    descriptor = os.memfd_create("stands for a dmabuf")
    array = Array(descriptor)

    def prepare(connection):
        endpoint = connection._endpoint
        endpoint.lend_dmabuf = lambda descriptor, offset, size: endpoint.lend(array.memory)

    try:
        head, target, copied = await fetched_into(array, prepare)
    finally:
        os.close(descriptor)
    assert (head, bytes(array.memory)) == (HEAD, PAYLOAD)
    assert target.why == ""
    assert array.filled == 0
    assert copied <= 100


@pytest.mark.rdma
async def test_a_message_shorter_than_the_target_is_received_whole():
    array = Array()
    async with pair() as (near, far):
        target = far.aim(array)
        await near.send([PAYLOAD[:100_000]], bulk=True)
        assert await take(far, 1) == [PAYLOAD[:100_000]]
        assert not target.filled


class Interface:
    """An array, as far as its interface goes."""

    nbytes = 64

    def __init__(self, strides=None):
        self.__cuda_array_interface__ = {"data": (1 << 30, False), "strides": strides}


def test_an_array_in_pieces_is_refused():
    with pytest.raises(ValueError, match="one piece"):
        CudaMemory(Interface(strides=(8, 1)))


def test_without_a_driver_nothing_is_exported():
    with pytest.raises(OSError, match=r"libcuda|cuMemGetHandle"):
        CudaMemory(Interface()).export()

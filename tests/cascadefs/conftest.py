"""A store in memory for the tests of programs."""

import random

import pytest

from storage.disk import MemoryDisk
from storage.store import LocalStore
from storage.table import MemoryTable
from triggers.testing import ManualClock


class _Index:
    open = renew = view = staticmethod(MemoryTable)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def store(clock):
    opened = LocalStore.open_on(
        MemoryDisk(), _Index(), clock, random.Random(0), boot_id="test", owner=(0, 0),
        segment_bytes=1024 * 1024,
    )  # fmt: skip
    yield opened
    opened.close()

"""What the tests of the cluster share: a world on a clock that jumps."""

import pytest
import trio
from trio.testing import MockClock

from tests.cluster.world import World, inline_threads


@pytest.fixture
def in_world(monkeypatch):
    """Run a test in a world of its own."""

    def run(scenario, **options):
        async def main():
            async with trio.open_nursery() as nursery:
                await scenario(World(nursery, **options))
                nursery.cancel_scope.cancel()

        with inline_threads(monkeypatch):
            trio.run(main, clock=MockClock(autojump_threshold=0))

    return run

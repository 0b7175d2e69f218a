"""Goal: a connection is served until there is a better one, then that, without dialling again. Method: connections that do nothing."""

from __future__ import annotations

import trio
import trio.testing

from cascadefs.node.links import Links


class Nothing:
    """A connection."""

    def __init__(self):
        self.over = trio.Event()

    def close(self, why):
        self.over.set()


async def test_a_better_connection_takes_the_place_of_one():
    first, second = Nothing(), Nothing()
    served, found = [], trio.Event()

    async def serve(connection):
        served.append(connection)
        await connection.over.wait()

    async def improve(nursery, connection):
        if connection is not first:
            await trio.sleep_forever()
        await found.wait()
        return second

    links = Links("n1", None, None, serve, improve)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def serve_best():
            await links._serve_best(nursery, first)
            served.append("the end")

        await trio.testing.wait_all_tasks_blocked()
        assert served == [first]
        found.set()
        await trio.testing.wait_all_tasks_blocked()
        assert served == [first, second]
        assert first.over.is_set()
        second.close("it is over")
    assert served == [first, second, "the end"]


async def test_without_a_way_to_do_better_it_is_served_to_its_end():
    only = Nothing()
    served = []

    async def serve(connection):
        served.append(connection)

    async with trio.open_nursery() as nursery:
        await Links("n1", None, None, serve)._serve_best(nursery, only)
    assert served == [only]

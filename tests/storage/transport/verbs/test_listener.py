"""Goal: many join by RDMA at once, and nobody who comes without it waits for them. Method: stand-ins for device and sockets."""

from __future__ import annotations

from types import SimpleNamespace

import trio
import trio.testing

from storage.transport import Broken
from storage.transport.verbs.transport import JOINING_AT_ONCE_MAX, VerbsListener


class Arrivals:
    """Control connections, in the order they come."""

    address = "here"

    def __init__(self, names):
        self._names = [*names]

    async def accept(self):
        if not self._names:
            await trio.sleep_forever()
        return self._names.pop(0)

    def close(self):
        pass


class Joining:
    """A transport whose joins take as long as the test likes."""

    def __init__(self):
        self.may = trio.Event()
        self.at_once = self.most = 0
        self.turned_away = []

    async def join(self, nursery, control):
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.may.wait()
            if control == "verbs3":
                raise Broken("it went away")
            return f"joined {control}"
        finally:
            self.at_once -= 1


async def test_more_nodes_than_join_at_once_have_their_turn_and_mounts_do_not_wait():
    wanted = JOINING_AT_ONCE_MAX + 5
    names = [f"verbs{number}" for number in range(wanted)]
    joining, said = Joining(), []
    transport = SimpleNamespace(join=joining.join, turned_away=said.append)
    async with trio.open_nursery() as nursery:
        listener = VerbsListener(
            transport, nursery, Arrivals([*names, "mount"]), joins=lambda name: name != "mount"
        )
        await trio.testing.wait_all_tasks_blocked()
        assert joining.at_once == JOINING_AT_ONCE_MAX
        assert await listener.accept() == "mount"
        joining.may.set()
        came = {await listener.accept() for _ in range(wanted - 1)}
        assert came == {f"joined {name}" for name in names if name != "verbs3"}
        assert joining.most == JOINING_AT_ONCE_MAX
        assert said == ["it went away"]
        nursery.cancel_scope.cancel()

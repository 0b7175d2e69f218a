"""The scripts of the shards that this node leads: an engine for each, all of them in one thread of their own.

Theory of operation. An engine proposes with the faces held, and waits for the network meanwhile, so it cannot live in the
network's thread. It is at work as long as the replica here leads. The first it does is to begin an epoch of deliveries
(`Adopt`): once that is applied, the face has everything that was committed before, and what the engine of an earlier leader
still sends is refused. So who leads says who should run scripts, and the log who does.

Source: docs/TRIGGERS.md, "On a cluster".
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Final

import trio

from cascadefs.host import make_control
from storage.sequencer import Unavailable
from triggers.engine import Deposed

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascadefs.host import Host
    from cascadefs.node.faces import Faces
    from cascadefs.node.programs import Programs
    from triggers.dispatcher import Dispatcher

__all__ = ["Scripts"]

LOOK_S: Final = 0.5
"""Between two looks at what is led, when nobody said that this has changed."""

AGAIN_S: Final = 1.0
"""Before an engine that ended while its shard is led here is begun again."""

END_S: Final = 10.0
"""How long workers may take to end with the node."""

_log = logging.getLogger("cascadefs.node")


class Scripts:
    """See the module."""

    def __init__(
        self, host: Host, faces: Faces, programs: Programs, leads: Callable[[], set[int]]
    ) -> None:
        """Nothing runs before `run`.

        Args:
            host: of this node.
            faces: whose lock is held by whoever asks or proposes.
            programs: has the store over them.
            leads: the shards that are led here, now; any thread.
        """
        self._host = host
        self._faces = faces
        self._programs = programs
        self._leads = leads
        self._token: trio.lowlevel.TrioToken | None = None
        self._news = trio.Event()
        self._all = trio.CancelScope()
        self._over = False
        self._ended = threading.Event()
        self._at_work: dict[int, trio.CancelScope] = {}
        self._dispatchers: dict[int, Dispatcher] = {}
        self.trouble: dict[int, str] = {}
        """Why scripts of a shard that is led here do not run, by shard."""
        self._problems: dict[str, str] = {}
        """Why single scripts are not active."""

    # --- any thread ---

    def wake(self) -> None:
        """What is led here may have changed."""
        self._soon(lambda: self._news.set())

    def stop(self) -> None:
        """Have `run` end soon."""
        self._over = True
        self._soon(self._all.cancel)

    def wait_end(self) -> None:
        """Wait until `run` is over, if it ever began, and not for long."""
        if self._token is not None and not self._ended.wait(END_S):
            _log.error("scripts do not end; going on without waiting for them")

    def _soon(self, do: Callable[[], object]) -> None:
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(do)

    def status(self) -> dict[str, object]:
        """Figures for people and programs, JSON-able."""
        return {
            "mode": self._host.mode,
            "running": {
                str(shard): len(one.engine.running)
                for shard, one in sorted(self._dispatchers.items())
            },
            "problems": self._problems,
            "trouble": {str(shard): why for shard, why in list(self.trouble.items())},
            "workers": self._host.workers(),
        }

    # --- a thread of its own ---

    def run(self) -> None:
        """Run scripts until `stop`. That they cannot is trouble, and no reason to end the node."""
        try:
            trio.run(self._run)
        except Exception:
            _log.critical("no scripts run on this node any more", exc_info=True)
        finally:
            self._ended.set()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._all:
            if self._over:
                return
            async with self._host.open(), trio.open_nursery() as nursery:
                while True:
                    led = self._leads() & self._programs.shards
                    for shard in self._at_work.keys() - led:
                        self._at_work[shard].cancel()
                    for shard in sorted(led - self._at_work.keys()):
                        self._at_work[shard] = trio.CancelScope()
                        nursery.start_soon(self._drive, shard, self._at_work[shard])
                    self._look_for_problems()
                    with trio.move_on_after(LOOK_S):
                        await self._news.wait()
                    self._news = trio.Event()

    def _look_for_problems(self) -> None:
        """Scripts that are not active: whoever put them there looks at the node's log or status."""
        found = {
            f"{name.decode(errors='backslashreplace')} of directory {base.inode}": problem.message
            for dispatcher in self._dispatchers.values()
            for base in dispatcher.engine.registry.bases.values()
            for name, problem in base.problems.items()
        }
        for script, message in found.items():
            if self._problems.get(script) != message:
                _log.warning("%s is not active: %s", script, message)
        self._problems = found

    async def _drive(self, shard: int, scope: trio.CancelScope) -> None:
        """One shard's engine, as long as the shard is led here."""
        try:
            with scope:
                await self._drive_or_raise(shard)
        except* Deposed:
            _log.info("shard %d: its scripts run elsewhere", shard)
        except* Unavailable:
            pass  # The node is stopping.
        except* Exception as errors:
            _log.critical("shard %d: no scripts run", shard, exc_info=True)
            self.trouble[shard] = repr(errors.exceptions[0])
        finally:
            self._dispatchers.pop(shard, None)
        with trio.move_on_after(0 if scope.cancelled_caught else AGAIN_S):
            await trio.sleep_forever()
        del self._at_work[shard]

    async def _drive_or_raise(self, shard: int) -> None:
        view = self._programs.view(shard)
        options = self._host.options._replace(
            shard=shard, is_shared=True, reserved=self._programs.is_reserved
        )
        held = self._faces.exclusive
        dispatcher = self._dispatchers[shard] = self._host.drive(view, held, options)
        if shard == 0:
            with held():
                make_control(view)
        _log.info("shard %d: its scripts run here", shard)
        self.trouble.pop(shard, None)
        await dispatcher.run()

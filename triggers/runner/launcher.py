"""The launcher: a worker is a process with a channel to it, a place for its output, and a directory of its own."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

from triggers.runner.spawner import NotStarted
from triggers.runner.worker import Worker
from triggers.worker.channel import pair
from triggers.worker.message import Spawn
from triggers.worker.sealed import growing

if TYPE_CHECKING:
    from collections.abc import Callable

    from triggers.run import Script
    from triggers.runner.gang import Crew
    from triggers.runner.inputs import Inputs
    from triggers.runner.spawner import Spawner
    from triggers.worker.message import Limits

__all__ = ["Launcher"]


class Launcher:
    """Of one pool."""

    def __init__(
        self, spawner: Spawner, inputs: Inputs, directory: str, wall_ns: Callable[[], int]
    ) -> None:
        """Workers have their directories below `directory`, and share `inputs`."""
        self._spawner = spawner
        self._inputs = inputs
        self._directory = directory
        self._wall_ns = wall_ns

    async def launch(
        self, script: Script, sandbox: str, limits: Limits, crew: Crew | None
    ) -> Worker:
        """A worker that has loaded nothing yet; with a crew it has that one's directory and network, too.

        Raises:
            NotStarted: there is none.
        """
        number = self._spawner.next_number()
        scratch = f"{self._directory}/{number}"
        order = Spawn(
            number,
            script.uid,
            script.gid,
            script.groups,
            sandbox,
            limits,
            [scratch] if crew is None else [scratch, crew.directory],
            network=0 if crew is None else crew.network,
            environment={"HOME": scratch, "TMPDIR": scratch, "PATH": os.defpath},
        )
        with ExitStack() as undo:
            try:
                os.mkdir(scratch, 0o700)
                undo.callback(shutil.rmtree, scratch, ignore_errors=True)
                if os.getuid() == 0:
                    os.chown(scratch, script.uid, script.gid)
                ours, theirs = pair()
                undo.enter_context(ours)
                with theirs:
                    output_fd = growing("output")
                    undo.callback(os.close, output_fd)
                    process = await self._spawner.spawn(order, [theirs.fileno(), output_fd])
            except OSError as error:
                raise NotStarted(f"no worker: {error}") from error
            undo.pop_all()
        return Worker(process, ours, output_fd, scratch, self._inputs, self._wall_ns)

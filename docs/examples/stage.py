"""Where an example plays: a directory on a mount, with the example's scripts in place.

    stage = Stage(Path("/mnt"), Path("docs/examples/intersection"))
    (stage.path / "cam/07/frame.npy").write_bytes(...)
    stage.wait_done("detect", 1)
    stage.versions("alerts/07/0-2.json")

It knows a mount by its files alone: docs/TRIGGERS.md 11.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.05


class Stage:
    """See the module."""

    def __init__(self, mountpoint, example):
        """Install the scripts of an example in a directory of its name, and wait until they are active."""
        self.path = Path(mountpoint) / example.name
        self.figures = {}
        self.failed = []
        control = self.path / ".cascade"
        try:
            self.path.mkdir()
        except FileExistsError:
            sys.exit(f"{self.path} is there already; take it away, or give another mount")
        except OSError as error:
            sys.exit(f"{self.path}: {error.strerror}")
        try:
            control.mkdir()
            self._status()
        except OSError:
            with suppress(OSError):
                control.rmdir()
            self.path.rmdir()
            sys.exit(f"{mountpoint}: no scripts run there; is it a mount with --triggers?")
        self._install(example / "watch", self.path / ".cascade/watch")

    def _install(self, source, watch):
        if (source / "lib").exists():  # first: a script is looked at as soon as it is there
            shutil.copytree(
                source / "lib", watch / "lib", ignore=shutil.ignore_patterns("__pycache__")
            )
        watch.mkdir(exist_ok=True)
        scripts = {path.name for path in source.iterdir() if path.is_file()}
        for script in scripts:
            shutil.copy(source / script, watch)
        while {one["name"].partition(":")[0] for one in self.bindings().values()} != scripts:
            time.sleep(POLL_SECONDS)
            for base in self._status():
                for script, problem in base["problems"].items():
                    sys.exit(f"{script} is not active: {problem['message']}")

    def _status(self):
        return json.loads((self.path / ".cascade/status.json").read_bytes())["bases"]

    def bindings(self):
        """What the status says of each handler."""
        found = [one for base in self._status() for one in base["bindings"]]
        return {one["name"].partition(":")[2]: one for one in found}

    def wait_done(self, handler, count):
        """Wait until a handler is done with so many events; a dead letter of any ends it all."""
        while (found := self.bindings())[handler]["done"] < count:
            for name, one in found.items():
                if one["failed"]:
                    sys.exit(f"{name} failed: {one['last_error']}")
            time.sleep(POLL_SECONDS)

    def kill_worker(self):
        """kill -9 of any process that runs handlers: a grandchild of the mount's daemon, whose child forks them."""
        parents = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                parents[int(entry.parent.name)] = int(
                    entry.read_text().rpartition(")")[2].split()[1]
                )
        daemon = json.loads((self.path.parent / ".cascade/status").read_bytes())["pid"]
        workers = [one for one, parent in parents.items() if parents.get(parent) == daemon]
        with suppress(ProcessLookupError, IndexError):
            os.kill(random.choice(workers), signal.SIGKILL)

    def files(self, glob):
        """The files of a pattern, as paths from the stage, sorted."""
        return sorted(str(path.relative_to(self.path)) for path in self.path.glob(glob))

    def count(self, path):
        """How many versions a file has."""
        try:
            return int(os.getxattr(self.path / path, "user.cascade.version"))
        except FileNotFoundError:
            return 0

    def versions(self, path):
        """The content of every version of a JSON file, oldest first."""
        numbers = range(1, self.count(path) + 1)
        return [json.loads((self.path / f"{path}@v{number}").read_bytes()) for number in numbers]

    def say(self, what, figure):
        """One line of what came out."""
        self.figures[what] = figure
        print(f"{what:<58} {figure:>10.4g}", flush=True)

    def demand(self, what, figure, *, least=None, most=None):
        """One line of what came out, and what it has to be."""
        self.say(what, figure)
        if (least is not None and figure < least) or (most is not None and figure > most):
            wanted = f"at least {least}" if least is not None else f"at most {most}"
            self.failed.append(what)
            print(f"    that is not {wanted}", flush=True)

    def end(self):
        """Leave the figures in report.json; the exit status of the example."""
        (self.path / "report.json").write_text(json.dumps(self.figures, indent=2))
        return 1 if self.failed else 0

"""Programs that change a cluster while it is disturbed, and what must be true of everything that was acknowledged to them.

load = Load(fleet, "kill", programs=3); load.start()
... disturb; load.disturbed() notes when ...
load.stop(); load.check(store)
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
END_S = 90
WHOLE_EACH = 20
"""One in so many versions is read from its first byte on; of all the last line and the size."""


class Load:
    """See the module."""

    def __init__(self, fleet, name, *, programs=3, directories=6):
        """`name`: of this load; its directories, one for each number, are spread over the shards."""
        self.fleet = fleet
        self.directories = [f"{name}{number}" for number in range(directories)]
        self.names = [f"{name}-p{number}" for number in range(programs)]
        self.moments = []
        self._journals = {each: fleet.directory / f"{each}.journal" for each in self.names}
        self._running = {}

    def start(self):
        config = self.fleet.permit("user0")
        with self.fleet.program() as store:
            for directory in self.directories:
                store.put(f"{directory}/lines", b"")
                store.put(f"{directory}/count", "0 nobody 0")
        for name, journal in self._journals.items():
            command = [sys.executable, "-m", "tests.cluster.worker", config, name]
            command += [",".join(self.directories), journal]
            self._running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT)
        self.go_on()

    def go_on(self, more=10):
        """Until each program got something more done, or ended."""
        before = {name: self._count(name) for name in self.names}

        def is_there():
            return all(
                self._count(name) >= before[name] + more or process.poll() is not None
                for name, process in self._running.items()
            )

        self.fleet.wait(is_there, "programs get something done")

    def _count(self, name):
        journal = self._journals[name]
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    def disturbed(self):
        """Something happens now."""
        self.moments.append(time.monotonic())

    def stop(self):
        for process in self._running.values():
            process.stdin.close()
        for process in self._running.values():
            process.wait(END_S)
        self._running = {}

    def end(self):
        """Whatever happened."""
        for process in self._running.values():
            process.kill()
            process.wait()
            process.stdin.close()

    def done(self, name):
        return [json.loads(line) for line in self._journals[name].read_text().splitlines()]

    def all(self):
        return [entry for name in self.names for entry in self.done(name)]

    def pauses(self):
        """The longest that anything took that was under way at or after each disturbance, in seconds."""
        ends = [*self.moments[1:], float("inf")]
        return [
            max((e[1] - max(e[0], at) for e in self.all() if e[1] > at and e[0] < end), default=0.0)
            for at, end in zip(self.moments, ends, strict=True)
        ]

    def check(self, store):
        """No error; nothing acknowledged is lost, nothing is there twice; each version is what was said to be written in it."""
        errors = [entry for entry in self.all() if entry[2] == "error"]
        assert not errors, errors
        acknowledged = collections.defaultdict(dict)
        for _, _, what, directory, version, text in self.all():
            kept = acknowledged[directory, what]
            assert version not in kept, f"version {version} was acknowledged twice: {directory}"
            kept[version] = text
        for directory in self.directories:
            self._check_lines(store, f"{directory}/lines", acknowledged[directory, "append"])
            self._check_count(store, f"{directory}/count", acknowledged[directory, "count_up"])
        return sum(map(len, acknowledged.values()))

    @staticmethod
    def _check_lines(store, path, appended):
        assert sorted(appended) == list(range(2, len(appended) + 2)), path
        lines = [""] + [appended[version] for version in sorted(appended)]
        assert store.get(path).decode() == "".join(lines)
        assert [v.number for v in store.versions(path)] == list(range(1, len(lines) + 1))
        size = 0
        for version, line in enumerate(lines, 1):
            found = store.read(path, version=version, offset=size)
            size += len(line)
            assert (bytes(found.data).decode(), found.version.size) == (line, size)
            if version % WHOLE_EACH == 0:
                assert store.get(path, version=version).decode() == "".join(lines[:version])

    @staticmethod
    def _check_count(store, path, counted):
        assert sorted(counted) == list(range(2, len(counted) + 2)), path
        assert [v.number for v in store.versions(path)] == list(range(1, len(counted) + 2))
        for version, text in counted.items():
            assert text.split()[0] == str(version - 1)
            assert store.get(path, version=version).decode() == text


__all__ = ["Load"]

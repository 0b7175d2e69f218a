"""The C client: compiled when first needed, run for one operation at a time."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Client"]

SECONDS_MAX = 1800
"""Before an operation counts as hanging."""


@dataclass(frozen=True, slots=True)
class Client:
    """The compiled program; see ``client.c`` for its operations."""

    program: Path
    processor: int | None = None

    @classmethod
    def build(cls, directory: Path, processor: int | None) -> Client:
        """Compile into a directory; it runs on one processor only if that is given.

        Raises:
            subprocess.CalledProcessError: the compiler's word is on standard error.
        """
        program = directory / "client"
        source = Path(__file__).with_name("client.c")
        subprocess.run(["gcc", "-O2", "-o", program, source], check=True)
        return cls(program, processor)

    def run(self, operation: str, *arguments: object) -> dict[str, Any]:
        """Run an operation to its end: at least ``count`` and ``seconds``.

        Raises:
            RuntimeError: it failed, and what it said.
        """
        command = [self.program, operation, *map(str, arguments)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            preexec_fn=None if self.processor is None else self._stay,
        )
        if done.returncode != 0:
            words = " ".join(map(str, arguments))
            raise RuntimeError(f"{operation} {words}: {done.stderr.strip()}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def _stay(self) -> None:
        assert self.processor is not None
        os.sched_setaffinity(0, {self.processor})

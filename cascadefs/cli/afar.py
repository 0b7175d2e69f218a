"""Scripts of a cluster that is not mounted here: asked and told by way of its nodes, with the rights of a program's certificate.

A place is a ``mount.toml``, or a directory of the cluster behind it: ``mount.toml/farm/cam1``.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from cascadefs.cli.complaint import Complaint

if TYPE_CHECKING:
    from pathlib import Path

    from cascadefs.client import calls

__all__ = ["Afar", "afar"]


class Afar(NamedTuple):
    """A directory of a cluster, by way of its nodes."""

    told: Path
    """The ``mount.toml``."""

    path: str
    """From the root of the cluster; empty: that."""

    def status(self) -> dict[str, Any]:
        """How all bindings of the cluster are, or of the directory if one is named.

        Raises:
            Complaint: nobody answers, or it is not for us.
        """
        found: dict[str, Any] = json.loads(self._ask("status").data)
        return {"mode": "elsewhere", **found}

    def command(self, line: str) -> None:
        """A command to the directory's scripts.

        Raises:
            Complaint: nobody is there to be told, or it cannot be done.
        """
        self._ask("command", os.fsencode(line))

    def _ask(self, what: Any, text: bytes = b"") -> calls.Told:
        from cascadefs.client import calls
        from cascadefs.client.elsewhere import elsewhere
        from cascadefs.machine import SystemClock
        from storage.errors import Unusable

        try:
            remote = elsewhere(self.told, SystemClock())
            try:
                answer, _ = remote.execute(calls.Order(self.path, what, text), ())
            finally:
                remote.close()
        except Unusable as error:
            raise Complaint(str(error)) from error
        except OSError as error:
            raise Complaint(f"{self.told}: {error.strerror or error}") from error
        if isinstance(answer, calls.Failed):
            raise Complaint(f"/{self.path}: {answer.message}")
        assert isinstance(answer, calls.Told), "that is the answer to it"
        return answer


def afar(where: Path) -> Afar | None:
    """What a place means that names a ``mount.toml``; None: it is on a mount."""
    for file in (where, *where.parents):
        if file.suffix == ".toml" and file.is_file():
            below = where.relative_to(file)
            return Afar(file, "" if where == file else below.as_posix())
    return None

"""Commands about how long history stays, where no mount is needed. Method: a status that is made up."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

from typer.testing import CliRunner

from cascadefs.cli import app

gc = sys.modules["cascadefs.cli.keeping.gc"]  # the package names the command so


def test_gc_ends_when_the_pass_fails_again_and_again(monkeypatch):
    told = {"asked": 4, "done": 4, "failures": 7, "trouble": ""}
    looks = []

    def status(root):
        if looks:
            told.update(failures=told["failures"] + 1, trouble="OSError: the disk is broken")
        looks.append(root)
        return dict(told)

    monkeypatch.setattr(gc, "POLL_SECONDS", 0)
    monkeypatch.setattr(gc, "_status", status)
    monkeypatch.setattr(gc, "locate", lambda path: SimpleNamespace(root=b"/mnt"))
    monkeypatch.setattr(os, "setxattr", lambda *asked: None)
    ended = CliRunner().invoke(app, ["gc", "/mnt"])
    assert ended.exit_code == 1
    assert "/mnt: history cannot be let go: OSError: the disk is broken" in ended.stderr
    assert len(looks) == 4

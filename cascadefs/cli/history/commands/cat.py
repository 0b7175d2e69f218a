"""`cascadefs cat PATH[@SPEC] [-t WHEN]`: the content of a file, now or then."""

from __future__ import annotations

import base64
import os
import sys
from typing import Annotated, Any

import typer

from cascadefs.cli.history.absence import explaining
from cascadefs.cli.history.commands.options import AsJson, When, at_when, present, report
from cascadefs.cli.history.content import BLOCK_BYTES
from cascadefs.cli.history.moment import pinned
from cascadefs.cli.history.place import locate
from cascadefs.cli.history.refusal import refusing

__all__ = ["cat"]


@refusing()
def cat(
    path: Annotated[str, typer.Argument(metavar="PATH[@SPEC]")],
    when: When = None,
    as_json: AsJson = False,
) -> None:
    """Write the content of a file, as it is or as it was."""
    moment = present()
    place = pinned(at_when(locate(os.fsencode(path)), when, moment), moment)
    with explaining(place), open(place.path, "rb", buffering=0) as file:
        if as_json:
            out = report(as_json=True)
            out.lines([out.encoded({"path": place.path} | _content(file.read()))])
            return
        while block := file.read(BLOCK_BYTES):
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()


def _content(content: bytes) -> dict[str, Any]:
    """The fields for `content`: its text if it is text, else its bytes in base64."""
    size = {"size": len(content)}
    try:
        return size | {"text": content.decode("utf-8")}
    except UnicodeDecodeError:
        return size | {"base64": base64.b64encode(content).decode("ascii")}

"""Provenance: what is kept of a run in the record that committed it, and of a dead letter.

It answers where a version comes from, and lets a chain of runs be followed back to what a program wrote. Encoded with
msgpack as maps, so that a later version may add fields; names that are no UTF-8 as `triggers.spelling` has them.

Source: docs/TRIGGERS.md 10.
"""

from __future__ import annotations

import json

import msgspec

from triggers.run import Event  # noqa: TC001  msgspec looks at annotations
from triggers.spelling import Decoder, encode

__all__ = ["Letter", "Provenance", "as_json", "decode", "decode_letter", "encode"]

REFERENCES_MAX = 1000
"""Kept of a run's triggers, reads and outputs, each; how many more there were is said."""


class Provenance(msgspec.Struct, omit_defaults=True):
    """One run that succeeded. References are `path@vN`, relative to the base."""

    run: str
    binding: str
    base: str
    """Path of the base from the root of the store, at the time."""

    script: str
    """`path@t=T` of the script below the base."""

    script_id: str
    triggers: list[str]
    cut: int
    attempt: int
    hops: int
    root: str
    reads: list[str] = []
    left_out: int = 0
    """Triggers, reads and outputs beyond what is kept."""

    outputs: list[str] = []
    node: str = ""
    started_ns: int = 0
    duration_ns: int = 0
    result: bytes = b""


class Letter(msgspec.Struct, omit_defaults=True):
    """One event that was given up."""

    event: Event
    address: int
    definition: int
    """Since when the definition of the binding holds that it ran with."""

    kind: str
    message: str
    attempts: int
    traceback: str = ""
    output: bytes = b""
    died_ns: int = 0


decode = Decoder[Provenance](Provenance).decode
decode_letter = Decoder[Letter](Letter).decode


def as_json(known: Provenance) -> bytes:
    r"""For people and programs; names that are no UTF-8 have their bytes shown as \udcXX, as Python does."""
    try:
        return msgspec.json.encode(known)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(known)).encode()

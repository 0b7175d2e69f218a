"""Provenance: what is kept of a run in the record that committed it, and of a dead letter.

It answers where a version comes from, and lets a chain of runs be followed back to what a program wrote. Encoded with
msgpack as maps, so that a later version may add fields.

Source: docs/TRIGGERS.md 10.
"""

from __future__ import annotations

import msgspec

from triggers.run import Event  # noqa: TC001  msgspec looks at annotations

__all__ = ["Letter", "Provenance", "decode", "decode_letter", "encode"]

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


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Provenance).decode
decode_letter = msgspec.msgpack.Decoder(Letter).decode

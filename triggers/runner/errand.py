"""Errands: a run on its way to another replica's node, and what it did on its way back. Pure.

The leader of a shard decides what runs and commits what was done; only the doing is handed over. So an errand holds all of a
run but the cut, which the other node makes of its own replica, as soon as that is as far as the leader's was. What comes
back is the result, and what was read, for provenance.

Source: docs/FORMAT.md, "Errands".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from triggers.run import Done, Failed, FailureKind, LogLine, Run
from triggers.spelling import Decoder, encode
from triggers.worker.message import WireEffect, decode_effects, encode_effects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.codec import Buffer

__all__ = [
    "Errand",
    "Returned",
    "bring",
    "decode_errand",
    "decode_returned",
    "encode",
    "outcome_of",
]


class Errand(msgspec.Struct, frozen=True):
    """A run to be done."""

    run: Run
    shard: int
    base: int
    """The inode that paths are relative to."""

    reached: int
    """Timestamp of the newest commit of the shard that the leader had applied: what is read may be no older than that."""


class Returned(msgspec.Struct, frozen=True):
    """What became of it; `kind` is empty of a `Done`. Long bytes of effects are in the memory that comes along."""

    kind: str
    message: str = ""
    traceback: str = ""
    after_ms: int | None = None
    effects: list[WireEffect] = []
    states: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    output: bytes = b""
    log: list[LogLine] = []
    result: bytes = b""
    started_ns: int = 0
    duration_ns: int = 0
    models: list[tuple[tuple[int, int], int]] = []
    reads: list[tuple[str, int, bool]] = []
    """(path, version, whether the newest was asked for)."""


decode_errand = Decoder[Errand](Errand).decode
decode_returned = Decoder[Returned](Returned).decode


def bring(
    outcome: Done | Failed, reads: Sequence[tuple[str, int, bool]]
) -> tuple[bytes, list[Buffer]]:
    """A result for the way back: the message, and the parts of the memory that goes with it."""
    told = [(path, version, latest) for path, version, latest in reads]
    if isinstance(outcome, Failed):
        returned = Returned(
            outcome.kind, outcome.message, outcome.traceback, outcome.after_ms,
            output=outcome.output, log=outcome.log, started_ns=outcome.started_ns,
            duration_ns=outcome.duration_ns, reads=told,
        )  # fmt: skip
        return encode(returned), []
    wired, parts = encode_effects(outcome.effects)
    returned = Returned(
        "", effects=wired, states=outcome.states, failed=outcome.failed, output=outcome.output,
        log=outcome.log, result=outcome.result, started_ns=outcome.started_ns,
        duration_ns=outcome.duration_ns, models=outcome.models, reads=told,
    )  # fmt: skip
    return encode(returned), list(parts)


def outcome_of(returned: Returned, memory: memoryview, node: str) -> Done | Failed:
    """The result that came back from a node.

    Raises:
        ValueError: what no node of ours would send.
    """
    if returned.kind:
        return Failed(
            msgspec.convert(returned.kind, FailureKind), returned.message, returned.traceback,
            returned.after_ms, returned.output, returned.log, returned.started_ns,
            returned.duration_ns,
        )  # fmt: skip
    return Done(
        decode_effects(returned.effects, memory), returned.states, returned.failed, returned.output,
        returned.log, returned.result, returned.started_ns, returned.duration_ns, returned.models, node,
    )  # fmt: skip

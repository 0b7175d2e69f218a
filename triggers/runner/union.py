"""What the ranks of a gang did, as one run's result: all of it or nothing.

Effects are joined in the order of the ranks. Of one path one rank may say what becomes of it; what is done to the newest
version anyway (`append`, `add`) several may do, as long as all do the same. Anything else would depend on which rank came
last, so it is refused.

Pure. Source: docs/TRIGGERS.md 5, "Gangs".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from triggers.run import Add, Append, Done, Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triggers.run import Effect

__all__ = ["union"]


class Clash(Exception):
    """Two ranks said different things about one; the message says which, and about what."""


def union(results: Sequence[Done]) -> Done | Failed:
    """One result of those of all ranks, rank 0 first; a failure if they do not go together."""
    try:
        effects, states = _effects(results), _states(results)
    except Clash as clash:
        return Failed(
            "exception",
            str(clash),
            output=_output(results),
            started_ns=min(one.started_ns for one in results),
            duration_ns=max(one.duration_ns for one in results),
        )
    failed: dict[str, str] = {}
    for one in reversed(results):
        failed |= one.failed
    return Done(
        effects,
        states,
        failed,
        _output(results),
        [
            msgspec.structs.replace(line, message=f"rank {rank}: {line.message}")
            for rank, one in enumerate(results)
            for line in one.log
        ],
        next((one.result for one in results if one.result), b""),
        min(one.started_ns for one in results),
        max(one.duration_ns for one in results),
    )


def _effects(results: Sequence[Done]) -> list[Effect]:
    whose: dict[str, tuple[int, Effect]] = {}
    joined = []
    for rank, one in enumerate(results):
        for effect in one.effects:
            before, first = whose.setdefault(effect.path, (rank, effect))
            if before != rank and not _go_together(first, effect):
                raise Clash(
                    f"{effect.path}: rank {before} says {_verb(first)} and rank {rank} {_verb(effect)}; let one rank write it,"
                    " each rank a file of its own, or all of them append or add"
                )
            if (
                before == rank
                and isinstance(first, Append | Add)
                and type(first) is not type(effect)
            ):
                whose[effect.path] = (rank, effect)  # the kind that goes with nothing else
            joined.append(effect)
    return joined


def _go_together(one: Effect, other: Effect) -> bool:
    return type(one) is type(other) and isinstance(one, Append | Add)


def _verb(effect: Effect) -> str:
    return type(effect).__name__.lower().replace("putif", "put_if")


def _states(results: Sequence[Done]) -> dict[str, bytes]:
    joined: dict[str, tuple[int, bytes]] = {}
    for rank, one in enumerate(results):
        for key, state in one.states.items():
            before, first = joined.setdefault(key, (rank, state))
            if first != state:
                raise Clash(
                    f"state of {key}: ranks {before} and {rank} have left it differently; let one rank change it"
                )
    return {key: state for key, (_, state) in joined.items()}


def _output(results: Sequence[Done]) -> bytes:
    """What the ranks printed, rank by rank."""
    return b"".join(
        b"rank %d: " % rank + line
        for rank, one in enumerate(results)
        for line in one.output.splitlines(keepends=True)
    )

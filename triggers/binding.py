"""Bindings: one pattern set with one handler of one script, and the one validator of all three spellings.

A decorator's keywords, a script's header and a side-car all come here as a *table*, key to raw value; `validate` makes
a `Binding` of it or says what is wrong, naming the nearest known key. Durations are text with a unit ("5s", "250ms",
"24h") or a number of seconds; sizes "512MiB" or bytes; rates "10/s", "100/min".

Source: docs/TRIGGERS.md, "Three spellings, one record".
"""

from __future__ import annotations

import difflib
import math
import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from triggers.pattern import BadPattern, Pattern
from triggers.run import EventKind  # noqa: TC001  msgspec looks at annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "AFFINITY",
    "AT_CLOSE",
    "KEYS",
    "BadBinding",
    "Binding",
    "Start",
    "decode",
    "duration_ms",
    "encode",
    "validate",
]

Start: TypeAlias = Literal["now", "start"] | int
"""Where a new binding begins: at its activation, at the first commit kept, or behind a timestamp (microseconds)."""

AT_CLOSE = -1
"""Of `settle_ms`."""

AFFINITY = "affinity"
"""Of `key`."""

GANG_MAX = 256
GPUS_MAX = 64

NAME_CHARACTERS_MAX = 200
"""Of a binding's name: it is a file name below `log/` and part of a row's key."""


class BadBinding(ValueError):
    """A table is no binding; the message says which key, why, and what would do."""


class Binding(msgspec.Struct, frozen=True):
    """What one table means. `docs/TRIGGERS.md` has every key; durations are milliseconds, sizes bytes."""

    name: str
    """Unique in its base: the script's file name, ":" and the handler for modules."""

    script: str
    handler: str | None
    watch: tuple[str, ...]
    kinds: tuple[EventKind, ...] = ("write", "move")
    settle_ms: int = 0
    """How long a path must have been quiet; versions superseded meanwhile are skipped. `AT_CLOSE`: until nobody has the
    file open for writing."""

    start: Start = "now"
    collapse: bool = False
    own: bool = False
    """Fire on what this very binding wrote, too (the key `self`)."""

    emit: str | None = None
    key: str = "path"
    """"path", "dir", "affinity" (the pool's group), or "group:NAME" of a regular expression."""

    order: Literal["key", "shard", "none"] = "key"
    dispatch: Literal["one", "all"] = "one"
    concurrency: int = 0
    """Runs at a time on a node; 0: as many as there are cores."""

    inflight: int = 1
    batch: int = 1
    wait_ms: int = 0
    timeout_ms: int = 60_000
    attempts: int = 3
    backoff_ms: int = 100
    on_fail: Literal["dead", "block"] = "dead"
    hops: int = 32
    loop: bool = False
    rate: tuple[int, int] | None = None
    """(events, per so many ms)."""

    cut_wait_ms: int = 1000
    max_lag_ms: int = 24 * 3_600_000
    runtime: Literal["trio", "asyncio"] = "trio"
    sandbox: Literal["strict", "normal", "inproc"] = "strict"
    memory_bytes: int | None = None
    gang: int = 1
    """Workers that run an event together, with ranks."""

    gpus: int = 0
    """CUDA devices that a node must have for it (the key `gpu`)."""


# --- values -----------------------------------------------------------------------------------------------------------

_UNITS_MS = {
    "us": 0.001,
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
}
_UNITS_BYTES = {
    "": 1, "b": 1, "k": 2**10, "kib": 2**10, "m": 2**20, "mib": 2**20, "g": 2**30, "gib": 2**30,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")


def duration_ms(value: object) -> int:
    """A duration as it is written: "5s", "250ms", "24h", "7d", or a number of seconds.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
        if math.isfinite(seconds) and seconds >= 0:
            return round(seconds * 1000)
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)):
        unit = _UNITS_MS.get(match[2].lower())
        if unit is not None:
            return round(float(match[1]) * unit)
    raise ValueError('a duration such as "5s", "250ms" or "24h", or a number of seconds')


def _bytes(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)):
        unit = _UNITS_BYTES.get(match[2].lower())
        if unit is not None and float(match[1]) > 0:
            return round(float(match[1]) * unit)
    raise ValueError('a size such as "512MiB", or a number of bytes')


def _rate(value: object) -> tuple[int, int]:
    if isinstance(value, str) and (match := re.fullmatch(r"([1-9][0-9]{0,8}) ?/ ?([a-z]+)", value)):
        unit = _UNITS_MS.get(match[2])
        if unit is not None and unit >= 1:
            return int(match[1]), round(unit)
    raise ValueError('a rate such as "10/s" or "100/min"')


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _count(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return value

    return parse


def _one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in words:
            raise ValueError("one of " + ", ".join(f'"{word}"' for word in words))
        return str(value)

    return parse


def _patterns(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts:
        raise ValueError("a pattern, or a list of patterns")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("patterns are texts")
    try:
        Pattern(tuple(texts))
    except BadPattern as error:
        raise ValueError(f"other patterns: {error}") from None
    return tuple(texts)


def _kinds(value: object) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    known = ("write", "move", "delete")
    if not isinstance(words, list | tuple) or not words or not set(words) <= set(known):
        raise ValueError('some of "write", "move", "delete"')
    return tuple(kind for kind in known if kind in words)


def _settle(value: object) -> int:
    if value == "commit":
        return 0
    return AT_CLOSE if value == "close" else duration_ms(value)


def _start(value: object) -> Start:
    if value in ("now", "start"):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value * 1_000_000
    raise ValueError('"now", "start", or seconds since 1970')


def _collapse(value: object) -> bool:
    if value not in ("none", "latest"):
        raise ValueError('"none" or "latest"')
    return value == "latest"


def _directory(value: object) -> str:
    if isinstance(value, str):
        text = value.rstrip("/")
        if text and not text.startswith("/") and not {"", ".", ".."} & set(text.split("/")):
            return text
    raise ValueError('a directory below the one that holds .cascade, such as "cows/"')


def _key(value: object) -> str:
    if isinstance(value, str):
        if value in ("path", "dir", AFFINITY):
            return value
        if re.fullmatch(r"group:[A-Za-z_][A-Za-z0-9_]*", value):
            return value
    raise ValueError('"path", "dir", "affinity" or "group:NAME"')


def _gpus(value: object) -> int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and 0 <= value <= GPUS_MAX:
        return value
    raise ValueError(f"true, false, or how many devices, up to {GPUS_MAX}")


KEYS: Mapping[str, tuple[str, Callable[[Any], object]]] = {
    "watch": ("watch", _patterns),
    "kinds": ("kinds", _kinds),
    "settle": ("settle_ms", _settle),
    "from": ("start", _start),
    "collapse": ("collapse", _collapse),
    "self": ("own", _flag),
    "emit": ("emit", _directory),
    "key": ("key", _key),
    "order": ("order", _one_of("key", "shard", "none", AFFINITY)),
    "dispatch": ("dispatch", _one_of("one", "all")),
    "concurrency": ("concurrency", _count(1, 4096)),
    "inflight": ("inflight", _count(1, 4096)),
    "batch": ("batch", _count(1, 10_000)),
    "wait": ("wait_ms", duration_ms),
    "gang": ("gang", _count(1, GANG_MAX)),
    "gpu": ("gpus", _gpus),
    "timeout": ("timeout_ms", duration_ms),
    "attempts": ("attempts", _count(1, 1000)),
    "backoff": ("backoff_ms", duration_ms),
    "on_fail": ("on_fail", _one_of("dead", "block")),
    "hops": ("hops", _count(1, 10_000)),
    "loop": ("loop", _flag),
    "rate": ("rate", _rate),
    "cut_wait": ("cut_wait_ms", duration_ms),
    "max_lag": ("max_lag_ms", duration_ms),
    "runtime": ("runtime", _one_of("trio", "asyncio")),
    "sandbox": ("sandbox", _one_of("strict", "normal", "inproc")),
    "memory": ("memory_bytes", _bytes),
}
"""Every key a table may have: the field it fills, and what reads its value."""


def validate(
    table: Mapping[str, object], *, script: str, handler: str | None = None, suffix: str = ""
) -> Binding:
    """The binding a table means.

    Args:
        table: keys as written; a trailing underscore is dropped, because `from` is a word of Python's own.
        script: the file's name below `watch/`.
        handler: the function's name; None for an executable.
        suffix: what tells apart several tables of one handler.

    Raises:
        BadBinding: a key is not known, one is missing, or a value is not what it can be.
    """
    name = (script if handler is None else f"{script}:{handler}") + suffix
    if len(name.encode(errors="surrogateescape")) > NAME_CHARACTERS_MAX or "/" in name:
        raise BadBinding(f"{name!r}: shorten the name to {NAME_CHARACTERS_MAX} bytes, without '/'")
    fields: dict[str, object] = {}
    for written, value in table.items():
        key = written.rstrip("_")
        if key not in KEYS:
            raise BadBinding(f"{name}: there is no key {written!r}{_nearest(key)}")
        field, parse = KEYS[key]
        try:
            fields[field] = parse(value)
        except ValueError as error:
            raise BadBinding(f"{name}: {key} is {value!r}; it takes {error}") from None
    if fields.get("order") == AFFINITY:  # in the order of the key, which is the group
        if fields.setdefault("key", AFFINITY) != AFFINITY:
            raise BadBinding(f'{name}: order is "affinity", so key is that, too; leave key out')
        fields["order"] = "key"
    if "watch" not in fields:
        raise BadBinding(f"{name}: the key 'watch' is missing: which files should it fire for?")
    binding = Binding(name, script, handler, **fields)  # type: ignore[arg-type]  # read by KEYS
    _check_together(binding)
    return binding


def _check_together(binding: Binding) -> None:
    """What single keys cannot say."""
    name = binding.name
    group = binding.key.removeprefix("group:") if binding.key.startswith("group:") else None
    if group is not None and group not in Pattern(binding.watch).group_names:
        raise BadBinding(
            f"{name}: key is {binding.key!r}, and no re: pattern has a group {group!r}"
        )
    if binding.batch > 1 and binding.handler is None:
        raise BadBinding(f"{name}: batch needs a Python handler; an executable takes one event")
    if binding.wait_ms and binding.batch == 1:
        raise BadBinding(f"{name}: wait gathers a batch; say batch = 32 as well, or leave wait out")
    if binding.gang > 1 and binding.handler is None:
        raise BadBinding(
            f"{name}: gang needs a Python handler; an executable starts its own processes"
        )
    if binding.gang > 1 and (binding.inflight > 1 or binding.sandbox == "inproc"):
        other = "inflight" if binding.inflight > 1 else 'sandbox = "inproc"'
        raise BadBinding(
            f"{name}: gang has a worker for each rank, one run at a time; leave {other} out"
        )
    if binding.timeout_ms == 0:
        raise BadBinding(f"{name}: timeout is 0; it takes a time a run could keep")


def _nearest(key: str) -> str:
    found = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else f"; there are {', '.join(KEYS)}"


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Binding).decode

"""Text that msgpack refuses, spelt so that it does not: names of files need not be UTF-8.

Bytes that are no UTF-8 are lone surrogates in Python's text (PEP 383), and UTF-8 has none. `spelt` moves each surrogate
to a character of plane 16, which is private and hardly used; those very characters get an `ESCAPE` in front, so no two
texts are ever spelt alike. A message holds respelt text only if it must, and its first byte, which begins no msgpack,
says so: all others pay nothing for it.

Source: the msgpack specification (0xc1 is never used).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Decoder", "encode", "meant", "respelt", "spelt"]

MARK = b"\xc1"
SHIFT = 0x10F000 - 0xD800
ESCAPE = "\U0010f800"

_ODD = re.compile("[\ud800-\udfff\U0010f000-\U0010f800]")
_SPELT = re.compile("\U0010f800.|[\U0010f000-\U0010f7ff]", re.DOTALL)

_encode = msgspec.msgpack.Encoder().encode
_plain = msgspec.msgpack.Decoder().decode

Value = TypeVar("Value")


def spelt(text: str) -> str:
    """A text that has a UTF-8 form, another one for every text; most are as they were."""
    return text if text.isascii() else _ODD.sub(_spell, text)


def meant(text: str) -> str:
    """What `spelt` made, as it was."""
    return text if text.isascii() else _SPELT.sub(_mean, text)


def _spell(found: re.Match[str]) -> str:
    odd = found[0]
    return chr(ord(odd) + SHIFT) if odd <= "\udfff" else ESCAPE + odd


def _mean(found: re.Match[str]) -> str:
    text = found[0]
    return text[1] if text[0] == ESCAPE else chr(ord(text) - SHIFT)


def respelt(value: Any, spell: Callable[[str], str]) -> Any:
    """A plain value with every text in it spelt otherwise."""
    if isinstance(value, str):
        return spell(value)
    if isinstance(value, list | tuple):
        return [respelt(item, spell) for item in value]
    if isinstance(value, dict):
        return {respelt(key, spell): respelt(item, spell) for key, item in value.items()}
    return value


def encode(value: object) -> bytes:
    """msgpack of a value, whatever text it holds; for a `Decoder`."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, builtin_types=(bytes,))
        return MARK + _encode(respelt(plain, spelt))


class Decoder(Generic[Value]):
    """Reads what `encode` made of one type."""

    def __init__(self, type: Any) -> None:
        self._type = type
        self._decoder: msgspec.msgpack.Decoder[Value] = msgspec.msgpack.Decoder(type)

    def decode(self, data: bytes | memoryview) -> Value:
        """The value.

        Raises:
            msgspec.MsgspecError: it is none.
        """
        if data[:1] != MARK:
            return self._decoder.decode(data)
        return cast("Value", msgspec.convert(respelt(_plain(data[1:]), meant), self._type))

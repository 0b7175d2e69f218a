"""Requests and responses, as values. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

__all__ = ["BadRequest", "Request", "Response", "failure", "json_response"]


class BadRequest(ValueError):
    """It asks for nothing that there is; the message is for people."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole. Names of headers are in lower case; one that came twice is joined with a comma."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """Without the question."""
        return self.target.partition("?")[0]

    def question(self) -> dict[str, str]:
        """What stands behind the question mark; bytes that are no UTF-8 as Python shows them in names."""
        found = {}
        for pair in self.target.partition("?")[2].split("&"):
            key, _, value = pair.partition("=")
            raw = unquote_to_bytes(value.replace("+", " "))
            found[key] = raw.decode("utf-8", "surrogateescape")
        return found


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered. `body` in pieces has the length that `headers` say, or ends with the connection."""

    status: int
    body: bytes | AsyncGenerator[bytes, None] = b""
    kind: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = field(default=())


def json_response(value: Any, status: int = 200) -> Response:
    """A value as JSON, in ASCII."""
    return Response(status, json.dumps(value).encode(), "application/json")


def failure(status: int, why: str) -> Response:
    """What went wrong, in words."""
    return json_response({"error": why}, status)

"""Headers: the table of a script that says itself what it watches.

A PEP 723 block in comments (`# /// script` ... `# ///`) with a table `[tool.cascadefs]`, or a side-car file of the
script's name and ".toml" with the same table, also at its top level. `[[tool.cascadefs]]` gives several bindings.

Source: packaging.python.org, "Inline script metadata" (the reference regular expression is that page's).
"""

from __future__ import annotations

import re
import tomllib

__all__ = ["BadHeader", "read", "read_sidecar"]

_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")

HEADER_BYTES_MAX = 64 * 1024
"""Of a script in which a header is looked for."""


class BadHeader(ValueError):
    """There is a header and it does not say what a header says; the message has the line where there is one."""


def read(source: bytes) -> list[dict[str, object]]:
    """The tables in a script's own header; empty if there is none, or none with `[tool.cascadefs]`.

    Raises:
        BadHeader: two blocks, no TOML, or a table that is none.
    """
    text = source[:HEADER_BYTES_MAX].decode(errors="replace").replace("\r\n", "\n")
    blocks = [match for match in _BLOCK.finditer(text) if match["type"] == "script"]
    if not blocks:
        return []
    if len(blocks) > 1:
        raise BadHeader("there are two blocks '# /// script'; leave one")
    lines = blocks[0]["content"].splitlines(keepends=True)
    return _tables("".join(line[2:] if line[:2] == "# " else line[1:] for line in lines))


def read_sidecar(source: bytes) -> list[dict[str, object]]:
    """The tables of a side-car.

    Raises:
        BadHeader: no TOML, not UTF-8, or no table.
    """
    try:
        text = source.decode()
    except UnicodeDecodeError as error:
        raise BadHeader(f"not UTF-8: {error}") from None
    found = _tables(text)
    if found:
        return found
    whole = _parse(text)
    whole.pop("tool", None)
    if not whole:
        raise BadHeader('there is no table; begin with: watch = "frames/*"')
    return [whole]


def _tables(text: str) -> list[dict[str, object]]:
    tool = _parse(text).get("tool", {})
    table = tool.get("cascadefs", []) if isinstance(tool, dict) else []
    tables = [table] if isinstance(table, dict) else table
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise BadHeader("tool.cascadefs is no table; write [tool.cascadefs] on a line of its own")
    return tables


def _parse(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadHeader(f"no TOML: {error}") from None

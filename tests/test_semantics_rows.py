"""docs/SEMANTICS.md and the tests say the same.

Goal: every row of the contract names a test that exists or says "not yet", and no test of tests/semantics is left out.
Method: read the page's tables and the tests' syntax trees; nothing is imported or run.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/SEMANTICS.md").read_text(encoding="utf-8")
SEMANTICS = ROOT / "tests/semantics"
AREAS = {
    "event time",
    "conditional writes",
    "retention",
    "cluster",
    "triggers",
    "kernel door",
}


def tables() -> list[list[list[str]]]:
    """The tables of the page outside of fences: rows of cells, the heading first."""
    text = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    found, table = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif table:
            found.append(table)
            table = []
    return found


def rules() -> list[list[str]]:
    return [row for table in tables() for row in table[2:]]


def references(text: str) -> set[tuple[str, str]]:
    """The tests a text names, as (file, function): `versions::x`, or `tests/.../test_y.py::test_x`."""
    found = {(path, name) for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)}
    for room, name in re.findall(r"`(\w+)::(\w+)`", text):
        found.add((f"tests/semantics/test_{room}.py", f"test_{name}"))
    return found


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return {node.name for node in nodes if node.name.startswith("test_")}


def test_every_table_of_rules_ends_with_what_shows_them():
    assert len(tables()) >= 12
    for table in tables():
        assert table[0][-1] == "shown by", table[0]
        assert {len(row) for row in table} == {3}, table[0]


@pytest.mark.parametrize("row", rules(), ids=lambda row: row[0][:40])
def test_every_rule_names_its_test_or_is_marked_not_yet(row):
    shown_by = row[-1]
    areas = {
        area.strip()
        for text in re.findall(r"\*\*not yet \((.*?)\)\*\*", shown_by)
        for area in text.split(",")
    }
    assert areas <= AREAS
    assert references(shown_by) or areas, "shown by nothing, and not marked"
    # Nothing but references and marks, so that no reference is misspelled out of sight.
    left = re.sub(r"`[\w/.]+::\w+`|\*\*not yet \(.*?\)\*\*|[,; ]", "", shown_by)
    assert not left, left


def test_every_test_named_exists():
    missing = []
    for path, name in sorted(references(PAGE)):
        if not (ROOT / path).exists() or name not in functions_of(ROOT / path):
            missing.append(f"{path}::{name}")
    assert not missing, "\n".join(missing)


def test_every_test_of_the_contract_is_named():
    named = references(PAGE)
    unnamed = [
        f"{path.name}::{name}"
        for path in sorted(SEMANTICS.glob("test_*.py"))
        for name in sorted(functions_of(path))
        if (f"tests/semantics/{path.name}", name) not in named
    ]
    assert not unnamed, "\n".join(unnamed)

"""The house is as its documents say.

Goal: no link leads nowhere, no room is undocumented or invented, the scripts start from anywhere, and the glossary gives
a word one meaning. Method: read the tree as it lies here; nothing is imported, mounted or run but ``bash -n``.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cascadefs", "triggers", "storage")
SCRIPTS = (
    ".ci/run",
    "scripts/check",
    "scripts/pictures",
    "scripts/rdma-guest",
    "scripts/rdma/build_qemu",
    "scripts/rdma/build_uml",
    "scripts/cluster",
    "scripts/reliability",
    "scripts/run",
    "scripts/setup",
    "scripts/simulate",
    "scripts/test",
)
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "changes")
    for path in (ROOT / folder).rglob("*.md" if folder != "." else "[A-Z]*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)

FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"(?<!\\)!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
REFERENCE = re.compile(r"^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)


def prose(text: str) -> str:
    """A page without its code: a bracket in a command is not a link."""
    return CODE.sub("", FENCE.sub("", text))


def links(text: str) -> list[str]:
    return LINK.findall(prose(text)) + REFERENCE.findall(prose(text))


def anchors(text: str) -> set[str]:
    """The fragments that headings give, by the rule that GitHub and most viewers share."""
    seen: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#{1,6}\s+(.*?)\s*#*$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    here = ROOT / page
    text = here.read_text(encoding="utf-8")
    broken = []
    for link in links(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue  # elsewhere in the world
        name, _, fragment = link.partition("#")
        target = (here.parent / name).resolve() if name else here
        if not target.is_relative_to(ROOT) or not target.exists():
            broken.append(f"{link}: no such file in this tree")
        elif fragment and fragment not in anchors(target.read_text(encoding="utf-8")):
            broken.append(f"{link}: no such heading")
    assert not broken, "\n".join(broken)


def test_the_pages_a_reader_is_sent_to_exist():
    assert {"README.md", "CHANGELOG.md", "docs/ARCHITECTURE.md", "docs/GLOSSARY.md"} <= set(PAGES)


def test_a_link_in_code_is_none_and_headings_give_anchors():
    assert links("see [a](b.md#c) `[x](y)`\n```\n[p](q)\n```\n") == ["b.md#c"]
    assert anchors("# In one minute\n## 2. A `b@v1`, c\n## Same\n## Same\n") == {
        "in-one-minute",
        "2-a-bv1-c",
        "same",
        "same-1",
    }


def rooms() -> set[str]:
    """Every module and package of the house, such as ``storage.extents``; a room's side rooms go with it."""
    return {
        f"{package}.{path.stem}"
        for package in PACKAGES
        for path in (ROOT / package).iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }


def plan() -> set[str]:
    """The rooms drawn in ARCHITECTURE: fenced trees of packages (``storage/``), their rooms indented below.

    A line is ``  name name  pure  what it is``: names are separated by one blank and end at the first gap of two.
    ``log/`` is a package; a bracketed name, ``(server)``, is a room to come and may be missing.
    """
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = set()
    for fence in FENCE.finditer(text):
        package = None
        for line in fence.group().splitlines():
            if head := re.match(r"([a-z]+)/(\s|$)", line):
                package = head.group(1) if head.group(1) in PACKAGES else None
            elif package and (row := re.match(r" {2}(\S+(?: \S+)*)", line)):
                drawn |= {f"{package}.{name.rstrip('/')}" for name in row.group(1).split(" ")}
    return drawn


def test_the_rooms_drawn_in_architecture_are_the_rooms_there_are():
    drawn = plan()
    to_come = {name for name in drawn if name.split(".")[1].startswith("(")}
    assert drawn, "docs/ARCHITECTURE.md draws no tree of rooms"
    assert drawn - to_come == rooms()
    came = {name.replace("(", "").replace(")", "") for name in to_come} & rooms()
    assert not came, "these rooms exist now; take their brackets away"


def test_rooms_that_architecture_names_in_passing_exist():
    text = FENCE.sub("", (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8"))
    named = set(re.findall(rf"`((?:{'|'.join(PACKAGES)})[./][a-z_]+)[^`]*`", text))
    named = {name.replace("/", ".").removesuffix(".py") for name in named}
    assert named <= rooms() | plan() | {n.replace("(", "").replace(")", "") for n in plan()}


def test_one_room_one_noun():
    forbidden = {"utils", "util", "common", "helpers", "types", "misc"}
    names = {path.stem for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert not names & forbidden


def test_tests_are_no_packages():
    # With an __init__.py here, tests/storage would be imported as storage.
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_strict_and_start_from_anywhere(script):
    path = ROOT / script
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    assert 'dirname -- "${BASH_SOURCE[0]}"' in text
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True, timeout=10)


def test_no_script_goes_unlisted():
    found = {f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir() if path.is_file()}
    shell = {script for script in SCRIPTS if re.fullmatch("scripts/[^/]+", script)}
    assert found == shell | {"scripts/bench"}  # a Python program: ruff looks at it, not bash


def glossary() -> list[tuple[str, str]]:
    text = (ROOT / "docs/GLOSSARY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return [(word, meaning) for word, meaning, _ in rows if set(word) != {"-"} and word != "word"]


def test_the_glossary_gives_a_word_one_meaning():
    words = [word for cell, _ in glossary() for word in re.sub(r"\(.*?\)", "", cell).split(", ")]
    assert len(words) > 30
    assert sorted(words) == sorted(set(words))


def test_every_fragment_of_the_change_log_has_a_known_kind():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
    kinds = "|".join(kind["directory"] for kind in settings["type"])
    names = {path.name for path in (ROOT / "changes").iterdir()} - {"README.md"}
    assert not {name for name in names if not re.fullmatch(rf"\+?[\w-]+\.({kinds})\.md", name)}

"""A C program built on the mount with make, run from there, changed and built again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.mounted.program import run

pytestmark = pytest.mark.mounted


@pytest.fixture
def place(shared_mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own on the mount of the whole run."""
    path = shared_mount.path / request.node.name
    path.mkdir()
    return path


_MAKEFILE = """\
CFLAGS = -O1 -g -Wall -Werror -fPIC -MMD
OBJECTS = main.o one.o two.o three.o
all: program libparts.so
program: main.o libparts.a
\t$(CC) -o $@ main.o libparts.a
libparts.a: one.o two.o three.o
\trm -f $@
\tar rcs $@ $^
libparts.so: one.o two.o three.o
\t$(CC) -shared -o $@ $^
clean:
\trm -f *.o *.d *.a *.so program
-include $(OBJECTS:.o=.d)
"""


def make_project(directory: Path) -> None:
    directory.mkdir()
    (directory / "Makefile").write_text(_MAKEFILE)
    (directory / "parts.h").write_text(
        "#define SCALE 10\nint one(void); int two(void); int three(void);\n"
    )
    for value, name in enumerate(("one", "two", "three"), start=1):
        (directory / f"{name}.c").write_text(
            f'#include "parts.h"\nint {name}(void) {{ return {value} * SCALE; }}\n'
        )
    (directory / "main.c").write_text(
        '#include <stdio.h>\n#include "parts.h"\n'
        'int main(void) { printf("%d\\n", one() + two() + three()); return 0; }\n'
    )


def test_make_builds_what_changed_and_nothing_else(place) -> None:
    """make -j2, run, touch, make again: time stamps order what was made; a second make has nothing to do."""
    project = place / "project"
    make_project(project)
    make = ("make", "-s", "-j2", "-C", project)
    run(*make)
    assert run(project / "program") == "60\n"
    assert "Nothing to be done" in run("make", "-C", project)
    run("make", "-q", "-C", project)
    (project / "two.c").write_text('#include "parts.h"\nint two(void) { return 200; }\n')
    log = run("make", "-C", project)
    assert "two.c" in log
    assert "one.c" not in log
    assert run(project / "program") == "240\n"
    (project / "parts.h").write_text((project / "parts.h").read_text().replace("10", "100"))
    log = run("make", "-C", project)
    assert all(f"{name}.c" in log for name in ("one", "two", "three", "main"))
    assert run(project / "program") == "600\n"
    load = f"import ctypes; print(ctypes.CDLL('{project}/libparts.so').three())"
    assert run(sys.executable, "-c", load) == "300\n"
    run("strip", project / "program")
    run("install", "-m", "755", "-s", project / "program", place / "installed")
    assert run(place / "installed") == "600\n"
    assert (project / "program").exists()
    run("make", "-s", "-C", project, "clean")
    assert sorted(os.listdir(project)) == [
        "Makefile",
        "main.c",
        "one.c",
        "parts.h",
        "three.c",
        "two.c",
    ]


def test_an_old_binary_runs_from_the_past(place) -> None:
    """a tagged program is executed beside the live one: yesterday's build without a rebuild."""
    project = place / "project"
    make_project(project)
    run("make", "-s", "-C", project, "program")
    os.mkdir(place / "project@tag-release")
    (project / "three.c").write_text('#include "parts.h"\nint three(void) { return 0; }\n')
    run("make", "-s", "-C", project, "program")
    assert run(project / "program") == "30\n"
    assert run(place / "project@tag-release/program") == "60\n"


def test_scripts_and_binaries_are_executed_from_the_mount(place) -> None:
    """A shell script by its #! line, a copied binary, a binary replaced while it runs, no x bit no execution."""
    script = place / "script"
    script.write_text("#!/bin/sh\necho $1 $0\n")
    with pytest.raises(PermissionError):
        os.execv(script, ["script"])
    script.chmod(0o755)
    assert run(script, "said") == f"said {script}\n"
    run("cp", "/bin/sleep", place / "napper")
    run(
        "sh",
        "-c",
        "./napper 0.3 & cp /bin/echo new && mv new napper && ./napper replaced && wait",
        cwd=place,
    )
    run("cp", "/bin/sleep", place / "busy")
    said = run("sh", "-c", "./busy 2 & sleep 0.2; echo x > busy; kill $!", cwd=place, expect=None)
    assert said == ""
    assert (place / "busy").read_bytes() == Path("/bin/sleep").read_bytes()  # ETXTBSY

"""The tutorials do what they say: every command in them is run, in order, and says what stands below it.

Method: of each page of docs/tutorials, the ```console blocks are one bash script, run in a directory of its own that is also the
home. A line that begins with "$ " begins a command; it goes on behind a backslash and to the end of its here-documents. What
follows, to the next command or the end of the block, is what it says. In that, "..." stands for any text within a line, and as a
line of its own for any lines; empty lines count for nothing (docs/tutorials/README.md tells readers so). In a ```console repeat block a command is run again until
it says what is shown. Ports are exchanged for free ones, and root's mounts run root's scripts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cascadefs.fuse import mountpoint

pytestmark = [pytest.mark.mounted, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs/tutorials").glob("[0-9]*.md"))
PORTS = ("2379", "2380", "7401", "7402", "7403", "7404", "7405")
SECONDS = 200
COLUMNS = 80
ATTEMPTS, PAUSE_SECONDS = 150, 0.2
MARK = "\x01"


@dataclass
class Step:
    """A command of a tutorial, and what it says."""

    line: int
    command: str
    said: list[str]
    is_repeated: bool = False
    """Until it says so: something goes on meanwhile."""


def steps_of(text: str) -> list[Step]:
    """The commands of a page, in order."""
    steps: list[Step] = []
    fence = ""
    here: list[str] = []  # the words that end what is being written into a command
    for number, line in enumerate(text.splitlines(), 1):
        if here:
            steps[-1].command += f"\n{line}"
            if line == here[0]:
                here.pop(0)
        elif line.startswith("```"):
            fence = line[3:] if not fence else ""
        elif fence not in ("console", "console repeat"):
            continue
        elif steps and steps[-1].command.endswith("\\"):
            steps[-1].command += f"\n{line}"
        elif line.startswith("$ "):
            steps.append(Step(number, line[2:], [], fence.endswith("repeat")))
            here = re.findall(r"<<'(\w+)'", line)
        else:
            assert steps, f"line {number}: output without a command"
            steps[-1].said.append(line)
    return steps


def is_said(pattern: list[str], lines: list[str]) -> bool:
    """Whether that is what was said: see the module for "..."."""
    lines = [line for line in lines if line]
    expression = ""
    for line in filter(None, pattern):
        if line == "...":
            expression += r"(?:.*\n)*"
        else:
            expression += "[^\n]*".join(map(re.escape, line.split("..."))) + "\n"
    return re.fullmatch(expression, "".join(f"{line}\n" for line in lines)) is not None


class Shell:
    """A bash with a home of its own, which is told one command after the other, on a terminal, as people have it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._deadline = time.monotonic() + SECONDS
        self._said = b""
        environment = {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }
        self._terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            ["bash"],
            cwd=home,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=theirs,
            bufsize=0,
            start_new_session=True,
        )
        os.close(theirs)

    def run(self, command: str) -> list[str]:
        """Run a command to its end; what it says."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{{\n{command}\n}} </dev/null\nprintf '{MARK}'\n".encode())
        while MARK.encode() not in self._said:
            self._said += self._read(command)
        said, _, self._said = self._said.partition(MARK.encode())
        text = said.decode(errors="replace").replace("\r\n", "\n")
        lines = text.replace(str(self._home), "/home/you").splitlines()
        # As a terminal has it; and what bash says of jobs in the background is told otherwise there.
        lines = [
            re.sub(r"^bash: line \d+: (?! *\d+ (Killed|Term))", "bash: ", one) for one in lines
        ]
        return [one.rstrip() for one in lines if not re.match(r"bash: line \d+: +\d+ ", one)]

    def _read(self, command: str) -> bytes:
        left = max(self._deadline - time.monotonic(), 0)
        ready, _, _ = select.select([self._terminal], [], [], left)
        data = b""
        with contextlib.suppress(OSError):  # EIO: nobody is at the other end any more
            data = os.read(self._terminal, 65536) if ready else b""
        assert data, f"$ {command}\nit does not end; it has said so far:\n{self._said.decode()}"
        return data

    def end(self) -> None:
        """Whatever state it is in: nothing that it started runs, nothing is mounted."""
        for place in mounts_below(self._home):
            mountpoint.unmount(place, lazy=True)
        for pid in self._started():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(20)
        assert self._process.stdin is not None
        self._process.stdin.close()
        os.close(self._terminal)

    def _started(self) -> Iterator[int]:
        """All that has this home, daemons too."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"HOME={self._home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    yield int(process.name)


def mounts_below(home: Path) -> list[Path]:
    """Where something is mounted; the deepest first."""
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    places = [Path(line.split()[4]) for line in table.splitlines()]
    return sorted((place for place in places if home in place.parents), reverse=True)


def does_what_it_says(steps: list[Step], home: Path, exchanged: dict[str, str]) -> Iterator[str]:
    """Run the steps of a page with some words exchanged; what each says that does otherwise than shown."""
    shell = Shell(home)
    try:
        for step in steps:
            command, lines = step.command, []
            for shown, used in exchanged.items():
                command = command.replace(shown, used)
            for attempt in range(ATTEMPTS if step.is_repeated else 1):
                time.sleep(PAUSE_SECONDS if attempt else 0)
                lines = shell.run(command)
                for shown, used in exchanged.items():
                    lines = [line.replace(used, shown) for line in lines]
                if is_said(step.said, lines):
                    break
            else:
                got = "\n".join(lines)
                expected = "\n".join(step.said)
                yield f"line {step.line}: $ {step.command}\n--- shown\n{expected}\n--- said\n{got}\n"
    finally:
        shell.end()


def free_ports(text: str) -> dict[str, str]:
    """For each port that a page names, one that nobody uses."""
    with contextlib.ExitStack() as stack:
        exchanged = {}
        for port in PORTS:
            if port in text:
                taken = stack.enter_context(socket.socket())
                taken.bind(("127.0.0.1", 0))
                exchanged[port] = str(taken.getsockname()[1])
        return exchanged


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a short name, as people's are: tables are 80 columns wide."""
    path = Path(tempfile.mkdtemp(prefix="you-")).resolve()
    yield path
    assert mounts_below(path) == []
    shutil.rmtree(path)


@pytest.mark.timeout(SECONDS + 40)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page: Path, home: Path) -> None:
    text = page.read_text(encoding="utf-8")
    exchanged = free_ports(text)
    if os.getuid() == 0:
        exchanged["--triggers=owner"] = "--triggers=root"
    assert list(does_what_it_says(steps_of(text), home, exchanged)) == []


def test_what_is_a_command_and_what_it_says() -> None:
    page = "```console\n$ a <<'END' \\\n```\nEND\nx\n$ b \\\n c\n```\ny\n```python\n$ d\n```\n"
    first, second = steps_of(page)
    assert (first.command, first.said) == ("a <<'END' \\\n```\nEND", ["x"])
    assert (second.command, second.said) == ("b \\\n c", [])


@pytest.mark.parametrize(
    ("pattern", "lines", "expected"),
    [
        ([], [], True),
        ([], ["x"], False),
        (["a ... c"], ["a b c"], True),
        (["a ... c"], ["a b d"], False),
        (["a...c"], ["a", "c"], False),
        (["a", "...", "c"], ["a", "x", "y", "c"], True),
        (["a", "...", "c"], ["a", "c"], True),
        (["a", "..."], ["b"], False),
        (["a.c"], ["abc"], False),
    ],
)
def test_dots_stand_for_what_varies(pattern, lines, expected) -> None:
    assert is_said(pattern, lines) is expected


def test_every_page_is_told_of() -> None:
    index = (ROOT / "docs/tutorials/README.md").read_text(encoding="utf-8")
    assert len(PAGES) >= 4
    assert [page.name for page in PAGES if f"]({page.name})" not in index] == []

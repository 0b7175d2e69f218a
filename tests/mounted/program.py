"""Running other people's programs on a mount, and a second process that does what it is told.

A program that hangs on a mount cannot always be killed (its thread may wait in the kernel for an answer), so nothing
here waits for the end of one without a limit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

__all__ = ["Actor", "end", "environment", "finish", "run", "start", "start_python"]

SECONDS = 60.0
SECONDS_TO_DIE = 5.0


def environment(**more: str) -> dict[str, str]:
    """Nothing of the person's who runs the tests: no locale, no settings, no Python path."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **more,
    }


def run(
    *command: str | bytes | Path,
    cwd: Path | None = None,
    stdin: bytes = b"",
    expect: int | None = 0,
    seconds: float = SECONDS,
    **more: str,
) -> str:
    """Run a program to its end; its standard output. Other words are environment variables.

    Args:
        expect: the exit status it must have; None for any.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        output, errors = process.communicate(stdin, timeout=seconds)
    except subprocess.TimeoutExpired:
        end(process)
        raise AssertionError(f"{command!r} did not end in {seconds} s") from None
    said = f"{command!r} ended with {process.returncode}\n{errors.decode(errors='replace')}"
    assert expect is None or process.returncode == expect, said
    return output.decode(errors="surrogateescape")


def start(*command: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start a program in a group of its own; standard input and output are pipes of text."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def start_python(
    script: str, *arguments: str | Path, cwd: Path | None = None
) -> subprocess.Popen[str]:
    """Start Python on a script given as text."""
    words = map(str, arguments)
    return start(sys.executable, "-u", "-c", textwrap.dedent(script), *words, cwd=cwd)


def finish(processes: list[subprocess.Popen[str]], seconds: float = SECONDS) -> list[str]:
    """Wait for all of them to end well; what each said."""
    try:
        said = [process.communicate(timeout=seconds)[0] for process in processes]
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{error.cmd!r} did not end in {seconds} s") from None
    finally:
        for process in processes:
            end(process)
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Kill it and its children if it runs; one that cannot be killed is left alone."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        try:
            process.wait(SECONDS_TO_DIE)
        except subprocess.TimeoutExpired:
            return
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


_ACTOR = """
    import base64, errno, fcntl, json, mmap, os, socket, sys
    scope = globals()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["ask"]:
                answer = eval(request["code"], scope)
            else:
                answer = exec(request["code"], scope)
            if isinstance(answer, (bytes, bytearray, memoryview)):
                answer = {"bytes": base64.b64encode(answer).decode()}
            print(json.dumps({"answer": answer}))
        except OSError as error:
            print(json.dumps({"errno": error.errno}))
"""


class Actor:
    """Another process, which does what it is told, one thing at a time, and keeps its variables.

    `do` runs statements, `ask` gives the value of an expression. A refusal there is an `OSError` here.
    """

    def __init__(self, cwd: Path) -> None:
        self._process = start_python(_ACTOR, cwd=cwd)

    def __enter__(self) -> Actor:
        return self

    def __exit__(self, *exception: object) -> None:
        end(self._process)

    def do(self, code: str) -> None:
        self._say(code, ask=False)

    def ask(self, code: str) -> object:
        return self._say(code, ask=True)

    def _say(self, code: str, *, ask: bool) -> object:
        import base64

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"code": textwrap.dedent(code), "ask": ask}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the other process died at: {code}"
        reply = json.loads(line)
        if "errno" in reply:
            raise OSError(reply["errno"], os.strerror(reply["errno"]))
        answer = reply["answer"]
        if isinstance(answer, dict) and "bytes" in answer:
            return base64.b64decode(answer["bytes"])
        return answer

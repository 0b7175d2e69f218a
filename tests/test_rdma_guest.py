"""The guest in which RDMA tests run (scripts/rdma-guest): prepared once, started, ended and killed.

Goal: a command's output and status come back, nothing of the guest stays, and what cannot be prepared says so. Method: preparing with a
kernel of the test's own; running with the real one, which takes its time on a machine that has none yet.
"""

from __future__ import annotations

import base64
import gzip
import importlib
import io
import lzma
import os
import signal
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest

from storage.transport import Identity, Role
from storage.transport.certificates import Authority

ROOT = Path(__file__).resolve().parent.parent
GUEST = ROOT / "scripts/rdma-guest"


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """The modules of scripts/rdma, with a cache of the test's own."""
    monkeypatch.syspath_prepend(ROOT / "scripts/rdma")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return {name: importlib.import_module(name) for name in ("kernels", "image", "guest")}


class Imaginary:
    """A kernel that takes no time to make."""

    name = "imaginary"
    recipe = ("uml.config",)
    package = "linux-imaginary"
    programs = ("sh",)

    def __init__(self, trouble: Exception | None = None) -> None:
        self.trouble = trouble
        self.built: list[str] = []

    def build(self, version: str, target: Path) -> None:
        self.built.append(version)
        (target / "linux").write_text("a kernel")
        if self.trouble:
            raise self.trouble


@pytest.fixture
def versions(parts, monkeypatch):
    monkeypatch.setattr(parts["kernels"], "_version", lambda package: "1.2-3")


def test_a_kernel_is_made_once(parts, versions, tmp_path):
    kernel = Imaginary()
    prepared = parts["kernels"].prepare(kernel)
    assert (prepared / "linux").read_text() == "a kernel"
    assert prepared.parent == tmp_path / "cascadefs"
    assert prepared.name.startswith("imaginary-")
    assert prepared.name.endswith("-1.2-3")
    assert parts["kernels"].prepare(kernel) == prepared
    assert kernel.built == ["1.2-3"]


def test_two_who_want_it_at_once_make_it_once(parts, versions):
    kernel = Imaginary()
    threads = [threading.Thread(target=parts["kernels"].prepare, args=(kernel,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kernel.built == ["1.2-3"]


def test_another_recipe_is_another_kernel(parts, versions, monkeypatch):
    kernel = Imaginary()
    first = parts["kernels"].prepare(kernel)
    monkeypatch.setattr(Imaginary, "recipe", ("uml.config", "build_uml"))
    assert parts["kernels"].prepare(kernel) != first
    assert len(kernel.built) == 2


def test_a_kernel_that_was_not_finished_is_none(parts, versions, tmp_path):
    kernel = Imaginary(subprocess.CalledProcessError(1, "make"))
    with pytest.raises(parts["kernels"].Unprepared, match="making the guest kernel failed"):
        parts["kernels"].prepare(kernel)
    assert [path.name for path in (tmp_path / "cascadefs").iterdir()] == ["imaginary.lock"]


def test_what_is_missing_is_named(parts, versions, monkeypatch):
    monkeypatch.setattr(Imaginary, "programs", ("sh", "no-such-compiler"))
    with pytest.raises(parts["kernels"].Unprepared, match="needs no-such-compiler: scripts/setup"):
        parts["kernels"].prepare(Imaginary())


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--prepare", "--", "true"],
        ["--guests", "2", "--nodes", "2", "--", "true"],
        ["--nodes", "0", "--", "true"],
    ],
)
def test_arguments_that_cannot_be(parts, words, capsys):
    with pytest.raises(SystemExit):
        parts["guest"].arguments(words)
    assert "usage" in capsys.readouterr().err


def test_words_of_a_command_stay_words(parts, tmp_path):
    script = parts["guest"].script(["echo", "a b", "$HOME;'"], number=0, nodes=2, exchange=tmp_path)
    assert """echo 'a b' '$HOME;'"'"''""" in script
    assert "/scripts/rdma/network 0 2\n" in script


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_kernel_is_found_in_its_image(parts, pack):
    kernel = b"\x7fELF" + bytes(1000)
    magics = b"\x1f\x8b\x08" + b"\xfd7zXZ\0" + b"no, not here"
    assert parts["image"].unpack_kernel(b"MZ" + magics + pack(kernel) + b"and more") == kernel
    with pytest.raises(ValueError, match="no ELF kernel"):
        parts["image"].unpack_kernel(b"MZ" + magics + pack(b"something else"))


def test_modules_come_behind_what_they_need(parts, tmp_path):
    (tmp_path / "a-b.ko").write_bytes(b"\x7fELF\0depends=c,d\0name=a_b\0")
    (tmp_path / "c.ko.xz").write_bytes(lzma.compress(b"\x7fELF\0depends=d\0"))
    (tmp_path / "d.ko").write_bytes(b"\x7fELF\0depends=\0")
    assert list(parts["image"].in_order(("a_b", "built_in"), tmp_path)) == ["d", "c", "a_b"]


def test_an_archive_is_read_by_cpio(parts, tmp_path):
    file = io.BytesIO()
    archive = parts["image"].Cpio(file)
    archive.add("bin", mode=0o040755)
    archive.add("bin/odd", b"12345")
    archive.end()
    data = file.getvalue()
    assert len(data) % 4 == 0
    assert data.count(b"070701") == 3
    # Behind the head of 110 bytes and the name, to a multiple of four, lies the content.
    at = data.index(b"bin/odd\0")
    assert data[at + 8 + -(at + 8) % 4 :].startswith(b"12345\0\0\x00070701")
    assert int(data[at - 110 + 54 : at - 110 + 62], 16) == 5


# --- With the real kernel, from this side


def real(test):
    """Runs here, and waits for the kernel to be made if need be."""
    return pytest.mark.rdma(host=True)(pytest.mark.timeout(1200)(test))


def run(*words: str, timeout: float = 1100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GUEST, *words], capture_output=True, text=True, timeout=timeout, check=False
    )


@real
def test_output_and_status_come_back_and_files_do_not():
    kept, lost = ROOT / "build-of-a-guest", Path("/var/tmp/of-a-guest")
    try:
        done = run(
            "--",
            "sh",
            "-c",
            f"rdma link; echo 'a  b'; echo x >{kept}; echo x >{lost} && cat {lost}; exit 7",
        )
        assert done.returncode == 7, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0].startswith("link rxe0/1 state ACTIVE")
        assert lines[1:] == ["a  b", "x"]
        assert kept.read_text() == "x\n"
        assert not lost.exists()
    finally:
        kept.unlink(missing_ok=True)


@real
def test_a_command_that_does_not_end_is_ended():
    done = run("--timeout", "5", "--", "sleep", "1000")
    assert done.returncode == 124
    assert "ran past" in done.stderr


@real
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_it_is_ended_nothing_runs_on(number):
    guest = subprocess.Popen(
        [GUEST, "--", "sh", "-c", "echo runs; sleep 1000"], stdout=subprocess.PIPE, text=True
    )
    assert guest.stdout is not None
    assert guest.stdout.readline() == "runs\n"
    family = descendants(guest.pid)
    assert len(family) >= 3
    guest.send_signal(number)
    guest.wait()
    guest.stdout.close()
    for _ in range(100):
        if not any(alive(pid) for pid in family):
            return
        time.sleep(0.05)  # the kernel ends them one after the other
    raise AssertionError([pid for pid in family if alive(pid)])


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


TALK = """
import base64, io, os, pathlib, sys, tarfile, tempfile, time
import trio
from storage.transport import Broken, Role, TcpTransport
from storage.transport.certificates import Credentials
from storage.transport.verbs import Fabric
from storage.transport.verbs.transport import VerbsTransport

number = int(os.environ["RDMA_GUEST"])
directory = tempfile.mkdtemp()
tarfile.open(fileobj=io.BytesIO(base64.b64decode(sys.argv[1]))).extractall(directory, filter="data")
credentials = Credentials.load(pathlib.Path(directory, f"n{number}"), now_ns=time.time_ns())
transport = VerbsTransport(TcpTransport(credentials.identity, credentials.contexts()), Fabric(timeout_exponent=16))

async def main():
    async with trio.open_nursery() as nursery:
        if number == 1:
            listener = await transport.listen(nursery, "10.9.0.1:7000")
            connection = await listener.accept()
            while connection.broken() is None:
                try:
                    for message in await connection.receive():
                        await connection.send([message])
                except Broken as why:
                    print("1:", why)
        else:
            while True:
                try:
                    connection = await transport.connect(nursery, "10.9.0.1:7000", role=Role.NODE, name="n1")
                    break
                except Broken:
                    await trio.sleep(0.2)
            for size in (0, 100, 300_000):
                await connection.send([bytes(size)])
                (message,) = await connection.receive()
                print("2:", len(message), connection.status()["transport"])
            while sys.argv[2] == "for ever":
                await connection.send([bytes(300_000)])
                await connection.receive()
                print("2: talks", flush=True)
            await connection.aclose()
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.fixture
def material(tmp_path) -> str:
    """Certificates of two nodes, as one word of a command: guests do not see our temporary files."""
    now_ns = time.time_ns()  # noqa: TID251  # TLS compares with the machine's clock
    authority = Authority.create("c1", now_ns=now_ns)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("n1", "n2"):
            who = Identity("c1", Role.NODE, name)
            authority.install(authority.issue(who, now_ns=now_ns), tmp_path / name)
            archive.add(tmp_path / name, arcname=name)
    return base64.b64encode(packed.getvalue()).decode()


TWO = ["--guests", "2", "--timeout", "100", "--", str(ROOT / ".venv/bin/python"), "-c", TALK]


@real
def test_two_guests_talk_over_one_wire(material):
    done = run(*TWO, material, "to the end")
    assert done.returncode == 0, done.stdout + done.stderr
    said = sorted(line for line in done.stdout.splitlines() if line[:2] in ("1:", "2:"))
    assert said[1:] == ["2: 0 verbs", "2: 100 verbs", "2: 300000 verbs"]
    assert "node n2" in said[0]
    assert "closed the connection" in said[0]


@real
def test_a_guest_whose_plug_is_pulled_is_noticed_by_the_other(material):
    both = subprocess.Popen([GUEST, *TWO, material, "for ever"], stdout=subprocess.PIPE, text=True)
    assert both.stdout is not None
    with both.stdout as lines:
        assert any(line == "2: talks\n" for line in lines)
        os.killpg(os.getpgid(second(both.pid)), signal.SIGKILL)
        (said,) = [line for line in lines if line.startswith("1:")]
    assert "node n2" in said
    assert both.wait() == 125


def second(pid: int) -> int:
    """The process of the second guest."""
    for child in descendants(pid):
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        for word in words:
            if word.startswith("guest_exchange="):
                command = Path(word.removeprefix("guest_exchange="), "command").read_text()
                if "RDMA_GUEST=2" in command:
                    return child
    raise AssertionError("there is no second guest")

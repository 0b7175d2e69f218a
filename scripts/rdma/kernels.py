"""Kernels that have Soft-RoCE, prepared once and kept, and how each is started.

`Uml` is Debian's kernel 6.12 compiled as user-mode-linux: seven processor minutes once, then half a second a boot and
Python at its usual speed. `Qemu` is Debian's own kernel for servers in an emulated machine: ready in seconds and
without a compiler, a boot takes five seconds and Python is some ten times slower. Neither needs root.

A prepared kernel lies in the cache below a name with the package's version and a hash of the recipe. One of an older
version of the package is as good (nothing but tests runs on it), so a new version alone does not cost a new build;
remove the directory to have one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent

__all__ = ["Kernel", "Qemu", "Uml", "Unprepared", "cache_directory", "prepare"]


class Unprepared(Exception):
    """The guest's kernel cannot be had here; the message says what is missing and what brings it."""


class Kernel(Protocol):
    """One way to have a guest."""

    name: ClassVar[str]
    # What the recipe is made of: a change there is another kernel.
    recipe: ClassVar[tuple[str, ...]]
    package: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]

    def build(self, version: str, target: Path) -> None:
        """Make the kernel of that version of the package, in the empty directory `target`."""
        ...

    def command(
        self, prepared: Path, exchange: Path, checkout: Path, memory_mib: int, wire: int | None
    ) -> list[str]:
        """What starts a guest that runs ``exchange/command``; `wire` is a datagram socket to another guest."""
        ...


@dataclass(frozen=True)
class Uml:
    """User-mode-linux: the guest kernel is a program of this user."""

    name: ClassVar[str] = "uml"
    recipe: ClassVar[tuple[str, ...]] = ("build_uml", "uml.config")
    package: ClassVar[str] = "linux-source-6.12"
    programs: ClassVar[tuple[str, ...]] = ("gcc", "make", "bc", "flex", "bison", "xz", "taskset")

    def build(self, version: str, target: Path) -> None:
        """See `Kernel`: compiles, at low priority."""
        _run(["nice", "-n", "15", str(HERE / "build_uml"), version, str(target / "linux")])

    def command(
        self, prepared: Path, exchange: Path, checkout: Path, memory_mib: int, wire: int | None
    ) -> list[str]:
        """See `Kernel`. The checkout is mounted from inside: hostfs reaches every file of this user."""
        del checkout
        # Pinned: between two processors, each system call of the guest costs up to eight times as much.
        pinned = ["taskset", "-c", str(max(os.sched_getaffinity(0)))]
        boot = ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={HERE}/init_uml"]
        console = ["con0=null,fd:1", "con=null", "quiet", "panic=-1"]
        words = [str(prepared / "linux"), f"mem={memory_mib}M", *boot, *console]
        if wire is not None:
            words.append(f"vec0:transport=fd,fd={wire},vec=0")
        return [*pinned, *words, f"guest_exchange={exchange}"]


@dataclass(frozen=True)
class Qemu:
    """An emulated machine that runs the kernel Debian ships, unpacked and not installed."""

    name: ClassVar[str] = "qemu"
    recipe: ClassVar[tuple[str, ...]] = ("build_qemu", "image.py", "init_qemu")
    package: ClassVar[str] = "linux-image-amd64"
    programs: ClassVar[tuple[str, ...]] = ("qemu-system-x86_64",)

    def build(self, version: str, target: Path) -> None:
        """See `Kernel`: unpacks."""
        _run([str(HERE / "build_qemu"), version, str(target)])

    def command(
        self, prepared: Path, exchange: Path, checkout: Path, memory_mib: int, wire: int | None
    ) -> list[str]:
        """See `Kernel`."""
        # tb-size: without it the translated code alone takes a gigabyte.
        machine = ["-machine", "q35", "-accel", "tcg,thread=multi,tb-size=128", "-cpu", "max"]
        bare = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        shares: list[str] = []
        for path, tag, options in (
            (Path("/"), "host", ",readonly=on,multidevs=remap"),
            (checkout, "checkout", ",multidevs=remap"),
            (exchange, "exchange", ""),
        ):
            shares += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none{options}"]
        if wire is not None:
            address = f"52:54:00:00:00:{wire:02x}"  # descriptors of two guests differ
            shares += ["-netdev", f"dgram,id=wire,local.type=fd,local.str={wire}"]
            shares += ["-device", f"virtio-net-pci,netdev=wire,mac={address}"]
        kernel = ["-kernel", str(prepared / "vmlinux"), "-initrd", str(prepared / "initrd.cpio")]
        words = f"console=ttyS0 quiet panic=-1 mitigations=off guest_exchange={exchange} guest_checkout={checkout}"
        return [
            *("qemu-system-x86_64", *machine, "-smp", "1", "-m", str(memory_mib), *bare),
            *("-serial", "stdio", *kernel, *shares, "-append", words),
        ]


def cache_directory() -> Path:
    """Where prepared kernels are kept: ``$XDG_CACHE_HOME/cascadefs`` or ``~/.cache/cascadefs``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "cascadefs"


def prepare(kernel: Kernel) -> Path:
    """The directory with this kernel's files, made first where the cache has none. One at a time; others wait for it.

    Raises:
        Unprepared: Something is missing here, or the build failed (its output has gone to standard error).
    """
    prefix = f"{kernel.name}-{_hash(kernel)}-"
    if found := _newest(prefix):
        return found
    with _alone(cache_directory() / f"{kernel.name}.lock"):
        if found := _newest(prefix):
            return found
        missing = [name for name in kernel.programs if shutil.which(name) is None]
        if missing:
            raise Unprepared(
                f"the guest kernel needs {', '.join(missing)}: scripts/setup test brings what {kernel.name} needs"
            )
        version = _version(kernel.package)
        print(f"rdma-guest: preparing {kernel.package} {version}, once", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=cache_directory()) as made:
            target = Path(made) / "kernel"
            target.mkdir()
            try:
                kernel.build(version, target)
            except subprocess.CalledProcessError as error:
                raise Unprepared(
                    f"making the guest kernel failed ({error}); what it said is above"
                ) from error
            return target.rename(cache_directory() / f"{prefix}{version}")


def _run(words: list[str]) -> None:
    """Run it, with all that it starts; if we are ended meanwhile, so are they."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
    )
    try:
        status = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if status:
        raise subprocess.CalledProcessError(status, words)


def _hash(kernel: Kernel) -> str:
    recipe = hashlib.sha256(os.uname().machine.encode())
    for name in kernel.recipe:
        recipe.update((HERE / name).read_bytes())
    return recipe.hexdigest()[:12]


def _newest(prefix: str) -> Path | None:
    found = cache_directory().glob(f"{prefix}*")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("rdma-guest: waiting for the guest kernel that is being made", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _version(package: str) -> str:
    """The version apt would install, asked anew where we may: what an old list names is often gone."""
    if os.geteuid() == 0:
        subprocess.run(["apt-get", "-qq", "update"], check=False, stdout=sys.stderr)
    try:
        said = subprocess.run(
            ["apt-cache", "show", "--no-all-versions", package],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unprepared(
            f"apt knows no {package} here ({error}); on Debian 12, after apt-get update, it does"
        ) from error
    return next(line.split()[1] for line in said.splitlines() if line.startswith("Version:"))

"""Run a command in a guest kernel that has Soft-RoCE, and exit with its status: scripts/rdma-guest.

The command runs as root in the checkout. One node has device rxe0 and address 10.9.0.1; N nodes have rxe1 to rxeN and
10.9.0.1 to 10.9.0.N on wires that can be cut (scripts/rdma/network says how). Two guests run the same command, joined
by one wire; RDMA_GUEST in their environment is 1 or 2, and so is the end of their address.

Standard error is joined with standard output. Kill this program with any signal and the guest ends with it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kernels import Kernel, Qemu, Uml, Unprepared, prepare

CHECKOUT = Path(__file__).resolve().parent.parent.parent
DIED = 125
"""Exit status where the guest ended without having run the command to its end."""

TIMED_OUT = 124
"""As timeout(1)."""

UNPREPARED = 3


@dataclass
class Guest:
    """One guest that runs, and the directory it shares with us."""

    process: subprocess.Popen[bytes]
    exchange: Path

    def status(self) -> int | None:
        """The command's exit status; None if it did not come to its end."""
        try:
            return int((self.exchange / "status").read_text())
        except (OSError, ValueError):
            return None

    def kill(self) -> None:
        """As pulling the plug. Its processes are in a session of their own, so nothing of it is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def script(words: list[str], *, number: int, nodes: int, exchange: Path) -> str:
    """What the guest runs: devices first, then the command, its status last."""
    network = shlex.quote(str(CHECKOUT / "scripts/rdma/network"))
    return "\n".join(
        [
            "set -e",
            "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8",
            # Python's compiled files would be written through to the checkout, by another user than its own.
            f"export PYTHONDONTWRITEBYTECODE=1 RDMA_GUEST={number}",
            f"cd {shlex.quote(str(CHECKOUT))}",
            f". {network} {number} {nodes}",
            "set +e",
            shlex.join(words),
            f"echo $? >{shlex.quote(str(exchange / 'status'))}",
            "",
        ]
    )


def start(
    kernel: Kernel,
    prepared: Path,
    exchange: Path,
    options: argparse.Namespace,
    number: int,
    wire: int | None,
) -> Guest:
    """Boot a guest whose files are in `exchange`; number 0 is one alone."""
    (exchange / "checkout").write_text(str(CHECKOUT))
    (exchange / "command").write_text(
        script(options.command, number=number, nodes=options.nodes, exchange=exchange)
    )
    process = subprocess.Popen(
        kernel.command(prepared, exchange, CHECKOUT, options.memory, wire),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=() if wire is None else (wire,),
        preexec_fn=die_with_parent,
    )
    return Guest(process, exchange)


def die_with_parent() -> None:
    """In the child: whatever ends us, also SIGKILL, ends the guest (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def wire_ends() -> tuple[socket.socket, socket.socket]:
    """A cable: datagrams are Ethernet frames. Buffers of a megabyte, since a full one loses frames."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return ends


def run(kernel: Kernel, options: argparse.Namespace) -> int:
    """Boot, wait, and say what came of it: the (largest) status of the command."""
    prepared = prepare(kernel)
    deadline = time.perf_counter() + options.timeout
    with ExitStack() as stack:
        ends = wire_ends() if options.guests == 2 else (None,)
        guests = []
        for number, end in enumerate(ends, 1 if options.guests == 2 else 0):
            exchange = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdma-guest-")))
            wire = None if end is None else stack.enter_context(end).fileno()
            guest = start(kernel, prepared, exchange, options, number, wire)
            stack.callback(guest.kill)
            guests.append(guest)
        for guest in guests:
            try:
                guest.process.wait(max(0, deadline - time.perf_counter()))
            except subprocess.TimeoutExpired:
                print(f"rdma-guest: ran past {options.timeout} s, killed", file=sys.stderr)
                return TIMED_OUT
        statuses = [guest.status() for guest in guests]
    if None in statuses:
        print("rdma-guest: the guest ended without having finished the command", file=sys.stderr)
        return DIED
    return max(status for status in statuses if status is not None)


def arguments(words: list[str]) -> argparse.Namespace:
    """See scripts/rdma-guest."""
    parser = argparse.ArgumentParser(
        prog="rdma-guest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--uml", action="store_true", help="user-mode-linux (this one if neither is given)"
    )
    which.add_argument("--qemu", action="store_true", help="an emulated machine: no compiler, slow")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="devices (1)")
    parser.add_argument(
        "--guests", type=int, default=1, choices=(1, 2), help="guests on one wire (1)"
    )
    parser.add_argument(
        "--memory", type=int, default=768, metavar="MIB", help="memory of a guest (768)"
    )
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="S", help="then it is killed (600)"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="only make the kernel, or wait for it"
    )
    parser.add_argument("command", nargs="*", metavar="COMMAND")
    options = parser.parse_args(words)
    if bool(options.command) == options.prepare:
        parser.error("a COMMAND or --prepare")
    if options.guests == 2 and options.nodes != 1:
        parser.error("two guests have one node each")
    if not 1 <= options.nodes <= 64:
        parser.error("1 to 64 nodes")
    return options


def main() -> int:
    """See the module."""
    options = arguments(sys.argv[1:])
    kernel = Qemu() if options.qemu else Uml()
    # So that an interrupted run takes its guest and its files with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + signal.SIGTERM))
    try:
        if options.prepare:
            prepare(kernel)
            return 0
        return run(kernel, options)
    except Unprepared as error:
        print(f"rdma-guest: {error}", file=sys.stderr)
        return UNPREPARED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())

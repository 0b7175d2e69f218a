"""Goal: of two machines that replicate by RDMA one loses its power, and the other goes on with all that was acknowledged. Method: two guests
on one wire, a node in each (`tests.cluster.two_guests`); the second is killed while a program writes.
"""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.test_rdma_guest import GUEST, ROOT, second

WORDS = ["--guests", "2", "--memory", "1024", "--timeout", "150"]


@pytest.mark.rdma(host=True)
@pytest.mark.timeout(1200)
def test_a_machine_without_power_and_one_that_goes_on():
    python = str(ROOT / ".venv/bin/python")
    command = [GUEST, *WORDS, "--", python, "-m", "tests.cluster.two_guests"]
    both = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert both.stdout is not None
    said = []
    with both.stdout as lines:
        for line in lines:
            said.append(line)
            if line == "both verbs\n":
                os.killpg(os.getpgid(second(both.pid)), signal.SIGKILL)
    assert both.wait() == 125, said
    found = {line.partition(" ")[0]: line for line in said}
    assert "acknowledged, 0 lost, 0 doubled" in found["alone"], said
    assert "node n2 is not connected any more" in found["log"]
    print(f"figure: RDMA, a machine without power: {found['alone'].removeprefix('alone ')}")

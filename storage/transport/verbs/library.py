"""pyverbs, as far as it is asked, or why it cannot be: the only import of it.

No call of it may wait: it keeps Python's lock in every call, so one that waited would stop the whole process. Descriptors are
non-blocking, and whoever wants to sleep does so on them.
"""

from __future__ import annotations

import os
from typing import Final

from storage.transport.verbs.fabric import Unusable

try:
    from pyverbs.addr import GID, AHAttr, GlobalRoute
    from pyverbs.cq import CQ, CompChannel
    from pyverbs.device import Context, get_device_list
    from pyverbs.mr import MR, DmaBufMR
    from pyverbs.pd import PD
    from pyverbs.pyverbs_error import PyverbsError, PyverbsRDMAError
    from pyverbs.qp import QP, QPAttr, QPCap, QPEx, QPInitAttr, QPInitAttrEx
    from pyverbs.wr import SGE, RecvWR, SendWR

    try:
        import pyverbs.libibverbs_enums as verbs  # newer releases
    except ImportError:
        import pyverbs.enums as verbs
except ImportError as missing:
    raise Unusable(
        f"pyverbs cannot be loaded ({missing}): scripts/setup rdma brings it (Debian: python3-pyverbs, ibverbs-providers)"
    ) from missing

__all__ = [
    "CQ",
    "FLUSHED",
    "GID",
    "MR",
    "PD",
    "QP",
    "SGE",
    "UNANSWERED",
    "AHAttr",
    "CompChannel",
    "Context",
    "DmaBufMR",
    "GlobalRoute",
    "PyverbsError",
    "PyverbsRDMAError",
    "QPAttr",
    "QPCap",
    "QPEx",
    "QPInitAttr",
    "QPInitAttrEx",
    "RecvWR",
    "SendWR",
    "event_descriptor",
    "explain",
    "get_device_list",
    "next_descriptors",
    "verbs",
]

FLUSHED: Final = verbs.IBV_WC_WR_FLUSH_ERR
UNANSWERED: Final = frozenset({None, verbs.IBV_WC_RETRY_EXC_ERR, FLUSHED})
"""Statuses that a connection ends with when packets are lost: its own, that of what was queued behind, or none in time."""


def explain(status: int | None) -> str:
    """What a failed work completion means; None: that there was none."""
    if status in (None, verbs.IBV_WC_RETRY_EXC_ERR):
        return "it does not answer on the RDMA network"
    if status in (
        verbs.IBV_WC_REM_ACCESS_ERR,
        verbs.IBV_WC_REM_INV_REQ_ERR,
        verbs.IBV_WC_REM_OP_ERR,
    ):
        return "it has taken from us the right to reach its memory"
    if status == FLUSHED:
        return "the queue pair has failed"
    return f"work completion with status {status} (ibv_poll_cq(3))"


def next_descriptors() -> tuple[int, int]:
    """The numbers that the next two files opened will have, unless another thread opens one: the lowest that are free (open(2))."""
    first, second = (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(2))
    os.close(first)
    os.close(second)
    return first, second


def event_descriptor(candidates: tuple[int, int]) -> int | None:
    """Which of them is a descriptor of events, non-blocking from now on; None: neither. Releases before 59 do not tell it."""
    for number in candidates:
        if "infinibandevent" in _target(number):
            os.set_blocking(number, False)
            return number
    return None


def _target(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""

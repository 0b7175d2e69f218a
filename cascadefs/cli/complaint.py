"""What the command line says when it cannot do as asked: one line, `<thing>: <why>; <remedy>`."""

from __future__ import annotations

__all__ = ["Complaint"]


class Complaint(Exception):
    """`main` prints it on standard error as ``cascadefs: <message>`` and ends with its exit status."""

    status = 1

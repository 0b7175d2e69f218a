"""Fixtures of the transports' tests; what they are made of is in `kinds`."""

from __future__ import annotations

import time

import pytest

from tests.storage.transport.kinds import KINDS, CertificateCache, Kind


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> CertificateCache:
    now_ns = time.time_ns()  # noqa: TID251  # TLS compares with the machine's clock
    return CertificateCache(tmp_path_factory.mktemp("certificates"), now_ns)


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.rdma] * (name == "verbs")) for name in KINDS]
)
def kind(request) -> Kind:
    """Every kind there is."""
    return KINDS[request.param](request)


@pytest.fixture(params=["plain", "tls"])
def tcp_kind(request) -> Kind:
    """The kinds that a proxy can stand in."""
    return KINDS[request.param](request)

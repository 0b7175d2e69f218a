"""Certificates of a cluster, made and checked.

Goal: what is issued says who somebody is and serves for TLS (test_tcp has that), and whatever is wrong with files is said
with the file and the remedy. Method: each thing done wrong once, on a clock of the test's own.
"""

from __future__ import annotations

import os
import stat

import pytest
from cryptography import x509

from storage.errors import Unusable
from storage.transport import Identity, IdMap, IdRange, Role
from storage.transport.certificates import Authority, Credentials
from storage.transport.identity import parse
from tests.storage.transport.kinds import NOW_NS, node

DAY_NS = 86_400 * 10**9


@pytest.fixture(scope="module")
def authority():
    return Authority.create("c1", now_ns=NOW_NS)


@pytest.fixture
def directory(authority, tmp_path):
    authority.install(authority.issue(node("n1"), now_ns=NOW_NS), tmp_path / "n1")
    return tmp_path / "n1"


def load(directory, now_ns=NOW_NS):
    return Credentials.load(directory, now_ns=now_ns)


def test_what_is_issued_loads_as_who_it_was_issued_to(authority, tmp_path):
    users = IdMap((IdRange(1000, 5000, 10),))
    for who in (
        node("n1"),
        Identity("c1", Role.MOUNT, "laptop", users, IdMap()),
        Identity("c1", Role.CLIENT, "ann", IdMap((IdRange(1000, 1000, 1),)), users),
    ):
        authority.install(authority.issue(who, now_ns=NOW_NS, days=7), tmp_path / who.name)
        credentials = load(tmp_path / who.name)
        assert credentials.identity == who
        assert credentials.expires_s == NOW_NS // 10**9 + 7 * 86_400


def test_the_identity_is_the_one_uri(authority):
    issued = authority.issue(node("n1"), now_ns=NOW_NS)
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    assert parse(uri) == node("n1")
    certificate.verify_directly_issued_by(authority.certificate)


@pytest.mark.parametrize(("role", "dialled"), [("node", True), ("mount", False), ("client", False)])
def test_only_nodes_may_be_dialled(authority, role, dialled):
    issued = authority.issue(Identity("c1", Role(role), "x"), now_ns=NOW_NS)
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (x509.ExtendedKeyUsageOID.SERVER_AUTH in usage) is dialled
    assert x509.ExtendedKeyUsageOID.CLIENT_AUTH in usage


def test_keys_are_for_their_owner(authority, directory, tmp_path):
    previous = os.umask(0)
    try:
        authority.save(tmp_path)
        authority.install(authority.issue(node("n1"), now_ns=NOW_NS), directory)  # again: replaced
    finally:
        os.umask(previous)
    for key in (tmp_path / "authority.key", directory / "identity.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert sorted(path.name for path in directory.iterdir()) == [
        "authority.crt",
        "identity.crt",
        "identity.key",
    ]
    assert load(directory).identity == node("n1")


def test_an_authority_is_saved_once_and_loads(authority, tmp_path):
    authority.save(tmp_path)
    with pytest.raises(FileExistsError):
        authority.save(tmp_path)
    again = Authority.load(tmp_path)
    assert again.cluster == "c1"
    issued = again.issue(node("n2"), now_ns=NOW_NS)
    authority.install(issued, tmp_path / "n2")
    assert load(tmp_path / "n2").identity == node("n2")


def test_what_an_authority_does_not_issue(authority):
    with pytest.raises(ValueError, match=r"cluster c2.*authority of c1"):
        authority.issue(node("n1", "c2"), now_ns=NOW_NS)
    with pytest.raises(ValueError, match="speaks for no user"):
        authority.issue(Identity("c1", Role.CLIENT, "ann", IdMap()), now_ns=NOW_NS)
    with pytest.raises(ValueError, match="letters"):
        authority.issue(node("n 1"), now_ns=NOW_NS)
    with pytest.raises(ValueError, match="letters"):
        Authority.create("c 1", now_ns=NOW_NS)


@pytest.mark.parametrize(
    ("after_ns", "why"),
    [
        (-DAY_NS, "valid from .*clock"),
        (
            825 * DAY_NS,
            "identity.crt: its certificate expired 20.* UTC: issue .*`cascadefs cluster add n1 ...`",
        ),
        (4000 * DAY_NS, "expired"),
    ],
)
def test_a_certificate_out_of_its_time(directory, after_ns, why):
    with pytest.raises(Unusable, match=why):
        load(directory, NOW_NS + after_ns)


@pytest.mark.parametrize(
    ("role", "command"), [("mount", "permit desk DIR --mount"), ("client", "permit desk DIR --uid")]
)
def test_an_expired_certificate_says_how_it_is_renewed(authority, tmp_path, role, command):
    uids = IdMap((IdRange(5, 5, 1),))
    who = Identity("c1", Role(role), "desk", uids, uids)
    authority.install(authority.issue(who, now_ns=NOW_NS), tmp_path)
    with pytest.raises(Unusable, match=f"expired .*`cascadefs cluster {command}"):
        load(tmp_path, NOW_NS + 826 * DAY_NS)


def test_an_authority_out_of_its_time(tmp_path):
    short = Authority.create("c1", now_ns=NOW_NS, days=1)
    short.install(short.issue(node("n1"), now_ns=NOW_NS), tmp_path)
    with pytest.raises(Unusable, match="authority expired"):
        load(tmp_path, NOW_NS + 2 * DAY_NS)


@pytest.mark.parametrize("name", ["authority.crt", "identity.crt", "identity.key"])
def test_files_that_are_missing_or_damaged(directory, name):
    path = directory / name
    path.write_bytes(b"-----BEGIN NOTHING-----\n")
    with pytest.raises(Unusable, match=name):
        load(directory)
    path.unlink()
    with pytest.raises(Unusable, match=rf"{name}: No such file"):
        load(directory)


def test_a_key_open_to_others(directory):
    (directory / "identity.key").chmod(0o640)
    with pytest.raises(Unusable, match=r"open to others \(mode 640\): chmod 600"):
        load(directory)


def test_files_that_do_not_belong_together(authority, directory, tmp_path):
    other = Authority.create("c1", now_ns=NOW_NS)
    other.install(other.issue(node("n1"), now_ns=NOW_NS), tmp_path / "other")
    key = (directory / "identity.key").read_bytes()
    (directory / "identity.key").write_bytes((tmp_path / "other/identity.key").read_bytes())
    with pytest.raises(Unusable, match="not the key of"):
        load(directory)
    (directory / "identity.key").write_bytes(key)
    (directory / "authority.crt").write_bytes(other.pem())
    with pytest.raises(Unusable, match="not signed by"):
        load(directory)
    other.save(tmp_path)
    (tmp_path / "authority.crt").write_bytes(authority.pem())
    with pytest.raises(Unusable, match="not the key of"):
        Authority.load(tmp_path)

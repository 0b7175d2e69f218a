"""The certificates of a cluster: an authority of its own, and what it says of each node, mount and client.

An identity is the one URI in a certificate's subject alternative name (`identity`; FORMAT, "Certificates"). No host names:
a peer is who the cluster says, wherever it runs. Keys are ECDSA on P-256, in files that only their owner reads.

The only import of ``cryptography``: making certificates, and saying what is wrong with them before they are used. The
transport itself knows only `ssl`, and checks them again there.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import ssl
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from storage.errors import Unusable
from storage.transport import identity
from storage.transport.contract import Identity, Role

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["AUTHORITY_DAYS", "CERTIFICATE_DAYS", "Authority", "Credentials", "Issued"]

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 825
"""What most verifiers bear at most; a cluster's operator may say less."""

CLOCKS_MINUTES = 10
"""Certificates are valid from so much before they are made: clocks of two machines differ."""

AUTHORITY_NAME = "authority"
"""``authority.crt`` lies beside every certificate; ``authority.key`` only where certificates are issued."""

IDENTITY_NAME = "identity"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, both PEM, with what they are listed by."""

    certificate: bytes
    key: bytes
    serial: str
    # Unix time in seconds.
    expires_s: int


class Authority:
    """What signs a cluster's certificates."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self.cluster = _common_name(certificate)
        self._key = key

    @classmethod
    def create(cls, cluster: str, *, now_ns: int, days: int = AUTHORITY_DAYS) -> Authority:
        """A new one, for a cluster of this name.

        Raises:
            ValueError: The name is none.
        """
        if not identity.NAME.fullmatch(cluster):
            raise ValueError(f"cluster {cluster!r}: use 1 to 64 letters, digits, '.', '_' and '-'")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cluster)])
        usage = _usage(authority=True)
        certificate = (
            _builder(name, name, key, now_ns, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """The one that `save` left in a directory.

        Raises:
            Unusable: A file is missing, open to others, or not what it should be; the message says which.
        """
        certificate = _load_certificate(directory / f"{AUTHORITY_NAME}.crt")
        key_path = directory / f"{AUTHORITY_NAME}.key"
        key = _load_key(key_path)
        if key.public_key() != certificate.public_key():
            raise Unusable(f"{key_path} is not the key of {AUTHORITY_NAME}.crt beside it")
        return cls(certificate, key)

    def save(self, directory: Path) -> None:
        """Write ``authority.crt`` and ``authority.key``, the key for the owner's eyes only.

        Raises:
            FileExistsError: There is one; a cluster has one authority, and it is not replaced by mistake.
        """
        _write(directory / f"{AUTHORITY_NAME}.key", _key_pem(self._key))
        _write(directory / f"{AUTHORITY_NAME}.crt", self.pem(), mode=0o644)

    def pem(self) -> bytes:
        """The certificate, which is no secret."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, who: Identity, *, now_ns: int, days: int = CERTIFICATE_DAYS) -> Issued:
        """A certificate that says who somebody is, and a new key for it.

        Raises:
            ValueError: The identity is of another cluster, has a name that is none, or a client that speaks for nobody.
        """
        if who.cluster != self.cluster:
            raise ValueError(
                f"{who} is of cluster {who.cluster}, this is the authority of {self.cluster}"
            )
        if who.role is Role.CLIENT and not who.uids.ranges:
            raise ValueError(f"{who} speaks for no user: say which")
        uri = identity.spell(who)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who.name)])
        # Only nodes are dialled: the certificate of anybody else is no use to whoever would pass for one.
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if who.role is Role.NODE:
            uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
        certificate = (
            _builder(subject, self.certificate.subject, key, now_ns, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            certificate.public_bytes(serialization.Encoding.PEM),
            _key_pem(key),
            identity.serial(certificate.serial_number),
            int(certificate.not_valid_after_utc.timestamp()),
        )

    def install(self, issued: Issued, directory: Path) -> None:
        """Lay a certificate, its key and the authority's certificate in a directory, as `Credentials.load` reads them.

        A certificate that is there already is replaced.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(directory / f"{IDENTITY_NAME}.key", issued.key, replace=True)
        _write(directory / f"{IDENTITY_NAME}.crt", issued.certificate, mode=0o644, replace=True)
        _write(directory / f"{AUTHORITY_NAME}.crt", self.pem(), mode=0o644, replace=True)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a process shows and checks others by: checked, and still on disk in its directory."""

    identity: Identity
    directory: Path
    # Unix time in seconds: when the first of the certificate and its authority's expires.
    expires_s: int

    @classmethod
    def load(cls, directory: Path, *, now_ns: int) -> Credentials:
        """Read and check what `Authority.install` left.

        Raises:
            Unusable: A file is missing, open to others, expired, of another authority ...; the message says which
                and what to do.
        """
        path = directory / f"{IDENTITY_NAME}.crt"
        certificate = _load_certificate(path)
        authority = _load_certificate(directory / f"{AUTHORITY_NAME}.crt")
        key = _load_key(directory / f"{IDENTITY_NAME}.key")
        if key.public_key() != certificate.public_key():
            raise Unusable(f"{IDENTITY_NAME}.key in {directory} is not the key of {path.name}")
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise Unusable(
                f"{path} is not signed by {AUTHORITY_NAME}.crt beside it: issue it again"
            ) from error
        who = _identity(certificate, path)
        now = datetime.datetime.fromtimestamp(now_ns // 10**9, datetime.UTC)
        for what, checked in (("certificate", certificate), ("authority", authority)):
            if now < checked.not_valid_before_utc:
                raise Unusable(
                    f"{path}: its {what} is valid from {checked.not_valid_before_utc:%F %T} UTC: is this clock right?"
                )
            if now >= checked.not_valid_after_utc:
                raise Unusable(
                    f"{path}: its {what} expired {checked.not_valid_after_utc:%F %T} UTC: issue a new one with"
                    f" {_renewal(who)} where the cluster's authority is, and bring its credentials here"
                )
        if who.cluster != _common_name(authority):
            raise Unusable(
                f"{path}: {who} is of cluster {who.cluster}, the authority beside it not"
            )
        expires = min(certificate.not_valid_after_utc, authority.not_valid_after_utc)
        who = dataclasses.replace(who, serial=identity.serial(certificate.serial_number))
        return cls(who, directory, int(expires.timestamp()))

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """TLS contexts to listen and to dial with: 1.3, both sides with a certificate of this cluster's authority.

        Raises:
            OSError: The files are gone.
        """
        listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        dialling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        dialling.check_hostname = False  # identities are no host names; `greeting` checks them
        listening.num_tickets = 0  # each connection shows its certificate anew
        for context in (listening, dialling):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.directory / f"{AUTHORITY_NAME}.crt")
            self.show(context)
        return listening, dialling

    def show(self, context: ssl.SSLContext) -> None:
        """Have connections that begin from now on show this certificate; those that are, stay as they are.

        Raises:
            OSError: The files are gone.
            ssl.SSLError: They are another certificate and key by now, which do not belong together.
        """
        context.load_cert_chain(
            self.directory / f"{IDENTITY_NAME}.crt", self.directory / f"{IDENTITY_NAME}.key"
        )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now_ns: int,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.datetime.fromtimestamp(now_ns // 10**9, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=CLOCKS_MINUTES))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _renewal(who: Identity) -> str:
    """The command that issues somebody's certificate again."""
    match who.role:
        case Role.NODE:
            return f"`cascadefs cluster add {who.name} ...`"
        case Role.MOUNT:
            return f"`cascadefs cluster permit {who.name} DIR --mount`"
        case Role.CLIENT:
            return f"`cascadefs cluster permit {who.name} DIR --uid ...`"


def _identity(certificate: x509.Certificate, path: Path) -> Identity:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return identity.parse(uri)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise Unusable(f"{path} has no cascadefs identity in it: issue it again") from error


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise Unusable(f"{path} is no certificate in PEM") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from error
    if mode & 0o077:
        raise Unusable(
            f"{path} is open to others (mode {mode:o}): chmod 600 it, and issue a new one"
        )
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise Unusable(f"{path} is no private key in PEM without a pass phrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Unusable(f"{path} is no ECDSA key: issue the certificate again")
    return key


def _write(path: Path, data: bytes, *, mode: int = 0o600, replace: bool = False) -> None:
    """Write a file whole, with its mode from the first moment on."""
    target = path.with_name(f"{path.name}.new") if replace else path
    if replace:
        target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    if replace:
        target.rename(path)

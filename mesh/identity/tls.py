"""A private authority for those who have none: certificates for the servers of this mesh, and for clients where they are asked for one.

| file below `{state_dir}/auth/tls` | what | goes to |
|---|---|---|
| `ca.pem` | the authority's certificate | every machine that connects |
| `ca.key` | its key; needed here alone, to sign | nobody |
| `server.pem`, `server.key` | for broker, WebSocket and HTTP of this machine | nobody |
| `clients/{name}.pem` | a client's certificate and its key in one file; the name is the escaped name | that client |

The keys of authority and server stay when their certificates are signed anew, so a renewal changes nothing for who trusts the authority.
All keys are EC P-256.

Source: RFC 5280; docs.nats.io, "TLS encryption".
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.clock import wall_ns
from mesh.errors import ConfigError
from mesh.identity.keyring import Keyring
from mesh.subjects import escape

DIRECTORY: Final = "tls"

DAYS: Final = 397
"""How long a certificate counts unless it is said: what browsers take at most (CA/Browser Forum, Baseline Requirements, 6.3.2)."""

AUTHORITY_DAYS: Final = 3650

DUE: Final = 1 / 3
"""The share of its lifetime that is left when `mesh up` renews a server's certificate."""

SKEW: Final = timedelta(hours=1)
"""A certificate counts from a little before now: clocks differ."""

_HOST: Final = re.compile(
    r"(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
).fullmatch


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that is there: its file, the names and addresses that it is for, and until when it counts."""

    path: Path
    names: tuple[str, ...]
    begins: datetime
    expires: datetime

    @property
    def expired(self) -> bool:
        return self.expires <= _now()

    @property
    def due(self) -> bool:
        """Whether it is time for a new one."""
        return self.expires - _now() < DUE * (self.expires - self.begins)


class Certificates:
    """The files of one state directory. Errors are ConfigError and StateDirUnusable."""

    def __init__(self, state_dir: Path) -> None:
        self.keyring = Keyring(state_dir)
        self.path = self.keyring.path / DIRECTORY

    @property
    def ca(self) -> Path:
        return self.path / "ca.pem"

    @property
    def server_key(self) -> Path:
        return self.path / "server.key"

    def server(self) -> Certificate | None:
        """The server's certificate, None where none was made."""
        return self._there("server.pem")

    def authority(self) -> Certificate | None:
        return self._there("ca.pem")

    def make_server(self, hosts: Iterable[str] = (), days: int = DAYS) -> Certificate:
        """Sign a certificate for this machine's servers, and make the authority if there is none. It is for this machine's own names and
        `hosts`; without any, for those that the one before was for."""
        asked = tuple(dict.fromkeys(hosts))
        for host in asked:
            _general_name(host)
        self._make_directories()
        with self.keyring.locked():
            old = self.server()
            names = (*_own_names(), *asked) if asked or old is None else old.names
            key = self._key("server.key").public_key()
            signed = self._sign(key, names[0], tuple(dict.fromkeys(names)), ExtendedKeyUsageOID.SERVER_AUTH, days)
            self.keyring.write(f"{DIRECTORY}/server.pem", signed)
        made = self.server()
        assert made is not None
        return made

    def make_client(self, name: str, days: int = DAYS) -> Certificate:
        """Sign a certificate for a client, with a key of its own, which shows it where a server asks for one. It says no more than that we
        know the client: who it is on the mesh, its credentials say."""
        self._make_directories()
        file = f"clients/{escape(name)}.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        with self.keyring.locked():
            signed = self._sign(key.public_key(), name, (), ExtendedKeyUsageOID.CLIENT_AUTH, days)
            self.keyring.write(f"{DIRECTORY}/{file}", signed + _pem(key))
        made = self._there(file)
        assert made is not None
        return made

    def client(self, name: str) -> Certificate:
        """A client's certificate: the one that is there, or a new one where there is none or it is due."""
        found = self._there(f"clients/{escape(name)}.pem")
        return found if found is not None and not found.due else self.make_client(name)

    def renew_server(self) -> Certificate | None:
        """The server's certificate, signed anew where it is due and was made here."""
        found = self.server()
        if found is None or not found.due or not self.keyring.has(f"{DIRECTORY}/ca.key"):
            return found
        return self.make_server(days=max(1, (found.expires - found.begins).days))

    # files and signatures

    def _make_directories(self) -> None:
        self.keyring.make()
        for each in (self.path, self.path / "clients"):
            try:
                each.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"{each} cannot be made: {error.strerror}") from None

    def _there(self, file: str) -> Certificate | None:
        text = self.keyring.read(f"{DIRECTORY}/{file}")
        if text is None:
            return None
        return _read(text, self.path / file)

    def _sign(self, key: ec.EllipticCurvePublicKey, common: str, names: tuple[str, ...], use: x509.ObjectIdentifier, days: int) -> str:
        """A certificate as PEM."""
        authority, signing = self._authority(days)
        builder = (
            _builder(common, key, days, issuer=authority.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        return builder.sign(signing, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def _authority(self, days: int) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """The authority, made where there is none. Where it would expire before what it signs, its key signs itself anew."""
        text = self.keyring.read(f"{DIRECTORY}/ca.pem")
        if text is not None and not self.keyring.has(f"{DIRECTORY}/ca.key"):
            raise ConfigError(f"{self.path / 'ca.key'} is missing: nothing can be signed here", hint="sign where the authority was made")
        key = self._key("ca.key")
        old = None if text is None else _parse(text, self.ca)
        if old is not None and old.not_valid_after_utc - _now() > timedelta(days=days):
            return old, key
        common = f"mesh private authority {x509.random_serial_number() & 0xFFFFFFFF:08x}"
        new = (
            _builder(common, key.public_key(), max(AUTHORITY_DAYS, 2 * days), issuer=None if old is None else old.subject, own=True)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.keyring.write(f"{DIRECTORY}/ca.pem", new.public_bytes(Encoding.PEM).decode())
        return new, key

    def _key(self, file: str) -> ec.EllipticCurvePrivateKey:
        """The key of a file, made where there is none."""
        text = self.keyring.read(f"{DIRECTORY}/{file}")
        if text is None:
            new = ec.generate_private_key(ec.SECP256R1())
            self.keyring.write(f"{DIRECTORY}/{file}", _pem(new))
            return new
        try:
            found = load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError):
            found = None
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{self.path / file} holds no EC key", hint="remove it, and `mesh auth tls` makes a new one")
        return found


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def certificate_at(path: Path) -> Certificate:
    """One that was made elsewhere. Raises ConfigError."""
    try:
        return _read(path.read_text(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None


def _read(text: str, path: Path) -> Certificate:
    found = _parse(text, path)
    return Certificate(path, _names_of(found), found.not_valid_before_utc, found.not_valid_after_utc)


def _builder(
    common: str, key: ec.EllipticCurvePublicKey, days: int, *, issuer: x509.Name | None, own: bool = False
) -> x509.CertificateBuilder:
    """What all certificates have. With `own` it is signed by its own key: subject and issuer are the same."""
    now = _now()
    subject = issuer if own and issuer is not None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    """`sign`: other certificates; else what a handshake needs."""
    return x509.KeyUsage(
        digital_signature=not sign, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        key_cert_sign=sign, crl_sign=sign, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _HOST(host):
            raise ConfigError(
                f"{host!r} is no name or address of a host", hint="give mesh.example.com, *.example.com or 192.0.2.7"
            ) from None
        return x509.DNSName(host)


def _own_names() -> tuple[str, ...]:
    name = socket.gethostname()
    return ("localhost", "127.0.0.1", "::1", *([name] if _HOST(name) else []))


def _parse(text: str, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(text.encode())
    except ValueError:
        raise ConfigError(f"{path} holds no certificate", hint="remove it, and `mesh auth tls` makes a new one") from None


def _names_of(found: x509.Certificate) -> tuple[str, ...]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))


def _now() -> datetime:
    return datetime.fromtimestamp(wall_ns() // 1_000_000_000, UTC)

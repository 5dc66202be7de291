"""NATS keys (nkeys): made, read from their seeds, and used to sign and to verify.

An nkey is 32 bytes of Ed25519 in base32, with a letter that says whose it is and a checksum against typing errors: `OA…` is an operator's
public key, `SO…` its seed. The seed is the secret. A curve key (`X`) is X25519 instead: it seals, and signs nothing.

Source: github.com/nats-io/nkeys, README.md, strkey.go and xkeys.go.
"""

import base64
import binascii
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import Box, PrivateKey, PublicKey
from nacl.signing import SigningKey, VerifyKey
from nacl.utils import random

from mesh.errors import ConfigError


class Kind(StrEnum):
    """Whose key it is: the first letter of a public key, the second of a seed."""

    OPERATOR = "O"
    ACCOUNT = "A"
    USER = "U"
    SERVER = "N"
    CURVE = "X"


_PREFIX: Final = {Kind.OPERATOR: 14 << 3, Kind.ACCOUNT: 0, Kind.USER: 20 << 3, Kind.SERVER: 13 << 3, Kind.CURVE: 23 << 3}
_KIND: Final = {byte: kind for kind, byte in _PREFIX.items()}
_SEED: Final = 18 << 3
_SIZE: Final = 32

SEALED: Final = b"xkv1"
"""What sealed bytes begin with; a nonce and a NaCl box follow."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One key. Its text shows the public half only."""

    kind: Kind
    public: str
    seed: str = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """64 bytes. Raises ConfigError for a curve key."""
        if self.kind is Kind.CURVE:
            raise ConfigError("a curve key seals, it cannot sign", public=self.public)
        return SigningKey(_read_seed(self.seed)[1]).sign(data).signature

    def seal(self, data: bytes, peer: str) -> bytes:
        """So that only the holder of the curve key `peer` reads it, and knows that it is ours. Raises ConfigError."""
        nonce = random(Box.NONCE_SIZE)
        return SEALED + nonce + self._box(peer).encrypt(data, nonce).ciphertext

    def open(self, sealed: bytes, peer: str) -> bytes:
        """What the holder of `peer` has sealed for us. Raises ConfigError."""
        nonce, rest = sealed[len(SEALED) :][: Box.NONCE_SIZE], sealed[len(SEALED) + Box.NONCE_SIZE :]
        try:
            if sealed.startswith(SEALED):
                return self._box(peer).decrypt(rest, nonce)
        except (CryptoError, ValueError):
            pass
        raise ConfigError("this was not sealed for us by that key", public=peer)

    def _box(self, peer: str) -> Box:
        kind, raw = _read_public(peer)
        if not self.kind is kind is Kind.CURVE:
            raise ConfigError("only curve keys seal", public=peer)
        return Box(PrivateKey(_read_seed(self.seed)[1]), PublicKey(raw))


def new_key(kind: Kind) -> KeyPair:
    """A key of 32 bytes from the system's source of randomness."""
    return _pair(kind, random(_SIZE))


def read_seed(seed: str) -> KeyPair:
    """The key of a seed. Raises ConfigError, which does not repeat what was read: it may be most of a secret."""
    return _pair(*_read_seed(seed.strip()))


def kind_of(public: str) -> Kind:
    """Whose public key this is. Raises ConfigError for a text that is none."""
    return _read_public(public)[0]


def verify(public: str, data: bytes, signature: bytes) -> bool:
    """Whether the holder of `public` signed `data`. Raises ConfigError where `public` is no key that signs."""
    kind, raw = _read_public(public)
    if kind is Kind.CURVE:
        raise ConfigError("a curve key signs nothing", public=public)
    try:
        VerifyKey(raw).verify(data, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def _pair(kind: Kind, raw: bytes) -> KeyPair:
    half = bytes(PrivateKey(raw).public_key) if kind is Kind.CURVE else bytes(SigningKey(raw).verify_key)
    prefix = _PREFIX[kind]
    seed = bytes([_SEED | prefix >> 5, (prefix & 31) << 3]) + raw
    return KeyPair(kind, _encode(bytes([prefix]) + half), _encode(seed))


def _read_seed(seed: str) -> tuple[Kind, bytes]:
    body = _decode(seed)
    if body is None or len(body) != _SIZE + 2 or body[0] & 0xF8 != _SEED:
        raise ConfigError("this is no seed of a NATS key", hint="A seed begins with SO, SA or SU and has 58 characters.")
    kind = _KIND.get((body[0] & 7) << 5 | body[1] >> 3)
    if kind is None:
        raise ConfigError("this seed is of a kind of key that the mesh does not use")
    return kind, body[2:]


def _read_public(public: str) -> tuple[Kind, bytes]:
    body = _decode(public)
    kind = _KIND.get(body[0]) if body is not None and len(body) == _SIZE + 1 else None
    if body is None or kind is None:
        raise ConfigError("this is no public NATS key", hint="It begins with O, A, U, N or X and has 56 characters.")
    return kind, body[1:]


def _encode(body: bytes) -> str:
    checksum = binascii.crc_hqx(body, 0).to_bytes(2, "little")
    return base64.b32encode(body + checksum).rstrip(b"=").decode()


def _decode(text: str) -> bytes | None:
    """The bytes without their checksum, or None where the text is not in this form or the checksum is wrong."""
    try:
        body = base64.b32decode(text + "=" * (-len(text) % 8))
    except (ValueError, binascii.Error):
        return None
    if len(body) < 3 or _encode(body[:-2]) != text:
        return None
    return body[:-2]

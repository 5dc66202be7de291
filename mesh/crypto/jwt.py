"""The signed claims of operators, accounts and users, as nats-server reads them.

They are JSON Web Tokens with an algorithm of their own, `ed25519-nkey`: issuer and subject are public nkeys, and the issuer's key verifies.
An operator signs accounts, an account's signing key signs users. With a *scoped* signing key the user's own claims hold no permission: the
scope's template, which stands in the account's claims, counts. So a user's token stays below a kilobyte, whatever its rights.

Times are seconds since 1970 and come from the caller. Source: github.com/nats-io/jwt, v2; docs.nats.io, "JWT-based authentication".
"""

import base64
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from jwt.algorithms import Algorithm

from mesh.crypto import keys
from mesh.crypto.keys import KeyPair, Kind
from mesh.errors import ConfigError

ALGORITHM: Final = "ed25519-nkey"
VERSION: Final = 2

UNLIMITED: Final = -1
"""The server takes 0 for "none at all"."""

UNBOUND: Final = {"subs": UNLIMITED, "data": UNLIMITED, "payload": UNLIMITED}
_ACCOUNT_LIMITS: Final = {**UNBOUND, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
_JETSTREAM_LIMITS: Final = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}

SCOPE_MARK: Final = "made by the mesh, which writes it anew"
"""The description of our scopes, by which they are known among those that somebody else gave the account."""

REQUEST: Final = "authorization_request"
"""A server asks a service whether to admit somebody."""

ISSUERS: Final = {
    "operator": {Kind.OPERATOR}, "account": {Kind.OPERATOR, Kind.ACCOUNT}, "user": {Kind.ACCOUNT}, REQUEST: {Kind.SERVER},
}  # fmt: skip
"""Whose keys may sign what. An account that signs itself is one that an operator is asked to sign (`nsc import account`)."""


class NkeyAlgorithm(Algorithm):
    """Ed25519 with nkeys. The key to sign is a KeyPair, the key to verify a public nkey."""

    def prepare_key(self, key: Any) -> Any:
        return key

    def sign(self, msg: bytes, key: KeyPair) -> bytes:
        return key.sign(msg)

    def verify(self, msg: bytes, key: str, sig: bytes) -> bool:
        return keys.verify(key, msg, sig)

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        raise NotImplementedError

    @staticmethod
    def from_jwk(jwk: Any) -> Any:
        raise NotImplementedError


_jws: Final = jwt.PyJWS(algorithms=[])
_jws.register_algorithm(ALGORITHM, NkeyAlgorithm())


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says. `nats` is the part that is NATS's own; its `type` is operator, account or user."""

    issuer: str
    subject: str
    name: str
    issued: int
    expires: int | None
    nats: Mapping[str, Any]

    @property
    def type(self) -> str:
        return str(self.nats.get("type", ""))


@dataclass(frozen=True, slots=True)
class Scope:
    """A scoped signing key: who signs with `key` gives exactly this. The subjects may hold `{{name()}}` and `{{tag(role)}}`."""

    key: str
    name: str
    publish: Sequence[str]
    subscribe: Sequence[str]

    def as_claim(self) -> dict[str, Any]:
        template = {"pub": _rules(self.publish), "sub": _rules(self.subscribe), **UNBOUND}
        return {"kind": "user_scope", "key": self.key, "role": self.name, "template": template, "description": SCOPE_MARK}


@dataclass(frozen=True, slots=True)
class Account:
    """What an account's claims say. `revocations`: of a user's public key the second up to which its tokens are void, that one included."""

    public: str
    name: str
    scopes: Sequence[Scope] = ()
    revocations: Mapping[str, int] = field(default_factory=dict)
    imports: Sequence[Mapping[str, Any]] = ()
    exports: Sequence[Mapping[str, Any]] = ()
    jetstream: bool = True
    base: Mapping[str, Any] = field(default_factory=dict)
    """Claims of an account that was made elsewhere. What they say beside the mesh's own stays."""


def sign_operator(signer: KeyPair, name: str, *, system_account: str, signing_keys: Sequence[str], issued: int) -> str:
    """An operator's claims about itself: which keys sign for it, and which account hears what the servers say of themselves."""
    nats = {"type": "operator", "version": VERSION, "signing_keys": list(signing_keys), "system_account": system_account}
    return sign(signer, signer.public, name, nats, issued=issued)


def sign_account(signer: KeyPair, account: Account, *, issued: int) -> str:
    return sign(signer, account.public, account.name, account_claims(account), issued=issued)


def account_claims(account: Account) -> dict[str, Any]:
    """The part of an account's claims that is NATS's own."""
    others = [each for each in account.base.get("signing_keys") or () if not _is_ours(each)]
    wanted = {each.get("subject") for each in account.imports}
    imports = [each for each in account.base.get("imports") or () if each.get("subject") not in wanted]
    return {
        "limits": {**_ACCOUNT_LIMITS, **(_JETSTREAM_LIMITS if account.jetstream else {})},
        "default_permissions": {"pub": {}, "sub": {}},
        **account.base,
        "signing_keys": [*others, *(scope.as_claim() for scope in account.scopes)],
        "revocations": {**(account.base.get("revocations") or {}), **account.revocations},
        "imports": [*imports, *map(dict, account.imports)],
        "exports": [*(account.base.get("exports") or ()), *map(dict, account.exports)],
        "type": "account",
        "version": VERSION,
    }


def lacks(claims: Mapping[str, Any], account: Account) -> bool:
    """Whether an account's claims, which somebody else signed, lack something that the mesh needs of it now."""
    found = {each["key"]: each.get("template") or {} for each in claims.get("signing_keys") or () if isinstance(each, dict)}
    voided = claims.get("revocations") or {}
    return (
        any(scope.key not in found or not _same_rules(found[scope.key], scope.as_claim()["template"]) for scope in account.scopes)
        or any(voided.get(public, 0) < at for public, at in account.revocations.items())
        or not {each["subject"] for each in account.imports} <= {each.get("subject") for each in claims.get("imports") or ()}
    )


def _same_rules(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(
        set(one.get(side, {}).get(word) or ()) == set(other.get(side, {}).get(word) or ())
        for side in ("pub", "sub")
        for word in ("allow", "deny")
    )


def _is_ours(signing_key: Any) -> bool:
    return isinstance(signing_key, dict) and signing_key.get("description") == SCOPE_MARK


def sign_user(
    signer: KeyPair, public: str, name: str, *, account: str = "", tags: Sequence[str] = (), issued: int, expires: int | None = None
) -> str:
    """A user's claims. With `account` (its public key) `signer` is a scoped signing key, and the scope's template counts; without, `signer`
    is the account's own key, and the user may do everything in it."""
    nats: dict[str, Any] = {"pub": {}, "sub": {}, **({} if account else UNBOUND), "type": "user", "version": VERSION}
    if account:
        nats["issuer_account"] = account
    if tags:
        nats["tags"] = list(tags)
    return sign(signer, public, name, nats, issued=issued, expires=expires)


def read(token: str, kind: str, *, issuers: Collection[str] | None = None, now: int | None = None) -> Claims:
    """The claims of a token whose signature holds. Raises ConfigError, which does not repeat the token.

    `kind` is operator, account or user. `issuers` are the public keys that may have signed; None takes the word of the token for it, which
    is right only where the file itself is trusted. With `now` a token that has expired is refused.
    """
    try:
        claims = json.loads(_jws.decode(token, key=_said_issuer(token), algorithms=[ALGORITHM]))
        nats, issuer = claims["nats"], claims["iss"]
        expires = None if claims.get("exp") is None else int(claims["exp"])
        found = Claims(issuer, str(claims["sub"]), str(claims.get("name", "")), int(claims["iat"]), expires, nats)
        fits = nats["type"] == kind and keys.kind_of(issuer) in ISSUERS[kind]
    except (jwt.InvalidTokenError, ConfigError, ValueError, ArithmeticError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"this is no {kind} JWT of NATS, or its signature is wrong") from None
    if not fits:
        raise ConfigError(f"this is a JWT of NATS, but not one of {'an' if kind[0] in 'ao' else 'a'} {kind}")
    if issuers is not None and issuer not in issuers:
        raise ConfigError(f"the {kind} JWT of {found.name} is signed by a key that is not trusted here", issuer=issuer)
    if now is not None and found.expires is not None and found.expires <= now:
        raise ConfigError(f"the {kind} JWT of {found.name} has expired", expires=found.expires)
    return found


def _said_issuer(token: str) -> str:
    payload = token.split(".")[1:2]
    if not payload:
        raise ValueError("no token")
    issuer = json.loads(base64.urlsafe_b64decode(payload[0] + "=" * (-len(payload[0]) % 4)))["iss"]
    if not isinstance(issuer, str):
        raise ValueError("an issuer is a text")
    return issuer


def sign(
    signer: KeyPair,
    subject: str,
    name: str,
    nats: Mapping[str, Any],
    *,
    issued: int,
    expires: int | None = None,
    audience: str | None = None,
) -> str:
    """Any claims of NATS, signed."""
    claims: dict[str, Any] = {"iat": issued, "iss": signer.public, "name": name, "sub": subject, "nats": nats}
    if expires is not None:
        claims["exp"] = expires
    if audience is not None:
        claims["aud"] = audience
    # The token's id is a digest of the rest, so the same claims have the same id.
    digest = hashlib.new("sha512_256", _compact(claims)).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    return _jws.encode(_compact(claims), signer, algorithm=ALGORITHM)  # type: ignore[arg-type]  # the algorithm's own kind of key


def _rules(subjects: Sequence[str]) -> dict[str, Any]:
    """An empty list of allowed subjects would allow all of them."""
    return {"allow": list(subjects)} if subjects else {"deny": [">"]}


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

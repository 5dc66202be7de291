"""Guests of an outside identity provider at the broker: whose tokens are believed, and the account in which they are asked for.

The broker asks a service about everybody who connects into an account that wants it so (NATS: auth callout). That must not be our own
account: then nobody would be admitted while no service runs. So there is one more, `GUESTS`, that nobody ever gets into. Whoever brings
`guests.creds`, which is no secret, and a token of the provider is asked about there, and placed in our account, or refused.

Files beside those of the keyring: `guests.json` (what is believed), `guests.seed`, `guests-sealing.seed`, `guests.creds`, and
`guests-service.creds` (of the service itself).

Source: docs.nats.io, "Auth callout"; NATS ADR-26.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from mesh import clock
from mesh.crypto import jwt
from mesh.crypto.creds import format_credentials
from mesh.crypto.keys import Kind, new_key
from mesh.errors import ConfigError
from mesh.identity.authority import Authority
from mesh.identity.issuers import Issuer

ACCOUNT: Final = "GUESTS"
SETTINGS: Final = "guests.json"
SEED: Final = "guests.seed"
SEALING: Final = "guests-sealing.seed"
GUESTS: Final = "guests.creds"
SERVICE: Final = "guests-service.creds"

_DENIED: Final = {"deny": [">"]}


@dataclass(frozen=True, slots=True)
class Outside:
    """Whose tokens are believed. `roles` are what those get who are no participants yet; without them such are refused."""

    issuer: Issuer
    roles: tuple[str, ...] = ()


def enable(authority: Authority, outside: Outside) -> str:
    """Believe this provider from now on. The result is what a broker should know of the account. Raises ConfigError."""
    if not outside.issuer.audience:
        raise ConfigError("whom must the tokens be for?", hint="--audience NAME, as the provider writes it into `aud`")
    keyring = authority.keyring
    with keyring.locked():
        authority.trust.signing_key()  # says where it is, and what to do
        if outside.roles:
            authority.scopes.checked(authority.ledger.load(), "guest", outside.roles)
        account, sealing = keyring.key_or_new(SEED, Kind.ACCOUNT), keyring.key_or_new(SEALING, Kind.CURVE)
        service = new_key(Kind.USER)
        keyring.write(
            SERVICE, format_credentials(jwt.sign_user(account, service.public, "mesh-guests", issued=clock.wall_s()), service.seed)
        )
        anybody = new_key(Kind.USER)
        # Of this token the broker takes the limits, also for who is admitted.
        nobody_s = {"pub": _DENIED, "sub": _DENIED, **jwt.UNBOUND, "type": "user", "version": jwt.VERSION}
        keyring.write(GUESTS, format_credentials(jwt.sign(account, anybody.public, "guest", nobody_s, issued=clock.wall_s()), anybody.seed))
        keyring.write(SETTINGS, _dump(outside))
        asks = {"auth_users": [service.public], "allowed_accounts": [authority.account_public()], "xkey": sealing.public}
        return _sign(authority, {"authorization": asks})


def disable(authority: Authority) -> str | None:
    """Believe nobody any more. What a broker should know then; None where nobody was believed."""
    keyring = authority.keyring
    with keyring.locked():
        if not keyring.has(SETTINGS):
            return None
        for name in (SETTINGS, GUESTS, SERVICE):
            keyring.remove(name)
        return _sign(authority, {"revocations": {"*": clock.wall_s()}})


def believed(authority: Authority) -> Outside:
    """Raises ConfigError where nobody is."""
    text = authority.keyring.read(SETTINGS)
    if text is None:
        raise ConfigError(
            "no outside identity provider is believed here",
            hint="`mesh auth callout enable --issuer URL --jwks URL --audience NAME` names one",
        )
    try:
        said = json.loads(text)
        issuer = Issuer(
            str(said["issuer"]), str(said["keys"]), tuple(map(str, said["algorithms"])), str(said["claim"]), str(said["audience"])
        )
        return Outside(issuer, tuple(map(str, said["roles"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{SETTINGS} is damaged: {error!r}", hint="`mesh auth callout enable` writes it anew") from None


def keep(authority: Authority, token: str) -> None:
    """For a broker of this machine that does not run: it reads the account when it starts."""
    authority.keyring.write(f"accounts/{jwt.read(token, 'account').subject}.jwt", token)


def _sign(authority: Authority, base: dict[str, Any]) -> str:
    key = authority.keyring.key_or_new(SEED, Kind.ACCOUNT)
    account = jwt.Account(key.public, ACCOUNT, jetstream=False, base=base)
    return jwt.sign_account(authority.trust.signing_key(), account, issued=clock.wall_s())


def _dump(outside: Outside) -> str:
    issuer = outside.issuer
    said = {
        "issuer": issuer.name, "keys": issuer.keys, "algorithms": issuer.algorithms, "claim": issuer.claim,
        "audience": issuer.audience, "roles": outside.roles,
    }  # fmt: skip
    return json.dumps(said, indent=1) + "\n"

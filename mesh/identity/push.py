"""Tell a running broker what the account says now. It counts at once, for who is connected too, and in every server of a cluster.

Who has a void token is cut off, and so is who has a token of a scope whose template changed; a client that comes back with what its file
says then has the new rights.

A broker takes what it is told last, were it older than what it knows. So who tells it looks afterwards whether somebody has changed the
account meanwhile, and then tells that: of two that push side by side the last one to look has told the newest.
A push that did not come to its end leaves the file `untold` behind, and the next one makes it good (`mesh.identity.keeper`).
Source: docs.nats.io, "NATS based resolver"; nats-server, accounts.go (`DirAccResolver`).
"""

import json
from pathlib import Path
from typing import Final

from mesh.crypto import jwt
from mesh.errors import BrokerError, BrokerUnsuitable, CallTimeout, ConfigError, NoResponders, NotAdmitted
from mesh.identity.authority import Authority
from mesh.identity.trust import SYSTEM_USER
from mesh.link.address import without_userinfo
from mesh.link.connection import Connection
from mesh.link.tls import ClientTls

UPDATE: Final = "$SYS.REQ.CLAIMS.UPDATE"
UNTOLD: Final = "untold"
"""The file that is there from the beginning of a push until the broker has the newest claims."""

STATUS: Final = "$SYS.REQ.SERVER.PING.VARZ"

ANSWER_SECONDS: Final = 5.0


async def push(authority: Authority, broker_url: str, tls: ClientTls | None = None) -> None:
    """Raises BrokerUnavailable, BrokerUnsuitable where the broker keeps no accounts that can be told, BrokerError where it refuses."""
    credentials = _system(authority)
    token = _begin(authority)
    async with await _connect(authority, credentials, broker_url, tls) as connection:
        while True:
            await _tell(connection, token)
            newest = _begin(authority, told=token)
            if newest == token:
                return
            token = newest


async def push_other(authority: Authority, token: str, broker_url: str, tls: ClientTls | None = None) -> None:
    """Tell it the claims of another account of ours. As `push`."""
    async with await _connect(authority, _system(authority), broker_url, tls) as connection:
        await _tell(connection, token)


def untold(authority: Authority) -> bool:
    """Whether a broker was to be told something, and it is not known that it was."""
    return authority.keyring.has(UNTOLD)


def _system(authority: Authority) -> Path:
    credentials = authority.keyring.secret("system.creds")
    if credentials is None:
        raise ConfigError(
            "there are no credentials of the system account, so no running broker can be told",
            hint="`mesh auth init --system-creds FILE`, or load what `mesh auth export --account-template` prints with your own tools.",
        )
    return credentials


async def _connect(authority: Authority, credentials: Path, broker_url: str, tls: ClientTls | None) -> Connection:
    try:
        return await Connection.open(broker_url, name=SYSTEM_USER, user_credentials=credentials, tls=tls)
    except NotAdmitted:
        raise NotAdmitted(
            f"the broker at {without_userinfo(broker_url)} trusts another operator than the one in {authority.keyring.path}",
            hint="Name the state directory of its mesh, or another broker.",
        ) from None


def _begin(authority: Authority, told: str | None = None) -> str:
    """What the broker is to be told now. Where it was `told` just that, nothing is left to do, and that is noted."""
    with authority.keyring.locked():
        token = authority.ledger.account_jwt()
        if token == told:
            authority.keyring.remove(UNTOLD)
        elif not untold(authority):
            authority.keyring.write(UNTOLD, "")
        return token


async def _tell(connection: Connection, token: str) -> None:
    try:
        status = await connection.request(STATUS, b"", timeout=ANSWER_SECONDS)
        if jwt.read(token, "account").issuer not in _trusted(status.body):
            raise BrokerError(
                "the account is signed by a key that the running broker does not trust, so it was not sent",
                hint="A broker reads the operator's JWT when it starts: start it anew. `mesh auth export --server-config` prints it.",
            )
        answer = await connection.request(UPDATE, token.encode(), timeout=ANSWER_SECONDS)
    except (NoResponders, CallTimeout):
        raise BrokerUnsuitable(
            "the broker takes no accounts while it runs", hint="It needs `resolver { type: full }`: `mesh auth export --server-config`."
        ) from None
    refusal = _refusal(answer.body)
    if refusal is not None:
        raise BrokerError(f"the broker refuses the account: {refusal}", hint="Its log says more.")


def _trusted(status: bytes) -> set[str]:
    """Whose signature on accounts a server takes. It would store any account, and with a wrong one admit nobody."""
    try:
        tokens = json.loads(status)["data"].get("trusted_operators_jwt") or ()
        operators = [jwt.read(token, "operator") for token in tokens]
    except (ValueError, KeyError, AttributeError, TypeError, ConfigError):
        return set()
    return {key for operator in operators for key in (operator.subject, *(operator.nats.get("signing_keys") or ()))}


def _refusal(body: bytes) -> str | None:
    """Why the broker did not take it, None where it did."""
    try:
        said = json.loads(body)
        if said.get("data", {}).get("code") == 200:
            return None
        return str(said["error"]["description"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"it answered {body[:100]!r}"

"""What the broker of this machine is told at its start: where the operator's claims are, and what it should know of the accounts."""

from mesh.crypto import jwt
from mesh.identity.authority import Authority
from mesh.identity.push import UNTOLD


def server_trust(authority: Authority) -> dict[str, str]:
    """The variables of nats-server.conf. The broker's own copy of an account is replaced by a newer one: a policy may have changed while
    it did not run."""
    keyring = authority.keyring
    for token in (authority.account_jwt(), authority.trust.system_jwt()):
        if token is None:
            continue  # an adopted operator's: it is with the broker, or comes with the operator's own configuration
        claims = jwt.read(token.strip(), "account")
        name = f"accounts/{claims.subject}.jwt"
        there = keyring.read(name)
        if there is None or jwt.read(there.strip(), "account").issued < claims.issued:
            keyring.write(name, token.strip())
    keyring.remove(UNTOLD)
    return {"MESH_OPERATOR": str(keyring.path / "operator.jwt"), "MESH_ACCOUNTS": str(keyring.path / "accounts")}

"""What an authority says of somebody, read back from its files."""

from mesh.crypto import jwt
from mesh.crypto.creds import read_credentials
from mesh.identity.authority import Authority


def account(authority: Authority) -> jwt.Claims:
    return jwt.read(authority.account_jwt(), "account")


def token(authority: Authority, name: str) -> jwt.Claims:
    path = authority.credentials(name)
    assert path is not None
    return jwt.read(read_credentials(path).jwt, "user")


def void(authority: Authority, claims: jwt.Claims) -> bool:
    """As the server decides it."""
    at = account(authority).nats["revocations"].get(claims.subject)
    return at is not None and at >= claims.issued

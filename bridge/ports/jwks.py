"""The keys of an identity provider, fetched. What they are good for is decided in `mesh.identity.issuers`.

Nothing is taken on trust: only https, no redirects, no proxies of the environment, so much and no more, within so many seconds.
"""

import asyncio
from typing import Final

import httpx2

from mesh.errors import MeshError
from mesh.identity.issuers import LARGEST_SET

SECONDS: Final = 10.0


class KeysUnavailable(MeshError):
    """The keys of an issuer could not be fetched."""

    code = "keys_unavailable"
    retryable = True


async def fetch_keys(url: str) -> bytes:
    """The body behind an https URL. Raises KeysUnavailable."""
    try:
        async with (
            asyncio.timeout(SECONDS),
            httpx2.AsyncClient(trust_env=False, follow_redirects=False, headers={"Accept-Encoding": "identity"}) as client,
            client.stream("GET", url, headers={"Accept": "application/jwk-set+json, application/json"}) as response,
        ):
            if response.status_code != 200:
                raise KeysUnavailable(f"the keys at {url} could not be fetched: status {response.status_code}")
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > LARGEST_SET:
                    raise KeysUnavailable(f"the keys at {url} are more than {LARGEST_SET} bytes")
            return body
    except (httpx2.HTTPError, OSError) as problem:  # TimeoutError is one
        raise KeysUnavailable(f"the keys at {url} could not be fetched: {type(problem).__name__}") from None

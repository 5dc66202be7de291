"""The keys of an identity provider, fetched over https: no redirects, no proxies of the environment, so much and no more."""

import asyncio
import http.client
from typing import Final
from urllib.parse import urlsplit

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
        async with asyncio.timeout(2 * SECONDS):
            return await asyncio.to_thread(_get, url)
    except TimeoutError:
        raise KeysUnavailable(f"the keys at {url} did not come within {2 * SECONDS:g} s") from None


def _get(url: str) -> bytes:
    said = urlsplit(url)
    connection = http.client.HTTPSConnection(said.netloc.rpartition("@")[2], timeout=SECONDS)
    try:
        connection.request("GET", (said.path or "/") + (f"?{said.query}" if said.query else ""), headers={"Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read(LARGEST_SET + 1)
    except (OSError, ValueError, http.client.HTTPException) as problem:
        raise KeysUnavailable(f"the keys at {url} could not be fetched: {problem}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise KeysUnavailable(f"the keys at {url} could not be fetched: status {answer.status}")
    if len(body) > LARGEST_SET or answer.length:  # http.client says nothing of a body that ends early
        raise KeysUnavailable(f"the keys at {url} are more than {LARGEST_SET} bytes, or were cut off")
    return body

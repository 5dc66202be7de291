"""A provider's keys over https: what comes is taken whole or not at all, from whom the certificate names, and from no one else."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.identity import fetching
from mesh.identity.fetching import KeysUnavailable, fetch_keys
from mesh.identity.issuers import LARGEST_SET
from mesh.identity.tls import Certificates

OK = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b"
ANSWERS = {
    b"/keys?v=1": OK % (11, b'{"keys":[]}'),
    b"/largest": OK % (LARGEST_SET, b"x" * LARGEST_SET),
    b"/larger": OK % (LARGEST_SET + 1, b"x" * (LARGEST_SET + 1)),
    b"/moved": b"HTTP/1.1 302 Found\r\nlocation: /keys?v=1\r\ncontent-length: 0\r\n\r\n",
    b"/cut": b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf",
    b"/nonsense": b"hello\r\n\r\n",
}


@pytest.fixture
async def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Its address. What it is not asked for properly it never answers."""
    there = Certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(there.make_server().path, there.server_key)
    monkeypatch.setenv("SSL_CERT_FILE", str(there.ca))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = ANSWERS.get((await reader.readuntil(b"\r\n\r\n")).split()[1])
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_keys_are_fetched(provider: str) -> None:
    assert await fetch_keys(f"{provider}/keys?v=1") == b'{"keys":[]}'
    assert len(await fetch_keys(f"{provider}/largest")) == LARGEST_SET


@pytest.mark.parametrize("path", ["/larger", "/moved", "/cut", "/nonsense", "/silent"])
async def test_anything_else_is_an_error(provider: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SECONDS", 0.5)
    with pytest.raises(KeysUnavailable) as caught:
        await fetch_keys(provider + path)
    assert caught.value.retryable


async def test_a_certificate_that_nobody_trusts_is_an_error(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(KeysUnavailable, match="certificate"):
        await fetch_keys(f"{provider}/keys?v=1")

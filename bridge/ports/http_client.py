"""One MCP server over HTTP: a client, its bounded pool of connections, and what all ways to the server share.

What is not done, and why. Redirects are not followed: they would carry a body and credentials to a place that nobody named. The
environment's proxies, netrc and certificate files are not used (`trust_env`): where a bridge sends its calls is for its configuration to
say, and a private authority comes in as `tls`. Cookies are not kept: one client serves the sessions of many callers. Compression is not
asked for: a few bytes of it can become gigabytes.
"""

import asyncio
import contextlib
import http.cookiejar
import logging
import socket
import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import httpx2

from bridge.ports import http_errors as errors
from bridge.ports.http_headers import ParamHeaders
from bridge.ports.http_wire import Body
from mesh.errors import Busy, ConfigError

MOST_REQUESTS: Final = 256
"""Requests that run at one server at once, over all its ports. One more is refused as busy."""

MOST_STREAMS: Final = 192
"""Sessions that hold a stream open. One more hears nothing outside of its calls, which is logged."""

MOST_CONNECTIONS: Final = MOST_REQUESTS + MOST_STREAMS + 64
"""The last are for notices, and for streams that are just ending."""

MOST_BYTES: Final = 256 * 1024 * 1024
"""Bytes of messages on their way to one server. Over it, a message is refused as busy."""

CONNECT_SECONDS: Final = 10.0
TIMEOUT: Final = httpx2.Timeout(connect=CONNECT_SECONDS, write=30.0, pool=10.0, read=None)
"""Seconds. An answer may take as long as the exchange's deadline, which is kept above; each piece that is written may not."""

IDLE: Final = 4.0
"""Seconds that an idle connection is kept: less than the 5 of uvicorn and Node, which would close it just when it is used again."""

CLOSE_SECONDS: Final = 2.0

OWN_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "last-event-id", "mcp-method", "mcp-name"}
    | {"mcp-protocol-version", "mcp-session-id", "transfer-encoding"}
)
"""What a request says in these is the port's to decide."""

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs each request with its whole URL, which may hold secrets


class HttpClient:
    """The way to one URL. `requests`, `streams` and `bytes` are what is in flight now."""

    def __init__(self, name: str, url: str, headers: Mapping[str, str] | None, tls: ssl.SSLContext | None) -> None:
        try:
            self._url = httpx2.URL(url)
        except httpx2.InvalidURL:  # which quotes it, and it may hold a password
            raise ConfigError(
                f"{name}: this is no URL", hint="what stands in a URL for itself is written with %, in a password too"
            ) from None
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise ConfigError(f"{name}: an MCP server's URL begins with http:// or https:// and a host")
        if self._url.port is not None and not 0 < self._url.port < 65536:
            raise ConfigError(f"{name}: {self._url.port} is no port")
        if taken := sorted(OWN_HEADERS & {key.lower() for key in headers or {}}):
            raise ConfigError(f"{name}: the header {taken[0]} is not free to set: the port sets it")
        self.name = name
        self._port = self._url.port or (443 if self._url.scheme == "https" else 80)
        self.where = f"{self._url.host}:{self._port}"
        """For messages. The whole URL may hold secrets."""
        self.params = ParamHeaders()
        self.requests = 0
        self.streams = 0
        self.bytes = 0
        keepalive = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):  # a peer that vanished is found within a minute
                keepalive.append((socket.IPPROTO_TCP, getattr(socket, option), value))
        self._client = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(
                verify=True if tls is None else tls,
                trust_env=False,
                limits=httpx2.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=64, keepalive_expiry=IDLE),
                socket_options=keepalive,
            ),
            headers={"User-Agent": "mesh-bridge", **(headers or {}), "Accept-Encoding": "identity"},
            cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=False,
            timeout=TIMEOUT,
        )

    @property
    def url(self) -> httpx2.URL:
        return self._url

    def stream(
        self, method: str, headers: Mapping[str, str], body: Body | None = None, *, url: httpx2.URL | None = None
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        """One HTTP request. Raises httpx2.HTTPError; the response is read, or its connection closed, when the block ends. `url`: another
        one of the same server."""
        return self._client.stream(method, url or self._url, headers=dict(headers), content=body)

    async def reach(self) -> None:
        """Raises ServerUnreachable where nothing listens. Whether it is an MCP server, its first answer tells."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(self._url.host, self._port)
        except OSError as problem:  # TimeoutError is one
            raise errors.unreachable(self.name, self.where, problem.strerror or str(problem) or "no answer") from None
        writer.transport.abort()

    def take(self, size: int) -> None:
        """Room for a message on its way. Raises Busy."""
        if self.bytes + size > MOST_BYTES:
            raise Busy(f"{self.name}: too much waits for the server to take it", retry_after=1.0)
        self.bytes += size

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.aclose()

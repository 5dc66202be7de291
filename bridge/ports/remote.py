"""The server behind a URL, by the transport that it speaks. What another transport needs is not imported."""

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bridge.ports.http import HttpServer
    from bridge.ports.sse_port import SseServer
    from bridge.ports.ws import WebSocketServer


def remote(
    name: str,
    url: str,
    transport: Literal["http", "sse", "ws"],
    headers: Mapping[str, str] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
) -> "HttpServer | SseServer | WebSocketServer":
    """To be entered; `.port` is a `PortFactory`. `tls` says whom to trust, where it is not whom this machine trusts. Raises ConfigError for
    a URL or a header that cannot be used."""
    if transport == "ws":
        from bridge.ports.ws import WebSocketServer

        return WebSocketServer(name, url, headers, tls=tls)
    if transport == "sse":
        from bridge.ports.sse_port import SseServer

        return SseServer(name, url, headers, tls=tls)
    from bridge.ports.http import HttpServer

    return HttpServer(name, url, headers, tls=tls)

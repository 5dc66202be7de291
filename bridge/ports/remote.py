"""The server behind a URL, by the transport that it speaks. What another transport needs is not imported."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bridge.ports.http import HttpServer
    from bridge.ports.sse_port import SseServer
    from bridge.ports.ws import WebSocketServer


def remote(
    name: str, url: str, transport: Literal["http", "sse", "ws"], headers: Mapping[str, str] | None = None
) -> "HttpServer | SseServer | WebSocketServer":
    """To be entered; `.port` is a `PortFactory`. Raises ConfigError for a URL or a header that cannot be used."""
    if transport == "ws":
        from bridge.ports.ws import WebSocketServer

        return WebSocketServer(name, url, headers)
    if transport == "sse":
        from bridge.ports.sse_port import SseServer

        return SseServer(name, url, headers)
    from bridge.ports.http import HttpServer

    return HttpServer(name, url, headers)

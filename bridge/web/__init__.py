"""The host side over HTTP and WebSocket: `/agents/{name}/mcp`, `/agents/{name}/ws`, `/health`, `/ready`.

What comes in goes on as it is, bytes for bytes; only what HTTP itself needs is read. `server` is the only importer of a web server.
"""

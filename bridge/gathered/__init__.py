"""All agents as one MCP server: `gather` is what a host talks to, `roster` the live catalogue behind it.

Pure: `names` and `uris` (what things are called in the whole), `catalog` (who offers what, in pages), `find` (search), `routing` (whose
is this?), `answers`. Live: `desk` (what needs nobody else), `agent_link` (one host's way to one agent), `said` (what a host has said to
all), `backward` (what agents ask of the host), `listening` (subscriptions), `own` (what the mesh itself offers).
"""

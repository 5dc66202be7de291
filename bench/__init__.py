"""What the mesh costs, as ratios: it against doing without it, measured side by side in one run. `scripts/bench` runs it.

| module | what |
|---|---|
| rows.py | the figures: what each compares, and what is wanted |
| mesh_rows.py, mcp_rows.py, identity_rows.py | how each is measured |
| queue_rows.py, queues.py | the same for durable messages, and who sends and receives them |
| compare.py | two sides in turn, as a ratio |
| peers.py | what others have written, installed on demand |
| table.py | what a row is and what a measurement says; the table and the JSON |
| stage.py | a broker with its control plane, and the processes that take part |
| participant.py | the program of those processes: callers and those who answer |
| bare.py | a broker without identities, to compare with |
| crowd.py | very many participants, some to a process |
| faststream_consumer.py | a subscriber of FastStream |
| http_caller.py | the thin client of streamable HTTP |
| http_servers.py | servers over HTTP that the mesh is compared with |
| wire.py | the bytes that every side sends and expects |
| stdio_server.py, slow_server.py | the MCP servers on stdio that are called directly and through the mesh |

A new figure is one more `Row` in rows.py; a new kind of participant is one more context manager in participant.py.
"""

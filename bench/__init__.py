"""What the mesh costs, as ratios: it against doing without it, measured side by side in one run. `scripts/bench` runs it.

| module | what |
|---|---|
| rows.py | the figures: what each compares, what is wanted, how it is measured |
| table.py | what a row is and what a measurement says; the table and the JSON |
| stage.py | a broker with its control plane, and the processes that take part |
| participant.py | the program of those processes: callers and those who answer |
| wire.py | the bytes that every side sends and expects |
| stdio_server.py | the MCP server on stdio that is called directly and through the mesh |

A new figure is one more `Row` in rows.py; a new kind of participant is one more context manager in participant.py.
"""

"""Translation between the two eras of MCP. Pure: no I/O, no clock, no asyncio; times and keys are handed in.

| module | what it is |
|---|---|
| `words` | the names that differ between the eras |
| `edit` | finding, adding and cutting members of a JSON object in its bytes |
| `shapes` | one message of an era as the other one says it |
| `machine` | a state machine as a table |
| `conversation` | a modern client's call on a handshake server, which asks back in the middle of it |
| `rounds` | a handshake host's call on a modern server, which answers "input required" |
| `interest` | `resources/subscribe` for those who listen |
| `standing` | the `subscriptions/listen` that the bridge holds for a handshake host |
| `state` | request state: sealed, for one caller, one round and one instance |
| `carried` | a modern server's own state, sealed around on its way out and given back on its way in |
"""

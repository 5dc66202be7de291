"""Tasks of MCP on jobs of the mesh: a host leaves a call and collects its result later, at any agent, also one that knows nothing of tasks.

| module | what it is |
|---|---|
| `words` | the names, of both eras |
| `task` | a job of the mesh as a task; pure |
| `asked` | what a host asks: a request as data; pure |
| `told` | what it is told: a task as JSON-RPC; pure |
| `announce` | the bridge's word on it in a server's own answers; pure |
| `whose` | whose tool a call is for, and whether that may be a task: at one agent, or at all as one |
| `desk` | asks `mesh.jobs` for what a host asks |
| `follow` | tells hosts what becomes of tasks |
| `link` | a host's way to the mesh with all of this in front of it |

Tasks that a server has itself are its own: where its answer to `initialize` or to `server/discover` announces them, everything passes.
"""

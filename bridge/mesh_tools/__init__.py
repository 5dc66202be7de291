"""The mesh itself as tools, for an agent that is only an MCP host: messages, events, jobs, who is there. `tools` is the map."""

"""The figures: each a comparison of the mesh with doing without it, or a bound."""

from typing import Final

from bench.compare import by
from bench.identity_rows import crowd, identity
from bench.mcp_rows import differential, fastmcp, gathered_list, http_stdio, in_process, mcp_proxy, pool
from bench.mesh_rows import bridge_memory, call, journal_cost, journal_whole, stdio
from bench.peers import FASTMCP, FASTSTREAM, MCP_PROXY
from bench.queue_rows import consume, consume_kv, critical, lane_share, listening, publish_durable, replay
from bench.stream_rows import streaming
from bench.table import Row

ROWS: Final = (
    Row("call-p50", "a call to an echo agent, one at a time, against a nats-py request", "x", "at most", 1.3, by("p50", call)),
    Row("call-rate", "the same, 64 at once", "x", "at least", 0.65, by("rate", call)),
    Row("stdio-p50", "a stdio server on the mesh, one at a time, against direct stdio", "x", "at most", 1.7, by("p50", stdio)),
    Row("stdio-rate", "the same, 64 at once", "x", "at least", 0.95, by("rate", stdio)),
    Row("http-p50", "HTTP to mesh to stdio, one at a time, against direct stdio", "x", "at most", 2.2, by("p50", http_stdio)),
    Row("mcp-proxy-p50", "the same against mcp-proxy, HTTP to stdio", "x", "at most", 0.7, by("p50", mcp_proxy), MCP_PROXY),
    Row("mcp-proxy-rate", "the same, 64 at once", "x", "at least", 1.7, by("rate", mcp_proxy), MCP_PROXY),
    Row("fastmcp-p50", "the same against FastMCP's create_proxy, one at a time", "x", "at most", 0.7, by("p50", fastmcp), FASTMCP),
    Row("fastmcp-rate", "the same, 64 at once", "x", "at least", 1.7, by("rate", fastmcp), FASTMCP),
    Row("in-process-p50", "a server of the SDK in process, against its own HTTP", "x", "at most", 1.0, by("p50", in_process)),
    Row("in-process-rate", "the same, 64 at once", "x", "at least", 1.0, by("rate", in_process)),
    Row("pool-rate", "two instances of a server that waits, against one, 64 at once", "x", "at least", 1.8, by("rate", pool)),
    Row("tools-list", "tools/list of 100 agents of 20 tools as one, read by a host", "ms", "at most", 20, gathered_list),
    Row("differential", "generated exchanges, direct against through the mesh", "differences", "at most", 0, differential),
    Row("journal-whole", "calls lost or doubled in the journal", "calls", "at most", 0, journal_whole),
    Row("journal-cost", "what the journal takes from the rate, 64 at once", "%", "at most", 20, journal_cost),
    Row("identity-p50", "a call with identity and permissions against without, one at a time", "x", "at most", 1.05, by("p50", identity)),
    Row("identity-rate", "the same, 64 at once", "x", "at least", 0.95, by("rate", identity)),
    Row("crowd", "1,000 agents join, registered and answering, while 100 others call", "s", "at most", 60, crowd),
    Row("publish-durable", "messages published, 256 at once, against nats-py's js.publish", "x", "at least", 0.8, publish_durable),
    Row("consume", "messages taken, handled and acknowledged, against FastStream's", "x", "at least", 4.0, consume, FASTSTREAM),
    Row("consume-kv", "messages handled with the record of it at the broker", "/s", "at least", 10_000, consume_kv),
    Row("replay", "100,000 events of 1 KiB through replay_events", "/s", "at least", 60_000, replay),
    Row("critical", "p50 of a critical message behind 50,000 normal ones, 1 ms each", "ms", "at most", 5, critical),
    Row("lane-share", "difference from its share, of a lane beside a flood", "%", "at most", 20, lane_share),
    Row("crowd-lanes", "the broker, while 1,000 agents listen for messages", "MB", "at most", 1000, listening("memory")),
    Row("crowd-stop", "the same: until it has stopped", "s", "at most", 30, listening("stop")),
    Row("stream-rate", "a stream of messages of 1 KiB, window 256", "/s", "at least", 40_000, streaming("rate")),
    Row("stream-ratio", "the same against nats-py with credits by hand", "x", "at least", 0.8, streaming("ratio")),
    Row("stream-memory", "the same: what both ends grew by", "MB", "at most", 10, streaming("memory")),
    Row("bridge-memory", "mesh-bridge serve with a stdio child, the child apart", "MB", "at most", 90, bridge_memory),
)
"""In the order of the table."""

"""What travels: JSON-RPC as bytes, the mesh's own frames, and what instances say of themselves. Pure."""

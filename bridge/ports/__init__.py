"""The ports: the ways in and out of a bridge, behind one small interface. The only importer of `mcp`."""
